//! How a person gives the PIN of a security key: asked by pinentry or on a terminal, handed to the key, and forgotten. It
//! is never written anywhere, never kept, and never tried a second time unasked.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

mod pinentry;
mod tty;

/// From so many tries on the person is told, and must say that it shall be tried at all.
const FEW_TRIES: u8 = 2;

/// A PIN, wiped when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Pin(Zeroizing<String>);

impl Pin {
    /// As it was typed.
    pub(crate) const fn new(text: Zeroizing<String>) -> Self {
        Self(text)
    }

    /// Its text, for the key alone.
    pub(crate) fn text(&self) -> &str {
        &self.0
    }
}

/// For the agent's own socket alone: from the terminal where it was typed to the agent.
impl Serialize for Pin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Pin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

impl std::fmt::Debug for Pin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pin")
    }
}

/// What a person is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PinQuestion {
    /// What it is for, as the end of a sentence: "to open billing-db, port 5432".
    pub(crate) purpose: String,
    /// Until the key blocks its PIN.
    pub(crate) retries_left: u8,
    /// What came of the answer before.
    pub(crate) after: PinAfter,
}

/// What came of the answer before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PinAfter {
    /// There was none.
    Nothing,
    /// The key says that it was wrong.
    Wrong,
    /// It was too short or too long to be one, and the key was not bothered.
    Impossible,
}

impl PinQuestion {
    /// The question.
    pub(crate) fn text(&self) -> String {
        let tries = match self.retries_left {
            1 => "1 try left".to_owned(),
            left => format!("{left} tries left"),
        };
        format!("The PIN of your security key, {} ({tries})", self.purpose)
    }

    /// What went wrong before.
    pub(crate) const fn complaint(&self) -> Option<&'static str> {
        match self.after {
            PinAfter::Nothing => None,
            PinAfter::Wrong => Some("That was the wrong PIN."),
            PinAfter::Impossible => Some("A PIN has at least 4 characters and at most 63 bytes."),
        }
    }

    /// What the person must agree to before the PIN is asked.
    pub(crate) fn warning(&self) -> Option<String> {
        if self.retries_left > FEW_TRIES {
            return None;
        }
        let left = match self.retries_left {
            1 => "one more wrong PIN",
            _ => "two more wrong PINs",
        };
        Some(format!(
            "After {left} this security key blocks its PIN, and only a reset, which deletes what it holds, makes it usable again. Try a PIN now?"
        ))
    }
}

/// Why there is no PIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoPin {
    /// The person does not want to give it.
    Cancelled,
    /// Nobody can be asked here.
    Nobody,
}

/// Somebody who asks.
pub(crate) trait PinEntry: Send + Sync + std::fmt::Debug {
    /// Asks the person, after the warning if there is one. Dropping the future withdraws the question.
    fn ask(&self, question: PinQuestion) -> BoxFuture<'_, Result<Pin, NoPin>>;
}

/// Who asks in this process.
pub(crate) type Pins = Arc<dyn PinEntry>;

/// Asks by pinentry where there is a screen, else on the terminal that this process runs in.
pub(crate) fn of_this_process() -> Pins {
    pinentry_or(Arc::new(tty::Tty))
}

/// Asks by pinentry where there is a screen, else so.
pub(crate) fn pinentry_or(other: Pins) -> Pins {
    Arc::new(FirstOf(vec![Arc::new(pinentry::Pinentry::of_environment()), other]))
}

/// The pinentry that is asked with in this environment; none where the prompt asks by itself.
pub(crate) fn pinentry_program() -> Option<String> {
    pinentry::Pinentry::of_environment().program().map(str::to_owned)
}

/// Each in turn, until one can ask at all.
#[derive(Debug)]
struct FirstOf(Vec<Pins>);

impl PinEntry for FirstOf {
    fn ask(&self, question: PinQuestion) -> BoxFuture<'_, Result<Pin, NoPin>> {
        Box::pin(async move {
            for entry in &self.0 {
                match entry.ask(question.clone()).await {
                    Err(NoPin::Nobody) => {}
                    answered => return answered,
                }
            }
            Err(NoPin::Nobody)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(retries_left: u8, after: PinAfter) -> PinQuestion {
        PinQuestion { purpose: "to open billing-db, port 5432".to_owned(), retries_left, after }
    }

    #[test]
    fn the_tries_left_are_in_the_question() {
        assert_eq!(
            question(8, PinAfter::Nothing).text(),
            "The PIN of your security key, to open billing-db, port 5432 (8 tries left)"
        );
        assert!(question(1, PinAfter::Wrong).text().ends_with("(1 try left)"));
    }

    #[test]
    fn the_last_two_tries_need_a_yes() {
        assert!(question(3, PinAfter::Wrong).warning().is_none());
        assert!(question(2, PinAfter::Nothing).warning().unwrap().contains("two more wrong PINs"));
        assert!(question(1, PinAfter::Nothing).warning().unwrap().contains("one more wrong PIN"));
    }

    #[test]
    fn a_pin_is_not_printed() {
        assert_eq!(format!("{:?}", Pin::new(Zeroizing::new("123456".to_owned()))), "Pin");
    }

    #[derive(Debug)]
    struct Says(Result<&'static str, NoPin>);

    impl PinEntry for Says {
        fn ask(&self, _: PinQuestion) -> BoxFuture<'_, Result<Pin, NoPin>> {
            Box::pin(async { self.0.map(|pin| Pin::new(Zeroizing::new(pin.to_owned()))) })
        }
    }

    #[tokio::test]
    async fn who_cannot_ask_leaves_it_to_the_next() {
        let first_of = |entries: Vec<Says>| {
            FirstOf(entries.into_iter().map(|entry| -> Pins { Arc::new(entry) }).collect())
        };
        let asked = first_of(vec![Says(Err(NoPin::Nobody)), Says(Ok("1234"))]);
        assert_eq!(asked.ask(question(8, PinAfter::Nothing)).await.unwrap().text(), "1234");
        let refused = first_of(vec![Says(Err(NoPin::Cancelled)), Says(Ok("1234"))]);
        assert_eq!(refused.ask(question(8, PinAfter::Nothing)).await.unwrap_err(), NoPin::Cancelled);
    }
}
