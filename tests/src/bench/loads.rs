//! The loads of a round: what the load program is told for each, and which rows its figures are.

use super::field::{Kind, Way};
use super::load::Direction;
use super::rows::{Goal, Row, Section, Unit};

/// Flows each way when both ways are loaded at once.
const BOTH_WAYS: usize = 4;
/// With more flows than these fairness is a matter too, and no goal is set.
const FEW: usize = 8;
/// Taps in a round, each for a port of its own: as many challenges as control gives a login at once.
const TAPS: u16 = 10;
/// A round's ports that need a tap: those of the loads here, and some that wait together.
pub(super) const PORTS_OF_ROUND: u16 = TAPS + 4;
/// After so many rounds their ports come again: their grants have long expired.
const ROUNDS_WITHOUT_REPETITION: u16 = 40;

/// What is done on a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// So many bytes there and back on one connection.
    Echo {
        /// Of one message.
        bytes: usize,
    },
    /// As many bytes as pass.
    Bulk {
        /// Which way.
        direction: Direction,
        /// Connections at once.
        flows: usize,
    },
    /// As many bytes as pass, both ways at once.
    BothWays,
    /// Connect, one byte there and back, close.
    New {
        /// Connections at once.
        parallel: usize,
    },
    /// Questions for an address, many at once.
    Dns,
    /// Connections that each need a tap, one after another.
    Taps,
    /// Challenge, answer, grant: control by itself.
    Ceremonies {
        /// Users at once.
        parallel: usize,
    },
}

/// What the load program is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// HOST:PORT of the server.
    pub target: String,
    /// The load.
    pub arguments: Vec<String>,
}

const UP: Direction = Direction::Up;
const DOWN: Direction = Direction::Down;

/// All of them, in the order in which they run.
pub const LOADS: [Load; 15] = [
    Load::Echo { bytes: 1 },
    Load::Echo { bytes: 1024 },
    Load::Bulk { direction: UP, flows: 1 },
    Load::Bulk { direction: UP, flows: 8 },
    Load::Bulk { direction: UP, flows: 128 },
    Load::Bulk { direction: DOWN, flows: 1 },
    Load::Bulk { direction: DOWN, flows: 8 },
    Load::Bulk { direction: DOWN, flows: 128 },
    Load::BothWays,
    Load::New { parallel: 1 },
    Load::New { parallel: 16 },
    Load::Dns,
    Load::Taps,
    Load::Ceremonies { parallel: 1 },
    Load::Ceremonies { parallel: 16 },
];

/// What must not suffer from idle connections.
pub fn beside_idle() -> impl Iterator<Item = Load> {
    LOADS.into_iter().filter(|load| match load {
        Load::Echo { .. } | Load::Bulk { .. } | Load::New { .. } => true,
        Load::BothWays | Load::Dns | Load::Taps | Load::Ceremonies { .. } => false,
    })
}

/// The first of a round's ports that need a tap, of those that begin at `first`.
pub(super) fn ports_of_round(first: u16, round: usize) -> u16 {
    let rounds = u16::try_from(round % usize::from(ROUNDS_WITHOUT_REPETITION)).unwrap_or(0);
    first + PORTS_OF_ROUND * rounds
}

/// A row, and where its figures are in what the load program says.
#[derive(Debug)]
pub struct Figure {
    /// The row.
    pub row: Row,
    /// The member of the load's JSON.
    pub member: &'static str,
    /// The row's unit in the member's.
    pub factor: f64,
}

impl Figure {
    fn with_goal(self, goal: Option<Goal>) -> Self {
        Self { row: self.row.with_goal(goal), ..self }
    }
}

/// Whose processor time is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consumer {
    /// The daemon, or another engine.
    Daemon,
    /// The proxy.
    Proxy,
    /// Everything, both ends and the kernel's own work with them.
    Machine,
}

impl Load {
    /// Its name, with which the names of its rows begin.
    pub fn name(self) -> String {
        match self {
            Self::Echo { bytes } => format!("rr-{bytes}"),
            Self::Bulk { direction, flows } => format!("bulk-{}-{flows}", direction.name()),
            Self::BothWays => "both".to_owned(),
            Self::New { parallel } => format!("new-{parallel}"),
            Self::Dns => "dns".to_owned(),
            Self::Taps => "taps".to_owned(),
            Self::Ceremonies { parallel } => format!("ceremonies-{parallel}"),
        }
    }

    /// What the load program is told; `None` for a path that knows no such thing.
    pub fn order(self, way: &Way, round: usize) -> Option<Order> {
        let mut target = way.target.clone();
        let words = match self {
            Self::Echo { bytes } => format!("rr --bytes {bytes}"),
            Self::Bulk { direction, flows } => {
                format!("bulk --direction {} --flows {flows}", direction.name())
            }
            Self::BothWays => format!("both --flows {BOTH_WAYS}"),
            Self::New { parallel } => format!("crr --parallel {parallel}"),
            Self::Dns => format!("dns --server {}", way.dns.as_ref()?),
            Self::Taps => {
                let (host, first) = way.taps.as_ref()?;
                target = format!("{host}:{}", ports_of_round(*first, round));
                format!("taps --taps {TAPS}")
            }
            // No path carries them: what stands beside them is the disk alone.
            Self::Ceremonies { parallel } => match way.kind {
                Kind::Portlatch => format!("ceremonies --parallel {parallel}"),
                Kind::Reference if way.certificate.is_none() => format!("commits --parallel {parallel}"),
                Kind::Reference | Kind::Engine => return None,
            },
        };
        Some(Order { target, arguments: words.split(' ').map(str::to_owned).collect() })
    }

    /// The figures that it gives on every path.
    pub fn figures(self) -> Vec<Figure> {
        match self {
            Self::Echo { bytes } => {
                let goal = |must, aim| (bytes == 1).then_some(Goal { must, aim });
                vec![
                    self.figure("-p50", "p50", Unit::Micros, "p50_us").with_goal(goal(200.0, 130.0)),
                    self.figure("-p99", "p99", Unit::Micros, "p99_us").with_goal(goal(400.0, 200.0)),
                ]
            }
            Self::Bulk { flows, .. } => {
                let fairness = self.figure("-fairness", "fairness (Jain)", Unit::Share, "fairness");
                let rate = self.figure("", "", Unit::Gigabits, "mbit_per_second");
                if flows > FEW { vec![rate, fairness] } else { vec![rate] }
            }
            Self::BothWays => vec![
                self.figure("-up", "up", Unit::Gigabits, "up_mbit_per_second"),
                self.figure("-down", "down", Unit::Gigabits, "down_mbit_per_second"),
                self.figure("-weaker", "weaker over half of the sum", Unit::Share, "weaker")
                    .with_goal(Some(Goal { must: 0.3, aim: 0.4 })),
            ],
            Self::New { parallel } => {
                let goal = match parallel {
                    1 => Goal { must: 1500.0, aim: 3000.0 },
                    _ => Goal { must: 4000.0, aim: 8000.0 },
                };
                vec![
                    self.figure("", "", Unit::PerSecond, "per_second").with_goal(Some(goal)),
                    self.figure("-p50", "each, p50", Unit::Micros, "p50_us"),
                    self.figure("-p99", "each, p99", Unit::Micros, "p99_us"),
                ]
            }
            Self::Dns => vec![
                self.figure("", "answers", Unit::PerSecond, "per_second")
                    .with_goal(Some(Goal { must: 50e3, aim: 100e3 })),
                self.figure("-lost", "without an answer", Unit::Number, "lost"),
            ],
            Self::Taps => self.figures_of_taps(),
            Self::Ceremonies { .. } => vec![
                self.figure("", "", Unit::PerSecond, "per_second"),
                self.figure("-p50", "each, p50", Unit::Millis, "p50_ms"),
                self.figure("-p99", "each, p99", Unit::Millis, "p99_ms"),
            ],
        }
    }

    fn figures_of_taps(self) -> Vec<Figure> {
        let figure = |name, what, member| self.figure(name, what, Unit::Millis, member);
        let prompt = Some(Goal { must: 150.0, aim: 150.0 });
        let tap = Some(Goal { must: 50.0, aim: 20.0 });
        vec![
            figure("-prompt-p50", "from the SYN to the prompt, p50", "prompt_p50_ms").with_goal(prompt),
            figure("-prompt-p99", "from the SYN to the prompt, p99", "prompt_p99_ms").with_goal(prompt),
            figure("-p50", "from the tap to the first byte, p50", "tap_p50_ms").with_goal(tap),
            figure("-p99", "from the tap to the first byte, p99", "tap_p99_ms").with_goal(tap),
            figure("-granted-p50", "first byte with that grant, p50", "granted_p50_ms"),
            figure("-granted-p99", "first byte with that grant, p99", "granted_p99_ms"),
        ]
    }

    fn figure(self, suffix: &str, what: &str, unit: Unit, member: &'static str) -> Figure {
        let title = if what.is_empty() { self.title() } else { format!("{}, {what}", self.title()) };
        let row = Row::new(format!("{}{suffix}", self.name()), self.section(), title, unit);
        Figure { row, member, factor: if unit == Unit::Gigabits { 1e-3 } else { 1.0 } }
    }

    /// What a bulk load is of raw QUIC's in the same round; `None` for other loads.
    pub fn of_quic(self) -> Option<Row> {
        let Self::Bulk { flows, .. } = self else { return None };
        let goal = (flows <= FEW).then_some(Goal { must: 0.6, aim: 0.85 });
        let title = format!("{}, over QUIC's", self.title());
        Some(Row::new(format!("{}-of-quic", self.name()), self.section(), title, Unit::Share).with_goal(goal))
    }

    /// What a gigabyte of a load with bytes costs this consumer; `None` for other loads.
    pub fn cost(self, consumer: Consumer) -> Option<Row> {
        if !matches!(self, Self::Bulk { .. } | Self::BothWays) {
            return None;
        }
        let (suffix, who, goal) = match consumer {
            Consumer::Daemon => ("daemon", "daemon", Some(Goal { must: 2.5, aim: 1.5 })),
            Consumer::Proxy => ("proxy", "proxy", None),
            Consumer::Machine => ("machine", "all programs and the kernel", None),
        };
        let name = format!("{}-cpu-{suffix}", self.name());
        let title = format!("{}, {who}", self.title());
        Some(Row::new(name, Section::ProcessorTime, title, Unit::SecondsPerGigabyte).with_goal(goal))
    }

    fn section(self) -> Section {
        match self {
            Self::Echo { .. } => Section::RequestAndResponse,
            Self::Bulk { .. } | Self::BothWays => Section::Bulk,
            Self::New { .. } => Section::NewConnections,
            Self::Dns => Section::Dns,
            Self::Taps => Section::Taps,
            Self::Ceremonies { .. } => Section::Ceremonies,
        }
    }

    fn title(self) -> String {
        match self {
            Self::Echo { bytes: 1 } => "1 byte".to_owned(),
            Self::Echo { bytes } => format!("{bytes} bytes"),
            Self::Bulk { direction, flows: 1 } => format!("{}load, 1 flow", direction.name()),
            Self::Bulk { direction, flows } => format!("{}load, {flows} flows", direction.name()),
            Self::BothWays => format!("both ways, {BOTH_WAYS} flows each"),
            Self::New { parallel: 1 } | Self::Ceremonies { parallel: 1 } => "one at a time".to_owned(),
            Self::New { parallel } | Self::Ceremonies { parallel } => format!("{parallel} at a time"),
            Self::Dns => "queries".to_owned(),
            Self::Taps => "taps".to_owned(),
        }
    }

    /// Its rows without idle connections.
    pub fn rows(self) -> Vec<Row> {
        let mut rows: Vec<_> = self.figures().into_iter().map(|figure| figure.row).collect();
        rows.extend(self.of_quic());
        let consumers = [Consumer::Daemon, Consumer::Proxy, Consumer::Machine];
        rows.extend(consumers.into_iter().filter_map(|consumer| self.cost(consumer)));
        rows
    }
}

/// A row again, beside idle connections.
pub fn beside(row: &Row) -> Row {
    Row::new(format!("beside-{}", row.name), Section::BesideIdle, row.title.clone(), row.unit)
}

/// What is kept of a row beside idle connections: 1 is all.
pub fn kept(row: &Row) -> Row {
    let title = format!("{}, share kept", row.title);
    Row::new(format!("beside-{}-kept", row.name), Section::BesideIdle, title, Unit::Share)
        .with_goal(Some(Goal { must: 0.9, aim: 0.95 }))
}
