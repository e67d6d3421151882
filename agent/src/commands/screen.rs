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
        // Its end is told by whoever opened it; one that was not heard of does not stand there for ever.
        self.open.take_if(|shown| shown.prompt.after(shown.since.elapsed().as_secs()).view.seconds_left == 0);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::{About, PromptView, Waiting};

    #[test]
    fn a_prompt_whose_time_is_over_is_none_that_can_be_answered() {
        let view = PromptView {
            id: 3,
            resource: "billing-db".into(),
            host: "billing-db.corp.internal".into(),
            port: 5432,
            program: None,
            pid: None,
            seconds_left: 60,
        };
        let prompt = Prompt { view, about: About::Port, waiting: Waiting::Yes, means: Means::Key };
        let mut screen = Screen::default();
        screen.show(Tell::Prompt { prompt }).unwrap();
        screen.tick().unwrap();
        assert_eq!(screen.open().map(|prompt| prompt.view.id), Some(3));
        screen.open.as_mut().unwrap().since = Instant::now().checked_sub(Duration::from_secs(61)).unwrap();
        screen.tick().unwrap();
        assert_eq!(screen.open(), None);
    }
}
