//! Prompts on a terminal: the open one on the last rows, counting down, with what is being typed below it; what happens
//! above it. Without a terminal each prompt is one line, written when it opens or changes.

use std::io;
use std::time::{Duration, Instant};

use crate::local::Tell;
use crate::prompt::{Means, Prompt};
use crate::safe_text::safe_sentence;
use crate::terminal::{Region, Stream};

/// What stands for a character that is not shown.
const MASK: char = '•';

/// The lines of one terminal.
#[derive(Debug, Default)]
pub(super) struct Screen {
    stream: Stream,
    open: Option<Shown>,
    typing: String,
    region: Region,
}

#[derive(Debug)]
struct Shown {
    prompt: Prompt,
    since: Instant,
}

impl Screen {
    /// How often the countdown moves.
    pub(super) const TICK: Duration = Duration::from_secs(1);

    /// A screen on this stream.
    pub(super) fn on(stream: Stream) -> Self {
        let mut screen = Self::default();
        screen.stream = stream;
        screen
    }

    /// The prompt that is open.
    pub(super) fn open(&self) -> Option<&Prompt> {
        self.open.as_ref().map(|shown| &shown.prompt)
    }

    /// Shows what the agent tells.
    ///
    /// # Errors
    /// If nobody reads the output any more.
    pub(super) fn show(&mut self, tell: Tell) -> io::Result<()> {
        match tell {
            Tell::Prompt { prompt } => {
                let line = prompt.line();
                self.open = Some(Shown { prompt, since: Instant::now() });
                match self.stream.is_seen() {
                    true => self.tick(),
                    false => self.stream.say(&line),
                }
            }
            Tell::Closed { id, text } => {
                self.open.take_if(|shown| shown.prompt.view.id == id);
                self.above(&text)
            }
            Tell::Note { text } | Tell::SignIn { text } => self.above(&text),
            Tell::Status { .. }
            | Tell::Catalogue { .. }
            | Tell::Tapped { .. }
            | Tell::Changed { .. }
            | Tell::Done { .. }
            | Tell::Failed { .. } => Ok(()),
        }
    }

    /// Shows the line that is being typed.
    ///
    /// # Errors
    /// If nobody reads the output any more.
    pub(super) fn show_typing(&mut self, typing: String) -> io::Result<()> {
        self.typing = match self.open().map(|prompt| prompt.means) {
            // Not a letter of a PIN is for others at the screen.
            Some(Means::Pin) => typing.chars().map(|_| MASK).collect(),
            Some(Means::Key | Means::KeyOrCode | Means::Code | Means::Browser) | None => typing,
        };
        self.tick()
    }

    /// Counts down.
    ///
    /// # Errors
    /// If nobody reads the output any more.
    pub(super) fn tick(&mut self) -> io::Result<()> {
        if !self.stream.is_seen() {
            return Ok(());
        }
        let prompt =
            self.open.as_ref().map(|shown| shown.prompt.after(shown.since.elapsed().as_secs()).line());
        let typing = (!self.typing.is_empty()).then(|| format!("> {}", self.typing));
        let lines: Vec<&str> = prompt.iter().chain(&typing).map(String::as_str).collect();
        match lines.is_empty() {
            true => self.stream.clear(&mut self.region),
            false => self.stream.draw(&mut self.region, &lines),
        }
    }

    /// A line that stays, above the prompt. Whoever wrote it, it moves no cursor and colours nothing.
    pub(super) fn above(&mut self, text: &str) -> io::Result<()> {
        self.stream.clear(&mut self.region)?;
        self.stream.say(&safe_sentence(text))?;
        self.tick()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // What was drawn in place is of no use to whatever comes after; a terminal that has gone shows nothing.
        let _ = self.stream.clear(&mut self.region);
    }
}
