//! What can go wrong with one key, and what is to be done about it.

use super::channel::Broken;
use super::ctap::{Refused, status};
use crate::keys::KeyError;
use crate::keys::pin_entry::NoPin;

/// Why a key's thread has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// There was no exchange.
    Broken(Broken),
    /// The key said no.
    Status(u8),
    /// It may not be opened; the sentence says why.
    NoAccess(String),
    /// It has none of the credentials.
    NotEnrolled,
    /// It is to verify its user and has no PIN yet.
    NoPinSet,
    /// It is to verify its user and cannot.
    CannotVerify,
    /// Every PIN was wrong.
    PinRefused,
    /// There is no PIN.
    NoPin(NoPin),
    /// Its thread fell over.
    Panicked,
}

/// What to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Nobody touched it within its own time, or it was taken out: it is asked again, if it is there.
    AskAgain,
    /// Another program uses it: it is asked again in a moment.
    InUse,
    /// A hiccup: a few are forgiven.
    Hiccup(String),
    /// It has no credential of this user.
    WrongKey,
    /// Asking it again would not help.
    Final(KeyError),
}

impl From<Refused> for Trouble {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Status(status) => Self::Status(status),
            Refused::Broken(broken) => Self::Broken(broken),
        }
    }
}

impl From<Broken> for Trouble {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

impl Trouble {
    /// What to do about it.
    pub(super) fn meaning(self) -> Meaning {
        match self {
            Self::Broken(broken) => of_exchange(broken),
            Self::Status(status) => of_status(status),
            Self::NoAccess(why) => Meaning::Final(KeyError::NoAccess(why)),
            Self::NotEnrolled => Meaning::WrongKey,
            Self::NoPinSet => Meaning::Final(KeyError::NoPinSet),
            Self::CannotVerify => Meaning::Final(KeyError::Unsupported("a PIN or a fingerprint reader")),
            Self::PinRefused => Meaning::Final(KeyError::PinRefused),
            Self::NoPin(NoPin::Cancelled) => Meaning::Final(KeyError::PinCancelled),
            Self::NoPin(NoPin::Nobody) => Meaning::Final(KeyError::NobodyToAsk),
            Self::Panicked => Meaning::Final(KeyError::Broken("its bytes make no sense".to_owned())),
        }
    }
}

fn of_exchange(broken: Broken) -> Meaning {
    match broken {
        // Whoever called it off knows; whoever took it out may put it in again.
        Broken::Lost | Broken::Cancelled => Meaning::AskAgain,
        Broken::Busy => Meaning::InUse,
        Broken::Silent => Meaning::Final(KeyError::Broken("it is silent".to_owned())),
        Broken::NotCtap2 => Meaning::Final(KeyError::Unsupported("FIDO2")),
        Broken::Garbled(why) => Meaning::Hiccup(why.to_owned()),
        Broken::Refused(code) => Meaning::Hiccup(format!("error 0x{code:02x}")),
    }
}

/// CTAP 2.1 section 8.2.
fn of_status(status: u8) -> Meaning {
    match status {
        0x01 => Meaning::Final(KeyError::Unsupported("FIDO2")),
        0x05 | 0x2D | 0x2F | 0x3A => Meaning::AskAgain,
        0x06 | 0x21 | 0x23 | 0x24 => Meaning::InUse,
        0x19 => Meaning::Final(KeyError::AlreadyEnrolled),
        0x22 | status::NO_CREDENTIALS => Meaning::WrongKey,
        0x26 => Meaning::Final(KeyError::Unsupported("the algorithm ES256")),
        0x27 => Meaning::Final(KeyError::Denied),
        0x28 => Meaning::Final(KeyError::Unsupported("room for another credential")),
        0x2B | 0x2C => Meaning::Final(KeyError::Unsupported("what the cluster asks of it")),
        status::PIN_INVALID => Meaning::Final(KeyError::PinRefused),
        status::PIN_BLOCKED => Meaning::Final(KeyError::PinBlocked),
        status::PIN_AUTH_BLOCKED => Meaning::Final(KeyError::PinNeedsPower),
        status::PIN_NOT_SET => Meaning::Final(KeyError::NoPinSet),
        status::VERIFICATION_REQUIRED => {
            Meaning::Final(KeyError::Unsupported("a PIN or a fingerprint reader"))
        }
        status::FINGER_BLOCKED => Meaning::Final(KeyError::PinNeedsPower),
        0x15 | 0x39 => Meaning::Final(KeyError::Unsupported("room for so long a request")),
        // A token that does not fit (0x33) is one that another program's has replaced meanwhile.
        0x03 | 0x04 | 0x0A | 0x0B | 0x33 | 0x38 => Meaning::Hiccup(format!("status 0x{status:02x}")),
        other => Meaning::Final(KeyError::Broken(format!("status 0x{other:02x}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_meaning() {
        let broken = |number: u8| Meaning::Final(KeyError::Broken(format!("status 0x{number:02x}")));
        let table = [
            (0x01, Meaning::Final(KeyError::Unsupported("FIDO2"))),
            (0x06, Meaning::InUse),
            (0x19, Meaning::Final(KeyError::AlreadyEnrolled)),
            (0x27, Meaning::Final(KeyError::Denied)),
            (0x2D, Meaning::AskAgain),
            (0x2E, Meaning::WrongKey),
            (0x2F, Meaning::AskAgain),
            (0x3A, Meaning::AskAgain),
            (0x32, Meaning::Final(KeyError::PinBlocked)),
            (0x34, Meaning::Final(KeyError::PinNeedsPower)),
            (0x35, Meaning::Final(KeyError::NoPinSet)),
            (0x08, broken(0x08)),
            (0xF0, broken(0xF0)),
        ];
        for (number, expected) in table {
            assert_eq!(Trouble::Status(number).meaning(), expected, "0x{number:02x}");
        }
    }

    #[test]
    fn a_silent_key_is_given_up_and_a_garbled_answer_is_a_hiccup() {
        assert!(matches!(Trouble::Broken(Broken::Silent).meaning(), Meaning::Final(KeyError::Broken(_))));
        assert!(matches!(Trouble::Broken(Broken::Garbled("x")).meaning(), Meaning::Hiccup(_)));
    }
}
