//! TCP segments between a program and the stack, written and read without the stack's own code.

use std::net::{IpAddr, SocketAddr};

pub(super) const FIN: u8 = 0x01;
pub(super) const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;
pub(super) const ACK: u8 = 0x10;

/// Both ends of a 4-tuple: the program's and ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) program: SocketAddr,
    pub(super) server: SocketAddr,
}

/// A segment of a program.
#[derive(Debug, Clone, Default)]
pub(super) struct Segment {
    pub(super) flags: u8,
    pub(super) sequence: u32,
    pub(super) acknowledgement: u32,
    pub(super) window: u16,
    pub(super) options: Vec<u8>,
    pub(super) payload: Vec<u8>,
}

impl Segment {
    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Whether it asks for a new connection.
    pub(super) fn is_request(&self) -> bool {
        self.has(SYN) && !self.has(ACK | RST | FIN)
    }

    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.payload.len()).expect("a payload fits a packet")
    }

    /// An IP packet of it. Its TCP checksum is left out, as the kernel leaves it to a TUN.
    pub(super) fn packet(&self, ends: Ends) -> Vec<u8> {
        let words = 5 + self.options.len().div_ceil(4).min(10);
        let mut tcp = Vec::with_capacity(words * 4 + self.payload.len());
        tcp.extend(ends.program.port().to_be_bytes());
        tcp.extend(ends.server.port().to_be_bytes());
        tcp.extend(self.sequence.to_be_bytes());
        tcp.extend(self.acknowledgement.to_be_bytes());
        tcp.extend([u8::try_from(words << 4).expect("at most fifteen words"), self.flags]);
        tcp.extend(self.window.to_be_bytes());
        tcp.extend([0; 4]);
        tcp.extend(self.options.iter().take(40));
        tcp.resize(words * 4, 0);
        tcp.extend(&self.payload);
        let mut packet = header(ends, tcp.len());
        packet.extend(tcp);
        packet
    }
}

fn header(ends: Ends, payload_len: usize) -> Vec<u8> {
    match (ends.program.ip(), ends.server.ip()) {
        (IpAddr::V4(program), IpAddr::V4(server)) => {
            let mut header = vec![0x45, 0];
            header.extend(u16::try_from(20 + payload_len).expect("a packet's length").to_be_bytes());
            header.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
            header.extend(program.octets());
            header.extend(server.octets());
            let checksum = !sum(&header);
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
            header
        }
        (IpAddr::V6(program), IpAddr::V6(server)) => {
            let mut header = vec![0x60, 0, 0, 0];
            header.extend(u16::try_from(payload_len).expect("a packet's length").to_be_bytes());
            header.extend([6, 64]);
            header.extend(program.octets());
            header.extend(server.octets());
            header
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => unreachable!("one family"),
    }
}

fn sum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    u16::try_from(sum).expect("folded")
}

/// A packet of the stack's.
#[derive(Debug)]
pub(super) enum Seen {
    /// A segment of the 4-tuple with these ends.
    Segment(Ends, Segment, Offer),
    /// Word that the destination of the quoted segment cannot be reached.
    Unreachable(Ends, Segment),
}

/// What a SYN-ACK offers.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Offer {
    pub(super) scale: Option<u8>,
}

/// Reads a packet of the stack's.
///
/// # Panics
/// If it is none, or one that a kernel would drop.
pub(super) fn read(packet: &[u8]) -> Seen {
    check_ip(packet);
    let (from, to, protocol, body) = read_ip(packet);
    if protocol == 6 {
        let (source, destination, segment, offer) = read_tcp(body);
        let ends = Ends { program: SocketAddr::new(to, destination), server: SocketAddr::new(from, source) };
        return Seen::Segment(ends, segment, offer);
    }
    let kind = if from.is_ipv4() { (1, [3, 1]) } else { (58, [1, 3]) };
    assert_eq!((protocol, [body[0], body[1]]), kind, "neither TCP nor an unreachable host");
    let (program, server, quoted_protocol, quoted) = read_ip(&body[8..]);
    assert_eq!((program, server, quoted_protocol), (to, from, 6), "a quote of another packet");
    let (source, destination, segment, _) = read_tcp(quoted);
    let ends =
        Ends { program: SocketAddr::new(program, source), server: SocketAddr::new(server, destination) };
    Seen::Unreachable(ends, segment)
}

/// That a kernel would take the packet.
fn check_ip(packet: &[u8]) {
    let announced = match packet[0] >> 4 {
        4 => {
            assert_eq!((packet[0] & 15, sum(&packet[..20])), (5, 0xffff), "a wrong header");
            assert_eq!(packet[6] & 0xbf, 0, "a fragment left");
            usize::from(u16_at(packet, 2))
        }
        6 => 40 + usize::from(u16_at(packet, 4)),
        version => panic!("a packet of version {version} left"),
    };
    assert_eq!(announced, packet.len(), "a wrong length");
}

/// Source, destination, protocol and payload.
fn read_ip(packet: &[u8]) -> (IpAddr, IpAddr, u8, &[u8]) {
    if packet[0] >> 4 == 4 {
        let address = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).expect("four"));
        return (address(12), address(16), packet[9], &packet[20..]);
    }
    let address = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).expect("sixteen"));
    (address(8), address(24), packet[6], &packet[40..])
}

fn read_tcp(bytes: &[u8]) -> (u16, u16, Segment, Offer) {
    let header = usize::from(bytes[12] >> 4) * 4;
    assert!((20..=60).contains(&header) && header <= bytes.len(), "a wrong header length");
    let segment = Segment {
        flags: bytes[13] & 0x17,
        sequence: u32_at(bytes, 4),
        acknowledgement: u32_at(bytes, 8),
        window: u16_at(bytes, 14),
        options: bytes[20..header].to_vec(),
        payload: bytes[header..].to_vec(),
    };
    let scale = scale_of(&segment.options);
    (u16_at(bytes, 0), u16_at(bytes, 2), segment, Offer { scale })
}

/// The window scale that a SYN offers, as the stack reads it.
pub(super) fn read_scale(segment: &Segment) -> Option<u8> {
    scale_of(&segment.options)
}

fn scale_of(mut options: &[u8]) -> Option<u8> {
    loop {
        match options {
            [] | [0, ..] => return None,
            [1, rest @ ..] => options = rest,
            [3, 3, scale, ..] => return Some(*scale),
            [_, length, ..] => options = options.get(usize::from(*length).max(2)..)?,
            [_] => return None,
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
