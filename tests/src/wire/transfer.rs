//! What one connection over a wire does, so that both of its ends can tell whether it went as it should: how many bytes
//! each way, which bytes, who ends it and how.

use std::time::Duration;

use super::{Dice, Weather};

/// Connections of one seed at most.
pub const MOST_OF_A_SEED: u64 = 4;
/// Bytes one way at most, in fair weather and in foul.
const MOST_BYTES: [u64; 2] = [1 << 20, 48 << 10];
/// With buffers of few packets a lost one is noticed by its timeout alone.
const MOST_BYTES_OF_SMALL_BUFFERS: u64 = 64 << 10;

/// How a connection goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Both send at once, and each says its end after its last byte.
    Exchange,
    /// The server waits for the program's end, then sends.
    ProgramFirst,
    /// The program waits for the server's end, then sends.
    ServerFirst,
    /// The program resets in the middle, while the server sends on and on.
    ProgramResets,
    /// The server resets in the middle, while the program sends on and on.
    ServerResets,
    /// The server refuses.
    Refused,
}

/// A connection's plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// The seed that it is of.
    pub seed: u64,
    /// Which of its seed's connections it is.
    pub number: u64,
    /// How it goes.
    pub kind: Kind,
    /// Bytes from the program; where somebody resets, after how many of them.
    pub up: u64,
    /// Bytes to the program; likewise.
    pub down: u64,
    /// How long the server leaves the SYN unanswered.
    pub hold: Duration,
    /// How the program reads.
    pub program: Pace,
    /// How the server reads.
    pub server: Pace,
    /// The largest segment that the program's kernel takes and sends, if it is told one.
    pub largest_segment: Option<u32>,
    /// The program's buffers, if they are not the kernel's usual ones.
    pub buffers: Option<usize>,
}

/// How somebody reads: so many bytes at once, and a rest after each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Bytes at once.
    pub bytes: usize,
    /// The rest after them.
    pub rest: Duration,
}

/// How severe the weather is for those who plan in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Packets get through.
    Fair,
    /// A round trip loses one or two of its packets: what takes a second elsewhere takes a minute.
    Foul,
}

impl Severity {
    /// Of this weather.
    pub const fn of(weather: &Weather) -> Self {
        if weather.loss * (1 + weather.burst) >= 50 { Self::Foul } else { Self::Fair }
    }
}

impl Plan {
    /// The plans of this seed.
    pub fn of_seed(seed: u64, severity: Severity) -> Vec<Self> {
        let count = Dice::of(seed, 10, 0).between(1, MOST_OF_A_SEED);
        (0..count).map(|number| Self::new(seed, number, severity)).collect()
    }

    fn new(seed: u64, number: u64, severity: Severity) -> Self {
        use Kind::{Exchange, ProgramFirst, ProgramResets, Refused, ServerFirst, ServerResets};
        let mut dice = Dice::of(seed, 11, number);
        let buffers = dice.happens(200).then(|| dice.one_of(&[4 << 10, 16 << 10, 64 << 10]));
        let most = match buffers {
            Some(_) => MOST_BYTES[severity as usize].min(MOST_BYTES_OF_SMALL_BUFFERS),
            None => MOST_BYTES[severity as usize],
        };
        let kinds = [
            Exchange,
            Exchange,
            Exchange,
            ProgramFirst,
            ProgramFirst,
            ServerFirst,
            ServerFirst,
            ProgramResets,
            ServerResets,
            Refused,
        ];
        Self {
            seed,
            number,
            kind: dice.one_of(&kinds),
            up: dice.size(most),
            down: dice.size(most),
            // Past the kernel's first retransmission of a SYN, in some.
            hold: Duration::from_millis(dice.one_of(&[0, 0, 0, 0, 1, 10, 30, 1200])),
            program: Pace::thrown(&mut dice, most),
            server: Pace::thrown(&mut dice, most),
            largest_segment: dice.happens(300).then(|| dice.one_of(&[536, 1220, 1460, 8960])),
            buffers,
        }
    }

    /// The bytes that the program sends.
    pub const fn upward(&self) -> Pattern {
        Pattern::of(self.seed, 2 * self.number)
    }

    /// The bytes that the server sends.
    pub const fn downward(&self) -> Pattern {
        Pattern::of(self.seed, 2 * self.number + 1)
    }

    /// How each end must see it end: the program's, then the server's. `None`: it never saw it begin.
    pub const fn ends(&self) -> (End, Option<End>) {
        match self.kind {
            Kind::Exchange | Kind::ProgramFirst | Kind::ServerFirst => (End::Whole, Some(End::Whole)),
            Kind::ProgramResets | Kind::ServerResets => (End::Reset, Some(End::Reset)),
            Kind::Refused => (End::Refused, None),
        }
    }
}

impl Pace {
    /// As fast as it goes, or slowly; but at most some seconds for all of the bytes.
    fn thrown(dice: &mut Dice, most: u64) -> Self {
        match dice.below(4) {
            0 => {
                let bytes = usize::try_from(most / 64).unwrap_or(1);
                Self { bytes: bytes.max(1), rest: Duration::from_millis(dice.between(1, 25)) }
            }
            1 => Self { bytes: 1500, rest: Duration::from_micros(100) },
            _ => Self { bytes: 256 << 10, rest: Duration::ZERO },
        }
    }
}

/// How one end saw a connection end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// All bytes came, in order, and then the other side's end.
    Whole,
    /// The connection was reset, by whom ever; what came before was right.
    Reset,
    /// It never began.
    Refused,
    /// The other side said its end before all bytes had come.
    Short(u64),
    /// This byte was another than it should be, or one too many.
    Corrupt(u64),
    /// Nothing moved until the deadline.
    Hung,
    /// The system said something else.
    Failed(String),
}

/// Bytes that follow from a key and their place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pattern(u64);

impl Pattern {
    const fn of(seed: u64, number: u64) -> Self {
        Self(Dice::of(seed, 12, number).next())
    }

    /// Writes the bytes from this place on.
    pub fn fill(self, from: u64, buffer: &mut [u8]) {
        for (place, byte) in (from..).zip(buffer) {
            *byte = self.at(place);
        }
    }

    /// The first place, from this one on, where the bytes are others.
    pub fn first_fault(self, from: u64, bytes: &[u8]) -> Option<u64> {
        (from..).zip(bytes).find(|(place, byte)| self.at(*place) != **byte).map(|(place, _)| place)
    }

    const fn at(self, place: u64) -> u8 {
        // A word for eight bytes; not a secret, only never the same where it is shifted.
        let word = (self.0 ^ (place >> 3)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let word = word ^ (word >> 29);
        word.to_le_bytes()[(place & 7) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_plans_the_same() {
        for severity in [Severity::Fair, Severity::Foul] {
            assert_eq!(Plan::of_seed(5, severity), Plan::of_seed(5, severity));
        }
        assert_ne!(Plan::of_seed(5, Severity::Fair), Plan::of_seed(6, Severity::Fair));
    }

    #[test]
    fn seeds_bring_every_kind_of_connection() {
        let plans: Vec<_> = (0..100).flat_map(|seed| Plan::of_seed(seed, Severity::Fair)).collect();
        for kind in [
            Kind::Exchange,
            Kind::ProgramFirst,
            Kind::ServerFirst,
            Kind::ProgramResets,
            Kind::ServerResets,
            Kind::Refused,
        ] {
            assert!(plans.iter().any(|plan| plan.kind == kind), "{kind:?}");
        }
        assert!(plans.iter().any(|plan| plan.up > 500_000) && plans.iter().any(|plan| plan.down < 10));
    }

    #[test]
    fn a_byte_that_is_changed_moved_or_of_another_connection_is_found() {
        let (mine, other) = (Pattern::of(1, 0), Pattern::of(1, 1));
        let mut bytes = vec![0; 100_000];
        mine.fill(7, &mut bytes);
        assert_eq!(mine.first_fault(7, &bytes), None);
        assert!(mine.first_fault(8, &bytes).is_some() && mine.first_fault(15, &bytes).is_some());
        assert!(mine.first_fault(7 + 65_536, &bytes).is_some() && other.first_fault(7, &bytes).is_some());
        bytes[50_000] ^= 1;
        assert_eq!(mine.first_fault(7, &bytes), Some(50_007));
    }
}
