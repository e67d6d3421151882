//! The nftables table: it dies with its owner, and keeps out what others inject or would have forwarded.

use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use portlatchd::os::{Findings, NetworkPlan, PacketGuard};
use portlatchd::tun::Checksum;

use super::identity::send_raw;
use super::lab::{
    Machine, Neighbour, on_a_machine_of_its_own, range4, range6, role, role_parameter, say, server, shell,
    start_role,
};
use super::packet::Segment;

fn ruleset() -> String {
    shell("nft list ruleset")
}

fn plan() -> NetworkPlan {
    NetworkPlan::new("portlatch0", 0, range4(), Some(range6()))
}

#[test]
fn the_table_is_owned_and_gone_with_its_owner() {
    const NAME: &str = "guard::the_table_is_owned_and_gone_with_its_owner";
    on_a_machine_of_its_own(NAME, || async {
        if role().as_deref() == Some("hold") {
            let mut findings = Findings::default();
            let _guard = PacketGuard::raise(&plan(), &mut findings).expect("a table");
            assert!(findings.is_empty(), "{findings:?}");
            say("raised");
            std::future::pending::<()>().await;
        }
        let mut owner = start_role(&[], NAME, "hold", "");
        owner.wait_for_line("raised");
        let rules = ruleset();
        assert!(rules.contains("table inet portlatch {") && rules.contains("flags owner"), "{rules}");
        for rule in [
            "iifname \"portlatch0\" accept",
            "ip daddr 198.18.0.1 drop",
            "ip saddr 198.18.0.0/16 drop",
            "ip6 daddr fd12:3456:789a:1::1 drop",
            "ip6 saddr fd12:3456:789a:1::/64 drop",
            "oifname \"portlatch0\" drop",
        ] {
            assert!(rules.contains(rule), "no {rule:?} in\n{rules}");
        }
        let deleted =
            Command::new("nft").args(["delete", "table", "inet", "portlatch"]).output().expect("nft");
        assert!(!deleted.status.success(), "another process cannot delete it");
        let error = PacketGuard::try_raise(&plan()).expect_err("it is another's");
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied, "{error}");
        // kill -9: nothing of the owner's own runs any more.
        owner.0.kill().expect("killed");
        owner.0.wait().expect("gone");
        assert_eq!(ruleset(), "");
        let mine = PacketGuard::raise(&plan(), &mut Findings::default());
        assert!(mine.is_some() && ruleset().contains("portlatch"));
        drop(mine);
        assert_eq!(ruleset(), "");
    });
}

/// Sends `segment` from the neighbour's machine, from whatever address it says.
fn inject(neighbour: &Neighbour, test: &str, segment: &Segment) {
    let pid = neighbour.pid().to_string();
    let packet = hex::encode(segment.to_packet());
    let to = segment.destination.ip();
    let prefix = ["nsenter", "--target", &pid, "--net", "--"];
    let mut attacker = start_role(&prefix, test, "inject", &format!("{to} {packet}"));
    assert!(attacker.0.wait().expect("it ends").success());
}

/// What the attacker's process does.
fn be_the_attacker() {
    let parameter = role_parameter();
    let (to, packet) = parameter.split_once(' ').expect("two words");
    send_raw(&hex::decode(packet).expect("hexadecimal"), to.parse().expect("an address"));
}

/// What a program reads when a neighbour has injected a segment before the true one.
async fn read_under_attack(machine: &Machine, neighbour: &Neighbour, test: &str, to: SocketAddr) -> [u8; 8] {
    let program = std::thread::spawn(move || TcpStream::connect(to).expect("connected"));
    let next = machine.accept(to).await;
    let mut stream = program.join().expect("no panic");
    inject(neighbour, test, &next.data(b"INJECTED"));
    machine.send(&next.data(b"the true"), Checksum::Complete);
    let mut read = [0; 8];
    stream.read_exact(&mut read).expect("eight bytes");
    read
}

fn set_rp_filter(value: u8) {
    for place in ["all", "lan0", "portlatch0"] {
        shell(&format!("echo {value} > /proc/sys/net/ipv4/conf/{place}/rp_filter"));
    }
}

#[test]
fn a_neighbour_cannot_inject_into_a_connection() {
    const NAME: &str = "guard::a_neighbour_cannot_inject_into_a_connection";
    on_a_machine_of_its_own(NAME, || async {
        if role().as_deref() == Some("inject") {
            return be_the_attacker();
        }
        let machine = Machine::new().await;
        let neighbour = Neighbour::new();
        set_rp_filter(0);
        let unguarded = read_under_attack(&machine, &neighbour, NAME, server(5, 442)).await;
        assert_eq!(
            &unguarded, b"INJECTED",
            "without the guard the attack works, so the test means something"
        );
        let _guard = PacketGuard::try_raise(&machine.plan).expect("a table");
        for rp_filter in [0, 1, 2] {
            set_rp_filter(rp_filter);
            let to = server(5, 443 + u16::from(rp_filter));
            assert_eq!(
                &read_under_attack(&machine, &neighbour, NAME, to).await,
                b"the true",
                "rp_filter {rp_filter}"
            );
        }
    });
}

#[test]
fn a_neighbour_cannot_inject_into_a_connection_over_ipv6() {
    const NAME: &str = "guard::a_neighbour_cannot_inject_into_a_connection_over_ipv6";
    on_a_machine_of_its_own(NAME, || async {
        if role().as_deref() == Some("inject") {
            return be_the_attacker();
        }
        let machine = Machine::new().await;
        let neighbour = Neighbour::new();
        let to: SocketAddr = "[fd12:3456:789a:1::77]:443".parse().expect("an address");
        let unguarded = read_under_attack(&machine, &neighbour, NAME, to).await;
        assert_eq!(
            &unguarded, b"INJECTED",
            "without the guard the attack works, so the test means something"
        );
        let _guard = PacketGuard::try_raise(&machine.plan).expect("a table");
        let to: SocketAddr = "[fd12:3456:789a:1::78]:443".parse().expect("an address");
        assert_eq!(&read_under_attack(&machine, &neighbour, NAME, to).await, b"the true");
    });
}

#[test]
fn routed_connections_are_refused_and_never_reach_the_tun() {
    on_a_machine_of_its_own("guard::routed_connections_are_refused_and_never_reach_the_tun", || async {
        let machine = Machine::new().await;
        let neighbour = Neighbour::new();
        shell("echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
        shell(
            "nft add table ip nat; nft 'add chain ip nat post { type nat hook postrouting priority 100; }'",
        );
        shell("nft add rule ip nat post oifname portlatch0 masquerade");
        let _guard = PacketGuard::try_raise(&machine.plan).expect("a table");
        for host in ["198.18.5.5", "fd12:3456:789a:1::77"] {
            let outcome =
                neighbour.shell(&format!("timeout 20 bash -c 'exec 3<>/dev/tcp/{host}/80' 2>&1 || true"));
            assert!(
                outcome.contains("No route to host") || outcome.contains("unreachable"),
                "{host}: {outcome:?}"
            );
        }
        assert!(machine.is_silent(), "nothing of it reached the TUN");
    });
}
