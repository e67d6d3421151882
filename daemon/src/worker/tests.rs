//! The worker with real packets: one flow's panic, and one login's flood of SYNs, are nobody else's.

mod machine;

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::Stdio;
use std::time::Duration;

use portlatch_protocol::attach::{ToAgent, ToDaemon};
use portlatch_protocol::refusal::RefusalReason;
use rustix::process::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::machine::{Machine, PATIENCE, on_a_machine_of_its_own};
use super::trap::CRY;

/// Who runs this test.
const ROOT: u32 = 0;
const TOM: u32 = 2002;
/// Held SYNs of one login (design section 8).
const MAX_HELD: usize = 2048;
/// Of those, such as wait for a tap, in all and at one port (design section 8).
const MAX_TAPPING: usize = 1024;
const MAX_AT_PORT: usize = 256;

/// A program's connection, from its SYN on.
struct Connecting {
    stream: TcpStream,
    source: SocketAddr,
}

impl Connecting {
    fn to(destination: SocketAddr) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        socket.set_nonblocking(true).unwrap();
        let begun = socket.connect(&destination.into()).unwrap_err();
        assert_eq!(begun.raw_os_error(), Some(libc::EINPROGRESS), "{begun}");
        let source = socket.local_addr().unwrap().as_socket().unwrap();
        Self { stream: TcpStream::from_std(socket.into()).unwrap(), source }
    }

    /// Of its socket.
    fn inode(&self) -> u64 {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", self.stream.as_raw_fd())).unwrap();
        let link = link.to_str().unwrap().trim_start_matches("socket:[").trim_end_matches(']').parse();
        link.expect("a socket's link has its inode")
    }

    /// The connection, or what the program sees in its place.
    async fn ends(self) -> io::Result<TcpStream> {
        self.stream.writable().await?;
        match self.stream.take_error()? {
            Some(error) => Err(error),
            None => Ok(self.stream),
        }
    }

    async fn connects(self) -> TcpStream {
        timeout(PATIENCE, self.ends()).await.expect("an answer").expect("it is let through")
    }

    /// What the program sees that is not let through.
    async fn fails(self) -> io::ErrorKind {
        timeout(PATIENCE, self.ends()).await.expect("an answer").expect_err("it is refused").kind()
    }
}

async fn assert_echoes(stream: &mut TcpStream) {
    stream.write_all(b"still there?").await.unwrap();
    let mut echo = [0; 12];
    timeout(PATIENCE, stream.read_exact(&mut echo)).await.expect("an echo").unwrap();
    assert_eq!(&echo, b"still there?");
}

#[test]
fn a_panic_in_one_flow_ends_that_flow_alone_and_is_in_the_log() {
    let name = "worker::tests::a_panic_in_one_flow_ends_that_flow_alone_and_is_in_the_log";
    on_a_machine_of_its_own(name, || async {
        let machine = Machine::start().await;
        let mut agent = machine.attach(ROOT, "jerry").await;
        let (granted, tapping) = (machine.resolve(5432).await, machine.resolve(22).await);
        let first = Connecting::to(granted);
        let trapped = first.source;
        let request = agent.is_asked().await.request;
        agent.grants(request).await;
        let mut first = first.connects().await;
        let mut second = Connecting::to(granted).connects().await;
        let held = Connecting::to(tapping);
        let request = agent.is_asked().await.request;
        agent.says(ToDaemon::TapNeeded(request)).await;
        agent.hears_of(&ToAgent::Proceed(request)).await;
        assert_echoes(&mut first).await;
        machine.has_flows(3).await;

        // With bytes on their way: what the target got of them must not look whole.
        machine.trap(trapped).await;
        first.write_all(b"one byte more").await.unwrap();
        let end = timeout(PATIENCE, first.read(&mut [0; 64])).await.expect("an end");
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        machine.has_flows(2).await;
        assert_echoes(&mut second).await;
        let log = machine.log();
        assert!(log.contains("a flow's task failed") && log.contains(CRY), "{log}");
        while machine.proxy.ends() != (0, 1) {
            assert_eq!(machine.proxy.ends(), (0, 0), "(finished, reset)");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }

        // One that is held: its program is refused, its place and its wait are given back.
        machine.trap(held.source).await;
        assert_eq!(held.fails().await, io::ErrorKind::ConnectionRefused);
        agent.hears_of(&ToAgent::Waiting(request, 0, None)).await;
        machine.has_flows(1).await;
        let joins = Connecting::to(tapping);
        agent.hears_of(&ToAgent::Waiting(request, 1, Some(joins.inode()))).await;
        agent.grants(request).await;
        for stream in
            [&mut second, &mut joins.connects().await, &mut Connecting::to(granted).connects().await]
        {
            assert_echoes(stream).await;
        }
        assert_eq!(machine.log().matches("a flow's task failed").count(), 2);
    });
}

/// Another user's program, in a process of its own.
struct Program {
    _process: Child,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Program {
    /// Connects, says so, and sends each line of its input.
    fn start(uid: u32, to: SocketAddr) -> Self {
        let script = "exec 3<>\"/dev/tcp/$0/$1\"; echo connected; while read -r line; do
            echo \"$line\" >&3; read -r echo <&3; echo \"$echo\"; done";
        let mut command = std::process::Command::new("bash");
        command.args(["-c", script, &to.ip().to_string(), &to.port().to_string()]).uid(uid);
        let mut command = tokio::process::Command::from(command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let (input, output) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        Self { _process: process, input, lines: BufReader::new(output).lines() }
    }

    async fn says(&mut self) -> Option<String> {
        timeout(PATIENCE, self.lines.next_line()).await.expect("a line").unwrap()
    }

    async fn assert_echoes(&mut self) {
        self.input.write_all(b"still there?\n").await.unwrap();
        assert_eq!(self.says().await.as_deref(), Some("still there?"));
    }
}

/// Connections that one user's programs make, and what becomes of them.
#[derive(Default)]
struct Crowd(JoinSet<io::Result<TcpStream>>);

impl Crowd {
    /// One more at each of these, in this order, so many in all.
    fn connect(&mut self, destinations: &[SocketAddr], count: usize) {
        for destination in destinations.iter().cycle().take(count) {
            self.0.spawn(Connecting::to(*destination).ends());
        }
    }

    /// Waits for so many refusals; nothing else happens to any of them.
    async fn is_refused(&mut self, count: usize) {
        for seen in 0..count {
            let end = timeout(PATIENCE, self.0.join_next()).await;
            let end = end.unwrap_or_else(|_| panic!("{seen} refusals and not {count}")).unwrap().unwrap();
            assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        }
        assert!(self.0.try_join_next().is_none(), "more than {count} have an end");
    }
}

/// Resident memory of this process, in bytes.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn many_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
}

/// Tom has a connection, and a prompt; neither hears anything of the crowd's.
#[test]
fn one_login_s_held_syns_end_at_their_limit_and_are_nobody_else_s() {
    let name = "worker::tests::one_login_s_held_syns_end_at_their_limit_and_are_nobody_else_s";
    on_a_machine_of_its_own(name, || async {
        many_files();
        let machine = Machine::start().await;
        let (mut jerry, mut tom) = (machine.attach(ROOT, "jerry").await, machine.attach(TOM, "tom").await);
        let mut ports = Vec::new();
        for port in 7001..=7008 {
            ports.push(machine.resolve(port).await);
        }
        let mut open = Program::start(TOM, machine.resolve(5432).await);
        let request = tom.is_asked().await.request;
        tom.grants(request).await;
        assert_eq!(open.says().await.as_deref(), Some("connected"));
        let mut waiting = Program::start(TOM, machine.resolve(22).await);
        let prompt = tom.is_asked().await.request;
        tom.says(ToDaemon::TapNeeded(prompt)).await;
        tom.hears_of(&ToAgent::Proceed(prompt)).await;

        // While jerry's agent has not answered, whatever the port: so many are held, and those beyond refused at once.
        let before = memory();
        let mut crowd = Crowd::default();
        crowd.connect(&ports, MAX_HELD + 64);
        crowd.is_refused(64).await;
        machine.has_flows(u32::try_from(MAX_HELD + 2).unwrap()).await;
        let taken = memory().saturating_sub(before);
        assert!(taken < 32 << 20, "{MAX_HELD} held SYNs take {taken} bytes");
        let refusals = machine.status(ROOT).await.refusals;
        assert!(refusals.iter().all(|refusal| refusal.reason == RefusalReason::Limit), "{refusals:?}");
        assert_eq!(refusals.len(), 64);
        open.assert_echoes().await;
        let mut another = Program::start(TOM, machine.resolve(5432).await);
        assert_eq!(another.says().await.as_deref(), Some("connected"));
        another.assert_echoes().await;
        assert!(tom.is_left_alone(), "tom's prompt is as it was");
        tom.grants(prompt).await;
        assert_eq!(waiting.says().await.as_deref(), Some("connected"));

        // A tap is needed: those that may not wait for it are refused, and their places are free again.
        for _ in &ports {
            let request = jerry.is_asked().await.request;
            jerry.says(ToDaemon::TapNeeded(request)).await;
        }
        crowd.is_refused(MAX_HELD - MAX_TAPPING).await;
        let next = [machine.resolve(7009).await];
        crowd.connect(&next, MAX_HELD - MAX_TAPPING + 64);
        crowd.is_refused(64).await;
        // Over the limit of a port nobody waits for a place that is free elsewhere.
        let request = jerry.is_asked().await.request;
        jerry.says(ToDaemon::TapNeeded(request)).await;
        crowd.is_refused(MAX_HELD - MAX_TAPPING).await;
        crowd.connect(&ports[..1], MAX_AT_PORT);
        crowd.is_refused(MAX_AT_PORT).await;

        // The programs go, and nothing is left of them.
        drop(crowd);
        machine.has_flows(3).await;
        let mut crowd = Crowd::default();
        crowd.connect(&[machine.resolve(7010).await], MAX_HELD + 1);
        crowd.is_refused(1).await;
        for program in [&mut open, &mut another, &mut waiting] {
            program.assert_echoes().await;
        }
    });
}
