//! What the stack answers by itself, and what it drops.

use std::net::SocketAddr;

use portlatch_netstack::{Datagram, Event, StackConfig};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv4Packet, Icmpv6Packet, IpAddress, IpProtocol, IpRepr, Ipv4Packet, TcpControl, UdpPacket, UdpRepr,
};

use crate::lab::{FAMILIES, Lab, PROGRAM4, SERVER4, Tcp, at, config};

fn ip(source: SocketAddr, destination: SocketAddr, protocol: IpProtocol, payload: &[u8]) -> Vec<u8> {
    let repr = IpRepr::new(source.ip().into(), destination.ip().into(), protocol, payload.len(), 64);
    let mut bytes = vec![0; repr.buffer_len()];
    repr.emit(&mut bytes, &ChecksumCapabilities::default());
    bytes[repr.header_len()..].copy_from_slice(payload);
    bytes
}

fn udp(source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let repr = UdpRepr { src_port: source.port(), dst_port: destination.port() };
    let mut bytes = vec![0; repr.header_len() + payload.len()];
    let (from, to): (IpAddress, IpAddress) = (source.ip().into(), destination.ip().into());
    repr.emit(
        &mut UdpPacket::new_unchecked(&mut bytes[..]),
        &from,
        &to,
        payload.len(),
        |place| place.copy_from_slice(payload),
        &ChecksumCapabilities::default(),
    );
    ip(source, destination, IpProtocol::Udp, &bytes)
}

/// An echo request of type, code, checksum, identifier, sequence number and a word.
fn echo(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    match source.is_ipv4() {
        true => {
            let mut message = [8, 0, 0, 0, 0, 7, 0, 1, b'h', b'i'];
            Icmpv4Packet::new_unchecked(&mut message[..]).fill_checksum();
            ip(source, destination, IpProtocol::Icmp, &message)
        }
        false => {
            let mut message = [128, 0, 0, 0, 0, 7, 0, 1, b'h', b'i'];
            let (IpAddress::Ipv6(from), IpAddress::Ipv6(to)) = (source.ip().into(), destination.ip().into())
            else {
                unreachable!()
            };
            Icmpv6Packet::new_unchecked(&mut message[..]).fill_checksum(&from, &to);
            ip(source, destination, IpProtocol::Icmpv6, &message)
        }
    }
}

/// Type and code of the one ICMP packet, and what is behind its eight bytes of header; its checksum is right.
fn icmp(lab: &mut Lab, program: SocketAddr, server: SocketAddr) -> ([u8; 2], Vec<u8>) {
    let packets = lab.packets();
    assert_eq!(packets.len(), 1);
    let packet = &packets[0];
    let message = match program.ip() {
        std::net::IpAddr::V4(address) => {
            let header = Ipv4Packet::new_checked(&packet[..]).unwrap();
            assert!(header.verify_checksum());
            assert_eq!(header.dst_addr(), address);
            assert!(Icmpv4Packet::new_checked(header.payload()).unwrap().verify_checksum());
            &packet[20..]
        }
        std::net::IpAddr::V6(address) => {
            let std::net::IpAddr::V6(from) = server.ip() else { unreachable!() };
            assert!(Icmpv6Packet::new_checked(&packet[40..]).unwrap().verify_checksum(&from, &address));
            &packet[40..]
        }
    };
    ([message[0], message[1]], message[8..].to_vec())
}

#[test]
fn an_address_that_exists_answers_echo_requests() {
    for (program, server) in FAMILIES {
        let (program, server) = (at(program), at(server));
        let mut lab = Lab::new();
        lab.stack.insert_address(server.ip());

        lab.send(&echo(program, server));

        let (kind, word) = icmp(&mut lab, program, server);
        assert_eq!(kind, if program.is_ipv4() { [0, 0] } else { [129, 0] });
        assert_eq!(word, b"hi");
    }
}

#[test]
fn an_address_that_does_not_exist_is_an_unreachable_host() {
    for (program, server) in FAMILIES {
        let (program, server) = (at(program), at(server));
        let mut lab = Lab::new();
        lab.stack.insert_address(server.ip());
        lab.stack.remove_address(server.ip());

        for packet in [echo(program, server), udp(program, server, b"anyone?")] {
            lab.send(&packet);
            let (kind, quoted) = icmp(&mut lab, program, server);
            assert_eq!(kind, if program.is_ipv4() { [3, 1] } else { [1, 3] });
            assert_eq!(quoted, packet);
        }
    }
}

#[test]
fn a_port_that_nobody_listens_on_is_unreachable() {
    for (program, server) in FAMILIES {
        let (program, server) = (at(program), at(server));
        let mut lab = Lab::new();
        lab.stack.insert_address(server.ip());
        lab.stack.listen_datagrams(SocketAddr::new(server.ip(), 53));
        let packet = udp(program, server, b"anyone?");

        lab.send(&packet);

        let (kind, quoted) = icmp(&mut lab, program, server);
        assert_eq!(kind, if program.is_ipv4() { [3, 3] } else { [1, 4] });
        assert_eq!(quoted, packet);
        assert_eq!(lab.events(), []);
    }
}

#[test]
fn datagrams_come_in_and_go_out() {
    for (program, server) in FAMILIES {
        let (program, resolver) = (at(program), SocketAddr::new(at(server).ip(), 53));
        let mut lab = Lab::new();
        lab.stack.listen_datagrams(resolver);

        lab.send(&udp(program, resolver, b"query"));
        let datagram = Datagram { source: program, destination: resolver, payload: b"query".to_vec() };
        assert_eq!(lab.events(), [Event::Datagram(datagram)]);

        assert!(lab.stack.send_datagram(resolver, program, b"answer"));
        assert_eq!(lab.packets(), [udp(resolver, program, b"answer")]);
    }
}

#[test]
fn the_queue_of_datagrams_is_bounded_both_ways() {
    let (program, resolver) = (at(PROGRAM4), at("198.18.0.53:53"));
    let mut lab = Lab::new();
    lab.stack.listen_datagrams(resolver);
    for _ in 0..10_000 {
        lab.send(&udp(program, resolver, b"query"));
    }
    let taken = lab.events().len();
    assert!(taken < 1_000, "{taken} were kept");
    assert_eq!(lab.stack.counters().queue_full, 10_000 - taken as u64);
    lab.send(&udp(program, resolver, b"query"));
    assert_eq!(lab.events().len(), 1);

    while lab.stack.send_datagram(resolver, program, &[0; 400]) {}
    let sent = lab.packets().len();
    assert!((64..1_000).contains(&sent), "{sent} were kept");
    assert!(lab.stack.send_datagram(resolver, program, b"room again"));
}

#[test]
fn a_segment_of_no_flow_is_reset() {
    for (program, server) in FAMILIES {
        let mut lab = Lab::new();

        lab.send(&Tcp::ack(program, server, 500, 900).carrying(b"hello").bytes());
        let reset = lab.segments().pop().unwrap();
        assert_eq!((reset.source, reset.destination), (at(server), at(program)));
        assert_eq!((reset.control, reset.sequence, reset.acknowledgement), (TcpControl::Rst, 900, None));

        let without_ack = Tcp { acknowledgement: None, ..Tcp::ack(program, server, 500, 0) };
        lab.send(&without_ack.with(TcpControl::Fin).carrying(b"hello").bytes());
        let reset = lab.segments().pop().unwrap();
        assert_eq!((reset.control, reset.sequence, reset.acknowledgement), (TcpControl::Rst, 0, Some(506)));

        lab.send(&Tcp::ack(program, server, 500, 900).with(TcpControl::Rst).bytes());
        assert!(lab.packets().is_empty());
        lab.send(&Tcp::ack(program, server, 500, 900).with(TcpControl::Syn).bytes());
        assert_eq!(lab.segments().pop().unwrap().control, TcpControl::Rst);
        assert_eq!(lab.events(), []);
    }
}

#[test]
fn foreign_sources_and_destinations_are_dropped() {
    let mut lab = Lab::new();
    for (source, destination) in [
        ("198.18.0.2:1", SERVER4),
        ("192.0.2.1:1", SERVER4),
        ("127.0.0.1:1", SERVER4),
        ("[fd00:1:2:3::2]:1", "[fd00:1:2:3::7]:1"),
    ] {
        lab.send(&Tcp::syn(source, destination, 1).bytes());
        lab.send(&echo(at(source), at(destination)));
    }
    assert_eq!(lab.stack.counters().foreign_source, 8);

    for (source, destination) in [(PROGRAM4, "198.19.0.1:1"), ("[fd00:1:2:3::1]:1", "[fd00:1:2:4::1]:1")] {
        lab.send(&Tcp::syn(source, destination, 1).bytes());
        lab.send(&udp(at(source), at(destination), b"x"));
    }
    assert_eq!(lab.stack.counters().outside_range, 4);

    assert_eq!(lab.events(), []);
    assert!(lab.packets().is_empty());
    assert_eq!(lab.stack.held_count(), 0);
}

#[test]
fn fragments_and_broken_packets_are_dropped_and_counted() {
    let mut lab = Lab::new();
    let good = Tcp::syn(PROGRAM4, SERVER4, 1).bytes();

    let mut fragment = good.clone();
    let mut view = Ipv4Packet::new_unchecked(&mut fragment[..]);
    view.set_more_frags(true);
    view.fill_checksum();
    lab.send(&fragment);
    assert_eq!(lab.stack.counters().fragments, 1);

    let mut bad_ip = good.clone();
    bad_ip[10] ^= 1;
    let mut bad_tcp = good.clone();
    bad_tcp[36] ^= 1;
    let mut bad_udp = udp(at(PROGRAM4), at(SERVER4), b"x");
    bad_udp[28] ^= 1;
    let both = Tcp::syn(PROGRAM4, SERVER4, 1);
    let mut syn_fin = both.bytes();
    syn_fin[33] |= 1;
    for packet in [&[][..], &[0x45][..], &good[..30], &bad_ip, &bad_tcp, &bad_udp, &syn_fin] {
        lab.send(packet);
    }
    assert_eq!(lab.stack.counters().malformed, 7);

    assert_eq!(lab.events(), []);
    assert!(lab.packets().is_empty());
}

#[test]
fn partial_checksums_are_taken_where_the_kernel_leaves_them() {
    let mut lab = Lab::with(StackConfig { verify_checksums: false, ..config() });
    let mut syn = Tcp::syn(PROGRAM4, SERVER4, 1).bytes();
    syn[36..38].copy_from_slice(&[0xde, 0xad]);
    lab.send(&syn);
    lab.incoming();

    lab.stack.listen_datagrams(at("198.18.0.53:53"));
    let mut query = udp(at(PROGRAM4), at("198.18.0.53:53"), b"query");
    query[26..28].copy_from_slice(&[0xde, 0xad]);
    lab.send(&query);
    assert_eq!(lab.events().len(), 1);
}
