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
    match is_ours {
        true => ask_there(terminal, question, withdrawn),
        false => Err(NoPin::Nobody),
    }
}

fn ask_there(terminal: &File, question: &PinQuestion, withdrawn: &CancellationToken) -> Result<Pin, NoPin> {
    if let Some(warning) = question.warning() {
        say(terminal, &format!("{warning} Type yes: "))?;
        if read_line(terminal, withdrawn)?.trim() != "yes" {
            return Err(NoPin::Cancelled);
        }
    }
    if let Some(complaint) = question.complaint() {
        say(terminal, &format!("{complaint}\n"))?;
    }
    // First without echo, then the question: what is typed at its sight is neither shown nor lost.
    let silent = Silent::make(terminal)?;
    say(terminal, &format!("{}: ", question.text()))?;
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

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::os::unix::fs::OpenOptionsExt as _;
    use std::path::{Path, PathBuf};
    use std::time::Instant;

    use rustix::fs::OFlags;
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

    use super::*;
    use crate::keys::pin_entry::PinAfter;

    const SOON: Duration = Duration::from_secs(20);

    /// A terminal: the person's side, and where ours is opened.
    fn terminal() -> (File, PathBuf) {
        let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&person).unwrap();
        unlockpt(&person).unwrap();
        let ours = ptsname(&person, Vec::new()).unwrap().into_string().unwrap();
        (File::from(person), PathBuf::from(ours))
    }

    fn open(path: &Path, flags: OFlags) -> File {
        let flags = (flags | OFlags::NOCTTY).bits().cast_signed();
        OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).unwrap()
    }

    /// Writes until nothing more goes in: whoever writes next waits for the person to read.
    fn fill(mut terminal: &File) {
        loop {
            match terminal.write(&[b'.'; 256]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Reads what the terminal shows until it ends like this.
    fn read_until(mut person: &File, end: &str) -> String {
        let mut shown = String::new();
        while !shown.ends_with(end) {
            let mut piece = [0; 1024];
            let length = person.read(&mut piece).unwrap();
            shown.push_str(std::str::from_utf8(&piece[..length]).unwrap());
        }
        shown
    }

    #[test]
    fn nothing_is_shown_of_what_is_typed_at_the_sight_of_the_question() {
        let (mut person, path) = terminal();
        let (ours, look) = (open(&path, OFlags::empty()), open(&path, OFlags::NONBLOCK));
        fill(&look);
        let asked = std::thread::spawn(move || {
            let (purpose, after) = ("to open vault, port 1".to_owned(), PinAfter::Nothing);
            ask_there(&ours, &PinQuestion { purpose, retries_left: 8, after }, &CancellationToken::new())
        });
        let deadline = Instant::now() + SOON;
        // Nobody has read anything yet: the question is not to be seen.
        while tcgetattr(&look).unwrap().local_modes.contains(LocalModes::ECHO) {
            assert!(Instant::now() < deadline, "what is typed would be shown");
            std::thread::sleep(Duration::from_millis(5));
        }
        read_until(&person, "(8 tries left): ");
        person.write_all(b"4711\n").unwrap();
        assert_eq!(asked.join().unwrap().unwrap().text(), "4711");
        assert!(tcgetattr(&look).unwrap().local_modes.contains(LocalModes::ECHO));
        assert!(!read_until(&person, "\n").contains("4711"));
    }
}
