//! What one connection may do: a program's kernel, the bytes both ways, and the stack's owner, as small as they can be.
//!
//! Offsets count from the first byte of a stream. The model does not say what the stack takes of what a hostile program
//! sends; it says what it can never do: read out what was not sent, acknowledge it, say what was not written, take back
//! what it said, forget what a reader waits for.

use std::time::Instant;

use portlatch_netstack::FlowId;

use super::segment::{self, ACK, FIN, Offer, RST, SYN, Segment};
use super::stream::{LONGEST, Sent, bytes_at};

/// The scale that programs offer.
pub(super) const SCALE: u8 = 3;

/// What the owner of a flow knows.
#[derive(Debug, Clone)]
pub(super) struct Owner {
    pub(super) flow: FlowId,
    /// A read, a write, said that it was blocked, and no event came since.
    pub(super) waits_to_read: bool,
    pub(super) waits_to_write: bool,
    /// An event said that it would not be blocked.
    pub(super) may_read: bool,
    pub(super) may_write: bool,
    pub(super) is_gone: bool,
    /// The owner has reset or released it.
    pub(super) is_let_go: bool,
    pub(super) has_read_all: bool,
}

impl Owner {
    pub(super) fn new(flow: FlowId) -> Self {
        Self {
            flow,
            waits_to_read: true,
            waits_to_write: true,
            may_read: false,
            may_write: false,
            is_gone: false,
            is_let_go: false,
            has_read_all: false,
        }
    }

    /// Whether its name must still stand for something.
    pub(super) fn is_alive(&self) -> bool {
        !self.is_gone && !self.is_let_go
    }
}

/// One connection from its SYN on.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    salt: u32,
    isn: u32,
    /// The program offered a scale, and so do we.
    is_scaled: bool,
    pub(super) owner: Option<Owner>,
    /// When the stack last heard something of the program that it must take for a sign of life.
    pub(super) heard_at: Instant,
    /// The program has acknowledged the SYN-ACK in a way that no stack can miss.
    is_shaken: bool,

    // Up: from the program.
    pub(super) sent: Sent,
    /// How far the stack has acknowledged, its FIN included.
    pub(super) told: i64,
    /// How far it lets the program send.
    pub(super) edge: i64,
    pub(super) read: i64,

    // Down: to the program.
    iss: Option<u32>,
    own_scale: u8,
    pub(super) written: i64,
    pub(super) is_finished: bool,
    /// How far the stack has sent, its FIN included.
    said: i64,
    /// How far the program has it, without a hole.
    pub(super) got: i64,
    pub(super) got_fin: bool,
    /// How far the program has acknowledged it.
    acknowledged: i64,
    /// How far the program ever let the stack send.
    allowed: i64,
    /// The window that the program offers now.
    pub(super) window: u16,
}

impl Connection {
    pub(super) fn new(salt: u32, syn: &Segment, now: Instant) -> Self {
        Self {
            salt,
            isn: syn.sequence,
            is_scaled: segment::read_scale(syn).is_some(),
            owner: None,
            heard_at: now,
            is_shaken: false,
            sent: Sent::default(),
            told: 0,
            edge: 0,
            read: 0,
            iss: None,
            own_scale: 0,
            written: 0,
            is_finished: false,
            said: 0,
            got: 0,
            got_fin: false,
            acknowledged: 0,
            allowed: 0,
            window: u16::MAX,
        }
    }

    pub(super) fn isn(&self) -> u32 {
        self.isn
    }

    /// Whether the program has seen a SYN-ACK.
    pub(super) fn is_established(&self) -> bool {
        self.iss.is_some()
    }

    /// Whether the handshake is done for the stack too, beyond doubt.
    pub(super) fn is_shaken(&self) -> bool {
        self.is_shaken || self.told > 0 || self.said > 0
    }

    /// The offset of one of the program's sequence numbers, near to where the stack stands.
    pub(super) fn up_offset(&self, sequence: u32) -> i64 {
        let near = self.up_sequence(self.told);
        self.told + i64::from(sequence.wrapping_sub(near).cast_signed())
    }

    pub(super) fn up_sequence(&self, offset: i64) -> u32 {
        self.isn.wrapping_add(1).wrapping_add(low_bits(offset))
    }

    fn down_offset(&self, sequence: u32) -> i64 {
        let first = self.iss.unwrap_or(0).wrapping_add(1);
        let near = first.wrapping_add(low_bits(self.said));
        self.said + i64::from(sequence.wrapping_sub(near).cast_signed())
    }

    pub(super) fn down_sequence(&self, offset: i64) -> u32 {
        self.iss.unwrap_or(0).wrapping_add(1).wrapping_add(low_bits(offset))
    }

    /// What the program acknowledges.
    pub(super) fn acknowledgement(&self) -> u32 {
        self.down_sequence(self.got + i64::from(self.got_fin))
    }

    /// Whether the program has what it has not acknowledged yet.
    pub(super) fn has_news(&self) -> bool {
        self.acknowledged < self.got + i64::from(self.got_fin)
    }

    /// The program's bytes at this place of its stream.
    pub(super) fn up_bytes(&self, offset: i64, length: usize) -> &'static [u8] {
        bytes_at(self.salt, offset, length)
    }

    /// The owner's bytes from where it stands on.
    pub(super) fn down_bytes(&self, length: usize) -> &'static [u8] {
        bytes_at(!self.salt, self.written, length)
    }

    /// A segment of the program that is neither SYN nor RST is about to arrive.
    pub(super) fn note_arrival(&mut self, segment: &Segment, now: Instant) {
        if segment.options.is_empty() {
            self.heard_at = now;
        }
        let offset = self.up_offset(segment.sequence);
        let end = offset + i64::from(segment.len());
        self.sent.add(offset, end);
        if segment.has(FIN) {
            self.sent.add_fin(end);
        }
        if !segment.has(ACK) || self.iss.is_none() {
            return;
        }
        let acknowledged = self.down_offset(segment.acknowledgement);
        if acknowledged > self.said {
            return;
        }
        let is_plain = segment.options.is_empty() && !segment.has(FIN);
        self.is_shaken |= is_plain && offset == self.told && acknowledged == 0;
        self.acknowledged = self.acknowledged.max(acknowledged);
        // Whoever acknowledges it has it, as far as the stack is concerned.
        if acknowledged > self.got {
            self.got = acknowledged.min(self.written);
            self.got_fin |= acknowledged > self.written;
        }
        let shift = if self.is_scaled { SCALE } else { 0 };
        self.allowed = self.allowed.max(acknowledged + (i64::from(segment.window) << shift));
    }

    /// The owner was shown these bytes, and took all of them.
    pub(super) fn note_read(&mut self, bytes: &[u8]) {
        assert!(!bytes.is_empty(), "a reader was shown nothing");
        for (offset, bytes) in (self.read..).step_by(LONGEST).zip(bytes.chunks(LONGEST)) {
            assert!(bytes == bytes_at(self.salt, offset, bytes.len()), "another byte was read than was sent");
        }
        self.read += i64::try_from(bytes.len()).expect("a length");
        assert!(self.read <= self.sent.contiguous(), "more was read than was sent");
    }

    /// The owner was told that the program has finished.
    pub(super) fn note_end(&mut self) {
        assert!(self.sent.has_fin_at(self.read), "an end was read that was not sent");
        if let Some(owner) = &mut self.owner {
            owner.has_read_all = true;
        }
    }

    /// A segment of the stack's for this connection, which it must be able to say.
    pub(super) fn check_departure(&mut self, segment: &Segment, offer: Offer) {
        assert!(segment.has(ACK), "nothing is acknowledged");
        if segment.has(SYN) {
            return self.check_syn_ack(segment, offer);
        }
        assert!(self.iss.is_some(), "a segment before the SYN-ACK");
        self.check_acknowledgement(segment);
        let offset = self.down_offset(segment.sequence);
        let end = offset + i64::from(segment.len());
        if self.is_keep_alive(segment, offset) {
            return;
        }
        if !segment.payload.is_empty() {
            assert!(offset >= 0 && end <= self.written, "a byte was sent that was not written");
            let written = bytes_at(!self.salt, offset, segment.payload.len());
            assert!(segment.payload == written, "another byte was sent than was written");
        }
        // One byte asks whether there is room. And smoltcp sends the first segment that is missing again at once,
        // without a look at the window.
        let is_beside = segment.len() <= 1 || offset == self.acknowledged;
        assert!(end <= self.allowed || is_beside, "{end} was sent and {} allowed", self.allowed);
        if segment.has(FIN) {
            assert!(self.is_finished && end == self.written, "an end that was not said");
        }
        self.said = self.said.max(end + i64::from(segment.has(FIN)));
    }

    /// One byte from before what is next: the answer says whether the program still knows the connection.
    fn is_keep_alive(&self, segment: &Segment, offset: i64) -> bool {
        segment.payload == [0] && !segment.has(FIN) && (-1..self.said.max(0)).contains(&offset)
    }

    fn check_syn_ack(&mut self, segment: &Segment, offer: Offer) {
        assert_eq!(segment.acknowledgement, self.up_sequence(0), "a SYN-ACK of another SYN");
        assert!(segment.payload.is_empty() && !segment.has(FIN), "a SYN-ACK with data");
        assert_eq!(offer.scale.is_some(), self.is_scaled, "a scale that was not offered");
        let iss = *self.iss.get_or_insert(segment.sequence);
        assert_eq!(iss, segment.sequence, "a second SYN-ACK of another number");
        self.own_scale = offer.scale.unwrap_or(0);
        self.edge = self.edge.max(i64::from(segment.window));
    }

    fn check_acknowledgement(&mut self, segment: &Segment) {
        let told = self.up_offset(segment.acknowledgement);
        assert!(told >= self.told, "an acknowledgement was taken back: {told} after {}", self.told);
        let contiguous = self.sent.contiguous();
        let is_behind_fin = self.sent.has_fin_at(told - 1) && told - 1 <= contiguous;
        assert!(told <= contiguous || is_behind_fin, "what was not sent was acknowledged: {told}");
        self.told = told;
        let edge = told + (i64::from(segment.window) << self.own_scale);
        let unit = 1 << self.own_scale;
        // The SYN-ACK's window is not scaled, and neither is that of a flow that is over.
        let is_over = segment.window == 0 && self.sent.has_fin_at(told - 1);
        assert!(edge + unit >= self.edge || is_over, "the window was taken back: {edge} after {}", self.edge);
        self.edge = self.edge.max(edge);
    }

    /// The program takes a segment that it was sent, if it fits.
    pub(super) fn take(&mut self, segment: &Segment) {
        let offset = self.down_offset(segment.sequence);
        if segment.has(SYN | RST) || self.is_keep_alive(segment, offset) || offset > self.got {
            return;
        }
        let end = offset + i64::from(segment.len());
        self.got = self.got.max(end);
        self.got_fin |= segment.has(FIN) && end == self.got;
    }

    /// Whether an RST with this number may end the connection, as far as the model can know.
    pub(super) fn may_end_by(&self, reset: &Segment) -> bool {
        let offset = self.up_offset(reset.sequence);
        (self.told..=self.sent.furthest().max(self.told)).contains(&offset)
    }

    /// Whether an RST with this number must end it: the program's kernel would send no other one.
    pub(super) fn must_end_by(&self, reset: &Segment) -> bool {
        self.up_offset(reset.sequence) == self.told
    }

    /// Whether the owner has read the end, and the program has all that was written and its end.
    pub(super) fn has_everything(&self) -> bool {
        let has_read_all = self.owner.as_ref().is_some_and(|owner| owner.has_read_all);
        has_read_all && self.got == self.written && self.got_fin
    }

    /// Whether nothing more can come of it: both have finished, and both know.
    pub(super) fn is_over(&self) -> bool {
        let up = self.sent.has_fin_at(self.told - 1);
        let down = self.is_finished && self.said > self.written;
        up && down
    }
}

/// A part of a sequence number.
fn low_bits(offset: i64) -> u32 {
    u32::try_from(offset & 0xffff_ffff).expect("masked")
}
