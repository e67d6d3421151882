//! UDP, as far as a DNS server needs it.

use std::net::SocketAddr;

use crate::event::Datagram;
use crate::wire::{self, Ends, IpPacket, put_u16, u16_at};

const HEADER: usize = 8;
const CHECKSUM: usize = 6;

/// The ends and the content of a UDP packet; None where its header is wrong.
pub(crate) fn parse(packet: &IpPacket<'_>) -> Option<Datagram> {
    let bytes = packet.payload();
    if bytes.len() < HEADER {
        return None;
    }
    let length = usize::from(u16_at(bytes, 4));
    let (source_port, destination_port) = (u16_at(bytes, 0), u16_at(bytes, 2));
    if length < HEADER || length > bytes.len() || source_port == 0 || destination_port == 0 {
        return None;
    }
    Some(Datagram {
        source: SocketAddr::new(packet.source, source_port),
        destination: SocketAddr::new(packet.destination, destination_port),
        payload: bytes[HEADER..length].to_vec(),
    })
}

/// Whether its checksum is right, or left out as IPv4 allows.
pub(crate) fn has_good_checksum(packet: &IpPacket<'_>) -> bool {
    let left_out = packet.source.is_ipv4() && packet.payload().get(CHECKSUM..HEADER) == Some(&[0, 0]);
    left_out || packet.has_good_checksum()
}

/// A UDP packet; None where the ends are of two families or it is too long.
pub(crate) fn packet(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(HEADER + payload.len()).ok()?;
    let mut bytes = vec![0; HEADER];
    put_u16(&mut bytes, 0, from.port());
    put_u16(&mut bytes, 2, to.port());
    put_u16(&mut bytes, 4, length);
    bytes.extend_from_slice(payload);
    wire::packet(Ends { from: from.ip(), to: to.ip() }, wire::UDP, &bytes, CHECKSUM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_comes_out_as_it_went_in() {
        for (from, to) in [("198.18.0.1:999", "198.18.0.53:53"), ("[fd00::1]:999", "[fd00::53]:53")] {
            let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
            let bytes = packet(from, to, b"query").unwrap();
            let read = IpPacket::parse(&bytes).unwrap();
            assert!(has_good_checksum(&read));
            assert_eq!(
                parse(&read),
                Some(Datagram { source: from, destination: to, payload: b"query".to_vec() })
            );
        }
    }

    #[test]
    fn a_length_beyond_the_packet_is_refused() {
        let (from, to) = ("198.18.0.1:999".parse().unwrap(), "198.18.0.53:53".parse().unwrap());
        let mut bytes = packet(from, to, b"query").unwrap();
        put_u16(&mut bytes, 24, 14);
        assert_eq!(parse(&IpPacket::parse(&bytes).unwrap()), None);
        put_u16(&mut bytes, 24, 7);
        assert_eq!(parse(&IpPacket::parse(&bytes).unwrap()), None);
    }
}
