//! `virtual-key`: a security key in software on /dev/uhid, for tests on a machine of their own (root, Linux).

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use portlatch_virtual_key::control::{self, Held, WORDS};
use portlatch_virtual_key::{Plugged, Settings, TouchMode};

/// A security key in software on /dev/uhid, for tests: whoever reaches its socket can tap it.
#[derive(Debug, Parser)]
#[command(name = "virtual-key", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Be a key until killed
    Run(Run),
    /// Tell a key what to do
    #[command(after_help = WORDS)]
    Tell {
        /// The key's socket
        socket: PathBuf,
        /// What it is told
        words: Vec<String>,
    },
}

#[derive(Debug, Args)]
struct Run {
    /// Where it is told what to do
    #[arg(long, value_name = "SOCKET")]
    control: PathBuf,
    /// What the kernel calls it
    #[arg(long, default_value = "Portlatch virtual key")]
    name: String,
    /// It has this PIN
    #[arg(long)]
    pin: Option<String>,
    /// It speaks CTAP 2.0 only
    #[arg(long)]
    old: bool,
    /// The PIN protocols that it offers, the preferred one first
    #[arg(long = "pin-protocol", value_name = "NUMBER", default_values_t = [2, 1])]
    pin_protocols: Vec<u8>,
    /// It wants its PIN or a finger at every touch
    #[arg(long)]
    always_verifies: bool,
    /// It makes no credential without its PIN
    #[arg(long)]
    makes_with_pin_only: bool,
    /// It knows a finger
    #[arg(long)]
    finger: bool,
    /// It touches itself
    #[arg(long)]
    touched_by_itself: bool,
    /// It is in somebody's pocket at first
    #[arg(long)]
    unplugged: bool,
    /// It takes the first request within this time of being plugged in as touched, as some keys do
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0)]
    fresh: f64,
    /// How long it waits for a touch
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0)]
    touch_time: f64,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Run(run) => be(run),
        Command::Tell { socket, words } => {
            let answer = control::tell(&socket, &words.join(" "))?;
            writeln!(std::io::stdout(), "{answer}")?;
            Ok(())
        }
    }
}

fn be(run: Run) -> anyhow::Result<()> {
    let settings = Settings {
        pin: run.pin,
        pin_protocols: run.pin_protocols,
        is_two_one: !run.old,
        always_verifies: run.always_verifies,
        makes_without_pin: !run.makes_with_pin_only,
        has_finger: run.finger,
        touch: if run.touched_by_itself { TouchMode::ByItself } else { TouchMode::Waits },
        fresh_time: Duration::try_from_secs_f64(run.fresh)?,
        touch_time: Duration::try_from_secs_f64(run.touch_time)?,
        ..Settings::default()
    };
    let held = Arc::new(Held::new(Plugged::unplugged(settings), run.name));
    if !run.unplugged {
        held.plug().context("no device on /dev/uhid")?;
    }
    control::serve(&held, &run.control).context("the control socket cannot be served")
}
