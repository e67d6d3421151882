//! What happens to the packets of a wire, packet by packet.

use std::time::Duration;

use super::Dice;

/// Which way a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the program, or the user's machine.
    Up,
    /// To it.
    Down,
}

/// What a way does to packets. Chances are per mille.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Weather {
    /// How long every packet takes at least.
    pub delay: Duration,
    /// And how much longer at most. Packets stay in order all the same, as behind one another in a queue.
    pub jitter: Duration,
    /// How often a packet is lost.
    pub loss: u64,
    /// How many packets are lost behind each of these, as when a queue is full; behind a pause it is no more.
    pub burst: u64,
    /// How often a packet arrives twice.
    pub duplication: u64,
    /// How often a packet is held back, so that others overtake it.
    pub reordering: u64,
    /// Packets longer than this vanish without a word.
    pub largest: Option<usize>,
}

impl Weather {
    /// Fair, foul or anything between, as the seed has it: the same for both ways, apart from what is too large.
    pub fn of_seed(seed: u64) -> Self {
        let mut dice = Dice::of(seed, Of::Weather as u64, 0);
        let delay = Duration::from_millis(dice.one_of(&[0, 0, 1, 5, 20]));
        let jitter = Duration::from_millis(dice.one_of(&[0, 1, 5, 10]));
        let loss = dice.one_of(&[0, 0, 5, 10, 30, 50, 100]);
        // Of every three packets one lost is more than any TCP gets through in a minute: the kernel's waits 27 s, then 55,
        // between two tries.
        let burst = if loss <= 30 && dice.happens(200) { dice.between(1, 3) } else { 0 };
        let duplication = dice.one_of(&[0, 0, 10, 20, 100]);
        let reordering = dice.one_of(&[0, 0, 10, 50, 100]);
        Self { delay, jitter, loss, burst, duplication, reordering, largest: None }
    }

    /// The longest that a packet takes, if it arrives at all.
    pub fn longest(&self) -> Duration {
        self.delay + self.jitter + self.held_back()
    }

    /// How much later at most a packet comes that is held back: enough to be overtaken by some.
    fn held_back(&self) -> Duration {
        if self.reordering == 0 { Duration::ZERO } else { Duration::from_millis(4) + self.delay / 2 }
    }
}

/// What becomes of one packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fate {
    /// How long each of its copies takes; none if it is lost.
    pub copies: Vec<Arrival>,
}

/// One arrival of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// How long it takes.
    pub takes: Duration,
    /// Whether it waits for those before it, or is on its own.
    pub order: Order,
}

/// How a packet stands to those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Not before them.
    Behind,
    /// Whenever its time comes.
    Free,
}

/// What dice are thrown for.
enum Of {
    Weather,
    Up,
    Down,
}

/// A seed and the weather: the fate of every packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Story {
    seed: u64,
    weather: Weather,
}

impl Story {
    /// The story of this seed in this weather.
    pub const fn new(seed: u64, weather: Weather) -> Self {
        Self { seed, weather }
    }

    /// The weather in it.
    pub const fn weather(&self) -> Weather {
        self.weather
    }

    /// What becomes of the `number`-th packet that goes this way.
    pub fn fate(&self, direction: Direction, number: u64) -> Fate {
        if self.is_lost(direction, number) {
            return Fate { copies: Vec::new() };
        }
        self.arrivals(direction, number)
    }

    /// What becomes of it where it goes behind a pause: none before it takes it along.
    pub fn fate_behind_a_pause(&self, direction: Direction, number: u64) -> Fate {
        if self.takes_others_along(direction, number) {
            return Fate { copies: Vec::new() };
        }
        self.arrivals(direction, number)
    }

    fn arrivals(&self, direction: Direction, number: u64) -> Fate {
        let mut dice = self.dice(direction, number);
        // The throw for its loss, which is made anew for each packet that may take it along.
        dice.next();
        let weather = &self.weather;
        let takes = weather.delay + dice.duration(weather.jitter);
        let first = match dice.happens(weather.reordering) {
            true => Arrival { takes: takes + dice.duration(weather.held_back()), order: Order::Free },
            false => Arrival { takes, order: Order::Behind },
        };
        let second = dice.happens(weather.duplication).then(|| Arrival {
            takes: takes + dice.duration(weather.delay + Duration::from_millis(2)),
            order: Order::Free,
        });
        Fate { copies: std::iter::once(first).chain(second).collect() }
    }

    /// Whether it is lost itself, or behind one that takes others along.
    fn is_lost(&self, direction: Direction, number: u64) -> bool {
        let first = number.saturating_sub(self.weather.burst);
        (first..=number).any(|other| self.takes_others_along(direction, other))
    }

    const fn takes_others_along(&self, direction: Direction, number: u64) -> bool {
        self.dice(direction, number).happens(self.weather.loss)
    }

    const fn dice(&self, direction: Direction, number: u64) -> Dice {
        let what = match direction {
            Direction::Up => Of::Up as u64,
            Direction::Down => Of::Down as u64,
        };
        Dice::of(self.seed, what, number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOUL: Weather = Weather {
        delay: Duration::from_millis(20),
        jitter: Duration::from_millis(10),
        loss: 50,
        burst: 0,
        duplication: 20,
        reordering: 100,
        largest: None,
    };

    fn fates(seed: u64, weather: Weather, direction: Direction) -> Vec<Fate> {
        (0..10_000).map(|number| Story::new(seed, weather).fate(direction, number)).collect()
    }

    #[test]
    fn the_same_seed_is_the_same_story_and_another_seed_another() {
        assert_eq!(fates(1, FOUL, Direction::Up), fates(1, FOUL, Direction::Up));
        assert_ne!(fates(1, FOUL, Direction::Up), fates(2, FOUL, Direction::Up));
        assert_ne!(fates(1, FOUL, Direction::Up), fates(1, FOUL, Direction::Down));
        assert_eq!(Weather::of_seed(5), Weather::of_seed(5));
    }

    #[test]
    fn in_fair_weather_every_packet_arrives_once_and_at_once() {
        let at_once = Fate { copies: vec![Arrival { takes: Duration::ZERO, order: Order::Behind }] };
        assert!(fates(3, Weather::default(), Direction::Down).iter().all(|fate| *fate == at_once));
    }

    #[test]
    fn things_happen_as_often_as_the_weather_says() {
        let fates = fates(4, FOUL, Direction::Up);
        let lost = fates.iter().filter(|fate| fate.copies.is_empty()).count();
        let twice = fates.iter().filter(|fate| fate.copies.len() == 2).count();
        let late =
            fates.iter().filter_map(|fate| fate.copies.first()).filter(|copy| copy.order == Order::Free);
        assert!((400..600).contains(&lost), "{lost} lost");
        assert!((130..270).contains(&twice), "{twice} twice");
        assert!((800..1100).contains(&late.count()));
    }

    #[test]
    fn no_copy_takes_longer_than_the_weather_says() {
        let longest = FOUL.longest() + FOUL.delay + Duration::from_millis(2);
        let copies = fates(5, FOUL, Direction::Up).into_iter().flat_map(|fate| fate.copies);
        assert!(copies.into_iter().all(|copy| (FOUL.delay..=longest).contains(&copy.takes)));
    }

    #[test]
    fn a_burst_takes_the_next_packets_along() {
        let weather = Weather { loss: 10, burst: 3, ..Weather::default() };
        let story = Story::new(6, weather);
        let is_lost = |number| story.fate(Direction::Up, number).copies.is_empty();
        let begins: Vec<u64> = (1..10_000).filter(|n| is_lost(*n) && !is_lost(n - 1)).collect();
        assert!(begins.len() > 50);
        assert!(begins.iter().all(|begin| (*begin..begin + 4).all(is_lost)));
    }

    #[test]
    fn seeds_bring_every_kind_of_weather() {
        let weathers: Vec<_> = (0..200).map(Weather::of_seed).collect();
        assert!(weathers.iter().any(|weather| weather.loss == 0 && weather.reordering == 0));
        assert!(weathers.iter().any(|weather| weather.loss == 100));
        assert!(weathers.iter().any(|weather| weather.burst > 0 && weather.duplication > 0));
    }
}
