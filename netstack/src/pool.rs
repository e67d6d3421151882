//! The slots of the flows. A free one waits, with its socket and rings, to be used again; one that nobody has needed for a
//! while is taken apart, so that a crowd of flows leaves nothing behind.

use std::collections::VecDeque;
use std::ops::{Index, IndexMut};
use std::time::{Duration, Instant};

use crate::flow::{Flow, FlowId, Phase};
use crate::memory::{Ring, Vacant};

/// Free slots that are always kept: 70 KB with their sockets, for which a program that connects every now and then finds
/// what it needs.
const KEPT: usize = 64;

/// How often slots that were not needed are taken apart.
const STEP: Duration = Duration::from_secs(1);

/// Which part of them goes with a step, and how many go at most: 0.3 ms in which no packet moves. Of a crowd of 10,000 that
/// left at once, less than a tenth of a per cent are there a minute later.
const SHARE: usize = 6;
const MOST_IN_A_STEP: usize = 512;

/// A slot's number stays; what is behind it comes and goes.
enum Slot {
    /// A socket with its rings, in use or free. On the heap, so that an empty slot is small.
    Here(Box<Flow>),
    /// Taken apart. Names of its last flow stay stale by the generation.
    Vacant { generation: u32 },
}

/// All slots.
#[derive(Default)]
pub(crate) struct Pool {
    slots: Vec<Slot>,
    /// The free ones, from the one that was used longest ago to the one whose pages are still warm: it is used next.
    free: VecDeque<u32>,
    vacant: Vec<u32>,
    /// How many are out of use: nothing can be done with their sockets any more.
    broken: usize,
    /// How many were free all the time since the last step: so many are not needed.
    unneeded: usize,
    step_at: Option<Instant>,
}

impl Pool {
    /// How many are in use.
    pub(crate) fn in_use(&self) -> usize {
        self.slots.len() - self.free.len() - self.vacant.len() - self.broken
    }

    /// The flow in a slot, if there is one.
    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut Flow> {
        match self.slots.get_mut(slot as usize)? {
            Slot::Here(flow) => Some(flow),
            Slot::Vacant { .. } => None,
        }
    }

    /// The name of the flow in a slot.
    pub(crate) fn id(&self, slot: u32) -> FlowId {
        FlowId { slot, generation: self[slot as usize].generation }
    }

    /// A slot for a new flow: the one used last, or a new one of which there may be `most`.
    pub(crate) fn take(
        &mut self,
        most: usize,
        make: impl FnOnce(usize) -> Option<(Ring, Ring)>,
        flow: impl FnOnce((Ring, Ring)) -> Flow,
    ) -> Option<u32> {
        if let Some(slot) = self.free.pop_back() {
            self.unneeded = self.unneeded.min(self.free.len());
            return Some(slot);
        }
        self.unneeded = 0;
        let number = self.vacant.last().map_or(self.slots.len(), |slot| *slot as usize);
        if number >= most {
            return None;
        }
        let mut flow = Box::new(flow(make(number)?));
        match self.slots.get_mut(number) {
            Some(place) => {
                if let Slot::Vacant { generation } = place {
                    flow.generation = *generation;
                }
                *place = Slot::Here(flow);
                self.vacant.pop();
            }
            None => self.slots.push(Slot::Here(flow)),
        }
        u32::try_from(number).ok()
    }

    /// A slot is free again.
    pub(crate) fn give(&mut self, slot: u32, now: Instant) {
        self.free.push_back(slot);
        if self.free.len() > KEPT && self.step_at.is_none() {
            self.unneeded = 0;
            self.step_at = Some(now + STEP);
        }
    }

    /// A slot is out of use for ever.
    pub(crate) fn give_up(&mut self) {
        self.broken += 1;
    }

    /// When [`Pool::step`] is to be called.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.step_at
    }

    /// The slots to take apart now, each of which is to be given to [`Pool::take_apart`].
    pub(crate) fn step(&mut self, now: Instant) -> Vec<u32> {
        if self.step_at.is_none_or(|at| at > now) {
            return Vec::new();
        }
        let unneeded = self.unneeded.min(self.free.len().saturating_sub(KEPT));
        let number = unneeded.div_ceil(SHARE).min(MOST_IN_A_STEP);
        let going = self.free.iter().take(number);
        let is_idle = |slot: &u32| {
            let flow = &self[*slot as usize];
            flow.phase == Phase::Free && !flow.is_dirty
        };
        let going: Vec<u32> = going.copied().take_while(is_idle).collect();
        self.free.drain(..going.len());
        self.unneeded = self.free.len();
        self.step_at = (self.free.len() > KEPT).then(|| now + STEP);
        if self.step_at.is_none() {
            self.free.shrink_to(2 * KEPT);
        }
        going
    }

    /// Takes a free slot apart: its socket is no more, and its rings are nobody's.
    pub(crate) fn take_apart(&mut self, slot: u32) -> Option<Vacant> {
        let place = self.slots.get_mut(slot as usize)?;
        let Slot::Here(flow) = place else { return None };
        let empty = Slot::Vacant { generation: flow.generation };
        let Slot::Here(flow) = std::mem::replace(place, empty) else { return None };
        self.vacant.push(slot);
        Some(flow.into_vacant(slot as usize))
    }
}

impl Index<usize> for Pool {
    type Output = Flow;

    /// The flow in a slot that is known to have one.
    fn index(&self, slot: usize) -> &Flow {
        match &self.slots[slot] {
            Slot::Here(flow) => flow,
            Slot::Vacant { .. } => unreachable!("nobody asks for a slot that was taken apart"),
        }
    }
}

impl IndexMut<usize> for Pool {
    fn index_mut(&mut self, slot: usize) -> &mut Flow {
        match &mut self.slots[slot] {
            Slot::Here(flow) => flow,
            Slot::Vacant { .. } => unreachable!("nobody asks for a slot that was taken apart"),
        }
    }
}
