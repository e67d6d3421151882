//! Echo replies for addresses that exist, and word of what cannot be reached.

use std::time::{Duration, Instant};

use crate::wire::{self, Ends, IPV4_HEADER, IPV6_HEADER, IpPacket};

const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;
const UNREACHABLE: u8 = 3;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;
const UNREACHABLE_V6: u8 = 1;

const HEADER: usize = 8;
const CHECKSUM: usize = 2;

/// An error quotes as much as fits the smallest packet that every host takes (RFC 1812 section 4.3.2.3).
const LONGEST_ERROR_V4: usize = 576;
/// The same for IPv6 (RFC 4443 section 2.4).
const LONGEST_ERROR_V6: usize = 1_280;

/// Errors in a second, in the long run: as many as Linux sends (RFC 4443 section 2.4 (f) wants a limit).
const ERRORS_PER_SECOND: u32 = 1_000;
/// And at once: a browser that tries QUIC on every name of a page first waits for none of them.
const MOST_AT_ONCE: u32 = 256;

/// What cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreachable {
    Host,
    Port,
}

/// How many errors are sent: a bucket of tokens, full at first.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    /// When the bucket will be full again: one moment says how many tokens are missing.
    full_at: Option<Instant>,
}

impl Throttle {
    /// Takes a token, if there is one.
    pub(crate) fn passes(&mut self, now: Instant) -> bool {
        let token = Duration::from_secs(1) / ERRORS_PER_SECOND;
        let full_at = self.full_at.map_or(now, |at| at.max(now)) + token;
        let has_one = full_at.saturating_duration_since(now) <= token * MOST_AT_ONCE;
        if has_one {
            self.full_at = Some(full_at);
        }
        has_one
    }
}

/// Whether a message's checksum is right.
pub(crate) fn has_good_checksum(packet: &IpPacket<'_>) -> bool {
    match packet.protocol {
        // The one protocol here without a pseudo-header.
        wire::ICMP => wire::fold(wire::sum(packet.payload())) == u16::MAX,
        _ => packet.has_good_checksum(),
    }
}

/// Whether the packet is an echo request.
pub(crate) fn is_echo_request(packet: &IpPacket<'_>) -> bool {
    let message = packet.payload();
    if message.len() < HEADER || message[1] != 0 {
        return false;
    }
    // Each family has its own (RFC 4443 section 1).
    match (packet.protocol, packet.source.is_ipv4()) {
        (wire::ICMP, true) => message[0] == ECHO_REQUEST,
        (wire::ICMPV6, false) => message[0] == ECHO_REQUEST_V6,
        _ => false,
    }
}

/// The answer to an echo request.
pub(crate) fn echo_reply(request: &IpPacket<'_>) -> Option<Vec<u8>> {
    let mut message = request.payload().to_vec();
    message[0] = if request.protocol == wire::ICMP { ECHO_REPLY } else { ECHO_REPLY_V6 };
    wire::put_u16(&mut message, CHECKSUM, 0);
    wire::packet(back(request), request.protocol, &message, CHECKSUM)
}

/// The word that a packet's destination cannot be reached, as if from that destination itself.
pub(crate) fn unreachable(original: &IpPacket<'_>, what: Unreachable) -> Option<Vec<u8>> {
    let is_v4 = original.source.is_ipv4();
    let (kind, code, protocol, longest) = match (is_v4, what) {
        (true, Unreachable::Host) => (UNREACHABLE, 1, wire::ICMP, LONGEST_ERROR_V4 - IPV4_HEADER),
        (true, Unreachable::Port) => (UNREACHABLE, 3, wire::ICMP, LONGEST_ERROR_V4 - IPV4_HEADER),
        (false, Unreachable::Host) => (UNREACHABLE_V6, 3, wire::ICMPV6, LONGEST_ERROR_V6 - IPV6_HEADER),
        (false, Unreachable::Port) => (UNREACHABLE_V6, 4, wire::ICMPV6, LONGEST_ERROR_V6 - IPV6_HEADER),
    };
    let mut message = vec![kind, code, 0, 0, 0, 0, 0, 0];
    let quoted = original.bytes.len().min(longest - HEADER);
    message.extend_from_slice(&original.bytes[..quoted]);
    wire::packet(back(original), protocol, &message, CHECKSUM)
}

fn back(packet: &IpPacket<'_>) -> Ends {
    Ends { from: packet.destination, to: packet.source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(from: &str, to: &str, protocol: u8, kind: u8) -> Vec<u8> {
        let ends = Ends { from: from.parse().unwrap(), to: to.parse().unwrap() };
        wire::packet(ends, protocol, &[kind, 0, 0, 0, 0, 7, 0, 1, b'h', b'i'], CHECKSUM).unwrap()
    }

    #[test]
    fn an_echo_comes_back_as_it_was_sent() {
        for (from, to, protocol, kind, reply_kind) in [
            ("198.18.0.1", "198.18.0.9", wire::ICMP, ECHO_REQUEST, ECHO_REPLY),
            ("fd00::1", "fd00::9", wire::ICMPV6, ECHO_REQUEST_V6, ECHO_REPLY_V6),
        ] {
            let bytes = request(from, to, protocol, kind);
            let request = IpPacket::parse(&bytes).unwrap();
            assert!(is_echo_request(&request));

            let bytes = echo_reply(&request).unwrap();
            let reply = IpPacket::parse(&bytes).unwrap();

            assert_eq!((reply.source, reply.destination), (request.destination, request.source));
            assert_eq!(reply.payload()[0], reply_kind);
            assert_eq!(reply.payload()[4..], request.payload()[4..]);
        }
    }

    #[test]
    fn an_error_quotes_what_caused_it() {
        let bytes = request("198.18.0.1", "198.18.0.9", wire::UDP, 0);
        let original = IpPacket::parse(&bytes).unwrap();

        let bytes = unreachable(&original, Unreachable::Port).unwrap();
        let error = IpPacket::parse(&bytes).unwrap();

        assert_eq!(error.payload()[..2], [UNREACHABLE, 3]);
        assert_eq!(error.payload()[HEADER..], *original.bytes);
    }

    #[test]
    fn an_error_is_never_longer_than_every_host_takes() {
        for (from, to, longest) in
            [("198.18.0.1", "198.18.0.9", LONGEST_ERROR_V4), ("fd00::1", "fd00::9", LONGEST_ERROR_V6)]
        {
            let ends = Ends { from: from.parse().unwrap(), to: to.parse().unwrap() };
            let bytes = wire::packet(ends, wire::UDP, &[0; 9_000], 6).unwrap();
            let original = IpPacket::parse(&bytes).unwrap();
            assert_eq!(unreachable(&original, Unreachable::Host).unwrap().len(), longest);
        }
    }

    #[test]
    fn errors_come_in_bursts_and_then_at_their_rate() {
        #[expect(clippy::disallowed_methods, reason = "a test's time needs a beginning")]
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        let passed = |throttle: &mut Throttle, now| (0..10_000).filter(|_| throttle.passes(now)).count();
        assert_eq!(passed(&mut throttle, now), 256);
        assert_eq!(passed(&mut throttle, now + Duration::from_millis(10)), 10);
        assert_eq!(passed(&mut throttle, now + Duration::from_secs(60)), 256);
    }

    #[test]
    fn other_messages_are_not_answered() {
        let bytes = request("198.18.0.1", "198.18.0.9", wire::ICMP, UNREACHABLE);
        assert!(!is_echo_request(&IpPacket::parse(&bytes).unwrap()));
        let bytes = request("198.18.0.1", "198.18.0.9", wire::UDP, ECHO_REQUEST);
        assert!(!is_echo_request(&IpPacket::parse(&bytes).unwrap()));
    }
}
