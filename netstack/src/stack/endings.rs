//! How flows end: in order, by a reset from either side, or because the program answers no more.

use smoltcp::socket::tcp::State;

use crate::demux::Owner;
use crate::event::Event;
use crate::flow::Phase;
use crate::memory::RingMemory;
use crate::stack::Stack;
use crate::timers::Alarm;

impl<M: RingMemory> Stack<M> {
    /// Both directions came to their end. Its owner, if it still has one, may read what is left.
    pub(super) fn end(&mut self, slot: u32) {
        self.forget_tuple(slot);
        let flow = &mut self.flows[slot as usize];
        if flow.socket().state() == State::TimeWait {
            let (tuple, sequence, acknowledgement) = (flow.tuple, flow.sent_end, flow.acknowledged);
            self.graves.bury(&mut self.tuples, tuple, sequence, acknowledgement, self.now);
        }
        let flow = &mut self.flows[slot as usize];
        if flow.phase != Phase::Owned {
            return self.free(slot);
        }
        flow.phase = Phase::Over;
        flow.unanswered = None;
        self.raise(slot);
        self.arm(slot, None);
    }

    /// The program has reset it.
    pub(super) fn lose(&mut self, slot: u32) {
        self.counters.lost += 1;
        self.tell_gone(slot);
        self.discard(slot);
    }

    /// The program answers no more. An RST is sent all the same.
    pub(super) fn give_up(&mut self, slot: u32) {
        self.counters.lost += 1;
        self.tell_gone(slot);
        self.abort(slot);
    }

    pub(super) fn tell_gone(&mut self, slot: u32) {
        if self.flows[slot as usize].phase == Phase::Owned {
            let id = self.id(slot);
            self.events.push_back(Event::Gone(id));
        }
    }

    /// Sends an RST and frees the slot. Its 4-tuple stands for nothing from now on.
    pub(super) fn abort(&mut self, slot: u32) {
        self.forget_tuple(slot);
        let flow = &mut self.flows[slot as usize];
        flow.socket_mut().abort();
        flow.phase = Phase::Aborting;
        flow.generation = flow.generation.wrapping_add(1);
        flow.unanswered = None;
        self.mark_dirty(slot);
    }

    /// Frees the slot without a word to the program.
    pub(super) fn discard(&mut self, slot: u32) {
        self.forget_tuple(slot);
        self.free(slot);
    }

    /// Gives the slot back to the pool, with its socket and rings.
    pub(super) fn free(&mut self, slot: u32) {
        let flow = &mut self.flows[slot as usize];
        flow.phase = Phase::Free;
        flow.generation = flow.generation.wrapping_add(1);
        flow.wants_read = false;
        flow.wants_write = false;
        flow.unanswered = None;
        flow.used_at = self.now;
        if !self.empties(slot) {
            return self.flows.give_up();
        }
        self.flows.give(slot, self.now);
        self.arm(slot, None);
    }

    /// Takes a free slot apart.
    pub(super) fn take_apart(&mut self, slot: u32) {
        let flow = &mut self.flows[slot as usize];
        self.timers.disarm(Alarm::Slot(slot), &mut flow.alarm);
        let had_pages = flow.has_pages;
        if let Some(vacant) = self.flows.take_apart(slot) {
            // Now that nothing refers to the rings.
            if had_pages {
                self.counters.reclaimed += 1;
                self.memory.reclaim(slot as usize);
            }
            self.memory.take_back(vacant);
        }
    }

    fn forget_tuple(&mut self, slot: u32) {
        let tuple = self.flows[slot as usize].tuple;
        self.tuples.remove(&tuple, Owner::Flow(slot));
    }
}
