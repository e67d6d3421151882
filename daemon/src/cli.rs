//! The command line of `portlatchd`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use portlatch_protocol::names::Hostname;
use portlatch_protocol::tls::CaPin;

use crate::config::Config;
use crate::os::StateDir;
use crate::{os, service, trust};

/// What `--version` says: a build with a feature that is for tests only shows it.
const VERSION: &str = if cfg!(feature = "test-clock") {
    concat!(env!("CARGO_PKG_VERSION"), " (features: test-clock)")
} else {
    concat!(env!("CARGO_PKG_VERSION"), " (no features)")
};

/// Portlatch's system service: names, connections and tunnels for the users of this machine.
#[derive(Debug, Parser)]
#[command(name = "portlatchd", version = VERSION, max_term_width = 100)]
struct Arguments {
    /// The configuration file [default: /etc/portlatch/daemon.toml, or the one that PORTLATCH_DAEMON_CONFIG names].
    #[arg(long, global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service.
    Run,
    /// Say which cluster this machine serves, and which names it may answer (as root).
    Trust {
        /// The cluster's address, as in `https://proxy.example.com:443`.
        url: String,
        /// The pin that `portlatch-proxy init` printed.
        #[arg(long, value_name = "sha256:...")]
        ca_pin: CaPin,
        /// A DNS suffix that the cluster may answer; may be given several times.
        #[arg(long = "zone", value_name = "ZONE", required = true)]
        zones: Vec<Hostname>,
    },
    /// Undo what a killed daemon left behind, and the rules of the address range (as root).
    Cleanup,
}

/// Runs the command line; the outcome is the exit code: 0, 1 (failed) or 2 (usage).
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let advice = if is_forbidden(&error) { ": run it as root" } else { "" };
            let _ = writeln!(std::io::stderr(), "portlatchd: {error:#}{advice}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the system forbade it to this user.
fn is_forbidden(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let cause = cause.downcast_ref::<std::io::Error>();
        cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::PermissionDenied)
    })
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let config = Config::load(arguments.config.as_deref())?;
    match arguments.command {
        Command::Run => service::run(config),
        Command::Trust { url, ca_pin, zones } => {
            let state = StateDir::open(&config.state_dir)?;
            let warnings = trust::trust(&state, &url, ca_pin, zones)?;
            let mut out = std::io::stdout().lock();
            warnings.iter().try_for_each(|warning| writeln!(out, "warning: {warning}"))?;
            writeln!(out, "This machine serves {url} now.")?;
            Ok(())
        }
        Command::Cleanup => {
            let state = StateDir::open(&config.state_dir)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let done = runtime.block_on(os::cleanup(&state))?;
            let mut out = std::io::stdout().lock();
            if done.is_empty() {
                writeln!(out, "Nothing was left.")?;
            }
            done.iter().try_for_each(|line| writeln!(out, "{line}"))?;
            Ok(())
        }
    }
}
