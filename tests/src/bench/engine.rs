//! Other engines: a command that brings one up on the user's machine, and the path that it makes.
//!
//! Each has an address of its own at the company, where the same server listens. On the user's machine that address is
//! unreachable until the engine carries it, so that an engine that does nothing is not taken for the direct path.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::thread::sleep;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};

use super::field::{Field, Kind, LOOK, PATIENCE, Way};
use super::process::Part;

/// The company's addresses for engines: one each.
const ADDRESSES: [&str; 4] = ["10.0.0.21", "10.0.0.22", "10.0.0.23", "10.0.0.24"];
/// Where the server listens on each.
const PORT: u16 = 7000;
/// Behind whatever route an engine adds.
const LAST_METRIC: &str = "4278198272";

/// `--engine NAME=COMMAND`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Engine {
    /// Above its column.
    pub name: String,
    /// For the shell.
    pub command: String,
}

impl FromStr for Engine {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, command) = text.split_once('=').context("an engine is NAME=COMMAND")?;
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        ensure!(
            !name.is_empty() && name.chars().all(is_plain),
            "an engine's name has letters, digits, - and . only"
        );
        ensure!(!["direct", "quic", "portlatch"].contains(&name), "{name} is another path's name");
        ensure!(!command.trim().is_empty(), "{name} has no command");
        Ok(Self { name: name.to_owned(), command: command.to_owned() })
    }
}

/// An engine that is up; dropped, it is ended with all that it started.
#[derive(Debug)]
pub struct Running {
    /// The path that it makes.
    pub way: Way,
    command: Child,
    server: Child,
}

impl Engine {
    /// Brings up the `index`th engine, and waits until it carries bytes.
    ///
    /// # Errors
    /// If it does not, or fails before.
    pub fn start(&self, field: &Field, index: usize) -> Result<Running> {
        let address =
            ADDRESSES.get(index).with_context(|| format!("only {} engines fit", ADDRESSES.len()))?;
        let server = prepare(field, address).with_context(|| format!("preparing {address}"))?;
        let directory = field.lab.join(format!("engine-{}", self.name));
        fs::create_dir(&directory).context("making the engine's directory")?;
        let log = fs::File::create(field.lab.join("log").join(format!("engine-{}", self.name)))?;
        let leader = field.lab.join("pid").join(format!("engine-{}", self.name));
        let command = self.command(field, address, &directory, &log)?;
        fs::write(&leader, command.id().to_string()).context("noting the engine's process")?;
        let part = |host| Some(Part { leader: leader.clone(), host: field.lab.join("pid").join(host) });
        let way = Way {
            name: self.name.clone(),
            target: format!("{address}:{PORT}"),
            certificate: None,
            dns: None,
            taps: None,
            daemon: part("host-user"),
            proxy: part("host-proxy"),
            kind: Kind::Engine,
        };
        let mut running = Running { way, command, server };
        running.wait(field)?;
        Ok(running)
    }

    fn command(&self, field: &Field, address: &str, directory: &Path, log: &fs::File) -> Result<Child> {
        let on = |host: &str| {
            let (script, lab) = (absolute(&field.lab_script)?, field.lab.display());
            anyhow::Ok(format!("{} exec --dir {lab} {host} --", script.display()))
        };
        let mut command = Command::new("setsid");
        command.arg(&field.lab_script).arg("exec").arg("--dir").arg(&field.lab).args(["user", "--", "env"]);
        // The caller's directory, which is where the command's own paths begin.
        command.arg("--chdir").arg(std::env::current_dir().context("finding the current directory")?);
        command.args([
            format!("BENCH_ADDRESS={address}"),
            format!("BENCH_PORT={PORT}"),
            "BENCH_CLIENT=192.0.2.10".to_owned(),
            "BENCH_PROXY=192.0.2.1".to_owned(),
            format!("BENCH_ON_PROXY={}", on("proxy")?),
            format!("BENCH_ON_COMPANY={}", on("company")?),
            format!("BENCH_DIR={}", directory.display()),
        ]);
        command.args(["sh", "-c", &self.command]);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?);
        command.spawn().with_context(|| format!("starting {}", self.name))
    }
}

/// Makes the address reachable by an engine alone, and starts the server there.
fn prepare(field: &Field, address: &str) -> Result<Child> {
    let run = |host: &str, words: &[&str]| {
        let status = field.on(host, "root").args(words).status()?;
        ensure!(status.success(), "{} failed on {host}: {status}", words.join(" "));
        Ok(())
    };
    run("company", &["ip", "address", "add", &format!("{address}/24"), "dev", "eth0"])?;
    run("user", &["ip", "route", "add", "unreachable", address, "metric", LAST_METRIC])?;
    let mut server = field.on("company", "root");
    server.arg(&field.program).args(["server", "--listen", &format!("{address}:{PORT}")]);
    Ok(server.stdin(Stdio::null()).spawn()?)
}

fn absolute(path: &Path) -> Result<PathBuf> {
    fs::canonicalize(path).with_context(|| format!("finding {}", path.display()))
}

impl Running {
    /// Until bytes pass; a command that has set up what the kernel does may have ended well by then.
    fn wait(&mut self, field: &Field) -> Result<()> {
        let log = field.lab.join("log").join(format!("engine-{}", self.way.name));
        let said = || fs::read_to_string(&log).unwrap_or_default().trim_end().to_owned();
        let deadline = Instant::now() + PATIENCE;
        while !field.carries(&self.way)? {
            if let Some(status) = self.command.try_wait()?.filter(|status| !status.success()) {
                bail!("it ended with {status}: {}", said());
            }
            ensure!(Instant::now() < deadline, "{} is not reached: {}", self.way.target, said());
            sleep(LOOK);
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // What does not end now ends with the lab.
        let _ = self.way.daemon.as_ref().map(Part::end);
        let _ = self.command.wait();
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_is_a_name_and_a_command() {
        let engine = Engine { name: "wg".to_owned(), command: "./up --mtu=1420".to_owned() };
        assert_eq!("wg=./up --mtu=1420".parse::<Engine>().unwrap(), engine);
        for text in ["wg", "=up", "wg=", "../wg=up", "direct=up"] {
            assert!(text.parse::<Engine>().is_err(), "{text}");
        }
    }
}
