//! `portlatch watch`: prompts and refusals as they come, in any terminal, and all that a person can say to them.

use zeroize::Zeroizing;

use super::screen::Screen;
use crate::code::Code;
use crate::failure::Failure;
use crate::files::Files;
use crate::keys::pin_entry::Pin;
use crate::local::{Line, LocalError, Say, Want};
use crate::prompt::{Means, Prompt};
use crate::terminal::{self, Keyboard, Typed};

/// What can be typed, for the person; the same words serve scripts.
pub(super) const HELP: &str = "Tap your security key when asked. Or type, each with Enter: a code where one is taken; d to deny; \
     b to deny and block the program; l to list rests and blocks; lift N; resume.";

/// A terminal of another encoding.
const NOT_UTF8: &str =
    "What you typed is not UTF-8, so that nothing was done with it: set your terminal to UTF-8.";

/// What `line` means while this prompt is open.
///
/// # Errors
/// What is to be told to whoever typed it.
pub(super) fn said(line: &str, open: Option<&Prompt>) -> Result<Say, &'static str> {
    let nothing = "No prompt is open.";
    if line.contains(char::REPLACEMENT_CHARACTER) {
        // As a PIN it would be a wrong one, and cost a try.
        return Err(NOT_UTF8);
    }
    let prompt = || open.map(|prompt| prompt.view.id).ok_or(nothing);
    let (word, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
    if let Some(prompt) = open.filter(|prompt| prompt.means == Means::Pin && line.trim().len() > 1) {
        // A PIN has four characters at least: the one-letter words keep their meaning, all others are one.
        return Ok(Say::Pin { id: prompt.view.id, pin: Pin::new(Zeroizing::new(line.to_owned())) });
    }
    match word.to_ascii_lowercase().as_str() {
        "" => Ok(Say::Enter),
        "d" | "deny" => Ok(Say::Deny { id: prompt()? }),
        "b" | "block" => Ok(Say::Block { id: prompt()? }),
        "l" | "list" => Ok(Say::List),
        "r" | "resume" => Ok(Say::Resume),
        "lift" => rest
            .trim()
            .parse()
            .map(|number| Say::Lift { number })
            .map_err(|_| "Say which: lift N; l lists them."),
        "code" => code(rest, open.ok_or(nothing)?),
        _ => match (line.trim().starts_with(|c: char| c.is_ascii_digit()), open) {
            (true, Some(prompt)) => code(line, prompt),
            (true, None) => Err(nothing),
            (false, _) => Err(HELP),
        },
    }
}

fn code(text: &str, prompt: &Prompt) -> Result<Say, &'static str> {
    let code = Code::typed(text).ok_or("That is no code: type its six digits.")?;
    match prompt.means.takes_codes() {
        true => Ok(Say::Code { id: prompt.view.id, code }),
        false => Err("A code is not enough for this prompt."),
    }
}

/// Watches until the agent ends.
pub(crate) async fn watch(files: &Files) -> Result<(), Failure> {
    let mut line = Line::to_agent(&files.socket()).await?;
    line.writer.send(&Want::Watch).await?;
    terminal::say(&format!("Watching for prompts. {HELP}"))?;
    let (mut screen, mut keyboard) = (Screen::default(), Keyboard::open());
    let mut tick = tokio::time::interval(Screen::TICK);
    loop {
        tokio::select! {
            tell = line.reader.next() => match tell? {
                Some(tell) => screen.show(tell)?,
                None => return Err(LocalError::Ended.into()),
            },
            typed = keyboard.next() => match typed {
                Typed::Partial(typing) => screen.show_typing(typing)?,
                Typed::Line(text) => {
                    screen.show_typing(String::new())?;
                    match said(&text, screen.open()) {
                        Ok(say) => line.writer.send(&Want::Say(say)).await?,
                        Err(advice) => screen.above(advice)?,
                    }
                }
            },
            _ = tick.tick() => screen.tick()?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::{About, PromptView, Waiting};

    fn prompt(means: Means) -> Prompt {
        let view = PromptView {
            id: 3,
            resource: "billing-db".into(),
            host: "billing-db.corp.internal".into(),
            port: 5432,
            program: None,
            pid: None,
            seconds_left: 58,
        };
        Prompt { view, about: About::Port, waiting: Waiting::Yes, means }
    }

    #[test]
    fn words_and_their_first_letters_mean_the_same() {
        let open = prompt(Means::Key);
        for (line, say) in [
            ("", Say::Enter),
            (" d ", Say::Deny { id: 3 }),
            ("deny", Say::Deny { id: 3 }),
            ("b", Say::Block { id: 3 }),
            ("Block", Say::Block { id: 3 }),
            ("l", Say::List),
            ("lift 12", Say::Lift { number: 12 }),
            ("resume", Say::Resume),
        ] {
            assert_eq!(said(line, Some(&open)), Ok(say), "{line:?}");
        }
    }

    #[test]
    fn what_is_about_a_prompt_needs_one() {
        for line in ["d", "block", "123456", "code 123456"] {
            assert_eq!(said(line, None), Err("No prompt is open."), "{line:?}");
        }
        assert_eq!(said("", None), Ok(Say::Enter));
    }

    #[test]
    fn a_code_is_taken_where_the_prompt_takes_one() {
        let say = Say::Code { id: 3, code: Code::typed("123456").unwrap() };
        for line in ["123456", "123 456", "code 123456", "CODE 123 456"] {
            assert_eq!(said(line, Some(&prompt(Means::KeyOrCode))), Ok(say.clone()), "{line:?}");
        }
        assert_eq!(said("123456", Some(&prompt(Means::Key))), Err("A code is not enough for this prompt."));
        assert_eq!(
            said("1234567890", Some(&prompt(Means::Code))),
            Err("That is no code: type its six digits.")
        );
    }

    #[test]
    fn what_is_typed_while_a_pin_is_wanted_is_the_pin() {
        let open = prompt(Means::Pin);
        for line in ["123456", "resume", " four words are one "] {
            let pin = Pin::new(Zeroizing::new(line.to_owned()));
            assert_eq!(said(line, Some(&open)), Ok(Say::Pin { id: 3, pin }), "{line:?}");
        }
        assert_eq!(said("d", Some(&open)), Ok(Say::Deny { id: 3 }));
        assert_eq!(said("b", Some(&open)), Ok(Say::Block { id: 3 }));
    }

    #[test]
    fn a_pin_that_was_not_understood_costs_no_try() {
        assert_eq!(said("gr\u{fffd}\u{fffd}e", Some(&prompt(Means::Pin))), Err(NOT_UTF8));
        let pin = Pin::new(Zeroizing::new("Größe".to_owned()));
        assert_eq!(said("Größe", Some(&prompt(Means::Pin))), Ok(Say::Pin { id: 3, pin }));
    }

    #[test]
    fn what_means_nothing_is_answered_with_what_does() {
        assert_eq!(said("yes", Some(&prompt(Means::Key))), Err(HELP));
        assert!(said("lift", None).is_err());
        assert!(said("lift -1", None).is_err());
    }
}
