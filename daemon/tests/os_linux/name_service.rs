//! The system's resolver: `/etc/resolv.conf` given back as it was, and systemd-resolved on a real bus.

use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use hickory_proto::op::Message;
use portlatchd::config::DnsMode;
use portlatchd::os::name_service::{NameService, NameServiceOptions, NameServicePlan};
use portlatchd::os::{Findings, NetworkPlan, StateDir};
use portlatchd::tun::{BUFFER, Tun, TunOptions};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::lab::{
    Killed, on_a_machine_of_its_own, range4, range6, role, role_parameter, say, shell, start_role,
};

const ORIGINAL: &str = "# made by dhcp\nsearch example.com\nnameserver 192.0.2.53\noptions edns0";
const FILE: &str = "/etc/resolv.conf";

fn options(mode: DnsMode, state: &Path) -> NameServiceOptions {
    let state = StateDir::open(state).expect("a state directory");
    NameServiceOptions { mode, range4: range4(), range6: Some(range6()), state }
}

fn plan(ifindex: u32) -> NameServicePlan {
    NameServicePlan {
        ifindex,
        dns: vec![IpAddr::V4(range4().dns_address())],
        zones: vec!["corp.internal".parse().expect("a zone")],
        reverse: vec!["18.198.in-addr.arpa".parse().expect("a zone")],
        search: Vec::new(),
    }
}

/// Starts a process that takes the file over, and kills it.
fn take_and_kill(test: &str, state: &Path) {
    let mut daemon = start_role(&[], test, "take", state.to_str().expect("text"));
    daemon.wait_for_line("taken");
    daemon.0.kill().expect("killed");
    daemon.0.wait().expect("gone");
}

async fn take_until_killed() {
    let mut service = NameService::open(options(DnsMode::ResolvConf, Path::new(&role_parameter()))).await;
    service.apply(&plan(1)).await.expect("applied");
    say("taken");
    std::future::pending::<()>().await;
}

async fn check_take_kill_restore(test: &str, state: &Path) {
    take_and_kill(test, state);
    let taken = std::fs::read_to_string(FILE).expect("a file");
    let first = taken.lines().find(|line| line.starts_with("nameserver")).expect("a server");
    assert_eq!(first, "nameserver 198.18.0.2", "{taken}");
    assert!(taken.contains("nameserver 192.0.2.53"), "{taken}");
    assert_eq!(std::fs::metadata(FILE).expect("a file").mode() & 0o777, 0o644);

    // Its next start, in the same mode, still knows what was there.
    let mut service = NameService::open(options(DnsMode::ResolvConf, state)).await;
    service.apply(&plan(1)).await.expect("applied");
    assert_eq!(service.upstreams().await, ["192.0.2.53:53".parse().expect("an address")]);
    take_and_kill(test, state);
    // In another mode, it puts it back.
    let _off = NameService::open(options(DnsMode::Off, state)).await;
    assert_eq!(std::fs::read_to_string(FILE).expect("a file"), ORIGINAL);
}

/// An `/etc` of the test's own, over the system's.
fn own_etc(directory: &Path) {
    let at = directory.display();
    shell(&format!(
        "mount -t tmpfs tmpfs {at}; mkdir {at}/upper {at}/work {at}/state
         mount -t overlay overlay -o lowerdir=/etc,upperdir={at}/upper,workdir={at}/work /etc; rm -f {FILE}"
    ));
}

#[test]
fn resolv_conf_comes_back_after_a_kill() {
    const NAME: &str = "name_service::resolv_conf_comes_back_after_a_kill";
    on_a_machine_of_its_own(NAME, || async {
        if role().as_deref() == Some("take") {
            return take_until_killed().await;
        }
        let directory = tempfile::tempdir().expect("a directory");
        own_etc(directory.path());
        std::fs::write(FILE, ORIGINAL).expect("written");
        check_take_kill_restore(NAME, &directory.path().join("state")).await;

        // As a symlink, as resolvconf and NetworkManager have it.
        std::fs::write("/etc/resolv.real", ORIGINAL).expect("written");
        std::fs::remove_file(FILE).expect("removed");
        symlink("resolv.real", FILE).expect("linked");
        check_take_kill_restore(NAME, &directory.path().join("state")).await;
        assert_eq!(std::fs::read_link(FILE).expect("a link"), Path::new("resolv.real"));
    });
}

#[test]
fn resolv_conf_that_is_a_bind_mount_comes_back_after_a_kill() {
    const NAME: &str = "name_service::resolv_conf_that_is_a_bind_mount_comes_back_after_a_kill";
    on_a_machine_of_its_own(NAME, || async {
        if role().as_deref() == Some("take") {
            return take_until_killed().await;
        }
        let directory = tempfile::tempdir().expect("a directory");
        own_etc(directory.path());
        let mounted = directory.path().join("mounted");
        std::fs::write(&mounted, ORIGINAL).expect("written");
        std::fs::write(FILE, "").expect("written");
        shell(&format!("mount --bind {} {FILE}", mounted.display()));
        check_take_kill_restore(NAME, &directory.path().join("state")).await;
        assert_eq!(std::fs::read_to_string(mounted).expect("a file"), ORIGINAL);
    });
}

#[test]
fn another_program_that_writes_resolv_conf_is_followed_and_then_left_alone() {
    const NAME: &str =
        "name_service::another_program_that_writes_resolv_conf_is_followed_and_then_left_alone";
    on_a_machine_of_its_own(NAME, || async {
        let directory = tempfile::tempdir().expect("a directory");
        own_etc(directory.path());
        std::fs::write(FILE, ORIGINAL).expect("written");
        let mut service =
            NameService::open(options(DnsMode::ResolvConf, &directory.path().join("state"))).await;
        service.apply(&plan(1)).await.expect("applied");
        for round in 1..=3u8 {
            std::fs::write(FILE, format!("nameserver 203.0.113.{round}\n")).expect("written");
            service.keep().await;
            let taken = std::fs::read_to_string(FILE).expect("a file");
            assert!(taken.contains("nameserver 198.18.0.2\n"), "round {round}: {taken}");
            let expected = format!("203.0.113.{round}:53").parse().expect("an address");
            assert_eq!(service.upstreams().await, [expected]);
        }
        std::fs::write(FILE, "nameserver 203.0.113.4\n").expect("written");
        service.keep().await;
        assert_eq!(std::fs::read_to_string(FILE).expect("a file"), "nameserver 203.0.113.4\n");
        assert!(service.findings().iter().any(|finding| finding.subject == "resolv.conf"));
        service.remove().await.expect("removed");
        assert_eq!(std::fs::read_to_string(FILE).expect("a file"), "nameserver 203.0.113.4\n");
    });
}

/// Unpacks Debian's systemd-resolved beside the build, never installing it; `None`, with the reason printed, if it
/// cannot be had.
fn unpacked_resolved() -> Option<PathBuf> {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("systemd-resolved");
    let binary = directory.join("lib/systemd/systemd-resolved");
    if !binary.exists() {
        std::fs::create_dir_all(&directory).expect("a directory");
        let fetch = "apt-get download systemd-resolved >&2 && dpkg-deb -x systemd-resolved_*.deb .";
        let fetched = Command::new("sh").args(["-c", fetch]).current_dir(&directory).status();
        if !fetched.is_ok_and(|status| status.success()) {
            say("skipped: the package systemd-resolved cannot be downloaded");
            return None;
        }
    }
    let linked = Command::new("ldd").arg(&binary).output().expect("ldd");
    let is_missing = String::from_utf8_lossy(&linked.stdout).contains("not found");
    let has_bus = Command::new("dbus-daemon").arg("--version").stdout(Stdio::null()).status().is_ok();
    if is_missing || !has_bus {
        say("skipped: systemd-resolved needs the packages systemd and dbus");
        return None;
    }
    Some(directory)
}

/// A system bus and resolved on it, in the namespaces of the test.
struct Bus {
    resolved: Killed,
    root: PathBuf,
    _bus: Killed,
}

impl Bus {
    fn new(root: PathBuf, scratch: &Path) -> Self {
        own_etc(scratch);
        shell("mount -t tmpfs tmpfs /run; mkdir -p /run/dbus /run/systemd/resolve /etc/systemd");
        shell(
            "getent passwd systemd-resolve || echo systemd-resolve:x:992:992::/:/usr/sbin/nologin >> /etc/passwd",
        );
        shell("getent group systemd-resolve || echo systemd-resolve:x:992: >> /etc/group");
        shell("chown systemd-resolve:systemd-resolve /run/systemd/resolve");
        shell(
            "printf '[Resolve]\\nDNS=192.0.2.53\\nLLMNR=yes\\nMulticastDNS=yes\\n' > /etc/systemd/resolved.conf",
        );
        std::fs::write(FILE, "nameserver 127.0.0.53\n").expect("written");
        let configuration = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
            "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd"><busconfig><type>system</type>
            <listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth>
            <policy context="default"><allow user="*"/><allow own="*"/><allow send_type="method_call"/>
            <allow send_type="signal"/><allow send_requested_reply="true"/><allow receive_type="method_call"/>
            <allow receive_type="method_return"/><allow receive_type="error"/><allow receive_type="signal"/>
            </policy></busconfig>"#;
        std::fs::write("/run/bus.conf", configuration).expect("written");
        let mut bus = Command::new("dbus-daemon");
        bus.args(["--config-file=/run/bus.conf", "--nofork", "--nopidfile", "--print-address"]);
        let mut bus = Killed(bus.stdout(Stdio::piped()).spawn().expect("dbus is installed"));
        bus.wait_for_line("unix:path=");
        let resolved = Self::start_resolved(&root);
        Self { resolved, root, _bus: bus }
    }

    fn start_resolved(root: &Path) -> Killed {
        let mut command = Command::new(root.join("lib/systemd/systemd-resolved"));
        Killed(command.stderr(Stdio::null()).spawn().expect("resolved starts"))
    }

    fn restart_resolved(&mut self) {
        self.resolved.0.kill().expect("killed");
        self.resolved.0.wait().expect("gone");
        // It would know the link's settings from here.
        shell("rm -rf /run/systemd/resolve/netif");
        self.resolved = Self::start_resolved(&self.root);
    }

    fn resolvectl(&self, command: &str) -> String {
        shell(&format!("{}/usr/bin/resolvectl {command}", self.root.display()))
    }
}

/// Every name that is asked for on the TUN, until `last` is.
async fn names_asked_until(tun: &Tun, last: &str) -> Vec<String> {
    let mut buffer = vec![0; BUFFER];
    let mut names = Vec::new();
    loop {
        let Some(packet) = tun.try_recv(&mut buffer).expect("the TUN is there") else {
            tun.readable().await.expect("the TUN is there");
            continue;
        };
        let header = if packet[0] >> 4 == 4 { 28 } else { 48 };
        let Some(question) = packet.get(header..).and_then(|udp| Message::from_vec(udp).ok()) else {
            continue;
        };
        for query in &question.queries {
            names.push(query.name().to_utf8());
        }
        if names.iter().any(|name| name.starts_with(last)) {
            return names;
        }
    }
}

#[test]
fn systemd_resolved_sends_us_our_zones_and_nothing_else() {
    const NAME: &str = "name_service::systemd_resolved_sends_us_our_zones_and_nothing_else";
    // Before the namespaces, which have no network.
    let Some(root) = unpacked_resolved() else { return };
    on_a_machine_of_its_own(NAME, || async {
        let scratch = tempfile::tempdir().expect("a directory");
        let mut bus = Bus::new(root, scratch.path());
        let tun = Tun::open(TunOptions::default()).expect("a TUN");
        let service = wait_for_resolved(scratch.path()).await;
        let mut service = service;
        let wanted = plan(tun.ifindex());
        service.apply(&wanted).await.expect("applied");
        assert!(service.findings().is_empty(), "{:?}", service.findings());
        assert_eq!(service.upstreams().await, ["192.0.2.53:53".parse().expect("an address")]);
        let network = NetworkPlan::new(tun.name(), tun.ifindex(), range4(), Some(range6()));
        network.apply(&mut Findings::default()).await.expect("a network");

        let once = bus.resolvectl("status portlatch0");
        for line in
            ["DNS Servers: 198.18.0.2", "DNS Domain: ~corp.internal", "-DefaultRoute", "-LLMNR", "-mDNS"]
        {
            assert!(once.contains(line), "no {line:?} in\n{once}");
        }
        service.apply(&wanted).await.expect("applied");
        assert_eq!(bus.resolvectl("status portlatch0"), once, "twice equals once");

        // A name of another zone is asked elsewhere; ours comes here, and nothing came before it (no LLMNR, no mDNS).
        let ctl = format!("{}/usr/bin/resolvectl", bus.root.display());
        let asking = std::thread::spawn(move || {
            let _ = Command::new("timeout").args(["3", &ctl, "query", "other.example.com"]).output();
            let _ = Command::new("timeout").args(["3", &ctl, "query", "billing-db.corp.internal"]).output();
        });
        let names = names_asked_until(&tun, "billing-db.corp.internal").await;
        assert!(names.iter().all(|name| name.ends_with("corp.internal.")), "{names:?}");
        tokio::task::spawn_blocking(|| asking.join()).await.expect("joined").expect("no panic");

        // It keeps the newest plan, also over a restart of resolved, and takes all away at its end.
        let (plans, plan_receiver) = watch::channel(wanted.clone());
        let (upstreams, _servers) = watch::channel(Vec::new());
        let stop = CancellationToken::new();
        let serving = tokio::spawn(service.serve(
            plan_receiver,
            upstreams,
            watch::channel(Findings::default()).0,
            stop.clone(),
        ));
        bus.restart_resolved();
        wait_until(&bus, |status| {
            status.contains("DNS Servers: 198.18.0.2") && status.contains("~corp.internal")
        })
        .await;
        // And if another program takes our part away.
        bus.resolvectl("revert portlatch0");
        wait_until(&bus, |status| status.contains("~corp.internal")).await;
        plans.send_modify(|plan| plan.zones.push("prod.internal".parse().expect("a zone")));
        wait_until(&bus, |status| status.contains("~prod.internal") && status.contains("~corp.internal"))
            .await;
        stop.cancel();
        serving.await.expect("no panic");
        wait_until(&bus, |status| !status.contains("corp.internal")).await;
    });
}

async fn wait_for_resolved(scratch: &Path) -> NameService {
    loop {
        let service = NameService::open(options(DnsMode::Auto, &scratch.join("state"))).await;
        if service.findings().is_empty() {
            return service;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn wait_until(bus: &Bus, is_so: impl Fn(&str) -> bool) {
    let ctl = bus.root.join("usr/bin/resolvectl");
    loop {
        let output =
            tokio::process::Command::new(&ctl).args(["status", "portlatch0"]).output().await.expect("ran");
        if output.status.success() && is_so(&String::from_utf8_lossy(&output.stdout)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[test]
fn without_resolved_auto_says_what_to_do_and_reads_the_file() {
    const NAME: &str = "name_service::without_resolved_auto_says_what_to_do_and_reads_the_file";
    on_a_machine_of_its_own(NAME, || async {
        let directory = tempfile::tempdir().expect("a directory");
        own_etc(directory.path());
        shell("mount -t tmpfs tmpfs /run");
        std::fs::write(FILE, "nameserver 198.18.0.2\nnameserver 192.0.2.53\n").expect("written");
        let mut service = NameService::open(options(DnsMode::Auto, &directory.path().join("state"))).await;
        let advice: Vec<String> = service.findings().iter().map(ToString::to_string).collect();
        assert!(advice.iter().any(|finding| finding.contains("dns = \"resolv.conf\"")), "{advice:?}");
        service.apply(&plan(1)).await.expect("nothing to do");
        assert_eq!(service.upstreams().await, ["192.0.2.53:53".parse().expect("an address")]);
        service.remove().await.expect("nothing to do");
        let unchanged = std::fs::read_to_string(FILE).expect("a file");
        assert_eq!(unchanged, "nameserver 198.18.0.2\nnameserver 192.0.2.53\n");
    });
}
