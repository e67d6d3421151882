//! Streams whose header does not come whole: what they hold together stays within the budget, and over it the oldest of
//! whoever holds most has to go.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use portlatch_proxy::budget::{Budget, OverBudget};

use super::cluster::{CLUSTER_OF_ALL, LOGINS};

/// Of a few streams at most, so that it is met.
const LIMIT: u64 = 100_000;
const UNIT: u64 = 1_000;
/// Streams at once. No two users ever hold the same: one's bytes are multiples of the unit, the other's are not.
const MOST: usize = 64;

type Wait = Pin<Box<dyn Future<Output = Result<(), OverBudget>>>>;

struct Stream {
    who: usize,
    bytes: u64,
    is_whole: Rc<Cell<bool>>,
    wait: Wait,
    told: Option<Result<(), OverBudget>>,
}

/// The budget, and the model beside it: streams in the order in which they came.
pub(super) struct Stalls {
    budget: Rc<Budget>,
    streams: Vec<Stream>,
}

impl Stalls {
    pub(super) fn new() -> Self {
        let budget = Rc::new(Budget::new(LIMIT, Duration::from_secs(60)));
        Self { budget, streams: Vec::new() }
    }

    /// A stream comes, with a part of its header.
    pub(super) fn stall(&mut self, who: usize, units: u8) {
        if self.streams.len() >= MOST {
            return;
        }
        let bytes = UNIT * u64::from(units.max(1)) + u64::from(who == 1);
        let (budget, is_whole) = (Rc::clone(&self.budget), Rc::<Cell<bool>>::default());
        let flag = Rc::clone(&is_whole);
        let wait = Box::pin(async move {
            let header = poll_fn(move |_| if flag.get() { Poll::Ready(()) } else { Poll::Pending });
            budget.while_headless(&CLUSTER_OF_ALL.tunnels[who].login.user, bytes, header).await
        });
        let mut stream = Stream { who, bytes, is_whole, wait, told: None };
        stream.poll();
        self.streams.push(stream);
        while self.total() > LIMIT {
            let largest = (0..LOGINS).max_by_key(|who| self.held(*who)).expect("two users");
            let oldest = self.streams.iter().position(|stream| stream.who == largest);
            let mut out = self.streams.remove(oldest.expect("it holds most"));
            out.poll();
            assert_eq!(out.told, Some(Err(OverBudget)), "the largest holder stays");
        }
        self.check();
    }

    /// A stream's header is whole.
    pub(super) fn complete(&mut self, number: usize) {
        if self.streams.is_empty() {
            return;
        }
        let mut stream = self.streams.remove(number % self.streams.len());
        stream.is_whole.set(true);
        stream.poll();
        assert_eq!(stream.told, Some(Ok(())), "a whole header is not read");
        self.check();
    }

    /// A stream is gone before that.
    pub(super) fn reset(&mut self, number: usize) {
        if !self.streams.is_empty() {
            drop(self.streams.remove(number % self.streams.len()));
        }
        self.check();
    }

    fn held(&self, who: usize) -> u64 {
        self.streams.iter().filter(|stream| stream.who == who).map(|stream| stream.bytes).sum()
    }

    fn total(&self) -> u64 {
        self.streams.iter().map(|stream| stream.bytes).sum()
    }

    /// Everybody else stays.
    fn check(&mut self) {
        for stream in &mut self.streams {
            stream.poll();
            assert_eq!(stream.told, None, "one too many had to go, or the wrong one");
        }
    }
}

impl Stream {
    fn poll(&mut self) {
        if self.told.is_none()
            && let Poll::Ready(told) = self.wait.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        {
            self.told = Some(told);
        }
    }
}
