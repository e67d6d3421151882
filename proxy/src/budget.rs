//! The memory that stalled sessions hold, all together: within a budget of the process, and over it the largest holder
//! gives way first (design section 11).
//!
//! How much a peer has sent ahead is known only inside QUIC, so a session that has not moved for a moment counts with the
//! most that it can hold. One that moves holds next to nothing.

use std::collections::HashMap;
use std::future::{Future, ready};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portlatch_protocol::names::UserName;
use tokio::time::timeout;

use crate::sessions::{EndReason, LiveSession};

/// What all stalled sessions may hold.
const PROCESS_BUDGET: u64 = 1024 * 1024 * 1024;
/// A write that takes longer than this is stalled.
const STALLED_AFTER: Duration = Duration::from_secs(1);

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
    holdings: HashMap<u64, Holding>,
    /// Of those that have not been told to end.
    total: u64,
    next: u64,
}

#[derive(Debug)]
struct Holding {
    session: Arc<LiveSession>,
    bytes: u64,
    has_to_go: bool,
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
        let _held = self.hold(session, bytes);
        write.await
    }

    fn hold(&self, session: &Arc<LiveSession>, bytes: u64) -> Held<'_> {
        let mut stalled = self.lock();
        let number = stalled.next;
        stalled.next += 1;
        stalled.total += bytes;
        stalled.holdings.insert(number, Holding { session: Arc::clone(session), bytes, has_to_go: false });
        while stalled.total > self.limit {
            if !stalled.end_one_of_the_largest() {
                break;
            }
        }
        Held { budget: self, number }
    }

    fn lock(&self) -> MutexGuard<'_, Stalled> {
        self.stalled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stalled {
    /// Ends the longest stalled session of the user who holds most; whether there was one.
    fn end_one_of_the_largest(&mut self) -> bool {
        let mut by_user: HashMap<&UserName, u64> = HashMap::new();
        for holding in self.holdings.values().filter(|holding| !holding.has_to_go) {
            *by_user.entry(&holding.session.login.user).or_default() += holding.bytes;
        }
        let largest = by_user.into_iter().max_by_key(|(_, bytes)| *bytes).map(|(user, _)| user.clone());
        let theirs = self.holdings.iter_mut().filter(|(_, holding)| {
            !holding.has_to_go && Some(&holding.session.login.user) == largest.as_ref()
        });
        // Numbers grow with time.
        let Some((_, oldest)) = theirs.min_by_key(|(number, _)| **number) else { return false };
        tracing::warn!(user = %oldest.session.login.user, "stalled sessions hold too much: one of the largest holder's ends");
        oldest.session.end.call(EndReason::OverBudget);
        oldest.has_to_go = true;
        self.total = self.total.saturating_sub(oldest.bytes);
        true
    }
}

/// A session's place among the stalled.
struct Held<'a> {
    budget: &'a Budget,
    number: u64,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut stalled = self.budget.lock();
        if let Some(holding) = stalled.holdings.remove(&self.number)
            && !holding.has_to_go
        {
            stalled.total = stalled.total.saturating_sub(holding.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use portlatch_clock::TimeOfDay;
    use portlatch_protocol::identity::Login;

    use super::*;
    use crate::proxy::fixture::login;
    use crate::sessions::End;

    #[tokio::test]
    async fn the_largest_holder_gives_way_and_the_others_stay() {
        let budget = Budget::new(100, Duration::from_millis(1));
        let small = session("tom");
        let large = [session("jerry"), session("jerry"), session("jerry")];
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
        assert_eq!((stalled.holdings.len(), stalled.total), (0, 0));
    }

    #[tokio::test]
    async fn a_write_that_is_done_in_time_holds_nothing() {
        let budget = Budget::new(10, Duration::from_secs(60));
        let session = session("jerry");
        for _ in 0..100 {
            budget.while_stalled(&session, 1000, ready(())).await;
            budget.while_stalled(&session, 1000, tokio::task::yield_now()).await;
        }
        let ended = timeout(Duration::ZERO, session.end.called()).await;
        assert!(ended.is_err());
    }

    fn session(user: &str) -> Arc<LiveSession> {
        Arc::new(LiveSession {
            id: "0d".parse().unwrap(),
            login: Login { user: user.parse().unwrap(), ..login() },
            resource: "db/billing".parse().unwrap(),
            port: 5432,
            target: "192.0.2.1:5432".parse().unwrap(),
            client: "192.0.2.2:1234".parse().unwrap(),
            program: None,
            started: TimeOfDay(0),
            bytes_in: 0.into(),
            bytes_out: 0.into(),
            end: End::default(),
        })
    }
}
