//! Whether the user has gone: the screen was locked, or the machine slept. A minute later whoever sits there must tap
//! again (design section 6). Pure: what the system says and the time in; what to do out. [`logind`] listens to the system.
//!
//! ```text
//! (there) --screen locked--> Leaving --1 min--> away, taps forgotten
//!    ^                        | |                  |
//!    '------- unlocked -------+-|------------------'
//!                               '--session ended--> what is left of the minute --> taps forgotten
//! (there) --told to lock--> 1 min --> taps forgotten, unless the screen says that it was locked and is open again
//! (there) --machine woke up--> 1 min --> taps forgotten, whatever the screen does
//! ```
//!
//! While every session of the user is locked nobody is prompted. That a session was told to lock says too little for
//! that: lockers such as swaylock never say whether they did, nor that they are gone, and a session without a screen (SSH)
//! is told as well (`loginctl lock-sessions`). That the machine slept, logind says, and the clocks do ([`sleep`]).

use std::collections::HashMap;
use std::time::Duration;

use portlatch_clock::BootTime;

pub(crate) mod logind;
pub(crate) mod sleep;

/// How long after a lock or a wake what was tapped for still serves (design section 6: 1 minute).
const GRACE: Duration = Duration::from_secs(60);
/// Sessions that are kept: more than any person has.
const MAX_SESSIONS: usize = 64;

/// What the system says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SeatEvent {
    /// These sessions the user has now, and whether each one's screen says that it is locked.
    Sessions(Vec<(String, Screen)>),
    /// A session's screen changed.
    Screen(String, Screen),
    /// A session was told to lock its screen, which says nothing yet.
    ToldToLock(String),
    /// The machine slept and woke up.
    Woke,
}

/// A session's screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Screen {
    /// Locked, as it says itself.
    Locked,
    /// Not locked, as far as is known.
    Open,
}

/// What is known of the user's whereabouts.
#[derive(Debug, Default)]
pub(crate) struct Absence {
    sessions: HashMap<String, Session>,
    /// When taps are to be forgotten whatever the screens do: after a wake, or a lock whose session has ended.
    forget_at: Option<BootTime>,
}

#[derive(Debug)]
enum Session {
    Open,
    /// Taps are to be forgotten then; it may be locked, or not.
    Told(BootTime),
    /// With the time at which taps are to be forgotten, until they are.
    Locked(Option<BootTime>),
}

impl Absence {
    /// The system says something.
    pub(crate) fn handle_event(&mut self, event: SeatEvent, now: BootTime) {
        match event {
            SeatEvent::Sessions(sessions) => self.handle_sessions(sessions, now),
            SeatEvent::Screen(session, screen) => {
                if let Some(session) = self.sessions.get_mut(&session) {
                    session.handle_screen(screen, now);
                }
            }
            SeatEvent::ToldToLock(session) => {
                if let Some(session) = self.sessions.get_mut(&session) {
                    session.handle_told_to_lock(now);
                }
            }
            SeatEvent::Woke => self.forget_by(now + GRACE),
        }
    }

    fn forget_by(&mut self, at: BootTime) {
        self.forget_at = Some(self.forget_at.map_or(at, |sooner| sooner.min(at)));
    }

    fn handle_sessions(&mut self, sessions: Vec<(String, Screen)>, now: BootTime) {
        let mut known = std::mem::take(&mut self.sessions);
        for (name, screen) in sessions.into_iter().take(MAX_SESSIONS) {
            let mut session = known.remove(&name).unwrap_or(Session::Open);
            match screen {
                Screen::Locked => session.handle_screen(screen, now),
                Screen::Open => session.handle_word_lost(),
            }
            self.sessions.insert(name, session);
        }
        // Whoever locked the screen and logged out there has left, and nobody can unlock it any more; an agent that other
        // sessions keep running is no reason for their taps to live on.
        for at in known.into_values().filter_map(|session| session.forget_at()) {
            self.forget_by(at);
        }
    }

    /// Time has passed; whether what was tapped for is to be forgotten now.
    pub(crate) fn handle_timeout(&mut self, now: BootTime) -> bool {
        let is_over = self.forget_at.take_if(|at| *at <= now).is_some();
        // Every one that is due, so that none comes a second time.
        let due = self.sessions.values_mut().map(|session| session.is_due(now));
        due.fold(is_over, |any, is_due| any || is_due)
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub(crate) fn poll_timeout(&self) -> Option<BootTime> {
        self.sessions.values().filter_map(Session::forget_at).chain(self.forget_at).min()
    }

    /// Whether every screen of the user is locked.
    pub(crate) fn is_away(&self) -> bool {
        let is_locked = |session: &Session| matches!(session, Session::Locked(_));
        !self.sessions.is_empty() && self.sessions.values().all(is_locked)
    }
}

impl Session {
    fn handle_screen(&mut self, screen: Screen, now: BootTime) {
        match (screen, &self) {
            (Screen::Locked, Self::Open) => *self = Self::Locked(Some(now + GRACE)),
            (Screen::Locked, Self::Told(at)) => *self = Self::Locked(Some(*at)),
            (Screen::Locked, Self::Locked(_)) => {}
            (Screen::Open, _) => *self = Self::Open,
        }
    }

    fn handle_told_to_lock(&mut self, now: BootTime) {
        match self {
            Self::Open => *self = Self::Told(now + GRACE),
            Self::Told(_) | Self::Locked(_) => {}
        }
    }

    /// The session does not say that it is locked, and nobody said that it was unlocked: logind may have begun anew. The
    /// user is not kept away for that; the minute goes on.
    const fn handle_word_lost(&mut self) {
        if let Self::Locked(at) = self {
            *self = match *at {
                Some(at) => Self::Told(at),
                None => Self::Open,
            };
        }
    }

    const fn forget_at(&self) -> Option<BootTime> {
        match self {
            Self::Open => None,
            Self::Told(at) => Some(*at),
            Self::Locked(at) => *at,
        }
    }

    fn is_due(&mut self, now: BootTime) -> bool {
        match self {
            Self::Open => false,
            Self::Told(at) if *at <= now => {
                *self = Self::Open;
                true
            }
            Self::Told(_) => false,
            Self::Locked(at) => at.take_if(|at| *at <= now).is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> BootTime {
        BootTime::since_boot(Duration::from_secs(1_000 + seconds))
    }

    fn with_sessions(names: &[&str]) -> Absence {
        let mut absence = Absence::default();
        let sessions = names.iter().map(|name| ((*name).to_owned(), Screen::Open)).collect();
        absence.handle_event(SeatEvent::Sessions(sessions), at(0));
        absence
    }

    fn screen(absence: &mut Absence, session: &str, screen: Screen, now: u64) {
        absence.handle_event(SeatEvent::Screen(session.to_owned(), screen), at(now));
    }

    #[test]
    fn a_locked_screen_is_forgotten_about_after_a_minute_and_once() {
        let mut absence = with_sessions(&["1"]);
        screen(&mut absence, "1", Screen::Locked, 0);
        screen(&mut absence, "1", Screen::Locked, 30);
        assert_eq!(absence.poll_timeout(), Some(at(60)));
        assert!(!absence.handle_timeout(at(59)));
        assert!(absence.handle_timeout(at(60)));
        assert!(!absence.handle_timeout(at(61)));
        assert_eq!(absence.poll_timeout(), None);
    }

    #[test]
    fn whoever_unlocks_within_the_minute_taps_for_nothing_again() {
        let mut absence = with_sessions(&["1"]);
        screen(&mut absence, "1", Screen::Locked, 0);
        screen(&mut absence, "1", Screen::Open, 59);
        assert_eq!(absence.poll_timeout(), None);
        assert!(!absence.handle_timeout(at(120)));
    }

    #[test]
    fn a_wake_is_not_called_off() {
        let mut absence = with_sessions(&["1"]);
        screen(&mut absence, "1", Screen::Locked, 0);
        absence.handle_event(SeatEvent::Woke, at(10));
        screen(&mut absence, "1", Screen::Open, 20);
        absence.handle_event(SeatEvent::Woke, at(30));
        assert!(!absence.handle_timeout(at(69)));
        assert!(absence.handle_timeout(at(70)));
        assert!(!absence.handle_timeout(at(1000)));
    }

    #[test]
    fn the_user_is_away_when_every_screen_is_locked() {
        let mut absence = with_sessions(&["desktop", "ssh"]);
        assert!(!absence.is_away());
        screen(&mut absence, "desktop", Screen::Locked, 0);
        assert!(!absence.is_away(), "the other one can be seen");
        let left = vec![("desktop".to_owned(), Screen::Locked)];
        absence.handle_event(SeatEvent::Sessions(left), at(1));
        assert!(absence.is_away());
        screen(&mut absence, "desktop", Screen::Open, 2);
        assert!(!absence.is_away());
    }

    #[test]
    fn who_was_told_to_lock_and_never_says_so_is_there_and_taps_again_after_a_minute() {
        let mut absence = with_sessions(&["sway", "tty"]);
        for _ in 0..2 {
            for session in ["sway", "tty"] {
                absence.handle_event(SeatEvent::ToldToLock(session.to_owned()), at(0));
            }
            assert!(!absence.is_away());
            assert!(!absence.handle_timeout(at(59)));
            assert!(absence.handle_timeout(at(60)));
            assert!(!absence.handle_timeout(at(1000)));
            assert!(!absence.is_away());
        }
    }

    #[test]
    fn who_was_told_to_lock_and_does_is_away_from_then_on() {
        let mut absence = with_sessions(&["gnome"]);
        absence.handle_event(SeatEvent::ToldToLock("gnome".to_owned()), at(0));
        screen(&mut absence, "gnome", Screen::Locked, 2);
        absence.handle_event(SeatEvent::ToldToLock("gnome".to_owned()), at(3));
        assert!(absence.is_away());
        assert_eq!(absence.poll_timeout(), Some(at(60)));
        screen(&mut absence, "gnome", Screen::Open, 30);
        assert!(!absence.is_away());
        assert_eq!(absence.poll_timeout(), None);
    }

    #[test]
    fn a_logind_that_begins_anew_keeps_nobody_away_and_calls_off_no_minute() {
        let mut absence = with_sessions(&["gnome"]);
        let forgotten = || SeatEvent::Sessions(vec![("gnome".to_owned(), Screen::Open)]);
        screen(&mut absence, "gnome", Screen::Locked, 0);
        absence.handle_event(forgotten(), at(10));
        assert!(!absence.is_away());
        assert!(absence.handle_timeout(at(60)));
        screen(&mut absence, "gnome", Screen::Locked, 100);
        assert!(absence.handle_timeout(at(160)));
        absence.handle_event(forgotten(), at(200));
        assert!(!absence.is_away());
        assert_eq!(absence.poll_timeout(), None);
    }

    #[test]
    fn where_nothing_is_known_nobody_is_away() {
        let mut absence = Absence::default();
        screen(&mut absence, "somebody else's", Screen::Locked, 0);
        assert!(!absence.is_away());
        assert_eq!(absence.poll_timeout(), None);
    }

    #[test]
    fn a_session_that_begins_locked_counts_from_then_on() {
        let mut absence = Absence::default();
        absence.handle_event(SeatEvent::Sessions(vec![("1".to_owned(), Screen::Locked)]), at(0));
        assert!(absence.is_away());
        assert_eq!(absence.poll_timeout(), Some(at(60)));
        absence.handle_event(SeatEvent::Sessions(vec![]), at(1));
        assert!(!absence.is_away());
        assert_eq!(absence.poll_timeout(), Some(at(60)), "it has ended, and its minute goes on");
    }

    #[test]
    fn whoever_locks_and_logs_out_has_left_though_another_session_stays() {
        let mut absence = with_sessions(&["desktop", "ssh"]);
        screen(&mut absence, "desktop", Screen::Locked, 0);
        let left = vec![("ssh".to_owned(), Screen::Open)];
        absence.handle_event(SeatEvent::Sessions(left), at(10));
        // Another one that comes and is unlocked is another one.
        let came = vec![("ssh".to_owned(), Screen::Open), ("desktop".to_owned(), Screen::Open)];
        absence.handle_event(SeatEvent::Sessions(came), at(20));
        screen(&mut absence, "desktop", Screen::Open, 21);
        assert!(!absence.handle_timeout(at(59)));
        assert!(absence.handle_timeout(at(60)));
        assert!(!absence.handle_timeout(at(1000)));
    }

    #[test]
    fn a_session_that_ends_unlocked_takes_nothing_with_it() {
        let mut absence = with_sessions(&["desktop", "ssh"]);
        screen(&mut absence, "desktop", Screen::Locked, 0);
        screen(&mut absence, "desktop", Screen::Open, 5);
        absence.handle_event(SeatEvent::Sessions(vec![("ssh".to_owned(), Screen::Open)]), at(10));
        assert_eq!(absence.poll_timeout(), None);
    }
}
