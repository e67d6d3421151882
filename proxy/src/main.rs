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

/// Portlatch's proxy and control service.
#[derive(Debug, Parser)]
#[command(name = "portlatch-proxy", version = VERSION, about)]
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

/// The error with its causes, but none that the text before it has said already.
fn told(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |told, cause| {
        let cause = cause.to_string();
        match told.contains(&cause) {
            true => told,
            false if told.is_empty() => cause,
            false => format!("{told}: {cause}"),
        }
    })
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

/// What the service logs, for the system's journal; `RUST_LOG` says how much.
fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::env::var_os("NO_COLOR").is_none() && rustix::termios::isatty(std::io::stderr()))
        .init();
}
