//! Netlink requests, written and read by hand, one at a time and synchronously: for the two protocols that need it
//! (sock_diag, for its speed; nfnetlink, for which there is no crate of a fitting licence). rtnetlink's own crate does
//! the rest. The kernel answers these requests before `send` returns, so that no answer is ever waited for long.

use std::io;
use std::time::Duration;

use netlink_sys::{Socket, SocketAddr};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

/// Longer than the kernel ever takes: an answer that has not come by then was lost for want of memory.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// Holds the largest datagram of a dump (the kernel makes them at most 32 KiB).
const BUFFER: usize = 32 * 1024;
const HEADER: usize = 16;
const ATTRIBUTE_HEADER: usize = 4;
/// The attribute contains attributes (linux/netlink.h).
const NESTED: u16 = 0x8000;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// It is a request.
pub(super) const REQUEST: u16 = 0x001;
/// It wants an answer even if all went well.
pub(super) const ACK: u16 = 0x004;
/// It wants every entry.
pub(super) const DUMP: u16 = 0x300;
/// Make it if it is not there.
pub(super) const CREATE: u16 = 0x400;
/// Put it behind those that are there.
pub(super) const APPEND: u16 = 0x800;

/// One netlink message in the making.
#[derive(Debug)]
pub(super) struct Message(Vec<u8>);

impl Message {
    pub(super) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(fixed);
        let mut message = Self(bytes);
        message.pad();
        message
    }

    /// Adds an attribute.
    pub(super) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(ATTRIBUTE_HEADER + value.len()).expect("our attributes are short");
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.pad();
        self
    }

    /// Adds an attribute that holds those that `fill` adds.
    pub(super) fn nested(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 2]);
        self.0.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        let mut filled = fill(self);
        let length = u16::try_from(filled.0.len() - start).expect("our attributes are short");
        filled.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        filled
    }

    fn pad(&mut self) {
        let aligned = self.0.len().next_multiple_of(4);
        self.0.resize(aligned, 0);
    }

    fn wants_ack(&self) -> bool {
        u16::from_ne_bytes([self.0[6], self.0[7]]) & ACK != 0
    }

    fn seal(&mut self, sequence: u32) {
        let length = u32::try_from(self.0.len()).expect("our messages are short");
        self.0[0..4].copy_from_slice(&length.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
    }
}

/// What came back.
#[derive(Debug, PartialEq, Eq)]
struct Answer<'a> {
    kind: u16,
    sequence: u32,
    body: &'a [u8],
}

/// A netlink socket with one request under way at most.
#[derive(Debug)]
pub(super) struct Client {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Client {
    pub(super) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(LONGEST_WAIT))?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; BUFFER] })
    }

    /// Sends these as one datagram and waits until the kernel has acknowledged each that asks for it.
    pub(super) fn transact(&mut self, mut messages: Vec<Message>) -> io::Result<()> {
        let first = self.sequence.wrapping_add(1);
        let mut left = messages.iter().filter(|message| message.wants_ack()).count();
        self.send(&mut messages)?;
        while left > 0 {
            let length = self.receive()?;
            for answer in answers(&self.buffer[..length]) {
                let is_ours = answer.sequence.wrapping_sub(first) < u32::MAX / 2;
                if !is_ours || answer.kind != NLMSG_ERROR {
                    continue;
                }
                error_of(answer.body)?;
                left = left.saturating_sub(1);
            }
        }
        Ok(())
    }

    /// Sends a question and gives the body of the one answer.
    pub(super) fn ask(&mut self, question: Message) -> io::Result<&[u8]> {
        self.send(&mut [question])?;
        loop {
            let length = self.receive()?;
            // The borrow of `self.buffer` must not outlive an iteration that goes on.
            let mut found = None;
            for answer in answers(&self.buffer[..length]).filter(|answer| answer.sequence == self.sequence) {
                if answer.kind == NLMSG_ERROR {
                    error_of(answer.body)?;
                    return Err(io::ErrorKind::InvalidData.into());
                }
                let start = answer.body.as_ptr().addr() - self.buffer.as_ptr().addr();
                found = Some(start..start + answer.body.len());
            }
            if let Some(range) = found {
                return Ok(&self.buffer[range]);
            }
        }
    }

    /// Sends a question for every entry and calls `each` with the body of each.
    pub(super) fn dump(&mut self, question: Message, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        self.send(&mut [question])?;
        loop {
            let length = self.receive()?;
            for answer in answers(&self.buffer[..length]).filter(|answer| answer.sequence == self.sequence) {
                match answer.kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => return error_of(answer.body),
                    _ => each(answer.body),
                }
            }
        }
    }

    fn send(&mut self, messages: &mut [Message]) -> io::Result<()> {
        for message in &mut *messages {
            self.sequence = self.sequence.wrapping_add(1);
            message.seal(self.sequence);
        }
        let [single] = messages else {
            let datagram: Vec<u8> = messages.iter().flat_map(|message| message.0.iter().copied()).collect();
            self.socket.send(&datagram, 0)?;
            return Ok(());
        };
        self.socket.send(&single.0, 0)?;
        Ok(())
    }

    fn receive(&mut self) -> io::Result<usize> {
        let length = self.socket.recv(&mut &mut self.buffer[..], 0)?;
        Ok(length.min(self.buffer.len()))
    }
}

/// The messages of one datagram; the rest of a malformed one is left out.
fn answers(mut datagram: &[u8]) -> impl Iterator<Item = Answer<'_>> {
    std::iter::from_fn(move || {
        let header = datagram.first_chunk::<HEADER>()?;
        let word =
            |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let length = usize::try_from(word(0)).ok()?;
        let body = datagram.get(HEADER..length)?;
        let answer = Answer { kind: u16::from_ne_bytes([header[4], header[5]]), sequence: word(8), body };
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(answer)
    })
}

/// The outcome in an error message: 0 is success.
fn error_of(body: &[u8]) -> io::Result<()> {
    let code = body.first_chunk::<4>().ok_or(io::ErrorKind::InvalidData)?;
    match i32::from_ne_bytes(*code) {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_attributes_carry_their_whole_length() {
        let message = Message::new(7, REQUEST, &[1, 2, 3]).nested(5, |m| m.attribute(6, b"abcde"));
        let expected_tail = [16, 0, 5, 0x80, 9, 0, 6, 0, b'a', b'b', b'c', b'd', b'e', 0, 0, 0];
        assert_eq!(&message.0[HEADER..HEADER + 4], &[1, 2, 3, 0]);
        if cfg!(target_endian = "little") {
            assert_eq!(&message.0[HEADER + 4..], &expected_tail);
        }
    }

    #[test]
    fn a_datagram_is_read_message_by_message_and_never_past_its_end() {
        let (mut first, mut second) = (Message::new(20, 0, &[9; 5]), Message::new(21, 0, &[]));
        first.seal(1);
        second.seal(2);
        let datagram = [&first.0[..], &second.0[..]].concat();
        let read: Vec<(u16, u32)> = answers(&datagram).map(|a| (a.kind, a.sequence)).collect();
        assert_eq!(read, [(20, 1), (21, 2)]);
        for cut in 0..datagram.len() {
            assert!(answers(&datagram[..cut]).count() < 2, "{cut}");
        }
        assert_eq!(answers(&[0; 64]).count(), 0, "a length of 0 ends it");
    }

    #[test]
    fn an_error_message_is_an_error_unless_its_code_is_zero() {
        assert!(error_of(&0i32.to_ne_bytes()).is_ok());
        assert_eq!(error_of(&(-2i32).to_ne_bytes()).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(error_of(&[]).is_err());
        assert!(error_of(&i32::MIN.to_ne_bytes()).is_err());
    }
}
