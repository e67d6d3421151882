//! What the owner of SYNs and flows does with them. A stale name is harmless in all of it.

use std::time::Instant;

use smoltcp::socket::tcp::State;

use crate::demux::Owner;
use crate::flow::{Flow, FlowId, Phase, ReadError, WriteError};
use crate::held::{Held, IncomingId};
use crate::icmp::{self, Unreachable};
use crate::memory::RingMemory;
use crate::segment::{self, ACK, RST};
use crate::stack::Stack;
use crate::timers::Alarm;
use crate::wire::IpPacket;

/// What a program sees whose SYN is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// "Connection refused."
    Reset,
    /// "No route to host."
    HostUnreachable,
}

impl<M: RingMemory> Stack<M> {
    /// Answers a held SYN. None: the name is stale, or memory is out, and then the SYN is refused with RST.
    pub fn accept(&mut self, id: IncomingId, now: Instant) -> Option<FlowId> {
        self.now = self.now.max(now);
        let held = self.take_held(id)?;
        let Some(slot) = self.take_slot(&held) else {
            self.tuples.remove(&held.tuple, Owner::Held(id.index() as u32));
            self.refuse_held(&held, Refusal::Reset);
            return None;
        };
        self.tuples.insert(&held.tuple, Owner::Flow(slot));
        let is_open = self.guarded(slot, |stack| {
            stack.flows[slot as usize].open(&held, stack.now);
            stack.feed(slot, &held.packet);
            stack.flows[slot as usize].socket().state() == State::SynReceived
        })?;
        if !is_open {
            self.discard(slot);
            self.refuse_held(&held, Refusal::Reset);
            return None;
        }
        self.counters.accepted += 1;
        self.mark_dirty(slot);
        Some(self.id(slot))
    }

    /// Refuses a held SYN.
    pub fn refuse(&mut self, id: IncomingId, refusal: Refusal, now: Instant) {
        self.now = self.now.max(now);
        let Some(held) = self.take_held(id) else { return };
        self.tuples.remove(&held.tuple, Owner::Held(id.index() as u32));
        self.refuse_held(&held, refusal);
    }

    /// Reads: `f` is shown bytes in order, never none, and says how many of them it took. What it did not take it is
    /// shown again.
    pub fn read_with<R>(&mut self, id: FlowId, f: impl FnOnce(&[u8]) -> (usize, R)) -> Result<R, ReadError> {
        let flow = self.flow(id).ok_or(ReadError::Reset)?;
        if !flow.socket().can_recv() {
            if flow.has_program_finished() {
                return Err(ReadError::Finished);
            }
            flow.wants_read = true;
            return Err(ReadError::Blocked);
        }
        flow.is_touched = true;
        let waiting = flow.socket().recv_queue();
        let result = flow.socket_mut().recv(|bytes| f(bytes)).map_err(|_| ReadError::Reset)?;
        let taken = waiting - flow.socket().recv_queue();
        flow.taken = flow.taken.wrapping_add(taken as u32);
        // The window may have to be announced anew; in any case the ring's memory may be idle from now on.
        self.mark_dirty(id.slot);
        Ok(result)
    }

    /// Writes as much as there is room for, and says how much that was.
    pub fn write(&mut self, id: FlowId, bytes: &[u8]) -> Result<usize, WriteError> {
        let flow = self.flow(id).ok_or(WriteError::Reset)?;
        if flow.is_finished || flow.phase == Phase::Over {
            return Err(WriteError::Reset);
        }
        if bytes.is_empty() {
            return Ok(0);
        }
        let written = match flow.may_write() {
            true => flow.socket_mut().send_slice(bytes).map_err(|_| WriteError::Reset)?,
            // The handshake is not done yet.
            false => 0,
        };
        if written == 0 {
            flow.wants_write = true;
            return Err(WriteError::Blocked);
        }
        flow.is_touched = true;
        flow.has_pages = true;
        self.mark_dirty(id.slot);
        Ok(written)
    }

    /// Says the end of the stream to the program, after all that was written.
    pub fn finish(&mut self, id: FlowId) {
        let Some(flow) = self.flow(id) else { return };
        flow.is_finished = true;
        flow.close_when_finished();
        self.mark_dirty(id.slot);
    }

    /// Resets the flow. The name is stale from now on.
    pub fn reset(&mut self, id: FlowId) {
        let Some(flow) = self.flow(id) else { return };
        match flow.phase {
            // There is nothing left to reset.
            Phase::Over => self.free(id.slot),
            Phase::Free | Phase::Owned | Phase::Closing | Phase::Aborting => self.abort(id.slot),
        }
    }

    /// The owner wants no more of the flow; the name is stale from now on.
    ///
    /// If it has finished its own side and left nothing unread, what it has written is still delivered, and the flow
    /// ends by itself. Otherwise the program gets an RST, as it does for data that it sends after this.
    pub fn release(&mut self, id: FlowId) {
        let Some(flow) = self.flow(id) else { return };
        if flow.phase == Phase::Over || !flow.is_finished || flow.socket().can_recv() {
            return self.reset(id);
        }
        flow.phase = Phase::Closing;
        flow.generation = flow.generation.wrapping_add(1);
        flow.is_touched = true;
        self.mark_dirty(id.slot);
    }

    /// Takes a held SYN out of its table, but not its 4-tuple.
    pub(super) fn take_held(&mut self, id: IncomingId) -> Option<Held> {
        let mut held = self.held.take(id)?;
        self.timers.disarm(Alarm::Held(id.index() as u32), &mut held.alarm);
        Some(held)
    }

    fn refuse_held(&mut self, held: &Held, refusal: Refusal) {
        self.counters.refused += 1;
        let reply = match refusal {
            Refusal::Reset => {
                let acknowledgement = held.sequence.wrapping_add(1).wrapping_add(held.payload_len);
                segment::bare(held.tuple, 0, acknowledgement, RST | ACK, 0)
            }
            Refusal::HostUnreachable => {
                let quoted = IpPacket {
                    bytes: &held.packet,
                    header_len: 0,
                    protocol: 0,
                    source: held.tuple.source.ip(),
                    destination: held.tuple.destination.ip(),
                };
                icmp::unreachable(&quoted, Unreachable::Host)
            }
        };
        let has_room = |packet| self.replies.push_refusal(packet, self.config.max_held).is_ok();
        if !reply.is_none_or(has_room) {
            self.counters.queue_full += 1;
        }
    }

    fn take_slot(&mut self, held: &Held) -> Option<u32> {
        let (memory, now) = (&mut self.memory, self.now);
        let rings = |slot| memory.rings(slot);
        self.flows.take(self.config.max_flows, rings, |rings| Flow::new(rings, held.tuple, now))
    }
}
