//! Packets that belong to no flow and wait to leave: resets, ICMP, datagrams. The one queue of packets here, and bounded.

use std::collections::VecDeque;

/// Some four bursts of what a caller reads from the TUN in one turn (64 packets), each answered once.
const MOST_PACKETS: usize = 256;

/// An echo may be 64 KiB long; a queue full of them would not be small any more.
const MOST_BYTES: usize = 1 << 20;

/// The queue. What finds it full is dropped: all of these packets may be lost by nature, but for refusals of held SYNs.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    queue: VecDeque<Vec<u8>>,
    bytes: usize,
}

/// There is no room for another packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

impl Replies {
    pub(crate) fn push(&mut self, packet: Vec<u8>) -> Result<(), Full> {
        self.push_within(MOST_PACKETS, packet)
    }

    /// The refusal of one of at most so many held SYNs, which may all be refused at once. A program that misses it is not
    /// refused but tries again for seconds, and is somebody new then.
    pub(crate) fn push_refusal(&mut self, packet: Vec<u8>, most_held: usize) -> Result<(), Full> {
        self.push_within(MOST_PACKETS + most_held, packet)
    }

    fn push_within(&mut self, most: usize, packet: Vec<u8>) -> Result<(), Full> {
        if self.queue.len() >= most || self.bytes + packet.len() > MOST_BYTES {
            return Err(Full);
        }
        self.bytes += packet.len();
        self.queue.push_back(packet);
        Ok(())
    }

    pub(crate) fn pop(&mut self) -> Option<Vec<u8>> {
        let packet = self.queue.pop_front()?;
        self.bytes -= packet.len();
        Some(packet)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_room_of_their_own_and_no_more_than_that() {
        let mut replies = Replies::default();
        while replies.push(vec![0; 40]).is_ok() {}
        while replies.push_refusal(vec![0; 40], 1_000).is_ok() {}
        assert_eq!(replies.queue.len(), MOST_PACKETS + 1_000);
        assert_eq!(replies.push(vec![0; 40]), Err(Full));
    }

    #[test]
    fn the_queue_is_bounded_in_packets_and_bytes() {
        let mut replies = Replies::default();
        while replies.push(vec![0; 40]).is_ok() {}
        assert_eq!(replies.queue.len(), MOST_PACKETS);

        let mut replies = Replies::default();
        while replies.push(vec![0; 60_000]).is_ok() {}
        assert_eq!(replies.queue.len(), MOST_BYTES / 60_000);

        while replies.pop().is_some() {}
        assert!(replies.is_empty());
        assert_eq!(replies.push(vec![0; 60_000]), Ok(()));
    }
}
