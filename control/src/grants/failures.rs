//! Wrong answers of a login: too many within some minutes pause its proofs of presence. They count where they came from:
//! somebody who has stolen the login, and answers wrongly elsewhere, pauses nobody else's.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use portlatch_clock::BootTime;
use portlatch_protocol::names::Id;

use crate::login::limits::network_of;

/// So many wrong answers ...
const MOST: usize = 10;
/// ... within this time pause a login for as long.
pub const PERIOD: Duration = Duration::from_secs(600);
/// Logins at a network remembered at once; those whose failures are forgotten anyway make room, then those who failed longest ago.
const MAX_PLACES: usize = 16 * 1024;

/// The wrong answers of each login, from each network.
#[derive(Debug, Default)]
pub struct Failures {
    /// A std mutex: held for a look-up, never across an await.
    by_place: Mutex<HashMap<Place, Wrong>>,
}

/// A login at a network.
type Place = (Id, IpAddr);

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
    pub fn count(&self, login: &Id, address: IpAddr, now: BootTime) -> Consequence {
        let mut by_place = self.by_place.lock().unwrap_or_else(PoisonError::into_inner);
        let place = (login.clone(), network_of(address));
        make_room(&mut by_place, &place, now);
        let wrong = by_place.entry(place).or_default();
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

    /// How long the login's proofs from there pause still.
    pub fn pause(&self, login: &Id, address: IpAddr, now: BootTime) -> Option<Duration> {
        let by_place = self.by_place.lock().unwrap_or_else(PoisonError::into_inner);
        by_place.get(&(login.clone(), network_of(address)))?.left(now)
    }
}

fn make_room(by_place: &mut HashMap<Place, Wrong>, place: &Place, now: BootTime) {
    if by_place.len() < MAX_PLACES || by_place.contains_key(place) {
        return;
    }
    by_place.retain(|_, wrong| wrong.left(now).is_some() || wrong.is_recent(now));
    if by_place.len() < MAX_PLACES {
        return;
    }
    let oldest = by_place.iter().min_by_key(|(_, wrong)| wrong.newest()).map(|(place, _)| place.clone());
    if let Some(oldest) = oldest {
        by_place.remove(&oldest);
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

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));
    const ELSEWHERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 7));

    fn at(seconds: u64) -> BootTime {
        BootTime::since_boot(Duration::from_secs(seconds))
    }

    fn login(text: &str) -> Id {
        text.parse().unwrap()
    }

    #[test]
    fn the_tenth_wrong_answer_in_ten_minutes_pauses_that_login_for_ten_there() {
        let failures = Failures::default();
        for n in 0..9 {
            assert_eq!(failures.count(&login("0a"), HERE, at(1000 + n * 60)), Consequence::None);
        }
        assert_eq!(failures.pause(&login("0a"), HERE, at(1500)), None);
        assert_eq!(failures.count(&login("0a"), HERE, at(1600)), Consequence::Paused);
        assert_eq!(failures.pause(&login("0a"), HERE, at(1601)), Some(Duration::from_secs(599)));
        assert_eq!(failures.pause(&login("0b"), HERE, at(1601)), None, "another login is not paused");
        assert_eq!(failures.pause(&login("0a"), ELSEWHERE, at(1601)), None, "nor is this one elsewhere");
        assert_eq!(failures.pause(&login("0a"), HERE, at(2200)), None);
    }

    #[test]
    fn wrong_answers_of_more_than_ten_minutes_ago_do_not_count() {
        let failures = Failures::default();
        for n in 0..100 {
            assert_eq!(
                failures.count(&login("0a"), HERE, at(1000 + n * 67)),
                Consequence::None,
                "number {n}"
            );
        }
    }

    #[test]
    fn a_flood_of_logins_does_not_grow_the_table_and_lifts_no_pause() {
        let failures = Failures::default();
        for _ in 0..10 {
            failures.count(&login("0a"), HERE, at(1000));
        }
        for n in 0..MAX_PLACES + 100 {
            failures.count(&Id::from_random(u128::try_from(n).unwrap().to_be_bytes()), HERE, at(1000));
        }
        assert_eq!(failures.by_place.lock().unwrap().len(), MAX_PLACES);
        assert!(failures.pause(&login("0a"), HERE, at(1001)).is_some());
    }
}
