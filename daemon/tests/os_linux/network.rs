//! Addresses, routes and rules: twice equals once, and what happens when the TUN is gone.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use portlatchd::os::ranges::choose;
use portlatchd::os::{self, Findings, Ipv6State, NetworkPlan, StateDir};
use portlatchd::tun::{Tun, TunOptions};
use tokio_util::sync::CancellationToken;

use super::lab::{Machine, next_segment, on_a_machine_of_its_own, range4, range6, server, shell};

/// Everything that a plan may touch.
fn picture() -> String {
    shell(
        "ip rule; ip -6 rule; ip route show table all; ip -6 route show table all; ip -o addr | sed s/valid.*//",
    )
}

fn connect(to: SocketAddr) -> std::io::Result<TcpStream> {
    TcpStream::connect_timeout(&to, Duration::from_secs(5))
}

#[test]
fn a_plan_applied_twice_equals_once() {
    on_a_machine_of_its_own("network::a_plan_applied_twice_equals_once", || async {
        let machine = Machine::new().await;
        let once = picture();
        machine.plan.apply(&mut Findings::default()).await.expect("applied");
        assert_eq!(picture(), once);
        let expected = [
            "5200:\tfrom all to 198.18.0.0/16 iif lo lookup 5200 proto 80",
            "5201:\tfrom all to 198.18.0.0/16 unreachable proto 80",
            "5200:\tfrom all to fd12:3456:789a:1::/64 iif lo lookup 5200 proto 80",
            "198.18.0.0/16 dev portlatch0 table 5200 proto static scope link src 198.18.0.1",
        ];
        for line in expected {
            assert!(once.lines().any(|present| present.trim() == line), "no {line:?} in\n{once}");
        }
        assert!(!once.contains("fe80"), "no link-local address:\n{once}");
        let main = shell("ip route show; ip -6 route show");
        assert!(!main.contains("portlatch0"), "the main tables are not ours:\n{main}");
    });
}

#[test]
fn a_new_plan_leaves_nothing_of_the_old_one_and_cleanup_nothing_at_all() {
    on_a_machine_of_its_own(
        "network::a_new_plan_leaves_nothing_of_the_old_one_and_cleanup_nothing_at_all",
        || async {
            let before = picture();
            let machine = Machine::new().await;
            let next = NetworkPlan {
                range4: "10.66.0.0/16".parse().expect("a range"),
                range6: None,
                ..machine.plan
            };
            next.apply(&mut Findings::default()).await.expect("applied");
            let after = picture();
            assert!(!after.contains("198.18.") && !after.contains("fd12:"), "{after}");
            assert!(after.contains("10.66.0.0/16 iif lo lookup 5200"), "{after}");
            drop(machine.tun);
            let directory = tempfile::tempdir().expect("a directory");
            let state = StateDir::open(directory.path()).expect("a state directory");
            let done = os::cleanup(&state).await.expect("cleaned");
            assert_eq!(done.len(), 2, "{done:?}");
            assert_eq!(picture(), before);
            assert_eq!(
                os::cleanup(&state).await.expect("cleaned"),
                Vec::<String>::new(),
                "twice equals once"
            );
            let _running = state.lock().expect("the lock");
            let error = os::cleanup(&state).await.expect_err("a daemon runs");
            assert!(error.to_string().contains("already running with pid"), "{error}");
        },
    );
}

#[test]
fn programs_reach_the_tun_whatever_rp_filter_and_the_default_route_say() {
    on_a_machine_of_its_own(
        "network::programs_reach_the_tun_whatever_rp_filter_and_the_default_route_say",
        || async {
            shell(
                "ip link add up0 type veth peer name up1; ip link set up1 up; ip addr add 192.168.9.2/24 dev up0; ip link set up0 up",
            );
            let mut port = 1000;
            for default_route in ["ip route add default via 192.168.9.1", "ip route del default"] {
                shell(default_route);
                for rp_filter in 0..=2 {
                    shell(&format!(
                        "for f in all default; do echo {rp_filter} > /proc/sys/net/ipv4/conf/$f/rp_filter; done"
                    ));
                    let machine = Machine::new().await;
                    shell(&format!("echo {rp_filter} > /proc/sys/net/ipv4/conf/portlatch0/rp_filter"));
                    port += 1;
                    let to = server(7, port);
                    let program = std::thread::spawn(move || connect(to));
                    machine.accept(to).await;
                    let stream = program.join().expect("no panic").expect("connected");
                    assert_eq!(stream.local_addr().expect("bound").ip(), machine.plan.range4.own_address());
                }
            }
        },
    );
}

#[test]
fn ipv6_of_the_range_reaches_the_tun() {
    on_a_machine_of_its_own("network::ipv6_of_the_range_reaches_the_tun", || async {
        let machine = Machine::new().await;
        let to: SocketAddr = "[fd12:3456:789a:1::77]:443".parse().expect("an address");
        let program = std::thread::spawn(move || connect(to));
        machine.accept(to).await;
        let stream = program.join().expect("no panic").expect("connected");
        assert_eq!(stream.local_addr().expect("bound").ip(), range6().own_address());
    });
}

#[test]
fn after_the_tun_is_gone_a_syn_for_the_range_goes_nowhere() {
    on_a_machine_of_its_own("network::after_the_tun_is_gone_a_syn_for_the_range_goes_nowhere", || async {
        // A default gateway that would take it: a TUN of the test's, on which it would be seen.
        let gateway = Tun::open(TunOptions { name: "gateway0", ..TunOptions::default() }).expect("a TUN");
        shell(
            "ip addr add 192.168.9.2/24 dev gateway0; ip link set gateway0 up; ip route add default dev gateway0",
        );
        let machine = Machine::new().await;
        let rules = shell("ip rule; ip -6 rule");
        drop(machine.tun);
        for to in [server(7, 443), "[fd12:3456:789a:1::77]:443".parse().expect("an address")] {
            let error = connect(to).expect_err("nowhere to go");
            assert_eq!(error.kind(), ErrorKind::NetworkUnreachable, "{to}: {error}");
        }
        assert_eq!(shell("ip rule; ip -6 rule").replace("[detached] ", ""), rules, "the rules stay");
        // The gateway is in use: what is not for the range goes there, and it is the first to be seen.
        let elsewhere: SocketAddr = "203.0.113.1:80".parse().expect("an address");
        std::thread::spawn(move || connect(elsewhere));
        assert_eq!(next_segment(&gateway).await.destination, elsewhere);
    });
}

#[test]
fn a_machine_without_ipv6_goes_on_with_ipv4() {
    on_a_machine_of_its_own("network::a_machine_without_ipv6_goes_on_with_ipv4", || async {
        shell("for f in all default; do echo 1 > /proc/sys/net/ipv6/conf/$f/disable_ipv6; done");
        let tun = Tun::open(TunOptions::default()).expect("a TUN");
        let plan = NetworkPlan::new(tun.name(), tun.ifindex(), range4(), Some(range6()));
        let mut findings = Findings::default();
        let applied = plan.apply(&mut findings).await.expect("IPv4 works");
        assert_eq!(applied.ipv6, Ipv6State::Off);
        assert!(findings.iter().any(|finding| finding.subject == "ipv6"), "{findings:?}");
        std::thread::spawn(move || connect(server(7, 443)));
        assert_eq!(next_segment(&tun).await.destination, server(7, 443));
    });
}

#[test]
fn a_range_that_others_route_is_passed_over_and_our_own_is_not() {
    on_a_machine_of_its_own(
        "network::a_range_that_others_route_is_passed_over_and_our_own_is_not",
        || async {
            let _machine = Machine::new().await;
            let routes = os::routes().await.expect("routes");
            assert_eq!(choose(None, None, &routes), Ok(range4()), "{routes:?}");
            shell(
                "ip link add vpn0 type veth peer name vpn1; ip link set vpn1 up; ip link set vpn0 up; ip route add 198.18.200.0/24 dev vpn0 table 77",
            );
            let routes = os::routes().await.expect("routes");
            assert_eq!(choose(None, None, &routes), Ok("198.19.0.0/16".parse().expect("a range")));
            shell("ip route flush table 77; ip route add blackhole 198.18.0.0/15");
            let routes = os::routes().await.expect("routes");
            assert_eq!(choose(None, None, &routes), Ok(range4()), "a black hole is nobody's range");
        },
    );
}

#[test]
fn what_another_program_takes_away_is_put_back() {
    on_a_machine_of_its_own("network::what_another_program_takes_away_is_put_back", || async {
        let machine = Machine::new().await;
        let sorted = || {
            let mut lines: Vec<String> = picture().lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        let whole = sorted();
        let (plan, stop) = (machine.plan.clone(), CancellationToken::new());
        let keeping = tokio::spawn({
            let stop = stop.clone();
            async move { plan.keep(stop).await }
        });
        for taken in [
            "ip rule del pref 5200; ip rule del pref 5201",
            "ip -6 rule del pref 5200",
            "ip route flush table 5200",
            "ip addr flush dev portlatch0",
        ] {
            shell(taken);
            while sorted() != whole {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        stop.cancel();
        keeping.await.expect("no panic").expect("kept");
    });
}

#[test]
fn removing_a_plan_leaves_its_two_rules_alone() {
    on_a_machine_of_its_own("network::removing_a_plan_leaves_its_two_rules_alone", || async {
        let machine = Machine::new().await;
        let rules = shell("ip rule; ip -6 rule");
        machine.plan.remove().await.expect("removed");
        machine.plan.remove().await.expect("twice equals once");
        assert_eq!(shell("ip rule; ip -6 rule"), rules);
        assert_eq!(shell("ip -o addr show dev portlatch0; ip route show table 5200 2>&1 || true").trim(), "");
        let error = connect(server(7, 443)).expect_err("nowhere to go");
        assert_eq!(error.kind(), ErrorKind::NetworkUnreachable, "{error}");
    });
}
