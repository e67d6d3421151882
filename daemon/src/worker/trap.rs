//! Traps, in tests alone: the story of the flow that a test names panics at its next step, with all that it holds then.

use std::cell::RefCell;
use std::collections::HashSet;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;

use super::Worker;

/// What the trapped story says.
pub(super) const CRY: &str = "a trap that a test has set";

/// The flows that are to panic, by their programs' addresses.
#[derive(Debug, Default)]
pub(super) struct Traps(RefCell<HashSet<SocketAddr>>);

impl Traps {
    pub(super) fn set(&self, program: SocketAddr) {
        self.0.borrow_mut().insert(program);
    }

    fn springs(&self, program: SocketAddr) -> bool {
        self.0.borrow_mut().remove(&program)
    }
}

/// What looks for the trap of one flow.
pub(crate) struct Trap {
    worker: Rc<Worker>,
    program: SocketAddr,
}

impl Trap {
    pub(crate) fn new(worker: &Rc<Worker>, program: SocketAddr) -> Self {
        Self { worker: Rc::clone(worker), program }
    }

    /// The story, which panics where it stands once its trap is set and something wakes it.
    pub(crate) async fn around<T>(self, story: impl Future<Output = T>) -> T {
        let mut story = pin!(story);
        poll_fn(|context| {
            assert!(!self.worker.traps.springs(self.program), "{CRY}");
            story.as_mut().poll(context)
        })
        .await
    }
}
