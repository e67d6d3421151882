//! The last rows of a terminal, drawn anew in place: the open prompt, its countdown, and what is being typed.
//!
//! Rows are broken here and never by the terminal, so that it is known how many there are to be drawn over.

use std::fmt::Write as _;

/// Columns where the terminal does not say how many it has.
pub(crate) const DEFAULT_COLUMNS: usize = 80;
/// Fewer columns than this are not worth breaking rows for.
const MIN_COLUMNS: usize = 20;

/// What is drawn there now.
#[derive(Debug, Default)]
pub(crate) struct Region {
    rows: usize,
}

impl Region {
    /// What to write so that these lines stand where the last ones stood. Each is broken to fit; `emphasis` surrounds
    /// each row.
    pub(crate) fn drawn(&mut self, lines: &[&str], columns: usize, emphasis: (&str, &str)) -> String {
        let mut out = self.cleared();
        let rows: Vec<String> = lines.iter().flat_map(|line| broken(line, columns)).collect();
        for (number, row) in rows.iter().enumerate() {
            let end = if number + 1 < rows.len() { "\n" } else { "" };
            let _ = write!(out, "{}{row}{}{end}", emphasis.0, emphasis.1);
        }
        self.rows = rows.len();
        out
    }

    /// What to write so that nothing stands there any more, and the next line begins where it stood.
    pub(crate) fn cleared(&mut self) -> String {
        let rows = std::mem::take(&mut self.rows);
        match rows {
            0 => String::new(),
            1 => "\r\u{1b}[J".to_owned(),
            rows => format!("\r\u{1b}[{}A\u{1b}[J", rows - 1),
        }
    }
}

/// The line in rows that fit, broken at spaces where that is possible.
fn broken(line: &str, columns: usize) -> Vec<String> {
    // The last column stays free: some terminals go on to the next row when it is filled.
    let room = columns.max(MIN_COLUMNS) - 1;
    let mut rows = vec![String::new()];
    for word in line.split_inclusive(' ') {
        let row = rows.last().expect("there is always a row");
        if !row.is_empty() && width(row) + width(word.trim_end()) > room {
            rows.push(String::new());
        }
        for c in word.chars() {
            let row = rows.last_mut().expect("there is always a row");
            match width(row) + char_width(c) > room {
                // A space at the end of a row need not go on to the next one.
                true if c == ' ' => {}
                true => rows.push(c.to_string()),
                false => row.push(c),
            }
        }
    }
    rows
}

fn width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}

/// At most the columns that it takes: what is not ASCII may be wide, and a row that is too short does no harm.
const fn char_width(c: char) -> usize {
    if c.is_ascii() { 1 } else { 2 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_one_row_drawn_over_the_last_one() {
        let mut region = Region::default();
        assert_eq!(region.drawn(&["one"], 80, ("<", ">")), "<one>");
        assert_eq!(region.drawn(&["two"], 80, ("<", ">")), "\r\u{1b}[J<two>");
        assert_eq!(region.cleared(), "\r\u{1b}[J");
        assert_eq!(region.cleared(), "");
    }

    #[test]
    fn what_is_longer_is_broken_and_all_of_it_is_drawn_over() {
        let mut region = Region::default();
        assert_eq!(region.drawn(&["aaaa bbbb cccc dddd eeee"], 20, ("", "")), "aaaa bbbb cccc dddd\neeee");
        assert_eq!(region.drawn(&["x"], 20, ("", "")), "\r\u{1b}[1A\u{1b}[Jx");
    }

    #[test]
    fn a_word_longer_than_a_row_is_broken_as_well() {
        let rows = broken(&"x".repeat(50), 20);
        assert_eq!(rows.iter().map(String::len).collect::<Vec<_>>(), [19, 19, 12]);
        assert!(broken("日本語日本語日本語日本語", 20).iter().all(|row| width(row) <= 19));
    }

    #[test]
    fn an_empty_line_is_a_row() {
        assert_eq!(broken("", 80), [""]);
    }
}
