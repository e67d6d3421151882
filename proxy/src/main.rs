//! The binary: reads the command line and joins the proxy with the control service in the same process.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use portlatch_clock::Clock;
use portlatch_control::cli::{self, AdminCommand, Streams};
use portlatch_control::config::{self, PublicAddress};
use portlatch_control::init::{InitOptions, init};

mod run;

/// What thousands of flows took goes back to the system some seconds after they ended; the C library's allocator keeps
/// it: after 10,000 flows a proxy of 45 MB had 111 MB for ever, with this one 55 MB.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The version and what is built in.
const VERSION: &str = if cfg!(feature = "test-clock") {
    concat!(env!("CARGO_PKG_VERSION"), " (features: test-clock)")
} else {
    concat!(env!("CARGO_PKG_VERSION"), " (features: none)")
};

/// What stands below the help.
const MORE: &str = "\
To begin:
  portlatch-proxy init --public-host proxy.example.com
  portlatch-proxy run
and, beside it, as root or as its own user:
  portlatch-proxy apply -f resources.yaml
  portlatch-proxy users add jerry --roles access-prod

Exit codes: 0 done, 1 failed, 2 typed wrong, 3 denied.

Environment:
  PORTLATCH_LOG  what `run` logs to standard error: warn, info (the default), debug, trace
  NO_COLOR       as everywhere";

/// Portlatch's proxy and control service: what a company runs.
#[derive(Debug, Parser)]
#[command(name = "portlatch-proxy", version = VERSION, arg_required_else_help = true, after_help = MORE)]
struct Arguments {
    /// The proxy's directory.
    #[arg(long, global = true, value_name = "DIR", default_value = "/var/lib/portlatch-proxy")]
    dir: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a new cluster: its CA, its keys and a commented configuration.
    Init {
        /// Where everybody will find the cluster; for ever, since security keys are bound to it.
        #[arg(long, value_name = "HOST[:PORT]")]
        public_host: PublicAddress,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Serve.
    Run,
    #[command(flatten)]
    Admin(AdminCommand),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match execute(arguments) {
        Ok(code) => code,
        Err(error) => {
            // Nobody is left to be told if standard error is gone.
            let _ = writeln!(std::io::stderr().lock(), "portlatch-proxy: {}", told(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error with its causes, but none that the text before it has said already; and what to do where the system forbade
/// it.
fn told(error: &anyhow::Error) -> String {
    let told = error.chain().fold(String::new(), |told, cause| {
        let cause = without_number(&cause.to_string());
        match told.contains(&cause) {
            true => told,
            false if told.is_empty() => cause,
            false => format!("{told}: {cause}"),
        }
    });
    let is_forbidden = error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    match is_forbidden.map(std::io::Error::kind).any(|kind| kind == std::io::ErrorKind::PermissionDenied) {
        true => format!("{told}: run it as root, or give a directory of your own with --dir"),
        false => told,
    }
}

/// What the system said, without its number, which tells people nothing.
fn without_number(text: &str) -> String {
    match text.split_once(" (os error ") {
        Some((said, rest)) => said.to_owned() + rest.split_once(')').map_or("", |(_, rest)| rest),
        None => text.to_owned(),
    }
}

fn execute(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { dir, command } = arguments;
    match command {
        Command::Init { public_host, json } => {
            let output = Output::of(json);
            runtime()?.block_on(async { make_cluster(dir, public_host, output) })?;
        }
        Command::Run => {
            log_to_stderr();
            let config = config::load(&dir)?;
            runtime()?.block_on(run::run(&dir, config))?;
        }
        Command::Admin(command) => return Ok(administer(command, &dir)),
    }
    Ok(ExitCode::SUCCESS)
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting")
}

/// Says an administrator's command to control, which tells by its error which exit code it is.
fn administer(command: AdminCommand, dir: &Path) -> ExitCode {
    let (mut out, mut err) = (std::io::stdout().lock(), std::io::stderr().lock());
    let Err(error) = cli::run(command, dir, &mut Streams { out: &mut out, err: &mut err }) else {
        return ExitCode::SUCCESS;
    };
    let _ = writeln!(err, "portlatch-proxy: {error}");
    ExitCode::from(error.exit_code())
}

/// For whom a result is printed.
#[derive(Debug, Clone, Copy)]
enum Output {
    People,
    Programs,
}

impl Output {
    #[expect(clippy::fn_params_excessive_bools, reason = "a flag of the command line is a boolean")]
    const fn of(json: bool) -> Self {
        if json { Self::Programs } else { Self::People }
    }
}

fn make_cluster(dir: PathBuf, public_host: PublicAddress, output: Output) -> anyhow::Result<()> {
    let made = init(&InitOptions { dir, public_host }, Clock::system().time_of_day())?;
    let (pin, dir) = (made.ca_pin.to_string(), made.dir.display());
    let mut out = std::io::stdout().lock();
    match output {
        Output::Programs => {
            writeln!(out, "{}", serde_json::json!({ "ca_pin": pin, "dir": dir.to_string() }))?;
        }
        Output::People => {
            writeln!(out, "CA pin: {pin}")?;
            writeln!(
                out,
                "The cluster is in {dir}. Next: read {dir}/proxy.toml, then `portlatch-proxy run --dir {dir}`."
            )?;
        }
    }
    Ok(())
}

/// Says how much is logged.
const LOG_VARIABLE: &str = "PORTLATCH_LOG";

/// What the service logs, for the system's journal.
fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env(LOG_VARIABLE)
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::env::var_os("NO_COLOR").is_none() && rustix::termios::isatty(std::io::stderr()))
        .init();
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn what_the_system_forbids_is_told_with_what_to_do() {
        let forbidden = std::io::Error::from_raw_os_error(13);
        let error = anyhow::Error::from(forbidden).context("/var/lib/portlatch-proxy");
        assert_eq!(
            told(&error),
            "/var/lib/portlatch-proxy: Permission denied: run it as root, or give a directory of your own with --dir"
        );
        let missing = anyhow::Error::from(std::io::Error::from_raw_os_error(2)).context("x");
        assert_eq!(told(&missing), "x: No such file or directory");
    }

    #[test]
    fn the_command_line_is_well_formed_and_each_part_is_explained() {
        fn is_explained(command: &clap::Command) {
            let name = command.get_name();
            assert!(command.get_about().is_some(), "{name} says nothing of itself");
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{name} says nothing of {}", argument.get_id());
            }
            command.get_subcommands().for_each(is_explained);
        }
        Arguments::command().debug_assert();
        is_explained(&Arguments::command());
    }

    #[test]
    fn every_command_line_of_the_documentation_is_understood() {
        let guide = include_str!("../../docs/administration.md");
        for text in [include_str!("../../README.md"), guide, MORE] {
            let lines = text.lines().filter_map(|line| line.strip_prefix("# ").or(line.strip_prefix("  ")));
            let lines: Vec<&str> = lines.filter(|line| line.starts_with("portlatch-proxy ")).collect();
            assert!(!lines.is_empty(), "it shows none: {text}");
            for line in lines {
                let typed = line.split(" #").next().unwrap_or(line).trim_end_matches(" &");
                let words = typed.split('\'').enumerate().flat_map(|(n, part)| match n % 2 {
                    0 => part.split_whitespace().collect(),
                    _ => vec![part],
                });
                let words: Vec<String> = words.map(|word| word.replace("ID", "5e55")).collect();
                let parsed = Arguments::try_parse_from(&words);
                assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
            }
        }
        for command in Arguments::command().get_subcommands() {
            let name = command.get_name();
            assert!(
                guide.contains(&format!("`{name} ")) || guide.contains(&format!("-proxy {name}")),
                "{name} is missing in the guide"
            );
        }
    }
}
