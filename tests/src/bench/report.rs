//! What came of the rounds, as a table for people and as JSON for programs. Nothing passes or fails here: the table says
//! what each row must reach and aims for, and whether it does in this run.

use std::fs;

use serde_json::{Map, Value, json};

use super::compare::Choice;
use super::figures::{Rounds, short, table};
use super::results::Results;
use super::rows::{Row, Verdict};

/// What is told.
pub(super) struct Report<'a> {
    pub(super) choice: &'a Choice,
    /// The paths, in the order of their columns.
    pub(super) ways: &'a [&'a str],
    /// The rows, in their order.
    pub(super) rows: &'a [Row],
    pub(super) results: &'a Results,
    /// What others used of the processors before the first round.
    pub(super) others: f64,
}

/// The path whose figures have goals.
const OURS: &str = "portlatch";

impl Report<'_> {
    /// The machine, and a table a section.
    pub(super) fn text(&self) -> String {
        let mut text = format!("{}\n", self.conditions());
        let mut shown = None;
        let mut lines = Vec::new();
        for row in self.shown_rows() {
            if shown != Some(row.section) {
                text.push_str(&table(&lines));
                text.push_str(&format!("\n{}\n", row.section.title()));
                lines = vec![self.heading()];
                shown = Some(row.section);
            }
            lines.push(self.line(row));
        }
        text.push_str(&table(&lines));
        text
    }

    /// Where and how the figures were measured.
    pub(super) fn conditions(&self) -> String {
        let machine = machine();
        format!(
            "{}, {} cores, Linux {}; rounds: {}, each {} s; medians (lowest-highest). Direct is plain TCP through a \
             router, unencrypted; QUIC is without TUN, stack and proxy; both it and Portlatch are encrypted. Everything, \
             servers included, runs on these cores. Other programs used {:.0} % of them before the first round.",
            text_of(&machine["cpu"]),
            machine["cores"],
            text_of(&machine["kernel"]),
            self.choice.rounds,
            self.choice.seconds,
            self.others * 100.0,
        )
    }

    /// Rows that have a figure.
    pub(super) fn shown_rows(&self) -> impl Iterator<Item = &Row> {
        let has_figures = |row: &&Row| self.ways.iter().any(|way| self.rounds(row, way).is_some());
        self.rows.iter().filter(has_figures)
    }

    pub(super) fn rounds(&self, row: &Row, way: &str) -> Option<Rounds> {
        self.results.rounds(row, way)
    }

    fn heading(&self) -> Vec<String> {
        let titles = self.ways.iter().map(|way| title_of(way));
        let cells = ["", ""].into_iter().chain(titles).chain(["must", "aim", "holds"]);
        cells.map(str::to_owned).collect()
    }

    fn line(&self, row: &Row) -> Vec<String> {
        let mut line = vec![format!("  {}", row.title), row.unit.name().to_owned()];
        let cells = self.ways.iter().map(|way| self.rounds(row, way));
        line.extend(cells.map(|rounds| rounds.map_or(String::new(), |rounds| rounds.to_string())));
        let goal = row.goal.map_or(Default::default(), |goal| [short(goal.must), short(goal.aim)]);
        line.extend(goal);
        line.push(self.verdict(row).map_or("", Verdict::name).to_owned());
        line
    }

    fn verdict(&self, row: &Row) -> Option<Verdict> {
        Some(row.goal?.verdict(row.unit, self.rounds(row, OURS)?.median))
    }

    /// The same for programs, with the figures of each round.
    pub(super) fn json(&self) -> Value {
        let rows: Vec<_> = self.shown_rows().map(|row| self.row_as_json(row)).collect();
        json!({
            "machine": machine(),
            "rounds": self.choice.rounds,
            "seconds": self.choice.seconds,
            "used_by_others": self.others,
            "paths": self.ways,
            "rows": rows,
            "failures": self.results.failures(),
        })
    }

    fn row_as_json(&self, row: &Row) -> Value {
        let mut paths = Map::new();
        for way in self.ways {
            let Some(Rounds { median, low, high }) = self.rounds(row, way) else { continue };
            let values = self.results.of(row, way);
            let of_path = json!({ "median": median, "low": low, "high": high, "values": values });
            paths.insert((*way).to_owned(), of_path);
        }
        json!({
            "name": row.name,
            "section": row.section.title(),
            "title": row.title,
            "unit": row.unit.name(),
            "must": row.goal.map(|goal| goal.must),
            "aim": row.goal.map(|goal| goal.aim),
            "holds": self.verdict(row).map(Verdict::word),
            "paths": paths,
        })
    }
}

/// A path's name as people read it.
pub(super) fn title_of(way: &str) -> &str {
    match way {
        "quic" => "QUIC",
        OURS => "Portlatch",
        other => other,
    }
}

fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or("unknown")
}

fn machine() -> Value {
    let read = |file| fs::read_to_string(file).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    json!({
        "cpu": model.map_or("unknown processor", |(_, model)| model),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::bench::compare::catalogue;

    pub(crate) const WAYS: [&str; 3] = ["direct", "quic", "portlatch"];

    pub(crate) fn choice() -> Choice {
        Choice {
            rounds: 3,
            seconds: 1,
            rows: "*".to_owned(),
            paths: "*".to_owned(),
            engines: Vec::new(),
            json: None,
            plot: None,
        }
    }

    pub(crate) fn results(rows: &[Row]) -> Results {
        let mut results = Results::default();
        for row in rows {
            for (factor, way) in [1.0, 10.0, 100.0].into_iter().zip(WAYS) {
                for round in 1..=3 {
                    results.record(row, way, round, factor * round as f64);
                }
            }
        }
        results
    }

    #[test]
    fn table_and_json_show_every_figure_of_every_path() {
        let (choice, rows) = (choice(), catalogue());
        let results = results(&rows);
        let report = Report { choice: &choice, ways: &WAYS, rows: &rows, results: &results, others: 0.0 };
        let text = report.text();
        let line = text.lines().find(|line| line.starts_with("  upload, 8 flows ")).unwrap();
        for cell in ["2.00 (1.00-3.00)", "20.0 (10.0-30.0)", "200 (100-300)"] {
            assert!(line.contains(cell), "{line:?} has no {cell}");
        }
        let json = report.json();
        assert_eq!(json["rows"].as_array().unwrap().len(), rows.len());
        assert_eq!(json["rows"][0]["paths"]["portlatch"]["median"], 200.0);
    }

    #[test]
    fn a_row_with_a_goal_says_whether_it_holds() {
        let (choice, rows) = (choice(), catalogue());
        let results = results(&rows);
        let report = Report { choice: &choice, ways: &WAYS, rows: &rows, results: &results, others: 0.0 };
        let text = report.text();
        let line = text.lines().find(|line| line.starts_with("  1 byte, p50")).unwrap();
        assert_eq!(line.split_whitespace().rev().take(3).collect::<Vec<_>>(), ["yes", "130", "200"]);
        let new =
            report.json()["rows"].as_array().unwrap().iter().find(|row| row["name"] == "new-1").cloned();
        assert_eq!(new.unwrap()["holds"], "missed");
    }

    #[test]
    fn rows_without_figures_are_not_shown() {
        let (choice, rows, results) = (choice(), catalogue(), Results::default());
        let report = Report { choice: &choice, ways: &WAYS, rows: &rows, results: &results, others: 0.0 };
        assert_eq!(report.json()["rows"], json!([]));
    }
}
