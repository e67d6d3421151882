//! The way of packets out, one at a time into the caller's buffer, and what time does to a flow.

use std::time::{Duration, Instant};

use smoltcp::socket::tcp::State;

use crate::device::OneShot;
use crate::flow::Phase;
use crate::memory::RingMemory;
use crate::segment;
use crate::stack::Stack;
use crate::timers::Alarm;
use crate::wire::{self, IpPacket};

/// smoltcp asked to be polled at once, was, and had nothing to say: a pause, lest the caller spin.
const PAUSE: Duration = Duration::from_millis(10);

/// What must still happen to a leaving packet's checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// Nothing.
    Complete,
    /// The kernel is to sum the bytes from `start` on and put the result at `start + offset`, where the sum of the
    /// pseudo-header is already: `VIRTIO_NET_HDR_F_NEEDS_CSUM` with `csum_start` and `csum_offset`.
    Partial {
        /// Where the TCP header begins.
        start: u16,
        /// Where its checksum is, from there.
        offset: u16,
    },
}

/// A packet that was written into the caller's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutPacket {
    /// Its length.
    pub len: usize,
    /// What must still be done to it.
    pub checksum: Checksum,
}

impl<M: RingMemory> Stack<M> {
    /// Writes the next packet for the TUN into the buffer, which must take the longest one (the configured MTU).
    ///
    /// Each flow that has something to send gets its turn for one packet.
    pub fn poll_packet(&mut self, now: Instant, buffer: &mut [u8]) -> Option<OutPacket> {
        self.now = self.now.max(now);
        while let Some(reply) = self.replies.pop() {
            if let Some(place) = buffer.get_mut(..reply.len()) {
                place.copy_from_slice(&reply);
                self.counters.packets_out += 1;
                return Some(OutPacket { len: reply.len(), checksum: Checksum::Complete });
            }
            self.counters.queue_full += 1;
        }
        if buffer.len() < self.card.mtu {
            return None;
        }
        while let Some(slot) = self.dirty.pop_front() {
            self.flows[slot as usize].is_dirty = false;
            if let Some(packet) = self.guarded(slot, |stack| stack.serve(slot, buffer)).flatten() {
                self.counters.packets_out += 1;
                return Some(packet);
            }
        }
        None
    }

    /// Lets a flow say one packet; if it has none, sees to its deadlines.
    fn serve(&mut self, slot: u32, buffer: &mut [u8]) -> Option<OutPacket> {
        self.counters.flow_visits += 1;
        self.flows[slot as usize].catch_up(self.now);
        self.reclaim_when_idle(slot);
        let flow = &mut self.flows[slot as usize];
        match flow.phase {
            Phase::Free | Phase::Over => {
                self.arm(slot, None);
                return None;
            }
            Phase::Owned | Phase::Closing => {
                if flow.give_up_at().is_some_and(|deadline| deadline <= self.now) {
                    self.give_up(slot);
                }
            }
            Phase::Aborting => {}
        }
        match self.transmit(slot, buffer) {
            Some(packet) => {
                self.after_packet(slot);
                Some(packet)
            }
            None => {
                self.after_silence(slot);
                None
            }
        }
    }

    fn transmit(&mut self, slot: u32, buffer: &mut [u8]) -> Option<OutPacket> {
        let flow = &mut self.flows[slot as usize];
        let is_waiting = flow.socket().state() == State::TimeWait;
        // Ten seconds after its TIME-WAIT began smoltcp would empty the rings, be they read or not.
        let now = self.epoch.to_smoltcp(if is_waiting { flow.last_heard } else { self.now });
        let mut device = OneShot::sending(self.card, buffer);
        self.interface.poll_egress(now, &mut device, &mut flow.sockets);
        let len = device.written();
        if len == 0 {
            return None;
        }
        flow.note_sent(&mut buffer[..len], self.now);
        let checksum = match self.card.computes_checksums {
            true => Checksum::Complete,
            false => begin_checksum(&mut buffer[..len]),
        };
        Some(OutPacket { len, checksum })
    }

    fn after_packet(&mut self, slot: u32) {
        let flow = &mut self.flows[slot as usize];
        flow.used_at = self.now;
        match (flow.phase, flow.socket().state()) {
            (Phase::Aborting, _) => self.free(slot),
            // It was the acknowledgement of the program's FIN.
            (_, State::TimeWait) => self.end(slot),
            _ => self.mark_dirty(slot),
        }
    }

    fn after_silence(&mut self, slot: u32) {
        let flow = &mut self.flows[slot as usize];
        match (flow.phase, flow.socket().state()) {
            (Phase::Aborting, _) => return self.free(slot),
            (Phase::Free | Phase::Over, _) => return,
            (_, State::TimeWait) => return self.end(slot),
            _ => {}
        }
        let now = self.epoch.to_smoltcp(self.now);
        let own_timer = self.interface.poll_at(now, &flow.sockets).map(|at| self.epoch.to_std(at));
        let ask_at = flow.ask_at(own_timer);
        if ask_at.is_some_and(|at| at <= self.now) {
            flow.ask();
            return self.mark_dirty(slot);
        }
        let own_timer = own_timer.map(|at| if at <= self.now { self.now + PAUSE } else { at });
        let next = [own_timer, ask_at, flow.give_up_at()].into_iter().flatten().min();
        self.arm(slot, next);
    }

    /// Asks for the next look at a flow: at this time, or when its memory can be given back.
    pub(super) fn arm(&mut self, slot: u32, deadline: Option<Instant>) {
        let flow = &mut self.flows[slot as usize];
        let Some(deadline) = [deadline, flow.reclaim_at()].into_iter().flatten().min() else { return };
        self.timers.arm(Alarm::Slot(slot), &mut flow.alarm, deadline);
    }

    fn reclaim_when_idle(&mut self, slot: u32) {
        let flow = &mut self.flows[slot as usize];
        if flow.reclaim_at().is_some_and(|at| at <= self.now) {
            flow.has_pages = false;
            self.counters.reclaimed += 1;
            self.memory.reclaim(slot as usize);
        }
    }
}

/// Leaves the sum of the pseudo-header in the checksum field, as the kernel wants it.
fn begin_checksum(bytes: &mut [u8]) -> Checksum {
    let Ok(packet) = IpPacket::parse(bytes) else { return Checksum::Complete };
    let (start, payload_len) = (packet.header_len, packet.payload().len());
    let pseudo = wire::pseudo_header(packet.source, packet.destination, wire::TCP, payload_len);
    wire::put_u16(bytes, start + segment::CHECKSUM, wire::fold(pseudo));
    Checksum::Partial { start: start as u16, offset: segment::CHECKSUM as u16 }
}
