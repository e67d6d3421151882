//! The receive window that the program is told of, which is a little smaller than smoltcp's.
//!
//! smoltcp announces its free space in units of two to the power of the scale, rounded down each time anew. So the edge
//! up to which a program may send moves back by up to a unit whenever an odd number of bytes arrives, and what is under
//! way to the old edge is cut off there, to be sent again only after the program's retransmission timeout. A full ring
//! would bring that with nearly every round trip. The edges that smoltcp announces while nothing is read lie within less
//! than one unit of each other; a program that is told one unit less never meets any of them.
//!
//! And smoltcp forgets what it announces with a probe or a keep-alive. These repeat the edge of before.

use crate::segment::{ACK, SYN, Segment};

/// RFC 7323 section 2.3.
const LARGEST_SCALE: u8 = 14;

/// Both windows of a flow, as far as segments have told of them.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Window {
    /// The scale of what we announce.
    own_scale: u8,
    /// The scale of what the program announces.
    scale: u8,
    /// The edge that smoltcp remembers to have announced.
    announced: u32,
    /// The edge up to which the program lets us send, and how far that is from what it has acknowledged.
    allowed: u32,
    room: u32,
    /// The window of the last packet.
    pub(crate) last: u16,
}

impl Window {
    /// The windows of a flow whose SYN offered this scale, with a receive ring of this capacity.
    pub(crate) fn new(offered_scale: Option<u8>, capacity: usize) -> Window {
        let bits = usize::BITS - capacity.leading_zeros();
        let own_scale = offered_scale.map_or(0, |_| bits.saturating_sub(16) as u8);
        let scale = offered_scale.unwrap_or(0).min(LARGEST_SCALE);
        Window { own_scale, scale, announced: 0, allowed: 0, room: 0, last: 0 }
    }

    /// A segment of the program arrived, when it was still to acknowledge so much and we expected this byte of it. What
    /// smoltcp does not hear of it (RFC 9293 section 3.10.7.4) is not heard here either.
    pub(crate) fn hear(&mut self, segment: &Segment, outstanding: u32, expected: u32) {
        let advance = segment.acknowledgement.wrapping_sub(self.acknowledged());
        if !segment.has(ACK) || advance > outstanding || !self.accepts(segment, expected) {
            return;
        }
        let scale = if segment.has(SYN) { 0 } else { self.scale };
        self.room = u32::from(segment.window) << scale;
        self.allowed = segment.acknowledgement.wrapping_add(self.room);
    }

    /// Whether a byte of the program's stream lies in the window that it was offered, which begins at the expected one.
    pub(crate) fn reaches(&self, byte: u32, expected: u32) -> bool {
        byte.wrapping_sub(expected) < self.announced.wrapping_sub(expected)
    }

    /// Whether some of a segment lies in that window, as RFC 9293 section 3.10.7.4 has it.
    pub(crate) fn accepts(&self, segment: &Segment, expected: u32) -> bool {
        let is_first_within = self.reaches(segment.sequence, expected);
        if segment.payload_len == 0 {
            return is_first_within || segment.sequence == expected;
        }
        let last = segment.sequence.wrapping_add(segment.payload_len as u32 - 1);
        is_first_within || self.reaches(last, expected)
    }

    /// How far the program has acknowledged what we sent.
    pub(crate) fn acknowledged(&self) -> u32 {
        self.allowed.wrapping_sub(self.room)
    }

    /// How many bytes the program has room for, counted from what it has acknowledged.
    pub(crate) fn room(&self) -> usize {
        self.room as usize
    }

    /// The window to send with a segment of smoltcp's.
    pub(crate) fn offer(&mut self, segment: &Segment) -> u16 {
        let edge = segment.acknowledgement.wrapping_add(u32::from(segment.window) << self.own_scale);
        if segment.has(SYN) {
            // Not scaled yet, though smoltcp remembers it as if it were.
            self.announced = edge;
            // Nothing may be sent yet, and nothing is acknowledged but what came before the SYN.
            self.allowed = segment.end();
            // What is said before anything else is must offer the same, and that is scaled.
            self.last = self.last.max(segment.window >> self.own_scale);
            return segment.window;
        }
        let mut units = segment.window;
        if self.is_probe(segment) {
            let remembered = self.announced.wrapping_sub(segment.acknowledgement) >> self.own_scale;
            units = units.min(u16::try_from(remembered).unwrap_or(u16::MAX));
        } else {
            self.announced = edge;
        }
        self.last = units.saturating_sub(1);
        self.last
    }

    /// Whether smoltcp asks with this segment: one byte, and that behind the edge of what the program allows (a probe),
    /// or before what it has acknowledged (a keep-alive).
    fn is_probe(&self, segment: &Segment) -> bool {
        let is_behind = self.allowed.wrapping_sub(segment.sequence) as i32 <= 0;
        let is_before = segment.sequence.wrapping_sub(self.acknowledged()) as i32 <= -1;
        segment.payload_len == 1 && (is_behind || is_before)
    }
}
