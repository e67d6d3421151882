//! One key as one use sees it: what is wanted of it, and what becomes of it after each answer.

use std::time::Instant;

use tokio_util::sync::{CancellationToken, DropGuard};

use crate::keys::usb::patience::Patience;
use crate::keys::usb::trouble::Meaning;
use crate::keys::{KeyError, KeyNotice};
use crate::safe_text::safe;

/// Hiccups of one key that are forgiven in one use.
const HICCUPS: u32 = 2;
/// A key is said to be in use when it is found so this often: once may be the moment in which a browser looks at it.
const IN_USE_SAID: u32 = 3;

/// A key as one use sees it.
///
/// ```text
/// Waits --settled, free--> Works --answer--------> (the use is over)
///   ^                       |  '-- none of the credentials --> Wrong --another one blinks--> Watched
///   '--- hiccup, in use, ---'                                    '<-------- touched ------------'
///        nobody touched it  '-- no use asking again --> Spent
/// ```
pub(super) struct Entrant {
    pub(super) state: State,
    hiccups: u32,
    in_use: u32,
}

pub(super) enum State {
    /// For its turn, not before then.
    Waits(Instant),
    /// This thread asks it; dropped, it is called off.
    Works(Thread),
    /// It has none of the credentials.
    Wrong(Told),
    /// Likewise, and this thread waits for its touch.
    Watched(Thread),
    /// Nothing more is wanted of it before it was taken out.
    Spent(KeyError),
}

/// A thread at work; dropped, it is called off.
pub(super) struct Thread {
    pub(super) number: u64,
    _called_off: DropGuard,
}

/// Whether the person has touched the wrong key and heard so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    No,
    Yes,
}

impl Thread {
    /// The one of this number, which hears by this token that it is not wanted any more.
    pub(super) fn called_off_by(number: u64, token: &CancellationToken) -> Self {
        Self { number, _called_off: token.clone().drop_guard() }
    }
}

impl Entrant {
    /// A key that is not asked before then.
    pub(super) const fn waiting(until: Instant) -> Self {
        Self { state: State::Waits(until), hiccups: 0, in_use: 0 }
    }

    /// What becomes of it, and what the person should know if others go on.
    pub(super) fn after(
        &mut self,
        meaning: Meaning,
        now: Instant,
        patience: Patience,
        notice: &mut Option<KeyNotice>,
    ) -> State {
        let spent = |error: KeyError, notice: &mut Option<KeyNotice>| {
            *notice = Some(KeyNotice::Trouble(error.to_string()));
            State::Spent(error)
        };
        match meaning {
            Meaning::AskAgain => State::Waits(now + patience.poll),
            Meaning::InUse => {
                self.in_use += 1;
                *notice = (self.in_use == IN_USE_SAID).then_some(KeyNotice::InUse);
                State::Waits(now + patience.busy)
            }
            Meaning::Hiccup(_) if self.hiccups < HICCUPS => {
                self.hiccups += 1;
                State::Waits(now + patience.poll)
            }
            Meaning::Hiccup(why) => spent(KeyError::Broken(safe(&why)), notice),
            Meaning::WrongKey => State::Wrong(Told::No),
            Meaning::Final(error) => spent(error, notice),
        }
    }
}

impl State {
    /// Whether something may come of it.
    pub(super) const fn is_hopeful(&self) -> bool {
        matches!(self, Self::Waits(_) | Self::Works(_))
    }

    pub(super) const fn is_wrong(&self) -> bool {
        matches!(self, Self::Wrong(_) | Self::Watched(_))
    }
}
