//! The lab as tests use it: three hosts, the company's servers and Portlatch, made by `scripts/lab` and gone when the
//! value is dropped. On a panic the ends of all logs are printed first.
//!
//! One lab stands at a time on a machine: starting one waits for the turn. A test never sleeps for luck; it waits for a
//! condition with a deadline ([`wait_for`]).

use std::fs;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

pub mod api;
pub mod modified;
pub mod program;
pub mod record;
pub mod token;
pub mod visitor;

use program::{Outcome, Program};

/// Nothing that a test waits for takes longer, unless the test says so; a prompt's 60 s apart.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// A host of the lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    /// The user's machine.
    User,
    /// Another user's machine, by its number: from 2 to [`LabOptions::machines`]. Its jerry is another user of
    /// Portlatch's than that of the first.
    Further(u8),
    /// The proxy's.
    Proxy,
    /// The company's servers.
    Company,
}

impl Host {
    fn name(self) -> String {
        match self {
            Self::User => "user".to_owned(),
            Self::Further(number) => format!("user{number}"),
            Self::Proxy => "proxy".to_owned(),
            Self::Company => "company".to_owned(),
        }
    }
}

/// An account on the lab's hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Account {
    /// Has the roles access-dev and access-prod.
    Jerry,
    /// Has the role access-dev.
    Tom,
    /// Never has a login.
    Root,
}

impl Account {
    /// Its name on the system and in the cluster.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Jerry => "jerry",
            Self::Tom => "tom",
            Self::Root => "root",
        }
    }

    const fn uid(self) -> u32 {
        match self {
            Self::Jerry => 2001,
            Self::Tom => 2002,
            Self::Root => 0,
        }
    }

    const fn home(self) -> &'static str {
        match self {
            Self::Jerry => "/home/jerry",
            Self::Tom => "/home/tom",
            Self::Root => "/run/root",
        }
    }
}

/// How the software keys of the lab's users answer a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taps {
    /// By themselves.
    Auto,
    /// At [`Lab::tap`].
    Enter,
    /// Not at all.
    Never,
}

impl Taps {
    const fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Enter => "enter",
            Self::Never => "never",
        }
    }
}

/// Who resolves names on the user's machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolver {
    /// The C library, by /etc/resolv.conf.
    ResolvConf,
    /// A real systemd-resolved.
    Resolved,
}

/// A process of Portlatch's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// `portlatchd`.
    Daemon,
    /// `portlatch agent` of this user.
    Agent(Account),
    /// `portlatch-proxy`, with control.
    Proxy,
}

impl Part {
    fn process(self) -> String {
        match self {
            Self::Daemon => "portlatchd".to_owned(),
            Self::Agent(account) => format!("agent-{}", account.name()),
            Self::Proxy => "portlatch-proxy".to_owned(),
        }
    }
}

/// What is between the user's machine and the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// A pair of veth.
    Direct,
    /// A [`wire`](crate::wire::between) that follows [`Lab::order`].
    Wire,
}

/// What a test wants of its lab.
#[derive(Debug, Clone, Copy)]
pub struct LabOptions {
    /// How keys answer.
    pub taps: Taps,
    /// Who logs in.
    pub logins: &'static [Account],
    /// Who resolves names.
    pub resolver: Resolver,
    /// What is between the user's machine and the proxy.
    pub way: Way,
    /// How many machines of users there are, each with its own way to the proxy and its own daemon.
    pub machines: u8,
    /// How much all parts log, as a filter; as much as they do by themselves, where there is none.
    pub log: Option<&'static str>,
}

impl Default for LabOptions {
    fn default() -> Self {
        Self {
            taps: Taps::Auto,
            logins: &[Account::Jerry],
            resolver: Resolver::ResolvConf,
            way: Way::Direct,
            machines: 1,
            log: None,
        }
    }
}

/// A lab that stands.
#[derive(Debug)]
pub struct Lab {
    directory: PathBuf,
    log: Option<&'static str>,
    /// Held for as long as this lab stands, so that the next one waits.
    _turn: fs::File,
}

/// Starts a lab, or says why the test is skipped and returns `None`.
///
/// # Panics
/// If the lab or Portlatch in it does not come up.
#[expect(clippy::print_stdout, reason = "what println prints is what a test's runner captures and shows")]
pub fn start(options: LabOptions) -> Option<Lab> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: the lab needs root, since it makes network namespaces");
        return None;
    }
    let mut turn = fs::File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open("/run/portlatch-lab.turn")
        .expect("root writes to /run");
    flock(&turn, FlockOperation::LockExclusive).expect("locking the lab's turn");
    // A test that was killed left its lab and wrote here which.
    let mut left = String::new();
    turn.read_to_string(&mut left).expect("reading the last lab's name");
    if !left.is_empty() {
        script(&["down", "--dir", &left], None);
    }
    let made =
        tempfile::Builder::new().prefix("portlatch-lab.").tempdir().expect("a directory for the lab").keep();
    turn.rewind().and_then(|()| turn.set_len(0)).expect("forgetting the last lab");
    turn.write_all(made.as_os_str().as_encoded_bytes()).expect("noting this lab's name");
    let lab = Lab { directory: made, log: options.log, _turn: turn };
    let machines = options.machines.to_string();
    let mut up = vec!["up", "--dir", lab.path(), "--movable-clock", "--machines", &machines];
    if options.resolver == Resolver::Resolved {
        up.push("--resolved");
    }
    let wire = binaries().join("wire");
    if options.way == Way::Wire {
        up.extend(["--wire", wire.to_str().expect("a path in UTF-8")]);
    }
    lab.script(&up);
    let logins: Vec<&str> = options.logins.iter().map(|account| account.name()).collect();
    lab.script(&[
        "portlatch",
        "up",
        "--dir",
        lab.path(),
        "--bin",
        binaries().to_str().expect("a path in UTF-8"),
        "--software-key",
        options.taps.word(),
        "--users",
        &logins.join(","),
    ]);
    Some(lab)
}

/// Runs `scripts/lab`, with this filter of logs for what it starts.
fn script(arguments: &[&str], log: Option<&str>) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("scripts").join("lab");
    let mut command = Command::new(script);
    if let Some(filter) = log {
        command.env("RUST_LOG", filter).env("PORTLATCH_LOG", filter);
    }
    let output = command.args(arguments).output().expect("scripts/lab runs");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "scripts/lab {}:\n{out}\n{err}", arguments.join(" "));
}

/// Where the binaries under test stand: beside the tests, unless the environment says otherwise.
pub fn binaries() -> PathBuf {
    if let Some(directory) = std::env::var_os("PORTLATCH_BIN_DIR") {
        return directory.into();
    }
    let test = std::env::current_exe().expect("a test knows its own file");
    test.ancestors().nth(2).expect("tests stand in deps/ beside the binaries").to_owned()
}

/// Looks until `look` sees something, at most for `patience`.
///
/// # Panics
/// If it does not.
pub fn wait_for<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(begin.elapsed() < patience, "waited {patience:?} for {what}");
        std::thread::sleep(LOOK);
    }
}

/// Whether a process has a handler for SIGUSR1; `None` once it has ended.
fn awaits_usr1(pid: Pid) -> Option<bool> {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    if field("State:")?.starts_with(['Z', 'X']) {
        return None;
    }
    let caught = u64::from_str_radix(field("SigCgt:")?, 16).ok()?;
    Some(caught & (1 << (Signal::USR1.as_raw() - 1)) != 0)
}

/// The middle one: a bound on time holds for it, not for the one try that the machine was busy elsewhere.
pub fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

impl Lab {
    fn path(&self) -> &str {
        self.directory.to_str().expect("the lab's path is ASCII")
    }

    /// The lab's directory: logs, pid files, what the hosts share.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn script(&self, arguments: &[&str]) {
        script(arguments, self.log);
    }

    fn pid(&self, process: &str) -> Pid {
        let text =
            fs::read_to_string(self.directory.join("pid").join(process)).expect("a process of the lab");
        Pid::from_raw(text.trim().parse().expect("a pid")).expect("not 0")
    }

    /// The command line of a program on a host: namespaces are entered directly, so that starting it costs no shell.
    fn command(&self, host: Host, account: Account, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        let uid = account.uid().to_string();
        let holder = self.pid(&format!("host-{}", host.name())).to_string();
        command.args(["--target", &holder, "--mount", "--net", "--ipc", "--uts", "--"]);
        command.args(["setpriv", "--reuid", &uid, "--regid", &uid, "--clear-groups"]);
        command.args(["env", "-i", &format!("--chdir={}", account.home())]);
        command.args([
            format!("HOME={}", account.home()),
            format!("USER={}", account.name()),
            format!("XDG_RUNTIME_DIR=/run/user/{uid}"),
            format!("PORTLATCH_CLOCK_OFFSET={}", self.directory.join("clock").display()),
            "PATH=/opt/portlatch/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
            "LANG=C.UTF-8".to_owned(),
        ]);
        command.args(self.log.map(|filter| format!("PORTLATCH_LOG={filter}")));
        command.args(arguments);
        command
    }

    /// Starts a program on a host.
    pub fn spawn(&self, host: Host, account: Account, arguments: &[&str]) -> Program {
        Program::start(self.command(host, account, arguments))
    }

    /// Runs a program on a host to its end.
    pub fn run(&self, host: Host, account: Account, arguments: &[&str]) -> Outcome {
        self.spawn(host, account, arguments).finish(PATIENCE)
    }

    /// Starts the lab's own test program (`tests/lab/program.py`) on the user's machine.
    pub fn program(&self, account: Account, arguments: &[&str]) -> Program {
        let mut all = vec!["python3", "-I", "/opt/portlatch/lab/program.py"];
        all.extend(arguments);
        self.spawn(Host::User, account, &all)
    }

    /// Runs `portlatch` as a user.
    pub fn portlatch(&self, account: Account, arguments: &[&str]) -> Outcome {
        let mut all = vec!["portlatch"];
        all.extend(arguments);
        self.run(Host::User, account, &all)
    }

    /// Runs an administrator's command on the proxy's host, whatever comes of it.
    pub fn try_administer(&self, arguments: &[&str]) -> Outcome {
        let directory = self.directory.join("proxy/portlatch");
        let mut all = vec!["portlatch-proxy"];
        all.extend(arguments);
        all.extend(["--dir", directory.to_str().expect("the lab's path is ASCII")]);
        self.run(Host::Proxy, Account::Root, &all)
    }

    /// Runs an administrator's command that must succeed.
    pub fn administer(&self, arguments: &[&str]) -> Outcome {
        self.try_administer(arguments).expect_success()
    }

    /// Applies resource documents.
    pub fn apply(&self, documents: &str) -> Outcome {
        let file = self.directory.join("proxy/documents.yaml");
        fs::write(&file, documents).expect("writing the documents");
        self.try_administer(&["apply", "-f", file.to_str().expect("the lab's path is ASCII")])
    }

    /// A program that was built beside the tests, where the lab's users may run it.
    pub fn install(&self, name: &str) -> String {
        let (built, installed) = (binaries().join(name), self.directory.join("bin").join(name));
        fs::hard_link(&built, &installed)
            .or_else(|_| fs::copy(&built, &installed).map(drop))
            .unwrap_or_else(|error| panic!("installing {}: {error}", built.display()));
        installed.to_str().expect("the lab's path is ASCII").to_owned()
    }

    /// Starts one of the servers that few tests need (`tests/lab/more_servers.bash`).
    pub fn serve(&self, server: &str) {
        self.script(&["serve", "--dir", self.path(), server]);
    }

    /// Presses Enter in the terminal of a user's agent: the tap of a key in [`Taps::Enter`].
    pub fn tap(&self, account: Account) {
        self.type_to_agent(account, "\n");
    }

    /// Denies the open prompt in the terminal of a user's agent.
    pub fn deny(&self, account: Account) {
        self.type_to_agent(account, "d\n");
    }

    fn type_to_agent(&self, account: Account, text: &str) {
        let terminal = self.directory.join("user").join(format!("{}.enter", account.name()));
        fs::write(terminal, text).expect("the agent reads its terminal");
    }

    /// Moves the clocks of all parts to `offset` ahead of the machine's.
    pub fn move_clock(&self, offset: Duration) {
        fs::write(self.directory.join("clock"), offset.as_secs().to_string())
            .expect("writing the clock's offset");
        for entry in fs::read_dir(self.directory.join("pid")).expect("the lab's pid files") {
            let name = entry.expect("a pid file").file_name();
            let name = name.to_str().expect("ASCII");
            if name.starts_with("portlatch") || name.starts_with("agent-") {
                let pid = self.pid(name);
                // A part that is starting, or was built without a movable clock, would die of it.
                let what = format!("{name} to have a movable clock: was it built with test-clock?");
                wait_for(&what, PATIENCE, || awaits_usr1(pid).unwrap_or(true).then_some(()));
                // A part that was ended on purpose reads the file when it starts again.
                let _ = kill_process(pid, Signal::USR1);
            }
        }
    }

    /// Ends a part as a crash would.
    pub fn kill(&self, part: Part) {
        let pid = self.pid(&part.process());
        kill_process(pid, Signal::KILL).expect("the part was running");
        wait_for("the part's end", PATIENCE, || rustix::process::test_kill_process(pid).err());
    }

    /// Starts a part again, as its service manager would.
    pub fn restart(&self, part: Part, taps: Taps) {
        let mut arguments = vec!["portlatch", "start", "--dir", self.path()];
        match part {
            Part::Daemon => arguments.push("daemon"),
            Part::Proxy => arguments.push("proxy"),
            Part::Agent(account) => arguments.extend(["agent", account.name(), taps.word()]),
        }
        self.script(&arguments);
    }

    /// Gives the wire an order ([`Order`](crate::wire::between::Order)) and returns once it is carried out.
    pub fn order(&self, order: &str) {
        self.order_wire_of(Host::User, order);
    }

    /// Gives the wire of this user's machine an order.
    pub fn order_wire_of(&self, machine: Host, order: &str) {
        let socket = match machine {
            Host::User => "wire.orders".to_owned(),
            Host::Further(_) | Host::Proxy | Host::Company => format!("wire-{}.orders", machine.name()),
        };
        let mut stream = UnixStream::connect(self.directory.join(socket)).expect("the lab has a wire");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time that is not 0");
        writeln!(stream, "{order}").expect("the wire reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the wire answers");
        assert_eq!(answer, "done\n", "{order}");
    }

    /// Sends a part a signal.
    pub fn signal(&self, part: Part, signal: Signal) {
        kill_process(self.pid(&part.process()), signal).expect("the part was running");
    }

    /// Whether a part has ended.
    pub fn has_ended(&self, part: Part) -> bool {
        rustix::process::test_kill_process(self.pid(&part.process())).is_err()
    }

    /// Resident memory of a part, in bytes.
    pub fn memory(&self, part: Part) -> u64 {
        let file = format!("/proc/{}/status", self.pid(&part.process()));
        let status = fs::read_to_string(file).expect("the part runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS is there");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }

    /// What a process of the lab wrote so far.
    pub fn log(&self, process: &str) -> String {
        fs::read_to_string(self.directory.join("log").join(process)).unwrap_or_default()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_logs();
        }
        // Panicking in a drop would hide what went wrong before it.
        let down = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("scripts").join("lab");
        let _ = Command::new(down).args(["down", "--dir", self.path()]).status();
    }
}

impl Lab {
    #[expect(clippy::print_stdout, reason = "what println prints is what a test's runner captures and shows")]
    fn print_logs(&self) {
        let Ok(logs) = fs::read_dir(self.directory.join("log")) else { return };
        for entry in logs.flatten() {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let last = &lines[lines.len().saturating_sub(40)..];
            println!("--- {}\n{}", entry.file_name().display(), last.join("\n"));
        }
    }
}

/// Ends a whole process group that a test made.
pub(crate) fn end_group(leader: u32) {
    let leader = i32::try_from(leader).ok().and_then(Pid::from_raw);
    if let Some(leader) = leader {
        let _ = kill_process_group(leader, Signal::KILL);
    }
}
