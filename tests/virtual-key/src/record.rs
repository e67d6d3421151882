//! What a key saw, in order: what tests look at.

use std::time::Instant;

/// Something that a key saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It was plugged in.
    Plugged,
    /// It was taken out.
    Unplugged,
    /// Somebody asked for a channel.
    Init,
    /// A CTAP2 command, by its number.
    Command(u8),
    /// An assertion was asked for.
    Assertion {
        /// Whether a touch is wanted.
        up: bool,
        /// Of the client data.
        hash: Vec<u8>,
        /// Credentials in the list.
        listed: usize,
    },
    /// It blinks.
    Blinks,
    /// It was touched while it blinked.
    Touched,
    /// The person refused on it.
    Denied,
    /// Nobody touched it in time.
    TimedOut,
    /// CANCEL stopped it.
    Cancelled,
    /// A PIN was tried.
    Pin {
        /// Whether it was right.
        is_right: bool,
    },
    /// A request on another channel was turned away.
    TurnedAway,
}

impl Event {
    /// The word by which `virtual-key tell ... await` calls it.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Plugged => "plugged",
            Self::Unplugged => "unplugged",
            Self::Init => "init",
            Self::Command(_) => "command",
            Self::Assertion { up: true, .. } => "assertion",
            Self::Assertion { up: false, .. } => "preflight",
            Self::Blinks => "blinks",
            Self::Touched => "touched",
            Self::Denied => "denied",
            Self::TimedOut => "timed-out",
            Self::Cancelled => "cancelled",
            Self::Pin { is_right: true } => "pin-right",
            Self::Pin { is_right: false } => "pin-wrong",
            Self::TurnedAway => "turned-away",
        }
    }
}

/// An event and its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// When.
    pub at: Instant,
    /// What.
    pub event: Event,
}
