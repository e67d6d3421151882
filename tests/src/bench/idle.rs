//! What processes hold with many idle connections, and what the loads give beside them.

use std::thread::sleep;
use std::time::{Duration, Instant};

use super::compare::{Bench, say};
use super::field::{Conversation, Kind, Way};
use super::loads::{Load, Order, beside, beside_idle, kept};
use super::process::{Memory, Part};
use super::rows::{Goal, Row, Section, Unit};

/// How many connections are open.
const CONNECTIONS: [usize; 3] = [0, 1_000, 10_000];
/// When memory is looked at, in seconds since the last one was opened.
const LOOKS: [u64; 2] = [5, 60];
/// The parts of a path, as rows name them.
const PARTS: [&str; 2] = ["daemon", "proxy"];

/// A look at memory: one part, so many connections, so long idle.
#[derive(Debug, Clone, Copy)]
struct Look {
    connections: usize,
    seconds: u64,
    part: &'static str,
}

impl Look {
    fn all() -> impl Iterator<Item = Self> {
        let looks =
            CONNECTIONS.into_iter().flat_map(|connections| LOOKS.map(|seconds| (connections, seconds)));
        looks.flat_map(|(connections, seconds)| PARTS.map(|part| Self { connections, seconds, part }))
    }

    fn row(self, what: &str, title: &str, unit: Unit) -> Row {
        let Self { connections, seconds, part } = self;
        let name = format!("idle-{connections}-{seconds}s-{part}-{what}");
        let title = format!("{connections} connections idle for {seconds} s, {part}, {title}");
        Row::new(name, Section::Memory, title, unit)
    }

    fn rss(self) -> Row {
        let goal = self.connections == 0 && self.part == "daemon";
        self.row("rss", "RSS", Unit::Megabytes).with_goal(goal.then_some(Goal { must: 15.0, aim: 8.0 }))
    }

    fn pss(self) -> Row {
        self.row("pss", "PSS", Unit::Megabytes)
    }

    /// RSS more than without connections, for each.
    fn each(self) -> Option<Row> {
        let has_goal = self.part == "daemon" && Some(&self.seconds) == LOOKS.last();
        let row = self.row("each", "RSS for each", Unit::Kilobytes);
        let row = row.with_goal(has_goal.then_some(Goal { must: 10.0, aim: 4.0 }));
        (self.connections > 0).then_some(row)
    }

    fn rows(self) -> impl Iterator<Item = Row> {
        [Some(self.rss()), Some(self.pss()), self.each()].into_iter().flatten()
    }
}

/// The rows of memory, in the table's order.
pub fn memory_rows() -> impl Iterator<Item = Row> {
    Look::all().flat_map(Look::rows)
}

/// The rows of loads beside idle connections, in the table's order.
pub fn beside_rows() -> impl Iterator<Item = Row> {
    beside_idle().flat_map(beside_rows_of)
}

fn beside_rows_of(load: Load) -> impl Iterator<Item = Row> {
    load.figures().into_iter().flat_map(|figure| [beside(&figure.row), kept(&figure.row)])
}

/// Looks at memory with more and more idle connections on each path that has parts, and then loads these paths.
pub(super) fn run(bench: &mut Bench<'_>, round: usize) {
    let wants_memory = memory_rows().any(|row| bench.wants(&row));
    let wants_beside = beside_rows().any(|row| bench.wants(&row));
    if !wants_memory && !wants_beside {
        return;
    }
    let mut holders = Vec::new();
    for way in bench.ways().into_iter().filter(Way::has_parts) {
        if wants_memory {
            bench.renew(&way, round);
        }
        let order = Order { target: way.target.clone(), arguments: vec!["hold".to_owned()] };
        let holder = bench.field.conversation(&way, &order);
        if let Some(holder) = bench.note(&format!("idle connections over {}", way.name), round, holder) {
            holders.push((way, holder));
        }
    }
    for connections in CONNECTIONS {
        let looks: Vec<_> = Look::all().filter(|look| look.connections == connections).collect();
        let wanted = looks.iter().any(|look| look.rows().any(|row| bench.wants(&row)));
        let is_last = Some(&connections) == CONNECTIONS.last();
        if wanted || (is_last && wants_beside) {
            say(&format!("  {connections} idle connections"));
            hold(bench, &mut holders, connections, round);
        }
        if wanted {
            look(bench, &holders, &looks, round);
        }
    }
    if wants_beside {
        load(bench, &holders, round);
    }
    for (way, holder) in holders {
        bench.note(&format!("closing idle connections over {}", way.name), round, holder.end());
    }
}

/// A path that does not carry so many connections is left out from here on.
fn hold(bench: &mut Bench<'_>, holders: &mut Vec<(Way, Conversation)>, connections: usize, round: usize) {
    holders.retain_mut(|(way, holder)| {
        let what = format!("{connections} idle connections over {}", way.name);
        let opened = holder.say(&connections.to_string()).and_then(|()| holder.hear());
        bench.note(&what, round, opened).is_some()
    });
}

fn look(bench: &mut Bench<'_>, holders: &[(Way, Conversation)], looks: &[Look], round: usize) {
    let begin = Instant::now();
    for seconds in LOOKS {
        let due: Vec<_> = looks.iter().filter(|look| look.seconds == seconds).collect();
        if !due.iter().any(|look| look.rows().any(|row| bench.wants(&row))) {
            continue;
        }
        sleep((begin + Duration::from_secs(seconds)).saturating_duration_since(Instant::now()));
        for look in due {
            for (way, _) in holders {
                let part = if look.part == "daemon" { &way.daemon } else { &way.proxy };
                let Some(held) = part.as_ref().map(Part::memory) else { continue };
                if way.kind == Kind::Engine && held.is_err() {
                    continue;
                }
                if let Some(held) = bench.note("looking at memory", round, held) {
                    record(bench, *look, way, held, round);
                }
            }
        }
    }
}

fn record(bench: &mut Bench<'_>, look: Look, way: &Way, held: Memory, round: usize) {
    // Sizes are far below 2^53 bytes.
    let megabytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    bench.results.record(&look.rss(), &way.name, round, megabytes(held.rss));
    bench.results.record(&look.pss(), &way.name, round, megabytes(held.pss));
    let without = Look { connections: 0, ..look }.rss();
    let without = bench.results.of_round(&without, &way.name, round);
    if let (Some(each), Some(without)) = (look.each(), without) {
        let more = (megabytes(held.rss) - without) * 1024.0;
        bench.results.record(&each, &way.name, round, more / look.connections as f64);
    }
}

fn load(bench: &mut Bench<'_>, holders: &[(Way, Conversation)], round: usize) {
    for load in beside_idle() {
        if !beside_rows_of(load).any(|row| bench.wants(&row)) {
            continue;
        }
        for (way, _) in holders {
            let Some(given) = bench.load(load, way, round) else { continue };
            for figure in load.figures() {
                bench.record(&beside(&figure.row), &figure, way, &given, round);
            }
        }
    }
}
