//! The service, from start to stop: what it opens and in which order, and how all of it is undone.
//!
//! The order matters: what a killed daemon left is undone first; the system's resolver hears of us before the link is
//! up; the link comes up last, when somebody answers on it. Stopping is the same backwards.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context as _;
use portlatch_clock::Clock;
use portlatch_netstack::StackConfig;
use portlatch_protocol::names::Hostname;
use tokio::runtime::LocalOptions;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::addresses::{Addresses, Ranges};
use crate::config::{Config, DnsMode};
use crate::dns::forwarder::Forwarder;
use crate::dns::names::{NameTable, TrustedZone};
use crate::dns::server::{Outside, Server};
use crate::flow::Memory;
use crate::os::name_service::{NameService, NameServiceOptions, NameServicePlan};
use crate::os::sock_diag::{SocketOwners, destroy_sockets};
use crate::os::{Findings, Ipv6State, NetworkPlan, PacketGuard, RingSlab, StateDir};
use crate::reception::{Machine, Reception, trusted_zones};
use crate::trust::{Trust, TrustFile};
use crate::tun::{Tun, TunOptions};
use crate::worker::{self, Command, MAX_COMMANDS, NamingParts, WorkerParts};

mod ranges;

/// Where names keep their addresses, in the state directory.
const ADDRESSES: &str = "addresses";
/// One direction of one flow: four of the largest segments, without which the transfer is stop-and-wait.
const RING: usize = 256 * 1024;
/// Flows at once; address space for their rings is reserved, memory is not.
const MAX_FLOWS: usize = 16_384;
/// SYNs held at once (design section 8).
const MAX_HELD: usize = 4096;
/// The worker must answer within this, or the watchdog is not fed.
const PULSE: Duration = Duration::from_secs(10);

/// Runs the service until SIGTERM or SIGINT.
pub(crate) fn run(config: Config) -> anyhow::Result<()> {
    crate::log::start();
    // Two threads in all: the worker has its own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(config))
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let state = StateDir::open(&config.state_dir)?;
    let _lock = state.lock()?;
    let clock = Clock::system();
    let stopping = CancellationToken::new();
    let trust = TrustFile::read(&state)?;
    let Prepared { tun, plan, own_addresses, name_service, naming_plan, guard, findings } =
        Prepared::prepare(&config, &state, &trust).await?;

    let parts = parts(tun, &plan, &config, &state, trusted_zones(&trust), &clock)?;
    let (commands, inbox) = mpsc::channel(MAX_COMMANDS);
    let mut worker = Worker::start(parts, inbox, &stopping)?;
    let (name_findings, of_names) = watch::channel(name_service.findings().clone());
    let machine = Machine::new(plan.range4, findings, of_names);
    let bound = Reception::bind(
        &config.socket,
        state,
        commands.clone(),
        clock,
        naming_plan,
        machine,
        stopping.clone(),
    );
    let (reception, name_plans) =
        bound.with_context(|| format!("listening at {}", config.socket.display()))?;
    let (upstream_sender, upstreams) = watch::channel(Vec::new());
    let mut tasks = JoinSet::new();
    tasks.spawn(reception.serve());
    tasks.spawn(name_service.serve(name_plans, upstream_sender, name_findings, stopping.clone()));
    tasks.spawn(feed(commands, upstreams, stopping.clone()));
    tasks.spawn(keep(plan.clone(), stopping.clone()));
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    tracing::info!(range = %plan.range4, "portlatchd is ready");

    let ended = tokio::select! {
        signal = stop_signal() => signal.map_err(Into::into),
        ended = &mut worker.ended => ended.unwrap_or_else(|_| Err(anyhow::anyhow!("the worker failed"))),
    };
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    stopping.cancel();
    while tasks.join_next().await.is_some() {}
    worker.join();
    end_orphans(&own_addresses, &mut Findings::default());
    if let Err(error) = plan.remove().await {
        tracing::warn!(%error, "the network configuration could not be taken away: run `portlatchd cleanup`");
    }
    drop(guard);
    ended
}

/// What is ours of this machine while we run.
struct Prepared {
    tun: Tun,
    plan: NetworkPlan,
    own_addresses: Vec<IpAddr>,
    name_service: NameService,
    naming_plan: NameServicePlan,
    guard: Option<PacketGuard>,
    /// Those of the name service apart.
    findings: Findings,
}

impl Prepared {
    async fn prepare(config: &Config, state: &StateDir, trust: &Trust) -> anyhow::Result<Self> {
        let mut findings = Findings::default();
        let tun = Tun::open(TunOptions { name: &config.interface, ..TunOptions::default() })?;
        let mut plan = ranges::choose(config, state, &tun).await?;
        let own_addresses = own_addresses(&plan);
        end_orphans(&own_addresses, &mut findings);
        let mut name_service = NameService::open(NameServiceOptions {
            mode: config.dns,
            range4: plan.range4,
            range6: plan.range6,
            state: state.clone(),
        })
        .await;
        let naming_plan = NameServicePlan {
            ifindex: tun.ifindex(),
            // IPv4 alone: a machine may have its IPv6 switched off or led elsewhere at any time.
            dns: vec![plan.range4.dns_address().into()],
            zones: trusted_zones(trust).into_iter().map(|zone| zone.suffix).collect(),
            reverse: reverse_zones(&plan),
            search: config.search.clone(),
        };
        if let Err(error) = name_service.apply(&naming_plan).await {
            findings.add(
                "dns",
                error.to_string(),
                "names do not resolve until the next attempt, which is soon",
            );
        }
        let guard = PacketGuard::raise(&plan, &mut findings);
        let applied = plan.apply(&mut findings).await?;
        if applied.ipv6 == Ipv6State::Off {
            plan.range6 = None;
        }
        findings.log();
        // By the time that somebody asks, it was tried again.
        findings.remove("dns");
        name_service.findings().log();
        Ok(Self { tun, plan, own_addresses, name_service, naming_plan, guard, findings })
    }
}

fn own_addresses(plan: &NetworkPlan) -> Vec<IpAddr> {
    let v6 = plan.range6.map(|range| IpAddr::V6(range.own_address()));
    std::iter::once(IpAddr::V4(plan.range4.own_address())).chain(v6).collect()
}

fn reverse_zones(plan: &NetworkPlan) -> Vec<Hostname> {
    let v6 = plan.range6.map(|range| range.reverse_zone());
    plan.range4.reverse_zones().into_iter().chain(v6).collect()
}

/// Connections that lost their daemon would hang for ever in a read.
fn end_orphans(own_addresses: &[IpAddr], findings: &mut Findings) {
    match destroy_sockets(own_addresses, findings) {
        Ok(0) => {}
        Ok(ended) => tracing::info!(ended, "ended connections without a daemon"),
        Err(error) => tracing::warn!(%error, "connections without a daemon may hang"),
    }
}

fn parts(
    tun: Tun,
    plan: &NetworkPlan,
    config: &Config,
    state: &StateDir,
    zones: Vec<TrustedZone>,
    clock: &Clock,
) -> anyhow::Result<WorkerParts> {
    let range4 = (plan.range4.network(), plan.range4.prefix_length());
    let range6 = plan.range6.map(|range| (range.network(), range.prefix_length()));
    let ranges = Ranges::new(range4, range6)?;
    let now = clock.time_of_day();
    let addresses = Addresses::open(state.file(ADDRESSES), ranges, now)?;
    let outside = match config.dns {
        DnsMode::ResolvConf => Outside::Forward,
        DnsMode::Auto | DnsMode::Resolved | DnsMode::Off => Outside::Refuse,
    };
    let dns6 = plan.range6.map(|range| IpAddr::V6(range.dns_address()));
    let naming = NamingParts {
        table: NameTable::new(addresses, zones, now),
        server: Server::new(outside),
        forwarder: Forwarder::new(ranges),
        servers: std::iter::once(IpAddr::V4(plan.range4.dns_address())).chain(dns6).collect(),
    };
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).map_err(|error| anyhow::anyhow!("no random numbers: {error}"))?;
    let slab = RingSlab::new(MAX_FLOWS, RING).context("reserving address space for the flows")?;
    let stack = StackConfig {
        mtu: crate::tun::MAX_PACKET,
        range4,
        range6,
        random_seed: u64::from_ne_bytes(seed),
        ring_size: slab.ring_size(),
        max_held: MAX_HELD,
        max_flows: slab.slots(),
        // The TUN has a virtio header: local packets come and go with partial checksums.
        verify_checksums: false,
        sources: own_addresses(plan),
    };
    let owners = SocketOwners::open().context("asking the kernel whose sockets there are")?;
    Ok(WorkerParts { tun, stack, memory: Memory::from(slab), owners, naming, clock: clock.clone() })
}

/// The worker's thread.
struct Worker {
    thread: Option<std::thread::JoinHandle<()>>,
    ended: oneshot::Receiver<anyhow::Result<()>>,
}

impl Worker {
    fn start(
        parts: WorkerParts,
        inbox: mpsc::Receiver<Command>,
        stopping: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let (sender, ended) = oneshot::channel();
        let stopping = stopping.clone();
        let work = move || {
            // One queue for flows and tunnels alike. With a LocalSet on a runtime each step from a tunnel to its flow
            // looks for I/O on the way: 5 instead of 3 epoll_wait for a request and its response.
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build_local(LocalOptions::default());
            let outcome = match runtime {
                Ok(runtime) => runtime.block_on(worker::run(parts, inbox, stopping)).map_err(Into::into),
                Err(error) => Err(error.into()),
            };
            // The service may have stopped waiting.
            let _ = sender.send(outcome);
        };
        let thread = std::thread::Builder::new().name("worker".into()).spawn(work)?;
        Ok(Self { thread: Some(thread), ended })
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the worker's thread failed");
        }
    }
}

/// Tells the worker of the machine's resolvers, and the watchdog of the worker's pulse.
async fn feed(
    commands: mpsc::Sender<Command>,
    mut upstreams: watch::Receiver<Vec<std::net::SocketAddr>>,
    stopping: CancellationToken,
) {
    let mut pulse = tokio::time::interval(PULSE);
    loop {
        let command = tokio::select! {
            () = stopping.cancelled() => return,
            changed = upstreams.changed() => match changed {
                Ok(()) => Command::Upstreams(upstreams.borrow_and_update().clone()),
                Err(_) => return,
            },
            _ = pulse.tick() => {
                feed_watchdog(&commands).await;
                continue;
            }
        };
        if commands.send(command).await.is_err() {
            return;
        }
    }
}

/// Feeds the watchdog only if the worker turns: a process that lives and does not work is restarted.
async fn feed_watchdog(commands: &mpsc::Sender<Command>) {
    let (reply, answer) = oneshot::channel();
    let turned = async {
        commands.send(Command::Pulse(reply)).await.ok()?;
        answer.await.ok()
    };
    match tokio::time::timeout(PULSE, turned).await {
        Ok(Some(())) => {
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
        }
        Ok(None) => {}
        Err(_) => tracing::error!("the worker does not turn"),
    }
}

/// Puts back what other programs take of the range's network.
async fn keep(plan: NetworkPlan, stopping: CancellationToken) {
    if let Err(error) = plan.keep(stopping).await {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(error, "what other programs take of our network configuration is not put back");
    }
}

async fn stop_signal() -> std::io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
