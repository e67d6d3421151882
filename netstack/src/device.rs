//! What smoltcp takes for a network card: one packet in at most, one packet out at most, no queue.

use smoltcp::phy::{Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

/// What every card of a stack is like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Card {
    pub(crate) mtu: usize,
    /// Whether leaving TCP segments get their checksum here, or from the kernel.
    pub(crate) computes_checksums: bool,
}

/// A card for one call of smoltcp.
pub(crate) struct OneShot<'a> {
    card: Card,
    arriving: Option<&'a [u8]>,
    leaving: &'a mut [u8],
    written: usize,
}

impl<'a> OneShot<'a> {
    /// A card on which this packet arrives; a reply goes into the buffer.
    pub(crate) fn receiving(card: Card, packet: &'a [u8], reply: &'a mut [u8]) -> OneShot<'a> {
        OneShot { card, arriving: Some(packet), leaving: reply, written: 0 }
    }

    /// A card with room for one packet, where the buffer takes the longest.
    pub(crate) fn sending(card: Card, buffer: &'a mut [u8]) -> OneShot<'a> {
        OneShot { card, arriving: None, leaving: buffer, written: 0 }
    }

    /// The length of the packet that was put into the buffer; zero if there was none.
    pub(crate) fn written(&self) -> usize {
        self.written
    }
}

impl Device for OneShot<'_> {
    type RxToken<'b>
        = Arriving<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = Leaving<'b>
    where
        Self: 'b;

    fn receive(&mut self, _: Instant) -> Option<(Arriving<'_>, Leaving<'_>)> {
        let packet = self.arriving.take()?;
        Some((Arriving(packet), Leaving { buffer: self.leaving, written: &mut self.written }))
    }

    fn transmit(&mut self, _: Instant) -> Option<Leaving<'_>> {
        let room = self.written == 0 && self.leaving.len() >= self.card.mtu;
        room.then_some(Leaving { buffer: self.leaving, written: &mut self.written })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        // What arrives was verified before it came here, as far as it is to be.
        let mut checksum = ChecksumCapabilities::ignored();
        checksum.ipv4 = Checksum::Tx;
        checksum.tcp = if self.card.computes_checksums { Checksum::Tx } else { Checksum::None };

        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.card.mtu;
        capabilities.checksum = checksum;
        capabilities
    }
}

pub(crate) struct Arriving<'a>(&'a [u8]);

impl RxToken for Arriving<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

pub(crate) struct Leaving<'a> {
    buffer: &'a mut [u8],
    written: &'a mut usize,
}

impl TxToken for Leaving<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        match self.buffer.get_mut(..len) {
            Some(exact) => {
                *self.written = len;
                f(exact)
            }
            // A reply has headers only, and `transmit` wants room for the longest packet; smoltcp must be served even
            // so, and the packet is as good as lost on the way.
            None => f(&mut vec![0; len]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CARD: Card = Card { mtu: 1_500, computes_checksums: true };

    #[test]
    fn a_packet_gets_exactly_its_own_length() {
        let mut buffer = [0; 2_000];
        let mut device = OneShot::sending(CARD, &mut buffer);
        let token = device.transmit(Instant::ZERO).unwrap();
        assert_eq!(token.consume(40, |bytes| bytes.len()), 40);
        assert_eq!(device.written(), 40);
    }

    #[test]
    fn there_is_room_for_one_packet_and_only_in_a_buffer_for_the_longest() {
        let mut buffer = [0; 2_000];
        let mut device = OneShot::sending(CARD, &mut buffer);
        device.transmit(Instant::ZERO).unwrap().consume(40, |_| ());
        assert!(device.transmit(Instant::ZERO).is_none());

        let mut short = [0; 1_499];
        assert!(OneShot::sending(CARD, &mut short).transmit(Instant::ZERO).is_none());
    }
}
