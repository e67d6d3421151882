//! Prompts on a terminal: the open one on the last line, counting down; what happens above it. Without a terminal each
//! prompt is one line, written when it opens or changes.

use std::io;
use std::time::{Duration, Instant};

use crate::local::Tell;
use crate::prompt::{PromptView, Waiting};
use crate::terminal::{emphasised, is_seen, say, say_in_place};

/// The lines of one terminal.
#[derive(Debug, Default)]
pub(super) struct Screen {
    open: Option<Shown>,
}

#[derive(Debug)]
struct Shown {
    prompt: PromptView,
    waiting: Waiting,
    since: Instant,
}

impl Shown {
    fn line(&self) -> String {
        let gone = self.since.elapsed().as_secs();
        let prompt =
            PromptView { seconds_left: self.prompt.seconds_left.saturating_sub(gone), ..self.prompt.clone() };
        prompt.line(self.waiting)
    }
}

impl Screen {
    /// How often the countdown moves.
    pub(super) const TICK: Duration = Duration::from_secs(1);

    /// The prompt that is open, by the number that denies it.
    pub(super) fn open(&self) -> Option<u64> {
        self.open.as_ref().map(|shown| shown.prompt.id)
    }

    /// Shows what the agent tells.
    ///
    /// # Errors
    /// If nobody reads the output any more.
    pub(super) fn show(&mut self, tell: Tell) -> io::Result<()> {
        match tell {
            Tell::Prompt { prompt, waiting } => {
                self.open = Some(Shown { prompt, waiting, since: Instant::now() });
                match is_seen() {
                    true => self.tick(),
                    false => self.open.as_ref().map_or(Ok(()), |shown| say(&shown.line())),
                }
            }
            Tell::Closed { id, text } => {
                self.above(&text)?;
                self.open.take_if(|shown| shown.prompt.id == id);
                Ok(())
            }
            Tell::Note { text } => {
                self.above(&text)?;
                self.tick()
            }
            Tell::Status { .. }
            | Tell::Catalogue { .. }
            | Tell::Tapped { .. }
            | Tell::Done { .. }
            | Tell::Failed { .. } => Ok(()),
        }
    }

    /// Counts down.
    ///
    /// # Errors
    /// If nobody reads the output any more.
    pub(super) fn tick(&self) -> io::Result<()> {
        match self.open.as_ref().filter(|_| is_seen()) {
            Some(shown) => say_in_place(&emphasised(&shown.line())),
            None => Ok(()),
        }
    }

    /// A line that stays, above the prompt.
    fn above(&self, text: &str) -> io::Result<()> {
        if self.open.is_some() && is_seen() {
            say_in_place("")?;
        }
        say(text)
    }
}
