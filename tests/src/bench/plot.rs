//! The rows as a picture: a bar for the median of each path, a whisker for its spread, and lines for what a row must
//! reach and aims for. SVG is written by hand: it is lines, rectangles and text.

use std::fmt::Write as _;

use super::figures::Rounds;
use super::report::{Report, title_of};
use super::rows::{Goal, Row};

const WIDTH: f64 = 1000.0;
const MARGIN: f64 = 24.0;
/// Where bars begin, and how long the longest is; behind it stand its figures.
const BARS_AT: f64 = 370.0;
const BAR: f64 = 400.0;
const BAR_HEIGHT: f64 = 11.0;
const ROW_GAP: f64 = 9.0;
const LINE: f64 = 18.0;
/// One a path, told apart by people who see few colours too (after Okabe and Ito).
const COLOURS: [&str; 7] = ["#8c8c8c", "#e69f00", "#0072b2", "#009e73", "#cc79a7", "#d55e00", "#56b4e9"];
const INK: &str = "#222222";
/// Longest line of text, in characters of its size.
const LINE_CHARACTERS: usize = 150;

/// The picture of a report.
pub(super) fn plot(report: &Report<'_>) -> String {
    let mut picture = Picture { marks: String::new(), y: MARGIN };
    picture.heading(report);
    let mut section = None;
    for row in report.shown_rows() {
        if section != Some(row.section) {
            section = Some(row.section);
            picture.y += LINE;
            picture.text(MARGIN, "16px", "bold", row.section.title());
            picture.y += LINE;
        }
        picture.row(report, row);
    }
    let height = picture.y + MARGIN;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{}</svg>\n",
        picture.marks
    )
}

/// What is drawn so far, and down to where.
struct Picture {
    marks: String,
    y: f64,
}

impl Picture {
    fn heading(&mut self, report: &Report<'_>) {
        self.y += LINE;
        self.text(MARGIN, "20px", "bold", "What Portlatch costs");
        self.y += LINE;
        for line in wrapped(&report.conditions()) {
            self.text(MARGIN, "12px", "normal", &line);
            self.y += LINE * 0.85;
        }
        self.y += LINE * 0.5;
        let mut x = MARGIN;
        for (way, colour) in report.ways.iter().zip(COLOURS) {
            self.rectangle((x, self.y - BAR_HEIGHT), 14.0, colour);
            self.text(x + 19.0, "13px", "normal", title_of(way));
            x += 130.0;
        }
        self.line((x, self.y - BAR_HEIGHT), (x, self.y + 2.0), "stroke-width=\"2\"");
        self.text(x + 6.0, "13px", "normal", "must reach");
        x += 100.0;
        self.line((x, self.y - BAR_HEIGHT), (x, self.y + 2.0), "stroke-dasharray=\"3 2\"");
        self.text(x + 6.0, "13px", "normal", "aims for");
        self.y += LINE;
    }

    fn row(&mut self, report: &Report<'_>, row: &Row) {
        let top = self.y;
        let bars: Vec<_> = (report.ways.iter().zip(COLOURS))
            .filter_map(|(way, colour)| Some((report.rounds(row, way)?, colour)))
            .collect();
        let scale = BAR / longest(&bars, row.goal);
        self.y += BAR_HEIGHT;
        self.text(MARGIN, "12px", "normal", &row.title);
        self.y = top;
        for (rounds, colour) in &bars {
            self.bar(row, *rounds, scale, colour);
        }
        if let Some(Goal { must, aim }) = row.goal {
            for (goal, style) in [(must, "stroke-width=\"2\""), (aim, "stroke-dasharray=\"3 2\"")] {
                let x = BARS_AT + goal * scale;
                self.line((x, top - 2.0), (x, self.y), style);
            }
        }
        self.y += ROW_GAP;
    }

    fn bar(&mut self, row: &Row, rounds: Rounds, scale: f64, colour: &str) {
        let Rounds { median, low, high } = rounds;
        self.rectangle((BARS_AT, self.y), median * scale, colour);
        let middle = self.y + BAR_HEIGHT / 2.0;
        let (from, to) = (BARS_AT + low * scale, BARS_AT + high * scale);
        self.line((from, middle), (to, middle), "");
        for end in [from, to] {
            self.line((end, middle - 3.0), (end, middle + 3.0), "");
        }
        self.y += BAR_HEIGHT;
        let figures = format!("{} {}", rounds, row.unit.name());
        self.y -= 1.0;
        self.text(BARS_AT + BAR + 12.0, "11px", "normal", figures.trim_end());
        self.y += 3.0;
    }

    /// Text whose line stands at the present height.
    fn text(&mut self, x: f64, size: &str, weight: &str, text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let y = self.y;
        // Writing to a string does not fail.
        let _ = writeln!(
            self.marks,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\" font-weight=\"{weight}\" fill=\"{INK}\">{text}</text>"
        );
    }

    fn rectangle(&mut self, (x, y): (f64, f64), width: f64, colour: &str) {
        let _ = writeln!(
            self.marks,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR_HEIGHT}\" fill=\"{colour}\"/>"
        );
    }

    fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), style: &str) {
        let _ = writeln!(
            self.marks,
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{INK}\" {style}/>"
        );
    }
}

/// The longest bar or line of a row; every row has a scale of its own.
fn longest(bars: &[(Rounds, &str)], goal: Option<Goal>) -> f64 {
    let goals = goal.into_iter().flat_map(|goal| [goal.must, goal.aim]);
    let longest = bars.iter().map(|(rounds, _)| rounds.high).chain(goals).fold(0.0, f64::max);
    if longest > 0.0 { longest } else { 1.0 }
}

/// Text in lines.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let is_full = lines.last().is_some_and(|line| line.len() + word.len() > LINE_CHARACTERS);
        if is_full {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            line.push_str(word);
            line.push(' ');
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::tests::{WAYS, choice, results};
    use crate::bench::rows::{Section, Unit};

    #[test]
    fn every_path_has_a_bar_and_every_goal_a_line() {
        let goal = Some(Goal { must: 400.0, aim: 600.0 });
        let rows = [Row::new("rate", Section::Bulk, "up & <down>", Unit::Gigabits).with_goal(goal)];
        let (choice, results) = (choice(), results(&rows));
        let report = Report { choice: &choice, ways: &WAYS, rows: &rows, results: &results, others: 0.0 };
        let svg = plot(&report);
        // Portlatch's median is 200 of 600, which is the longest.
        assert!(svg.contains("width=\"133.3\" height=\"11\" fill=\"#0072b2\""), "{svg}");
        assert!(svg.contains("200 (100-300) Gbit/s") && svg.contains("up &amp; &lt;down&gt;"));
        let dashed = svg.matches("stroke-dasharray").count();
        assert_eq!(dashed, 2, "one in the legend, one in the row");
    }

    #[test]
    fn every_title_ends_before_its_bars() {
        let longest = crate::bench::compare::catalogue().into_iter().map(|row| row.title);
        let longest = longest.max_by_key(String::len).unwrap();
        assert!(longest.len() as f64 * 6.3 < BARS_AT - MARGIN, "{longest}");
    }

    #[test]
    fn a_row_of_zeros_is_drawn() {
        let zero = Rounds { median: 0.0, low: 0.0, high: 0.0 };
        assert!((longest(&[(zero, "")], None) - 1.0).abs() < 1e-9);
    }
}
