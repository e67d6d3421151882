//! What is measured, by name: each row of the table, its unit, and what it must reach and aims for. Which rows a load
//! gives is [`super::loads`]'s.

/// A part of the table, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// Latency on one connection.
    RequestAndResponse,
    /// As many bytes as pass.
    Bulk,
    /// Connect, one byte, close.
    NewConnections,
    /// What moving bytes costs.
    ProcessorTime,
    /// Names.
    Dns,
    /// Prompts, and what waits for them.
    Taps,
    /// Control by itself.
    Ceremonies,
    /// What processes hold.
    Memory,
    /// All of this with many idle connections.
    BesideIdle,
}

impl Section {
    /// Its heading.
    pub const fn title(self) -> &'static str {
        match self {
            Self::RequestAndResponse => "Request and response",
            Self::Bulk => "Bulk",
            Self::NewConnections => "New connections",
            Self::ProcessorTime => "Processor time for 10^9 bytes",
            Self::Dns => "DNS",
            Self::Taps => "Taps",
            Self::Ceremonies => "Ceremonies of control (direct: commits of SQLite alone)",
            Self::Memory => "Memory",
            Self::BesideIdle => "Beside 10,000 idle connections",
        }
    }
}

/// What a row's figures are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// 10^9 bits a second.
    Gigabits,
    /// Millionths of a second.
    Micros,
    /// Thousandths of a second.
    Millis,
    /// How many a second.
    PerSecond,
    /// How many.
    Number,
    /// 1,024 bytes.
    Kilobytes,
    /// 1,024 times that.
    Megabytes,
    /// Seconds of processor time for 10^9 bytes.
    SecondsPerGigabyte,
    /// One figure over another.
    Share,
}

impl Unit {
    /// As it stands in the table.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gigabits => "Gbit/s",
            Self::Micros => "us",
            Self::Millis => "ms",
            Self::PerSecond => "1/s",
            Self::Number => "",
            Self::Kilobytes => "KB",
            Self::Megabytes => "MB",
            Self::SecondsPerGigabyte => "s/GB",
            Self::Share => "",
        }
    }

    /// Whether more is better.
    pub const fn is_rate(self) -> bool {
        match self {
            Self::Gigabits | Self::PerSecond | Self::Share => true,
            Self::Micros
            | Self::Millis
            | Self::Number
            | Self::Kilobytes
            | Self::Megabytes
            | Self::SecondsPerGigabyte => false,
        }
    }
}

/// What Portlatch must reach in a row, and aims for. Whether that is more or less, the unit says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Goal {
    /// With less than this it is not good enough.
    pub must: f64,
    /// What we would like.
    pub aim: f64,
}

/// What a figure is, by its goal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// As we would like it.
    Aim,
    /// Good enough.
    Must,
    /// Not good enough.
    Missed,
}

impl Verdict {
    /// As it stands in the table.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aim => "yes, aim",
            Self::Must => "yes",
            Self::Missed => "NO",
        }
    }

    /// As it stands in the JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Aim => "aim",
            Self::Must => "must",
            Self::Missed => "missed",
        }
    }
}

impl Goal {
    /// What `value` is, in a row of this unit.
    pub fn verdict(self, unit: Unit, value: f64) -> Verdict {
        let reaches = |goal: f64| if unit.is_rate() { value >= goal } else { value <= goal };
        match () {
            () if reaches(self.aim) => Verdict::Aim,
            () if reaches(self.must) => Verdict::Must,
            () => Verdict::Missed,
        }
    }
}

/// One row.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Its name for `--rows` and in the JSON.
    pub name: String,
    /// Where it stands.
    pub section: Section,
    /// What people read.
    pub title: String,
    /// Its figures' unit.
    pub unit: Unit,
    /// What Portlatch's should be.
    pub goal: Option<Goal>,
}

impl Row {
    /// One without a goal.
    pub fn new(name: impl Into<String>, section: Section, title: impl Into<String>, unit: Unit) -> Self {
        Self { name: name.into(), section, title: title.into(), unit, goal: None }
    }

    /// The same with this goal.
    #[must_use]
    pub fn with_goal(self, goal: Option<Goal>) -> Self {
        Self { goal, ..self }
    }
}

/// Which rows are wanted: patterns with `*` for anything, separated by commas.
#[derive(Debug, Clone)]
pub struct Selection(Vec<String>);

impl Selection {
    /// Of such a list.
    pub fn new(patterns: &str) -> Self {
        Self(patterns.split(',').map(|pattern| pattern.trim().to_owned()).collect())
    }

    /// Whether this row is wanted.
    pub fn has(&self, row: &str) -> bool {
        self.0.iter().any(|pattern| matches(pattern.as_bytes(), row.as_bytes()))
    }

    /// The first pattern that none of these names matches: a slip of the pen.
    pub fn idle_pattern<'a>(&self, names: impl Iterator<Item = &'a str> + Clone) -> Option<&str> {
        let matched =
            |pattern: &&String| names.clone().any(|name| matches(pattern.as_bytes(), name.as_bytes()));
        self.0.iter().find(|pattern| !matched(pattern)).map(String::as_str)
    }
}

fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match pattern.split_first() {
        None => name.is_empty(),
        Some((b'*', rest)) => (0..=name.len()).any(|skipped| matches(rest, &name[skipped..])),
        Some((first, rest)) => {
            name.split_first().is_some_and(|(head, tail)| head == first && matches(rest, tail))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_must_reach_its_goal_and_a_time_must_stay_below() {
        let rate = Goal { must: 0.6, aim: 0.85 };
        let verdicts = [0.59, 0.6, 0.85].map(|value| rate.verdict(Unit::Share, value));
        assert_eq!(verdicts, [Verdict::Missed, Verdict::Must, Verdict::Aim]);
        let time = Goal { must: 200.0, aim: 130.0 };
        let verdicts = [201.0, 200.0, 130.0].map(|value| time.verdict(Unit::Micros, value));
        assert_eq!(verdicts, [Verdict::Missed, Verdict::Must, Verdict::Aim]);
    }

    #[test]
    fn rows_are_chosen_by_patterns() {
        let selection = Selection::new("bulk-*-8, new-1");
        assert!(selection.has("bulk-up-8") && selection.has("new-1"));
        assert!(!selection.has("bulk-up-128") && !selection.has("new-16"));
        assert!(Selection::new("*").has("anything"));
    }

    #[test]
    fn a_pattern_that_matches_nothing_is_found() {
        let names = ["new-1"].into_iter();
        assert_eq!(Selection::new("new-*,blk").idle_pattern(names.clone()), Some("blk"));
        assert_eq!(Selection::new("new-*").idle_pattern(names), None);
    }
}
