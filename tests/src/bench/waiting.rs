//! Connections that wait for taps: what they hold in the daemon, and how soon they are open once tapped for.

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::compare::{Bench, say};
use super::field::Way;
use super::loads::{Order, PORTS_OF_ROUND, ports_of_round};
use super::rows::{Row, Section, Unit};

/// How many wait; under the daemon's bounds for one login and for one port.
const CONNECTIONS: u32 = 1_000;
/// Prompts that they need: as many as a queue holds.
const PROMPTS: u16 = 4;

/// The rows, in the table's order.
pub fn waiting_rows() -> [Row; 3] {
    let row = |name: &str, title: &str, unit| {
        let title = format!("{CONNECTIONS} flows wait on {PROMPTS} prompts, {title}");
        Row::new(format!("waiting-{name}"), Section::Taps, title, unit)
    };
    [
        row("each", "daemon, RSS for each", Unit::Kilobytes),
        row("first-tap", "open after first tap", Unit::Millis),
        row("last-tap", "open after last tap", Unit::Millis),
    ]
}

/// Lets them wait, looks, and taps.
pub(super) fn run(bench: &mut Bench<'_>, round: usize) {
    if !waiting_rows().iter().any(|row| bench.wants(row)) {
        return;
    }
    for way in bench.ways() {
        let (Some((host, first)), Some(daemon)) = (&way.taps, &way.daemon) else { continue };
        bench.renew(&way, round);
        say(&format!("  waiting over {}", way.name));
        let target = format!("{host}:{}", ports_of_round(*first, round) + PORTS_OF_ROUND - PROMPTS);
        let words = format!("waiting --ports {PROMPTS} --connections {CONNECTIONS}");
        let order = Order { target, arguments: words.split(' ').map(str::to_owned).collect() };
        let held = || Ok(daemon.memory()?.rss);
        let waited = wait(bench, &way, &order, held);
        if let Some(values) = bench.note(&format!("waiting over {}", way.name), round, waited) {
            for (row, value) in waiting_rows().iter().zip(values) {
                bench.results.record(row, &way.name, round, value);
            }
        }
    }
}

fn wait(bench: &Bench<'_>, way: &Way, order: &Order, held: impl Fn() -> Result<u64>) -> Result<[f64; 3]> {
    let before = held()?;
    let mut load = bench.field.conversation(way, order)?;
    load.hear()?;
    let more = held()?.saturating_sub(before);
    load.say("tap")?;
    let given: Value = serde_json::from_str(&load.hear()?).context("reading the load's figures")?;
    load.end()?;
    let figure = |member: &str| given[member].as_f64().with_context(|| format!("no {member}"));
    let each = more as f64 / 1024.0 / f64::from(CONNECTIONS);
    Ok([each, figure("first_tap_ms")?, figure("last_tap_ms")?])
}
