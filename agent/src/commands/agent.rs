//! `portlatch agent`: the background process, and its terminal.

use std::pin::pin;
use std::time::Duration;

use futures_util::FutureExt as _;
use portlatch_clock::Clock;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::timeout;

use super::screen::Screen;
use super::watch::said;
use crate::cli::Agent;
use crate::failure::Failure;
use crate::files::Files;
use crate::local::Tell;
use crate::notification::Notifications;
use crate::service::{Command, Handle, Parts, Server, Service, Terminal};
use crate::terminal::{self, Keyboard, Stream, Typed};

/// How long the desktop has to take a prompt away when the agent ends.
const FAREWELL: Duration = Duration::from_secs(3);

/// Runs until it is told to stop.
pub(crate) async fn agent(options: &Agent, files: Files, clock: Clock) -> Result<(), Failure> {
    let server = Server::bind(&files).map_err(|error| Failure::Failed(error.to_string()))?;
    let stop = super::told_to_stop()?;
    let (key, enter) = chosen_key(options, &files);
    let terminal = if Stream::Out.is_seen() { Terminal::Seen } else { Terminal::Unseen };
    let mode = options.mfa_mode;
    let (mut service, inbox, handle) = Service::new(Parts { files, clock, key, enter, mode, terminal });
    let (told, told_desktop) = (service.subscribe(), service.subscribe());
    let mut notifying = pin!(Notifications::new(handle.commands.clone()).run(told_desktop).fuse());
    terminal::say(&format!("The Portlatch agent runs (pid {}).", std::process::id()))?;
    // Whichever ends first ends all: what is left undone is ended by being dropped.
    tokio::select! {
        () = service.run(inbox) => {}
        () = server.run(handle.clone()) => {}
        () = show(told, handle) => {}
        () = &mut notifying => {}
        _ = stop => {}
    }
    // It hears that the service has ended, and takes its prompt off the screen.
    let _ = timeout(FAREWELL, notifying).await;
    Ok(())
}

#[cfg(feature = "software-key")]
fn chosen_key(options: &Agent, files: &Files) -> (crate::keys::Key, crate::service::Enter) {
    super::key(options.software_key, files)
}

#[cfg(not(feature = "software-key"))]
fn chosen_key(_: &Agent, _: &Files) -> (crate::keys::Key, crate::service::Enter) {
    super::usb_key()
}

/// The agent's own terminal. That nobody reads it is no reason to stop.
async fn show(mut told: broadcast::Receiver<Tell>, handle: Handle) {
    let (mut screen, mut keyboard) = (Screen::default(), Keyboard::open());
    let mut tick = tokio::time::interval(Screen::TICK);
    loop {
        let shown = tokio::select! {
            tell = told.recv() => match tell {
                Ok(tell) => screen.show(tell),
                Err(RecvError::Lagged(_)) => {
                    let shown = screen.open().map(|prompt| prompt.view.id);
                    handle.catch_up(shown).await.into_iter().try_for_each(|tell| screen.show(tell))
                }
                Err(RecvError::Closed) => return,
            },
            typed = keyboard.next() => match typed {
                Typed::Partial(typing) => screen.show_typing(typing),
                Typed::Line(text) => {
                    let shown = screen.show_typing(String::new());
                    match said(&text, screen.open()) {
                        Ok(say) => match handle.commands.send(Command::Say(say)).await {
                            Ok(()) => shown,
                            Err(_) => return,
                        },
                        Err(advice) => screen.above(advice),
                    }
                }
            },
            _ = tick.tick() => screen.tick(),
        };
        if let Err(error) = shown {
            tracing::debug!(%error, "the terminal is gone");
        }
    }
}
