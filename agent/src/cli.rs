//! The command line: what can be typed, and which command does it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use portlatch_clock::Clock;
use portlatch_protocol::names::{ResourceKind, UserName};
use portlatch_protocol::tls::CaPin;

use crate::address::{ClusterAddress, split_port};
use crate::commands::{self, Labels, unless_stopped};
use crate::failure::Failure;
use crate::files::Files;
use crate::mfa_mode::MfaMode;
use crate::terminal;

mod help;

/// The version and what was built in.
const VERSION: &str = const {
    match (cfg!(feature = "software-key"), cfg!(feature = "test-clock")) {
        (false, false) => concat!(env!("CARGO_PKG_VERSION"), " (features: none)"),
        (true, false) => concat!(env!("CARGO_PKG_VERSION"), " (features: software-key)"),
        (false, true) => concat!(env!("CARGO_PKG_VERSION"), " (features: test-clock)"),
        (true, true) => concat!(env!("CARGO_PKG_VERSION"), " (features: software-key, test-clock)"),
    }
};

/// Reach internal hosts with your ordinary programs, behind a tap of your security key.
#[derive(Debug, Parser)]
#[command(name = "portlatch", version = VERSION, arg_required_else_help = true, after_help = help::PORTLATCH)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Sign in to a cluster, in the browser or with password and security key
    #[command(after_help = help::LOGIN)]
    Login(Login),
    /// Run in the background: keep the login attached, and prompt for taps
    #[command(after_help = help::AGENT)]
    Agent(Agent),
    /// Show who is logged in, open prompts, grants and refusals
    Status(Output),
    /// List what you may reach
    Ls(Output),
    /// Show prompts as they come, and answer them: codes, deny, block, lift, resume
    #[command(after_help = help::WATCH)]
    Watch,
    /// Tap for a port before a program connects to it
    #[command(after_help = help::TAP)]
    Tap(Tap),
    /// Run a command once for each resource that matches, after one tap
    #[command(after_help = help::EXEC)]
    Exec(Exec),
    /// Tap for a desktop, then open it with the RDP client that is installed
    #[command(after_help = help::RDP)]
    Rdp(Rdp),
    /// Tell which rule opens or refuses a port, whether a tap is needed, and what to do
    #[command(after_help = help::WHY)]
    Why(Why),
    /// Look for what is wrong on this machine and on the way to the cluster, and say what to do
    #[command(after_help = help::DOCTOR)]
    Doctor(Output),
    /// Your security keys, passkeys and authenticator apps
    #[command(subcommand, after_help = help::MFA)]
    Mfa(Mfa),
    /// Sign out, and forget key and certificate
    Logout,
}

/// `portlatch login`.
#[derive(Debug, Args)]
pub(crate) struct Login {
    /// The cluster: `HOST[:PORT]` or `https://HOST[:PORT]`; without it the one of the last login
    #[arg(long, value_name = "URL")]
    pub(crate) proxy: Option<ClusterAddress>,
    /// The user; without it the one of the last login, or this system's
    #[arg(long, value_name = "NAME")]
    pub(crate) user: Option<UserName>,
    /// The one-time enrolment token of a new user: sets the password and enrols the first security key
    #[arg(long, value_name = "TOKEN")]
    pub(crate) enrol: Option<String>,
    /// The cluster's CA, as `portlatch-proxy init` printed it
    #[arg(long, value_name = "sha256:...")]
    pub(crate) ca_pin: Option<CaPin>,
    /// Log in here, with password and security key at this machine, and not in the browser
    #[arg(long)]
    native: bool,
    /// Read the password from the first line of standard input, and a recovery code from the second
    #[arg(long)]
    pub(crate) password_stdin: bool,
    /// Use one of your recovery codes in place of your security key
    #[arg(long, conflicts_with = "enrol")]
    pub(crate) recovery_code: bool,
    /// How you want to prove presence, where the policy leaves a choice; kept with the login
    #[arg(long, value_name = "MODE")]
    pub(crate) mfa_mode: Option<MfaMode>,
    /// Use a software key instead of a USB key: for tests and demos only
    #[cfg(feature = "software-key")]
    #[arg(long, value_name = "MODE")]
    pub(crate) software_key: Option<crate::keys::software::Mode>,
}

/// Where somebody logs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LoginPlace {
    /// In this terminal.
    Terminal,
    /// At a page of the cluster.
    Browser,
}

impl Login {
    /// In the browser, unless the options make sense in the terminal alone.
    pub(crate) fn place(&self) -> LoginPlace {
        let is_native = self.native || self.password_stdin || self.recovery_code || self.enrol.is_some();
        #[cfg(feature = "software-key")]
        let is_native = is_native || self.software_key.is_some();
        if is_native { LoginPlace::Terminal } else { LoginPlace::Browser }
    }
}

/// `portlatch agent`.
#[derive(Debug, Args)]
pub(crate) struct Agent {
    /// How to prove presence, instead of as the login says
    #[arg(long, value_name = "MODE")]
    pub(crate) mfa_mode: Option<MfaMode>,
    /// Use a software key instead of a USB key: for tests and demos only
    #[cfg(feature = "software-key")]
    #[arg(long, value_name = "MODE")]
    pub(crate) software_key: Option<crate::keys::software::Mode>,
}

/// For commands whose output programs read too.
#[derive(Debug, Args)]
pub(crate) struct Output {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `portlatch tap`.
#[derive(Debug, Args)]
pub(crate) struct Tap {
    /// `HOST[:PORT]`; the port may be left out where the resource has only one
    #[arg(value_name = "HOST[:PORT]")]
    pub(crate) target: String,
    /// How to prove presence, instead of as the login says
    #[arg(long, value_name = "MODE")]
    pub(crate) mfa_mode: Option<MfaMode>,
}

/// `portlatch why`.
#[derive(Debug, Args)]
pub(crate) struct Why {
    /// `HOST[:PORT]`; the port may be left out where the resource has only one
    #[arg(value_name = "HOST[:PORT]")]
    pub(crate) target: String,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `portlatch exec`.
#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// The kind of the resources: app, db, node, kube_cluster or desktop
    #[arg(long, value_name = "KIND")]
    pub(crate) kind: ResourceKind,
    /// Labels that they all have; * is any value
    #[arg(long, value_name = "KEY=VALUE,...")]
    pub(crate) labels: Labels,
    /// The port, where a resource has several
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,
    /// Keep the output of each as NAME.log in this directory, and summary.json beside it
    #[arg(long, value_name = "DIR")]
    pub(crate) output_dir: Option<PathBuf>,
    /// Do not ask before the tap
    #[arg(long)]
    pub(crate) yes: bool,
    /// Print the summary as JSON; all else goes to standard error
    #[arg(long)]
    pub(crate) json: bool,
    /// How to prove presence, instead of as the login says; codes are not taken
    #[arg(long, value_name = "MODE")]
    pub(crate) mfa_mode: Option<MfaMode>,
    /// The command and its arguments, in which {host}, {port} and {name} are replaced
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

/// `portlatch rdp`.
#[derive(Debug, Args)]
pub(crate) struct Rdp {
    /// The desktop, by its name or its host
    pub(crate) name: String,
    /// The user there
    #[arg(long, value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// The port, where the desktop has several
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,
    /// How to prove presence, instead of as the login says; codes are not taken
    #[arg(long, value_name = "MODE")]
    pub(crate) mfa_mode: Option<MfaMode>,
    /// More arguments for the client, for example /f
    #[arg(last = true, value_name = "ARGS")]
    pub(crate) arguments: Vec<OsString>,
}

/// `portlatch mfa`.
#[derive(Debug, Subcommand)]
pub(crate) enum Mfa {
    /// List your keys and apps
    Ls(MfaList),
    /// Add a security key or an authenticator app
    Add(MfaAdd),
    /// Remove a key or an app
    Rm(MfaChange),
    /// Give a key or an app another name
    Rename {
        /// Its name or its ID
        #[arg(value_name = "NAME|ID")]
        device: String,
        /// Its new name
        #[arg(value_name = "NEW-NAME")]
        name: String,
        /// How to prove presence, instead of as the login says
        #[arg(long, value_name = "MODE")]
        mfa_mode: Option<MfaMode>,
    },
    /// Make ten recovery codes, each for one login without your key
    RecoveryCodes {
        /// How to prove presence, instead of as the login says
        #[arg(long, value_name = "MODE")]
        mfa_mode: Option<MfaMode>,
    },
}

/// `portlatch mfa ls`.
pub(crate) type MfaList = Output;

/// `portlatch mfa add`.
#[derive(Debug, Args)]
pub(crate) struct MfaAdd {
    /// What to add
    pub(crate) kind: DeviceKind,
    /// What you call it
    pub(crate) name: String,
    /// How to prove presence first, instead of as the login says
    #[arg(long, value_name = "MODE")]
    pub(crate) mfa_mode: Option<MfaMode>,
    /// Add a software key instead of a USB key: for tests and demos only
    #[cfg(feature = "software-key")]
    #[arg(long, value_name = "MODE")]
    pub(crate) software_key: Option<crate::keys::software::Mode>,
}

/// What `portlatch mfa` can add.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum DeviceKind {
    /// A security key
    Key,
    /// An authenticator app, which shows codes
    App,
}

/// `portlatch mfa rm`.
#[derive(Debug, Args)]
pub(crate) struct MfaChange {
    /// Its name or its ID
    #[arg(value_name = "NAME|ID")]
    pub(crate) device: String,
    /// How to prove presence, instead of as the login says
    #[arg(long, value_name = "MODE")]
    pub(crate) mfa_mode: Option<MfaMode>,
}

/// Runs the command that the arguments name.
pub(crate) fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // clap's text has advice of its own; --help and --version end here as well.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(log_filter());
    log.with_ansi(terminal::is_coloured(&std::io::stderr())).init();
    match start(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure @ (Failure::Unread | Failure::Said | Failure::Refused | Failure::Stopped(_))) => {
            failure.exit_code()
        }
        Err(failure) => {
            terminal::complain(&format!("portlatch: {failure}"));
            failure.exit_code()
        }
    }
}

fn log_filter() -> tracing_subscriber::EnvFilter {
    let wanted = std::env::var("PORTLATCH_LOG").unwrap_or_default();
    tracing_subscriber::EnvFilter::builder()
        .with_default_directive(tracing::Level::WARN.into())
        .parse_lossy(wanted)
}

fn start(command: Command) -> Result<(), Failure> {
    let files = Files::open()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(async {
        let clock = Clock::system();
        match command {
            Command::Login(login) => tokio::select! {
                done = commands::login(&login, &files, &clock) => done,
                // Here, so that a question without echo gives the terminal back as it was.
                _ = tokio::signal::ctrl_c() => Err(Failure::because("stopped: nobody was logged in")),
            },
            Command::Agent(agent) => commands::agent(&agent, files, clock).await,
            Command::Status(output) => commands::status(&output, &files, &clock).await,
            Command::Ls(output) => commands::ls(&output, &files, &clock).await,
            Command::Watch => unless_stopped(commands::watch(&files)).await,
            Command::Tap(tap) => {
                let (host, port) =
                    split_port(&tap.target).map_err(|error| Failure::Usage(error.to_string()))?;
                unless_stopped(commands::tap(&files, &host, port, tap.mfa_mode)).await
            }
            Command::Why(why) => commands::why(&why, &files, &clock).await,
            Command::Doctor(output) => commands::doctor(&output, &files, &clock).await,
            Command::Exec(exec) => commands::exec(&exec, &files, &clock).await,
            Command::Rdp(rdp) => commands::rdp(&rdp, &files, &clock).await,
            Command::Mfa(mfa) => commands::mfa(&mfa, &files, &clock).await,
            Command::Logout => commands::logout(&files, &clock).await,
        }
    });
    // A security key's thread or a look at /proc may still be busy: nobody waits for them.
    runtime.shutdown_background();
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    /// Every command and each of its arguments says what it is.
    fn is_explained(command: &clap::Command) {
        let name = command.get_name();
        assert!(command.get_about().is_some(), "{name} says nothing of itself");
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{name} says nothing of {}", argument.get_id());
        }
        command.get_subcommands().for_each(is_explained);
    }

    #[test]
    fn every_command_is_explained_here_and_in_the_readme() {
        is_explained(&Cli::command());
        let readme = include_str!("../../README.md");
        for command in Cli::command().get_subcommands() {
            let cell = format!("| `portlatch {}", command.get_name());
            let beside = format!(", `portlatch {}` |", command.get_name());
            assert!(readme.contains(&cell) || readme.contains(&beside), "{} is missing", command.get_name());
        }
    }

    #[test]
    fn what_people_type_is_understood() {
        let pin = format!("sha256:{}", "ab".repeat(32));
        let login = [
            "portlatch",
            "login",
            "--proxy",
            "https://proxy.example.com",
            "--user",
            "jerry",
            "--ca-pin",
            &pin,
        ];
        assert!(Cli::try_parse_from(login).is_ok());
        assert!(Cli::try_parse_from(["portlatch", "status", "--json"]).is_ok());
        assert!(Cli::try_parse_from(["portlatch", "tap", "billing-db.corp.internal:5432"]).is_ok());
        assert!(Cli::try_parse_from(["portlatch", "why", "billing-db.corp.internal:5432", "--json"]).is_ok());
        assert!(Cli::try_parse_from(["portlatch", "why"]).is_err());
        assert!(Cli::try_parse_from(["portlatch", "doctor", "--json"]).is_ok());
        assert!(Cli::try_parse_from(["portlatch", "login", "--proxy", "http://x"]).is_err());
        assert!(Cli::try_parse_from(["portlatch", "login", "--proxy", "x", "--ca-pin", "abc"]).is_err());
    }
}
