//! The lab as it is measured: its paths, the load program on the user's machine, and the parts whose memory and
//! processor time count.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::loads::Order;
use super::process::Part;

/// How long a path may take to carry bytes after it was started.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is tried meanwhile.
pub(super) const LOOK: Duration = Duration::from_millis(50);

/// A way to the server.
#[derive(Debug, Clone)]
pub struct Way {
    /// In options, in the JSON, and above its column.
    pub name: String,
    /// HOST:PORT by which the server is reached.
    pub target: String,
    /// The server's, where it is reached by QUIC.
    pub certificate: Option<PathBuf>,
    /// ADDRESS:PORT of a DNS server that knows the server by name.
    pub dns: Option<String>,
    /// The host and the first of the ports that each need a tap.
    pub taps: Option<(String, u16)>,
    /// What carries it on the user's machine.
    pub daemon: Option<Part>,
    /// What carries it at the company's.
    pub proxy: Option<Part>,
    /// What it is for the comparison.
    pub kind: Kind,
}

/// What a way is for the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// What Portlatch is compared with.
    Reference,
    /// Portlatch.
    Portlatch,
    /// Another engine, about whose parts nothing is known: it may have no process at all.
    Engine,
}

impl Way {
    /// Whether something of its own carries it.
    pub fn has_parts(&self) -> bool {
        self.kind != Kind::Reference
    }
}

/// The lab.
#[derive(Debug)]
pub struct Field {
    /// scripts/lab.
    pub lab_script: PathBuf,
    /// The lab's directory.
    pub lab: PathBuf,
    /// The load program, where the lab's users may run it.
    pub program: PathBuf,
}

impl Field {
    /// A command on a host, as a user.
    pub fn on(&self, host: &str, user: &str) -> Command {
        let mut command = Command::new(&self.lab_script);
        command.arg("exec").arg("--dir").arg(&self.lab).args([host, "--user", user, "--"]);
        command
    }

    /// Puts a load on a path; what the load program says.
    ///
    /// # Errors
    /// If the path does not carry it.
    pub fn load(&self, way: &Way, order: &Order, time: Duration) -> Result<Value> {
        let mut command = self.load_command(way, &order.target);
        command.args(["--seconds", &time.as_secs().to_string()]).args(&order.arguments);
        let output = command.stderr(Stdio::inherit()).output().context("starting the load")?;
        ensure!(output.status.success(), "the load ended with {}", output.status);
        serde_json::from_slice(&output.stdout).context("reading the load's figures")
    }

    fn load_command(&self, way: &Way, target: &str) -> Command {
        // Root may have larger buffers, as a tunnel's socket has. Portlatch serves jerry alone.
        let user = if way.certificate.is_some() { "root" } else { "jerry" };
        let mut command = self.on("user", user);
        // The hosts have their /var in memory; the lab's own directory is on the disk.
        command
            .arg(&self.program)
            .args(["load", "--target", target, "--scratch"])
            .arg(self.lab.join("scratch"));
        if let Some(certificate) = &way.certificate {
            command.arg("--certificate").arg(certificate);
        }
        command
    }

    /// Waits until a path carries bytes.
    ///
    /// # Errors
    /// If it does not in time.
    pub fn wait_for(&self, way: &Way) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !self.carries(way)? {
            ensure!(Instant::now() < deadline, "{} is not reached over {}", way.target, way.name);
            sleep(LOOK);
        }
        Ok(())
    }

    /// Whether a path carries a byte there and back.
    ///
    /// # Errors
    /// If that cannot be tried.
    pub fn carries(&self, way: &Way) -> Result<bool> {
        let mut probe = self.load_command(way, &way.target);
        probe.arg("probe").stdout(Stdio::null()).stderr(Stdio::null());
        Ok(probe.status().context("starting the load")?.success())
    }

    /// Starts a load that is spoken with.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn conversation(&self, way: &Way, order: &Order) -> Result<Conversation> {
        let mut command = self.load_command(way, &order.target);
        command.args(&order.arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("starting the load")?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("it has no output")?);
        Ok(Conversation { child, input, output })
    }

    /// Ends Portlatch's proxy and daemon and starts them again, as fresh as at the machine's start.
    ///
    /// # Errors
    /// If one does not end or does not serve again.
    pub fn renew(&self, portlatch: &Way) -> Result<()> {
        let parts = [("proxy", &portlatch.proxy), ("daemon", &portlatch.daemon)];
        for (part, running) in parts {
            let running = running.as_ref().context("the path has no such part")?;
            running.end().with_context(|| format!("ending the {part}"))?;
            let mut start = Command::new(&self.lab_script);
            let status = start.args(["portlatch", "start", "--dir"]).arg(&self.lab).arg(part).status()?;
            ensure!(status.success(), "the {part} did not start again: {status}");
        }
        self.wait_for(portlatch)
    }
}

/// A load that is spoken with, line by line; dropped, it ends.
#[derive(Debug)]
pub struct Conversation {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Conversation {
    /// Says a line.
    ///
    /// # Errors
    /// If the load has ended.
    pub fn say(&mut self, line: &str) -> Result<()> {
        let input = self.input.as_mut().context("the load has ended")?;
        writeln!(input, "{line}").context("the load has ended")
    }

    /// The next line that it says.
    ///
    /// # Errors
    /// If the load has ended.
    pub fn hear(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.output.read_line(&mut line)? > 0, "the load has ended");
        Ok(line)
    }

    /// Returns when it has ended by itself: nothing more is said to it.
    ///
    /// # Errors
    /// If it failed.
    pub fn end(mut self) -> Result<()> {
        self.input = None;
        let status = self.child.wait()?;
        ensure!(status.success(), "the load ended with {status}");
        Ok(())
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
