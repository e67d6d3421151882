//! Where the bytes of a flow lie while they wait. The daemon's provider is a demand-paged slab; tests use vectors.

use smoltcp::iface::SocketSet;
use smoltcp::socket::tcp::SocketBuffer;

/// The memory of one ring.
#[derive(Debug)]
pub enum Ring {
    /// Memory that lives for ever: a piece of a slab.
    Borrowed(&'static mut [u8]),
    /// Memory of its own.
    Owned(Vec<u8>),
}

impl From<&'static mut [u8]> for Ring {
    fn from(slice: &'static mut [u8]) -> Ring {
        Ring::Borrowed(slice)
    }
}

impl From<Vec<u8>> for Ring {
    fn from(vector: Vec<u8>) -> Ring {
        Ring::Owned(vector)
    }
}

impl Ring {
    /// The ring for what the program sends. It may lose bytes of its capacity: see [`receive_capacity`].
    pub(crate) fn into_receive_buffer(self) -> SocketBuffer<'static> {
        match self {
            Ring::Borrowed(slice) => {
                let capacity = receive_capacity(slice.len());
                SocketBuffer::new(&mut slice[..capacity])
            }
            Ring::Owned(mut vector) => {
                vector.truncate(receive_capacity(vector.len()));
                SocketBuffer::new(vector)
            }
        }
    }

    /// The ring for what the program receives.
    pub(crate) fn into_send_buffer(self) -> SocketBuffer<'static> {
        match self {
            Ring::Borrowed(slice) => SocketBuffer::new(slice),
            Ring::Owned(vector) => SocketBuffer::new(vector),
        }
    }
}

/// The largest receive capacity within `length` that smoltcp can be trusted with.
///
/// It announces up to 65,535 bytes in the SYN-ACK, unscaled, and afterwards takes that figure for a scaled one. Unless
/// 65,535 shifted by the scale fits the ring, a peer that sends more than it was offered makes smoltcp store past the
/// ring's end, where it panics. Just below each power of two it fits.
fn receive_capacity(length: usize) -> usize {
    let bits = usize::BITS - length.leading_zeros();
    let Some(shift) = bits.checked_sub(16) else { return length };
    let capacity = if length >= usize::from(u16::MAX) << shift { length } else { (1 << (bits - 1)) - 1 };
    capacity.min(LARGEST_WINDOW)
}

/// The largest window that TCP can announce (RFC 7323 section 2.3).
const LARGEST_WINDOW: usize = (1 << 30) - 1;

/// Proof that nothing refers to a slot's rings any more. Only a slot that is taken apart makes one, out of the socket that
/// owned them: memory that is lent for ever, as [`Ring::Borrowed`] says, may be lent anew by it.
#[derive(Debug)]
pub struct Vacant {
    slot: usize,
}

impl Vacant {
    /// `socket` is the one with the slot's rings.
    pub(crate) fn new(slot: usize, socket: SocketSet<'static>) -> Vacant {
        drop(socket);
        Vacant { slot }
    }

    /// The slot.
    pub fn slot(&self) -> usize {
        self.slot
    }
}

/// Gives the memory of the flows. A slot's rings are reused by its flows until the slot is taken apart.
pub trait RingMemory {
    /// The rings of a new slot, or of one whose rings were taken back: what its programs send, and what they receive.
    /// None: no more memory, and the SYN is refused.
    fn rings(&mut self, slot: usize) -> Option<(Ring, Ring)>;

    /// Nothing in the slot's rings is needed: their pages may be given back. The rings themselves stay in use.
    fn reclaim(&mut self, slot: usize);

    /// The slot's rings are no more; they may be asked for again. What has pages was reclaimed before.
    fn take_back(&mut self, vacant: Vacant);
}

/// A provider of vectors, for tests and for systems without demand paging.
#[derive(Debug)]
pub struct VecMemory {
    ring_size: usize,
    slots: usize,
    reclaimed: Vec<usize>,
    lent: usize,
}

impl VecMemory {
    /// Rings of this size, for at most so many slots.
    pub fn new(ring_size: usize, slots: usize) -> VecMemory {
        VecMemory { ring_size, slots, reclaimed: Vec::new(), lent: 0 }
    }

    /// The slots whose memory was given back so far, in order.
    pub fn reclaimed(&self) -> &[usize] {
        &self.reclaimed
    }

    /// How many slots have rings.
    pub fn lent(&self) -> usize {
        self.lent
    }
}

impl RingMemory for VecMemory {
    fn rings(&mut self, slot: usize) -> Option<(Ring, Ring)> {
        let rings =
            (slot < self.slots).then(|| (vec![0; self.ring_size].into(), vec![0; self.ring_size].into()));
        self.lent += usize::from(rings.is_some());
        rings
    }

    fn reclaim(&mut self, slot: usize) {
        self.reclaimed.push(slot);
    }

    fn take_back(&mut self, _: Vacant) {
        self.lent -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_of_a_syn_ack_never_outgrows_the_ring_when_scaled() {
        for length in [1, 4096, 65_535, 65_536, 100_000, 131_071, 262_143, 262_144, 300_000, 1 << 20] {
            let capacity = receive_capacity(length);
            let scale = (usize::BITS - capacity.leading_zeros()).saturating_sub(16);
            assert!(capacity <= length);
            assert!(capacity + 1 > length / 2, "{length} shrank to {capacity}");
            assert!(capacity.min(65_535) << scale <= capacity, "{length} became {capacity}");
        }
    }

    #[test]
    fn a_ring_of_a_power_of_two_loses_one_byte() {
        assert_eq!(receive_capacity(256 * 1024), 256 * 1024 - 1);
    }
}
