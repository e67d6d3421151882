//! The netstack's flows as a task awaits them: a [`HeldSyn`] to answer or refuse, a [`Flow`] to read and write.
//!
//! The stack is pure and knows no task; here are the wakers. All of it lives on the worker's thread, so there is no
//! lock: a `RefCell` is borrowed for one call and never across an await.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::hash::Hash;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use portlatch_netstack::{
    Event, FlowId, Incoming, IncomingId, ReadError, Refusal, Ring, RingMemory, Stack, Vacant, WriteError,
};
use tokio::sync::Notify;

use crate::os::RingSlab;

/// Most that is taken from a flow at once: a turn of one flow stays short, whatever its window.
pub(crate) const MAX_CHUNK: usize = 256 * 1024;

/// A table with this room need not shrink.
const SMALL_TABLE: usize = 512;

/// The rings' provider, chosen at run time: the daemon's slab, or vectors in tests.
pub(crate) struct Memory(Box<dyn RingMemory + Send>);

impl From<RingSlab> for Memory {
    fn from(slab: RingSlab) -> Self {
        Self(Box::new(slab))
    }
}

impl RingMemory for Memory {
    fn rings(&mut self, slot: usize) -> Option<(Ring, Ring)> {
        self.0.rings(slot)
    }

    fn reclaim(&mut self, slot: usize) {
        self.0.reclaim(slot);
    }

    fn take_back(&mut self, vacant: Vacant) {
        self.0.take_back(vacant);
    }
}

/// The worker's netstack, with those who wait for it.
pub(crate) struct LocalStack {
    stack: RefCell<Stack<Memory>>,
    waiting: RefCell<Waiting>,
    /// Rung when a task gave the stack something to send.
    pub(crate) kicked: Notify,
}

#[derive(Default)]
struct Waiting {
    flows: HashMap<FlowId, FlowWakers>,
    held: HashMap<IncomingId, HeldState>,
}

impl Waiting {
    fn remove_flow(&mut self, id: FlowId) {
        self.flows.remove(&id);
        shrink(&mut self.flows);
    }

    fn remove_held(&mut self, id: IncomingId) {
        self.held.remove(&id);
        shrink(&mut self.held);
    }
}

/// Has a table give back the room of a crowd that has gone: as many are moved as are left, after many times as many have
/// been removed.
fn shrink<K: Eq + Hash, V>(table: &mut HashMap<K, V>) {
    let room = table.capacity();
    if room > SMALL_TABLE && table.len() < room / 8 {
        table.shrink_to(2 * table.len());
    }
}

#[derive(Default)]
struct FlowWakers {
    readable: Option<Waker>,
    writable: Option<Waker>,
    gone: Option<Waker>,
    is_gone: bool,
}

#[derive(Default)]
struct HeldState {
    waker: Option<Waker>,
    is_gone: bool,
}

/// The program reset its connection, or it died.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the program's connection was reset")]
pub(crate) struct FlowReset;

impl LocalStack {
    pub(crate) fn new(stack: Stack<Memory>) -> Rc<Self> {
        Rc::new(Self { stack: RefCell::new(stack), waiting: RefCell::default(), kicked: Notify::new() })
    }

    /// One call into the stack.
    pub(crate) fn with<R>(&self, call: impl FnOnce(&mut Stack<Memory>) -> R) -> R {
        call(&mut self.stack.borrow_mut())
    }

    /// One call into the stack that may give it something to send.
    fn kick<R>(&self, call: impl FnOnce(&mut Stack<Memory>) -> R) -> R {
        let result = self.with(call);
        self.kicked.notify_one();
        result
    }

    /// Wakes whoever waits for this event.
    pub(crate) fn handle_event(&self, event: &Event) {
        let mut waiting = self.waiting.borrow_mut();
        match event {
            Event::Readable(flow) => {
                wake(waiting.flows.get_mut(flow).and_then(|wakers| wakers.readable.take()));
            }
            Event::Writable(flow) => {
                wake(waiting.flows.get_mut(flow).and_then(|wakers| wakers.writable.take()));
            }
            Event::Gone(flow) => {
                if let Some(wakers) = waiting.flows.get_mut(flow) {
                    wakers.is_gone = true;
                    wake(wakers.readable.take());
                    wake(wakers.writable.take());
                    wake(wakers.gone.take());
                }
            }
            Event::IncomingGone(incoming) => {
                if let Some(held) = waiting.held.get_mut(incoming) {
                    held.is_gone = true;
                    wake(held.waker.take());
                }
            }
            Event::Incoming(_) | Event::Datagram(_) => {}
        }
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// A SYN that is held. Dropping it refuses the connection, so that every `?` before the answer is a refusal.
pub(crate) struct HeldSyn {
    incoming: Incoming,
    stack: Rc<LocalStack>,
    refusal: Option<Refusal>,
}

impl HeldSyn {
    pub(crate) fn new(incoming: Incoming, stack: Rc<LocalStack>) -> Self {
        stack.waiting.borrow_mut().held.insert(incoming.id, HeldState::default());
        Self { incoming, stack, refusal: Some(Refusal::Reset) }
    }

    /// The program's end.
    pub(crate) const fn source(&self) -> SocketAddr {
        self.incoming.source
    }

    /// What the program wanted to reach.
    pub(crate) const fn destination(&self) -> SocketAddr {
        self.incoming.destination
    }

    /// Answers the SYN. `None` if the program has gone or memory is out; then it is refused.
    pub(crate) fn accept(mut self, now: Instant) -> Option<Flow> {
        let id = self.stack.kick(|stack| stack.accept(self.incoming.id, now))?;
        self.refusal = None;
        Some(Flow::new(id, Rc::clone(&self.stack)))
    }

    /// Refuses with "host unreachable" instead of "connection refused".
    pub(crate) fn refuse_as_unreachable(mut self) {
        self.refusal = Some(Refusal::HostUnreachable);
    }

    /// Returns once the program has taken its SYN back.
    pub(crate) async fn gone(&self) {
        poll_fn(|context| {
            let mut waiting = self.stack.waiting.borrow_mut();
            match waiting.held.get_mut(&self.incoming.id) {
                Some(held) if !held.is_gone => {
                    held.waker = Some(context.waker().clone());
                    Poll::Pending
                }
                Some(_) | None => Poll::Ready(()),
            }
        })
        .await;
    }
}

impl Drop for HeldSyn {
    fn drop(&mut self) {
        self.stack.waiting.borrow_mut().remove_held(self.incoming.id);
        if let Some(refusal) = self.refusal {
            self.stack.kick(|stack| stack.refuse(self.incoming.id, refusal, Instant::now()));
        }
    }
}

/// What a read without waiting brought.
pub(crate) enum Read {
    Bytes(Bytes),
    NothingYet,
    End,
}

/// A flow whose SYN was answered. Dropping it leaves the rest to the stack: what was written and finished is still
/// delivered, anything else is reset.
pub(crate) struct Flow {
    id: FlowId,
    stack: Rc<LocalStack>,
}

impl Flow {
    fn new(id: FlowId, stack: Rc<LocalStack>) -> Self {
        stack.waiting.borrow_mut().flows.insert(id, FlowWakers::default());
        Self { id, stack }
    }

    /// The next bytes of the program, or `None` once it has finished sending. Cancel-safe.
    pub(crate) async fn read(&self) -> Result<Option<Bytes>, FlowReset> {
        self.read_at_most(MAX_CHUNK).await
    }

    /// Likewise, and no more than `limit` of them: the rest stays the program's to send again and ours to refuse.
    pub(crate) async fn read_at_most(&self, limit: usize) -> Result<Option<Bytes>, FlowReset> {
        loop {
            match self.read_now(limit)? {
                Read::Bytes(chunk) => return Ok(Some(chunk)),
                Read::End => return Ok(None),
                Read::NothingYet => self.readable().await?,
            }
        }
    }

    /// What the program has sent, at most so much of it, without waiting.
    pub(crate) fn read_now(&self, limit: usize) -> Result<Read, FlowReset> {
        let take = |data: &[u8]| {
            let chunk = Bytes::copy_from_slice(&data[..data.len().min(limit)]);
            (chunk.len(), chunk)
        };
        match self.stack.with(|stack| stack.read_with(self.id, take)) {
            Ok(chunk) => {
                // The window has opened: the program must hear of it.
                self.stack.kicked.notify_one();
                Ok(Read::Bytes(chunk))
            }
            Err(ReadError::Blocked) => Ok(Read::NothingYet),
            Err(ReadError::Finished) => Ok(Read::End),
            Err(ReadError::Reset) => Err(FlowReset),
        }
    }

    /// Returns once there is something to read, be it the end. Cancel-safe.
    pub(crate) async fn readable(&self) -> Result<(), FlowReset> {
        poll_fn(|context| match self.stack.with(|stack| stack.read_with(self.id, |_| (0, ()))) {
            Ok(()) | Err(ReadError::Finished) => Poll::Ready(Ok(())),
            Err(ReadError::Reset) => Poll::Ready(Err(FlowReset)),
            Err(ReadError::Blocked) => self.wait(|wakers| &mut wakers.readable, context),
        })
        .await
    }

    /// Hands as much of `chunks` to the stack as it takes now, in order; how many it took whole. Those are empty
    /// afterwards.
    pub(crate) fn write_now(&self, chunks: &mut [Bytes]) -> Result<usize, FlowReset> {
        // One borrow for all that fits: a chunk is as small as a datagram.
        self.stack.kick(|stack| {
            for (at, chunk) in chunks.iter_mut().enumerate() {
                while !chunk.is_empty() {
                    match stack.write(self.id, chunk) {
                        Ok(written) => bytes::Buf::advance(chunk, written),
                        Err(WriteError::Blocked) => return Ok(at),
                        Err(WriteError::Reset) => return Err(FlowReset),
                    }
                }
                // Even an empty one keeps its datagram's buffer.
                *chunk = Bytes::new();
            }
            Ok(chunks.len())
        })
    }

    /// Hands all of `chunks` to the stack, in order and as fast as the program reads; they are empty afterwards.
    pub(crate) async fn write(&self, chunks: &mut [Bytes]) -> Result<(), FlowReset> {
        let mut first = 0;
        poll_fn(|context| {
            first += self.write_now(&mut chunks[first..])?;
            match first == chunks.len() {
                true => Poll::Ready(Ok(())),
                false => self.wait(|wakers| &mut wakers.writable, context),
            }
        })
        .await
    }

    /// Ends our direction once all that was written has been delivered.
    pub(crate) fn finish(&self) {
        self.stack.kick(|stack| stack.finish(self.id));
    }

    /// Resets the program's connection.
    pub(crate) fn reset(&self) {
        self.stack.kick(|stack| stack.reset(self.id));
    }

    /// Returns once the program has reset the connection or is gone.
    pub(crate) async fn gone(&self) {
        poll_fn(|context| {
            let mut waiting = self.stack.waiting.borrow_mut();
            match waiting.flows.get_mut(&self.id) {
                Some(wakers) if !wakers.is_gone => {
                    wakers.gone = Some(context.waker().clone());
                    Poll::Pending
                }
                Some(_) | None => Poll::Ready(()),
            }
        })
        .await;
    }

    fn wait<T>(
        &self,
        which: impl FnOnce(&mut FlowWakers) -> &mut Option<Waker>,
        context: &Context<'_>,
    ) -> Poll<Result<T, FlowReset>> {
        let mut waiting = self.stack.waiting.borrow_mut();
        match waiting.flows.get_mut(&self.id) {
            Some(wakers) if !wakers.is_gone => {
                *which(wakers) = Some(context.waker().clone());
                Poll::Pending
            }
            Some(_) | None => Poll::Ready(Err(FlowReset)),
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.stack.waiting.borrow_mut().remove_flow(self.id);
        self.stack.kick(|stack| stack.release(self.id));
    }
}
