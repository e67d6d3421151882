//! What the CTAP library's error texts mean. It has no error type: the status is a hexadecimal number inside a sentence
//! (`response_status err = 0x2E CTAP2_ERR_NO_CREDENTIALS ...`), read here and nowhere else.

use std::time::Duration;

use super::KeyError;

/// The library gives up after 500 keep-alives and reports the last one's status as if it were an error; no key answers
/// "invalid command" this late.
const KEEP_ALIVES_ENDED: Duration = Duration::from_secs(20);

/// What to do about an error of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// Nobody touched it within the key's own time: ask it again.
    AskAgain,
    /// A hiccup (another program uses the key at the same time, or it was just taken out): a few are forgiven.
    Hiccup,
    /// The key has no credential of this user.
    WrongKey,
    /// Asking again would not help.
    Final(KeyError),
}

/// What this error text of the library means, after the key was busy for `lasted`.
pub(crate) fn meaning(text: &str, lasted: Duration) -> Meaning {
    let Some(status) = status_of(text) else { return Meaning::Hiccup };
    // CTAP 2.1 section 8.2 and, for errors of the transport, section 11.2.9.1.6.
    match status {
        0x01 | 0x02 if lasted >= KEEP_ALIVES_ENDED => Meaning::AskAgain,
        0x01 => Meaning::Final(KeyError::Unsupported("FIDO2")),
        0x05 | 0x2D | 0x2F | 0x3A => Meaning::AskAgain,
        0x03 | 0x04 | 0x06 | 0x0A | 0x0B | 0x21 | 0x23 | 0x24 | 0xFE => Meaning::Hiccup,
        0x19 => Meaning::Final(KeyError::AlreadyEnrolled),
        0x22 | 0x2E => Meaning::WrongKey,
        0x26 => Meaning::Final(KeyError::Unsupported("the algorithm ES256")),
        0x27 => Meaning::Final(KeyError::Denied),
        0x28 => Meaning::Final(KeyError::Unsupported("room for another credential")),
        0x2B | 0x2C | 0x31..=0x38 | 0x3C | 0x3F | 0x40 => Meaning::Final(KeyError::PinRequired),
        0x39 | 0x15 => Meaning::Final(KeyError::Unsupported("room for so long a request")),
        other => Meaning::Final(KeyError::Broken(format!("status 0x{other:02x}"))),
    }
}

fn status_of(text: &str) -> Option<u8> {
    let (_, digits) = text.split_once("err = 0x")?;
    let end = digits.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(digits.len());
    u8::from_str_radix(&digits[..end], 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_meaning() {
        let table = [
            (
                "response_status err = 0x2E CTAP2_ERR_NO_CREDENTIALS    No valid credentials provided.",
                Meaning::WrongKey,
            ),
            ("response_status err = 0x2F CTAP2_ERR_USER_ACTION_TIMEOUT   Timeout", Meaning::AskAgain),
            ("response_status err = 0x3A CTAP2_ERR_ACTION_TIMEOUT", Meaning::AskAgain),
            ("response_status err = 0x2D CTAP2_ERR_KEEPALIVE_CANCEL", Meaning::AskAgain),
            ("response_status err = 0x06 CTAP1_ERR_CHANNEL_BUSY Channel busy.", Meaning::Hiccup),
            ("read err = 0xFE", Meaning::Hiccup),
            ("response_status err = 0x36 CTAP2_ERR_PIN_REQUIRED", Meaning::Final(KeyError::PinRequired)),
            (
                "response_status err = 0x2B CTAP2_ERR_UNSUPPORTED_OPTION",
                Meaning::Final(KeyError::PinRequired),
            ),
            (
                "response_status err = 0x19 CTAP2_ERR_CREDENTIAL_EXCLUDED",
                Meaning::Final(KeyError::AlreadyEnrolled),
            ),
            ("response_status err = 0x27 CTAP2_ERR_OPERATION_DENIED", Meaning::Final(KeyError::Denied)),
            ("response_status err = 0x8", Meaning::Final(KeyError::Broken("status 0x08".into()))),
            (
                "response_status err = 0x01 CTAP1_ERR_INVALID_COMMAND",
                Meaning::Final(KeyError::Unsupported("FIDO2")),
            ),
            ("Nonce verification failed", Meaning::Hiccup),
            ("ciborium parse error", Meaning::Hiccup),
            ("write error", Meaning::Hiccup),
        ];
        for (text, expected) in table {
            assert_eq!(meaning(text, Duration::from_secs(1)), expected, "{text}");
        }
    }

    #[test]
    fn a_keep_alive_reported_as_an_error_is_asked_again() {
        let text = "response_status err = 0x02 CTAP1_ERR_INVALID_PARAMETER";
        assert_eq!(meaning(text, Duration::from_secs(51)), Meaning::AskAgain);
        assert_ne!(meaning(text, Duration::from_secs(1)), Meaning::AskAgain);
    }
}
