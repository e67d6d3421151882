//! The way of a TCP segment in: to a held SYN, to its flow, or to nobody.

use crate::demux::{FourTuple, Owner};
use crate::device::OneShot;
use crate::event::{Event, Incoming};
use crate::flow::Phase;
use crate::held::Held;
use crate::memory::RingMemory;
use crate::segment::{self, ACK, FIN, RST, Segment};
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
        match self.tuples.get(&segment.tuple).copied() {
            Some(Owner::Held(index)) => self.handle_segment_of_held(index, packet, &segment),
            Some(Owner::Flow(slot)) => self.handle_segment_of_flow(slot, packet, &segment),
            Some(Owner::TimeWait(_)) if segment.is_request() => self.hold(packet, &segment),
            Some(Owner::TimeWait(_)) if segment.has(RST) => {
                self.tuples.remove(&segment.tuple);
            }
            Some(Owner::TimeWait(note)) => {
                // Most often its FIN once more: our acknowledgement was lost (RFC 9293 section 3.10.7.4).
                let reply = segment::bare(segment.tuple, note.sequence, note.acknowledgement, ACK, 0);
                self.reply_with(reply);
            }
            None if segment.is_request() => self.hold(packet, &segment),
            None => {
                self.counters.stray_segments += 1;
                self.reply_with(segment.refusal());
            }
        }
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
        self.tuples.insert(segment.tuple, Owner::Held(index));
        self.arm_held(index);
        self.syn_events += 1;
        let FourTuple { source, destination } = segment.tuple;
        self.events.push_back(Event::Incoming(Incoming { id, source, destination }));
    }

    fn handle_segment_of_held(&mut self, index: u32, packet: &IpPacket<'_>, segment: &Segment) {
        let now = self.now;
        let Some(held) = self.held.at(index) else { return };
        if segment.has(RST) {
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
            self.tuples.remove(&held.tuple);
            self.syn_events += 1;
            self.events.push_back(Event::IncomingGone(id));
        }
    }

    fn handle_segment_of_flow(&mut self, slot: u32, packet: &IpPacket<'_>, segment: &Segment) {
        if segment.is_request() {
            return self.handle_request_on_flow(slot, packet, segment);
        }
        let now = self.now;
        let flow = &mut self.flows[slot as usize];
        flow.hear(now);
        flow.window.hear(segment);
        let before = flow.progress();
        self.feed_flow(slot, packet, segment);

        let flow = &mut self.flows[slot as usize];
        if flow.progress() != before {
            flow.progress_at = now;
        }
        if segment.payload_len > 0 {
            flow.has_pages = true;
            let end = segment.sequence.wrapping_add(segment.payload_len as u32);
            if end.wrapping_sub(flow.furthest) as i32 > 0 {
                flow.furthest = end;
            }
        }
        match flow.socket().state() {
            // A refused handshake sends smoltcp's socket back to listening.
            State::Listen => self.lose(slot),
            State::Closed if segment.has(RST) => self.lose(slot),
            State::Closed => self.end(slot),
            State::SynSent
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

    /// Gives a flow's segment to smoltcp, which accepts a FIN even where it had to cut off the last bytes before it at the
    /// window's edge, so that these would be lost. So a FIN goes in by itself, and waits for its turn like any other
    /// byte.
    fn feed_flow(&mut self, slot: u32, packet: &IpPacket<'_>, segment: &Segment) {
        if segment.has(FIN) && segment.payload_len > 0 {
            self.feed(slot, &segment::without_fin(packet));
            self.feed(slot, &segment::fin_alone(packet, segment));
        } else {
            self.feed(slot, packet.bytes);
        }
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
    fn handle_request_on_flow(&mut self, slot: u32, packet: &IpPacket<'_>, segment: &Segment) {
        let flow = &self.flows[slot as usize];
        if flow.phase == Phase::Closing {
            self.discard(slot);
            return self.hold(packet, segment);
        }
        // Our owner must hear of it by an RST, which the kernel sends as an answer to this (RFC 5961 section 4); the SYN
        // comes again. A forged one does no harm. smoltcp drops such a SYN without a word. A SYN sent again before our
        // SYN-ACK was seen ends here too, and is answered like that one.
        if flow.socket().state() == State::SynReceived {
            return self.counters.repeated_syns += 1;
        }
        let reply = segment::bare(segment.tuple, flow.sent_end, flow.acknowledged, ACK, flow.window.last);
        self.reply_with(reply);
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
