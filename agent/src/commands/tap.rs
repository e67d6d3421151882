//! `portlatch tap HOST[:PORT]`: the ceremony before the connection.

use portlatch_protocol::names::Hostname;

use super::screen::Screen;
use super::watch::{Said, said};
use crate::failure::Failure;
use crate::files::Files;
use crate::local::{Line, LocalError, Tell, Want};
use crate::terminal;

/// Taps for a port and says how long the grant serves.
pub(crate) async fn tap(files: &Files, host: &Hostname, port: Option<u16>) -> Result<(), Failure> {
    let mut line = Line::to_agent(&files.socket()).await?;
    let want = Want::Tap { host: host.to_string(), port, pid: std::process::id() };
    line.writer.send(&want).await?;
    let mut screen = Screen::default();
    let mut typed = terminal::typed_lines();
    let mut tick = tokio::time::interval(Screen::TICK);
    // A software key is tapped through a connection that watches; this one asks.
    let mut finger = Line::to_agent(&files.socket()).await?;
    finger.writer.send(&Want::Watch).await?;
    loop {
        tokio::select! {
            tell = line.reader.next() => match tell?.ok_or(LocalError::Ended)? {
                Tell::Tapped { text, seconds } => {
                    let minutes = seconds.div_ceil(60);
                    terminal::say(&format!("{text} for new connections, for {minutes} min."))?;
                    return Ok(());
                }
                Tell::Failed { denied: true, text } => return Err(Failure::Denied(text)),
                Tell::Failed { denied: false, text } => return Err(Failure::Failed(text)),
                tell @ (Tell::Prompt { .. }
                | Tell::Closed { .. }
                | Tell::Note { .. }
                | Tell::Done { .. }
                | Tell::Status { .. }
                | Tell::Catalogue { .. }) => screen.show(tell)?,
            },
            // Read so that the agent need not wait for us; shown already.
            told = finger.reader.next::<Tell>() => {
                told?.ok_or(LocalError::Ended)?;
            }
            Some(text) = typed.recv() => match said(&text, screen.open()) {
                Some(Said::Deny(id)) => finger.writer.send(&Want::Deny { id }).await?,
                Some(Said::Enter) if screen.open().is_some() => finger.writer.send(&Want::Enter).await?,
                Some(Said::Enter) | None => {}
            },
            _ = tick.tick() => screen.tick()?,
        }
    }
}
