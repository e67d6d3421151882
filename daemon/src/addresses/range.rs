//! The ranges that addresses are taken from, one for each family. A name has the same offset in both.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::AddressPair;

/// The IPv4 range, and the IPv6 range where IPv6 works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ranges {
    v4: (Ipv4Addr, u8),
    v6: Option<(Ipv6Addr, u8)>,
}

/// Why a range cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// Too small to serve, or larger than any network that is anyone's to use.
    #[error("an IPv4 range is between /8 and /28, not /{0}")]
    Size4(u8),
    /// The same of IPv6.
    #[error("an IPv6 range is between /8 and /96, not /{0}")]
    Size6(u8),
    /// Not the first address of the network.
    #[error("{0} is not the first address of its network")]
    NotANetwork(IpAddr),
}

impl Ranges {
    /// The TUN's own address.
    const TUN_INDEX: u32 = 1;
    /// The DNS server's address.
    const DNS_INDEX: u32 = 2;
    /// The first address that a name may have; before it are the network, the TUN and the DNS server.
    pub(super) const FIRST_INDEX: u32 = 3;

    /// The ranges with these networks and prefix lengths.
    ///
    /// # Errors
    /// A [`RangeError`] if one of them is no network of a usable size.
    pub fn new(v4: (Ipv4Addr, u8), v6: Option<(Ipv6Addr, u8)>) -> Result<Self, RangeError> {
        if !(8..=28).contains(&v4.1) {
            return Err(RangeError::Size4(v4.1));
        }
        if v4.0.to_bits() & host_mask4(v4.1) != 0 {
            return Err(RangeError::NotANetwork(v4.0.into()));
        }
        let Some((network, prefix)) = v6 else { return Ok(Self { v4, v6 }) };
        if !(8..=96).contains(&prefix) {
            return Err(RangeError::Size6(prefix));
        }
        if network.to_bits() & host_mask6(prefix) != 0 {
            return Err(RangeError::NotANetwork(network.into()));
        }
        Ok(Self { v4, v6 })
    }

    /// The IPv4 network and its prefix length.
    pub const fn v4(&self) -> (Ipv4Addr, u8) {
        self.v4
    }

    /// The IPv6 network and its prefix length.
    pub const fn v6(&self) -> Option<(Ipv6Addr, u8)> {
        self.v6
    }

    /// The TUN's own addresses.
    pub const fn tun(&self) -> AddressPair {
        self.pair(Self::TUN_INDEX)
    }

    /// The DNS server's addresses.
    pub const fn dns(&self) -> AddressPair {
        self.pair(Self::DNS_INDEX)
    }

    /// Whether `address` lies in one of the ranges, also as an IPv4-mapped IPv6 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => (address.to_bits() ^ self.v4.0.to_bits()) & !host_mask4(self.v4.1) == 0,
            IpAddr::V6(address) => self.v6.is_some_and(|(network, prefix)| {
                (address.to_bits() ^ network.to_bits()) & !host_mask6(prefix) == 0
            }),
        }
    }

    /// The last offset that a name may have: behind it is IPv4's broadcast.
    pub(super) const fn last_index(&self) -> u32 {
        host_mask4(self.v4.1) - 1
    }

    pub(super) const fn pair(&self, index: u32) -> AddressPair {
        let v6 = match self.v6 {
            Some((network, _)) => Some(Ipv6Addr::from_bits(network.to_bits() | index as u128)),
            None => None,
        };
        AddressPair { v4: Ipv4Addr::from_bits(self.v4.0.to_bits() | index), v6 }
    }

    pub(super) fn index_of(&self, address: IpAddr) -> Option<u32> {
        if !self.contains(address) {
            return None;
        }
        match address.to_canonical() {
            IpAddr::V4(address) => Some(address.to_bits() & host_mask4(self.v4.1)),
            IpAddr::V6(address) => u32::try_from(address.to_bits() & host_mask6(self.v6?.1)).ok(),
        }
    }
}

const fn host_mask4(prefix: u8) -> u32 {
    u32::MAX >> prefix
}

const fn host_mask6(prefix: u8) -> u128 {
    u128::MAX >> prefix
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges() -> Ranges {
        Ranges::new(
            (Ipv4Addr::new(198, 18, 0, 0), 16),
            Some((Ipv6Addr::new(0xfd12, 0, 0, 0, 0, 0, 0, 0), 64)),
        )
        .unwrap()
    }

    #[test]
    fn a_range_contains_its_first_and_last_address_and_no_neighbour() {
        for (address, is_inside) in [
            ("198.18.0.0", true),
            ("198.18.255.255", true),
            ("198.17.255.255", false),
            ("198.19.0.0", false),
            ("::ffff:198.18.3.4", true),
            ("fd12::ffff:ffff:ffff:ffff", true),
            ("fd12:0:0:1::", false),
        ] {
            assert_eq!(ranges().contains(address.parse().unwrap()), is_inside, "{address}");
        }
    }

    #[test]
    fn offsets_read_back_from_both_families() {
        let pair = ranges().pair(513);
        assert_eq!(pair.v4, Ipv4Addr::new(198, 18, 2, 1));
        assert_eq!(ranges().index_of(pair.v4.into()), Some(513));
        assert_eq!(ranges().index_of(pair.v6.unwrap().into()), Some(513));
        assert_eq!(ranges().index_of("fd12::1:0:0:0".parse().unwrap()), None);
    }

    #[test]
    fn what_is_no_usable_network_is_refused() {
        let v4 = |text: &str, prefix| Ranges::new((text.parse().unwrap(), prefix), None);
        assert_eq!(v4("198.18.0.0", 29), Err(RangeError::Size4(29)));
        assert_eq!(v4("198.18.0.1", 16), Err(RangeError::NotANetwork("198.18.0.1".parse().unwrap())));
        let v6 = Ranges::new(ranges().v4(), Some(("fd12::".parse().unwrap(), 112)));
        assert_eq!(v6, Err(RangeError::Size6(112)));
    }
}
