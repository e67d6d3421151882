//! The memory that stalled flows hold, all together. What a proxy has sent ahead of a program that does not read lies in
//! QUIC's buffers, up to a stream's window a flow; over the budget the flow that has been stalled for longest is reset
//! (design section 11), so that programs that do not read cannot take the machine's memory.
//!
//! How much a stream holds is known only inside QUIC, so a flow that has not moved for a moment counts with the most
//! that it can hold. One that moves holds next to nothing.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;

/// What stalled flows may hold in the daemon.
const PROCESS_BUDGET: usize = 512 * 1024 * 1024;
/// A write that takes longer than this is stalled.
const STALLED_AFTER: Duration = Duration::from_secs(1);

/// The stalled flows of one worker.
#[derive(Debug)]
pub(crate) struct Budget {
    most_stalled: usize,
    /// By the order in which they stalled.
    stalled: RefCell<BTreeMap<u64, Rc<Notify>>>,
    next: Cell<u64>,
}

/// The flow was stalled for longest when the budget was used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stalled for longest")]
pub(crate) struct OverBudget;

impl Budget {
    /// A budget for flows of which each may hold so many bytes.
    pub(crate) fn new(bytes_each: usize) -> Self {
        Self { most_stalled: PROCESS_BUDGET / bytes_each, stalled: RefCell::default(), next: Cell::default() }
    }

    /// Awaits a write; while it is stalled, its flow counts.
    pub(crate) async fn while_stalled<T>(&self, write: impl Future<Output = T>) -> Result<T, OverBudget> {
        tokio::pin!(write);
        // Most writes are done at once and need no timer.
        let done_at_once =
            std::future::poll_fn(|context| std::task::Poll::Ready(write.as_mut().poll(context))).await;
        if let std::task::Poll::Ready(done) = done_at_once {
            return Ok(done);
        }
        if let Ok(done) = tokio::time::timeout(STALLED_AFTER, &mut write).await {
            return Ok(done);
        }
        let stalled = self.stall();
        tokio::select! {
            done = write => Ok(done),
            () = stalled.has_to_go.notified() => Err(OverBudget),
        }
    }

    fn stall(&self) -> Stalled<'_> {
        let (number, has_to_go) = (self.next.get(), Rc::new(Notify::new()));
        self.next.set(number + 1);
        let mut stalled = self.stalled.borrow_mut();
        stalled.insert(number, Rc::clone(&has_to_go));
        if stalled.len() > self.most_stalled
            && let Some((_, longest)) = stalled.pop_first()
        {
            longest.notify_one();
        }
        Stalled { budget: self, number, has_to_go }
    }
}

/// A stalled flow's place, given back when dropped.
struct Stalled<'a> {
    budget: &'a Budget,
    number: u64,
    has_to_go: Rc<Notify>,
}

impl Drop for Stalled<'_> {
    fn drop(&mut self) {
        self.budget.stalled.borrow_mut().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn over_the_budget_the_flow_that_stalled_first_goes_and_the_others_stay() {
        let budget = Budget::new(PROCESS_BUDGET / 2);
        let never = || budget.while_stalled(std::future::pending::<()>());
        let later = || async {
            tokio::time::sleep(STALLED_AFTER).await;
            never().await
        };
        tokio::select! {
            first = never() => assert_eq!(first, Err(OverBudget)),
            _ = later() => panic!("the second flow went first"),
            _ = later() => panic!("the third flow went first"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_moves_does_not_count() {
        let budget = Budget::new(PROCESS_BUDGET);
        assert_eq!(budget.while_stalled(async { 7 }).await, Ok(7));
        assert_eq!(budget.while_stalled(tokio::time::sleep(STALLED_AFTER / 2)).await, Ok(()));
        assert!(budget.stalled.borrow().is_empty());
    }
}
