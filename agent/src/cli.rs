//! The command line: what can be typed, and which command does it.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use portlatch_clock::Clock;

use crate::address::split_port;
use crate::commands::{self, unless_stopped};
use crate::failure::Failure;
use crate::files::Files;
use crate::terminal;

mod arguments;
mod help;

pub(crate) use arguments::{
    Agent, DeviceKind, Exec, Login, LoginPlace, Mfa, MfaAdd, MfaChange, MfaList, Output, Rdp, Tap, Why,
};

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

    /// The command lines that a text shows, without what else the shell does with them.
    fn shown(text: &str) -> Vec<&str> {
        let behind_prompt = |line| str::strip_prefix(line, "$ ").or_else(|| str::strip_prefix(line, "  "));
        let commands = text.lines().filter_map(behind_prompt).filter(|line| line.starts_with("portlatch "));
        commands.map(|line| line.split(" &").next().unwrap_or(line)).collect()
    }

    /// The words of a line as the shell makes them; what stands for something is given.
    fn words(line: &str) -> Vec<String> {
        let quoted = line.split('\'').enumerate();
        let words = quoted.flat_map(|(n, part)| match n % 2 {
            0 => part.split_whitespace().collect(),
            _ => vec![part],
        });
        words.map(|word| word.replace("sha256:...", &format!("sha256:{}", "ab".repeat(32)))).collect()
    }

    #[test]
    fn every_command_line_of_the_documentation_is_understood() {
        let guide = include_str!("../../docs/using.md");
        let texts = [include_str!("../../README.md"), guide, help::PORTLATCH, help::LOGIN, help::TAP];
        for text in texts.into_iter().chain([help::EXEC, help::RDP]) {
            let lines = shown(text);
            assert!(!lines.is_empty(), "it shows none: {text}");
            for line in lines {
                let parsed = Cli::try_parse_from(words(line));
                assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
            }
        }
        for command in Cli::command().get_subcommands() {
            let name = format!("portlatch {}", command.get_name());
            assert!(guide.contains(&name), "{name} is missing in the guide");
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
