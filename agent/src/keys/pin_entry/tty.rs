//! The PIN on the terminal that a command runs in, without echo: for commands of a person, who has no use for another
//! window. The terminal itself is asked, so that standard input may be a script's.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::time::Duration;

use futures_util::future::BoxFuture;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::{NoPin, Pin, PinEntry, PinQuestion};

const TERMINAL: &str = "/dev/tty";
/// Longest line: a PIN has 63 bytes.
const MAX_LINE: usize = 256;
/// How often a waiting question looks whether it was withdrawn.
const GLANCE: Duration = Duration::from_millis(100);

/// The terminal that this process runs in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tty;

impl PinEntry for Tty {
    fn ask(&self, question: PinQuestion) -> BoxFuture<'_, Result<Pin, NoPin>> {
        Box::pin(async move {
            let withdrawn = CancellationToken::new();
            let _withdraws = withdrawn.clone().drop_guard();
            let asked = move || match OpenOptions::new().read(true).write(true).open(TERMINAL) {
                Ok(terminal) => ask(&terminal, &question, &withdrawn),
                Err(_) => Err(NoPin::Nobody),
            };
            tokio::task::spawn_blocking(asked).await.unwrap_or(Err(NoPin::Nobody))
        })
    }
}

fn ask(terminal: &File, question: &PinQuestion, withdrawn: &CancellationToken) -> Result<Pin, NoPin> {
    // A program in the background that reads the terminal would be stopped by it.
    let is_ours = tcgetpgrp(terminal).is_ok_and(|foreground| foreground == rustix::process::getpgrp());
    if !is_ours {
        return Err(NoPin::Nobody);
    }
    if let Some(warning) = question.warning() {
        say(terminal, &format!("{warning} Type yes: "))?;
        if read_line(terminal, withdrawn)?.trim() != "yes" {
            return Err(NoPin::Cancelled);
        }
    }
    if let Some(complaint) = question.complaint() {
        say(terminal, &format!("{complaint}\n"))?;
    }
    say(terminal, &format!("{}: ", question.text()))?;
    let silent = Silent::make(terminal)?;
    let line = read_line(terminal, withdrawn);
    drop(silent);
    let _ = say(terminal, "\n");
    line.and_then(|line| if line.is_empty() { Err(NoPin::Cancelled) } else { Ok(Pin::new(line)) })
}

fn say(mut terminal: &File, text: &str) -> Result<(), NoPin> {
    terminal.write_all(text.as_bytes()).map_err(|_| NoPin::Nobody)
}

/// One line, without its end.
fn read_line(mut terminal: &File, withdrawn: &CancellationToken) -> Result<Zeroizing<String>, NoPin> {
    let mut line = Zeroizing::new([0; MAX_LINE]);
    let mut length = 0;
    while length < MAX_LINE {
        if withdrawn.is_cancelled() {
            return Err(NoPin::Cancelled);
        }
        let glance = Timespec::try_from(GLANCE).expect("a moment");
        let mut wanted = [PollFd::new(terminal, PollFlags::IN)];
        match poll(&mut wanted, Some(&glance)) {
            Ok(0) | Err(Errno::INTR) => continue,
            Ok(_) => {}
            Err(_) => return Err(NoPin::Nobody),
        }
        match terminal.read(&mut line[length..]) {
            Ok(read) if read > 0 => length += read,
            Ok(_) | Err(_) => return Err(NoPin::Cancelled),
        }
        if let Some(end) = line[..length].iter().position(|byte| *byte == b'\n') {
            let text = std::str::from_utf8(&line[..end]).map_err(|_| NoPin::Cancelled)?;
            return Ok(Zeroizing::new(text.to_owned()));
        }
    }
    Err(NoPin::Cancelled)
}

/// A terminal without echo, until this is dropped.
struct Silent<'t> {
    terminal: &'t File,
    before: Termios,
}

impl<'t> Silent<'t> {
    fn make(terminal: &'t File) -> Result<Self, NoPin> {
        let before = tcgetattr(terminal).map_err(|_| NoPin::Nobody)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(terminal, OptionalActions::Flush, &silent).map_err(|_| NoPin::Nobody)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Silent<'_> {
    fn drop(&mut self) {
        // A terminal that has gone needs no echo.
        let _ = tcsetattr(self.terminal, OptionalActions::Now, &self.before);
    }
}
