//! The bytes of one flow, both ways, between the program's connection and the stream in the tunnel.
//!
//! Back-pressure goes from end to end: nothing is read that the other side has not room for. A half-close travels as a
//! half-close (the stream's FIN), a reset as a reset.

use std::cell::RefCell;
use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use portlatch_carrier::turns::{SMALL, TURN, Turns};
use portlatch_protocol::stream::reset;
use quinn::{ReadError, RecvStream, SendStream, VarInt, WriteError};

use crate::budget::{Budget, OverBudget};
use crate::flow::{Flow, FlowReset, MAX_CHUNK, Read};
use crate::tunnel::Session;

/// Chunks that are taken from a stream at once: a datagram's payload each, some 90 KiB in all. Fewer cost more wake-ups
/// of the stack: with 32 instead of 1 the download rose from 0.56 to 0.64 of what QUIC alone does. 64 cost no memory of a
/// flow's and were not measured by themselves.
const CHUNKS: usize = 64;

thread_local! {
    /// Where chunks lie between stream and stack, for the length of one poll: a flow that waits holds none of it. In each
    /// flow's own task they were a third of what an idle flow cost.
    static PASSING: RefCell<[Bytes; CHUNKS]> = RefCell::new(std::array::from_fn(|_| Bytes::new()));
}

/// Copies until both directions have ended, or one of them breaks.
pub(crate) async fn both_ways(flow: &Flow, session: Session, budget: &Budget) {
    let Session { mut send, mut receive, turns, in_use: _in_use } = session;
    let outcome = tokio::select! {
        // Made inside: what is made before and moved in takes its room twice in the flow's task.
        outcome = async {
            tokio::try_join!(upload(flow, &mut send, &turns), download(flow, &mut receive, budget))
        } => outcome.map(|_| ()),
        // A program that only waits may reset all the same.
        () = flow.gone() => Err(Broken::Program),
    };
    match outcome {
        Ok(()) => {}
        Err(Broken::Program) => {
            let _ = send.reset(VarInt::from_u32(reset::BY_PEER));
            let _ = receive.stop(VarInt::from_u32(reset::BY_PEER));
        }
        Err(Broken::Stream) => flow.reset(),
        Err(Broken::OverBudget) => {
            tracing::info!("a flow whose program does not read was reset: stalled flows hold all they may");
            flow.reset();
        }
    }
}

/// Which side broke, or had to go.
enum Broken {
    Program,
    Stream,
    OverBudget,
}

impl From<OverBudget> for Broken {
    fn from(_: OverBudget) -> Self {
        Self::OverBudget
    }
}

impl From<FlowReset> for Broken {
    fn from(_: FlowReset) -> Self {
        Self::Program
    }
}

impl From<WriteError> for Broken {
    fn from(_: WriteError) -> Self {
        Self::Stream
    }
}

impl From<ReadError> for Broken {
    fn from(_: ReadError) -> Self {
        Self::Stream
    }
}

async fn upload(flow: &Flow, send: &mut SendStream, turns: &Turns) -> Result<(), Broken> {
    loop {
        let turn = turns.at_once();
        let most = if turn.is_some() { MAX_CHUNK } else { SMALL };
        let chunk = match flow.read_now(most)? {
            Read::Bytes(chunk) => chunk,
            Read::End => break,
            Read::NothingYet => {
                drop(turn);
                flow.readable().await?;
                continue;
            }
        };
        let mut chunks = [chunk, Bytes::new()];
        let turn = match turn {
            // More is there than what goes without a turn.
            None if chunks[0].len() == SMALL => {
                let turn = turns.next().await;
                if let Read::Bytes(more) = flow.read_now(TURN - SMALL)? {
                    chunks[1] = more;
                }
                Some(turn)
            }
            turn => turn,
        };
        match turn {
            Some(turn) => turns.write(turn, send, &mut chunks).await?,
            None => send.write_all_chunks(&mut chunks).await?,
        }
    }
    // Closed already only if the stream broke, which the other direction sees too.
    let _ = send.finish();
    // The other side may still reset its reading half after our FIN: hear of it until all is acknowledged.
    match send.stopped().await {
        Ok(None) => Ok(()),
        Ok(Some(_)) | Err(_) => Err(Broken::Stream),
    }
}

async fn download(flow: &Flow, receive: &mut RecvStream, budget: &Budget) -> Result<(), Broken> {
    loop {
        match poll_fn(|context| pass_on(flow, receive, context)).await? {
            Passed::All => {}
            // Boxed: it is rare, and an idle flow shall not hold the room for it.
            Passed::Part(mut left) => Box::pin(budget.while_stalled(flow.write(&mut left))).await??,
            Passed::End => {
                flow.finish();
                return Ok(());
            }
        }
    }
}

/// What became of the chunks that had come.
enum Passed {
    All,
    /// The stack has no room for these. They wait in the flow's task, and nowhere else.
    Part(Vec<Bytes>),
    /// There are no more.
    End,
}

/// Takes what has come by the stream and gives it to the stack.
fn pass_on(flow: &Flow, receive: &mut RecvStream, context: &mut Context<'_>) -> Poll<Result<Passed, Broken>> {
    PASSING.with_borrow_mut(|chunks| {
        // Dropped while it waits, it leaves its waker with the stream.
        let Some(filled) = ready!(pin!(receive.read_chunks(chunks)).poll(context))? else {
            return Poll::Ready(Ok(Passed::End));
        };
        let chunks = &mut chunks[..filled];
        let taken = flow.write_now(chunks)?;
        if taken == filled {
            return Poll::Ready(Ok(Passed::All));
        }
        Poll::Ready(Ok(Passed::Part(chunks[taken..].iter_mut().map(std::mem::take).collect())))
    })
}
