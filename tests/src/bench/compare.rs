//! The rounds: every load over every path in turn, so that what changes on the machine meanwhile meets all paths alike.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::engine::Engine;
use super::field::{Field, Kind, Way};
use super::idle::{self, beside_rows, memory_rows};
use super::loads::{Consumer, Figure, LOADS, Load, beside, beside_idle, kept};
use super::plot::plot;
use super::process::{Part, machine_time};
use super::report;
use super::results::Results;
use super::rows::{Row, Selection};
use super::waiting::{self, waiting_rows};

/// How long it is looked at what else runs on the machine.
const LOOK_AROUND: Duration = Duration::from_secs(1);

/// The paths that are always there.
const PATHS: [&str; 3] = ["direct", "quic", "portlatch"];

/// What is compared, and how.
#[derive(Debug, clap::Args)]
pub struct Comparison {
    /// scripts/lab
    #[arg(long)]
    lab_script: PathBuf,
    /// The lab's directory
    #[arg(long)]
    lab: PathBuf,
    /// This program, where the lab's users may run it
    #[arg(long)]
    program: PathBuf,
    /// The server, by the direct path
    #[arg(long)]
    direct: String,
    /// The server, through Portlatch
    #[arg(long)]
    portlatch: String,
    /// The QUIC server
    #[arg(long)]
    quic: String,
    /// Its certificate
    #[arg(long)]
    certificate: PathBuf,
    /// A DNS server on the direct path
    #[arg(long)]
    direct_dns: String,
    /// Portlatch's, which knows the server
    #[arg(long)]
    portlatch_dns: String,
    /// The server through Portlatch by ports that need a tap; the first of them
    #[arg(long)]
    taps: String,
    #[command(flatten)]
    pub(super) choice: Choice,
}

/// What of it is wanted.
#[derive(Debug, Clone, clap::Args)]
pub struct Choice {
    /// How often each load runs over each path
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// How long each time, in seconds
    #[arg(long, default_value_t = 3)]
    pub seconds: u64,
    /// Which rows: names with * for anything, separated by commas
    #[arg(long, default_value = "*")]
    pub rows: String,
    /// Which paths, separated by commas
    #[arg(long, default_value = "*")]
    pub paths: String,
    /// Another engine to compare with, and the shell command that brings it up
    #[arg(long = "engine", value_name = "NAME=COMMAND")]
    pub engines: Vec<Engine>,
    /// Where the figures go for programs
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Where the picture goes, SVG
    #[arg(long)]
    pub plot: Option<PathBuf>,
}

impl Choice {
    /// Whether all of it is there: before a lab is made for it, so that a slip of the pen costs nobody a minute.
    ///
    /// # Errors
    /// What is not.
    pub fn check(&self) -> Result<()> {
        ensure!(self.rounds > 0, "--rounds: at least one");
        ensure!(self.seconds > 0, "--seconds: at least one");
        if let Some(pattern) =
            Selection::new(&self.rows).idle_pattern(catalogue().iter().map(|row| row.name.as_str()))
        {
            bail!("there is no row {pattern}: see --list");
        }
        if let Some(pattern) = Selection::new(&self.paths).idle_pattern(PATHS.into_iter()) {
            bail!("there is no path {pattern}: {}", PATHS.join(", "));
        }
        Ok(())
    }
}

/// All rows, in the table's order.
pub fn catalogue() -> Vec<Row> {
    let mut rows: Vec<_> = LOADS.into_iter().flat_map(Load::rows).collect();
    rows.extend(waiting_rows());
    rows.extend(memory_rows());
    rows.extend(beside_rows());
    rows.sort_by_key(|row| row.section);
    rows
}

/// A run.
pub(super) struct Bench<'a> {
    pub(super) field: Field,
    pub(super) results: Results,
    choice: &'a Choice,
    ways: Vec<Way>,
    selection: Selection,
    /// What others used of the processors before the first round.
    others: f64,
}

impl Comparison {
    /// Runs all rounds, prints the table, writes the JSON.
    ///
    /// # Errors
    /// If something could not be measured: figures of a path that does not work mean nothing. What could be measured is
    /// shown nevertheless.
    pub fn run(&self) -> Result<()> {
        self.choice.check()?;
        let selection = Selection::new(&self.choice.rows);
        let field = Field {
            lab_script: self.lab_script.clone(),
            lab: self.lab.clone(),
            program: self.program.clone(),
        };
        let mut ways = self.ways()?;
        let mut running = Vec::new();
        for (index, engine) in self.choice.engines.iter().enumerate() {
            say(&format!("bringing up {}", engine.name));
            let up = engine.start(&field, index).with_context(|| format!("bringing up {}", engine.name))?;
            ways.push(up.way.clone());
            running.push(up);
        }
        let mut bench = Bench {
            field,
            results: Results::default(),
            choice: &self.choice,
            ways,
            selection,
            others: others()?,
        };
        for round in 1..=self.choice.rounds {
            bench.round(round);
        }
        self.tell(&bench)
    }

    fn ways(&self) -> Result<Vec<Way>> {
        let way = |name: &str, target: &str| Way {
            name: name.to_owned(),
            target: target.to_owned(),
            certificate: None,
            dns: None,
            taps: None,
            daemon: None,
            proxy: None,
            kind: Kind::Reference,
        };
        let pid_file = |name| self.lab.join("pid").join(name);
        let part = |leader, host| Some(Part { leader: pid_file(leader), host: pid_file(host) });
        let quic = Way { certificate: Some(self.certificate.clone()), ..way("quic", &self.quic) };
        let (host, port) = self.taps.rsplit_once(':').context("--taps needs HOST:PORT")?;
        let portlatch = Way {
            dns: Some(self.portlatch_dns.clone()),
            taps: Some((host.to_owned(), port.parse().context("--taps needs HOST:PORT")?)),
            daemon: part("portlatchd", "host-user"),
            proxy: part("portlatch-proxy", "host-proxy"),
            kind: Kind::Portlatch,
            ..way("portlatch", &self.portlatch)
        };
        let direct = Way { dns: Some(self.direct_dns.clone()), ..way("direct", &self.direct) };
        let chosen = Selection::new(&self.choice.paths);
        let mut ways = vec![direct, quic, portlatch];
        ways.retain(|way| chosen.has(&way.name));
        Ok(ways)
    }

    fn tell(&self, bench: &Bench<'_>) -> Result<()> {
        let ways: Vec<_> = bench.ways.iter().map(|way| way.name.as_str()).collect();
        let rows: Vec<_> = catalogue().into_iter().filter(|row| bench.wants(row)).collect();
        let report = report::Report {
            choice: &self.choice,
            ways: &ways,
            rows: &rows,
            results: &bench.results,
            others: bench.others,
        };
        let mut output = io::stdout().lock();
        output.write_all(report.text().as_bytes())?;
        output.flush()?;
        if let Some(file) = &self.choice.json {
            let json = serde_json::to_string_pretty(&report.json())?;
            std::fs::write(file, json).with_context(|| format!("writing {}", file.display()))?;
        }
        if let Some(file) = &self.choice.plot {
            std::fs::write(file, plot(&report)).with_context(|| format!("writing {}", file.display()))?;
        }
        let failures = bench.results.failures();
        ensure!(failures.is_empty(), "could not be measured: {}", failures.join("; "));
        Ok(())
    }
}

impl Bench<'_> {
    pub(super) fn wants(&self, row: &Row) -> bool {
        self.selection.has(&row.name)
    }

    pub(super) fn ways(&self) -> Vec<Way> {
        self.ways.clone()
    }

    /// Starts Portlatch's parts again, so that memory is looked at as after a machine's start.
    pub(super) fn renew(&mut self, way: &Way, round: usize) {
        if way.kind == Kind::Portlatch {
            say(&format!("  starting {} again", way.name));
            let renewed = self.field.renew(way);
            self.note(&format!("starting {} again", way.name), round, renewed);
        }
    }

    /// What succeeded; what did not is remembered as a failure.
    pub(super) fn note<T>(&mut self, what: &str, round: usize, outcome: Result<T>) -> Option<T> {
        outcome
            .map_err(|error| {
                let why = format!("round {round}, {what}: {error:#}");
                say(&why);
                self.results.fail(why);
            })
            .ok()
    }

    fn round(&mut self, round: usize) {
        say(&format!("round {round} of {}", self.choice.rounds));
        waiting::run(self, round);
        idle::run(self, round);
        for load in LOADS {
            let is_wanted = load.rows().iter().any(|row| self.wants(row));
            // What is kept beside idle connections needs the row without them.
            let is_compared = beside_idle().any(|beside| beside == load)
                && load.figures().iter().any(|figure| self.wants(&kept(&figure.row)));
            for way in self.ways() {
                // A login's challenges are limited; a control that has just started has counted none.
                if is_wanted && load == Load::Taps {
                    self.renew(&way, round);
                }
                if is_wanted || (is_compared && way.has_parts()) {
                    self.load_alone(load, &way, round);
                }
            }
            self.compare(load, round);
        }
    }

    /// A load, its figures, and what it cost.
    fn load_alone(&mut self, load: Load, way: &Way, round: usize) {
        let before = costs(way);
        let Some(given) = self.load(load, way, round) else { return };
        let after = costs(way);
        for figure in load.figures() {
            self.record(&figure.row, &figure, way, &given, round);
        }
        let gigabytes = given["bytes"].as_f64().unwrap_or(0.0) / 1e9;
        for ((consumer, before), (_, after)) in before.into_iter().zip(after) {
            let (Some(before), Some(after), Some(row)) = (before, after, load.cost(consumer)) else {
                continue;
            };
            let spent = after.saturating_sub(before).as_secs_f64();
            self.results.record(&row, &way.name, round, spent / gigabytes);
        }
    }

    /// What the load program says of a load over a path.
    pub(super) fn load(&mut self, load: Load, way: &Way, round: usize) -> Option<Value> {
        let order = load.order(way, round)?;
        say(&format!("  {} over {}", load.name(), way.name));
        let given = self.field.load(way, &order, Duration::from_secs(self.choice.seconds));
        self.note(&format!("{} over {}", load.name(), way.name), round, given)
    }

    /// Puts a figure of `given` down as one of `row`.
    pub(super) fn record(&mut self, row: &Row, figure: &Figure, way: &Way, given: &Value, round: usize) {
        let value = given[figure.member].as_f64().with_context(|| format!("no {}", figure.member));
        if let Some(value) = self.note(&row.name, round, value) {
            self.results.record(row, &way.name, round, value * figure.factor);
        }
    }

    /// The rows that say what one figure is of another of the same round.
    fn compare(&mut self, load: Load, round: usize) {
        let figures = load.figures();
        for way in self.ways().iter().filter(|way| way.has_parts()) {
            let name = way.name.as_str();
            if let (Some(share), Some(figure)) = (load.of_quic(), figures.first()) {
                self.results.record_share(&share, (&figure.row, name), (&figure.row, "quic"), round);
            }
            for row in figures.iter().map(|figure| &figure.row) {
                self.results.record_share(&kept(row), (&beside(row), name), (row, name), round);
            }
        }
    }
}

/// The processor time of each consumer until now, where the path has it.
fn costs(way: &Way) -> [(Consumer, Option<Duration>); 3] {
    let of = |part: &Option<Part>| part.as_ref()?.processor_time().ok();
    [
        (Consumer::Daemon, of(&way.daemon)),
        (Consumer::Proxy, of(&way.proxy)),
        (Consumer::Machine, machine_time().ok()),
    ]
}

/// What else the processors are busy with, of all they could do: it takes from every figure.
fn others() -> Result<f64> {
    let before = machine_time()?;
    std::thread::sleep(LOOK_AROUND);
    let spent = machine_time()?.saturating_sub(before);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(spent.as_secs_f64() / LOOK_AROUND.as_secs_f64() / cores as f64)
}

/// Where the run is, for whoever waits.
pub(super) fn say(line: &str) {
    // Nobody may be there to read it.
    let _ = writeln!(io::stderr().lock(), "{line}");
}
