//! Segments and packets byte by byte, for what smoltcp would not write: odd flags, options, urgent pointers, headers.

use std::net::{IpAddr, SocketAddr};

use crate::lab::{Seen, at};

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const URG: u8 = 0x20;

/// A window of 8 MiB where the SYN has offered the scale that [`Raw::syn`] offers.
pub(crate) const WIDE: u16 = 65_535;

/// A segment from a program, of any form. Its lengths and checksums are right.
#[derive(Debug, Clone)]
pub(crate) struct Raw {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) urgent: u16,
    /// A multiple of four bytes.
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Raw {
    /// A SYN that offers what Linux does on a TUN of this MTU: 65,475 bytes a segment and a window scale of 7.
    pub(crate) fn syn(source: &str, destination: &str, sequence: u32) -> Raw {
        Raw {
            source: at(source),
            destination: at(destination),
            sequence,
            acknowledgement: 0,
            flags: SYN,
            window: WIDE,
            urgent: 0,
            options: vec![2, 4, 0xff, 0xc3, 1, 3, 3, 7],
            payload: Vec::new(),
        }
    }

    pub(crate) fn ack(source: &str, destination: &str, sequence: u32, acknowledgement: u32) -> Raw {
        Raw { acknowledgement, flags: ACK, options: Vec::new(), ..Raw::syn(source, destination, sequence) }
    }

    pub(crate) fn flags(self, flags: u8) -> Raw {
        Raw { flags, ..self }
    }

    pub(crate) fn window(self, window: u16) -> Raw {
        Raw { window, ..self }
    }

    pub(crate) fn options(self, options: &[u8]) -> Raw {
        assert!(options.len().is_multiple_of(4));
        Raw { options: options.to_vec(), ..self }
    }

    pub(crate) fn carrying(self, payload: &[u8]) -> Raw {
        Raw { payload: payload.to_vec(), ..self }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut segment = Vec::new();
        segment.extend(self.source.port().to_be_bytes());
        segment.extend(self.destination.port().to_be_bytes());
        segment.extend(self.sequence.to_be_bytes());
        segment.extend(self.acknowledgement.to_be_bytes());
        let words = u8::try_from(5 + self.options.len() / 4).expect("at most ten words of options");
        segment.extend([words << 4, self.flags]);
        segment.extend(self.window.to_be_bytes());
        segment.extend([0, 0]);
        segment.extend(self.urgent.to_be_bytes());
        segment.extend(&self.options);
        segment.extend(&self.payload);
        let checksum = !sum(&[&pseudo(self.source.ip(), self.destination.ip(), 6, segment.len()), &segment]);
        segment[16..18].copy_from_slice(&checksum.to_be_bytes());
        packet(self.source.ip(), self.destination.ip(), 6, &[], &segment)
    }
}

/// An IP packet around a payload, with options (IPv4) or extension headers (IPv6) between.
pub(crate) fn packet(
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    extra: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let mut bytes = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let length = u16::try_from(20 + extra.len() + payload.len()).expect("a packet's length");
            let words = u8::try_from(5 + extra.len() / 4).expect("a header's length");
            let mut header = vec![0x40 | words, 0];
            header.extend(length.to_be_bytes());
            header.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
            header.extend(source.octets());
            header.extend(destination.octets());
            header.extend(extra);
            let checksum = !sum(&[&header]);
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
            header
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let length = u16::try_from(extra.len() + payload.len()).expect("a packet's length");
            let mut header = vec![0x60, 0, 0, 0];
            header.extend(length.to_be_bytes());
            header.extend([protocol, 64]);
            header.extend(source.octets());
            header.extend(destination.octets());
            header.extend(extra);
            header
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => panic!("two families"),
    };
    bytes.extend(payload);
    bytes
}

/// The pseudo-header of RFC 9293 section 3.1 and RFC 8200 section 8.1.
pub(crate) fn pseudo(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for address in [source, destination] {
        match address {
            IpAddr::V4(address) => bytes.extend(address.octets()),
            IpAddr::V6(address) => bytes.extend(address.octets()),
        }
    }
    bytes.extend((length as u32).to_be_bytes());
    bytes.extend([0, 0, 0, protocol]);
    bytes
}

/// The folded ones' complement sum of pieces, of which all but the last have an even length.
pub(crate) fn sum(pieces: &[&[u8]]) -> u16 {
    let words = pieces.iter().flat_map(|piece| piece.chunks(2));
    let sum: u64 =
        words.map(|pair| u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u64::from(*low))).sum();
    let mut folded = sum;
    while folded > 0xffff {
        folded = (folded >> 16) + (folded & 0xffff);
    }
    folded as u16
}

/// The one segment that there is to see.
pub(crate) fn only(segments: &[Seen]) -> &Seen {
    assert_eq!(segments.len(), 1, "{segments:?}");
    &segments[0]
}
