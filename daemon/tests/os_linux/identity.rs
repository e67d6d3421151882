//! Whose SYN it is, by sock_diag; and the end of connections that lost their daemon.

use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use portlatchd::os::Findings;
use portlatchd::os::sock_diag::{SocketOwners, TcpState, destroy_sockets};
use portlatchd::tun::Checksum;
use socket2::{Domain, Protocol, Socket, Type};

use super::lab::{Killed, Machine, on_a_machine_of_its_own, say, server, shell};
use super::packet::Segment;

/// An ordinary program of this user that connects and waits.
fn program(uid: u32, to: SocketAddr, host: &str) -> Killed {
    let connect = format!("exec 3<>/dev/tcp/{host}/{}", to.port());
    let mut command = Command::new("bash");
    command.args(["-c", &connect]).uid(uid).stdout(Stdio::null()).stderr(Stdio::null());
    Killed(command.spawn().expect("bash is installed"))
}

/// A socket that has sent its SYN.
fn connecting(to: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP)).expect("a socket");
    socket.set_nonblocking(true).expect("set");
    let _ = socket.connect(&to.into());
    socket
}

/// Puts this packet on the wire as it is.
pub(crate) fn send_raw(packet: &[u8], to: IpAddr) {
    let raw = Protocol::from(libc::IPPROTO_RAW);
    let socket =
        Socket::new(Domain::for_address(SocketAddr::new(to, 0)), Type::from(libc::SOCK_RAW), Some(raw));
    socket.expect("root may").send_to(packet, &SocketAddr::new(to, 0).into()).expect("sent");
}

#[test]
fn the_uid_and_inode_of_a_syn_are_those_of_its_program() {
    on_a_machine_of_its_own("identity::the_uid_and_inode_of_a_syn_are_those_of_its_program", || async {
        let machine = Machine::new().await;
        let mut owners = SocketOwners::open().expect("sock_diag");
        for (uid, port) in [(65_534, 80), (5, 81), (0, 82)] {
            let to = server(5, port);
            let mut program = program(uid, to, "198.18.5.5");
            let syn = machine.segment().await;
            assert!(syn.is_syn() && syn.destination == to, "{syn:?}");
            let owner =
                owners.owner_of_syn(syn.source, syn.destination, machine.plan.ifindex).expect("asked");
            let owner = owner.expect("a local program's");
            assert_eq!((owner.uid, owner.state), (uid, TcpState::SYN_SENT));
            let held = shell(&format!("ls -l /proc/{}/fd", program.0.id()));
            assert!(held.contains(&format!("socket:[{}]", owner.inode)), "{owner:?} {held}");
            program.0.kill().expect("killed");
        }
    });
}

#[test]
fn ipv4_connections_of_ipv6_sockets_have_their_owner_too() {
    on_a_machine_of_its_own("identity::ipv4_connections_of_ipv6_sockets_have_their_owner_too", || async {
        let machine = Machine::new().await;
        let mut owners = SocketOwners::open().expect("sock_diag");
        let _mapped = program(5, server(5, 80), "::ffff:198.18.5.5");
        let syn = machine.segment().await;
        assert!(syn.is_syn() && syn.destination == server(5, 80), "{syn:?}");
        let owner = owners.owner_of_syn(syn.source, syn.destination, machine.plan.ifindex).expect("asked");
        assert_eq!(owner.map(|owner| owner.uid), Some(5));

        let real: SocketAddr = "[fd12:3456:789a:1::77]:80".parse().expect("an address");
        let _real = program(5, real, "fd12:3456:789a:1::77");
        let syn = loop {
            let syn = machine.segment().await;
            if syn.destination == real {
                break syn;
            }
        };
        let owner = owners.owner_of_syn(syn.source, syn.destination, machine.plan.ifindex).expect("asked");
        assert_eq!(owner.map(|owner| owner.uid), Some(5));
    });
}

#[test]
fn a_syn_without_a_waiting_program_has_no_owner() {
    on_a_machine_of_its_own("identity::a_syn_without_a_waiting_program_has_no_owner", || async {
        let machine = Machine::new().await;
        let ifindex = machine.plan.ifindex;
        let mut owners = SocketOwners::open().expect("sock_diag");

        drop(connecting(server(5, 80)));
        let syn = machine.segment().await;
        assert_eq!(
            owners.owner_of_syn(syn.source, syn.destination, ifindex).expect("asked"),
            None,
            "closed at once"
        );

        let spoofed =
            Segment { source: SocketAddr::new(Ipv4Addr::new(203, 0, 113, 9).into(), 4000), ..syn.clone() };
        send_raw(&spoofed.to_packet(), syn.destination.ip());
        let arrived = machine.segment().await;
        assert_eq!(arrived.source, spoofed.source);
        assert_eq!(
            owners.owner_of_syn(arrived.source, arrived.destination, ifindex).expect("asked"),
            None,
            "spoofed"
        );

        // A listener on the same port of the same address is not the sender of a SYN.
        let listener = TcpListener::bind("198.18.0.1:0").expect("bound");
        let from = listener.local_addr().expect("bound");
        assert_eq!(owners.owner(from, syn.destination, ifindex).expect("asked"), None, "a listener");
    });
}

#[test]
fn an_answered_or_abandoned_connection_gives_no_identity() {
    on_a_machine_of_its_own("identity::an_answered_or_abandoned_connection_gives_no_identity", || async {
        let machine = Machine::new().await;
        let ifindex = machine.plan.ifindex;
        let mut owners = SocketOwners::open().expect("sock_diag");
        let socket = connecting(server(5, 80));
        let next = machine.accept(server(5, 80)).await;
        let (source, destination) = (next.destination, next.source);
        let owner = owners.owner(source, destination, ifindex).expect("asked").expect("established");
        assert_ne!(owner.state, TcpState::SYN_SENT);
        assert_eq!(owners.owner_of_syn(source, destination, ifindex).expect("asked"), None);
        drop(socket);
        let orphan = owners.owner(source, destination, ifindex).expect("asked").expect("closing");
        assert_eq!(orphan.inode, 0, "no program has it open any more");
    });
}

#[test]
fn a_socket_that_is_bound_to_the_tun_is_found_by_its_number() {
    on_a_machine_of_its_own("identity::a_socket_that_is_bound_to_the_tun_is_found_by_its_number", || async {
        let machine = Machine::new().await;
        let to = server(5, 80);
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).expect("a socket");
        socket.bind_device(Some(machine.tun.name().as_bytes())).expect("root may");
        socket.set_nonblocking(true).expect("set");
        let _ = socket.connect(&to.into());
        let syn = machine.segment().await;
        let mut owners = SocketOwners::open().expect("sock_diag");
        let owner = owners.owner_of_syn(syn.source, syn.destination, machine.plan.ifindex).expect("asked");
        assert_eq!(owner.map(|owner| owner.uid), Some(0));
        assert_eq!(
            owners.owner_of_syn(syn.source, syn.destination, 0).expect("asked"),
            None,
            "the number is needed"
        );
    });
}

#[test]
fn the_look_up_is_quick_with_many_sockets_open() {
    on_a_machine_of_its_own("identity::the_look_up_is_quick_with_many_sockets_open", || async {
        let machine = Machine::new().await;
        let ifindex = machine.plan.ifindex;
        let many: Vec<Socket> = (0..800).map(|port| connecting(server(9, 1000 + port))).collect();
        let mut owners = SocketOwners::open().expect("sock_diag");
        let source = many[400].local_addr().expect("bound").as_socket().expect("an address");
        let destination = server(9, 1400);
        let mut costs: Vec<Duration> = (0..2000)
            .map(|_| {
                let start = Instant::now();
                assert!(owners.owner_of_syn(source, destination, ifindex).expect("asked").is_some());
                start.elapsed()
            })
            .collect();
        costs.sort();
        let median = costs[costs.len() / 2];
        say(&format!("sock_diag look-up with 800 sockets in SYN_SENT: median {median:?}"));
        assert!(median < Duration::from_millis(1), "{median:?}");
    });
}

#[test]
fn a_program_that_only_reads_hears_of_a_crash() {
    on_a_machine_of_its_own("identity::a_program_that_only_reads_hears_of_a_crash", || async {
        let machine = Machine::new().await;
        let ours = IpAddr::V4(machine.plan.range4.own_address());
        let program = std::thread::spawn(|| TcpStream::connect(server(5, 443)).expect("connected"));
        machine.accept(server(5, 443)).await;
        let mut stream = program.join().expect("no panic");
        let elsewhere = TcpListener::bind("127.0.0.1:0").expect("bound");
        let mut other = TcpStream::connect(elsewhere.local_addr().expect("bound")).expect("connected");
        let kept = TcpListener::bind((ours, 0)).expect("bound");

        let (reading, is_reading) = std::sync::mpsc::channel();
        let reader = std::thread::spawn(move || {
            reading.send(()).expect("heard");
            stream.read(&mut [0; 1])
        });
        is_reading.recv().expect("it reads");
        drop(machine.tun);
        let mut findings = Findings::default();
        assert_eq!(destroy_sockets(&[ours], &mut findings).expect("destroyed"), 1, "{findings:?}");
        let error = reader.join().expect("no panic").expect_err("the connection is gone");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionAborted, "{error}");
        assert_eq!(destroy_sockets(&[ours], &mut findings).expect("destroyed"), 0, "twice equals once");

        // Connections of other addresses and listeners are not touched.
        other.set_nonblocking(true).expect("set");
        assert_eq!(other.read(&mut [0]).expect_err("nothing to read").kind(), std::io::ErrorKind::WouldBlock);
        assert!(rustix::net::sockopt::socket_acceptconn(kept.as_fd()).expect("asked"));
    });
}

#[test]
fn a_segment_to_nowhere_is_refused_by_the_test_as_by_the_daemon() {
    on_a_machine_of_its_own(
        "identity::a_segment_to_nowhere_is_refused_by_the_test_as_by_the_daemon",
        || async {
            let machine = Machine::new().await;
            let program = std::thread::spawn(|| TcpStream::connect(server(5, 443)));
            let syn = machine.segment().await;
            let mut reset = syn.answer_syn().data(b"");
            reset.flags = 0x14;
            machine.send(&reset, Checksum::Complete);
            let error = program.join().expect("no panic").expect_err("refused");
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{error}");
        },
    );
}
