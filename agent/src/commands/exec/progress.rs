//! How far an exec is: a line that is drawn in place on a terminal, and one line for each command that ends.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use super::choice::Target;
use super::summary::Result;
use crate::terminal::{Region, Stream};

/// Names of running commands that the line has room for.
const NAMED: usize = 3;

/// The commands so far.
#[derive(Debug)]
pub(super) struct Progress {
    stream: Stream,
    region: Region,
    total: usize,
    done: usize,
    failed: usize,
    running: BTreeSet<String>,
}

impl Progress {
    /// How often the line is drawn.
    pub(super) const TICK: Duration = Duration::from_millis(500);

    pub(super) fn new(stream: Stream, total: usize) -> Self {
        Self { stream, region: Region::default(), total, done: 0, failed: 0, running: BTreeSet::new() }
    }

    pub(super) fn begins(&mut self, target: &Target) {
        self.running.insert(target.name.clone());
    }

    pub(super) fn ends(&mut self, result: &Result) -> io::Result<()> {
        self.running.remove(result.name());
        self.done += 1;
        self.failed += usize::from(!result.is_success());
        self.say(&result.line())
    }

    /// A line that stays.
    pub(super) fn say(&mut self, line: &str) -> io::Result<()> {
        self.stream.clear(&mut self.region)?;
        self.stream.say(line)?;
        self.tick()
    }

    pub(super) fn tick(&mut self) -> io::Result<()> {
        if !self.stream.is_seen() || self.done == self.total {
            return Ok(());
        }
        let line = self.line();
        self.stream.draw(&mut self.region, &[&line])
    }

    fn line(&self) -> String {
        let Self { done, total, failed, running, .. } = self;
        let named: Vec<&str> = running.iter().take(NAMED).map(String::as_str).collect();
        let more = if running.len() > NAMED { ", ..." } else { "" };
        format!("{done} of {total} done, {failed} failed; {} run: {}{more}", running.len(), named.join(", "))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // A terminal that has gone shows nothing.
        let _ = self.stream.clear(&mut self.region);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_names_a_few_of_those_that_run() {
        let mut progress = Progress::new(Stream::Out, 12);
        progress.running = ["a", "b", "c", "d"].map(str::to_owned).into();
        assert_eq!(progress.line(), "0 of 12 done, 0 failed; 4 run: a, b, c, ...");
    }
}
