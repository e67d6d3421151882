//! What a stack is told once, when it is made.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IPv4's total length is 16 bits wide, so no packet is longer.
const LONGEST_PACKET: usize = 65_535;

/// Every IPv6 link carries this much (RFC 8200 section 5), so a smaller packet size is never announced.
const SMALLEST_MTU: usize = 1_280;

/// With fewer segments to a ring the transfer becomes stop-and-wait, and smoltcp's rule that a window must double before
/// it is announced again can leave a sender waiting for room for one segment.
const SEGMENTS_IN_A_RING: usize = 4;

/// The IPv6 and TCP headers without options: the longest headers of an ordinary segment.
const HEADERS: usize = 60;

/// What a [`crate::Stack`] is told when it is made.
#[derive(Debug, Clone)]
pub struct StackConfig {
    /// The TUN's MTU; 65535 gives segments of 64 KiB both ways.
    pub mtu: usize,
    /// The range of IPv4 addresses that are ours; packets to any other destination are dropped.
    pub range4: (Ipv4Addr, u8),
    /// The range of IPv6 addresses that are ours, where there is one.
    pub range6: Option<(Ipv6Addr, u8)>,
    /// Seeds sequence numbers and the flow table's hash; take it from the operating system.
    pub random_seed: u64,
    /// The bytes of one ring, of which a flow has two.
    pub ring_size: usize,
    /// How many SYNs are held unanswered; the next one is refused with RST.
    pub max_held: usize,
    /// How many flows there are at once; an accept over that is refused with RST.
    pub max_flows: usize,
    /// Whether TCP and UDP checksums of arriving packets are verified and those of leaving TCP segments computed. False
    /// where the TUN has `IFF_VNET_HDR`: local packets come with partial checksums, and leave with them.
    pub verify_checksums: bool,
    /// The addresses that local programs send from: the TUN's own. Packets from any other source are dropped.
    pub sources: Vec<IpAddr>,
}

impl StackConfig {
    /// The packet size that smoltcp works with.
    pub(crate) fn effective_mtu(&self) -> usize {
        let share = self.ring_size / SEGMENTS_IN_A_RING + HEADERS;
        self.mtu.min(LONGEST_PACKET).min(share).max(SMALLEST_MTU)
    }

    pub(crate) fn is_in_range(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => {
                let (network, length) = self.range4;
                let mask = u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0);
                u32::from(address) & mask == u32::from(network) & mask
            }
            IpAddr::V6(address) => self.range6.is_some_and(|(network, length)| {
                let mask = u128::MAX.checked_shl(128 - u32::from(length.min(128))).unwrap_or(0);
                u128::from(address) & mask == u128::from(network) & mask
            }),
        }
    }

    pub(crate) fn is_source(&self, address: IpAddr) -> bool {
        self.sources.contains(&address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> StackConfig {
        StackConfig {
            mtu: 65_535,
            range4: (Ipv4Addr::new(198, 18, 0, 0), 16),
            range6: Some((Ipv6Addr::new(0xfd00, 1, 2, 3, 0, 0, 0, 0), 64)),
            random_seed: 1,
            ring_size: 256 * 1024,
            max_held: 16,
            max_flows: 16,
            verify_checksums: true,
            sources: Vec::new(),
        }
    }

    #[test]
    fn the_range_holds_its_own_addresses_and_no_others() {
        let config = config();
        for inside in ["198.18.0.0", "198.18.255.255", "fd00:1:2:3::7"] {
            assert!(config.is_in_range(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["198.19.0.0", "127.0.0.1", "fd00:1:2:4::7", "ff02::1"] {
            assert!(!config.is_in_range(outside.parse().unwrap()), "{outside}");
        }
    }

    #[test]
    fn an_empty_prefix_holds_every_address() {
        let config = StackConfig { range4: (Ipv4Addr::UNSPECIFIED, 0), ..config() };
        assert!(config.is_in_range("203.0.113.9".parse().unwrap()));
    }

    #[test]
    fn a_small_ring_makes_small_segments() {
        assert_eq!(config().effective_mtu(), 65_535);
        assert_eq!(StackConfig { ring_size: 65_536, ..config() }.effective_mtu(), 16_444);
        assert_eq!(StackConfig { ring_size: 512, ..config() }.effective_mtu(), 1_280);
    }
}
