//! The desktop's notifications as a front-end of prompts: over the session bus, `org.freedesktop.Notifications`. A prompt
//! stays until it is decided, and can be denied there; a code or a PIN is never entered there.
//!
//! Without a session bus or a notification server nothing is shown, and everything else works.

use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};
use tokio::time::Instant;

use crate::local::{Say, Tell};
use crate::prompt::Prompt;
use crate::safe_text::{safe_matter, safe_sentence, without_number};
use crate::service::{Command, Handle};

mod server;

use server::{Answer, Notice, Server, Urgency};

/// Between two looks for a notification server.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Shortest time between two notifications that ask to sign in: a program may try again and again.
const SIGN_IN_AGAIN: Duration = Duration::from_secs(60);

/// Which notifications there are.
#[derive(Debug)]
pub(crate) struct Notifications {
    commands: mpsc::Sender<Command>,
    server: Option<Server>,
    looked: Option<Instant>,
    /// The open prompt, shown or not.
    prompt: Option<Prompt>,
    open: Option<Shown>,
    sign_in: Option<(u32, Instant)>,
}

/// The notification of the open prompt.
#[derive(Debug)]
struct Shown {
    prompt: u64,
    notification: u32,
    body: String,
}

/// Whether prompts are seen as notifications.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Desktop {
    /// There is a notification server.
    Shows,
    /// There is none.
    IsNotThere,
}

/// Whether there is a notification server now; if not, why.
///
/// # Errors
/// What the bus said.
pub(crate) async fn look_for_server() -> Result<(), String> {
    Server::find().await.map(|_| ()).map_err(|error| safe_sentence(without_number(&error.to_string())))
}

impl Notifications {
    /// Notifications that say what people decide to the service.
    pub(crate) const fn new(commands: mpsc::Sender<Command>) -> Self {
        Self { commands, server: None, looked: None, prompt: None, open: None, sign_in: None }
    }

    /// Shows what people are told for as long as the service goes on.
    /// Then nobody can answer a prompt any more, and it is taken off the screen.
    pub(crate) async fn run(mut self, mut told: broadcast::Receiver<Tell>) {
        self.look().await;
        loop {
            // A desktop may come up while a prompt is open.
            let next_look = self.looked.map(|at| at + LOOK_AGAIN).filter(|_| self.is_unseen());
            let look_again = async {
                match next_look {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let answer = async {
                match &mut self.server {
                    Some(server) => server.answer().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                tell = told.recv() => match tell {
                    Ok(tell) => self.show(tell).await,
                    Err(RecvError::Lagged(_)) => self.catch_up().await,
                    Err(RecvError::Closed) => break,
                },
                answer = answer => self.handle_answer(answer).await,
                () = look_again => self.show_prompt().await,
            }
        }
        if let Some(prompt) = self.open.as_ref().map(|shown| shown.prompt) {
            self.close(prompt).await;
        }
    }

    async fn show(&mut self, tell: Tell) {
        match tell {
            Tell::Prompt { prompt } => {
                self.prompt = Some(prompt);
                self.show_prompt().await;
            }
            Tell::Closed { id, .. } => {
                self.prompt.take_if(|prompt| prompt.view.id == id);
                self.close(id).await;
            }
            Tell::SignIn { text } => self.show_sign_in(&text).await,
            Tell::Note { .. }
            | Tell::Status { .. }
            | Tell::Catalogue { .. }
            | Tell::Tapped { .. }
            | Tell::Changed { .. }
            | Tell::Done { .. }
            | Tell::Failed { .. } => {}
        }
    }

    /// What was missed may have been the end of the prompt that is shown, or the beginning of another one.
    async fn catch_up(&mut self) {
        let shown = self.prompt.as_ref().map(|prompt| prompt.view.id);
        let service = Handle { commands: self.commands.clone() };
        for tell in service.catch_up(shown).await {
            self.show(tell).await;
        }
    }

    /// Whether a prompt is open that the desktop does not show.
    const fn is_unseen(&self) -> bool {
        self.prompt.is_some() && self.server.is_none()
    }

    async fn show_prompt(&mut self) {
        self.look().await;
        let (Some(server), Some(prompt)) = (&self.server, &self.prompt) else { return };
        let body = safe_matter(&prompt.matter());
        // The countdown is not shown here: a notification that changes every second is none.
        let is_shown = |shown: &&Shown| shown.prompt == prompt.view.id;
        if self.open.as_ref().filter(is_shown).is_some_and(|shown| shown.body == body) {
            return;
        }
        let notice = Notice {
            replaces: self.open.as_ref().map_or(0, |shown| shown.notification),
            summary: prompt.means.task(),
            body: &body,
            urgency: Urgency::Critical,
        };
        match server.notify(&notice).await {
            Ok(notification) => self.open = Some(Shown { prompt: prompt.view.id, notification, body }),
            Err(error) => self.lose(&error).await,
        }
    }

    async fn close(&mut self, prompt: u64) {
        let Some(shown) = self.open.take_if(|shown| shown.prompt == prompt) else { return };
        if let Some(server) = &self.server
            && let Err(error) = server.close(shown.notification).await
        {
            // It may have been closed by hand, which is an error to some servers.
            tracing::debug!(%error, "a notification was not closed");
        }
    }

    async fn show_sign_in(&mut self, text: &str) {
        if self.sign_in.is_some_and(|(_, at)| at.elapsed() < SIGN_IN_AGAIN) {
            return;
        }
        self.look().await;
        let Some(server) = &self.server else { return };
        let notice = Notice {
            replaces: self.sign_in.map_or(0, |(notification, _)| notification),
            summary: "Sign in again",
            body: &safe_sentence(text),
            urgency: Urgency::Normal,
        };
        match server.notify(&notice).await {
            Ok(notification) => self.sign_in = Some((notification, Instant::now())),
            Err(error) => self.lose(&error).await,
        }
    }

    /// A person answered, or the server is gone.
    async fn handle_answer(&mut self, answer: Answer) {
        let say = match answer {
            Answer::Denied(notification) => self.prompt_of(notification).map(|id| Say::Deny { id }),
            Answer::Blocked(notification) => self.prompt_of(notification).map(|id| Say::Block { id }),
            Answer::Gone => return self.lose(&zbus::Error::Failure("it has left the bus".to_owned())).await,
        };
        if let Some(say) = say {
            // The service goes on as long as we do; if it does not, nobody is there to tell.
            let _ = self.commands.send(Command::Say(say)).await;
        }
    }

    fn prompt_of(&self, notification: u32) -> Option<u64> {
        self.open.as_ref().filter(|shown| shown.notification == notification).map(|shown| shown.prompt)
    }

    /// Looks for a notification server, unless there is one or none was there a moment ago.
    async fn look(&mut self) {
        if self.server.is_some() || self.looked.is_some_and(|at| at.elapsed() < LOOK_AGAIN) {
            return;
        }
        self.looked = Some(Instant::now());
        match Server::find().await {
            Ok(server) => {
                self.server = Some(server);
                self.tell_service(Desktop::Shows).await;
            }
            Err(error) => tracing::debug!(%error, "no notification server"),
        }
    }

    async fn lose(&mut self, error: &zbus::Error) {
        tracing::debug!(%error, "the notification server is gone");
        self.server = None;
        self.open = None;
        self.sign_in = None;
        self.tell_service(Desktop::IsNotThere).await;
    }

    async fn tell_service(&self, desktop: Desktop) {
        let _ = self.commands.send(Command::Desktop(desktop)).await;
    }
}
