//! What one user may have at this proxy: connections at once, new ones a second, tunnels, and refusals.
//!
//! Counted by user, whatever the number of tunnels and devices. An entry stays after a user's last connection, so that
//! leaving and coming back gives nobody a new allowance; there are at most as many as the cluster has users.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use portlatch_protocol::grant::ConnectionLimits;
use portlatch_protocol::names::UserName;

/// Tunnels of one user at one proxy (design section 11).
pub const MAX_TUNNELS: u32 = 8;
/// Refused streams of one user in the long run and in one burst. Each one is a record of the audit, and a client that
/// is refused this often does not listen; over it its tunnel is closed.
const REFUSALS: (u32, u32) = (20, 1000);

/// Refused tunnels that are put on the record, of all peers together, in the long run and in one burst: whoever has no
/// certificate must not be able to fill the audit.
const TURNED_AWAY: (u32, u32) = (1, 100);

/// The table of users.
#[derive(Debug, Default)]
pub struct Limits {
    users: DashMap<UserName, Usage>,
    turned_away: Mutex<Bucket>,
}

#[derive(Debug, Default)]
struct Usage {
    connections: u32,
    tunnels: u32,
    opened: Bucket,
    refused: Bucket,
}

/// A limit is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a limit of the user is used up")]
pub struct OverLimit;

impl Limits {
    /// A place for one connection.
    ///
    /// # Errors
    /// [`OverLimit`].
    pub fn connection(
        self: &Arc<Self>,
        user: &UserName,
        limits: ConnectionLimits,
        now: Instant,
    ) -> Result<Place, OverLimit> {
        let mut usage = self.users.entry(user.clone()).or_default();
        if usage.connections >= limits.connections {
            return Err(OverLimit);
        }
        usage.opened.take(limits.rate, limits.burst, now)?;
        usage.connections += 1;
        Ok(self.place(user, Kind::Connection))
    }

    /// A place for one tunnel.
    ///
    /// # Errors
    /// [`OverLimit`].
    pub fn tunnel(self: &Arc<Self>, user: &UserName) -> Result<Place, OverLimit> {
        let mut usage = self.users.entry(user.clone()).or_default();
        if usage.tunnels >= MAX_TUNNELS {
            return Err(OverLimit);
        }
        usage.tunnels += 1;
        Ok(self.place(user, Kind::Tunnel))
    }

    /// Counts a refused stream.
    ///
    /// # Errors
    /// [`OverLimit`] if there were too many.
    pub fn refusal(&self, user: &UserName, now: Instant) -> Result<(), OverLimit> {
        let (rate, burst) = REFUSALS;
        self.users.entry(user.clone()).or_default().refused.take(rate, burst, now)
    }

    /// Counts a refused tunnel.
    ///
    /// # Errors
    /// [`OverLimit`] if there were too many to put on the record.
    pub fn turned_away(&self, now: Instant) -> Result<(), OverLimit> {
        let (rate, burst) = TURNED_AWAY;
        // Held for these few instructions alone.
        self.turned_away.lock().unwrap_or_else(PoisonError::into_inner).take(rate, burst, now)
    }

    fn place(self: &Arc<Self>, user: &UserName, kind: Kind) -> Place {
        Place { limits: Arc::clone(self), user: user.clone(), kind }
    }
}

/// A place that is taken until this is dropped.
#[derive(Debug)]
pub struct Place {
    limits: Arc<Limits>,
    user: UserName,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Connection,
    Tunnel,
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(mut usage) = self.limits.users.get_mut(&self.user) else { return };
        match self.kind {
            Kind::Connection => usage.connections = usage.connections.saturating_sub(1),
            Kind::Tunnel => usage.tunnels = usage.tunnels.saturating_sub(1),
        }
    }
}

/// A token bucket. It is full at first.
#[derive(Debug, Default)]
struct Bucket {
    /// The moment at which it will be full again: one number says how many tokens are missing.
    full_at: Option<Instant>,
}

impl Bucket {
    fn take(&mut self, rate: u32, burst: u32, now: Instant) -> Result<(), OverLimit> {
        if rate == 0 || burst == 0 {
            return Err(OverLimit);
        }
        let token = Duration::from_secs(1) / rate;
        let full_at = self.full_at.map_or(now, |at| at.max(now)) + token;
        if full_at.saturating_duration_since(now) > token * burst {
            return Err(OverLimit);
        }
        self.full_at = Some(full_at);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ConnectionLimits = ConnectionLimits { connections: 3, rate: 10, burst: 5 };

    #[test]
    fn the_default_burst_passes_and_one_more_does_not() {
        let (limits, user, now) = fixture();
        let default = ConnectionLimits { connections: 10_000, ..ConnectionLimits::default() };
        let places: Vec<_> = (0..2000).map(|_| limits.connection(&user, default, now).unwrap()).collect();
        assert!(limits.connection(&user, default, now).is_err());
        assert_eq!(places.len(), 2000);
    }

    #[test]
    fn connections_at_once_are_counted_and_given_back() {
        let (limits, user, now) = fixture();
        let mut places: Vec<_> = (0..3).map(|_| limits.connection(&user, LIMITS, now).unwrap()).collect();
        assert!(limits.connection(&user, LIMITS, now).is_err());
        places.pop();
        assert!(limits.connection(&user, LIMITS, now).is_ok());
    }

    #[test]
    fn the_rate_gives_one_more_after_its_time() {
        let (limits, user, now) = fixture();
        (0..5).for_each(|_| drop(limits.connection(&user, LIMITS, now).unwrap()));
        assert!(limits.connection(&user, LIMITS, now).is_err());
        let later = now + Duration::from_millis(100);
        assert!(limits.connection(&user, LIMITS, later).is_ok());
        assert!(limits.connection(&user, LIMITS, later).is_err());
    }

    #[test]
    fn refused_tunnels_fill_no_record() {
        let (limits, _, now) = fixture();
        let kept = (0..1000).filter(|_| limits.turned_away(now).is_ok()).count();
        assert_eq!(kept, 100);
        assert!(limits.turned_away(now + Duration::from_secs(2)).is_ok());
    }

    #[test]
    fn users_do_not_share_limits() {
        let (limits, user, now) = fixture();
        let _places: Vec<_> = (0..MAX_TUNNELS).map(|_| limits.tunnel(&user).unwrap()).collect();
        assert!(limits.tunnel(&user).is_err());
        let other = "tom".parse().unwrap();
        assert!(limits.tunnel(&other).is_ok());
        assert!(limits.connection(&other, LIMITS, now).is_ok());
    }

    fn fixture() -> (Arc<Limits>, UserName, Instant) {
        (Arc::default(), "jerry".parse().unwrap(), Instant::now())
    }
}
