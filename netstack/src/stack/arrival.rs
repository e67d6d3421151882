//! The way of a TCP segment in: to a held SYN, to its flow, or to nobody.

use crate::demux::{FourTuple, Owner};
use crate::device::OneShot;
use crate::event::{Event, Incoming};
use crate::flow::Phase;
use crate::held::Held;
use crate::memory::RingMemory;
use crate::segment::{self, ACK, FIN, RST, SYN, Segment};
use crate::stack::{MOST_SYN_EVENTS, Stack};
use crate::timers::Alarm;
use crate::wire::{self, IpPacket};

use smoltcp::socket::tcp::State;

/// The longest reply that smoltcp makes to a segment: an acknowledgement with its options, in IPv6.
const LONGEST_REPLY: usize = 128;

impl<M: RingMemory> Stack<M> {
    pub(super) fn handle_segment(&mut self, packet: &IpPacket<'_>) {
        if self.config.verify_checksums && !packet.has_good_checksum() {
            return self.counters.malformed += 1;
        }
        let Some(segment) = Segment::parse(packet) else { return self.counters.malformed += 1 };
        match self.owner_of(&segment.tuple) {
            Some(Owner::Held(index)) => self.handle_segment_of_held(index, packet, &segment),
            Some(Owner::Flow(slot)) => {
                self.guarded(slot, |stack| stack.handle_segment_of_flow(slot, packet, &segment));
            }
            Some(Owner::TimeWait(_)) if segment.is_request() => self.hold(packet, &segment),
            Some(Owner::TimeWait(number)) => self.handle_segment_of_grave(number, &segment),
            None if segment.is_request() => self.hold(packet, &segment),
            None => {
                self.counters.stray_segments += 1;
                self.reply_with(segment.refusal());
            }
        }
    }

    /// Who has this 4-tuple.
    fn owner_of(&mut self, tuple: &FourTuple) -> Option<Owner> {
        let owner = self.tuples.get(tuple)?;
        let owned = match owner {
            Owner::Held(index) => self.held.at(index)?.tuple,
            Owner::Flow(slot) => self.flows.get_mut(slot)?.tuple,
            Owner::TimeWait(number) => self.graves.note(number)?.tuple,
        };
        (owned == *tuple).then_some(owner)
    }

    /// A late segment of a connection that is over.
    fn handle_segment_of_grave(&mut self, number: u32, segment: &Segment) {
        let Some(note) = self.graves.note(number) else { return };
        let is_expected = segment.sequence == note.acknowledgement;
        if segment.has(RST) {
            // One that can only be forged must not open the 4-tuple to old segments (RFC 1337, RFC 5961).
            if is_expected {
                self.tuples.remove(&segment.tuple, Owner::TimeWait(number));
            }
            return;
        }
        // Nothing is answered to a mere acknowledgement, lest two ends acknowledge each other for ever.
        if is_expected && segment.end() == segment.sequence {
            return;
        }
        // Most often its FIN once more: our acknowledgement was lost (RFC 9293 section 3.10.7.4).
        let reply = segment::bare(segment.tuple, note.sequence, note.acknowledgement, ACK, 0);
        self.reply_with(reply);
    }

    /// Holds a SYN for its owner's answer.
    fn hold(&mut self, packet: &IpPacket<'_>, segment: &Segment) {
        let Ok(scale) = segment::window_scale(packet) else { return self.counters.malformed += 1 };
        if self.syn_events >= self.config.max_held + MOST_SYN_EVENTS {
            return self.counters.queue_full += 1;
        }
        if self.held.len() >= self.config.max_held {
            self.counters.held_overflow += 1;
            return self.reply_with(segment.refusal());
        }
        let id = self.held.insert(Held::new(packet, segment, scale, self.now));
        let index = id.index() as u32;
        self.tuples.insert(&segment.tuple, Owner::Held(index));
        self.arm_held(index);
        self.syn_events += 1;
        let FourTuple { source, destination } = segment.tuple;
        self.events.push_back(Event::Incoming(Incoming { id, source, destination }));
    }

    fn handle_segment_of_held(&mut self, index: u32, packet: &IpPacket<'_>, segment: &Segment) {
        let now = self.now;
        let Some(held) = self.held.at(index) else { return };
        if segment.has(RST) && held.is_withdrawn_by(segment) {
            return self.drop_held(index);
        }
        if !segment.is_request() {
            // Nothing was said yet that it could answer.
            return self.counters.unsupported += 1;
        }
        if held.sequence == segment.sequence {
            held.ask_again(now);
            return self.counters.repeated_syns += 1;
        }
        self.drop_held(index);
        self.hold(packet, segment);
    }

    /// A held SYN's alarm: gone, unless its program has asked again since.
    pub(super) fn handle_silence(&mut self, index: u32) {
        let now = self.now;
        let Some(held) = self.held.at(index) else { return };
        held.alarm = None;
        if held.expires_at() <= now {
            self.drop_held(index);
        } else {
            self.arm_held(index);
        }
    }

    fn arm_held(&mut self, index: u32) {
        if let Some(held) = self.held.at(index) {
            let deadline = held.expires_at();
            self.timers.arm(Alarm::Held(index), &mut held.alarm, deadline);
        }
    }

    /// Forgets a held SYN and says so.
    fn drop_held(&mut self, index: u32) {
        let Some(id) = self.held.id(index) else { return };
        if let Some(held) = self.take_held(id) {
            self.tuples.remove(&held.tuple, Owner::Held(index));
            self.syn_events += 1;
            self.events.push_back(Event::IncomingGone(id));
        }
    }

    fn handle_segment_of_flow(&mut self, slot: u32, packet: &IpPacket<'_>, segment: &Segment) {
        if segment.has(SYN) {
            return self.handle_syn_on_flow(slot, packet, segment);
        }
        if segment.has(RST) {
            return self.handle_reset(slot, segment);
        }
        if !segment::has_good_options(packet, segment) {
            return self.counters.malformed += 1;
        }
        let now = self.now;
        let flow = &mut self.flows[slot as usize];
        flow.hear(now);
        if flow.is_premature(segment) {
            return self.challenge(slot);
        }
        let before = flow.progress();
        if flow.is_idle_talk(segment) {
            flow.hear_window(segment);
        } else {
            self.feed_flow(slot, packet, segment);
        }

        let flow = &mut self.flows[slot as usize];
        if flow.progress() != before {
            flow.progress_at = now;
        }
        if segment.payload_len > 0 {
            flow.has_pages = true;
        }
        flow.note_reach(segment);
        match flow.socket().state() {
            State::Closed => self.end(slot),
            State::Listen
            | State::SynSent
            | State::SynReceived
            | State::Established
            | State::FinWait1
            | State::FinWait2
            | State::CloseWait
            | State::Closing
            | State::LastAck
            | State::TimeWait => {
                flow.close_when_finished();
                if flow.phase == Phase::Closing && flow.socket().recv_queue() > 0 {
                    // Nobody will read it, and the program should know (RFC 9293 section 3.6.1).
                    return self.abort(slot);
                }
                self.mark_dirty(slot);
                self.raise(slot);
            }
        }
    }

    /// An RST. smoltcp takes every one within the window; a forged one must hit a single number (RFC 5961 section 3.2).
    fn handle_reset(&mut self, slot: u32, segment: &Segment) {
        let flow = &self.flows[slot as usize];
        if flow.believes_reset(segment) {
            return self.lose(slot);
        }
        self.counters.doubtful_resets += 1;
        if flow.window.reaches(segment.sequence, flow.expected()) {
            self.challenge(slot);
        }
    }

    /// Says where we stand, without moving: a kernel that knows nothing of the flow answers with an RST at that very
    /// number, and one that does takes it for a duplicate (RFC 5961 sections 3.2 and 4.2).
    fn challenge(&mut self, slot: u32) {
        let flow = &self.flows[slot as usize];
        let reply = segment::bare(flow.tuple, flow.sent_end, flow.acknowledged, ACK, flow.window.last);
        self.reply_with(reply);
    }

    /// Gives a flow's segment to smoltcp as it is best for it to see it.
    fn feed_flow(&mut self, slot: u32, packet: &IpPacket<'_>, segment: &Segment) {
        if !self.flows[slot as usize].is_fin_outstanding() {
            return self.feed_parts(slot, packet, segment);
        }
        // There was room for everything up to our FIN, or it would not have been said. If a program takes its offer back,
        // smoltcp stops to send again what it threw away: in LAST-ACK it does not hear that there is room again, and in
        // any other state it asks in the place of the FIN. So it does not hear of windows any more, and tries again.
        let mut bytes = packet.bytes.to_vec();
        segment::set_window(&mut bytes[packet.header_len..], u16::MAX);
        self.feed_parts(slot, &IpPacket { bytes: &bytes, ..*packet }, segment);
    }

    /// Gives it to smoltcp in parts where it must.
    ///
    /// smoltcp accepts a FIN even where it had to cut off the last bytes before it at the window's edge, so that these
    /// would be lost. So a FIN goes in by itself, and waits for its turn like any other byte. And it takes bytes from
    /// behind a FIN for more of the stream.
    fn feed_parts(&mut self, slot: u32, packet: &IpPacket<'_>, segment: &Segment) {
        if self.flows[slot as usize].is_behind_the_end(segment) {
            let part = Segment { payload_len: 0, ..*segment };
            self.feed_part(slot, &segment::without_payload(packet, segment), &part);
        } else if segment.has(FIN) && segment.payload_len > 0 {
            let part = Segment { flags: segment.flags & !FIN, ..*segment };
            self.feed_part(slot, &segment::without_fin(packet), &part);
            if self.flows[slot as usize].socket().state() == State::SynReceived {
                // What it acknowledges is wrong, and was answered.
                return;
            }
            let sequence = segment.sequence.wrapping_add(segment.payload_len as u32);
            let part = Segment { sequence, payload_len: 0, ..*segment };
            self.feed_part(slot, &segment::fin_alone(packet, segment), &part);
        } else {
            self.feed_part(slot, packet.bytes, segment);
        }
    }

    /// Gives it a part, of which the windows hear what smoltcp hears: it may take the end of a segment whose bytes it does
    /// not take, since they are old, or since only its answer to them made room for the end.
    fn feed_part(&mut self, slot: u32, packet: &[u8], part: &Segment) {
        self.flows[slot as usize].hear_window(part);
        self.feed(slot, packet);
    }

    /// Gives a packet to a slot's socket, and keeps its reply.
    pub(super) fn feed(&mut self, slot: u32, packet: &[u8]) {
        self.counters.flow_visits += 1;
        let mut reply = [0; LONGEST_REPLY];
        let mut device = OneShot::receiving(self.card, packet, &mut reply);
        let now = self.epoch.to_smoltcp(self.now);
        let flow = &mut self.flows[slot as usize];
        self.interface.poll_ingress_single(now, &mut device, &mut flow.sockets);
        let written = device.written();
        if written == 0 {
            return;
        }
        let reply = &mut reply[..written];
        self.flows[slot as usize].note_sent(reply, self.now);
        complete_checksum(reply);
        let reply = reply.to_vec();
        self.reply(reply);
    }

    /// A SYN on a flow that is alive for us: its program's kernel knows nothing of it any more.
    fn handle_syn_on_flow(&mut self, slot: u32, packet: &IpPacket<'_>, segment: &Segment) {
        let flow = &self.flows[slot as usize];
        if flow.phase == Phase::Closing && segment.is_request() {
            self.discard(slot);
            return self.hold(packet, segment);
        }
        // Sent again before our SYN-ACK was seen, which smoltcp sends again by itself.
        let is_repeated = segment.is_request() && segment.sequence.wrapping_add(1) == flow.first;
        if is_repeated && flow.socket().state() == State::SynReceived {
            return self.counters.repeated_syns += 1;
        }
        // Our owner must hear of it by an RST, which the kernel sends as an answer to this (RFC 5961 section 4); the SYN
        // comes again. A forged one does no harm. smoltcp drops such a SYN without a word.
        self.challenge(slot);
    }
}

/// Completes the TCP checksum of a reply of smoltcp's: replies leave with whole checksums.
fn complete_checksum(bytes: &mut [u8]) {
    let Ok(packet) = IpPacket::parse(bytes) else { return };
    let (header_len, payload_len) = (packet.header_len, packet.payload().len());
    let pseudo = wire::pseudo_header(packet.source, packet.destination, wire::TCP, payload_len);
    let at = header_len + segment::CHECKSUM;
    wire::put_u16(bytes, at, 0);
    let checksum = !wire::fold(pseudo + wire::sum(&bytes[header_len..]));
    wire::put_u16(bytes, at, checksum);
}
