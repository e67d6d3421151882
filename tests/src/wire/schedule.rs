//! The wire: packets go in at one end and come out at the other, when and if the story says.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use super::story::Order;
use super::{Direction, Story, Weather};

/// Packets under way at once; over it they are lost, as at a full queue.
const MOST_UNDER_WAY: usize = 8192;

/// A burst of losses is a queue that was full, and ends with a pause. Else a sender that doubles its pauses loses try after
/// try to one burst: four at half a minute and more, where the kernel has measured a long round trip.
const PAUSE: Duration = Duration::from_millis(100);

/// Packets under way, both ways.
#[derive(Debug)]
pub struct Wire<P> {
    story: Story,
    state: State,
    up: Way,
    down: Way,
    under_way: BinaryHeap<Reverse<UnderWay<P>>>,
    next: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Whole,
    Cut,
}

/// One way along the wire.
#[derive(Debug, Default)]
struct Way {
    packets: u64,
    /// When the last of them came.
    came: Option<Instant>,
    /// When the last of those that keep their order arrives.
    last: Option<Instant>,
    largest: Option<usize>,
}

#[derive(Debug)]
struct UnderWay<P> {
    due: Instant,
    number: u64,
    direction: Direction,
    packet: P,
}

impl<P: Clone> Wire<P> {
    /// The wire of this story.
    pub fn new(story: Story) -> Self {
        let largest = story.weather().largest;
        let way = || Way { largest, ..Way::default() };
        Self { story, state: State::Whole, up: way(), down: way(), under_way: BinaryHeap::new(), next: 0 }
    }

    /// From now on another story is told, from its beginning. What is under way arrives as it would have.
    pub fn tell(&mut self, story: Story) {
        self.story = story;
        let Weather { largest, .. } = story.weather();
        for way in [&mut self.up, &mut self.down] {
            (way.packets, way.largest) = (0, largest);
        }
    }

    /// From now on packets longer than this vanish on this way.
    pub fn narrow(&mut self, direction: Direction, largest: usize) {
        self.way(direction).largest = Some(largest);
    }

    /// From now on nothing arrives; what is under way is lost.
    pub fn cut(&mut self) {
        self.state = State::Cut;
        self.under_way.clear();
    }

    /// Ends a cut.
    pub fn mend(&mut self) {
        self.state = State::Whole;
    }

    /// Takes a packet of this length at the beginning of its way.
    pub fn handle_packet(&mut self, direction: Direction, packet: P, length: usize, now: Instant) {
        let way = match direction {
            Direction::Up => &mut self.up,
            Direction::Down => &mut self.down,
        };
        let before = way.came.replace(now);
        let fate = match before.is_some_and(|before| now.saturating_duration_since(before) > PAUSE) {
            true => self.story.fate_behind_a_pause(direction, way.packets),
            false => self.story.fate(direction, way.packets),
        };
        way.packets += 1;
        if self.state == State::Cut || way.largest.is_some_and(|largest| length > largest) {
            return;
        }
        for copy in fate.copies {
            let due = now + copy.takes;
            let due = match copy.order {
                Order::Free => due,
                Order::Behind => {
                    let due = way.last.map_or(due, |last| due.max(last));
                    way.last = Some(due);
                    due
                }
            };
            if self.under_way.len() < MOST_UNDER_WAY {
                let packet = packet.clone();
                self.under_way.push(Reverse(UnderWay { due, number: self.next, direction, packet }));
                self.next += 1;
            }
        }
    }

    /// The next packet that has arrived by now.
    pub fn poll_packet(&mut self, now: Instant) -> Option<(Direction, P)> {
        if self.poll_timeout()? > now {
            return None;
        }
        let Reverse(UnderWay { direction, packet, .. }) = self.under_way.pop()?;
        Some((direction, packet))
    }

    /// When the next packet arrives.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.under_way.peek().map(|Reverse(first)| first.due)
    }

    const fn way(&mut self, direction: Direction) -> &mut Way {
        match direction {
            Direction::Up => &mut self.up,
            Direction::Down => &mut self.down,
        }
    }
}

impl<P> PartialEq for UnderWay<P> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl<P> Eq for UnderWay<P> {}

impl<P> Ord for UnderWay<P> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

impl<P> PartialOrd for UnderWay<P> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(1);

    /// What arrives of `count` packets, each a number, sent a millisecond apart: when, and which.
    fn carry(wire: &mut Wire<u64>, count: u64) -> Vec<(Duration, u64)> {
        let begin = Instant::now();
        let mut arrived = Vec::new();
        for step in 0..count + 1000 {
            let now = begin + TICK * u32::try_from(step).unwrap();
            if step < count {
                wire.handle_packet(Direction::Up, step, 100, now);
            }
            while let Some((_, packet)) = wire.poll_packet(now) {
                arrived.push((now - begin, packet));
            }
        }
        assert_eq!(wire.poll_timeout(), None, "something never arrives");
        arrived
    }

    fn wire(seed: u64, weather: Weather) -> Wire<u64> {
        Wire::new(Story::new(seed, weather))
    }

    #[test]
    fn in_fair_weather_all_arrives_in_order_after_the_delay() {
        let weather = Weather { delay: Duration::from_millis(30), ..Weather::default() };
        let arrived = carry(&mut wire(1, weather), 500);
        let expected: Vec<_> = (0..500).map(|number| (Duration::from_millis(30 + number), number)).collect();
        assert_eq!(arrived, expected);
    }

    #[test]
    fn jitter_alone_changes_no_order() {
        let weather = Weather { jitter: Duration::from_millis(50), ..Weather::default() };
        let arrived: Vec<_> = carry(&mut wire(2, weather), 500).into_iter().map(|(_, n)| n).collect();
        assert_eq!(arrived, (0..500).collect::<Vec<_>>());
    }

    #[test]
    fn the_same_seed_brings_the_same_packets_at_the_same_times() {
        for seed in 0..50 {
            let weather = Weather::of_seed(seed);
            assert_eq!(carry(&mut wire(seed, weather), 300), carry(&mut wire(seed, weather), 300));
        }
    }

    #[test]
    fn packets_of_the_other_way_change_nothing() {
        let weather = Weather::of_seed(11);
        let (mut alone, mut busy) = (wire(11, weather), wire(11, weather));
        for number in 0..100 {
            busy.handle_packet(Direction::Down, number, 100, Instant::now());
        }
        let far = Instant::now() + Duration::from_secs(60);
        while busy.poll_packet(far).is_some() {}
        assert_eq!(carry(&mut alone, 300), carry(&mut busy, 300));
    }

    #[test]
    fn some_are_lost_some_come_twice_and_some_late() {
        let weather = Weather { loss: 100, duplication: 100, reordering: 100, ..Weather::default() };
        let arrived: Vec<_> = carry(&mut wire(3, weather), 1000).into_iter().map(|(_, n)| n).collect();
        let mut once = arrived.clone();
        once.sort_unstable();
        once.dedup();
        assert!((850..950).contains(&once.len()), "{} of 1000", once.len());
        assert!((70..130).contains(&(arrived.len() - once.len())), "{} twice", arrived.len() - once.len());
        assert!(arrived.windows(2).any(|pair| pair[0] > pair[1]), "none was overtaken");
    }

    #[test]
    fn a_burst_ends_with_a_pause() {
        let weather = Weather { loss: 30, burst: 3, ..Weather::default() };
        let lost = |pause: Duration| {
            let (mut wire, begin) = (wire(7, weather), Instant::now());
            let end = begin + pause * 1001;
            (0..1000).for_each(|n| wire.handle_packet(Direction::Up, n, 100, begin + pause * n as u32));
            1000 - std::iter::from_fn(|| wire.poll_packet(end)).count()
        };
        let (together, apart) = (lost(TICK), lost(PAUSE + TICK));
        assert!((80..160).contains(&together), "{together} of 1000");
        assert!((10..60).contains(&apart), "{apart} of 1000");
    }

    #[test]
    fn what_is_too_large_for_its_way_vanishes() {
        let mut wire = wire(4, Weather { largest: Some(1500), ..Weather::default() });
        wire.narrow(Direction::Down, 1280);
        let now = Instant::now();
        for (direction, length) in
            [(Direction::Up, 1500), (Direction::Up, 1501), (Direction::Down, 1280), (Direction::Down, 1281)]
        {
            wire.handle_packet(direction, length as u64, length, now);
        }
        let arrived: Vec<_> = std::iter::from_fn(|| wire.poll_packet(now)).collect();
        assert_eq!(arrived, [(Direction::Up, 1500), (Direction::Down, 1280)]);
    }

    #[test]
    fn a_cut_loses_what_is_under_way_and_all_until_it_is_mended() {
        let weather = Weather { delay: Duration::from_millis(10), ..Weather::default() };
        let mut wire = wire(5, weather);
        let now = Instant::now();
        wire.handle_packet(Direction::Up, 1, 100, now);
        wire.cut();
        wire.handle_packet(Direction::Up, 2, 100, now);
        wire.mend();
        wire.handle_packet(Direction::Up, 3, 100, now);
        let arrived: Vec<_> = std::iter::from_fn(|| wire.poll_packet(now + weather.delay)).collect();
        assert_eq!(arrived, [(Direction::Up, 3)]);
    }

    #[test]
    fn a_wire_that_nobody_empties_holds_a_bounded_number() {
        let mut wire = wire(6, Weather { delay: Duration::from_secs(1), ..Weather::default() });
        let now = Instant::now();
        (0..100_000).for_each(|number| wire.handle_packet(Direction::Up, number, 100, now));
        assert_eq!(wire.under_way.len(), MOST_UNDER_WAY);
    }
}
