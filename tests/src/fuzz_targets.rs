//! What foreign bytes meet, as plain functions: `scripts/fuzz` drives them with cargo-fuzz, and an ordinary test
//! (`tests/corpus.rs`) feeds them every committed input of `fuzz/corpus`. A target panics where a promise is broken.

use portlatch_control::documents::{Document, ParseContext, parse};
use portlatch_protocol::attach::{ToAgent, ToDaemon};
use portlatch_protocol::frame::{self, FrameDecoder};
use portlatch_protocol::stream::{Answer, Open};
use portlatch_protocol::watch::WatchMessage;

mod packets;
mod sequences;

pub use packets::fuzz_packets;
pub use sequences::fuzz_sequences;

/// A target: what it is called in `fuzz/`, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 5] = [
    ("packets", fuzz_packets),
    ("sequences", fuzz_sequences),
    ("dns", fuzz_dns),
    ("frames", fuzz_frames),
    ("documents", fuzz_documents),
];

/// DNS queries and answers, over UDP and TCP.
///
/// # Panics
/// Where a promise is broken.
pub fn fuzz_dns(bytes: &[u8]) {
    portlatchd::dns::fuzzing::fuzz_dns(bytes);
}

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

/// Resource documents: read or refused with places that exist, and what was read is kept and read again as the same.
///
/// # Panics
/// Where a promise is broken.
pub fn fuzz_documents(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let context = ParseContext { public_host: "proxy.example.com".parse().expect("a host name") };
    match parse("input.yaml", text, &context) {
        Ok(parsed) => {
            for document in parsed.documents {
                let kept = document.to_json();
                let again = Document::from_json(&kept).expect("what was kept is read again");
                assert_eq!(again.to_json(), kept);
            }
        }
        Err(faults) => {
            assert!(!faults.is_empty(), "refused without a fault");
            for fault in faults {
                assert!(!fault.to_string().is_empty());
            }
        }
    }
}
