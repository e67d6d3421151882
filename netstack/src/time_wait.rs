//! Connections that have ended, for as long as the other end may ask for our last acknowledgement again.
//!
//! smoltcp's own TIME-WAIT keeps the socket and its rings, and empties them after ten seconds even if nobody has read
//! them yet. So a flow's slot is freed (or left to its reader), and this small note stays behind. A fresh SYN replaces it
//! at once.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::demux::{FourTuple, Owner, Tuples};

/// As long as smoltcp's own TIME-WAIT. On a link inside one machine nothing stays under way for longer.
const TIME_WAIT: Duration = Duration::from_secs(10);

/// At the 1,600 closes a second that this covers in full, a note (some 110 bytes) more or less is no matter; past it
/// the oldest go first, and their late segments get an RST.
const MOST_NOTES: usize = 16_384;

/// With fewer notes than this part of its room the queue gives the rest back.
const SPARSE: usize = 8;
/// A queue this small need not shrink.
const SMALL: usize = 256;

/// What an ended connection would say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TimeWait {
    pub(crate) tuple: FourTuple,
    /// Our next sequence number.
    pub(crate) sequence: u32,
    /// The next one that we expect.
    pub(crate) acknowledgement: u32,
    expires_at: Instant,
}

/// The notes in the order in which they expire; the table of 4-tuples has their numbers.
#[derive(Debug, Default)]
pub(crate) struct Graves {
    notes: VecDeque<TimeWait>,
    /// The number of the first note; they are numbered in turn.
    first: u32,
}

impl Graves {
    /// Leaves a note under a 4-tuple that stands for nothing else any more.
    pub(crate) fn bury(
        &mut self,
        tuples: &mut Tuples,
        tuple: FourTuple,
        sequence: u32,
        acknowledgement: u32,
        now: Instant,
    ) {
        if self.notes.len() >= MOST_NOTES {
            self.forget_oldest(tuples);
        }
        let number = self.first.wrapping_add(self.notes.len() as u32);
        tuples.insert(&tuple, Owner::TimeWait(number));
        self.notes.push_back(TimeWait { tuple, sequence, acknowledgement, expires_at: now + TIME_WAIT });
    }

    /// The note of a number.
    pub(crate) fn note(&self, number: u32) -> Option<&TimeWait> {
        self.notes.get(number.wrapping_sub(self.first) as usize)
    }

    /// When the next note expires.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.notes.front().map(|note| note.expires_at)
    }

    /// Forgets what has expired.
    pub(crate) fn handle_timeout(&mut self, tuples: &mut Tuples, now: Instant) {
        while self.next_deadline().is_some_and(|deadline| deadline <= now) {
            self.forget_oldest(tuples);
        }
        if self.notes.capacity() > SMALL && self.notes.len() < self.notes.capacity() / SPARSE {
            self.notes.shrink_to(2 * self.notes.len());
        }
    }

    fn forget_oldest(&mut self, tuples: &mut Tuples) {
        let Some(note) = self.notes.pop_front() else { return };
        // The 4-tuple may have become a new connection since, or ended once more.
        tuples.remove(&note.tuple, Owner::TimeWait(self.first));
        self.first = self.first.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demux::Seeded;

    #[expect(clippy::disallowed_methods, reason = "a test's time needs a beginning")]
    fn beginning() -> Instant {
        Instant::now()
    }

    fn tuple(port: u16) -> FourTuple {
        FourTuple { source: ([198, 18, 0, 1], port).into(), destination: ([198, 18, 0, 9], 80).into() }
    }

    #[test]
    fn a_note_is_forgotten_when_it_expires() {
        let (mut tuples, mut graves, now) = (Tuples::new(Seeded::new(1, 2)), Graves::default(), beginning());
        graves.bury(&mut tuples, tuple(1), 10, 20, now);

        graves.handle_timeout(&mut tuples, now + TIME_WAIT / 2);
        assert_eq!(tuples.len(), 1);

        graves.handle_timeout(&mut tuples, now + TIME_WAIT);
        assert_eq!(tuples.len(), 0);
        assert_eq!(graves.next_deadline(), None);
    }

    #[test]
    fn an_old_note_does_not_take_what_came_after_it() {
        let (mut tuples, mut graves, now) = (Tuples::new(Seeded::new(1, 2)), Graves::default(), beginning());
        graves.bury(&mut tuples, tuple(1), 10, 20, now);
        tuples.insert(&tuple(1), Owner::Flow(3));

        graves.handle_timeout(&mut tuples, now + TIME_WAIT);

        assert_eq!(tuples.get(&tuple(1)), Some(Owner::Flow(3)));
    }

    #[test]
    fn the_number_of_notes_is_bounded() {
        let (mut tuples, mut graves, now) = (Tuples::new(Seeded::new(1, 2)), Graves::default(), beginning());
        for port in 0..=u16::MAX {
            graves.bury(&mut tuples, tuple(port), 10, 20, now);
        }
        assert_eq!(tuples.len(), MOST_NOTES);
        let Some(Owner::TimeWait(last)) = tuples.get(&tuple(u16::MAX)) else { panic!("it is forgotten") };
        assert_eq!(graves.note(last).map(|note| note.tuple), Some(tuple(u16::MAX)));
        assert!(graves.note(last.wrapping_add(1)).is_none());

        graves.handle_timeout(&mut tuples, now + TIME_WAIT);
        assert_eq!(tuples.len(), 0);
        assert!(graves.notes.capacity() <= SMALL, "{}", graves.notes.capacity());
    }
}
