//! The ends that sessions come to by themselves: the one that their grant set, and the one for want of bytes.
//!
//! One wait for all of them. A wait on the boot clock looks at it every second ([`Clock::sleep_until`]), and ten thousand
//! sessions that each waited cost 3 % of a core while nothing happened, and a request beside them 70 us more at p99.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portlatch_clock::{BootTime, Clock};
use tokio::sync::Notify;

use crate::sessions::{EndReason, LiveSession};

/// How exactly an idle limit is kept: an eighth of it.
const IDLE_LOOKS: u32 = 8;
/// Room for so many sessions is kept; a crowd's is given back.
const KEPT: usize = 64;

/// The sessions that end by themselves, by the moment at which each is looked at next.
#[derive(Debug, Default)]
pub struct Deadlines {
    watched: Mutex<Watched>,
    /// The first look is earlier than it was.
    earlier: Notify,
}

#[derive(Debug, Default)]
struct Watched {
    sessions: HashMap<u64, Session>,
    looks: BTreeSet<(BootTime, u64)>,
    next: u64,
}

#[derive(Debug)]
struct Session {
    session: Arc<LiveSession>,
    look: BootTime,
    over: Option<BootTime>,
    idle: Option<Idle>,
}

/// An idle limit, and since when no byte has gone either way.
#[derive(Debug)]
struct Idle {
    limit: Duration,
    bytes: u64,
    quiet_since: BootTime,
}

/// What a look at a session finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Ended(EndReason),
    LookAgain(BootTime),
}

impl Session {
    /// When there is something to see; never if nothing ends it.
    fn next_look(&self, now: BootTime) -> Option<BootTime> {
        let idle = self.idle.as_ref().map(|idle| {
            let end = idle.quiet_since + idle.limit;
            end.min(now + idle.limit / IDLE_LOOKS)
        });
        [self.over, idle].into_iter().flatten().min()
    }

    fn look(&mut self, now: BootTime) -> Option<Found> {
        if self.over.is_some_and(|over| over <= now) {
            return Some(Found::Ended(EndReason::SessionOver));
        }
        if let Some(idle) = &mut self.idle {
            let bytes = self.session.bytes();
            if bytes != idle.bytes {
                (idle.bytes, idle.quiet_since) = (bytes, now);
            } else if idle.quiet_since + idle.limit <= now {
                return Some(Found::Ended(EndReason::Idle));
            }
        }
        self.next_look(now).map(Found::LookAgain)
    }
}

impl Deadlines {
    /// Calls for the session's end at `over`, or once no byte went either way for `idle`, until the entry is dropped.
    pub fn watch(
        self: &Arc<Self>,
        session: &Arc<LiveSession>,
        now: BootTime,
        over: Option<BootTime>,
        idle: Option<Duration>,
    ) -> Option<DeadlineEntry> {
        let idle = idle.map(|limit| Idle { limit, bytes: session.bytes(), quiet_since: now });
        let mut session = Session { session: Arc::clone(session), look: now, over, idle };
        session.look = session.next_look(now)?;
        let mut watched = self.watched();
        let number = watched.next;
        watched.next += 1;
        watched.looks.insert((session.look, number));
        watched.sessions.insert(number, session);
        if watched.looks.first().is_some_and(|(_, first)| *first == number) {
            self.earlier.notify_one();
        }
        Some(DeadlineEntry { deadlines: Arc::clone(self), number })
    }

    /// Looks at each when it is due, for ever.
    pub async fn keep(&self, clock: &Clock) {
        loop {
            let first = self.watched().looks.first().map(|(look, _)| *look);
            let due = async {
                match first {
                    Some(look) => clock.sleep_until(look).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => self.look(clock.boot_time()),
                () = self.earlier.notified() => {}
            }
        }
    }

    fn look(&self, now: BootTime) {
        let watched = &mut *self.watched();
        while let Some(&(look, number)) = watched.looks.first().filter(|(look, _)| *look <= now) {
            watched.looks.remove(&(look, number));
            let Some(session) = watched.sessions.get_mut(&number) else { continue };
            match session.look(now) {
                Some(Found::LookAgain(next)) => {
                    session.look = next;
                    watched.looks.insert((next, number));
                }
                Some(Found::Ended(reason)) => session.session.end.call(reason),
                None => {}
            }
        }
    }

    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session's place among those that are looked at.
#[derive(Debug)]
pub struct DeadlineEntry {
    deadlines: Arc<Deadlines>,
    number: u64,
}

impl Drop for DeadlineEntry {
    fn drop(&mut self) {
        let mut watched = self.deadlines.watched();
        if let Some(session) = watched.sessions.remove(&self.number) {
            watched.looks.remove(&(session.look, self.number));
        }
        let sessions = &mut watched.sessions;
        if sessions.capacity() > KEPT && sessions.len() < sessions.capacity() / 8 {
            sessions.shrink_to(2 * sessions.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::proxy::fixture::live_session;

    const fn at(seconds: u64) -> BootTime {
        BootTime::since_boot(Duration::from_secs(seconds))
    }

    const fn seconds(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    /// Looks as often as is due until then.
    fn pass(deadlines: &Deadlines, until: BootTime) {
        while let Some((look, _)) = { deadlines.watched().looks.first().copied() } {
            if look > until {
                return;
            }
            deadlines.look(look);
        }
    }

    fn end_of(session: &LiveSession) -> Option<EndReason> {
        use std::task::{Context, Poll, Waker};
        match std::pin::pin!(session.end.called()).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(reason) => Some(reason),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_session_ends_at_its_grants_end_however_busy_it_is() {
        let (deadlines, session) = (Arc::new(Deadlines::default()), live_session("jerry"));
        let _entry = deadlines.watch(&session, at(0), Some(at(100)), seconds(10));
        for second in 0..100 {
            pass(&deadlines, at(second));
            session.bytes_out.fetch_add(1, Ordering::Relaxed);
            assert_eq!(end_of(&session), None, "after {second} s");
        }
        pass(&deadlines, at(100));
        assert_eq!(end_of(&session), Some(EndReason::SessionOver));
    }

    #[test]
    fn a_session_ends_when_no_byte_went_for_its_limit_and_an_eighth_later_at_most() {
        let (deadlines, session) = (Arc::new(Deadlines::default()), live_session("jerry"));
        let _entry = deadlines.watch(&session, at(0), None, seconds(80));
        pass(&deadlines, at(45));
        session.bytes_in.fetch_add(1, Ordering::Relaxed);
        pass(&deadlines, at(124));
        assert_eq!(end_of(&session), None, "a byte went at 45 s");
        pass(&deadlines, at(135));
        assert_eq!(end_of(&session), Some(EndReason::Idle));
    }

    #[test]
    fn whoever_has_gone_is_neither_looked_at_nor_kept() {
        let deadlines = Arc::new(Deadlines::default());
        let sessions: Vec<_> = (0..1000).map(|_| live_session("jerry")).collect();
        let entries: Vec<_> =
            sessions.iter().map(|session| deadlines.watch(session, at(0), Some(at(10)), None)).collect();
        drop(entries);
        pass(&deadlines, at(20));
        assert!(sessions.iter().all(|session| end_of(session).is_none() && Arc::strong_count(session) == 1));
        let watched = deadlines.watched();
        assert!(watched.looks.is_empty() && watched.sessions.capacity() <= KEPT);
    }

    #[test]
    fn a_session_that_nothing_ends_is_not_watched() {
        let deadlines = Arc::new(Deadlines::default());
        assert!(deadlines.watch(&live_session("jerry"), at(0), None, None).is_none());
    }

    #[tokio::test]
    async fn an_earlier_end_than_all_others_is_kept_too() {
        let (clock, mover) = Clock::movable();
        let (deadlines, late, early) =
            (Arc::new(Deadlines::default()), live_session("jerry"), live_session("jerry"));
        let now = clock.boot_time();
        let _late = deadlines.watch(&late, now, Some(now + Duration::from_secs(9000)), None);
        let keeper = tokio::spawn({
            let deadlines = Arc::clone(&deadlines);
            async move { deadlines.keep(&clock).await }
        });
        tokio::task::yield_now().await;
        let _early = deadlines.watch(&early, now, Some(now + Duration::from_secs(900)), None);
        mover.send(Duration::from_secs(1000)).unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(20), early.end.called()).await;
        assert_eq!(ended, Ok(EndReason::SessionOver));
        assert_eq!(end_of(&late), None);
        keeper.abort();
    }
}
