//! Which lane a datagram belongs to: the first byte of its connection ID, modulo the number of lanes. The kernel looks, by
//! a filter on the sockets that share the port, so that a datagram goes to its lane at once.
//!
//! By its sender's address it would go elsewhere after every change of the client's network. An ID that the client has
//! made up for its first packets leads to any lane; that lane answers with an ID of its own.

use std::io;
use std::net::UdpSocket;

use nix::libc::{self, sock_filter, sock_fprog};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::AttachReusePortCbpf;

/// Set in the first byte of packets with a long header (RFC 8999 section 5.1).
const LONG_HEADER: u32 = 0x80;
/// Where the destination's connection ID begins, in long headers (behind flags, version and its length) and in others.
const ID_IN_LONG_HEADER: u32 = 6;
const ID_IN_SHORT_HEADER: u32 = 1;
/// BPF_A (linux/bpf_common.h), which libc does not name.
const RETURN_ACCUMULATOR: u32 = 0x10;

/// Has the kernel hand datagrams to this socket and those that will share its port with it, in the order in which they
/// are bound.
pub(super) fn by_connection_id(socket: &UdpSocket, lanes: usize) -> io::Result<()> {
    let mut filter = program(u32::try_from(lanes).unwrap_or(u32::MAX));
    let program = sock_fprog {
        len: u16::try_from(filter.len()).expect("a handful of instructions"),
        filter: filter.as_mut_ptr(),
    };
    setsockopt(socket, AttachReusePortCbpf, &program).map_err(io::Error::from)
}

/// A byte near `random` that leads to this lane.
pub(super) fn first_byte(random: u8, lane: usize, lanes: usize) -> u8 {
    let (random, whole) = (usize::from(random), 256 - 256 % lanes);
    // The few bytes behind the last whole round would lead past it.
    let round = random.min(whole - 1) / lanes;
    u8::try_from(round * lanes + lane).expect("a round begins below 256 and is whole")
}

/// Classic BPF: what it returns is the number of a socket. A datagram too short to be read goes to the first; QUIC drops
/// it there.
fn program(lanes: u32) -> [sock_filter; 7] {
    let instruction = |code: u32, jt: u8, jf: u8, k: u32| sock_filter {
        code: u16::try_from(code).expect("codes are 16 bits wide"),
        jt,
        jf,
        k,
    };
    let load_byte = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
    [
        instruction(load_byte, 0, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 0, 2, LONG_HEADER),
        instruction(load_byte, 0, 0, ID_IN_LONG_HEADER),
        instruction(libc::BPF_JMP | libc::BPF_JA, 0, 0, 1),
        instruction(load_byte, 0, 0, ID_IN_SHORT_HEADER),
        instruction(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, 0, 0, lanes),
        instruction(libc::BPF_RET | RETURN_ACCUMULATOR, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LANES: usize = 3;

    #[test]
    fn every_random_byte_leads_to_its_lane() {
        for lanes in 1..=16 {
            for (random, lane) in (0..=u8::MAX).flat_map(|random| (0..lanes).map(move |lane| (random, lane)))
            {
                assert_eq!(usize::from(first_byte(random, lane, lanes)) % lanes, lane, "{random} {lanes}");
            }
        }
    }

    #[test]
    fn the_kernel_hands_a_datagram_to_the_lane_of_its_connection_id_whoever_sent_it() {
        let (address, sockets) = super::super::sockets("127.0.0.1:0".parse().unwrap(), LANES).unwrap();
        sockets.iter().for_each(|s| s.set_read_timeout(Some(Duration::from_secs(20))).unwrap());
        for byte in 0..32_u8 {
            // Another port each, as after a change of network.
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            let lane = &sockets[usize::from(byte) % LANES];
            let (mut long, mut short, mut buffer) = ([0; 20], [0; 20], [0; 20]);
            (long[0], long[5], long[6]) = (0xc0, 8, byte);
            (short[0], short[1]) = (0x40, byte);
            for packet in [long, short] {
                client.send_to(&packet, address).unwrap();
                assert_eq!(lane.recv(&mut buffer).unwrap(), packet.len(), "{byte}");
                assert_eq!(buffer, packet);
            }
        }
    }
}
