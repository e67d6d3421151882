//! A machine for a test: this test's own process again, inside namespaces that `unshare` made for it.

use std::future::Future;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use portlatchd::os::ranges::{Range4, Range6};
use portlatchd::os::{Findings, Ipv6State, NetworkPlan};
use portlatchd::tun::{BUFFER, Checksum, HEADROOM, Tun, TunOptions};

use super::packet::Segment;

const INSIDE: &str = "PORTLATCH_TEST_NAMESPACES";
const ROLE: &str = "PORTLATCH_TEST_ROLE";
/// A test that takes longer hangs.
const DEADLINE: Duration = Duration::from_secs(60);

/// Runs `body` inside fresh namespaces: this test, as `name` says, is run again there by its own binary.
pub(crate) fn on_a_machine_of_its_own<F: Future<Output = ()>>(name: &str, body: impl FnOnce() -> F) {
    if std::env::var_os(INSIDE).is_some() {
        shell("ip link set lo up");
        run(body());
        return;
    }
    if !rustix::process::geteuid().is_root() {
        say(&format!("skipped: {name} needs root for its namespaces"));
        return;
    }
    let status = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private", "--"])
        .arg(std::env::current_exe().expect("a test has a binary"))
        .args(["--exact", name, "--nocapture", "--test-threads", "1"])
        .env(INSIDE, "1")
        .status()
        .expect("util-linux is installed");
    assert!(status.success(), "{name} failed inside its namespaces");
}

/// Prints a line at once, for a person or for the process that waits for it.
pub(crate) fn say(line: &str) {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "\n{line}").and_then(|()| stdout.flush()).expect("somebody listens");
}

fn run<F: Future>(body: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(DEADLINE, body).await.expect("the test ended in time") })
}

/// Runs this shell command, which must succeed; gives what it printed.
pub(crate) fn shell(command: &str) -> String {
    let output = Command::new("sh").args(["-ec", command]).output().expect("a shell");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command}: {errors}");
    String::from_utf8(output.stdout).expect("text")
}

/// The role that a process was started for by [`start_role`].
pub(crate) fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// This test's binary again, in the same namespaces, in another role. Killed with the value.
pub(crate) fn start_role(prefix: &[&str], test: &str, role: &str, with: &str) -> Killed {
    let exe = std::env::current_exe().expect("a test has a binary");
    let mut words = prefix.iter().map(|word| std::ffi::OsString::from(*word)).collect::<Vec<_>>();
    words.push(exe.into());
    let child = Command::new(&words[0])
        .args(&words[1..])
        .args(["--exact", test, "--nocapture", "--test-threads", "1"])
        .env(ROLE, role)
        .env("PORTLATCH_TEST_WITH", with)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the test's binary starts again");
    Killed(child)
}

/// What [`start_role`] gave along.
pub(crate) fn role_parameter() -> String {
    std::env::var("PORTLATCH_TEST_WITH").expect("started by start_role")
}

/// A process that does not outlive its test.
pub(crate) struct Killed(pub(crate) Child);

impl Killed {
    /// Waits until the process has printed this line.
    pub(crate) fn wait_for_line(&mut self, line: &str) {
        use std::io::BufRead as _;
        let stdout = self.0.stdout.as_mut().expect("its output is ours");
        let mut lines = std::io::BufReader::new(stdout).lines();
        assert!(lines.any(|read| read.expect("text").contains(line)), "it ended without {line:?}");
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Another machine on the LAN of ours: a network namespace at the other end of `lan0`. We are 192.168.7.2 and
/// fd77::2, it is .66 and ::66, and sends what is for our ranges through us.
pub(crate) struct Neighbour {
    holder: Killed,
}

impl Neighbour {
    pub(crate) fn new() -> Self {
        let mut command = Command::new("unshare");
        command.args(["--net", "--", "sh", "-c", "echo up; exec sleep 600"]).stdout(Stdio::piped());
        let mut holder = Killed(command.spawn().expect("util-linux is installed"));
        holder.wait_for_line("up");
        let neighbour = Self { holder };
        shell(&format!(
            "ip link add lan0 type veth peer name lan1 netns {}
             ip addr add 192.168.7.2/24 dev lan0; ip -6 addr add fd77::2/64 dev lan0 nodad; ip link set lan0 up",
            neighbour.pid()
        ));
        neighbour.shell(
            "ip link set lo up; ip addr add 192.168.7.66/24 dev lan1; ip -6 addr add fd77::66/64 dev lan1 nodad
             ip link set lan1 up; ip route add default via 192.168.7.2; ip -6 route add default via fd77::2",
        );
        // No question of who has which address delays the first packet: what a test sends arrives before it goes on.
        let address = shell("ip -o link show lan0 | sed 's/.*link.ether \\([^ ]*\\).*/\\1/'");
        neighbour.shell(&format!(
            "ip neigh add 192.168.7.2 lladdr {0} dev lan1 nud permanent
             ip -6 neigh add fd77::2 lladdr {0} dev lan1 nud permanent",
            address.trim()
        ));
        neighbour
    }

    pub(crate) fn pid(&self) -> u32 {
        self.holder.0.id()
    }

    pub(crate) fn shell(&self, command: &str) -> String {
        let quoted = command.replace('\'', "'\\''");
        shell(&format!("nsenter --target {} --net -- sh -ec '{quoted}'", self.pid()))
    }
}

/// Our machine with the TUN and everything around it.
pub(crate) struct Machine {
    pub(crate) tun: Tun,
    pub(crate) plan: NetworkPlan,
}

pub(crate) fn range4() -> Range4 {
    "198.18.0.0/16".parse().expect("a range")
}

pub(crate) fn range6() -> Range6 {
    "fd12:3456:789a:1::/64".parse().expect("a range")
}

impl Machine {
    pub(crate) async fn new() -> Self {
        let tun = Tun::open(TunOptions::default()).expect("a TUN");
        let plan = NetworkPlan::new(tun.name(), tun.ifindex(), range4(), Some(range6()));
        let mut findings = Findings::default();
        let applied = plan.apply(&mut findings).await.expect("a network");
        assert_eq!(applied.ipv6, Ipv6State::Works, "{findings:?}");
        Self { tun, plan }
    }

    /// The next TCP segment out of the TUN, past anything else.
    pub(crate) async fn segment(&self) -> Segment {
        next_segment(&self.tun).await
    }

    pub(crate) fn send(&self, segment: &Segment, checksum: Checksum) {
        let mut buffer = vec![0; HEADROOM];
        buffer.extend(segment.to_packet());
        assert!(self.tun.try_send(&mut buffer, checksum).expect("the TUN takes it"));
    }

    /// Answers a connection attempt to this address as a server would; gives both sides' next sequence numbers in the
    /// segment that the server sends next.
    pub(crate) async fn accept(&self, server: SocketAddr) -> Segment {
        let syn = loop {
            let segment = self.segment().await;
            if segment.is_syn() && segment.destination == server {
                break segment;
            }
        };
        let syn_ack = syn.answer_syn();
        self.send(&syn_ack, Checksum::Complete);
        let ack = self.segment().await;
        assert!(ack.is_ack_of(&syn_ack), "{ack:?}");
        Segment { sequence: ack.acknowledgement, acknowledgement: ack.sequence, ..syn_ack.data(b"") }
    }

    /// Whether nothing is there to read now.
    pub(crate) fn is_silent(&self) -> bool {
        let mut buffer = vec![0; BUFFER];
        self.tun.try_recv(&mut buffer).expect("the TUN is there").is_none()
    }
}

pub(crate) async fn next_segment(tun: &Tun) -> Segment {
    let mut buffer = vec![0; BUFFER];
    loop {
        match tun.try_recv(&mut buffer).expect("the TUN is there") {
            Some(packet) => {
                if let Some(segment) = Segment::parse(packet) {
                    return segment;
                }
            }
            None => tun.readable().await.expect("the TUN is there"),
        }
    }
}

/// An address of the range, and a port.
pub(crate) fn server(last: u8, port: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::new(198, 18, 5, last).into(), port)
}
