//! What the tests of the agent stand on: the real binary, a daemon and a control that are played by the test.
//!
//! Control is a double here because the agent's crate does not reach the real one; the two meet in the end-to-end tests.

pub(crate) mod bus;
pub(crate) mod control;
pub(crate) mod daemon;
pub(crate) mod tty;

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use self::bus::Bus;
use self::control::Control;
use self::daemon::{Agent, Daemon};

/// Longest wait for anything: far beyond what it takes, so that a busy machine does not fail a test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A user's machine: the agent's directory, the daemon's socket, and the cluster it talks to.
pub(crate) struct Machine {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) control: Control,
    pub(crate) daemon: Daemon,
    bus: Option<Bus>,
}

impl Machine {
    /// A machine on which nobody is logged in.
    pub(crate) async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let daemon = Daemon::listen(&directory.path().join("daemon.sock"));
        Self { control: Control::start().await, daemon, directory, bus: None }
    }

    /// A machine whose user is enrolled and logged in.
    pub(crate) async fn logged_in() -> Self {
        let machine = Self::new().await;
        let login = machine.login(&["--enrol", "token", "--software-key", "auto"]).await;
        assert!(login.status.success(), "{}", String::from_utf8_lossy(&login.stderr));
        machine
    }

    /// A machine whose user is logged in, without a daemon: nobody waits for one that is silent.
    pub(crate) async fn logged_in_without_daemon() -> Self {
        let machine = Self::logged_in().await;
        std::fs::remove_file(machine.directory.path().join("daemon.sock")).unwrap();
        machine
    }

    /// A machine whose user is logged in, and whose agent is attached.
    pub(crate) async fn attached(mode: &str) -> (Self, Person, Agent) {
        let machine = Self::logged_in().await;
        let person = machine.start(&["agent", "--software-key", mode]);
        let mut agent = machine.daemon.accept().await;
        agent.attach(&machine.control).await;
        (machine, person, agent)
    }

    /// The machine with a message bus, which serves as the system's and as the session's.
    pub(crate) async fn with_bus(mut self) -> Self {
        self.bus = Some(Bus::start(self.directory.path()).await);
        self
    }

    pub(crate) fn bus(&self) -> &Bus {
        self.bus.as_ref().expect("a machine with a bus")
    }

    /// Starts the agent and attaches it.
    pub(crate) async fn attach(&self, mode: &str) -> (Person, Agent) {
        let mut person = self.start(&["agent", "--software-key", mode]);
        let mut agent = self.daemon.accept().await;
        agent.attach(&self.control).await;
        person.sees("Attached").await;
        (person, agent)
    }

    /// Starts a command when the agent, which was just started, can be asked.
    pub(crate) async fn start_once_agent_runs(&self, agent: &mut Person, arguments: &[&str]) -> Person {
        agent.sees("agent runs").await;
        let mut command = self.start(arguments);
        command.sees("Watching").await;
        command
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portlatch"));
        command
            .args(arguments)
            .env("PORTLATCH_HOME", self.home())
            .env("PORTLATCH_SOCKET", self.directory.path().join("daemon.sock"))
            .env("PORTLATCH_CLOCK_OFFSET", self.offset_file())
            // Never the bus of the machine that the test runs on.
            .env("DBUS_SESSION_BUS_ADDRESS", self.bus_address())
            .env("DBUS_SYSTEM_BUS_ADDRESS", self.bus_address())
            .env_remove("NO_COLOR")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    fn bus_address(&self) -> String {
        let nowhere = || format!("unix:path={}", self.directory.path().join("no-bus").display());
        self.bus.as_ref().map_or_else(nowhere, |bus| bus.address().to_owned())
    }

    pub(crate) fn home(&self) -> std::path::PathBuf {
        self.directory.path().join("home")
    }

    fn offset_file(&self) -> std::path::PathBuf {
        self.directory.path().join("offset")
    }

    /// Runs `portlatch login` against the control of this machine with a password and its pin.
    pub(crate) async fn login(&self, more: &[&str]) -> Output {
        self.login_with("correct horse\n", more).await
    }

    /// The same with other input.
    pub(crate) async fn login_with(&self, input: &str, more: &[&str]) -> Output {
        self.login_as("jerry", input, more).await
    }

    /// The same as somebody else.
    pub(crate) async fn login_as(&self, user: &str, input: &str, more: &[&str]) -> Output {
        let (address, pin) = (self.control.address(), self.control.pin());
        let mut arguments = vec!["login", "--proxy", &address, "--user", user, "--password-stdin"];
        if !more.contains(&"--ca-pin") && !more.contains(&"--without-pin") {
            arguments.extend(["--ca-pin", &pin]);
        }
        arguments.extend(more.iter().filter(|argument| **argument != "--without-pin"));
        self.run_with_input(&arguments, input).await
    }

    /// Runs a command to its end.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Output {
        self.run_with_input(arguments, "").await
    }

    async fn run_with_input(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = self.command(arguments).spawn().unwrap();
        // A command that ends before it reads is no fault of the input.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes()).await;
        timeout(PATIENCE, child.wait_with_output()).await.expect("the command ended").unwrap()
    }

    /// Starts a command that goes on.
    pub(crate) fn start(&self, arguments: &[&str]) -> Person {
        Self::started(&mut self.command(arguments))
    }

    /// Starts a command that goes on, and logs all there is into this file.
    pub(crate) fn start_logged(&self, arguments: &[&str], log: &Path) -> Person {
        let log = std::fs::File::create(log).unwrap();
        Self::started(self.command(arguments).env("PORTLATCH_LOG", "trace").stderr(log))
    }

    /// Starts a command that finds programs in this directory alone.
    pub(crate) fn start_with_path(&self, arguments: &[&str], path: &Path) -> Person {
        Self::started(self.command(arguments).env("PATH", path))
    }

    fn started(command: &mut Command) -> Person {
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Person { child, stdin, lines }
    }

    /// Moves the clock that commands start with.
    #[cfg(feature = "test-clock")]
    pub(crate) fn set_clock(&self, seconds: u64) {
        std::fs::write(self.offset_file(), seconds.to_string()).unwrap();
    }

    /// Moves the clock of a process that this machine started.
    #[cfg(feature = "test-clock")]
    pub(crate) fn move_clock(&self, person: &Person, seconds: u64) {
        self.set_clock(seconds);
        person.signal(rustix::process::Signal::USR1);
    }

    /// `portlatch status --json`.
    pub(crate) async fn status(&self) -> serde_json::Value {
        let output = self.run(&["status", "--json"]).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

/// A command that runs, and the person at its terminal.
pub(crate) struct Person {
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Person {
    /// Reads lines until one has this in it, and returns it.
    pub(crate) async fn sees(&mut self, text: &str) -> String {
        let seen = async {
            loop {
                let line = self.lines.next_line().await.unwrap().expect("the command goes on");
                if line.contains(text) {
                    return line;
                }
            }
        };
        timeout(PATIENCE, seen).await.unwrap_or_else(|_| panic!("{text:?} was not shown"))
    }

    /// The next line.
    pub(crate) async fn line(&mut self) -> String {
        let line = timeout(PATIENCE, self.lines.next_line()).await.expect("a line was shown");
        line.unwrap().expect("the command goes on")
    }

    /// Closes the command's output unread, and waits for its end.
    pub(crate) async fn unread(self) -> Output {
        drop(self.lines);
        timeout(PATIENCE, self.child.wait_with_output()).await.expect("the command ended").unwrap()
    }

    /// Types a line.
    pub(crate) async fn types(&mut self, line: &str) {
        self.stdin.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.pid().cast_signed()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Ends it, and returns what it wrote that was not read yet.
    pub(crate) async fn ends_now(self) -> Output {
        self.signal(rustix::process::Signal::TERM);
        self.ends().await
    }

    /// Waits for the end.
    pub(crate) async fn ends(mut self) -> Output {
        // Its input stays open: a person does not go away.
        let stdin = self.stdin;
        self.child.stdout = Some(self.lines.into_inner().into_inner());
        let output =
            timeout(PATIENCE, self.child.wait_with_output()).await.expect("the command ended").unwrap();
        drop(stdin);
        output
    }
}

/// A program of this name that has one socket, and does nothing.
pub(crate) struct Program {
    child: Child,
    inode: u64,
}

impl Program {
    /// Starts it.
    pub(crate) fn start(machine: &Machine, name: &str) -> Self {
        let file = machine.directory.path().join(name);
        std::fs::copy("/bin/sleep", &file).unwrap();
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = inode(&socket);
        let mut command = Command::new(file);
        command.arg("1000").stdin(Stdio::from(std::os::fd::OwnedFd::from(socket))).kill_on_drop(true);
        Self { child: command.spawn().unwrap(), inode }
    }

    pub(crate) const fn inode(&self) -> u64 {
        self.inode
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }
}

/// What the command says went wrong; the test clock's warning stands before it.
pub(crate) fn complaint(output: &Output) -> String {
    text(&output.stderr).lines().last().unwrap_or_default().to_owned()
}

/// Output as text.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The inode of a socket of this process.
pub(crate) fn inode(socket: &impl std::os::fd::AsRawFd) -> u64 {
    let link = std::fs::read_link(Path::new("/proc/self/fd").join(socket.as_raw_fd().to_string())).unwrap();
    link.to_str().unwrap().trim_start_matches("socket:[").trim_end_matches(']').parse().unwrap()
}
