//! The TUN: 64 KiB in one packet both ways, checksums left out, drops counted.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use portlatchd::tun::{Checksum, Tun, TunError, TunOptions};

use super::lab::{Machine, on_a_machine_of_its_own, server, shell};

fn connect(to: std::net::SocketAddr) -> std::thread::JoinHandle<TcpStream> {
    std::thread::spawn(move || TcpStream::connect_timeout(&to, Duration::from_secs(10)).expect("connected"))
}

#[test]
fn a_segment_of_64_kib_goes_each_way_in_one_packet() {
    on_a_machine_of_its_own("tun::a_segment_of_64_kib_goes_each_way_in_one_packet", || async {
        let machine = Machine::new().await;
        let server = server(5, 443);
        let program = connect(server);
        let mut next = machine.accept(server).await;
        let mut program = program.join().expect("no panic");

        // Down first, so that the kernel has a measure of the path and a window to send into.
        let down: Vec<u8> = (0..65_000u32).map(|n| (n % 251) as u8).collect();
        let segment = next.data(&down);
        machine.send(&segment, Checksum::Partial { start: 20, offset: 16 });
        let mut received = vec![0; down.len()];
        program.read_exact(&mut received).expect("the whole segment");
        assert_eq!(received, down);
        next.sequence += 65_000;

        let up: Vec<u8> = (0..65_000u32).map(|n| (n % 241) as u8).collect();
        program.write_all(&up).expect("sent");
        let (mut arrived, mut largest) = (Vec::new(), 0);
        while arrived.len() < up.len() {
            let segment = machine.segment().await;
            largest = largest.max(segment.payload.len());
            if segment.sequence == next.acknowledgement {
                next.acknowledgement += u32::try_from(segment.payload.len()).expect("short");
                arrived.extend(segment.payload);
                machine.send(&next.data(b""), Checksum::Complete);
            }
        }
        assert_eq!(arrived, up);
        assert!(largest > 60_000, "the largest packet had {largest} bytes");
        assert_eq!(machine.tun.tx_dropped().expect("a counter"), 0);
    });
}

#[test]
fn a_checksum_that_is_left_out_is_not_looked_at_and_a_wrong_one_is() {
    on_a_machine_of_its_own(
        "tun::a_checksum_that_is_left_out_is_not_looked_at_and_a_wrong_one_is",
        || async {
            let machine = Machine::new().await;
            let server = server(5, 443);
            let program = connect(server);
            let next = machine.accept(server).await;
            let mut program = program.join().expect("no panic");
            let wrong = |payload: &[u8]| {
                let mut segment = next.data(payload);
                segment.checksum = Some(0xdead);
                segment
            };
            machine.send(&wrong(b"spoilt"), Checksum::Complete);
            machine.send(&wrong(b"intact"), Checksum::Partial { start: 20, offset: 16 });
            let mut received = [0; 6];
            program.read_exact(&mut received).expect("six bytes");
            assert_eq!(&received, b"intact");
        },
    );
}

#[test]
fn packets_over_the_queue_are_dropped_and_counted() {
    on_a_machine_of_its_own("tun::packets_over_the_queue_are_dropped_and_counted", || async {
        let options = TunOptions { queue_length: 5, ..TunOptions::default() };
        let tun = Tun::open(options).expect("a TUN");
        shell("ip addr add 198.18.0.1/16 dev portlatch0; ip link set portlatch0 up");
        let socket = std::net::UdpSocket::bind("198.18.0.1:0").expect("bound");
        let before = tun.tx_dropped().expect("a counter");
        for _ in 0..50 {
            socket.send_to(b"x", "198.18.9.9:9").expect("sent");
        }
        assert!(tun.tx_dropped().expect("a counter") >= before + 40);
    });
}

#[test]
fn a_name_that_is_taken_is_refused_and_free_again_when_its_holder_is_gone() {
    on_a_machine_of_its_own(
        "tun::a_name_that_is_taken_is_refused_and_free_again_when_its_holder_is_gone",
        || async {
            let first = Tun::open(TunOptions::default()).expect("a TUN");
            let second = Tun::open(TunOptions::default()).expect_err("taken");
            assert!(matches!(second, TunError::NameTaken { .. }), "{second}");
            drop(first);
            assert!(!shell("ip -o link").contains("portlatch0"));
            Tun::open(TunOptions::default()).expect("free again");
        },
    );
}
