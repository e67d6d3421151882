//! Frames on a unix socket, with deadlines.

use std::io;
use std::time::Duration;

use portlatch_protocol::attach::{ToAgent, ToDaemon};
use portlatch_protocol::frame::{self, FrameDecoder, FrameError, MAX_LOCAL_FRAME};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// A peer that does not read for so long is gone.
const WRITE_DEADLINE: Duration = Duration::from_secs(5);
/// A read's worth.
const READ: usize = 16 * 1024;

/// Why a conversation ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum Hangup {
    /// The peer closed the connection.
    #[error("closed by the peer")]
    Closed,
    /// It broke.
    #[error("the connection broke")]
    Broken(#[source] io::Error),
    /// The peer did not speak, or did not read, in time.
    #[error("out of time")]
    OutOfTime,
    /// What it sent is not the protocol.
    #[error("not the protocol")]
    Frame(#[from] FrameError),
    /// A known message at the wrong moment.
    #[error("a message out of turn")]
    OutOfTurn,
}

/// What the peer sends.
pub(super) struct Incoming {
    half: OwnedReadHalf,
    decoder: FrameDecoder,
}

/// What it is sent.
pub(super) struct Outgoing {
    half: OwnedWriteHalf,
}

pub(super) fn split(stream: UnixStream) -> (Incoming, Outgoing) {
    let (read, write) = stream.into_split();
    (Incoming { half: read, decoder: FrameDecoder::new(MAX_LOCAL_FRAME) }, Outgoing { half: write })
}

impl Incoming {
    /// The next message. Cancel-safe: what has arrived is kept.
    pub(super) async fn next(&mut self) -> Result<ToDaemon, Hangup> {
        let mut buffer = [0; READ];
        loop {
            if let Some(message) = self.decoder.poll_message()? {
                return Ok(message);
            }
            match self.half.read(&mut buffer).await.map_err(Hangup::Broken)? {
                0 => return Err(Hangup::Closed),
                length => self.decoder.handle_bytes(&buffer[..length]),
            }
        }
    }

    /// The next message, if it comes in time.
    pub(super) async fn next_within(&mut self, deadline: Duration) -> Result<ToDaemon, Hangup> {
        tokio::time::timeout(deadline, self.next()).await.map_err(|_| Hangup::OutOfTime)?
    }
}

impl Outgoing {
    /// Sends one message.
    pub(super) async fn send(&mut self, message: &ToAgent) -> Result<(), Hangup> {
        let bytes = frame::encode(message, MAX_LOCAL_FRAME)?;
        let written = tokio::time::timeout(WRITE_DEADLINE, self.half.write_all(&bytes)).await;
        written.map_err(|_| Hangup::OutOfTime)?.map_err(Hangup::Broken)
    }
}
