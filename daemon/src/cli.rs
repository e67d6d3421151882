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
    concat!(env!("CARGO_PKG_VERSION"), " (features: none)")
};

/// What stands below the help.
const MORE: &str = "\
Once, as root, with what the cluster's administrator gave you; then as a service:
  portlatchd trust https://proxy.example.com --ca-pin sha256:... --zone corp.internal
  portlatchd run

Exit codes: 0 done, 1 failed, 2 typed wrong.

Environment:
  PORTLATCH_DAEMON_CONFIG  the configuration file, instead of /etc/portlatch/daemon.toml
  PORTLATCH_SOCKET         the socket for agents, instead of the configuration's
  PORTLATCH_LOG            what is logged to standard error: warn, info (the default), debug, trace
  NO_COLOR                 as everywhere";

/// Portlatch's system service: names, connections and tunnels for the users of this machine.
#[derive(Debug, Parser)]
#[command(name = "portlatchd", version = VERSION, max_term_width = 100, arg_required_else_help = true, after_help = MORE)]
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
            let told = without_numbers(&format!("{error:#}"));
            let _ = writeln!(std::io::stderr(), "portlatchd: {told}{advice}");
            ExitCode::FAILURE
        }
    }
}

/// What the system said, without its numbers, which tell people nothing.
fn without_numbers(text: &str) -> String {
    let mut parts = text.split(" (os error ");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |told, part| told + part.split_once(')').map_or("", |(_, rest)| rest))
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
            trust::may_be_said()?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn what_the_system_said_is_told_without_its_number() {
        let error = anyhow::Error::from(std::io::Error::from_raw_os_error(13)).context("x could not be made");
        assert_eq!(without_numbers(&format!("{error:#}")), "x could not be made: Permission denied");
        assert_eq!(without_numbers("a (os error 2): b (os error 3)"), "a: b");
    }

    #[test]
    fn every_command_line_of_the_documentation_is_understood() {
        let guide = include_str!("../../docs/administration.md");
        let pin = format!("sha256:{}", "ab".repeat(32));
        for text in [include_str!("../../README.md"), guide, MORE] {
            let lines = text.lines().filter_map(|line| line.strip_prefix("# ").or(line.strip_prefix("  ")));
            let lines: Vec<&str> = lines.filter(|line| line.starts_with("portlatchd ")).collect();
            assert!(!lines.is_empty(), "it shows none: {text}");
            for line in lines {
                let line = line.trim_end_matches(" &").replace("sha256:...", &pin);
                let parsed = Arguments::try_parse_from(line.split_whitespace());
                assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
            }
        }
        for command in Arguments::command().get_subcommands() {
            let name = format!("portlatchd {}", command.get_name());
            assert!(guide.contains(&name), "{name} is missing in the guide");
        }
    }
}
