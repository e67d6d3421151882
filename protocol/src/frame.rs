//! Frames: a length of four bytes, big-endian, and that many bytes of one CBOR value.
//!
//! The decoder is fed whatever arrived and hands out whole frames; it never holds more than one frame's limit, and a
//! length over the limit is an error before a byte of that frame is stored.

use minicbor::{Decode, Encode};

/// Largest frame between agent and daemon. A catalogue of any size travels in parts that fit.
pub const MAX_LOCAL_FRAME: usize = 64 * 1024;
/// Largest header frame on a stream to a proxy (design section 11).
pub const MAX_STREAM_FRAME: usize = 16 * 1024;
/// Bytes of the length that stands before each frame.
pub const LENGTH_BYTES: usize = 4;

/// Why a peer's bytes are no frame of ours. The connection they came by is closed.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The frame says that it is longer than allowed.
    #[error("a frame of {length} bytes is over the limit of {limit}")]
    TooLong {
        /// The length that it announced.
        length: usize,
        /// The limit of this conversation.
        limit: usize,
    },
    /// The frame is not the CBOR of a known message.
    #[error("a frame is not a known message")]
    Malformed(#[source] minicbor::decode::Error),
    /// Bytes stand behind the message inside its frame.
    #[error("a frame has {extra} bytes too many")]
    Trailing {
        /// How many.
        extra: usize,
    },
}

/// The frame of one message.
///
/// # Errors
/// [`FrameError::TooLong`] if the message is larger than `limit`; our own messages are built to fit.
pub fn encode<M: Encode<()>>(message: &M, limit: usize) -> Result<Vec<u8>, FrameError> {
    let mut bytes = vec![0; LENGTH_BYTES];
    // Writing to a vector cannot fail, and none of our messages has an encoder that gives up.
    minicbor::encode(message, &mut bytes).expect("a message of ours encodes into memory");
    let length = bytes.len() - LENGTH_BYTES;
    match u32::try_from(length) {
        Ok(prefix) if length <= limit => bytes[..LENGTH_BYTES].copy_from_slice(&prefix.to_be_bytes()),
        Ok(_) | Err(_) => return Err(FrameError::TooLong { length, limit }),
    }
    Ok(bytes)
}

/// The one message of a frame's content.
///
/// # Errors
/// [`FrameError::Malformed`] or [`FrameError::Trailing`].
pub fn decode<'b, M: Decode<'b, ()>>(content: &'b [u8]) -> Result<M, FrameError> {
    let mut decoder = minicbor::Decoder::new(content);
    let message = decoder.decode().map_err(FrameError::Malformed)?;
    match content.len() - decoder.position() {
        0 => Ok(message),
        extra => Err(FrameError::Trailing { extra }),
    }
}

/// The length that a frame's first four bytes announce.
///
/// # Errors
/// [`FrameError::TooLong`] if it is over `limit`.
pub fn content_length(prefix: [u8; LENGTH_BYTES], limit: usize) -> Result<usize, FrameError> {
    let length = usize::try_from(u32::from_be_bytes(prefix)).unwrap_or(usize::MAX);
    match length <= limit {
        true => Ok(length),
        false => Err(FrameError::TooLong { length, limit }),
    }
}

/// Cuts a stream of bytes into frames.
#[derive(Debug)]
pub struct FrameDecoder {
    buffer: Vec<u8>,
    limit: usize,
}

impl FrameDecoder {
    /// A decoder that accepts frames of at most `limit` bytes.
    pub const fn new(limit: usize) -> Self {
        Self { buffer: Vec::new(), limit }
    }

    /// Takes bytes as they arrived.
    pub fn handle_bytes(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, or `None` until more bytes arrive.
    ///
    /// # Errors
    /// Any [`FrameError`]; the connection is of no use afterwards.
    pub fn poll_message<M: for<'b> Decode<'b, ()>>(&mut self) -> Result<Option<M>, FrameError> {
        let Some(prefix) = self.buffer.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let end = LENGTH_BYTES + content_length(*prefix, self.limit)?;
        if self.buffer.len() < end {
            return Ok(None);
        }
        let message = decode(&self.buffer[LENGTH_BYTES..end])?;
        self.buffer.drain(..end);
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn frames_arrive_whole_however_the_bytes_are_cut() {
        let mut bytes = encode(&"first", 64).unwrap();
        bytes.extend(encode(&"second", 64).unwrap());
        let mut decoder = FrameDecoder::new(64);
        let mut seen = Vec::new();
        for byte in bytes {
            decoder.handle_bytes(&[byte]);
            seen.extend(decoder.poll_message::<String>().unwrap());
        }
        assert_eq!(seen, ["first", "second"]);
    }

    #[test]
    fn a_frame_over_the_limit_is_refused_by_its_length_alone() {
        let mut decoder = FrameDecoder::new(MAX_STREAM_FRAME);
        decoder.handle_bytes(&(16 * 1024 + 1_u32).to_be_bytes());
        assert!(matches!(decoder.poll_message::<String>(), Err(FrameError::TooLong { length: 16_385, .. })));
        assert!(matches!(encode(&"x".repeat(65), 64), Err(FrameError::TooLong { .. })));
    }

    #[test]
    fn bytes_behind_the_message_are_refused() {
        let mut content = minicbor::to_vec(7_u8).unwrap();
        content.push(0);
        assert!(matches!(decode::<u8>(&content), Err(FrameError::Trailing { extra: 1 })));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let mut decoder = FrameDecoder::new(MAX_LOCAL_FRAME);
            decoder.handle_bytes(&bytes);
            while let Ok(Some(_)) = decoder.poll_message::<crate::stream::Open>() {}
        }
    }
}
