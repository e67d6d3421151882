//! A command that asks the agent for a ceremony: the prompt is shown here as well as everywhere else, and what is typed
//! here answers it. Input that is no terminal is read only where nothing but a line of it helps: it may be what the next
//! program is to read, as the list of hosts in `while read host; do portlatch tap $host; done`.

use super::screen::Screen;
use super::watch::said;
use crate::failure::Failure;
use crate::files::Files;
use crate::keys::KeyNotice;
use crate::local::{Line, LocalError, Say, Tell, Want};
use crate::prompt::Means;
use crate::terminal::{self, Keyboard, Stream, Typed};

/// Shows the prompt of this wish until it is decided; what it brought, or why it brought nothing.
pub(super) async fn ask_person(files: &Files, want: &Want, stream: Stream) -> Result<Tell, Failure> {
    let mut line = Line::to_agent(&files.socket()).await?;
    line.writer.send(want).await?;
    let (mut screen, mut keyboard) = (Screen::on(stream), terminal::has_keyboard().then(Keyboard::open));
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
                | Tell::Catalogue { .. }) => {
                    if keyboard.is_none() && is_answered_by_a_line(&tell) {
                        keyboard = Some(Keyboard::open());
                    }
                    screen.show(tell)?;
                }
            },
            typed = next_typed(&mut keyboard) => match typed {
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

/// A code alone is wanted, as `--mfa-mode otp` says; or Enter, for a software key.
fn is_answered_by_a_line(tell: &Tell) -> bool {
    match tell {
        Tell::Prompt { prompt } => prompt.means == Means::Code,
        Tell::Note { text } => *text == KeyNotice::PressEnter.text(),
        Tell::Closed { .. }
        | Tell::SignIn { .. }
        | Tell::Tapped { .. }
        | Tell::Changed { .. }
        | Tell::Done { .. }
        | Tell::Failed { .. }
        | Tell::Status { .. }
        | Tell::Catalogue { .. } => false,
    }
}

async fn next_typed(keyboard: &mut Option<Keyboard>) -> Typed {
    match keyboard {
        Some(keyboard) => keyboard.next().await,
        None => std::future::pending().await,
    }
}
