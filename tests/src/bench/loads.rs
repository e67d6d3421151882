//! The loads of a round: what the load program is told for each, and which rows its figures are.

use super::load::Direction;
use super::rows::{Goal, Row, Section, Unit};

/// Flows each way when both ways are loaded at once.
const BOTH_WAYS: usize = 4;

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
}

const UP: Direction = Direction::Up;
const DOWN: Direction = Direction::Down;

/// All of them, in the order in which they run.
pub const LOADS: [Load; 11] = [
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
];

/// What must not suffer from idle connections.
pub fn beside_idle() -> impl Iterator<Item = Load> {
    LOADS.into_iter().filter(|load| *load != Load::BothWays)
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
        }
    }

    /// What the load program is told.
    pub fn arguments(self) -> Vec<String> {
        let words = match self {
            Self::Echo { bytes } => format!("rr --bytes {bytes}"),
            Self::Bulk { direction, flows } => {
                format!("bulk --direction {} --flows {flows}", direction.name())
            }
            Self::BothWays => format!("both --flows {BOTH_WAYS}"),
            Self::New { parallel } => format!("crr --parallel {parallel}"),
        };
        words.split(' ').map(str::to_owned).collect()
    }

    /// The figures that it gives on every path.
    pub fn figures(self) -> Vec<Figure> {
        let name = self.name();
        let title = self.title();
        let figure = |suffix: &str, title: String, unit, member, goal: Option<Goal>| {
            let row = Row::new(format!("{name}{suffix}"), self.section(), title, unit).with_goal(goal);
            Figure { row, member, factor: if unit == Unit::Gigabits { 1e-3 } else { 1.0 } }
        };
        match self {
            Self::Echo { bytes } => {
                let goal = |must, aim| (bytes == 1).then_some(Goal { must, aim });
                vec![
                    figure("-p50", format!("{title}, p50"), Unit::Micros, "p50_us", goal(200.0, 130.0)),
                    figure("-p99", format!("{title}, p99"), Unit::Micros, "p99_us", goal(400.0, 200.0)),
                ]
            }
            Self::Bulk { flows, .. } => {
                let mut figures = vec![figure("", title.clone(), Unit::Gigabits, "mbit_per_second", None)];
                if flows > 8 {
                    let title = format!("{title}, fairness (Jain)");
                    figures.push(figure("-fairness", title, Unit::Share, "fairness", None));
                }
                figures
            }
            Self::BothWays => {
                let goal = Some(Goal { must: 0.3, aim: 0.4 });
                vec![
                    figure("-up", format!("{title}, up"), Unit::Gigabits, "up_mbit_per_second", None),
                    figure("-down", format!("{title}, down"), Unit::Gigabits, "down_mbit_per_second", None),
                    figure(
                        "-weaker",
                        format!("{title}, the weaker over half of the sum"),
                        Unit::Share,
                        "weaker",
                        goal,
                    ),
                ]
            }
            Self::New { parallel } => {
                let goal = match parallel {
                    1 => Goal { must: 1500.0, aim: 3000.0 },
                    _ => Goal { must: 4000.0, aim: 8000.0 },
                };
                vec![
                    figure("", title.clone(), Unit::PerSecond, "per_second", Some(goal)),
                    figure("-p99", format!("{title}, each, p99"), Unit::Micros, "p99_us", None),
                ]
            }
        }
    }

    /// What a bulk load is of raw QUIC's in the same round; `None` for other loads.
    pub fn of_quic(self) -> Option<Row> {
        let Self::Bulk { flows, .. } = self else { return None };
        let goal = (flows <= 8).then_some(Goal { must: 0.6, aim: 0.85 });
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
        let title = format!("{}, processor time, {who}", self.title());
        Some(Row::new(name, self.section(), title, Unit::SecondsPerGigabyte).with_goal(goal))
    }

    fn section(self) -> Section {
        match self {
            Self::Echo { .. } => Section::RequestAndResponse,
            Self::Bulk { .. } | Self::BothWays => Section::Bulk,
            Self::New { .. } => Section::NewConnections,
        }
    }

    fn title(self) -> String {
        match self {
            Self::Echo { bytes: 1 } => "1 byte".to_owned(),
            Self::Echo { bytes } => format!("{bytes} bytes"),
            Self::Bulk { direction, flows: 1 } => format!("{}load, 1 flow", direction.name()),
            Self::Bulk { direction, flows } => format!("{}load, {flows} flows", direction.name()),
            Self::BothWays => format!("both ways at once, {BOTH_WAYS} flows each"),
            Self::New { parallel: 1 } => "one at a time".to_owned(),
            Self::New { parallel } => format!("{parallel} at a time"),
        }
    }

    /// Its rows without idle connections, in the table's order.
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
    let title = format!("{}, of what it is without", row.title);
    Row::new(format!("beside-{}-kept", row.name), Section::BesideIdle, title, Unit::Share)
        .with_goal(Some(Goal { must: 0.9, aim: 0.95 }))
}
