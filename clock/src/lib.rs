//! Our own two clocks: time of day, and time since boot with suspend counted (CLOCK_BOOTTIME).
//!
//! Prompts, holds, cool-downs, grants and certificates go by these. QUIC, TCP and tokio's timers never do: tokio's
//! clock stops in suspend, so a wait here looks at the boot clock at least once a second.
//!
//! With the feature `test-clock`, `PORTLATCH_CLOCK_OFFSET=FILE` adds the seconds in FILE to both; SIGUSR1 reads the
//! file again and wakes every wait. The feature is never in release packages.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

#[cfg(feature = "test-clock")]
mod offset;

/// Longest sleep between two looks at the boot clock: after a suspend a wait ends at most this late.
const LONGEST_NAP: Duration = Duration::from_secs(1);

/// A moment on the boot clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootTime(Duration);

impl BootTime {
    /// A moment this long after boot; for tests of pure code.
    pub const fn since_boot(duration: Duration) -> Self {
        Self(duration)
    }

    /// How long after `earlier` this is; zero if it is not.
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl std::ops::Add<Duration> for BootTime {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

/// A time of day: milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimeOfDay(pub i64);

impl TimeOfDay {
    /// Whole seconds since 1970, as JWT and certificates count them.
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// The moment `duration` later.
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }
}

/// Both clocks. Cheap to clone; every clone moves together.
#[derive(Debug, Clone)]
pub struct Clock {
    offset: watch::Receiver<Duration>,
    /// Set where time stands still but for the offset: the boot time and the time of day.
    still: Option<(BootTime, TimeOfDay)>,
    /// Keeps a fixed offset's channel open.
    _keeper: Option<Arc<watch::Sender<Duration>>>,
}

impl Clock {
    /// The machine's clocks; with `test-clock`, moved as the environment says. Must be called inside a tokio runtime
    /// when the offset file is set.
    pub fn system() -> Self {
        #[cfg(feature = "test-clock")]
        if let Some(offset) = offset::watch_file() {
            return Self { offset, still: None, _keeper: None };
        }
        let (keeper, offset) = watch::channel(Duration::ZERO);
        Self { offset, still: None, _keeper: Some(Arc::new(keeper)) }
    }

    /// Clocks that a test in the same process moves by sending the offset.
    pub fn movable() -> (Self, watch::Sender<Duration>) {
        let (mover, offset) = watch::channel(Duration::ZERO);
        (Self { offset, still: None, _keeper: None }, mover)
    }

    /// Clocks that stand still at this time of day, and that a test in the same process moves by sending the offset: what
    /// is counted by them does not depend on how fast the machine is.
    pub fn still(at: TimeOfDay) -> (Self, watch::Sender<Duration>) {
        let (clock, mover) = Self::movable();
        (Self { still: Some((clock.boot_time(), at)), ..clock }, mover)
    }

    fn offset(&self) -> Duration {
        *self.offset.borrow()
    }

    /// Now on the boot clock.
    pub fn boot_time(&self) -> BootTime {
        if let Some((boot, _)) = self.still {
            return boot + self.offset();
        }
        let now = clock_gettime(ClockId::Boottime);
        let (seconds, nanos) = (u64::try_from(now.tv_sec), u32::try_from(now.tv_nsec));
        BootTime(Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0)) + self.offset())
    }

    /// Now, the time of day.
    pub fn time_of_day(&self) -> TimeOfDay {
        if let Some((_, day)) = self.still {
            return day.after(self.offset());
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO) + self.offset();
        TimeOfDay(i64::try_from(now.as_millis()).unwrap_or(i64::MAX))
    }

    /// Waits until `deadline` on the boot clock, through suspend and through a test's moving of the clock.
    /// Cancel-safe.
    pub async fn sleep_until(&self, deadline: BootTime) {
        let mut offset = self.offset.clone();
        offset.mark_unchanged();
        loop {
            let left = deadline.saturating_since(self.boot_time());
            if left.is_zero() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(left.min(LONGEST_NAP)) => {}
                changed = offset.changed() => if changed.is_err() {
                    // Nobody can move this clock any more: only time is left to wait for.
                    tokio::time::sleep(left.min(LONGEST_NAP)).await;
                }
            }
        }
    }

    /// Waits for `duration` on the boot clock. Cancel-safe.
    pub async fn sleep(&self, duration: Duration) {
        self.sleep_until(self.boot_time() + duration).await;
    }

    /// Returns after the next time a test moved the clock; without a test, never.
    pub async fn moved(&self) {
        let mut offset = self.offset.clone();
        offset.mark_unchanged();
        if offset.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

/// rustls looks at certificates' dates by our clock.
impl rustls::time_provider::TimeProvider for Clock {
    fn current_time(&self) -> Option<rustls::pki_types::UnixTime> {
        let seconds = u64::try_from(self.time_of_day().seconds()).ok()?;
        Some(rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn moving_the_clock_wakes_a_long_wait() {
        let (clock, mover) = Clock::movable();
        let deadline = clock.boot_time() + Duration::from_secs(3600);
        let wait = tokio::spawn({
            let clock = clock.clone();
            async move { clock.sleep_until(deadline).await }
        });
        tokio::task::yield_now().await;
        mover.send(Duration::from_secs(3601)).unwrap();
        tokio::time::timeout(Duration::from_secs(5), wait).await.expect("the wait ended").unwrap();
        assert!(clock.boot_time() >= deadline);
    }

    #[tokio::test]
    async fn both_clocks_move_together() {
        for (clock, mover) in [Clock::movable(), Clock::still(TimeOfDay(7_000))] {
            let (boot, day) = (clock.boot_time(), clock.time_of_day());
            mover.send(Duration::from_secs(500)).unwrap();
            assert!(clock.boot_time().saturating_since(boot) >= Duration::from_secs(500));
            assert!(clock.time_of_day().seconds() - day.seconds() >= 500);
        }
    }

    #[tokio::test]
    async fn a_still_clock_moves_by_the_test_alone() {
        let (clock, mover) = Clock::still(TimeOfDay(7_000));
        let (boot, wait) = (clock.boot_time(), Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!((clock.boot_time(), clock.time_of_day()), (boot, TimeOfDay(7_000)));
        let waiting = tokio::spawn({
            let clock = clock.clone();
            async move { clock.sleep(wait).await }
        });
        tokio::task::yield_now().await;
        mover.send(wait).unwrap();
        tokio::time::timeout(Duration::from_secs(5), waiting).await.expect("the wait ended").unwrap();
        assert_eq!((clock.boot_time(), clock.time_of_day()), (boot + wait, TimeOfDay(67_000)));
    }

    #[test]
    fn seconds_before_1970_round_down() {
        assert_eq!(TimeOfDay(-1).seconds(), -1);
        assert_eq!(TimeOfDay(1999).seconds(), 1);
    }
}
