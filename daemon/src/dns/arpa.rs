//! The names under which addresses are looked up: `7.0.18.198.in-addr.arpa` and the like.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address, or the beginning of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// The address; bits behind the prefix are zero.
    pub address: IpAddr,
    /// How many bits the name gives.
    pub length: u8,
}

/// What a name under `arpa` names; `None` if it is another name, or a malformed one.
pub(super) fn parse(name: &str) -> Option<Prefix> {
    let lower = name.to_ascii_lowercase();
    if let Some(labels) = below(&lower, "in-addr.arpa") {
        return parse_v4(labels);
    }
    parse_v6(below(&lower, "ip6.arpa")?)
}

fn below<'a>(name: &'a str, suffix: &str) -> Option<&'a str> {
    let labels = name.strip_suffix(suffix)?;
    if labels.is_empty() { Some(labels) } else { labels.strip_suffix('.') }
}

fn parse_v4(labels: &str) -> Option<Prefix> {
    let (mut bits, mut length) = (0_u32, 0_u8);
    for label in labels.rsplit('.').filter(|_| !labels.is_empty()) {
        let octet: u8 = label.parse().ok()?;
        // A leading zero or sign would give one address two names.
        if length == 32 || label != octet.to_string() {
            return None;
        }
        bits |= u32::from(octet) << (24 - length);
        length += 8;
    }
    Some(Prefix { address: Ipv4Addr::from_bits(bits).into(), length })
}

fn parse_v6(labels: &str) -> Option<Prefix> {
    let (mut bits, mut length) = (0_u128, 0_u8);
    for label in labels.rsplit('.').filter(|_| !labels.is_empty()) {
        let [digit] = label.as_bytes() else { return None };
        if length == 128 {
            return None;
        }
        let nibble = char::from(*digit).to_digit(16)?;
        bits |= u128::from(nibble) << (124 - length);
        length += 4;
    }
    Some(Prefix { address: Ipv6Addr::from_bits(bits).into(), length })
}

/// How many labels the reverse zone of a network has: whole octets or nibbles, so the smallest zone within it.
pub(super) const fn apex_labels(is_v6: IsV6, prefix: u8) -> usize {
    let unit = match is_v6 {
        IsV6::Yes => 4,
        IsV6::No => 8,
    };
    2 + prefix.div_ceil(unit) as usize
}

/// Which of the two trees under `arpa`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IsV6 {
    Yes,
    No,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_give_addresses_and_beginnings_of_them() {
        for (name, address, length) in [
            ("7.0.18.198.in-addr.arpa", "198.18.0.7", 32),
            ("18.198.IN-ADDR.ARPA", "198.18.0.0", 16),
            ("in-addr.arpa", "0.0.0.0", 0),
            ("2.1.d.f.ip6.arpa", "fd12::", 16),
            ("7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.2.1.d.f.ip6.arpa", "fd12::7", 128),
        ] {
            assert_eq!(parse(name), Some(Prefix { address: address.parse().unwrap(), length }), "{name}");
        }
    }

    #[test]
    fn other_names_give_none() {
        for name in [
            "corp.internal",
            "xin-addr.arpa",
            "256.in-addr.arpa",
            "07.in-addr.arpa",
            "+7.in-addr.arpa",
            "..in-addr.arpa",
            "1.2.3.4.5.in-addr.arpa",
            "10.ip6.arpa",
            "g.ip6.arpa",
        ] {
            assert_eq!(parse(name), None, "{name}");
        }
    }

    #[test]
    fn the_reverse_zone_lies_within_the_range() {
        assert_eq!(apex_labels(IsV6::No, 16), 4);
        assert_eq!(apex_labels(IsV6::No, 20), 5);
        assert_eq!(apex_labels(IsV6::Yes, 64), 18);
    }
}
