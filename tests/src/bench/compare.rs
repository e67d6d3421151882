//! The rounds: every load over every path in turn, so that what changes on the machine meanwhile meets all paths alike,
//! and what came of them as a table and as JSON.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::figures::{Rounds, table};

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
    /// How often each load runs over each path
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How long each time
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Where the figures go for programs
    #[arg(long)]
    json: Option<PathBuf>,
}

/// A load, and which of its figures are shown.
struct Load {
    arguments: &'static [&'static str],
    figures: &'static [Figure],
}

/// One row of the table.
struct Figure {
    name: &'static str,
    unit: &'static str,
    /// Its member in the load's JSON.
    member: &'static str,
}

const fn figure(name: &'static str, unit: &'static str, member: &'static str) -> Figure {
    Figure { name, unit, member }
}

const LOADS: &[Load] = &[
    Load {
        arguments: &["rr"],
        figures: &[
            figure("request and response, p50", "us", "p50_us"),
            figure("request and response, p99", "us", "p99_us"),
        ],
    },
    Load {
        arguments: &["bulk", "--direction", "up", "--flows", "1"],
        figures: &[figure("upload, 1 flow", "Mbit/s", "mbit_per_second")],
    },
    Load {
        arguments: &["bulk", "--direction", "up", "--flows", "8"],
        figures: &[figure("upload, 8 flows", "Mbit/s", "mbit_per_second")],
    },
    Load {
        arguments: &["bulk", "--direction", "down", "--flows", "1"],
        figures: &[figure("download, 1 flow", "Mbit/s", "mbit_per_second")],
    },
    Load {
        arguments: &["bulk", "--direction", "down", "--flows", "8"],
        figures: &[figure("download, 8 flows", "Mbit/s", "mbit_per_second")],
    },
    Load {
        arguments: &["crr", "--parallel", "1"],
        figures: &[
            figure("new connections, one after another", "1/s", "per_second"),
            figure("  each, p99", "us", "p99_us"),
        ],
    },
    Load {
        arguments: &["crr", "--parallel", "16"],
        figures: &[
            figure("new connections, 16 at once", "1/s", "per_second"),
            figure("  each, p99", "us", "p99_us"),
        ],
    },
];

/// The paths, in the order of the columns.
const PATHS: [&str; 3] = ["direct", "quic", "portlatch"];

/// The values of one row: by path, then by round.
type Row = [Vec<f64>; PATHS.len()];

impl Comparison {
    /// Runs all rounds, prints the table, writes the JSON.
    ///
    /// # Errors
    /// If a load fails on a path: figures of a path that does not work mean nothing.
    pub fn run(&self) -> Result<String> {
        let mut rows: Vec<Row> = rows().map(|_| Row::default()).collect();
        for round in 1..=self.rounds {
            let mut at = 0;
            for load in LOADS {
                for (column, path) in PATHS.into_iter().enumerate() {
                    let figures = self.load(path, load).with_context(|| {
                        format!("round {round}, {} over {path}", load.arguments.join(" "))
                    })?;
                    for (row, figure) in rows[at..].iter_mut().zip(load.figures) {
                        row[column].push(figures[figure.member].as_f64().context("a figure is missing")?);
                    }
                }
                at += load.figures.len();
            }
        }
        if let Some(file) = &self.json {
            let json = serde_json::to_string_pretty(&self.as_json(&rows))?;
            fs::write(file, json).with_context(|| format!("writing {}", file.display()))?;
        }
        Ok(self.as_table(&rows))
    }

    fn load(&self, path: &str, load: &Load) -> Result<Value> {
        let mut command = Command::new(&self.lab_script);
        command.arg("exec").arg("--dir").arg(&self.lab).args(["user", "--user", "jerry", "--"]);
        command.arg(&self.program).args(["load", "--target", self.target(path)]);
        if path == "quic" {
            command.arg("--certificate").arg(&self.certificate);
        }
        command.args(["--seconds", &self.seconds.to_string()]).args(load.arguments);
        let output = command.stderr(Stdio::inherit()).output().context("starting the load")?;
        if !output.status.success() {
            bail!("the load ended with {}", output.status);
        }
        serde_json::from_slice(&output.stdout).context("reading the load's figures")
    }

    fn target(&self, path: &str) -> &str {
        match path {
            "direct" => &self.direct,
            "quic" => &self.quic,
            _ => &self.portlatch,
        }
    }

    fn as_table(&self, rows: &[Row]) -> String {
        let mut lines = vec![
            ["median (lowest-highest)", "", "direct", "QUIC, no TUN", "Portlatch"]
                .map(str::to_owned)
                .to_vec(),
        ];
        for (figure, row) in self::rows().zip(rows) {
            let mut line = vec![figure.name.to_owned(), figure.unit.to_owned()];
            line.extend(row.iter().map(|values| Rounds::of(values).map_or(String::new(), |r| r.to_string())));
            lines.push(line);
        }
        let machine = machine();
        format!(
            "{}, {} cores, Linux {}; rounds: {}, each {} s. Direct is plain TCP through a router, unencrypted; the others \
             are encrypted. Everything, servers included, runs on these cores.\n\n{}",
            text(&machine["cpu"]),
            machine["cores"],
            text(&machine["kernel"]),
            self.rounds,
            self.seconds,
            table(&lines)
        )
    }

    fn as_json(&self, rows: &[Row]) -> Value {
        let rows: Vec<_> = self::rows()
            .zip(rows)
            .map(|(figure, row)| {
                let paths = PATHS.iter().zip(row).map(|(path, values)| {
                    let rounds = Rounds::of(values).map(|r| (r.median, r.low, r.high));
                    let (median, low, high) = rounds.unwrap_or_default();
                    let of_path = json!({ "median": median, "low": low, "high": high, "values": values });
                    ((*path).to_owned(), of_path)
                });
                let paths: serde_json::Map<_, _> = paths.collect();
                json!({ "name": figure.name.trim(), "unit": figure.unit, "paths": paths })
            })
            .collect();
        json!({ "machine": machine(), "rounds": self.rounds, "seconds": self.seconds, "rows": rows })
    }
}

fn rows() -> impl Iterator<Item = &'static Figure> {
    LOADS.iter().flat_map(|load| load.figures)
}

fn text(value: &Value) -> &str {
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
mod tests {
    use super::*;

    fn comparison() -> Comparison {
        Comparison {
            lab_script: "lab".into(),
            lab: "/tmp/lab".into(),
            program: "bench".into(),
            direct: "10.0.0.9:7000".into(),
            portlatch: "bench.corp.internal:7000".into(),
            quic: "10.0.0.9:7001".into(),
            certificate: "certificate".into(),
            rounds: 3,
            seconds: 1,
            json: None,
        }
    }

    #[test]
    fn table_and_json_show_every_figure_of_every_path() {
        let values = [vec![1.0, 2.0, 3.0], vec![10.0, 20.0, 30.0], vec![100.0, 200.0, 300.0]];
        let rows: Vec<Row> = rows().map(|_| values.clone()).collect();
        let shown = comparison().as_table(&rows);
        let line = shown.lines().find(|line| line.starts_with("upload, 8 flows")).unwrap();
        for cell in ["2.00 (1.00-3.00)", "20.0 (10.0-30.0)", "200 (100-300)"] {
            assert!(line.contains(cell), "{line:?} has no {cell}");
        }
        let json = comparison().as_json(&rows);
        assert_eq!(json["rows"].as_array().unwrap().len(), rows.len());
        assert_eq!(json["rows"][0]["paths"]["portlatch"]["median"], 200.0);
    }

    #[test]
    fn a_path_that_does_not_work_is_an_error() {
        let mut comparison = comparison();
        comparison.lab_script = "/bin/false".into();
        assert!(format!("{:#}", comparison.run().unwrap_err()).contains("round 1, rr over direct"));
    }
}
