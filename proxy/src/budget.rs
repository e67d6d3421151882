//! The memory that stalled sessions hold, all together: within a budget of the process, and over it the largest holder
//! gives way first (design section 11).
//!
//! How much a peer has sent ahead is known only inside QUIC, so a session that has not moved for a moment counts with the
//! most that it can hold. One that moves holds next to nothing. A stream whose header has come in part counts at once: a
//! peer of ours sends headers whole, and all that a mean one sends behind a gap is held.

use std::collections::{BTreeMap, HashMap};
use std::future::{Future, ready};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use portlatch_protocol::names::UserName;
use tokio::time::timeout;

use crate::sessions::{End, EndReason, LiveSession};

/// What all stalled sessions may hold.
const PROCESS_BUDGET: u64 = 1024 * 1024 * 1024;
/// A write that takes longer than this is stalled.
const STALLED_AFTER: Duration = Duration::from_secs(1);
/// Thousands of streams may have to end in a second; the log hears of it this often.
const BETWEEN_WARNINGS: Duration = Duration::from_secs(10);

/// Whoever holds memory, and lets go of it when told to.
pub trait Holder: std::fmt::Debug + Send + Sync + 'static {
    /// On whose account.
    fn user(&self) -> &UserName;
    /// How it is told.
    fn end(&self) -> &End;
}

impl Holder for LiveSession {
    fn user(&self) -> &UserName {
        &self.login.user
    }

    fn end(&self) -> &End {
        &self.end
    }
}

/// A stream whose header is on its way.
#[derive(Debug)]
struct Headless {
    user: UserName,
    end: End,
}

impl Holder for Headless {
    fn user(&self) -> &UserName {
        &self.user
    }

    fn end(&self) -> &End {
        &self.end
    }
}

/// A stream had to go before its header was whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("streams without their header hold too much")]
pub struct OverBudget;

/// The stalled sessions.
#[derive(Debug)]
pub struct Budget {
    limit: u64,
    stalled_after: Duration,
    /// A lock and not a task: held for a look at the stalled sessions, never across an await.
    stalled: Mutex<Stalled>,
}

#[derive(Debug, Default)]
struct Stalled {
    /// By user, so that finding the largest holder does not take longer the more one of them holds.
    users: HashMap<UserName, Holdings>,
    total: u64,
    next: u64,
    /// When the log was told last that somebody had to end.
    told: Option<Instant>,
}

/// What one user's streams hold, those apart that have been told to end. Numbers grow with time.
#[derive(Debug, Default)]
struct Holdings {
    by_number: BTreeMap<u64, Holding>,
    total: u64,
}

#[derive(Debug)]
struct Holding {
    holder: Arc<dyn Holder>,
    bytes: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self::new(PROCESS_BUDGET, STALLED_AFTER)
    }
}

impl Budget {
    /// A budget of so many bytes, for writes that take longer than this.
    pub fn new(limit: u64, stalled_after: Duration) -> Self {
        Self { limit, stalled_after, stalled: Mutex::default() }
    }

    /// Awaits a write; while it is stalled, the session counts as holding `bytes`.
    pub async fn while_stalled<T>(
        &self,
        session: &Arc<LiveSession>,
        bytes: u64,
        write: impl Future<Output = T>,
    ) -> T {
        tokio::pin!(write);
        // Most writes are done at once and need no timer.
        tokio::select! {
            biased;
            done = &mut write => return done,
            () = ready(()) => {}
        }
        if let Ok(done) = timeout(self.stalled_after, &mut write).await {
            return done;
        }
        let _held = self.hold(Arc::<LiveSession>::clone(session), bytes);
        write.await
    }

    /// Awaits the header of a stream of this user's; while it is there in part, the stream counts as holding `bytes`.
    ///
    /// # Errors
    /// [`OverBudget`].
    pub async fn while_headless<T>(
        &self,
        user: &UserName,
        bytes: u64,
        header: impl Future<Output = T>,
    ) -> Result<T, OverBudget> {
        tokio::pin!(header);
        // Most headers are there when their stream is.
        tokio::select! {
            biased;
            done = &mut header => return Ok(done),
            () = ready(()) => {}
        }
        let stream = Arc::new(Headless { user: user.clone(), end: End::default() });
        let _held = self.hold(Arc::<Headless>::clone(&stream), bytes);
        tokio::select! {
            done = header => Ok(done),
            _ = stream.end.called() => Err(OverBudget),
        }
    }

    fn hold(&self, holder: Arc<dyn Holder>, bytes: u64) -> Held<'_> {
        let user = holder.user().clone();
        let mut stalled = self.lock();
        let number = stalled.next;
        stalled.next += 1;
        stalled.total += bytes;
        let holdings = stalled.users.entry(user.clone()).or_default();
        holdings.total += bytes;
        holdings.by_number.insert(number, Holding { holder, bytes });
        while stalled.total > self.limit {
            if !stalled.end_one_of_the_largest() {
                break;
            }
        }
        Held { budget: self, user, number }
    }

    fn lock(&self) -> MutexGuard<'_, Stalled> {
        self.stalled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stalled {
    /// Ends the longest stalled of the user who holds most; whether there was one.
    fn end_one_of_the_largest(&mut self) -> bool {
        let largest = self.users.iter().max_by_key(|(_, holdings)| holdings.total);
        let Some((user, holdings)) = largest else { return false };
        let (user, Some(&number)) = (user.clone(), holdings.by_number.keys().next()) else { return false };
        let Some(oldest) = self.remove(&user, number) else { return false };
        if self.told.is_none_or(|told| told.elapsed() > BETWEEN_WARNINGS) {
            self.told = Some(Instant::now());
            tracing::warn!(%user, "stalled streams hold too much: those of the largest holder end");
        }
        oldest.holder.end().call(EndReason::OverBudget);
        true
    }

    fn remove(&mut self, user: &UserName, number: u64) -> Option<Holding> {
        let holdings = self.users.get_mut(user)?;
        let holding = holdings.by_number.remove(&number)?;
        holdings.total = holdings.total.saturating_sub(holding.bytes);
        self.total = self.total.saturating_sub(holding.bytes);
        if holdings.by_number.is_empty() {
            self.users.remove(user);
        }
        Some(holding)
    }
}

/// A stream's place among the stalled.
struct Held<'a> {
    budget: &'a Budget,
    user: UserName,
    number: u64,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // It is gone already if it was told to end.
        let _ = self.budget.lock().remove(&self.user, self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;
    use crate::proxy::fixture::live_session;

    #[tokio::test]
    async fn the_largest_holder_gives_way_and_the_others_stay() {
        let budget = Budget::new(100, Duration::from_millis(1));
        let small = live_session("tom");
        let large = [live_session("jerry"), live_session("jerry"), live_session("jerry")];
        let stalled = async {
            tokio::join!(
                budget.while_stalled(&small, 30, pending::<()>()),
                budget.while_stalled(&large[0], 30, pending::<()>()),
                budget.while_stalled(&large[1], 30, pending::<()>()),
                budget.while_stalled(&large[2], 30, pending::<()>()),
            )
        };
        let ended = async {
            tokio::select! {
                reason = large[0].end.called() => reason,
                reason = large[1].end.called() => reason,
                reason = large[2].end.called() => reason,
                reason = small.end.called() => panic!("the small one gave way: {reason:?}"),
            }
        };
        tokio::select! {
            _ = stalled => unreachable!("these writes are never done"),
            reason = timeout(Duration::from_secs(20), ended) => assert_eq!(reason, Ok(EndReason::OverBudget)),
        }
        let stalled = budget.lock();
        assert_eq!((stalled.users.len(), stalled.total), (0, 0));
    }

    #[tokio::test]
    async fn a_write_that_is_done_in_time_holds_nothing() {
        let budget = Budget::new(10, Duration::from_secs(60));
        let session = live_session("jerry");
        for _ in 0..100 {
            budget.while_stalled(&session, 1000, ready(())).await;
            budget.while_stalled(&session, 1000, tokio::task::yield_now()).await;
        }
        let ended = timeout(Duration::ZERO, session.end.called()).await;
        assert!(ended.is_err());
    }

    #[tokio::test]
    async fn headers_that_do_not_come_whole_give_way_at_once_and_the_oldest_first() {
        let budget = Budget::new(100, Duration::from_secs(60));
        let user = "jerry".parse().unwrap();
        let headless = |bytes| budget.while_headless(&user, bytes, pending::<()>());
        tokio::select! {
            biased;
            first = headless(60) => assert_eq!(first, Err(OverBudget)),
            _ = headless(60) => panic!("the second one gave way"),
        }
        assert_eq!(budget.while_headless(&user, 1000, ready(7)).await, Ok(7));
        assert_eq!(budget.lock().total, 0);
    }
}
