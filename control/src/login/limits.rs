//! How often somebody may try: token buckets by key, in a table that a flood cannot make grow.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portlatch_clock::BootTime;
use portlatch_protocol::names::{Id, UserName};

use crate::watch::standing::Standing;

/// Attempts from one address: an office behind one address logs in at nine o'clock.
const PER_ADDRESS: Rate = Rate { burst: 60, every: Duration::from_secs(1) };
/// Attempts for one user from one network; one that succeeds is given back. Ten guesses, then six a minute: whoever guesses
/// uses up the own ones, and not those of the user elsewhere.
const PER_USER_THERE: Rate = Rate { burst: 10, every: Duration::from_secs(10) };
/// Attempts for one user from all networks together: far above what a user mistypes, far below what guessing needs.
const PER_USER: Rate = Rate { burst: 60, every: Duration::from_secs(2) };
/// Recovery codes of one user: people have ten, and type them slowly.
const RECOVERY: Rate = Rate { burst: 5, every: Duration::from_secs(60) };
/// Tunnel keys of one login, from one network: a daemon makes one at each attach.
const TUNNELS: Rate = Rate { burst: 30, every: Duration::from_secs(10) };
/// Networks whose full share a login or user has in all: an own one, two of them where IPv6 works, and as many of somebody
/// who has stolen it.
const NETWORKS: u32 = 4;
/// Keys remembered at once. When they are used up, full buckets are forgotten first; a flood of keys beyond that is
/// refused, which is what it is for.
const MAX_KEYS: usize = 16 * 1024;
/// A table that is used up is walked once in this time (or in a bucket's period, where that is shorter), however many keys
/// ask: the walk takes a fraction of a millisecond, and holds up all who ask meanwhile.
const WALK_AGAIN: Duration = Duration::from_secs(1);

/// What a limit allows.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// Attempts in one burst.
    pub burst: u32,
    /// One more after each of these.
    pub every: Duration,
}

/// The limits on logging in.
#[derive(Debug)]
pub struct LoginLimits {
    pub(crate) by_address: Limit<IpAddr>,
    by_user: NetworkLimit<UserName>,
    /// Names that nobody has stand apart: a flood of them must not keep users out.
    by_stranger: NetworkLimit<UserName>,
    pub(super) by_recovery: Limit<UserName>,
    pub(super) tunnels: NetworkLimit<Id>,
}

impl Default for LoginLimits {
    fn default() -> Self {
        Self {
            by_address: Limit::new(PER_ADDRESS),
            by_user: NetworkLimit::new(PER_USER_THERE, PER_USER),
            by_stranger: NetworkLimit::new(PER_USER_THERE, PER_USER),
            by_recovery: Limit::new(RECOVERY),
            tunnels: NetworkLimit::shared(TUNNELS),
        }
    }
}

impl LoginLimits {
    /// The limit on guesses at what this name's password or token is.
    pub(crate) fn by_name(&self, standing: &Standing, user: &UserName) -> &NetworkLimit<UserName> {
        if standing.has_user(user) { &self.by_user } else { &self.by_stranger }
    }
}

/// A limit by who it is about and from where: from one network, and in all. Whoever guesses a name's password, or has stolen
/// a login, uses up what is left there, and not what its user has elsewhere.
#[derive(Debug)]
pub(crate) struct NetworkLimit<K> {
    there: Limit<(K, IpAddr)>,
    everywhere: Limit<K>,
}

impl<K: Hash + Eq + Clone> NetworkLimit<K> {
    fn new(there: Rate, everywhere: Rate) -> Self {
        Self { there: Limit::new(there), everywhere: Limit::new(everywhere) }
    }

    /// So much from each network, and from all together what a few of them have.
    pub(crate) fn shared(there: Rate) -> Self {
        let everywhere = Rate { burst: NETWORKS * there.burst, every: there.every / NETWORKS };
        Self::new(there, everywhere)
    }

    /// Takes one attempt from this address; `false` if none is left.
    pub(crate) fn take(&self, key: &K, address: IpAddr, now: BootTime) -> bool {
        // What is refused there takes nothing from the others. And what is refused everywhere takes no room there, in a table
        // that all users share: whoever guesses from many networks would fill it.
        self.everywhere.has_left(key, now)
            && self.there.take(&(key.clone(), network_of(address)), now)
            && self.everywhere.take(key, now)
    }

    /// Gives an attempt back, because it was no guess.
    pub(crate) fn give_back(&self, key: &K, address: IpAddr) {
        self.there.give_back(&(key.clone(), network_of(address)));
        self.everywhere.give_back(key);
    }
}

/// A limit on attempts by key.
#[derive(Debug)]
pub struct Limit<K> {
    rate: Rate,
    /// A std mutex: held for a look-up, never across an await; a task of its own would only add a queue.
    buckets: Mutex<Buckets<K>>,
}

#[derive(Debug)]
struct Buckets<K> {
    by_key: HashMap<K, Bucket>,
    /// Before this, forgetting full buckets is not tried again.
    walk_at: BootTime,
    #[cfg(test)]
    walks: u32,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: u32,
    filled: BootTime,
}

impl<K: Hash + Eq + Clone> Limit<K> {
    /// A limit of this rate, with every bucket full.
    pub fn new(rate: Rate) -> Self {
        Self { rate, buckets: Mutex::default() }
    }

    /// Takes one attempt; `false` if none is left.
    pub fn take(&self, key: &K, now: BootTime) -> bool {
        let mut buckets = self.lock();
        if buckets.by_key.len() >= MAX_KEYS && !buckets.by_key.contains_key(key) {
            buckets.forget_full(self.rate, now);
            if buckets.by_key.len() >= MAX_KEYS {
                return false;
            }
        }
        let full = Bucket { left: self.rate.burst, filled: now };
        let bucket = buckets.by_key.entry(key.clone()).or_insert(full);
        *bucket = bucket.refilled(self.rate, now);
        let Some(left) = bucket.left.checked_sub(1) else { return false };
        bucket.left = left;
        true
    }

    /// Gives an attempt back, because it was no abuse.
    pub fn give_back(&self, key: &K) {
        if let Some(bucket) = self.lock().by_key.get_mut(key) {
            bucket.left = self.rate.burst.min(bucket.left.saturating_add(1));
        }
    }

    /// Whether an attempt is left, without taking it.
    pub fn has_left(&self, key: &K, now: BootTime) -> bool {
        self.lock().by_key.get(key).is_none_or(|bucket| bucket.refilled(self.rate, now).left > 0)
    }

    fn lock(&self) -> MutexGuard<'_, Buckets<K>> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K> Default for Buckets<K> {
    fn default() -> Self {
        Self {
            by_key: HashMap::new(),
            walk_at: BootTime::since_boot(Duration::ZERO),
            #[cfg(test)]
            walks: 0,
        }
    }
}

impl<K: Hash + Eq> Buckets<K> {
    /// Forgets the buckets that are full again: they say nothing.
    fn forget_full(&mut self, rate: Rate, now: BootTime) {
        if now < self.walk_at {
            return;
        }
        self.walk_at = now + WALK_AGAIN.min(rate.every);
        self.by_key.retain(|_, bucket| bucket.refilled(rate, now).left < rate.burst);
        #[cfg(test)]
        {
            self.walks += 1;
        }
    }
}

/// Whom attempts from an address are counted against: an IPv6 host has all of its /64.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) & !u128::from(u64::MAX)).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl Bucket {
    fn refilled(self, rate: Rate, now: BootTime) -> Self {
        let period = rate.every.as_millis().max(1);
        let periods = now.saturating_since(self.filled).as_millis() / period;
        let periods = u32::try_from(periods).unwrap_or(u32::MAX);
        if periods == 0 {
            return self;
        }
        let left = rate.burst.min(self.left.saturating_add(periods));
        Self { left, filled: self.filled + rate.every.saturating_mul(periods) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { burst: 3, every: Duration::from_secs(10) };

    fn at(seconds: u64) -> BootTime {
        BootTime::since_boot(Duration::from_secs(seconds))
    }

    #[test]
    fn a_burst_is_followed_by_one_attempt_a_period() {
        let limit = Limit::new(RATE);
        assert!((0..3).all(|_| limit.take(&"jerry", at(100))));
        assert!(!limit.take(&"jerry", at(109)));
        assert!(limit.take(&"jerry", at(110)));
        assert!(!limit.take(&"jerry", at(110)));
        assert!(limit.take(&"elaine", at(110)), "another key has its own");
    }

    #[test]
    fn a_stranger_s_guesses_use_up_the_own_attempts_and_not_the_user_s() {
        let (limit, user) = (LoginLimits::default().by_user, "jerry".parse().unwrap());
        let network = |number: u8| IpAddr::from([192, 0, number, 1]);
        let guesses = |from: u8| (0..1000).filter(|_| limit.take(&user, network(from), at(100))).count();
        assert_eq!(guesses(0), 10);
        assert!(limit.take(&user, network(1), at(100)), "the user is elsewhere");
        limit.give_back(&user, network(1));
        let all: usize = (1..100).map(guesses).sum();
        assert_eq!(all, 50, "sixty in all, however many networks take part");
        assert!(!limit.take(&user, network(200), at(100)));
        assert!(limit.take(&user, network(200), at(102)));
    }

    #[test]
    fn guesses_at_one_user_from_many_networks_keep_no_other_user_out() {
        let (limit, user) = (LoginLimits::default().by_user, "jerry".parse().unwrap());
        let network = |number: u128| IpAddr::V6(((0x2001_0db8 << 96) | (number << 64)).into());
        let guessed = (0..20_000).filter(|number| limit.take(&user, network(*number), at(100))).count();
        assert_eq!(guessed, 60);
        assert!(limit.take(&"elaine".parse().unwrap(), network(30_000), at(100)));
    }

    #[test]
    fn a_network_has_its_share_whatever_another_one_takes() {
        let (limit, login) = (NetworkLimit::shared(RATE), "0a");
        let taken = |last: u8| {
            let network = IpAddr::from([192, 0, last, 1]);
            (0..1000).filter(|_| limit.take(&login, network, at(100))).count()
        };
        assert_eq!([1, 2, 3, 4, 5].map(taken), [3, 3, 3, 3, 0], "of four networks each has its own");
        assert!(
            limit.take(&login, IpAddr::from([192, 0, 5, 1]), at(103)),
            "all together have four times as many"
        );
    }

    #[test]
    fn an_attempt_given_back_can_be_taken_again() {
        let limit = Limit::new(RATE);
        assert!((0..3).all(|_| limit.take(&"jerry", at(100))));
        limit.give_back(&"jerry");
        assert!(limit.has_left(&"jerry", at(100)));
        assert!(limit.take(&"jerry", at(100)));
        assert!(!limit.has_left(&"jerry", at(100)));
    }

    #[test]
    fn a_flood_of_keys_does_not_grow_the_table() {
        let limit = Limit::new(RATE);
        for key in 0..MAX_KEYS + 100 {
            let _ = limit.take(&key, at(100));
        }
        assert_eq!(limit.lock().by_key.len(), MAX_KEYS);
        assert!(limit.take(&usize::MAX, at(1000)), "full buckets make room");
    }

    #[test]
    fn a_flood_of_keys_does_not_walk_the_table_again_and_again() {
        let limit = Limit::new(RATE);
        for key in 0..MAX_KEYS {
            assert!(limit.take(&key, at(100)));
        }
        for key in MAX_KEYS..2 * MAX_KEYS {
            assert!(!limit.take(&key, at(100)));
        }
        assert_eq!(limit.lock().walks, 1);
        // One attempt is back after ten seconds: each bucket is full, and all make room.
        assert!(limit.take(&usize::MAX, at(110)));
        let buckets = limit.lock();
        assert_eq!((buckets.walks, buckets.by_key.len()), (2, 1));
    }
}
