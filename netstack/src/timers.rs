//! Who wants to be looked at when. One entry for each at most; later deadlines move lazily.
//!
//! A retransmission deadline moves with every segment, nearly always to a later time. So an entry that is too early is
//! left alone: when it is due, its owner is looked at, finds nothing to do and asks again.

use std::collections::BTreeSet;
use std::time::Instant;

/// Whose deadline it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Alarm {
    /// A flow's slot.
    Slot(u32),
    /// A held SYN.
    Held(u32),
}

/// All deadlines, the earliest first.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    queue: BTreeSet<(Instant, Alarm)>,
}

impl Timers {
    /// Asks for an alarm no later than `deadline`. `queued` is the owner's note of its entry.
    pub(crate) fn arm(&mut self, alarm: Alarm, queued: &mut Option<Instant>, deadline: Instant) {
        if queued.is_some_and(|queued| queued <= deadline) {
            return;
        }
        self.disarm(alarm, queued);
        self.queue.insert((deadline, alarm));
        *queued = Some(deadline);
    }

    /// Takes an owner's entry away.
    pub(crate) fn disarm(&mut self, alarm: Alarm, queued: &mut Option<Instant>) {
        if let Some(deadline) = queued.take() {
            self.queue.remove(&(deadline, alarm));
        }
    }

    /// Takes one alarm that is due; its owner must clear its own note.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<Alarm> {
        let (deadline, _) = self.queue.first()?;
        if *deadline > now {
            return None;
        }
        self.queue.pop_first().map(|(_, alarm)| alarm)
    }

    /// The earliest deadline.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.queue.first().map(|(deadline, _)| *deadline)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "a test's time needs a beginning")]
    fn beginning() -> Instant {
        Instant::now()
    }

    #[test]
    fn an_owner_has_one_entry_however_often_it_asks() {
        let (mut timers, mut queued, now) = (Timers::default(), None, beginning());
        for seconds in (1..100).rev().chain(1..100) {
            timers.arm(Alarm::Slot(1), &mut queued, now + Duration::from_secs(seconds));
        }
        assert_eq!(timers.queue.len(), 1);
        assert_eq!(timers.next_deadline(), Some(now + Duration::from_secs(1)));
    }

    #[test]
    fn alarms_come_in_order_and_not_before_their_time() {
        let (mut timers, now) = (Timers::default(), beginning());
        timers.arm(Alarm::Slot(1), &mut None, now + Duration::from_secs(2));
        timers.arm(Alarm::Held(1), &mut None, now + Duration::from_secs(1));

        assert_eq!(timers.pop_due(now), None);
        assert_eq!(timers.pop_due(now + Duration::from_secs(3)), Some(Alarm::Held(1)));
        assert_eq!(timers.pop_due(now + Duration::from_secs(3)), Some(Alarm::Slot(1)));
        assert_eq!(timers.pop_due(now + Duration::from_secs(3)), None);
    }
}
