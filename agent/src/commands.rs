//! The commands, one file each; what several of them need stands here.

use std::io;
use std::time::Duration;

use portlatch_clock::Clock;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use crate::failure::Failure;
use crate::files::Files;
use crate::keys::Key;
use crate::keys::usb::UsbKeys;
use crate::local::{Line, LocalError, Tell, Want};
use crate::login::Login;
use crate::service::Enter;
use crate::status::rfc3339;
use crate::terminal;

mod agent;
mod asking;
mod doctor;
mod exec;
mod login;
mod logout;
mod ls;
mod mfa;
mod own_key;
mod rdp;
mod screen;
mod status;
mod tap;
mod watch;
mod why;

pub(crate) use agent::agent;
pub(crate) use doctor::doctor;
pub(crate) use exec::{Labels, exec};
pub(crate) use login::login;
pub(crate) use logout::{logged_out, logout};
pub(crate) use ls::ls;
pub(crate) use mfa::mfa;
pub(crate) use rdp::rdp;
pub(crate) use status::status;
pub(crate) use tap::tap;
pub(crate) use watch::watch;
pub(crate) use why::why;

/// Ends when the person or the system ends this command, with the signal that said so.
///
/// # Errors
/// If signals cannot be heard.
fn told_to_stop() -> io::Result<impl Future<Output = SignalKind>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => SignalKind::interrupt(),
            _ = terminate.recv() => SignalKind::terminate(),
            _ = hangup.recv() => SignalKind::hangup(),
        }
    })
}

/// Runs a command until it ends or is told to stop; either way it leaves the terminal as it was.
pub(crate) async fn unless_stopped<T>(
    command: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let stop = told_to_stop()?;
    tokio::select! {
        done = command => done,
        signal = stop => Err(Failure::Stopped(signal)),
    }
}

/// How long the agent has to answer what it need not wait for.
const AGENT_TIME: Duration = Duration::from_secs(5);

/// Asks the agent one thing; `None` where no agent runs.
async fn ask_agent(files: &Files, want: &Want, time: Duration) -> Result<Option<Tell>, Failure> {
    let mut line = match Line::to_agent(&files.socket()).await {
        Ok(line) => line,
        Err(LocalError::NoAgent) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    line.writer.send(want).await?;
    let told = timeout(time, line.reader.next()).await.map_err(|_| LocalError::Silent)??;
    Ok(Some(told.ok_or(LocalError::Ended)?))
}

/// The login of this machine, whole and not over.
fn current_login(files: &Files, clock: &Clock) -> Result<Login, Failure> {
    let login = crate::login::read(files)?;
    let login = login.ok_or_else(|| Failure::because("nobody is logged in: run `portlatch login`"))?;
    match login.file.time_left(clock.time_of_day()) {
        Some(_) => Ok(login),
        None => Err(Failure::Failed(format!(
            "your login ended at {}: run `portlatch login`",
            rfc3339(login.file.expires)
        ))),
    }
}

fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).expect("a document of ours is JSON");
    Ok(terminal::say(&text)?)
}

/// Rows under headings, each column as wide as its widest cell.
fn print_table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> Result<(), Failure> {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([headings[column].len()]).max().unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |cells: [&str; N]| {
        let padded: Vec<String> =
            cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    terminal::say(&terminal::emphasised(&line(headings)))?;
    for row in rows {
        terminal::say(&line(std::array::from_fn(|column| row[column].as_str())))?;
    }
    Ok(())
}

/// The security key that the command line names, and what Enter does to it.
#[cfg(feature = "software-key")]
fn key(mode: Option<crate::keys::software::Mode>, files: &Files) -> (Key, Enter) {
    use crate::keys::software::{Finger, SoftwareKey, WARNING};
    let Some(mode) = mode else { return usb_key() };
    terminal::complain(&terminal::emphasised(WARNING));
    let finger = Finger::default();
    let key = SoftwareKey::new(files.clone(), mode, finger.clone());
    (std::sync::Arc::new(key), Box::new(move || finger.tap()))
}

fn usb_key() -> (Key, Enter) {
    (std::sync::Arc::new(UsbKeys::new()), Box::new(|| {}))
}
