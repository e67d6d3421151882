//! IP headers, read and written only as far as finding a packet's owner and answering it need, and the checksum.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;
const IPV6_FRAGMENT: u8 = 44;

pub(crate) const IPV4_HEADER: usize = 20;
pub(crate) const IPV6_HEADER: usize = 40;

const MORE_FRAGMENTS_OR_OFFSET: u16 = 0x3fff;
const DO_NOT_FRAGMENT: u16 = 0x4000;

/// RFC 1700's recommendation, and what smoltcp sends.
const HOP_LIMIT: u8 = 64;

/// Why a packet is not looked at further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreadable {
    Malformed,
    Fragment,
}

/// An IP packet with a header that is right.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IpPacket<'a> {
    /// The whole packet, without what the link may have added behind it.
    pub(crate) bytes: &'a [u8],
    pub(crate) header_len: usize,
    pub(crate) protocol: u8,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
}

impl<'a> IpPacket<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<IpPacket<'a>, Unreadable> {
        match bytes.first().map(|first| first >> 4) {
            Some(4) => IpPacket::parse_v4(bytes),
            Some(6) => IpPacket::parse_v6(bytes),
            _ => Err(Unreadable::Malformed),
        }
    }

    fn parse_v4(bytes: &'a [u8]) -> Result<IpPacket<'a>, Unreadable> {
        let header: &[u8; IPV4_HEADER] = bytes.first_chunk().ok_or(Unreadable::Malformed)?;
        let header_len = usize::from(header[0] & 0x0f) * 4;
        let total_len = usize::from(u16_at(header, 2));
        if header_len < IPV4_HEADER || total_len < header_len || bytes.len() < total_len {
            return Err(Unreadable::Malformed);
        }
        if fold(sum(&bytes[..header_len])) != u16::MAX {
            return Err(Unreadable::Malformed);
        }
        if u16_at(header, 6) & MORE_FRAGMENTS_OR_OFFSET != 0 {
            return Err(Unreadable::Fragment);
        }
        Ok(IpPacket {
            bytes: &bytes[..total_len],
            header_len,
            protocol: header[9],
            source: Ipv4Addr::new(header[12], header[13], header[14], header[15]).into(),
            destination: Ipv4Addr::new(header[16], header[17], header[18], header[19]).into(),
        })
    }

    fn parse_v6(bytes: &'a [u8]) -> Result<IpPacket<'a>, Unreadable> {
        let header: &[u8; IPV6_HEADER] = bytes.first_chunk().ok_or(Unreadable::Malformed)?;
        let total_len = IPV6_HEADER + usize::from(u16_at(header, 4));
        if bytes.len() < total_len {
            return Err(Unreadable::Malformed);
        }
        if header[6] == IPV6_FRAGMENT {
            return Err(Unreadable::Fragment);
        }
        let address = |at: usize| {
            let octets: [u8; 16] = header[at..at + 16].try_into().expect("sixteen bytes");
            IpAddr::V6(Ipv6Addr::from(octets))
        };
        Ok(IpPacket {
            bytes: &bytes[..total_len],
            header_len: IPV6_HEADER,
            protocol: header[6],
            source: address(8),
            destination: address(24),
        })
    }

    pub(crate) fn payload(&self) -> &'a [u8] {
        &self.bytes[self.header_len..]
    }

    /// Whether the checksum of its TCP, UDP or ICMPv6 payload is right.
    pub(crate) fn has_good_checksum(&self) -> bool {
        let payload = self.payload();
        let pseudo = pseudo_header(self.source, self.destination, self.protocol, payload.len());
        fold(pseudo + sum(payload)) == u16::MAX
    }
}

/// The ends of a packet that we send.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ends {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
}

/// Makes a packet around a payload whose checksum field, at this offset, is still zero. None: the ends are of two
/// families, or it is too long for one packet.
pub(crate) fn packet(ends: Ends, protocol: u8, payload: &[u8], checksum_at: usize) -> Option<Vec<u8>> {
    let mut bytes = header(ends, protocol, payload.len())?;
    let header_len = bytes.len();
    bytes.extend_from_slice(payload);
    // ICMP for IPv4 is the one protocol here without a pseudo-header.
    let pseudo =
        if protocol == ICMP { 0 } else { pseudo_header(ends.from, ends.to, protocol, payload.len()) };
    let checksum = match !fold(pseudo + sum(payload)) {
        // Zero means "no checksum" in UDP (RFC 768, RFC 8200 section 8.1).
        0 if protocol == UDP => u16::MAX,
        checksum => checksum,
    };
    put_u16(&mut bytes, header_len + checksum_at, checksum);
    Some(bytes)
}

fn header(ends: Ends, protocol: u8, payload_len: usize) -> Option<Vec<u8>> {
    match (ends.from, ends.to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let total_len = u16::try_from(IPV4_HEADER + payload_len).ok()?;
            let mut bytes = Vec::with_capacity(usize::from(total_len));
            bytes.extend_from_slice(&[0x45, 0]);
            bytes.extend_from_slice(&total_len.to_be_bytes());
            bytes.extend_from_slice(&[0, 0]);
            bytes.extend_from_slice(&DO_NOT_FRAGMENT.to_be_bytes());
            bytes.extend_from_slice(&[HOP_LIMIT, protocol, 0, 0]);
            bytes.extend_from_slice(&from.octets());
            bytes.extend_from_slice(&to.octets());
            let checksum = !fold(sum(&bytes));
            put_u16(&mut bytes, 10, checksum);
            Some(bytes)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let payload_len = u16::try_from(payload_len).ok()?;
            let mut bytes = Vec::with_capacity(IPV6_HEADER + usize::from(payload_len));
            bytes.extend_from_slice(&[0x60, 0, 0, 0]);
            bytes.extend_from_slice(&payload_len.to_be_bytes());
            bytes.extend_from_slice(&[protocol, HOP_LIMIT]);
            bytes.extend_from_slice(&from.octets());
            bytes.extend_from_slice(&to.octets());
            Some(bytes)
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
    }
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(crate) fn put_u16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

pub(crate) fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

/// The unfolded ones' complement sum (RFC 1071). No packet is long enough to overflow it.
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let sum: u64 = words.iter().map(|word| u64::from(u32::from_be_bytes(*word))).sum();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    sum + u64::from(u32::from_be_bytes(last))
}

/// The sum of the pseudo-header of TCP, UDP and ICMPv6.
pub(crate) fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, payload_len: usize) -> u64 {
    let addresses = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => sum(&source.octets()) + sum(&destination.octets()),
        (IpAddr::V6(source), IpAddr::V6(destination)) => sum(&source.octets()) + sum(&destination.octets()),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => 0,
    };
    addresses + u64::from(protocol) + payload_len as u64
}

/// Folds a sum into the 16 bits of a checksum field, not yet inverted.
pub(crate) fn fold(mut sum: u64) -> u16 {
    while sum > u64::from(u16::MAX) {
        sum = (sum >> 16) + (sum & u64::from(u16::MAX));
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_rfc_1071() {
        assert_eq!(fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), 0xddf2);
        assert_eq!(fold(sum(&[0x01])), 0x0100);
    }

    #[test]
    fn a_packet_that_we_make_can_be_read_again() {
        for (from, to) in [("198.18.0.9", "198.18.0.1"), ("fd00::9", "fd00::1")] {
            let ends = Ends { from: from.parse().unwrap(), to: to.parse().unwrap() };
            let bytes = packet(ends, UDP, &[0, 53, 0, 99, 0, 9, 0, 0, 7], 6).unwrap();

            let read = IpPacket::parse(&bytes).unwrap();

            assert_eq!((read.source, read.destination, read.protocol), (ends.from, ends.to, UDP));
            assert_eq!(read.payload()[8], 7);
            assert!(read.has_good_checksum());
        }
    }

    #[test]
    fn what_is_behind_the_packet_is_cut_off() {
        let ends = Ends { from: [198, 18, 0, 9].into(), to: [198, 18, 0, 1].into() };
        let mut bytes = packet(ends, UDP, &[0; 8], 6).unwrap();
        bytes.extend_from_slice(b"padding");
        assert_eq!(IpPacket::parse(&bytes).unwrap().payload().len(), 8);
    }

    #[test]
    fn broken_headers_and_fragments_are_told_apart() {
        let ends = Ends { from: [198, 18, 0, 9].into(), to: [198, 18, 0, 1].into() };
        let good = packet(ends, UDP, &[0; 8], 6).unwrap();

        assert_eq!(IpPacket::parse(&[]).unwrap_err(), Unreadable::Malformed);
        assert_eq!(IpPacket::parse(&good[..27]).unwrap_err(), Unreadable::Malformed);

        let mut altered = good.clone();
        altered[15] ^= 1;
        assert_eq!(IpPacket::parse(&altered).unwrap_err(), Unreadable::Malformed);

        let mut fragment = good;
        fragment[6] = 0x20;
        put_u16(&mut fragment, 10, 0);
        let checksum = !fold(sum(&fragment[..20]));
        put_u16(&mut fragment, 10, checksum);
        assert_eq!(IpPacket::parse(&fragment).unwrap_err(), Unreadable::Fragment);
    }

    #[test]
    fn no_packet_is_made_between_two_families_or_beyond_the_length_field() {
        let mixed = Ends { from: [198, 18, 0, 9].into(), to: "fd00::1".parse().unwrap() };
        assert_eq!(packet(mixed, UDP, &[0; 8], 6), None);
        let ends = Ends { from: [198, 18, 0, 9].into(), to: [198, 18, 0, 1].into() };
        assert_eq!(packet(ends, UDP, &vec![0; 65_530], 6), None);
    }
}
