//! Packets that belong to no flow and wait to leave: resets, ICMP, datagrams. The one queue of packets here, and bounded.

use std::collections::VecDeque;

/// Some four bursts of what a caller reads from the TUN in one turn (64 packets), each answered once.
const MOST_PACKETS: usize = 256;

/// An echo may be 64 KiB long; a queue full of them would not be small any more.
const MOST_BYTES: usize = 1 << 20;

/// The queue. What finds it full is dropped: all of these packets may be lost by nature.
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
        if self.queue.len() >= MOST_PACKETS || self.bytes + packet.len() > MOST_BYTES {
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
