//! What the rounds gave: by row and path, a figure a round at most. A figure that could not be measured is a failure
//! with its reason, and no figure.

use std::collections::BTreeMap;

use super::figures::Rounds;
use super::rows::Row;

/// All figures so far.
#[derive(Debug, Default)]
pub struct Results {
    /// By row and path, then by round.
    values: BTreeMap<(String, String), BTreeMap<usize, f64>>,
    failures: Vec<String>,
}

impl Results {
    /// A figure.
    pub fn record(&mut self, row: &Row, path: &str, round: usize, value: f64) {
        self.values.entry((row.name.clone(), path.to_owned())).or_default().insert(round, value);
    }

    /// Something that could not be measured.
    pub fn fail(&mut self, why: String) {
        self.failures.push(why);
    }

    /// What could not be measured.
    pub fn failures(&self) -> &[String] {
        &self.failures
    }

    /// The figure of a round.
    pub fn of_round(&self, row: &Row, path: &str, round: usize) -> Option<f64> {
        self.values.get(&(row.name.clone(), path.to_owned()))?.get(&round).copied()
    }

    /// The figures of all rounds.
    pub fn of(&self, row: &Row, path: &str) -> Vec<f64> {
        let values = self.values.get(&(row.name.clone(), path.to_owned()));
        values.map(|values| values.values().copied().collect()).unwrap_or_default()
    }

    /// Their median and spread; `None` where there are none.
    pub fn rounds(&self, row: &Row, path: &str) -> Option<Rounds> {
        Rounds::of(&self.of(row, path))
    }

    /// Records what is left of `whole` in `part` in this round, for the better the more: a rate is divided by what it
    /// was, a time or size the other way round.
    pub fn record_share(&mut self, share: &Row, part: (&Row, &str), whole: (&Row, &str), round: usize) {
        let part_of = self.of_round(part.0, part.1, round);
        let whole_of = self.of_round(whole.0, whole.1, round);
        let (Some(part_of), Some(whole_of)) = (part_of, whole_of) else { return };
        let value = if part.0.unit.is_rate() { part_of / whole_of } else { whole_of / part_of };
        if value.is_finite() {
            self.record(share, part.1, round, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::rows::{Section, Unit};

    fn row(name: &str, unit: Unit) -> Row {
        Row::new(name, Section::Bulk, "", unit)
    }

    #[test]
    fn shares_are_of_the_same_round() {
        let (rate, share) = (row("bulk", Unit::Gigabits), row("share", Unit::Share));
        let mut results = Results::default();
        results.record(&rate, "portlatch", 1, 3.0);
        results.record(&rate, "quic", 1, 6.0);
        results.record(&rate, "portlatch", 2, 4.0);
        for round in [1, 2] {
            results.record_share(&share, (&rate, "portlatch"), (&rate, "quic"), round);
        }
        assert_eq!(results.of(&share, "portlatch"), [0.5]);
    }

    #[test]
    fn a_time_that_doubles_keeps_half() {
        let (without, beside) = (row("rr", Unit::Micros), row("beside-rr", Unit::Micros));
        let kept = row("kept", Unit::Share);
        let mut results = Results::default();
        results.record(&without, "portlatch", 1, 100.0);
        results.record(&beside, "portlatch", 1, 200.0);
        results.record_share(&kept, (&beside, "portlatch"), (&without, "portlatch"), 1);
        assert_eq!(results.of(&kept, "portlatch"), [0.5]);
    }

    #[test]
    fn a_row_without_figures_has_no_median() {
        assert_eq!(Results::default().rounds(&row("bulk", Unit::Gigabits), "direct"), None);
    }
}
