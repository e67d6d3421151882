//! One direction of a connection in the model: which bytes there may be, and how far they have come.

use std::sync::LazyLock;

/// After so many bytes a stream repeats itself: a prime, so that no ring's size is a multiple of it.
const PERIOD: usize = 262_139;
/// The longest piece that is asked for at once: a packet's.
pub(super) const LONGEST: usize = 65_536;

/// The bytes of every stream. Made once: a byte at a time, with a fuzzer's counters between them, they were most of what
/// a story cost.
static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let byte = |place: usize| {
        let mixed = u32::try_from(place % PERIOD).expect("a small number").wrapping_mul(0x85eb_ca6b);
        (mixed ^ (mixed >> 15)).wrapping_mul(0xc2b2_ae35).to_be_bytes()[0]
    };
    (0..PERIOD + LONGEST).map(byte).collect()
});

/// The bytes from a place on. Two streams agree in a byte by chance only.
pub(super) fn bytes_at(salt: u32, offset: i64, length: usize) -> &'static [u8] {
    let shift = i64::from(salt.wrapping_mul(0x9e37_79b9));
    let period = i64::try_from(PERIOD).expect("a small number");
    let begin = usize::try_from((offset + shift).rem_euclid(period)).expect("not negative");
    &BYTES[begin..begin + length]
}

/// Where the bytes that were sent at least once lie: ranges in order, which do not touch.
#[derive(Debug, Clone, Default)]
pub(super) struct Sent {
    ranges: Vec<(i64, i64)>,
    /// Where a FIN stood.
    fins: Vec<i64>,
}

impl Sent {
    pub(super) fn add(&mut self, begin: i64, end: i64) {
        let begin = begin.max(0);
        if begin >= end {
            return;
        }
        let (mut begin, mut end) = (begin, end);
        self.ranges.retain(|range| {
            let is_apart = range.1 < begin || end < range.0;
            if !is_apart {
                (begin, end) = (begin.min(range.0), end.max(range.1));
            }
            is_apart
        });
        self.ranges.push((begin, end));
        self.ranges.sort_unstable();
    }

    pub(super) fn add_fin(&mut self, place: i64) {
        if place >= 0 && !self.fins.contains(&place) {
            self.fins.push(place);
        }
    }

    /// The end of what there is without a hole.
    pub(super) fn contiguous(&self) -> i64 {
        self.ranges.first().filter(|range| range.0 == 0).map_or(0, |range| range.1)
    }

    /// The end of what lies furthest, FINs included.
    pub(super) fn furthest(&self) -> i64 {
        let bytes = self.ranges.last().map_or(0, |range| range.1);
        let fins = self.fins.iter().map(|place| place + 1).max().unwrap_or(0);
        bytes.max(fins)
    }

    pub(super) fn has_fin_at(&self, place: i64) -> bool {
        self.fins.contains(&place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_meet_become_one() {
        let mut sent = Sent::default();
        for (begin, end) in [(10, 20), (30, 40), (-5, 3), (20, 25), (3, 10)] {
            sent.add(begin, end);
        }
        assert_eq!(sent.ranges, [(0, 25), (30, 40)]);
        assert_eq!((sent.contiguous(), sent.furthest()), (25, 40));
        sent.add(0, 100);
        assert_eq!(sent.ranges, [(0, 100)]);
    }
}
