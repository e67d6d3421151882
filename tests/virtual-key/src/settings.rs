//! What kind of a key it is, and how it misbehaves.

use std::str::FromStr;
use std::time::Duration;

/// What a key can do.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The PIN it was set up with.
    pub pin: Option<String>,
    /// The PIN protocols it offers, the preferred one first.
    pub pin_protocols: Vec<u8>,
    /// Whether it speaks CTAP 2.1 too: selection, tokens with permissions.
    pub is_two_one: bool,
    /// Wants the PIN or a finger at every touch.
    pub always_verifies: bool,
    /// Makes credentials without the PIN although it has one (`makeCredUvNotRqd`).
    pub makes_without_pin: bool,
    /// Has a fingerprint reader with an enrolled finger.
    pub has_finger: bool,
    /// Credentials in one list; none: it does not say.
    pub longest_list: Option<usize>,
    /// Longest message.
    pub longest_message: usize,
    /// Leaves the credential out of an answer where only one was allowed, as it may.
    pub omits_only_credential: bool,
    /// How long it waits for a touch.
    pub touch_time: Duration,
    /// Takes the first request within this time of being plugged in as touched, as some keys do.
    pub fresh_time: Duration,
    /// Who touches it.
    pub touch: TouchMode,
    /// How it misbehaves.
    pub fault: Option<Fault>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            pin: None,
            pin_protocols: vec![2, 1],
            is_two_one: true,
            always_verifies: false,
            makes_without_pin: true,
            has_finger: false,
            longest_list: Some(8),
            longest_message: 1200,
            omits_only_credential: false,
            touch_time: Duration::from_secs(30),
            fresh_time: Duration::ZERO,
            touch: TouchMode::Waits,
            fault: None,
        }
    }
}

/// Who touches the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TouchMode {
    /// It touches itself, at once.
    ByItself,
    /// Somebody, when told to.
    Waits,
}

/// A way to misbehave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Takes every report and answers nothing.
    Silent,
    /// Gives out a channel, then answers nothing.
    SilentOnChannel,
    /// Answers with noise in place of each report.
    Garbage,
    /// Answers with well-formed messages that hold noise in place of CBOR.
    GarbageCbor,
    /// Before each report of its own one for a channel of somebody else, of the same shape.
    ForeignReports,
    /// Claims that each answer has 65,535 bytes.
    EndlessAnswer,
    /// Counts its continuation reports wrongly.
    WrongSequence,
    /// Authenticator data one byte too short.
    ShortAuthenticatorData,
    /// Keeps alive without end and never answers.
    KeepAliveFlood,
    /// Somebody else's request is under way on it.
    Busy,
    /// Answers another nonce than the one that was sent.
    WrongNonce,
}

/// A word that names no setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownWord(pub String);

impl std::fmt::Display for UnknownWord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "unknown word {:?}", self.0)
    }
}

impl std::error::Error for UnknownWord {}

impl FromStr for Fault {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        Ok(match word {
            "silent" => Self::Silent,
            "silent-on-channel" => Self::SilentOnChannel,
            "garbage" => Self::Garbage,
            "garbage-cbor" => Self::GarbageCbor,
            "foreign-reports" => Self::ForeignReports,
            "endless-answer" => Self::EndlessAnswer,
            "wrong-sequence" => Self::WrongSequence,
            "short-authenticator-data" => Self::ShortAuthenticatorData,
            "keep-alive-flood" => Self::KeepAliveFlood,
            "busy" => Self::Busy,
            "wrong-nonce" => Self::WrongNonce,
            other => return Err(UnknownWord(other.to_owned())),
        })
    }
}
