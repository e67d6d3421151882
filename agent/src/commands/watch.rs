//! `portlatch watch`: prompts and refusals as they come, in any terminal; Enter taps a software key, `d` denies.

use super::screen::Screen;
use crate::failure::Failure;
use crate::files::Files;
use crate::local::{Line, LocalError, Want};
use crate::terminal;

/// What a typed line means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    /// No to this prompt.
    Deny(u64),
    /// Enter alone.
    Enter,
}

/// What `line` means while this prompt is open; `None` for nothing.
pub(super) fn said(line: &str, open: Option<u64>) -> Option<Said> {
    match line.trim() {
        "" => Some(Said::Enter),
        "d" | "D" => open.map(Said::Deny),
        _ => None,
    }
}

/// Watches until the agent ends.
pub(crate) async fn watch(files: &Files) -> Result<(), Failure> {
    let mut line = Line::to_agent(&files.socket()).await?;
    line.writer.send(&Want::Watch).await?;
    terminal::say("Watching for prompts: tap your security key when asked, or type d and Enter to deny.")?;
    let mut screen = Screen::default();
    let mut typed = terminal::typed_lines();
    let mut tick = tokio::time::interval(Screen::TICK);
    loop {
        tokio::select! {
            tell = line.reader.next() => match tell? {
                Some(tell) => screen.show(tell)?,
                None => return Err(LocalError::Ended.into()),
            },
            Some(text) = typed.recv() => match said(&text, screen.open()) {
                Some(Said::Deny(id)) => line.writer.send(&Want::Deny { id }).await?,
                Some(Said::Enter) => line.writer.send(&Want::Enter).await?,
                None => {}
            },
            _ = tick.tick() => screen.tick()?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enter_taps_and_d_denies_the_open_prompt() {
        assert_eq!(said("", Some(3)), Some(Said::Enter));
        assert_eq!(said(" d ", Some(3)), Some(Said::Deny(3)));
        assert_eq!(said("d", None), None);
        assert_eq!(said("deny", Some(3)), None);
    }
}
