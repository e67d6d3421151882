//! The bytes of a session, both ways, with back-pressure: what one side does not take is not read from the other.
//!
//! A half-close is passed on as a half-close and the other direction goes on; a reset is passed on as a reset. quinn
//! hands out and takes whole chunks, so bytes are copied once, between kernel and chunk.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use portlatch_clock::Clock;
use portlatch_protocol::grant::GrantClaims;
use portlatch_protocol::stream::reset;
use quinn::{ReadError, RecvStream, SendStream, WriteError};
use socket2::SockRef;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

use super::reset_both;
use crate::budget::Budget;
use crate::endpoint::transport::STREAM_WINDOW;
use crate::proxy::Proxy;
use crate::sessions::{EndReason, LiveSession};

/// Chunks taken from a stream at once: a datagram's payload each, some 80 KiB in all.
const CHUNKS: usize = 64;
/// Read from a target at once. Allocated only while there is something to read, so idle sessions cost none of it.
const READ_BYTES: usize = 128 * 1024;
/// A buffer with less room than this is left to its readers, and a new one begun.
const LEAST_ROOM: usize = 16 * 1024;
/// How exactly an idle limit is kept: an eighth of it.
const IDLE_LOOKS: u32 = 8;

/// Copies until both directions are closed, or something ends the session; leaves both sides closed accordingly.
pub(super) async fn copy(
    proxy: &Proxy,
    session: &Arc<LiveSession>,
    claims: &GrantClaims,
    mut target: TcpStream,
    send: &mut SendStream,
    receive: &mut RecvStream,
) -> EndReason {
    let is_finished = AtomicBool::new(false);
    let reason = {
        let (read, write) = target.split();
        let bytes = async {
            tokio::try_join!(upload(receive, write, session, &proxy.budget), async {
                download(read, send, session, &proxy.budget).await?;
                is_finished.store(true, Ordering::Relaxed);
                Ok(())
            })
        };
        tokio::select! {
            biased;
            reason = session.end.called() => reason,
            () = proxy.stop.ended.cancelled() => EndReason::ProxyStopped,
            copied = bytes => copied.map_or_else(|fault| fault, |_| EndReason::Closed),
            () = session_over(proxy, claims) => EndReason::SessionOver,
            () = idle(&proxy.clock, session, claims.idle) => EndReason::Idle,
        }
    };
    if reason == EndReason::TargetReset && is_finished.into_inner() {
        // The target has said all it had to say and takes no more: what it said must not be lost on its way.
        let _ = receive.stop(reset::BY_PEER.into());
        return reason;
    }
    close(reason, &target, send, receive);
    reason
}

/// From the program to the target.
async fn upload(
    receive: &mut RecvStream,
    mut target: WriteHalf<'_>,
    session: &Arc<LiveSession>,
    budget: &Budget,
) -> Result<(), EndReason> {
    let (mut chunks, mut ahead) = (no_chunks(), no_chunks());
    let mut filled = read(receive, &mut chunks).await?;
    while let Some(count) = filled {
        let taken: usize = chunks[..count].iter().map(Bytes::len).sum();
        let next = {
            let write = write_all(&target, &mut chunks[..count]);
            let mut write = std::pin::pin!(budget.while_stalled(session, STREAM_WINDOW.into(), write));
            // A target that takes nothing must not hide that the program has gone: the next chunks are read meanwhile,
            // or the reset behind them. (`received_reset` would tell at once, but leaves its waker behind in the
            // connection if the stream's end had arrived before.)
            tokio::select! {
                biased;
                written = &mut write => {
                    written.map_err(|_| EndReason::TargetReset)?;
                    None
                }
                next = read(receive, &mut ahead) => {
                    let next = next?;
                    write.await.map_err(|_| EndReason::TargetReset)?;
                    Some(next)
                }
            }
        };
        session.bytes_in.fetch_add(u64::try_from(taken).unwrap_or(0), Ordering::Relaxed);
        filled = match next {
            Some(next) => {
                std::mem::swap(&mut chunks, &mut ahead);
                next
            }
            None => read(receive, &mut chunks).await?,
        };
    }
    target.shutdown().await.map_err(|_| EndReason::TargetReset)
}

fn no_chunks() -> [Bytes; CHUNKS] {
    std::array::from_fn(|_| Bytes::new())
}

async fn read(receive: &mut RecvStream, chunks: &mut [Bytes]) -> Result<Option<usize>, EndReason> {
    receive.read_chunks(chunks).await.map_err(|error| program_fault(&error))
}

async fn write_all(target: &WriteHalf<'_>, chunks: &mut [Bytes]) -> io::Result<()> {
    let mut first = 0;
    while first < chunks.len() {
        let written = {
            let slices: [IoSlice<'_>; CHUNKS] = std::array::from_fn(|at| {
                IoSlice::new(chunks.get(first + at).map_or(&[], |chunk| &chunk[..]))
            });
            let count = (chunks.len() - first).min(CHUNKS);
            match target.try_write_vectored(&slices[..count]) {
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    target.writable().await?;
                    continue;
                }
                Err(error) => return Err(error),
            }
        };
        first += consume(&mut chunks[first..], written);
    }
    Ok(())
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

/// From the target to the program.
async fn download(
    target: ReadHalf<'_>,
    send: &mut SendStream,
    session: &Arc<LiveSession>,
    budget: &Budget,
) -> Result<(), EndReason> {
    let stopped = send.stopped();
    tokio::pin!(stopped);
    let mut buffer = BytesMut::new();
    loop {
        let read = tokio::select! {
            biased;
            read = read_some(&target, &mut buffer) => read.map_err(|_| EndReason::TargetReset)?,
            stopped = &mut stopped => return Err(match stopped {
                Ok(_) => EndReason::ProgramReset,
                Err(_) => EndReason::TunnelLost,
            }),
        };
        if read == 0 {
            // The stream ends with its last byte; that it was taken, the tunnel sees to.
            return send.finish().map_err(|_| EndReason::ProgramReset);
        }
        let bytes = u64::try_from(read).unwrap_or(0);
        let write = send.write_chunk(buffer.split().freeze());
        budget.while_stalled(session, bytes, write).await.map_err(|error| stream_fault(&error))?;
        session.bytes_out.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Reads what is there, at least a byte; 0 at the end. Holds no buffer while there is nothing.
async fn read_some(target: &ReadHalf<'_>, buffer: &mut BytesMut) -> io::Result<usize> {
    loop {
        if buffer.capacity() < LEAST_ROOM {
            *buffer = BytesMut::with_capacity(READ_BYTES);
        }
        match target.try_read_buf(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                *buffer = BytesMut::new();
                target.readable().await?;
            }
            result => return result,
        }
    }
}

const fn stream_fault(error: &WriteError) -> EndReason {
    match error {
        WriteError::Stopped(_) => EndReason::ProgramReset,
        WriteError::ConnectionLost(_) => EndReason::TunnelLost,
        WriteError::ClosedStream | WriteError::ZeroRttRejected => EndReason::Internal,
    }
}

/// Returns at the end that the grant set, in control's time.
async fn session_over(proxy: &Proxy, claims: &GrantClaims) {
    match proxy.view.boot_time_of(claims.session_end) {
        Some(end) => proxy.clock.sleep_until(end).await,
        None => std::future::pending().await,
    }
}

/// Returns once no byte has gone either way for as long as the grant allows.
async fn idle(clock: &Clock, session: &LiveSession, limit: Option<u64>) {
    let Some(limit) = limit.map(Duration::from_secs).filter(|limit| !limit.is_zero()) else {
        return std::future::pending().await;
    };
    let (mut bytes, mut quiet_since) = (session.bytes(), clock.boot_time());
    loop {
        let end = quiet_since + limit;
        clock.sleep_until(end.min(clock.boot_time() + limit / IDLE_LOOKS)).await;
        let now = clock.boot_time();
        if session.bytes() != bytes {
            (bytes, quiet_since) = (session.bytes(), now);
        } else if now >= end {
            return;
        }
    }
}

/// Ends both sides as the reason says: in order, or by resets.
fn close(reason: EndReason, target: &TcpStream, send: &mut SendStream, receive: &mut RecvStream) {
    let code = match reason {
        EndReason::Closed => return,
        EndReason::ProgramReset | EndReason::TargetReset | EndReason::TunnelLost => reset::BY_PEER,
        EndReason::Idle
        | EndReason::SessionOver
        | EndReason::Locked
        | EndReason::LoginEnded
        | EndReason::ResourceGone
        | EndReason::Killed
        | EndReason::ProxyStopped
        | EndReason::TargetRefused
        | EndReason::TargetUnreachable
        | EndReason::OverBudget
        | EndReason::Internal => reset::SESSION_ENDED,
    };
    // A close that lingers for no time at all is a reset. A socket that is gone needs none.
    let _ = SockRef::from(target).set_linger(Some(Duration::ZERO));
    reset_both(send, receive, code);
}
