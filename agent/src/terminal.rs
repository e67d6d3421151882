//! The person's terminal: lines in, lines out, a password without echo, and the last rows drawn in place.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use crate::failure::Failure;
use crate::safe_text::plain;

mod editor;
mod keyboard;
mod qr;
mod region;
mod stream;

pub(crate) use keyboard::{Keyboard, Typed};
pub(crate) use qr::lines as qr_code;
pub(crate) use region::Region;
pub(crate) use stream::Stream;

/// Longest line that is read from a person or a script.
const MAX_LINE: u64 = 4 * 1024;
/// Lines that were typed ahead.
const TYPED_AHEAD: usize = 8;
/// ECMA-48, SGR.
const BOLD: &str = "\u{1b}[1m";
const PLAIN: &str = "\u{1b}[0m";

/// Writes one line to standard output.
///
/// # Errors
/// If nobody reads it any more.
pub(crate) fn say(line: &str) -> io::Result<()> {
    Stream::Out.say(line)
}

/// Writes one line to standard error; if that fails, nobody is there to tell.
pub(crate) fn complain(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// `text` so that it stands out, where colours are wanted (`NO_COLOR`).
pub(crate) fn emphasised(text: &str) -> String {
    match is_coloured(&io::stdout()) {
        true => format!("{BOLD}{text}{PLAIN}"),
        false => text.to_owned(),
    }
}

/// Whether colours are seen there, and wanted (`NO_COLOR`).
pub(crate) fn is_coloured(output: &impl io::IsTerminal) -> bool {
    output.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Whether a person can be asked there.
pub(crate) fn has_keyboard() -> bool {
    io::stdin().is_terminal()
}

/// One line of standard input, without its end.
///
/// # Errors
/// A [`Failure`] at the end of the input, or if it cannot be read.
pub(crate) fn read_line() -> Result<Zeroizing<String>, Failure> {
    let mut line = Zeroizing::new(String::new());
    let read = io::Read::take(io::stdin().lock(), MAX_LINE).read_line(&mut line);
    match read {
        Ok(0) => Err(Failure::because("the input ended where a line was expected")),
        Ok(_) => {
            let text = line.trim_end_matches(['\r', '\n']).len();
            line.truncate(text);
            Ok(line)
        }
        Err(error) => Err(Failure::Failed(format!("the input cannot be read: {}", plain(&error)))),
    }
}

/// Asks for a secret on the terminal, without echo; whoever drops this has the echo back.
///
/// # Errors
/// A [`Failure`] where there is no terminal.
pub(crate) async fn ask_secret(question: &str) -> Result<Zeroizing<String>, Failure> {
    let stdin = io::stdin();
    let Ok(before) = tcgetattr(&stdin) else {
        return Err(Failure::Usage("there is no terminal to ask on".to_owned()));
    };
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    // First without echo, then the question: what is typed at its sight is neither shown nor lost.
    tcsetattr(&stdin, OptionalActions::Flush, &silent).map_err(io::Error::from)?;
    let _echo = Echo(before);
    write!(io::stderr().lock(), "{question}: ")?;
    let line = tokio::task::spawn_blocking(read_line).await;
    line.unwrap_or_else(|_| Err(Failure::because("the terminal cannot be read")))
}

/// The terminal as it was before a question without echo.
struct Echo(Termios);

impl Drop for Echo {
    fn drop(&mut self) {
        // A terminal that has gone needs no echo.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
        complain("");
    }
}

/// Lines that a person types, read on a thread of their own; none where standard input is not for us: a program in the
/// background that reads the terminal would be stopped by it.
pub(crate) fn typed_lines() -> mpsc::Receiver<String> {
    let (lines, typed) = mpsc::channel(TYPED_AHEAD);
    if !is_input_ours() {
        // A sender that is kept open: the receiver waits instead of seeing an end.
        std::mem::forget(lines);
        return typed;
    }
    let read = move || {
        while let Ok(line) = read_line() {
            if lines.blocking_send(line.to_string()).is_err() {
                return;
            }
        }
        std::mem::forget(lines);
    };
    if std::thread::Builder::new().name("typed-lines".to_owned()).spawn(read).is_err() {
        tracing::warn!("the terminal is not read");
    }
    typed
}

fn is_input_ours() -> bool {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return true;
    }
    tcgetpgrp(&stdin).is_ok_and(|foreground| foreground == rustix::process::getpgrp())
}
