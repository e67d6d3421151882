//! What people and their commands want of the service.

use std::sync::Arc;
use std::time::Duration;

use portlatch_clock::BootTime;
use portlatch_protocol::api::Catalogue;
use portlatch_protocol::attach::{Refusal, Status, ToDaemon};
use portlatch_protocol::names::Id;
use portlatch_protocol::refusal::RefusalReason;
use tokio::sync::{broadcast, oneshot};

use super::access::AWAY;
use super::attach::DaemonState;
use super::wishes::CommandWish;
use super::work::Done;
use super::{Handle, Service, Trouble};
use crate::broker::Denial;
use crate::control::ApiError;
use crate::identify::{Program, owner_of_socket};
use crate::local::{Say, Tell};
use crate::login;
use crate::notification::Desktop;
use crate::safe_text::sentence;
use crate::status::{GrantView, RefusalView, StatusReport, StatusView};

/// How long the daemon has to say how things are.
const STATUS_TIME: Duration = Duration::from_secs(2);

/// What status says of a pause.
const PAUSED: &str =
    "There are no prompts, because too many were not answered: run `portlatch watch` and type resume.";

/// A wish.
#[derive(Debug)]
pub(crate) enum Command {
    /// How things are.
    Status(oneshot::Sender<StatusReport>),
    /// What the login may reach.
    Catalogue(oneshot::Sender<Option<Arc<Catalogue>>>),
    /// All that happens, and how things stand now.
    Watch(oneshot::Sender<(Vec<Tell>, broadcast::Receiver<Tell>)>),
    /// The open prompt, for a front-end that has missed something.
    OpenPrompt(oneshot::Sender<Vec<Tell>>),
    /// What a person says at a prompt.
    Say(Say),
    /// A ceremony beforehand.
    Wish(CommandWish),
    /// Whether prompts are seen as notifications.
    Desktop(Desktop),
    /// The login's files have changed.
    LoginChanged,
    /// End the login.
    Logout(oneshot::Sender<Tell>),
}

impl Handle {
    /// What a front-end that has missed something is told, so that it shows what is so; this prompt it shows now.
    pub(crate) async fn catch_up(&self, shown: Option<u64>) -> Vec<Tell> {
        let (reply, answer) = oneshot::channel();
        // A service that is gone has no prompts.
        let open = match self.commands.send(Command::OpenPrompt(reply)).await {
            Ok(()) => answer.await.unwrap_or_default(),
            Err(_) => Vec::new(),
        };
        let is_open =
            |id: u64| open.iter().any(|tell| matches!(tell, Tell::Prompt { prompt } if prompt.view.id == id));
        let over = shown.filter(|id| !is_open(*id));
        let closed = over.map(|id| Tell::Closed { id, text: "The prompt is over.".to_owned() });
        closed.into_iter().chain(open).collect()
    }
}

impl Service {
    pub(super) fn handle_command(&mut self, command: Command) {
        // Whoever asked may have gone meanwhile: then nobody needs the answer.
        match command {
            Command::Status(reply) => self.handle_status_wanted(reply),
            Command::Catalogue(reply) => {
                let _ = reply.send(self.catalogue.clone());
            }
            Command::Watch(reply) => {
                let _ = reply.send((self.how_things_stand(), self.people.subscribe()));
                self.settle(Trouble::Unseen);
            }
            Command::OpenPrompt(reply) => {
                let _ = reply.send(self.prompt_tells().collect());
            }
            Command::Say(say) => self.handle_say(say),
            Command::Desktop(desktop) => self.desktop = desktop,
            Command::Wish(wish) => self.handle_command_wish(wish),
            Command::LoginChanged => self.handle_login_files(),
            Command::Logout(reply) => self.handle_logout(reply),
        }
    }

    /// What somebody should know who begins to watch.
    fn how_things_stand(&self) -> Vec<Tell> {
        let standings = self.broker.standings(self.clock.boot_time());
        let notes = standings.iter().map(|standing| Tell::Note { text: standing.line() });
        notes.chain(self.prompt_tells()).collect()
    }

    fn handle_say(&mut self, say: Say) {
        match say {
            Say::Enter => (self.enter)(),
            Say::Deny { id } => self.handle_deny(id, Denial::Once),
            Say::Block { id } => self.handle_deny(id, Denial::Block),
            Say::Code { id, code } => self.handle_code(id, code),
            Say::Pin { id, pin } => self.handle_pin_typed(id, pin),
            Say::List => {
                let standings = self.broker.standings(self.clock.boot_time());
                if standings.is_empty() {
                    self.note("Nothing rests, and nothing is blocked.");
                }
                standings.iter().for_each(|standing| self.note(standing.line()));
            }
            Say::Lift { number } => match self.broker.lift(number, self.clock.boot_time()) {
                Some(standing) => self.note(format!("Lifted: {}", standing.line())),
                None => self.note(format!("There is no {number} to lift: l lists what there is.")),
            },
            Say::Resume => match self.broker.resume() {
                true => self.note("Prompts are shown again."),
                false => self.note("There was no pause: prompts are shown."),
            },
        }
    }

    fn handle_status_wanted(&mut self, reply: oneshot::Sender<StatusReport>) {
        let (is_settling, takes_questions) = (self.is_settling(), self.daemon.takes_questions());
        if !is_settling && !takes_questions {
            let _ = reply.send(self.report(&[]));
            return;
        }
        self.status_wanted.push((reply, self.clock.boot_time() + STATUS_TIME));
        if !is_settling {
            self.send(ToDaemon::StatusWanted);
        }
    }

    /// Whether the daemon or the attach is about to be there: whoever asks just then rather waits a moment than hears
    /// half of it.
    fn is_settling(&self) -> bool {
        match self.daemon {
            DaemonState::Down => !self.complaints.contains_key(&Trouble::Daemon),
            DaemonState::Up(_) | DaemonState::Attaching(..) => {
                self.login.active.is_some() && self.login.attach_after.is_none() && self.complaints.is_empty()
            }
            DaemonState::Attached(..) | DaemonState::Spent(_) => false,
        }
    }

    pub(super) fn handle_status(&mut self, status: Status) {
        let grants: Vec<GrantView> = status.grants.iter().map(GrantView::from).collect();
        self.handle_older_refusals(status.refusals);
        if self.is_settling() {
            return;
        }
        for (reply, _) in std::mem::take(&mut self.status_wanted) {
            let _ = reply.send(self.report(&grants));
        }
    }

    /// A daemon that does not answer is left out.
    pub(super) fn answer_status_late(&mut self, now: BootTime) {
        let is_daemon_gone = self.daemon.sender().is_none() && !self.is_settling();
        let wanted = std::mem::take(&mut self.status_wanted).into_iter();
        let (late, waiting): (Vec<_>, Vec<_>) =
            wanted.partition(|(_, deadline)| is_daemon_gone || *deadline <= now);
        self.status_wanted = waiting;
        for (reply, _) in late {
            let _ = reply.send(self.report(&[]));
        }
    }

    fn report(&self, grants: &[GrantView]) -> StatusReport {
        let mut troubles: Vec<(Trouble, String)> =
            self.complaints.iter().map(|(trouble, text)| (*trouble, text.clone())).collect();
        troubles.sort();
        let pause = self.broker.is_paused().then(|| PAUSED.to_owned());
        let away = self.absence.is_away().then(|| sentence(&format!("{AWAY}.")));
        let troubles = troubles.into_iter().map(|(_, text)| text).chain(pause).chain(away).collect();
        StatusReport { status: Box::new(self.status(grants)), troubles }
    }

    fn status(&self, grants: &[GrantView]) -> StatusView {
        let login = self.login.active.as_ref().map(|active| &active.file);
        StatusView {
            agent: true,
            daemon: self.daemon.sender().is_some(),
            prompts: self.open_prompt_shown().into_iter().map(|prompt| prompt.view).collect(),
            grants: grants.to_vec(),
            refusals: self.refusals.views(),
            ..StatusView::of_login(login)
        }
    }

    pub(super) fn handle_refusal(&mut self, refusal: Refusal) {
        let known = self.programs.iter().find(|(inode, _)| *inode == refusal.inode && refusal.inode != 0);
        match known.map(|(_, program)| program.clone()) {
            Some(program) => self.handle_identified(refusal, Some(program)),
            None => {
                self.tasks.spawn(async move {
                    let program = owner_of_socket(refusal.inode).await;
                    Done::Identified { refusal, program }
                });
            }
        }
    }

    pub(super) fn handle_identified(&mut self, refusal: Refusal, program: Option<Program>) {
        match refusal.reason {
            RefusalReason::NoLogin if self.login.active.is_none() => {
                self.ask_to_sign_in(&refusal, program.clone());
            }
            // Their prompt said so already.
            RefusalReason::Denied | RefusalReason::TimedOut => {}
            RefusalReason::NoLogin
            | RefusalReason::UnknownPort
            | RefusalReason::Policy
            | RefusalReason::QueueFull
            | RefusalReason::CoolDown
            | RefusalReason::Locked
            | RefusalReason::TargetRefused
            | RefusalReason::TargetUnreachable
            | RefusalReason::NoProxy
            | RefusalReason::Limit => {
                if !self.reasons.have_told(&refusal, self.clock.boot_time()) {
                    self.note(RefusalView::new(&refusal, program.clone()).line());
                }
            }
        }
        self.refusals.add(refusal, program);
    }

    fn handle_logout(&mut self, reply: oneshot::Sender<Tell>) {
        let Some(active) = &self.login.active else {
            return self.handle_logged_out(None, reply, &Ok(()));
        };
        let (control, login) = (active.control.clone(), Some(active.file.login.clone()));
        // Here it ends at once, however long control takes to hear of it.
        self.detach();
        self.tasks.spawn(async move { Done::LoggedOut { login, reply, result: control.logout().await } });
    }

    /// Whatever control says, this machine forgets the login.
    pub(super) fn handle_logged_out(
        &mut self,
        login: Option<&Id>,
        reply: oneshot::Sender<Tell>,
        result: &Result<(), ApiError>,
    ) {
        let now = login::read_file(&self.files).ok().flatten();
        // Whoever has signed in meanwhile stays.
        let is_another = now.as_ref().zip(login).is_some_and(|(now, login)| now.login != *login);
        let removed = match is_another {
            true => Ok(()),
            false => {
                self.detach();
                self.forget_user();
                login::remove(&self.files, &self.clock)
            }
        };
        let tell = match removed {
            Ok(()) => Tell::Done { text: crate::commands::logged_out(result) },
            Err(error) => Tell::Failed { denied: false, text: error.to_string() },
        };
        let _ = reply.send(tell);
        self.handle_login_files();
    }
}
