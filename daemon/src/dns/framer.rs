//! DNS messages in a TCP stream (RFC 7766): two bytes of length, then the message; several may be under way at once.

/// Longest query that is taken: names are at most 255 bytes, and options that clients send are short.
pub const MAX_QUERY: usize = 4096;
/// How many queries of one connection may wait for their answers; over it, reading pauses.
pub const MAX_PIPELINED: usize = 128;

const LENGTH_BYTES: usize = 2;
/// Bytes that are kept while queries wait: a few whole queries, so that reading can go on.
const MAX_BUFFERED: usize = 4 * (MAX_QUERY + LENGTH_BYTES);

/// Why a connection must be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FramerError {
    /// A query that is longer than any should be, or shorter than a header.
    #[error("a query of {0} bytes")]
    BadLength(usize),
}

/// Cuts a stream of bytes into queries.
#[derive(Debug, Default)]
pub struct TcpFramer {
    buffer: Vec<u8>,
    /// Where the bytes that were not yet handed out begin.
    start: usize,
}

impl TcpFramer {
    /// How many bytes may be handed in now.
    pub const fn room(&self) -> usize {
        MAX_BUFFERED.saturating_sub(self.buffer.len() - self.start)
    }

    /// Takes bytes as they arrived, as many as there is room for; returns how many.
    pub fn handle_bytes(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.room());
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(&bytes[..taken]);
        taken
    }

    /// The next whole query, or `None` until more bytes arrive.
    ///
    /// # Errors
    /// [`FramerError`]; the connection is of no use afterwards.
    pub fn poll_query(&mut self) -> Result<Option<&[u8]>, FramerError> {
        let waiting = &self.buffer[self.start..];
        let Some(prefix) = waiting.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes(*prefix));
        if !(super::message::HEADER..=MAX_QUERY).contains(&length) {
            return Err(FramerError::BadLength(length));
        }
        if waiting.len() < LENGTH_BYTES + length {
            return Ok(None);
        }
        let begin = self.start + LENGTH_BYTES;
        self.start = begin + length;
        Ok(Some(&self.buffer[begin..self.start]))
    }

    /// Whether the connection may be closed by the client now without a query being cut off.
    pub const fn is_between_queries(&self) -> bool {
        self.start == self.buffer.len()
    }

    /// Appends `answer` with its length to `stream`.
    pub fn frame(answer: &[u8], stream: &mut Vec<u8>) {
        // An answer is at most 65,535 bytes: the server's are short, and the forwarder's came with such a length.
        let length = u16::try_from(answer.len()).unwrap_or(u16::MAX);
        stream.extend_from_slice(&length.to_be_bytes());
        stream.extend_from_slice(&answer[..usize::from(length)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_come_out_whole_however_the_bytes_are_cut() {
        let mut stream = Vec::new();
        TcpFramer::frame(&[1; 20], &mut stream);
        TcpFramer::frame(&[2; 30], &mut stream);
        let mut framer = TcpFramer::default();
        let mut seen = Vec::new();
        for byte in stream {
            assert_eq!(framer.handle_bytes(&[byte]), 1);
            while let Some(query) = framer.poll_query().unwrap() {
                seen.push(query.to_vec());
            }
        }
        assert_eq!(seen, [vec![1; 20], vec![2; 30]]);
        assert!(framer.is_between_queries());
    }

    #[test]
    fn several_queries_may_come_at_once() {
        let mut stream = Vec::new();
        for n in 0..10 {
            TcpFramer::frame(&[n; 12], &mut stream);
        }
        let mut framer = TcpFramer::default();
        framer.handle_bytes(&stream);
        for n in 0..10 {
            assert_eq!(framer.poll_query().unwrap(), Some(&[n; 12][..]));
        }
        assert_eq!(framer.poll_query(), Ok(None));
    }

    #[test]
    fn a_query_of_a_senseless_length_ends_the_connection() {
        for length in [0_u16, 11, 4097, u16::MAX] {
            let mut framer = TcpFramer::default();
            framer.handle_bytes(&length.to_be_bytes());
            assert_eq!(framer.poll_query(), Err(FramerError::BadLength(length.into())));
        }
    }

    #[test]
    fn a_connection_that_nobody_serves_takes_no_more_than_its_share() {
        let mut framer = TcpFramer::default();
        let mut query = Vec::new();
        TcpFramer::frame(&[0; 100], &mut query);
        let taken: usize = (0..10_000).map(|_| framer.handle_bytes(&query)).sum();
        assert_eq!((taken, framer.room()), (MAX_BUFFERED, 0));
    }
}
