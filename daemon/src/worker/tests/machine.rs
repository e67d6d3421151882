//! A machine for a test, with the worker on it: this test's own process again inside namespaces that `unshare` made for it,
//! a real TUN, and the kernel's own TCP. Agents and the proxy are played.

use std::future::Future;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Command as Process;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{RData, RecordType};
use portlatch_clock::{BootTime, Clock};
use portlatch_protocol::attach::{AccessWanted, Grant, Status, ToAgent, ToDaemon};
use portlatch_protocol::identity::Login as LoginIdentity;
use portlatch_protocol::ports::PortRange;
use portlatch_protocol::resource::{Hold, MfaNeed, RefusalStyle, Resource, Zone};
use tempfile::TempDir;
use tokio::net::UdpSocket;
use tokio::runtime::LocalOptions;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::super::command::{AttachKey, AttachedLogin, Catalogue};
use super::super::{Command, MAX_COMMANDS, NamingParts, WorkerParts, run};
use crate::addresses::{Addresses, Ranges};
use crate::dns::forwarder::Forwarder;
use crate::dns::names::{NameTable, TrustedZone};
use crate::dns::server::{Outside, Server};
use crate::flow::Memory;
use crate::os::sock_diag::SocketOwners;
use crate::os::{Findings, NetworkPlan, RingSlab};
use crate::tun::{MAX_PACKET, Tun, TunOptions};
use crate::tunnel::tests::proxy::{Ca, Proxy};

/// Nothing in these tests takes longer where it works.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// What an agent may leave unread, as the reception has it.
const MAX_UNREAD: usize = 4096;
const INSIDE: &str = "PORTLATCH_TEST_NAMESPACES";
const CLUSTER: &str = "proxy.example.com";
const ZONE: &str = "corp.internal";
/// The one resource, on all of its ports.
const NAME: &str = "billing.corp.internal";

/// Runs `body` inside fresh namespaces: this test, as `name` says, is run again there by its own binary.
pub(super) fn on_a_machine_of_its_own<F: Future<Output = ()>>(name: &str, body: impl FnOnce() -> F) {
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        assert!(Process::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
        return runtime.block_on(async { timeout(4 * PATIENCE, body()).await.expect("it ends in time") });
    }
    if !rustix::process::geteuid().is_root() {
        return writeln!(std::io::stdout(), "skipped: {name} needs root for its namespaces").unwrap();
    }
    let status = Process::new("unshare")
        .args(["--net", "--mount", "--propagation", "private", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads", "1"])
        .env(INSIDE, "1")
        .status()
        .expect("util-linux is installed");
    assert!(status.success(), "{name} failed inside its namespaces");
}

/// The machine.
pub(super) struct Machine {
    commands: mpsc::Sender<Command>,
    clock: Clock,
    log: Log,
    ca: Ca,
    pub(super) proxy: Proxy,
    resolver: SocketAddr,
    _time: watch::Sender<Duration>,
    _state: TempDir,
}

impl Machine {
    /// Starts the worker on a thread of its own, as the service does. Its clock stands still: no deadline of a prompt or
    /// a question passes.
    pub(super) async fn start() -> Self {
        let (clock, time) = Clock::still(Clock::system().time_of_day());
        let state = tempfile::tempdir().unwrap();
        let tun = Tun::open(TunOptions::default()).unwrap();
        let plan = NetworkPlan::new(tun.name(), tun.ifindex(), "198.18.0.0/16".parse().unwrap(), None);
        plan.apply(&mut Findings::default()).await.unwrap();
        let resolver = SocketAddr::new(plan.range4.dns_address().into(), 53);
        let parts = parts(tun, &plan, &state, &clock);
        let (commands, inbox) = mpsc::channel(MAX_COMMANDS);
        let log = Log::default();
        let logged = log.clone();
        std::thread::spawn(move || {
            let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || logged.clone());
            let _logging = tracing::subscriber::set_default(subscriber.finish());
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build_local(LocalOptions::default())
                .unwrap();
            runtime.block_on(run(parts, inbox, CancellationToken::new())).unwrap();
        });
        let ca = Ca::new();
        let proxy = Proxy::start(&ca, "p1");
        Self { commands, clock, log, ca, proxy, resolver, _time: time, _state: state }
    }

    /// A user signs in: his agent attaches, and brings the catalogue.
    pub(super) async fn attach(&self, uid: u32, user: &str) -> Agent {
        let (to_agent, inbox) = mpsc::channel(MAX_UNREAD);
        let key = AttachKey { uid, serial: 1 };
        let login = AttachedLogin {
            key,
            agent_pid: 1,
            identity: LoginIdentity {
                user: user.parse().unwrap(),
                login: format!("0{uid:x}").parse().unwrap(),
                device: "laptop".parse().unwrap(),
            },
            expires_at: self.in_an_hour(),
            credentials: self.ca.credentials(),
            to_agent,
            cancelled: CancellationToken::new(),
        };
        let (reply, attached) = oneshot::channel();
        self.command(Command::Attach(Box::new(login), reply)).await;
        attached.await.unwrap().unwrap();
        let catalogue = Catalogue {
            cluster: CLUSTER.parse().unwrap(),
            resources: vec![self.resource()],
            zones: vec![Zone { suffix: ZONE.parse().unwrap(), exclusive: false }],
            proxies: vec![self.proxy.address()],
            outside: Vec::new(),
        };
        self.command(Command::Catalogue(key, Box::new(catalogue))).await;
        Agent { key, commands: self.commands.clone(), inbox }
    }

    fn in_an_hour(&self) -> BootTime {
        self.clock.boot_time() + Duration::from_secs(3600)
    }

    fn resource(&self) -> Resource {
        Resource {
            id: "db/billing".parse().unwrap(),
            host: NAME.parse().unwrap(),
            ports: vec![PortRange::new(1, u16::MAX).unwrap()],
            hold: Hold::Syn,
            mfa: MfaNeed::Tap,
            labels: Default::default(),
            description: String::new(),
            proxies: vec![self.proxy.name()],
            protocol: None,
            refusal: RefusalStyle::Reset,
        }
    }

    async fn command(&self, command: Command) {
        assert!(self.commands.send(command).await.is_ok(), "the worker has ended");
    }

    /// From now on the story of the flow from this address panics at its next step.
    pub(super) async fn trap(&self, program: SocketAddr) {
        self.command(Command::Trap(program)).await;
    }

    /// What `portlatch status` would show this user.
    pub(super) async fn status(&self, uid: u32) -> Status {
        let (reply, status) = oneshot::channel();
        self.command(Command::Status(uid, reply)).await;
        timeout(PATIENCE, status).await.expect("the worker turns").unwrap()
    }

    /// Waits until so many flows live.
    pub(super) async fn has_flows(&self, flows: u32) {
        let begin = std::time::Instant::now();
        loop {
            let now = self.status(0).await.flows;
            if now == flows {
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "{now} flows are left and not {flows}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The resource's address, as its name resolves.
    pub(super) async fn resolve(&self, port: u16) -> SocketAddr {
        let mut query = Message::new(1, MessageType::Query, OpCode::Query);
        query.add_query(Query::query(format!("{NAME}.").parse().unwrap(), RecordType::A));
        let socket = UdpSocket::bind("0.0.0.0:0").await.unwrap();
        socket.send_to(&query.to_vec().unwrap(), self.resolver).await.unwrap();
        let mut answer = [0; 512];
        let length = timeout(PATIENCE, socket.recv(&mut answer)).await.expect("an answer").unwrap();
        let answer = Message::from_vec(&answer[..length]).unwrap();
        let address = |data: &RData| if let RData::A(address) = data { Some(address.0) } else { None };
        let mut addresses = answer.answers.iter().filter_map(|record| address(&record.data));
        SocketAddr::new(addresses.next_back().expect("an address").into(), port)
    }

    /// What the worker has logged.
    pub(super) fn log(&self) -> String {
        String::from_utf8(self.log.0.lock().unwrap().clone()).unwrap()
    }
}

fn parts(tun: Tun, plan: &NetworkPlan, state: &TempDir, clock: &Clock) -> WorkerParts {
    let range4 = (plan.range4.network(), plan.range4.prefix_length());
    let ranges = Ranges::new(range4, None).unwrap();
    let now = clock.time_of_day();
    let addresses = Addresses::open(state.path().join("addresses"), ranges, now).unwrap();
    let zone = TrustedZone { cluster: CLUSTER.parse().unwrap(), suffix: ZONE.parse().unwrap() };
    let naming = NamingParts {
        table: NameTable::new(addresses, vec![zone], now),
        server: Server::new(Outside::Refuse),
        forwarder: Forwarder::new(ranges),
        servers: vec![plan.range4.dns_address().into()],
    };
    let slab = RingSlab::new(64, 256 * 1024).unwrap();
    let stack = portlatch_netstack::StackConfig {
        mtu: MAX_PACKET,
        range4,
        range6: None,
        random_seed: 1,
        ring_size: slab.ring_size(),
        max_held: 4096,
        max_flows: slab.slots(),
        verify_checksums: false,
        sources: vec![plan.range4.own_address().into()],
    };
    let owners = SocketOwners::open().unwrap();
    WorkerParts { tun, stack, memory: Memory::from(slab), owners, naming, clock: clock.clone() }
}

/// A user's agent, as the worker knows it.
pub(super) struct Agent {
    key: AttachKey,
    commands: mpsc::Sender<Command>,
    inbox: mpsc::Receiver<ToAgent>,
}

impl Agent {
    pub(super) async fn says(&self, message: ToDaemon) {
        assert!(self.commands.send(Command::Agent(self.key, message)).await.is_ok(), "the worker has ended");
    }

    /// The next thing that it is told.
    pub(super) async fn hears(&mut self) -> ToAgent {
        timeout(PATIENCE, self.inbox.recv()).await.expect("it is told something").expect("it is attached")
    }

    /// The next question, past anything else.
    pub(super) async fn is_asked(&mut self) -> AccessWanted {
        loop {
            if let ToAgent::AccessWanted(wanted) = self.hears().await {
                return wanted;
            }
        }
    }

    /// Hears all up to this.
    pub(super) async fn hears_of(&mut self, wanted: &ToAgent) {
        while self.hears().await != *wanted {}
    }

    /// Whether nothing is left to hear.
    pub(super) fn is_left_alone(&mut self) -> bool {
        self.inbox.try_recv().is_err()
    }

    /// What a tap brings.
    pub(super) async fn grants(&self, request: u64) {
        let grant = Grant {
            token: "a grant".into(),
            expires_in: Duration::from_secs(300),
            amr: vec!["hwk".into()],
            program: None,
        };
        self.says(ToDaemon::Granted(request, grant)).await;
    }
}

/// What was logged.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
