//! Bytes that ought to be frames, of every conversation that has them, in pieces of any size.

use portlatch_protocol::attach::{ToAgent, ToDaemon};
use portlatch_protocol::frame::{self, FrameDecoder};
use portlatch_protocol::stream::{Answer, Open};
use portlatch_protocol::watch::WatchMessage;

/// Frames of every conversation: whatever arrives, cut anywhere, is a message that reads back as itself, or an error.
///
/// # Panics
/// Where it is neither.
pub fn fuzz_frames(bytes: &[u8]) {
    let Some((cut, stream)) = bytes.split_first() else { return };
    let step = usize::from(*cut).max(1);
    drain::<ToDaemon>(stream, step, frame::MAX_LOCAL_FRAME);
    drain::<ToAgent>(stream, step, frame::MAX_LOCAL_FRAME);
    drain::<Open>(stream, step, frame::MAX_STREAM_FRAME);
    drain::<Answer>(stream, step, frame::MAX_STREAM_FRAME);
    drain::<WatchMessage>(stream, step, frame::MAX_LOCAL_FRAME);
}

fn drain<M>(stream: &[u8], step: usize, limit: usize)
where
    M: for<'b> minicbor::Decode<'b, ()> + minicbor::Encode<()> + PartialEq + std::fmt::Debug,
{
    let mut decoder = FrameDecoder::new(limit);
    for piece in stream.chunks(step) {
        decoder.handle_bytes(piece);
        loop {
            match decoder.poll_message::<M>() {
                Ok(Some(message)) => check_same(&message),
                Ok(None) => break,
                // The connection of such a peer is closed: nothing more is read from it.
                Err(_) => return,
            }
        }
    }
}

fn check_same<M>(message: &M)
where
    M: for<'b> minicbor::Decode<'b, ()> + minicbor::Encode<()> + PartialEq + std::fmt::Debug,
{
    // Our own form of a peer's message may be longer than the peer's; a limit is not what is tried here.
    let bytes = frame::encode(message, usize::MAX >> 1).expect("a message of ours is encoded");
    let again: M = frame::decode(&bytes[frame::LENGTH_BYTES..]).expect("our own frame is read");
    assert_eq!(&again, message);
}
