//! TCP segments by hand: the other end of a connection, as a test wants it.

use std::net::{IpAddr, SocketAddr};

const SYN: u8 = 0x02;
const PUSH: u8 = 0x08;
const ACK: u8 = 0x10;
const TCP: u8 = 6;
/// What a test announces: two MiB, by a window scale of 7.
const WINDOW: u16 = 16_384;

/// One segment in one packet.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    pub(crate) flags: u8,
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    /// Put in the place of the checksum.
    pub(crate) checksum: Option<u16>,
}

impl Segment {
    pub(crate) fn is_syn(&self) -> bool {
        self.flags & (SYN | ACK) == SYN
    }

    pub(crate) fn is_ack_of(&self, other: &Self) -> bool {
        let length = u32::try_from(other.payload.len()).expect("short");
        let syn = u32::from(other.flags & SYN != 0);
        self.flags & ACK != 0 && self.acknowledgement == other.sequence.wrapping_add(length).wrapping_add(syn)
    }

    /// The SYN-ACK for a SYN, with the largest MSS that fits the MTU and a window scale.
    pub(crate) fn answer_syn(&self) -> Self {
        let mss = if self.source.is_ipv4() { 65_535u16 - 40 } else { 65_535 - 60 };
        let [high, low] = mss.to_be_bytes();
        Self {
            source: self.destination,
            destination: self.source,
            sequence: 1_000,
            acknowledgement: self.sequence.wrapping_add(1),
            flags: SYN | ACK,
            options: vec![2, 4, high, low, 3, 3, 7, 1],
            payload: Vec::new(),
            checksum: None,
        }
    }

    /// Data from the sender of this segment.
    pub(crate) fn data(&self, payload: &[u8]) -> Self {
        Self {
            flags: ACK | PUSH,
            options: Vec::new(),
            payload: payload.to_vec(),
            checksum: None,
            ..self.clone()
        }
    }

    pub(crate) fn parse(packet: &[u8]) -> Option<Self> {
        let (source, destination, tcp) = match packet.first()? >> 4 {
            4 => {
                let header = usize::from(packet[0] & 15) * 4;
                let address = |at: usize| -> Option<IpAddr> {
                    Some(IpAddr::from(*packet.get(at..)?.first_chunk::<4>()?))
                };
                (packet[9] == TCP).then_some((address(12)?, address(16)?, packet.get(header..)?))?
            }
            6 => {
                let address = |at: usize| -> Option<IpAddr> {
                    Some(IpAddr::from(*packet.get(at..)?.first_chunk::<16>()?))
                };
                (packet[6] == TCP).then_some((address(8)?, address(24)?, packet.get(40..)?))?
            }
            _ => return None,
        };
        let word = |at: usize| Some(u32::from_be_bytes(*tcp.get(at..)?.first_chunk::<4>()?));
        let port = |at: usize| Some(u16::from_be_bytes(*tcp.get(at..)?.first_chunk::<2>()?));
        let data = usize::from(tcp.get(12)? >> 4) * 4;
        Some(Self {
            source: SocketAddr::new(source, port(0)?),
            destination: SocketAddr::new(destination, port(2)?),
            sequence: word(4)?,
            acknowledgement: word(8)?,
            flags: *tcp.get(13)?,
            options: tcp.get(20..data)?.to_vec(),
            payload: tcp.get(data..)?.to_vec(),
            checksum: None,
        })
    }

    pub(crate) fn to_packet(&self) -> Vec<u8> {
        let mut tcp = Vec::new();
        tcp.extend(self.source.port().to_be_bytes());
        tcp.extend(self.destination.port().to_be_bytes());
        tcp.extend(self.sequence.to_be_bytes());
        tcp.extend(self.acknowledgement.to_be_bytes());
        let words = u8::try_from((20 + self.options.len()) / 4).expect("short options");
        tcp.extend([words << 4, self.flags]);
        tcp.extend(WINDOW.to_be_bytes());
        tcp.extend([0; 4]);
        tcp.extend(&self.options);
        tcp.extend(&self.payload);
        let pseudo = self.pseudo_header(tcp.len());
        let sum = self.checksum.unwrap_or_else(|| !sum(&[&pseudo[..], &tcp[..]].concat()));
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        let mut packet = self.ip_header(tcp.len());
        packet.extend(tcp);
        packet
    }

    fn ip_header(&self, length: usize) -> Vec<u8> {
        let mut header = Vec::new();
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let total = u16::try_from(20 + length).expect("one packet");
                header.extend([0x45, 0]);
                header.extend(total.to_be_bytes());
                header.extend([0, 0, 0x40, 0, 64, TCP, 0, 0]);
                header.extend(source.octets());
                header.extend(destination.octets());
                let sum = !sum(&header);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                header.extend([0x60, 0, 0, 0]);
                header.extend(u16::try_from(length).expect("one packet").to_be_bytes());
                header.extend([TCP, 64]);
                header.extend(source.octets());
                header.extend(destination.octets());
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => panic!("two families"),
        }
        header
    }

    fn pseudo_header(&self, length: usize) -> Vec<u8> {
        let mut header = Vec::new();
        for address in [self.source.ip(), self.destination.ip()] {
            match address {
                IpAddr::V4(address) => header.extend(address.octets()),
                IpAddr::V6(address) => header.extend(address.octets()),
            }
        }
        // IPv4's layout and IPv6's give the same sum.
        header.extend(u32::try_from(length).expect("short").to_be_bytes());
        header.extend([0, 0, 0, TCP]);
        header
    }
}

/// The one's complement sum of RFC 1071.
fn sum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).expect("folded")
}
