//! The PIN by pinentry, the program that GnuPG and others ask with: it takes the keyboard to itself, so that no other
//! window reads along. One process a question, spoken to in Assuan's lines.

use std::process::Stdio;
use std::time::Duration;

use futures_util::future::BoxFuture;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use zeroize::{Zeroize as _, Zeroizing};

use super::{NoPin, Pin, PinEntry, PinQuestion};

/// The program; its distribution decides which of its kinds it is.
const PROGRAM: &str = "pinentry";
/// Another program to ask with.
const PROGRAM_VARIABLE: &str = "PORTLATCH_PINENTRY";
/// Assuan's longest line.
const MAX_LINE: usize = 1002;
/// Lines that an answer may have before its last one.
const MAX_LINES: usize = 64;
/// How long a person has to answer: longer than any prompt is open.
const TIME: Duration = Duration::from_secs(180);
/// How long a pinentry has to give the terminal back; nobody waits for it.
const ENDS: Duration = Duration::from_secs(5);
/// `GPG_ERR_CANCELED` and its like (libgpg-error): the person said no.
const SAYS_NO: [u32; 3] = [99, 114, 198];

/// pinentry, where there is a screen for it.
#[derive(Debug)]
pub(crate) struct Pinentry {
    program: Option<String>,
}

impl Pinentry {
    /// As the environment has it: on a graphical screen, or where one is named. A pinentry for the terminal would fight with
    /// us for ours, which is asked by ourselves.
    pub(crate) fn of_environment() -> Self {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let has_screen = ["WAYLAND_DISPLAY", "DISPLAY"].into_iter().any(|name| set(name).is_some());
        let program = set(PROGRAM_VARIABLE).or_else(|| has_screen.then(|| PROGRAM.to_owned()));
        Self { program }
    }

    /// The program that is asked with, if any.
    pub(crate) fn program(&self) -> Option<&str> {
        self.program.as_deref()
    }

    async fn converse(&self, question: &PinQuestion) -> Result<Pin, NoPin> {
        let program = self.program.as_deref().ok_or(NoPin::Nobody)?;
        let mut conversation = Conversation::begin(program)?;
        conversation.answer().await?;
        for option in options() {
            // A pinentry that knows an option less asks all the same.
            let _ = conversation.say(&format!("OPTION {option}")).await;
        }
        conversation.say(&format!("SETTIMEOUT {}", TIME.as_secs())).await?;
        conversation.say("SETTITLE Portlatch").await?;
        if let Some(warning) = question.warning() {
            conversation.say(&format!("SETDESC {}", escaped(&warning))).await?;
            conversation.say("CONFIRM").await?;
        }
        conversation.say(&format!("SETDESC {}", escaped(&question.text()))).await?;
        conversation.say("SETPROMPT PIN:").await?;
        if let Some(complaint) = question.complaint() {
            conversation.say(&format!("SETERROR {}", escaped(complaint))).await?;
        }
        let pin = conversation.say("GETPIN").await?;
        // An empty answer is none.
        pin.filter(|pin| !pin.is_empty()).map(Pin::new).ok_or(NoPin::Cancelled)
    }
}

impl PinEntry for Pinentry {
    fn ask(&self, question: PinQuestion) -> BoxFuture<'_, Result<Pin, NoPin>> {
        Box::pin(async move {
            tokio::time::timeout(TIME, self.converse(&question)).await.unwrap_or(Err(NoPin::Cancelled))
        })
    }
}

/// What pinentry should know of our terminal and language.
fn options() -> Vec<String> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let language = set("LC_ALL").or_else(|| set("LC_CTYPE")).or_else(|| set("LANG"));
    let terminal = rustix::termios::ttyname(std::io::stdin(), Vec::new()).ok();
    // A service has none; GnuPG's variable names the one that a person wants to be asked on.
    let terminal = terminal.and_then(|name| name.into_string().ok()).or_else(|| set("GPG_TTY"));
    let named = [
        ("ttyname", terminal),
        ("ttytype", set("TERM")),
        ("display", set("DISPLAY")),
        ("lc-ctype", language),
    ];
    named.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", escaped(&value?)))).collect()
}

/// A running pinentry; dropping it ends it, and its window goes.
struct Conversation {
    child: Option<Child>,
    input: ChildStdin,
    output: ChildStdout,
    /// What was read and not looked at yet: a PIN may be in it.
    read: Zeroizing<Vec<u8>>,
}

impl Conversation {
    fn begin(program: &str) -> Result<Self, NoPin> {
        let mut command = Command::new(program);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| {
            tracing::debug!(%error, "there is no pinentry");
            NoPin::Nobody
        })?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (input, output) = input.zip(output).expect("both were asked for");
        // Room for a whole line from the start: a vector that grows leaves copies behind.
        Ok(Self { child: Some(child), input, output, read: Zeroizing::new(Vec::with_capacity(MAX_LINE + 1)) })
    }

    /// Says a line and hears its answer.
    async fn say(&mut self, line: &str) -> Result<Option<Zeroizing<String>>, NoPin> {
        let mut line = line.to_owned();
        line.truncate(line.floor_char_boundary(MAX_LINE - 2));
        line.push('\n');
        self.input.write_all(line.as_bytes()).await.map_err(|_| NoPin::Nobody)?;
        self.answer().await
    }

    /// Lines up to the last one, `OK` or `ERR`; the data among them.
    async fn answer(&mut self) -> Result<Option<Zeroizing<String>>, NoPin> {
        let mut data = None;
        for _ in 0..MAX_LINES {
            let line = self.line().await.ok_or(NoPin::Nobody)?;
            let (word, rest) = split_word(&line);
            match word {
                b"OK" => return Ok(data),
                b"ERR" => return Err(refusal(rest)),
                b"D" => data = unescaped(rest),
                // Status lines, comments and questions of its own.
                _ => {}
            }
        }
        Err(NoPin::Nobody)
    }

    async fn line(&mut self) -> Option<Zeroizing<Vec<u8>>> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line = Zeroizing::new(self.read[..end].to_vec());
                let rest = self.read.len() - end - 1;
                self.read.copy_within(end + 1.., 0);
                self.read[rest..].zeroize();
                self.read.truncate(rest);
                return Some(line);
            }
            let mut piece = Zeroizing::new([0; 256]);
            let length = self.output.read(piece.as_mut_slice()).await.ok()?;
            if length == 0 || self.read.len() + length > self.read.capacity() {
                return None;
            }
            self.read.extend_from_slice(&piece[..length]);
        }
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let running = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        // As if its time were over, which we have set: on a terminal it gives back the echo. Killed it could not, and an
        // interrupt may be ignored in all that a shell has begun in the background.
        let is_told = running.is_some_and(|pid| kill_process(pid, Signal::ALARM).is_ok());
        if let (true, Ok(runtime)) = (is_told, tokio::runtime::Handle::try_current()) {
            // What does not heed it is killed as the child is dropped.
            runtime.spawn(async move { tokio::time::timeout(ENDS, child.wait()).await });
        }
    }
}

fn split_word(line: &[u8]) -> (&[u8], &[u8]) {
    let end = line.iter().position(|byte| *byte == b' ').unwrap_or(line.len());
    (&line[..end], line.get(end + 1..).unwrap_or_default())
}

/// What an error means: its lower half is the reason, its upper half who says so.
fn refusal(text: &[u8]) -> NoPin {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.split(' ').next()?.parse::<u32>().ok());
    match number.map(|number| number & 0xFFFF) {
        Some(reason) if SAYS_NO.contains(&reason) => NoPin::Cancelled,
        // A question that nobody answered in time (62) is answered by nobody later either.
        Some(62) => NoPin::Cancelled,
        Some(_) | None => NoPin::Nobody,
    }
}

/// Text inside a line of Assuan.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '%' => escaped.push_str("%25"),
            '\n' => escaped.push_str("%0A"),
            '\r' => escaped.push_str("%0D"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A line's data as they are meant; nothing if they are no text.
fn unescaped(data: &[u8]) -> Option<Zeroizing<String>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(data.len()));
    let mut rest = data;
    while let Some((&byte, behind)) = rest.split_first() {
        let coded = behind.get(..2).filter(|_| byte == b'%');
        let coded = coded.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        bytes.push(coded.unwrap_or(byte));
        rest = if coded.is_some() { &behind[2..] } else { behind };
    }
    let mut text = Zeroizing::new(String::with_capacity(bytes.len()));
    text.push_str(std::str::from_utf8(&bytes).ok()?);
    Some(text)
}

#[cfg(test)]
mod tests;
