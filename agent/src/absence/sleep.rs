//! Whether the machine slept, by its own clocks: one of them counts the time asleep (CLOCK_BOOTTIME), the other one does not
//! (CLOCK_MONOTONIC), and they drift apart then and never else. For machines whose logind says nothing, or none is there.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// How long the machine has slept since boot, as far as two clocks tell that are not read at the same moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slept {
    least: Duration,
    most: Duration,
}

/// Looks at the clocks again and again.
#[derive(Debug)]
pub(crate) struct SleepWatch {
    slept: Slept,
}

impl SleepWatch {
    /// From now on.
    pub(crate) fn new() -> Self {
        Self { slept: Slept::now() }
    }

    /// Whether the machine slept since the last look.
    pub(crate) fn has_slept(&mut self) -> bool {
        self.handle_look(Slept::now())
    }

    fn handle_look(&mut self, now: Slept) -> bool {
        // However long this process stood still between two of its looks at a clock: only sleep makes the least more than
        // what was the most.
        let has_slept = now.least > self.slept.most;
        self.slept = now;
        has_slept
    }
}

impl Slept {
    fn now() -> Self {
        let (before, boot, after) =
            (read(ClockId::Monotonic), read(ClockId::Boottime), read(ClockId::Monotonic));
        Self::between(before, boot, after)
    }

    const fn between(before: Duration, boot: Duration, after: Duration) -> Self {
        Self { least: boot.saturating_sub(after), most: boot.saturating_sub(before) }
    }
}

fn read(clock: ClockId) -> Duration {
    let now = clock_gettime(clock);
    let (seconds, nanos) = (u64::try_from(now.tv_sec), u32::try_from(now.tv_nsec));
    Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A look at `awake` seconds, with this long asleep before, and a second that passes before each clock's turn.
    fn look(awake: u64, asleep: u64, stall: u64) -> Slept {
        let at = |seconds| Duration::from_secs(seconds);
        Slept::between(at(awake), at(awake + stall + asleep), at(awake + 2 * stall))
    }

    #[test]
    fn sleep_is_seen_once() {
        let mut watch = SleepWatch { slept: look(100, 0, 0) };
        assert!(!watch.handle_look(look(101, 0, 0)));
        assert!(watch.handle_look(look(102, 5, 0)));
        assert!(!watch.handle_look(look(103, 5, 0)));
        assert!(watch.handle_look(look(104, 3600, 0)));
    }

    #[test]
    fn a_machine_that_stands_still_for_a_while_has_not_slept() {
        let mut watch = SleepWatch { slept: look(100, 7, 0) };
        for (awake, stall) in [(110, 3), (120, 0), (130, 1), (140, 9), (150, 0)] {
            assert!(!watch.handle_look(look(awake, 7, stall)), "{awake}");
        }
        assert!(watch.handle_look(look(200, 17, 1)), "and sleep is seen through a stall");
    }

    #[test]
    fn this_machine_does_not_sleep_between_two_lines() {
        let mut watch = SleepWatch::new();
        assert!(!(0..1000).any(|_| watch.has_slept()));
    }
}
