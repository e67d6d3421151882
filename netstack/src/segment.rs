//! A TCP segment's header, read as far as finding its owner and refusing it need. The rest of TCP is smoltcp's.

use std::net::SocketAddr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{TcpPacket, TcpRepr};

use crate::demux::FourTuple;
use crate::wire::{self, Ends, IpPacket, put_u16, put_u32, u16_at, u32_at};

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;

const SMALLEST_HEADER: usize = 20;
const FLAGS: usize = 13;
const WINDOW: usize = 14;
pub(crate) const CHECKSUM: usize = 16;

/// A segment whose header is right.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Segment {
    pub(crate) tuple: FourTuple,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) header_len: usize,
    pub(crate) payload_len: usize,
}

impl Segment {
    /// Reads what smoltcp would read too; None for what it would drop.
    pub(crate) fn parse(packet: &IpPacket<'_>) -> Option<Segment> {
        let bytes = packet.payload();
        if bytes.len() < SMALLEST_HEADER {
            return None;
        }
        let header_len = usize::from(bytes[12] >> 4) * 4;
        if header_len < SMALLEST_HEADER || header_len > bytes.len() {
            return None;
        }
        let (source_port, destination_port) = (u16_at(bytes, 0), u16_at(bytes, 2));
        let flags = bytes[FLAGS];
        let controls = [FIN, SYN, RST].into_iter().filter(|flag| flags & flag != 0).count();
        if source_port == 0 || destination_port == 0 || controls > 1 {
            return None;
        }
        Some(Segment {
            tuple: FourTuple {
                source: SocketAddr::new(packet.source, source_port),
                destination: SocketAddr::new(packet.destination, destination_port),
            },
            sequence: u32_at(bytes, 4),
            acknowledgement: u32_at(bytes, 8),
            flags,
            window: u16_at(bytes, WINDOW),
            header_len,
            payload_len: bytes.len() - header_len,
        })
    }

    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Whether it asks for a new connection.
    pub(crate) fn is_request(&self) -> bool {
        self.has(SYN) && !self.has(ACK)
    }

    /// The sequence number behind it.
    pub(crate) fn end(&self) -> u32 {
        let controls = u32::from(self.has(SYN)) + u32::from(self.has(FIN));
        self.sequence.wrapping_add(self.payload_len as u32).wrapping_add(controls)
    }

    /// The RST that says that there is no such connection (RFC 9293 section 3.5.2). None: never for an RST.
    pub(crate) fn refusal(&self) -> Option<Vec<u8>> {
        if self.has(RST) {
            return None;
        }
        if self.has(ACK) {
            return bare(self.tuple, self.acknowledgement, 0, RST, 0);
        }
        bare(self.tuple, 0, self.end(), RST | ACK, 0)
    }
}

/// A segment from our end without payload or options.
pub(crate) fn bare(
    tuple: FourTuple,
    sequence: u32,
    acknowledgement: u32,
    flags: u8,
    window: u16,
) -> Option<Vec<u8>> {
    let mut bytes = [0; SMALLEST_HEADER];
    put_u16(&mut bytes, 0, tuple.destination.port());
    put_u16(&mut bytes, 2, tuple.source.port());
    put_u32(&mut bytes, 4, sequence);
    put_u32(&mut bytes, 8, acknowledgement);
    bytes[12] = 0x50;
    bytes[FLAGS] = flags;
    put_u16(&mut bytes, WINDOW, window);
    let ends = Ends { from: tuple.destination.ip(), to: tuple.source.ip() };
    wire::packet(ends, wire::TCP, &bytes, CHECKSUM)
}

/// Whether smoltcp takes its options. Those of an ordinary segment, which has none, cost nothing to look at.
pub(crate) fn has_good_options(packet: &IpPacket<'_>, segment: &Segment) -> bool {
    segment.header_len == SMALLEST_HEADER || window_scale(packet).is_ok()
}

/// The window scale that a SYN offers. Err: smoltcp would not take its options.
pub(crate) fn window_scale(packet: &IpPacket<'_>) -> Result<Option<u8>, smoltcp::wire::Error> {
    let view = TcpPacket::new_checked(packet.payload())?;
    let checked_before = ChecksumCapabilities::ignored();
    let repr = TcpRepr::parse(&view, &packet.source.into(), &packet.destination.into(), &checked_before)?;
    Ok(repr.window_scale)
}

/// Writes another window into a segment whose checksum, if it has one already, stays right (RFC 1624).
pub(crate) fn set_window(segment: &mut [u8], window: u16) {
    let (old, checksum) = (u16_at(segment, WINDOW), u16_at(segment, CHECKSUM));
    let sum = u64::from(!checksum) + u64::from(!old) + u64::from(window);
    put_u16(segment, WINDOW, window);
    put_u16(segment, CHECKSUM, !wire::fold(sum));
}

/// The packet without its payload: enough to answer a SYN, whatever data came with it.
pub(crate) fn without_payload(packet: &IpPacket<'_>, segment: &Segment) -> Vec<u8> {
    let length = packet.header_len + segment.header_len;
    let mut bytes = packet.bytes[..length].to_vec();
    set_length(&mut bytes, packet.header_len);
    bytes
}

/// The packet with its FIN taken away.
pub(crate) fn without_fin(packet: &IpPacket<'_>) -> Vec<u8> {
    let mut bytes = packet.bytes.to_vec();
    bytes[packet.header_len + FLAGS] &= !FIN;
    bytes
}

/// The packet's FIN alone, at the place in the stream where it was.
pub(crate) fn fin_alone(packet: &IpPacket<'_>, segment: &Segment) -> Vec<u8> {
    let mut bytes = without_payload(packet, segment);
    let sequence = segment.sequence.wrapping_add(segment.payload_len as u32);
    put_u32(&mut bytes, packet.header_len + 4, sequence);
    bytes
}

/// Writes a packet's own length into its IP header, whose checksum is not looked at any more.
fn set_length(bytes: &mut [u8], header_len: usize) {
    let total = bytes.len();
    match bytes[0] >> 4 {
        4 => put_u16(bytes, 2, total as u16),
        _ => put_u16(bytes, 4, (total - header_len) as u16),
    }
}
