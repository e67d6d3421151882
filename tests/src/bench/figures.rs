//! Percentiles of samples, medians and spreads of rounds, and the table that shows them. Pure.

use std::fmt;
use std::time::Duration;

/// How long single operations took.
#[derive(Debug, Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    /// Adds one.
    pub fn push(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    /// Adds those of another.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The smallest sample that is not exceeded by `percent` of all (nearest rank); `None` without samples.
    pub fn percentile(&mut self, percent: u8) -> Option<Duration> {
        self.0.sort_unstable();
        let rank = (self.0.len() * usize::from(percent.min(100))).div_ceil(100);
        self.0.get(rank.saturating_sub(1)).copied()
    }
}

/// What several rounds of one measure gave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rounds {
    /// The middle one; the mean of the two in the middle where their number is even.
    pub median: f64,
    /// The lowest.
    pub low: f64,
    /// The highest.
    pub high: f64,
}

impl Rounds {
    /// Of these values; `None` where there are none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let (low, high) = (*sorted.first()?, *sorted.last()?);
        let (before, after) = ((sorted.len() - 1) / 2, sorted.len() / 2);
        Some(Self { median: f64::midpoint(sorted[before], sorted[after]), low, high })
    }
}

impl fmt::Display for Rounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{} ({}-{})", short(self.median), short(self.low), short(self.high)))
    }
}

/// A value with three digits, and never fewer than those before the point.
pub fn short(value: f64) -> String {
    let decimals = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.decimals$}")
}

/// Bits each second, in millions.
pub fn megabits_per_second(bytes: u64, time: Duration) -> f64 {
    per_second(bytes, time) * 8.0 / 1e6
}

/// How many there were each second.
pub fn per_second(count: u64, time: Duration) -> f64 {
    // Counts stay far below 2^53, where a float would begin to round.
    if time.is_zero() { 0.0 } else { count as f64 / time.as_secs_f64() }
}

/// Jain's index of how evenly flows share: 1 if all have the same, 1/n if one has all.
pub fn fairness(shares: &[u64]) -> f64 {
    let sum: f64 = shares.iter().map(|&share| share as f64).sum();
    let squares: f64 = shares.iter().map(|&share| (share as f64).powi(2)).sum();
    if squares == 0.0 { 0.0 } else { sum * sum / (shares.len() as f64 * squares) }
}

/// A table with its columns as wide as their widest cell; the first column to the left, the others to the right.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match column {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(micros: impl IntoIterator<Item = u64>) -> Samples {
        Samples(micros.into_iter().map(Duration::from_micros).collect())
    }

    #[test]
    fn a_percentile_is_a_sample_by_nearest_rank() {
        let mut hundred = samples((1..=100).rev());
        assert_eq!(hundred.percentile(50), Some(Duration::from_micros(50)));
        assert_eq!(hundred.percentile(99), Some(Duration::from_micros(99)));
        assert_eq!(hundred.percentile(100), Some(Duration::from_micros(100)));
        assert_eq!(samples([3, 1, 2]).percentile(50), Some(Duration::from_micros(2)));
        assert_eq!(samples([7]).percentile(1), Some(Duration::from_micros(7)));
        assert_eq!(samples([]).percentile(50), None);
    }

    #[test]
    fn rounds_have_a_middle_and_two_ends() {
        assert_eq!(Rounds::of(&[3.0, 1.0, 2.0]), Some(Rounds { median: 2.0, low: 1.0, high: 3.0 }));
        assert_eq!(Rounds::of(&[4.0, 1.0]).map(|rounds| rounds.median), Some(2.5));
        assert_eq!(Rounds::of(&[]), None);
    }

    #[test]
    fn rates_are_by_time() {
        let two_seconds = Duration::from_secs(2);
        assert!((megabits_per_second(2_000_000, two_seconds) - 8.0).abs() < 1e-9);
        assert!((per_second(10, two_seconds) - 5.0).abs() < 1e-9);
        assert!(per_second(10, Duration::ZERO).abs() < 1e-9);
    }

    #[test]
    fn fairness_is_one_for_equals_and_a_share_for_a_glutton() {
        assert!((fairness(&[5, 5, 5, 5]) - 1.0).abs() < 1e-9);
        assert!((fairness(&[8, 0, 0, 0]) - 0.25).abs() < 1e-9);
        assert!(fairness(&[]).abs() < 1e-9);
    }

    #[test]
    fn figures_are_shown_with_three_digits() {
        let rounds = Rounds { median: 12.345, low: 1.0, high: 1234.5 };
        assert_eq!(rounds.to_string(), "12.3 (1.00-1234)");
    }

    #[test]
    fn a_tables_columns_stand_below_each_other() {
        let row = |cells: &[&str]| cells.iter().map(ToString::to_string).collect::<Vec<_>>();
        let text = table(&[row(&["measure", "direct"]), row(&["p50", "1"]), row(&["longer name", ""])]);
        assert_eq!(text, "measure      direct\np50               1\nlonger name\n");
    }
}
