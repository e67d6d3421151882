//! One attempt at a session on one tunnel: a stream, the `Open` on it, and the proxy's answer.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use portlatch_protocol::frame::{self, FrameError, LENGTH_BYTES, MAX_STREAM_FRAME};
use portlatch_protocol::stream::{Answer, Open, OpenRefusal, close};
use quinn::{ConnectionError, RecvStream, SendStream, VarInt};

use super::{Session, Tunnel, Upward};

/// The proxy dials for 5 s, then resolves and audits: an `Open` that takes longer is lost.
pub(super) const OPEN_DEADLINE: Duration = Duration::from_secs(12);
/// Credit for the streams that have just ended is on its way for a round trip; a proxy that gives none by then has none
/// left, and the flow is refused.
const STREAM_CREDIT_DEADLINE: Duration = Duration::from_secs(1);

/// Why one tunnel brought no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TryError {
    /// The proxy said no, or has no stream left for us.
    Refused(OpenRefusal),
    /// Nothing is heard of the proxy any more.
    Silent,
    /// The tunnel is lost, or its proxy has stopped; a new one may serve.
    Gone,
    /// The proxy closed the tunnel on us, answered with something else, or took too long.
    Failed,
}

impl Tunnel {
    /// Opens a session, or says why this tunnel has none.
    pub(super) async fn open(&self, open: &Open) -> Result<Session, TryError> {
        let in_use = self.health.enter();
        let credit = tokio::time::timeout(STREAM_CREDIT_DEADLINE, self.connection.open_bi()).await;
        let (mut send, mut receive) = match credit {
            Ok(Ok((send, receive))) => (Upward(send), receive),
            Ok(Err(error)) => return Err(of_end(&error)),
            Err(_) => return Err(TryError::Refused(OpenRefusal::Limit)),
        };
        let answered = tokio::select! {
            biased;
            answered = tokio::time::timeout(OPEN_DEADLINE, ask(&mut send, &mut receive, open)) => answered,
            // The flow goes elsewhere: should the proxy hear of this one after all, then also that it is over.
            () = self.health.falls_silent() => return Err(TryError::Silent),
        };
        match answered {
            Ok(Ok(Answer::Opened)) => Ok(Session { send, receive, turns: Rc::clone(&self.turns), in_use }),
            Ok(Ok(Answer::Refused(refusal))) => Err(TryError::Refused(refusal)),
            Ok(Err(AnswerFault::Stream)) => Err(self.failure()),
            Ok(Err(AnswerFault::Frame(fault))) => {
                tracing::warn!(%fault, proxy = %self.proxy, "a proxy broke the protocol: its tunnel is closed");
                self.connection.close(VarInt::from_u32(close::PROTOCOL), b"not an answer");
                Err(TryError::Failed)
            }
            Err(_) => Err(TryError::Failed),
        }
    }

    fn failure(&self) -> TryError {
        self.connection.close_reason().map_or(TryError::Failed, |error| of_end(&error))
    }
}

/// Whether a tunnel that ended so leaves hope for another one.
fn of_end(error: &ConnectionError) -> TryError {
    match error {
        ConnectionError::Reset | ConnectionError::TimedOut | ConnectionError::LocallyClosed => TryError::Gone,
        ConnectionError::ApplicationClosed(closed)
            if closed.error_code == VarInt::from_u32(close::STOPPED) =>
        {
            TryError::Gone
        }
        ConnectionError::ApplicationClosed(_)
        | ConnectionError::ConnectionClosed(_)
        | ConnectionError::TransportError(_)
        | ConnectionError::VersionMismatch
        | ConnectionError::CidsExhausted => TryError::Failed,
    }
}

/// An answer that never came whole.
enum AnswerFault {
    /// The stream or the tunnel ended.
    Stream,
    /// The bytes are no answer.
    Frame(FrameError),
}

async fn ask(send: &mut SendStream, receive: &mut RecvStream, open: &Open) -> Result<Answer, AnswerFault> {
    let header = frame::encode(open, MAX_STREAM_FRAME).expect("an Open fits its frame");
    send.write_chunk(Bytes::from(header)).await.map_err(|_| AnswerFault::Stream)?;
    let mut prefix = [0; LENGTH_BYTES];
    receive.read_exact(&mut prefix).await.map_err(|_| AnswerFault::Stream)?;
    let length = frame::content_length(prefix, MAX_STREAM_FRAME).map_err(AnswerFault::Frame)?;
    let mut content = vec![0; length];
    receive.read_exact(&mut content).await.map_err(|_| AnswerFault::Stream)?;
    frame::decode(&content).map_err(AnswerFault::Frame)
}
