//! Chance that can be repeated: SplitMix64, whose every output is a mix of seed and position.

use std::time::Duration;

/// A sequence of numbers that follows from its seed.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// The dice of this seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Dice of their own for the `number`-th of something: what is thrown with them moves no other.
    pub const fn of(seed: u64, what: u64, number: u64) -> Self {
        Self(mix(seed ^ mix(what ^ mix(number))))
    }

    /// The next number.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `end`; 0 if that is 0.
    pub const fn below(&mut self, end: u64) -> u64 {
        // The bias of the remainder does not matter for ends this small.
        if end == 0 { 0 } else { self.next() % end }
    }

    /// A number from `least` to `most`.
    pub const fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most.saturating_sub(least) + 1)
    }

    /// A time up to `most`, in microseconds.
    pub fn duration(&mut self, most: Duration) -> Duration {
        Duration::from_micros(self.between(0, u64::try_from(most.as_micros()).unwrap_or(u64::MAX - 1)))
    }

    /// Whether something happens that happens `per_mille` times in a thousand.
    pub const fn happens(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// One of these.
    ///
    /// # Panics
    /// If there is none.
    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::try_from(self.below(choices.len() as u64)).unwrap_or(0)]
    }

    /// A size from 1 to `most`, small ones as often as large ones.
    pub fn size(&mut self, most: u64) -> u64 {
        let bits = self.between(0, u64::from(most.max(1).ilog2()));
        self.between(1, (2 << bits).min(most))
    }
}

const fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_throws_the_same() {
        let throw = |seed| {
            let mut dice = Dice::new(seed);
            (0..100).map(|_| dice.next()).collect::<Vec<_>>()
        };
        assert_eq!(throw(7), throw(7));
        assert_ne!(throw(7), throw(8));
    }

    #[test]
    fn numbers_stay_in_their_bounds_and_reach_them() {
        let mut dice = Dice::new(1);
        let thrown: Vec<_> = (0..1000).map(|_| dice.between(3, 6)).collect();
        assert!((3..=6).all(|number| thrown.contains(&number)) && thrown.iter().all(|n| (3..=6).contains(n)));
        let sizes: Vec<_> = (0..1000).map(|_| dice.size(1_000_000)).collect();
        assert!(sizes.iter().all(|size| (1..=1_000_000).contains(size)));
        assert!(sizes.iter().any(|size| *size < 20) && sizes.iter().any(|size| *size > 400_000));
    }

    #[test]
    fn what_happens_thirty_times_in_a_thousand_does() {
        let happened = (0..100_000).filter(|number| Dice::of(9, 1, *number).happens(30)).count();
        assert!((2_700..3_300).contains(&happened), "{happened}");
    }
}
