//! A command that asks the agent for a ceremony: the prompt is shown here as well as everywhere else, and what is typed
//! here answers it.

use super::screen::Screen;
use super::watch::said;
use crate::failure::Failure;
use crate::files::Files;
use crate::local::{Line, LocalError, Say, Tell, Want};
use crate::terminal::{Keyboard, Stream, Typed};

/// Shows the prompt of this wish until it is decided; what it brought, or why it brought nothing.
pub(super) async fn ask_person(files: &Files, want: &Want, stream: Stream) -> Result<Tell, Failure> {
    let mut line = Line::to_agent(&files.socket()).await?;
    line.writer.send(want).await?;
    let (mut screen, mut keyboard) = (Screen::on(stream), Keyboard::open());
    let mut tick = tokio::time::interval(Screen::TICK);
    loop {
        tokio::select! {
            tell = line.reader.next() => match tell?.ok_or(LocalError::Ended)? {
                Tell::Failed { denied: true, text } => return Err(Failure::Denied(text)),
                Tell::Failed { denied: false, text } => return Err(Failure::Failed(text)),
                end @ (Tell::Tapped { .. } | Tell::Changed { .. }) => return Ok(end),
                tell @ (Tell::Prompt { .. }
                | Tell::Closed { .. }
                | Tell::Note { .. }
                | Tell::SignIn { .. }
                | Tell::Done { .. }
                | Tell::Status { .. }
                | Tell::Catalogue { .. }) => screen.show(tell)?,
            },
            typed = keyboard.next() => match typed {
                Typed::Partial(typing) => screen.show_typing(typing)?,
                Typed::Line(text) => {
                    screen.show_typing(String::new())?;
                    match said(&text, screen.open()) {
                        // Enter before there is a prompt would tap the next one unseen.
                        Ok(Say::Enter) if screen.open().is_none() => {}
                        Ok(say) => line.writer.send(&Want::Say(say)).await?,
                        Err(advice) => screen.above(advice)?,
                    }
                }
            },
            _ = tick.tick() => screen.tick()?,
        }
    }
}
