//! IP and ICMP as they may arrive: errors, fragments, options, extension headers, checksums.

use std::net::IpAddr;
use std::time::Duration;

use portlatch_netstack::{Refusal, StackConfig};
use smoltcp::wire::TcpControl;

use crate::lab::{FAMILIES, Lab, PROGRAM4, PROGRAM6, SERVER4, SERVER6, Tcp, at, config};
use crate::raw::{packet, pseudo, sum};

const ICMP: u8 = 1;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

fn ends(family: (&str, &str)) -> (IpAddr, IpAddr) {
    (at(family.0).ip(), at(family.1).ip())
}

/// An ICMP message of a type and code with 4 bytes of its own and a body.
fn icmp(family: (&str, &str), kind: u8, code: u8, own: [u8; 4], body: &[u8]) -> Vec<u8> {
    let (from, to) = ends(family);
    let mut message = vec![kind, code, 0, 0];
    message.extend(own);
    message.extend(body);
    let (protocol, pseudo) = match from.is_ipv4() {
        true => (ICMP, Vec::new()),
        false => (ICMPV6, pseudo(from, to, ICMPV6, message.len())),
    };
    let checksum = !sum(&[&pseudo, &message]);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    packet(from, to, protocol, &[], &message)
}

fn udp(family: (&str, &str), port: u16, payload: &[u8]) -> Vec<u8> {
    let (from, to) = ends(family);
    let mut datagram = Vec::new();
    datagram.extend(9_999_u16.to_be_bytes());
    datagram.extend(port.to_be_bytes());
    datagram.extend((8 + payload.len() as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    let checksum = !sum(&[&pseudo(from, to, UDP, datagram.len()), &datagram]);
    datagram[6..8].copy_from_slice(&checksum.to_be_bytes());
    packet(from, to, UDP, &[], &datagram)
}

/// Errors and other messages that a router or a host may send.
fn messages(family: (&str, &str), quote: &[u8]) -> Vec<Vec<u8>> {
    let kinds: &[(u8, u8)] = match at(family.0).is_ipv4() {
        true => &[(3, 0), (3, 1), (3, 3), (3, 4), (3, 13), (4, 0), (5, 1), (11, 0), (12, 0), (0, 0), (13, 0)],
        false => &[(1, 0), (1, 4), (2, 0), (3, 0), (4, 1), (129, 0), (133, 0), (135, 0), (136, 0), (137, 0)],
    };
    // A next-hop MTU of 576, where the message has one.
    kinds.iter().map(|(kind, code)| icmp(family, *kind, *code, [0, 0, 2, 64], quote)).collect()
}

#[test]
fn icmp_messages_other_than_echo_requests_are_neither_answered_nor_believed() {
    for family in FAMILIES {
        let mut lab = Lab::new();
        lab.stack.insert_address(at(family.1).ip());
        let (flow, next) = lab.open(family.0, family.1);
        // The SYN-ACK's end: what a forged "fragmentation needed" would quote.
        let quote = Tcp::ack(family.1, family.0, next, 1_001).bytes();
        let all = messages(family, &quote);
        for message in &all {
            lab.send(message);
        }
        assert!(lab.packets().is_empty());
        assert_eq!(lab.stack.counters().unsupported, all.len() as u64);

        assert_eq!(lab.stack.write(flow, &[1; 100_000]), Ok(100_000));
        let longest = lab.segments().iter().map(|segment| segment.payload.len()).max();
        assert!(longest > Some(65_000), "{longest:?}");
    }
}

#[test]
fn an_error_about_an_error_is_never_sent() {
    for family in FAMILIES {
        let mut lab = Lab::new();
        // To an address that does not exist, which would be worth an error.
        for message in messages(family, &udp(family, 53, b"x")) {
            lab.send(&message);
        }
        assert!(lab.packets().is_empty());
    }
}

#[test]
fn errors_are_sent_at_a_bounded_rate_and_refusals_are_not_held_back_by_it() {
    let mut lab = Lab::with(StackConfig { max_held: 1_000, ..config() });
    let datagram = udp((PROGRAM4, SERVER4), 53, b"anyone?");
    let mut sent = 0;
    for _ in 0..5_000 {
        lab.send(&datagram);
        sent += lab.packets().len();
    }
    assert_eq!(sent, 256);
    assert_eq!(lab.stack.counters().throttled, 5_000 - 256);
    lab.pass(Duration::from_millis(100));
    for _ in 0..5_000 {
        lab.send(&datagram);
        sent += lab.packets().len();
    }
    assert_eq!(sent, 256 + 100);

    for port in 1..=500 {
        lab.send(&Tcp::syn(&format!("198.18.0.1:{port}"), SERVER4, 1).bytes());
        let incoming = lab.incoming();
        lab.stack.refuse(incoming.id, Refusal::HostUnreachable, lab.now);
        assert_eq!(lab.packets().len(), 1);
    }
}

#[test]
fn an_error_quotes_the_header_with_its_options() {
    let mut lab = Lab::new();
    let (from, to) = ends((PROGRAM4, SERVER4));
    let plain = udp((PROGRAM4, SERVER4), 53, &[5; 1_000]);
    let options = [7, 7, 4, 0, 0, 0, 0, 0];
    let original = packet(from, to, UDP, &options, &plain[20..]);
    lab.send(&original);
    let error = lab.packets().pop().unwrap();
    assert_eq!(error.len(), 576);
    assert_eq!(error[20..22], [3, 1]);
    assert_eq!(error[28..], original[..576 - 28]);
    assert_eq!(sum(&[&error[20..]]), 0xffff, "its checksum");
    assert_eq!(sum(&[&error[..20]]), 0xffff, "its header's checksum");
}

#[test]
fn an_echo_of_the_longest_packet_comes_back_whole() {
    for family in FAMILIES {
        let mut lab = Lab::new();
        lab.stack.insert_address(at(family.1).ip());
        let header = if at(family.0).is_ipv4() { 20 } else { 40 };
        let kind = if at(family.0).is_ipv4() { 8 } else { 128 };
        let request = icmp(family, kind, 0, [1, 2, 3, 4], &vec![0x5a; 65_535 - header - 8]);
        assert_eq!(request.len(), 65_535);
        lab.send(&request);
        let reply = lab.packets().pop().unwrap();
        assert_eq!(reply.len(), request.len());
        assert_eq!(reply[header + 4..], request[header + 4..]);
    }
}

#[test]
fn wrong_checksums_are_found_where_they_must_be_right() {
    for family in FAMILIES {
        let (kind, header) = if at(family.0).is_ipv4() { (8, 20) } else { (128, 40) };
        let packets = [
            (icmp(family, kind, 0, [0, 7, 0, 1], b"hi"), header + 2),
            (udp(family, 53, b"query"), header + 6),
            (Tcp::syn(family.0, family.1, 1_000).bytes(), header + 16),
        ];
        for (good, checksum_at) in packets {
            let mut bad = good.clone();
            bad[checksum_at] ^= 0x40;
            let mut lab = Lab::new();
            lab.stack.insert_address(at(family.1).ip());
            lab.send(&bad);
            assert_eq!((lab.stack.counters().malformed, lab.events().len()), (1, 0));
            assert!(lab.packets().is_empty());

            // From the local kernel they come half done: nobody looks.
            let mut lab = Lab::with(StackConfig { verify_checksums: false, ..config() });
            lab.stack.insert_address(at(family.1).ip());
            lab.send(&bad);
            assert_eq!(lab.stack.counters().malformed, 0);
            assert_eq!(lab.events().len() + lab.packets().len(), 1);
        }
    }
}

#[test]
fn a_udp_checksum_may_be_left_out_in_ipv4_alone() {
    for (family, taken) in [((PROGRAM4, SERVER4), 1), ((PROGRAM6, SERVER6), 0)] {
        let mut lab = Lab::new();
        let mut datagram = udp(family, 53, b"query");
        let at_checksum = datagram.len() - b"query".len() - 2;
        datagram[at_checksum..at_checksum + 2].copy_from_slice(&[0, 0]);
        lab.stack.listen_datagrams((at(family.1).ip(), 53).into());
        lab.send(&datagram);
        assert_eq!(lab.events().len(), taken);
    }
}

/// A packet of IPv4 with these flags and offset.
fn fragment_v4(flags_and_offset: u16) -> Vec<u8> {
    let mut bytes = Tcp::syn(PROGRAM4, SERVER4, 1_000).bytes();
    bytes[6..8].copy_from_slice(&flags_and_offset.to_be_bytes());
    bytes[10..12].copy_from_slice(&[0, 0]);
    let checksum = !sum(&[&bytes[..20]]);
    bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

#[test]
fn fragments_of_both_families_are_dropped_and_counted() {
    let mut lab = Lab::new();
    // First, middle, last, and the evil bit's neighbour with everything set.
    for flags_and_offset in [0x2000, 0x2001, 0x0001, 0x1fff, 0xffff] {
        lab.send(&fragment_v4(flags_and_offset));
    }
    let (from, to) = ends((PROGRAM6, SERVER6));
    let syn = Tcp::syn(PROGRAM6, SERVER6, 1_000).bytes();
    for offset_and_more in [[0, 0], [0, 1], [0, 8], [0xff, 0xf8]] {
        let header = [6, 0, offset_and_more[0], offset_and_more[1], 0, 0, 0, 1];
        lab.send(&packet(from, to, 44, &header, &syn[40..]));
    }
    assert_eq!(lab.stack.counters().fragments, 9);
    assert!(lab.events().is_empty() && lab.packets().is_empty());

    // "Do not fragment", and the reserved bit, make no fragment.
    lab.send(&fragment_v4(0xc000));
    lab.incoming();
}

#[test]
fn ipv4_options_are_passed_over() {
    let (from, to) = ends((PROGRAM4, SERVER4));
    for options in [&[1, 1, 1, 1][..], &[7, 7, 4, 0, 0, 0, 0, 0], &[0; 40], &[131, 7, 4, 0, 0, 0, 0, 0]] {
        let mut lab = Lab::new();
        let with_options = |segment: &Tcp<'_>| packet(from, to, 6, options, &segment.bytes()[20..]);
        lab.send(&with_options(&Tcp::syn(PROGRAM4, SERVER4, 1_000)));
        let incoming = lab.incoming();
        let flow = lab.stack.accept(incoming.id, lab.now).unwrap();
        let answer = lab.segments().pop().unwrap();
        assert_eq!(answer.control, TcpControl::Syn);
        let next = answer.sequence.wrapping_add(1);
        lab.send(&with_options(&Tcp::ack(PROGRAM4, SERVER4, 1_001, next).carrying(b"hello")));
        let fin = Tcp::ack(PROGRAM4, SERVER4, 1_006, next).with(TcpControl::Fin);
        lab.send(&with_options(&fin.carrying(b"bye")));
        assert_eq!(lab.read_all(flow), b"hellobye", "{options:?}");
        assert_eq!(lab.segments().pop().unwrap().acknowledgement, Some(1_010));
    }
}

#[test]
fn ipv6_extension_headers_are_not_for_us() {
    // Hop-by-hop, destination options, routing, authentication, no next header: Linux sends none of them unasked.
    let (from, to) = ends((PROGRAM6, SERVER6));
    let syn = Tcp::syn(PROGRAM6, SERVER6, 1_000).bytes();
    let mut lab = Lab::new();
    for protocol in [0, 60, 43, 51, 59, 135] {
        lab.send(&packet(from, to, protocol, &[6, 0, 1, 4, 0, 0, 0, 0], &syn[40..]));
    }
    assert_eq!(lab.stack.counters().unsupported, 6);
    assert!(lab.events().is_empty() && lab.packets().is_empty());
}

#[test]
fn protocols_that_we_do_not_speak_are_dropped_and_counted() {
    for family in FAMILIES {
        let (from, to) = ends(family);
        let mut lab = Lab::new();
        // Everything but TCP, UDP, and what is ICMP or a fragment in one of the families.
        let others: Vec<u8> = (0..=255).filter(|protocol| ![1, 6, 17, 44, 58].contains(protocol)).collect();
        for protocol in &others {
            lab.send(&packet(from, to, *protocol, &[], &[8, 0, 0, 0, 0, 0, 0, 0]));
        }
        assert_eq!(lab.stack.counters().unsupported, others.len() as u64);
        assert!(lab.events().is_empty() && lab.packets().is_empty());
    }
}

#[test]
fn icmp_of_the_other_family_is_not_answered() {
    let mut lab = Lab::new();
    for (family, protocol, kind) in [((PROGRAM4, SERVER4), ICMPV6, 128), ((PROGRAM6, SERVER6), ICMP, 8)] {
        let (from, to) = ends(family);
        lab.stack.insert_address(to);
        let mut message = [kind, 0, 0, 0, 0, 7, 0, 1];
        let checksum = !sum(&[&message]);
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
        lab.send(&packet(from, to, protocol, &[], &message));
    }
    assert!(lab.packets().is_empty());
}

#[test]
fn any_time_to_live_is_enough() {
    for family in FAMILIES {
        for left in [0_u8, 1, 255] {
            let mut bytes = Tcp::syn(family.0, family.1, 1_000).bytes();
            if at(family.0).is_ipv4() {
                bytes[8] = left;
                bytes[10..12].copy_from_slice(&[0, 0]);
                let checksum = !sum(&[&bytes[..20]]);
                bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
            } else {
                bytes[7] = left;
            }
            let mut lab = Lab::new();
            lab.send(&bytes);
            lab.incoming();
        }
    }
}

#[test]
fn a_header_shorter_or_longer_than_it_can_be_is_dropped() {
    let good = Tcp::syn(PROGRAM4, SERVER4, 1_000).bytes();
    let mut lab = Lab::new();
    for first in [0x40, 0x41, 0x44, 0x4f, 0x50, 0x00, 0xf5] {
        let mut bad = good.clone();
        bad[0] = first;
        lab.send(&bad);
    }
    for length in [0_u16, 19, 20, 39, good.len() as u16 + 1, u16::MAX] {
        let mut bad = good.clone();
        bad[2..4].copy_from_slice(&length.to_be_bytes());
        bad[10..12].copy_from_slice(&[0, 0]);
        let checksum = !sum(&[&bad[..20]]);
        bad[10..12].copy_from_slice(&checksum.to_be_bytes());
        lab.send(&bad);
    }
    assert_eq!(lab.stack.counters().malformed, 13);
    assert!(lab.events().is_empty() && lab.packets().is_empty());
}

#[test]
fn sources_that_nobody_can_have_are_dropped() {
    let mut lab = Lab::new();
    for source in ["0.0.0.0:1", "255.255.255.255:1", "224.0.0.1:1", "127.0.0.1:1", SERVER4] {
        lab.send(&Tcp::syn(source, SERVER4, 1).bytes());
    }
    for source in ["[::]:1", "[::1]:1", "[ff02::1]:1", "[::ffff:198.18.0.1]:1", SERVER6] {
        lab.send(&Tcp::syn(source, SERVER6, 1).bytes());
    }
    assert_eq!(lab.stack.counters().foreign_source, 10);
    assert!(lab.events().is_empty() && lab.packets().is_empty());
}

#[test]
fn ports_of_zero_are_malformed() {
    let mut lab = Lab::new();
    lab.send(&Tcp::syn("198.18.0.1:0", SERVER4, 1).bytes());
    lab.send(&Tcp::syn(PROGRAM4, "198.18.7.9:0", 1).bytes());
    lab.send(&udp((PROGRAM4, SERVER4), 0, b"x"));
    assert_eq!(lab.stack.counters().malformed, 3);
    assert!(lab.events().is_empty() && lab.packets().is_empty());
}
