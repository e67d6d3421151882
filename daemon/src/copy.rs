//! The bytes of one flow, both ways, between the program's connection and the stream in the tunnel.
//!
//! Back-pressure goes from end to end: nothing is read that the other side has not room for. A half-close travels as a
//! half-close (the stream's FIN), a reset as a reset.

use bytes::Bytes;
use portlatch_protocol::stream::reset;
use quinn::{ReadError, RecvStream, SendStream, VarInt, WriteError};

use crate::budget::{Budget, OverBudget};
use crate::flow::{Flow, FlowReset};
use crate::tunnel::Session;

/// Chunks that are taken from the stream at once: a datagram's payload each, some 45 KiB in all. What the stack has no
/// room for waits here, and nowhere else.
const CHUNKS: usize = 32;

/// Copies until both directions have ended, or one of them breaks.
pub(crate) async fn both_ways(flow: &Flow, session: Session, budget: &Budget) {
    let Session { mut send, mut receive, in_use: _in_use } = session;
    let outcome = {
        let (upload, download) = (upload(flow, &mut send), download(flow, &mut receive, budget));
        tokio::select! {
            outcome = async { tokio::try_join!(upload, download) } => outcome.map(|_| ()),
            // A program that only waits may reset all the same.
            () = flow.gone() => Err(Broken::Program),
        }
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

async fn upload(flow: &Flow, send: &mut SendStream) -> Result<(), Broken> {
    while let Some(chunk) = flow.read().await? {
        send.write_chunk(chunk).await?;
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
    let mut chunks: [Bytes; CHUNKS] = std::array::from_fn(|_| Bytes::new());
    while let Some(filled) = receive.read_chunks(&mut chunks).await? {
        budget.while_stalled(flow.write(&mut chunks[..filled])).await??;
    }
    flow.finish();
    Ok(())
}
