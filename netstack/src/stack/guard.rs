//! A panic while a flow is looked at ends that flow, and no other one feels it.
//!
//! smoltcp asserts what it believes about itself, and panics where a program brings it to a state that nobody thought of
//! (a window that stays shut for weeks overflows its estimate of the round trip). The flow's own slot is the one thing
//! that such a panic can leave half done: everything else of the stack changes before or after, never around, a call
//! into smoltcp. Without a panic this costs nothing: there is only an entry in the table of landing pads.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::flow::{Flow, Phase};
use crate::memory::RingMemory;
use crate::segment::{self, ACK, RST};
use crate::stack::Stack;

impl<M: RingMemory> Stack<M> {
    /// Does something with a flow. None: it panicked, and the flow is no more.
    pub(super) fn guarded<R>(&mut self, slot: u32, what: impl FnOnce(&mut Stack<M>) -> R) -> Option<R> {
        let done = catch_unwind(AssertUnwindSafe(|| what(self)));
        done.inspect_err(|_| self.end_broken(slot)).ok()
    }

    /// Ends a flow whose socket may be in any state: what is said to the program is not the socket's to say.
    fn end_broken(&mut self, slot: u32) {
        self.counters.panics += 1;
        let Flow { phase, tuple, sent_end, acknowledged, .. } = self.flows[slot as usize];
        if phase == Phase::Free {
            return;
        }
        self.tell_gone(slot);
        self.reply_with(segment::bare(tuple, sent_end, acknowledged, RST | ACK, 0));
        self.discard(slot);
    }

    /// Empties a slot's socket. False: not even that can be done, and nobody may have the slot any more.
    pub(super) fn empties(&mut self, slot: u32) -> bool {
        let flow = &mut self.flows[slot as usize];
        catch_unwind(AssertUnwindSafe(|| flow.empty())).is_ok()
    }
}
