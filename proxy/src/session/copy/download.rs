//! From the target to the program.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{BufMut as _, BytesMut};
use portlatch_carrier::turns::{SMALL, TURN, Turn, Turns};
use quinn::{SendStream, WriteError};
use tokio::net::tcp::ReadHalf;

use crate::budget::Budget;
use crate::sessions::{EndReason, LiveSession};

/// Read from a target at once. Allocated only while there is something to read, so idle sessions cost none of it.
const READ_BYTES: usize = 128 * 1024;
/// A buffer with less room than this is left to its readers, and a new one begun.
const LEAST_ROOM: usize = 16 * 1024;

/// Copies to the target's end, and says it to the program.
pub(super) async fn download(
    target: ReadHalf<'_>,
    (send, turns): (&mut SendStream, &Turns),
    session: &Arc<LiveSession>,
    budget: &Budget,
) -> Result<(), EndReason> {
    let stopped = send.stopped();
    tokio::pin!(stopped);
    let mut buffer = BytesMut::new();
    loop {
        let turn = tokio::select! {
            biased;
            read = read_some(&target, &mut buffer, turns) => read.map_err(|_| EndReason::TargetReset)?,
            stopped = &mut stopped => return Err(match stopped {
                Ok(_) => EndReason::ProgramReset,
                Err(_) => EndReason::TunnelLost,
            }),
        };
        if buffer.is_empty() {
            // The stream ends with its last byte; that it was taken, the tunnel sees to.
            return send.finish().map_err(|_| EndReason::ProgramReset);
        }
        let turn = match turn {
            // More is there than what goes without a turn.
            None if buffer.len() >= SMALL => {
                let turn = turns.next().await;
                // Its end is read again; a reset too.
                let _ = target.try_read_buf(&mut (&mut buffer).limit(TURN - SMALL));
                Some(turn)
            }
            turn => turn,
        };
        let bytes = u64::try_from(buffer.len()).unwrap_or(0);
        let mut chunk = [buffer.split().freeze()];
        let write = async {
            match turn {
                Some(turn) => turns.write(turn, send, &mut chunk).await,
                None => send.write_all_chunks(&mut chunk).await,
            }
        };
        budget.while_stalled(session, bytes, write).await.map_err(|error| stream_fault(&error))?;
        session.bytes_out.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Reads what is there, nothing at the end; with a turn, where nobody waits for one, else no more than goes without.
/// Holds no buffer while there is nothing.
async fn read_some<'t>(
    target: &ReadHalf<'_>,
    buffer: &mut BytesMut,
    turns: &'t Turns,
) -> io::Result<Option<Turn<'t>>> {
    loop {
        if buffer.capacity() < LEAST_ROOM {
            *buffer = BytesMut::with_capacity(READ_BYTES);
        }
        let turn = turns.at_once();
        let read = match turn {
            Some(_) => target.try_read_buf(buffer),
            None => target.try_read_buf(&mut buffer.limit(SMALL)),
        };
        match read {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                *buffer = BytesMut::new();
                drop(turn);
                target.readable().await?;
            }
            result => return result.map(|_| turn),
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
