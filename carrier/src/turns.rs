//! Turns at a tunnel's send window: flows with much to send get it one after the other, in the order in which they asked.
//!
//! quinn bounds what all streams of a connection have sent and not had acknowledged together. When there is room again
//! it wakes every stream that found none, the last one first; the first few take all of it, and those in the middle never
//! get any. With 512 flows the fairness index was 0.11, and every acknowledgement woke all of them. So only a few ask
//! quinn at a time, and the others wait here.

use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes};
use quinn::{Connection, SendStream, WriteError};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

/// Flows that may wait for room at once. One would do, were it not for [`LONGEST`].
const AT_ONCE: usize = 4;
/// Whoever has found no room for so long may be waiting for its own reader alone, and gives its turn to the next. It is
/// several round trips of a fast link; on a slow one all waiting flows take the front in turn, which is as fair.
const LONGEST: Duration = Duration::from_millis(5);
/// What a flow has ready at once, at most, if it is no transfer: it goes without a turn.
pub const SMALL: usize = 16 * 1024;
/// What a flow sends in a turn for which it had to wait.
pub const TURN: usize = 128 * 1024;
/// How long a flow that found no room in turn after turn waits before it lines up again.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Bytes that find out whether there is room again.
const TOKEN: usize = 1024;
/// What may lie ready to be sent, beside what is under way: enough for a few flows' next pieces.
///
/// Each flow with something ready gets one datagram in turn, so of many flows every one would come to its end in pieces
/// of a datagram: with 128 flows it was 2.3 Gbit/s instead of 5. And what is not sent yet is memory.
const READY: u64 = 512 * 1024;

/// The turns of one tunnel.
#[derive(Debug)]
pub struct Turns {
    places: Semaphore,
    connection: Connection,
    most_window: u64,
    fit: Mutex<Fit>,
}

/// A flow's turn, given back when dropped.
#[derive(Debug)]
pub struct Turn<'a> {
    _place: SemaphorePermit<'a>,
}

impl Turns {
    /// The send window that a connection is to begin with.
    pub const FIRST_WINDOW: u64 = 2 * READY;

    /// The turns of this connection, on which so much may be sent and not acknowledged at most.
    pub fn new(connection: Connection, most_window: u64) -> Self {
        let fit = Fit { window: Self::FIRST_WINDOW, sent: 0, since: Instant::now() };
        Self { places: Semaphore::new(AT_ONCE), connection, most_window, fit: Mutex::new(fit) }
    }

    /// A turn, if nobody waits for one.
    pub fn at_once(&self) -> Option<Turn<'_>> {
        self.places.try_acquire().ok().map(|place| Turn { _place: place })
    }

    /// A turn, behind those who wait already. Cancel-safe.
    pub async fn next(&self) -> Turn<'_> {
        Turn { _place: self.places.acquire().await.expect("the semaphore is never closed") }
    }

    /// Writes all of these chunks, a turn at a time; they are empty afterwards.
    ///
    /// # Errors
    /// quinn's.
    pub async fn write(
        &self,
        turn: Turn<'_>,
        stream: &mut SendStream,
        chunks: &mut [Bytes],
    ) -> Result<(), WriteError> {
        // Most writes are done at once and need no timer.
        let done = poll_fn(|context| Poll::Ready(pin!(write_all(stream, chunks)).poll(context))).await;
        match done {
            Poll::Ready(written) => written,
            // Boxed: an idle flow shall not hold the room for it.
            Poll::Pending => Box::pin(self.write_when_there_is_room(turn, stream, chunks)).await,
        }
    }

    async fn write_when_there_is_room(
        &self,
        mut turn: Turn<'_>,
        stream: &mut SendStream,
        chunks: &mut [Bytes],
    ) -> Result<(), WriteError> {
        let mut pause = Duration::ZERO;
        loop {
            self.fit_window();
            if let Ok(written) = timeout(LONGEST, write_all(stream, chunks)).await {
                return written;
            }
            drop(turn);
            let Some(first) = chunks.iter_mut().find(|chunk| !chunk.is_empty()) else { return Ok(()) };
            // A copy, which costs nothing: it is taken off only once it is written.
            let mut token = [first.slice(..first.len().min(TOKEN))];
            let whole = token[0].len();
            // If it is its own reader that it waits for, its stream says when there is room. If not, quinn may wake it
            // last again and again: so it lines up as well.
            turn = tokio::select! {
                biased;
                written = write_all(stream, &mut token) => {
                    written?;
                    pause = Duration::ZERO;
                    self.next().await
                }
                next = self.next_after(pause) => {
                    pause = (2 * pause).clamp(LONGEST, LONGEST_PAUSE);
                    next
                }
            };
            first.advance(whole - token[0].len());
        }
    }

    async fn next_after(&self, pause: Duration) -> Turn<'_> {
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        self.next().await
    }
}

/// How the send window follows what the path carries.
#[derive(Debug)]
struct Fit {
    window: u64,
    sent: u64,
    since: Instant,
}

impl Turns {
    /// Has the send window follow what is under way: what the path took of late, for the length of a round trip. More
    /// would only wait here; the congestion window is no measure, since a path that is faster than we are never fills it.
    fn fit_window(&self) {
        let now = Instant::now();
        // Held for a few instructions, never across an await.
        let mut fit = self.fit.lock().unwrap_or_else(PoisonError::into_inner);
        let time = now.saturating_duration_since(fit.since);
        if time < LONGEST {
            return;
        }
        let stats = self.connection.stats();
        let (sent, round_trip) = (stats.udp_tx.bytes, stats.path.rtt);
        if time < round_trip {
            return;
        }
        let under_way = (sent - fit.sent) as f64 * round_trip.as_secs_f64() / time.as_secs_f64();
        (fit.sent, fit.since) = (sent, now);
        // A quarter more, so that it grows where it was what held us back.
        let window = ((under_way * 1.25) as u64 + READY).min(self.most_window);
        if window.abs_diff(fit.window) > fit.window / 8 {
            fit.window = window;
            self.connection.set_send_window(window);
        }
    }
}

/// Writes all chunks. Cancel-safe: what is left is in them.
async fn write_all(stream: &mut SendStream, chunks: &mut [Bytes]) -> Result<(), WriteError> {
    while let Some(first) = chunks.iter().position(|chunk| !chunk.is_empty()) {
        stream.write_chunks(&mut chunks[first..]).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
