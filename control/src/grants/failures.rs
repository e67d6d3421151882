//! Wrong answers of a login: too many within some minutes pause its proofs of presence.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use portlatch_clock::BootTime;
use portlatch_protocol::names::Id;

/// So many wrong answers ...
const MOST: usize = 10;
/// ... within this time pause a login for as long.
pub const PERIOD: Duration = Duration::from_secs(600);
/// Logins remembered at once; those whose failures are forgotten anyway make room, then those who failed longest ago.
const MAX_LOGINS: usize = 16 * 1024;

/// The wrong answers of each login.
#[derive(Debug, Default)]
pub struct Failures {
    /// A std mutex: held for a look-up, never across an await.
    by_login: Mutex<HashMap<Id, Wrong>>,
}

#[derive(Debug, Default)]
struct Wrong {
    /// The newest, oldest first.
    times: VecDeque<BootTime>,
    paused_until: Option<BootTime>,
}

/// What a failure led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consequence {
    /// None yet.
    None,
    /// The login's proofs pause from now on.
    Paused,
}

impl Failures {
    /// Counts a wrong answer.
    pub fn count(&self, login: &Id, now: BootTime) -> Consequence {
        let mut by_login = self.by_login.lock().unwrap_or_else(PoisonError::into_inner);
        make_room(&mut by_login, login, now);
        let wrong = by_login.entry(login.clone()).or_default();
        wrong.times.push_back(now);
        if wrong.times.len() > MOST {
            wrong.times.pop_front();
        }
        let is_too_many = wrong.times.len() == MOST && now.saturating_since(wrong.times[0]) <= PERIOD;
        if !is_too_many || wrong.left(now).is_some() {
            return Consequence::None;
        }
        wrong.paused_until = Some(now + PERIOD);
        wrong.times.clear();
        Consequence::Paused
    }

    /// How long the login's proofs pause still.
    pub fn pause(&self, login: &Id, now: BootTime) -> Option<Duration> {
        let by_login = self.by_login.lock().unwrap_or_else(PoisonError::into_inner);
        by_login.get(login)?.left(now)
    }
}

fn make_room(by_login: &mut HashMap<Id, Wrong>, login: &Id, now: BootTime) {
    if by_login.len() < MAX_LOGINS || by_login.contains_key(login) {
        return;
    }
    by_login.retain(|_, wrong| wrong.left(now).is_some() || wrong.is_recent(now));
    if by_login.len() < MAX_LOGINS {
        return;
    }
    let oldest = by_login.iter().min_by_key(|(_, wrong)| wrong.newest()).map(|(login, _)| login.clone());
    if let Some(oldest) = oldest {
        by_login.remove(&oldest);
    }
}

impl Wrong {
    fn left(&self, now: BootTime) -> Option<Duration> {
        let left = self.paused_until?.saturating_since(now);
        (!left.is_zero()).then_some(left)
    }

    fn newest(&self) -> Option<BootTime> {
        self.paused_until.or(self.times.back().copied())
    }

    fn is_recent(&self, now: BootTime) -> bool {
        self.times.back().is_some_and(|newest| now.saturating_since(*newest) <= PERIOD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> BootTime {
        BootTime::since_boot(Duration::from_secs(seconds))
    }

    fn login(text: &str) -> Id {
        text.parse().unwrap()
    }

    #[test]
    fn the_tenth_wrong_answer_in_ten_minutes_pauses_that_login_for_ten() {
        let failures = Failures::default();
        for n in 0..9 {
            assert_eq!(failures.count(&login("0a"), at(1000 + n * 60)), Consequence::None);
        }
        assert_eq!(failures.pause(&login("0a"), at(1500)), None);
        assert_eq!(failures.count(&login("0a"), at(1600)), Consequence::Paused);
        assert_eq!(failures.pause(&login("0a"), at(1601)), Some(Duration::from_secs(599)));
        assert_eq!(failures.pause(&login("0b"), at(1601)), None, "another login is not paused");
        assert_eq!(failures.pause(&login("0a"), at(2200)), None);
    }

    #[test]
    fn wrong_answers_of_more_than_ten_minutes_ago_do_not_count() {
        let failures = Failures::default();
        for n in 0..100 {
            assert_eq!(failures.count(&login("0a"), at(1000 + n * 67)), Consequence::None, "number {n}");
        }
    }

    #[test]
    fn a_flood_of_logins_does_not_grow_the_table_and_lifts_no_pause() {
        let failures = Failures::default();
        for _ in 0..10 {
            failures.count(&login("0a"), at(1000));
        }
        for n in 0..MAX_LOGINS + 100 {
            failures.count(&Id::from_random(u128::try_from(n).unwrap().to_be_bytes()), at(1000));
        }
        assert_eq!(failures.by_login.lock().unwrap().len(), MAX_LOGINS);
        assert!(failures.pause(&login("0a"), at(1001)).is_some());
    }
}
