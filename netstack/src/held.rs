//! SYNs that wait for their answer.
//!
//! They are held here and not in smoltcp: its `pause_synack` makes the caller spin, and a socket with its rings for each
//! would let a port scan take all memory. A held SYN costs its headers and nothing else.

use std::time::{Duration, Instant};

use crate::demux::FourTuple;
use crate::segment::{self, Segment};
use crate::wire::IpPacket;

/// Linux asks for 127 s, the last pause being 64 s; past this nobody is waiting for our answer.
const LONGEST_SILENCE: Duration = Duration::from_secs(130);

/// Names a held SYN. A stale one names nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IncomingId {
    index: u32,
    generation: u32,
}

impl IncomingId {
    /// A small number, unique among the SYNs that are held at the same time.
    pub fn index(self) -> usize {
        self.index as usize
    }
}

/// A held SYN.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) tuple: FourTuple,
    /// Its headers, with which the listening socket is fed in the end.
    pub(crate) packet: Vec<u8>,
    /// Its sequence number tells a new attempt from one sent again.
    pub(crate) sequence: u32,
    /// The data that came with it, which a refusal must acknowledge.
    pub(crate) payload_len: u32,
    pub(crate) window_scale: Option<u8>,
    last_asked: Instant,
    pub(crate) alarm: Option<Instant>,
}

impl Held {
    pub(crate) fn new(packet: &IpPacket<'_>, segment: &Segment, scale: Option<u8>, now: Instant) -> Held {
        Held {
            tuple: segment.tuple,
            packet: segment::without_payload(packet, segment),
            sequence: segment.sequence,
            payload_len: segment.payload_len as u32,
            window_scale: scale,
            last_asked: now,
            alarm: None,
        }
    }

    /// Whether an RST can be its program's: nothing was said yet, so it stands right behind the SYN (RFC 5961).
    pub(crate) fn is_withdrawn_by(&self, reset: &Segment) -> bool {
        let behind = reset.sequence.wrapping_sub(self.sequence.wrapping_add(1));
        behind <= self.payload_len
    }

    /// The program asks for it again.
    pub(crate) fn ask_again(&mut self, now: Instant) {
        self.last_asked = now;
    }

    pub(crate) fn expires_at(&self) -> Instant {
        self.last_asked + LONGEST_SILENCE
    }
}

/// All held SYNs.
#[derive(Debug, Default)]
pub(crate) struct HeldSyns {
    places: Vec<Place>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Place {
    generation: u32,
    /// On the heap, so that a flood of SYNs leaves 16 bytes a place behind.
    held: Option<Box<Held>>,
}

impl HeldSyns {
    pub(crate) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(crate) fn insert(&mut self, held: Held) -> IncomingId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place { generation: 0, held: None });
            (self.places.len() - 1) as u32
        });
        let place = &mut self.places[index as usize];
        place.held = Some(Box::new(held));
        IncomingId { index, generation: place.generation }
    }

    /// Takes a SYN out by its name.
    pub(crate) fn take(&mut self, id: IncomingId) -> Option<Held> {
        let place = self.places.get_mut(id.index as usize)?;
        if place.generation != id.generation {
            return None;
        }
        let held = place.held.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(id.index);
        Some(*held)
    }

    pub(crate) fn at(&mut self, index: u32) -> Option<&mut Held> {
        self.places.get_mut(index as usize)?.held.as_deref_mut()
    }

    /// The name of the SYN at an index.
    pub(crate) fn id(&self, index: u32) -> Option<IncomingId> {
        let place = self.places.get(index as usize)?;
        place.held.is_some().then_some(IncomingId { index, generation: place.generation })
    }
}
