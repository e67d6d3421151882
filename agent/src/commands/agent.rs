//! `portlatch agent`: the background process, and its terminal.

use portlatch_clock::Clock;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};

use super::screen::Screen;
use super::watch::{Said, said};
use crate::cli::Agent;
use crate::failure::Failure;
use crate::files::Files;
use crate::local::Tell;
use crate::service::{Command, Handle, Parts, Server, Service};
use crate::terminal;

/// Runs until it is told to stop.
pub(crate) async fn agent(options: &Agent, files: Files, clock: Clock) -> Result<(), Failure> {
    let server = Server::bind(&files).map_err(|error| Failure::Failed(error.to_string()))?;
    let mut stop = signal(SignalKind::terminate())?;
    let (key, enter) = chosen_key(options, &files);
    let (service, inbox, handle) = Service::new(Parts { files, clock, key, enter });
    let told = service.subscribe();
    terminal::say(&format!("The Portlatch agent runs (pid {}).", std::process::id()))?;
    // Whichever ends first ends all: what is left undone is ended by being dropped.
    tokio::select! {
        () = service.run(inbox) => {}
        () = server.run(handle.clone()) => {}
        () = show(told, handle) => {}
        _ = stop.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
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
    let mut screen = Screen::default();
    let mut typed: mpsc::Receiver<String> = terminal::typed_lines();
    let mut tick = tokio::time::interval(Screen::TICK);
    loop {
        let shown = tokio::select! {
            tell = told.recv() => match tell {
                Ok(tell) => screen.show(tell),
                Err(RecvError::Lagged(_)) => Ok(()),
                Err(RecvError::Closed) => return,
            },
            Some(line) = typed.recv() => {
                let command = match said(&line, screen.open()) {
                    Some(Said::Deny(id)) => Command::Deny(id),
                    Some(Said::Enter) => Command::Enter,
                    None => continue,
                };
                if handle.commands.send(command).await.is_err() {
                    return;
                }
                Ok(())
            }
            _ = tick.tick() => screen.tick(),
        };
        if let Err(error) = shown {
            tracing::debug!(%error, "the terminal is gone");
        }
    }
}
