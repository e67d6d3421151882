//! From the program to the target.

use std::cell::RefCell;
use std::future::{Future as _, poll_fn};
use std::io::{self, IoSlice};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use quinn::{ReadError, RecvStream};
use tokio::io::AsyncWriteExt as _;
use tokio::net::tcp::WriteHalf;

use crate::budget::Budget;
use crate::endpoint::transport::STREAM_WINDOW;
use crate::sessions::{EndReason, LiveSession};

/// Chunks taken from a stream at once: a datagram's payload each, some 90 KiB in all.
const CHUNKS: usize = 64;

thread_local! {
    /// Where chunks lie between stream and target, for the length of one poll.
    static PASSING: RefCell<[Bytes; CHUNKS]> = RefCell::new(std::array::from_fn(|_| Bytes::new()));
}

/// Copies to the program's end, and says it to the target.
pub(super) async fn upload(
    receive: &mut RecvStream,
    mut target: WriteHalf<'_>,
    session: &Arc<LiveSession>,
    budget: &Budget,
) -> Result<(), EndReason> {
    loop {
        match poll_fn(|context| pass_on(receive, &target, session, context)).await? {
            Passed::All => {}
            Passed::End => break,
            Passed::Part(left) => {
                // Boxed: it is rare, and an idle session shall not hold the room for it.
                if Box::pin(write_left(left, receive, &target, session, budget)).await? == After::End {
                    break;
                }
            }
        }
    }
    target.shutdown().await.map_err(|_| EndReason::TargetReset)
}

/// What became of the chunks that had come.
enum Passed {
    All,
    /// The target takes no more now; these are left.
    Part(Vec<Bytes>),
    /// There are no more.
    End,
}

/// Takes what has come by the stream and writes it to the target.
fn pass_on(
    receive: &mut RecvStream,
    target: &WriteHalf<'_>,
    session: &LiveSession,
    context: &mut Context<'_>,
) -> Poll<Result<Passed, EndReason>> {
    PASSING.with_borrow_mut(|chunks| {
        // Dropped while it waits, it leaves its waker with the stream.
        let filled = ready!(pin!(receive.read_chunks(chunks)).poll(context));
        let Some(filled) = filled.map_err(|error| program_fault(&error))? else {
            return Poll::Ready(Ok(Passed::End));
        };
        let (mut first, chunks) = (0, &mut chunks[..filled]);
        while first < filled {
            match write_some(target, &mut chunks[first..], session) {
                Ok(used) => first += used,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let left = chunks[first..].iter_mut().map(std::mem::take).collect();
                    return Poll::Ready(Ok(Passed::Part(left)));
                }
                Err(_) => {
                    chunks.fill(Bytes::new());
                    return Poll::Ready(Err(EndReason::TargetReset));
                }
            }
        }
        Poll::Ready(Ok(Passed::All))
    })
}

/// What comes behind the chunks that were left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    More,
    End,
}

/// Writes what was left, as fast as the target takes it.
///
/// A target that takes nothing must not hide that the program has gone: the next chunks are read meanwhile, or the reset
/// behind them. (`received_reset` would tell at once, but leaves its waker behind in the connection if the stream's end
/// had arrived before.)
async fn write_left(
    mut left: Vec<Bytes>,
    receive: &mut RecvStream,
    target: &WriteHalf<'_>,
    session: &Arc<LiveSession>,
    budget: &Budget,
) -> Result<After, EndReason> {
    loop {
        let mut ahead = vec![Bytes::new(); CHUNKS];
        let next = {
            let write = write_all(target, &mut left, session);
            let mut write = pin!(budget.while_stalled(session, STREAM_WINDOW.into(), write));
            tokio::select! {
                biased;
                written = &mut write => {
                    return written.map(|()| After::More).map_err(|_| EndReason::TargetReset);
                }
                next = receive.read_chunks(&mut ahead) => {
                    let next = next.map_err(|error| program_fault(&error))?;
                    write.await.map_err(|_| EndReason::TargetReset)?;
                    next
                }
            }
        };
        let Some(filled) = next else { return Ok(After::End) };
        ahead.truncate(filled);
        left = ahead;
    }
}

async fn write_all(target: &WriteHalf<'_>, chunks: &mut [Bytes], session: &LiveSession) -> io::Result<()> {
    let mut first = 0;
    while first < chunks.len() {
        match write_some(target, &mut chunks[first..], session) {
            Ok(used) => first += used,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => target.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes what the target takes at once; how many chunks are used up. Those are empty afterwards.
fn write_some(target: &WriteHalf<'_>, chunks: &mut [Bytes], session: &LiveSession) -> io::Result<usize> {
    let slices: [IoSlice<'_>; CHUNKS] =
        std::array::from_fn(|at| IoSlice::new(chunks.get(at).map_or(&[], |chunk| &chunk[..])));
    let written = target.try_write_vectored(&slices[..chunks.len().min(CHUNKS)])?;
    session.bytes_in.fetch_add(u64::try_from(written).unwrap_or(0), Ordering::Relaxed);
    Ok(consume(chunks, written))
}

/// Takes `written` bytes off the front of `chunks`; how many of them are used up.
fn consume(chunks: &mut [Bytes], mut written: usize) -> usize {
    let mut used = 0;
    for chunk in chunks {
        let part = written.min(chunk.len());
        chunk.advance(part);
        written -= part;
        if !chunk.is_empty() {
            break;
        }
        // Even an empty chunk keeps its datagram's buffer.
        *chunk = Bytes::new();
        used += 1;
    }
    used
}

const fn program_fault(error: &ReadError) -> EndReason {
    match error {
        ReadError::Reset(_) => EndReason::ProgramReset,
        ReadError::ConnectionLost(_) => EndReason::TunnelLost,
        ReadError::ClosedStream | ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected => {
            EndReason::Internal
        }
    }
}
