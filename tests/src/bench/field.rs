//! The lab as it is measured: its paths, the load program on the user's machine, and the parts whose memory and
//! processor time count.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use rustix::process::{Pid, Signal, kill_process_group};

use super::process;

/// How long a part may take to end when it is asked to, and to serve after it was started.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(50);

/// A way to the server.
#[derive(Debug, Clone)]
pub struct Way {
    /// In options, in the JSON, and above its column.
    pub name: String,
    /// HOST:PORT by which the server is reached.
    pub target: String,
    /// The server's, where it is reached by QUIC.
    pub certificate: Option<PathBuf>,
    /// What carries it on the user's machine: the pid file of a session's leader.
    pub daemon: Option<PathBuf>,
    /// What carries it at the company's.
    pub proxy: Option<PathBuf>,
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
    pub fn load(&self, way: &Way, time: Duration, arguments: &[String]) -> Result<Value> {
        let mut command = self.load_command(way);
        command.args(["--seconds", &time.as_secs().to_string()]).args(arguments);
        let output = command.stderr(Stdio::inherit()).output().context("starting the load")?;
        ensure!(output.status.success(), "the load ended with {}", output.status);
        serde_json::from_slice(&output.stdout).context("reading the load's figures")
    }

    fn load_command(&self, way: &Way) -> Command {
        let mut command = self.on("user", "jerry");
        command.arg(&self.program).args(["load", "--target", &way.target]);
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
        loop {
            let mut probe = self.load_command(way);
            probe.arg("probe").stdout(Stdio::null()).stderr(Stdio::null());
            if probe.status().context("starting the load")?.success() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{} is not reached over {}", way.target, way.name);
            }
            sleep(LOOK);
        }
    }

    /// Starts what holds idle connections on a path.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn holder(&self, way: &Way) -> Result<Holder> {
        let mut command = self.load_command(way);
        let mut child = command
            .arg("hold")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the load")?;
        let wanted = child.stdin.take().context("it has no input")?;
        let told = BufReader::new(child.stdout.take().context("it has no output")?);
        Ok(Holder { child, wanted: Some(wanted), told })
    }

    /// Ends Portlatch's proxy and daemon and starts them again, as fresh as at the machine's start.
    ///
    /// # Errors
    /// If one does not end or does not serve again.
    pub fn renew(&self, portlatch: &Way) -> Result<()> {
        let parts = [("proxy", &portlatch.proxy), ("daemon", &portlatch.daemon)];
        for (part, pid_file) in parts {
            let pid_file = pid_file.as_ref().context("the path has no such part")?;
            end(leader(pid_file)?).with_context(|| format!("ending the {part}"))?;
            let mut start = Command::new(&self.lab_script);
            let status = start.args(["portlatch", "start", "--dir"]).arg(&self.lab).arg(part).status()?;
            ensure!(status.success(), "the {part} did not start again: {status}");
        }
        self.wait_for(portlatch)
    }
}

/// The leader of a part's session.
///
/// # Errors
/// If the part was never started.
pub fn leader(pid_file: &Path) -> Result<u32> {
    let text = fs::read_to_string(pid_file).with_context(|| format!("reading {}", pid_file.display()))?;
    text.trim().parse().with_context(|| format!("{} holds no process id", pid_file.display()))
}

/// Asks a session's leader to end, and makes it end if it does not.
///
/// # Errors
/// If it stays.
pub fn end(leader: u32) -> Result<()> {
    let pid = i32::try_from(leader).ok().and_then(Pid::from_raw).context("no process id")?;
    for signal in [Signal::TERM, Signal::KILL] {
        // A process that has ended is what we want.
        let _ = kill_process_group(pid, signal);
        let deadline = Instant::now() + PATIENCE / 3;
        while Instant::now() < deadline {
            if process::processor_time(leader).is_err() {
                return Ok(());
            }
            sleep(LOOK);
        }
    }
    bail!("process {leader} does not end")
}

/// A program that holds idle connections; dropped, it ends with them.
#[derive(Debug)]
pub struct Holder {
    child: Child,
    wanted: Option<ChildStdin>,
    told: BufReader<ChildStdout>,
}

impl Holder {
    /// Returns when so many connections are open.
    ///
    /// # Errors
    /// If one fails.
    pub fn open(&mut self, connections: usize) -> Result<()> {
        let wanted = self.wanted.as_mut().context("it has ended")?;
        writeln!(wanted, "{connections}")?;
        let mut line = String::new();
        ensure!(self.told.read_line(&mut line)? > 0, "connections fail");
        Ok(())
    }

    /// Closes them; returns when the other ends have closed them too.
    ///
    /// # Errors
    /// If they do not.
    pub fn close(mut self) -> Result<()> {
        self.wanted = None;
        let status = self.child.wait()?;
        ensure!(status.success(), "connections did not end: {status}");
        Ok(())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
