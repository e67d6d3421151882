//! The ranges of addresses that names are mapped into, and which of them is free on this machine. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use portlatch_protocol::names::Hostname;

/// Tried in this order. RFC 2544's benchmark range: routed by nobody, and unlike 100.64.0.0/10 not in use by other
/// products of this kind.
const CANDIDATES: [Range4; 2] = [Range4::slash_16([198, 18]), Range4::slash_16([198, 19])];
/// Routes shorter than this stand for "everything": some VPNs write the default route as two or more halves.
const SHORTEST_SPECIFIC: u8 = 4;

/// A range of IPv4 addresses. The first address is the TUN's, the second our DNS server's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Range4 {
    network: Ipv4Addr,
    prefix_length: u8,
}

/// A range of IPv6 addresses, a /64. The first address is the TUN's, the second our DNS server's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Range6 {
    network: Ipv6Addr,
}

/// Why a text is no range for us.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRange {
    /// Not of the form.
    #[error("a range is written ADDRESS/PREFIX, as in {example}")]
    Form {
        /// A right one.
        example: &'static str,
    },
    /// Bits behind the prefix are set.
    #[error("the range that holds this address is {range}")]
    NotTheFirst {
        /// What was probably meant.
        range: String,
    },
    /// Too many or too few addresses.
    #[error("a range has a prefix of {allowed}")]
    Size {
        /// The prefixes that are possible.
        allowed: &'static str,
    },
    /// The kernel treats these addresses in its own way.
    #[error("{what} addresses cannot be routed to an interface")]
    Special {
        /// Their kind.
        what: &'static str,
    },
}

impl Range4 {
    const fn slash_16([a, b]: [u8; 2]) -> Self {
        Self { network: Ipv4Addr::new(a, b, 0, 0), prefix_length: 16 }
    }

    /// The range of this network and prefix.
    ///
    /// # Errors
    /// A [`BadRange`] where the two do not name a range that we can use.
    pub fn new(network: Ipv4Addr, prefix_length: u8) -> Result<Self, BadRange> {
        // Up to the size of a class A network; down to the smallest that holds a useful number of names.
        if !(8..=24).contains(&prefix_length) {
            return Err(BadRange::Size {
                allowed: "8 to 24; /16 holds every name that the daemon ever maps",
            });
        }
        let first = Ipv4Addr::from_bits(network.to_bits() & mask4(prefix_length));
        if first != network {
            return Err(BadRange::NotTheFirst { range: format!("{first}/{prefix_length}") });
        }
        let special = [
            (network.octets()[0] == 0, "0.x"),
            (network.is_loopback(), "loopback"),
            (network.is_link_local(), "link-local"),
            (network.octets()[0] >= 224, "multicast and reserved"),
        ];
        match special.into_iter().find(|(is_special, _)| *is_special) {
            Some((_, what)) => Err(BadRange::Special { what }),
            None => Ok(Self { network, prefix_length }),
        }
    }

    /// Its first address, which nobody gets.
    pub fn network(&self) -> Ipv4Addr {
        self.network
    }

    /// How many leading bits all its addresses share.
    pub fn prefix_length(&self) -> u8 {
        self.prefix_length
    }

    /// The zones that addresses of the range are looked up in (RFC 1035 section 3.5): one, or several where the prefix
    /// does not end at a dot.
    pub fn reverse_zones(&self) -> Vec<Hostname> {
        let octets = usize::from(self.prefix_length.div_ceil(8));
        let block = 1_u32 << (32 - 8 * octets);
        let last = self.network.to_bits() | !mask4(self.prefix_length);
        (self.network.to_bits()..=last)
            .step_by(block as usize)
            .map(|first| {
                let first = first.to_be_bytes();
                let labels: Vec<String> = first[..octets].iter().rev().map(u8::to_string).collect();
                let zone = format!("{}.in-addr.arpa", labels.join("."));
                zone.parse().expect("numbers and dots make a name")
            })
            .collect()
    }

    /// The TUN's own address: the source of what local programs send into the range.
    pub fn own_address(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits() + 1)
    }

    /// The address at which our DNS server answers. No kernel socket has it: it is inside the netstack.
    pub fn dns_address(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits() + 2)
    }

    /// Whether an address is one of the range's.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask4(self.prefix_length) == self.network.to_bits()
    }
}

impl Range6 {
    /// The range of this network.
    ///
    /// # Errors
    /// A [`BadRange`] if bits behind the 64th are set, or the kernel treats such addresses in its own way.
    pub fn new(network: Ipv6Addr) -> Result<Self, BadRange> {
        let first = Ipv6Addr::from_bits(network.to_bits() & !u128::from(u64::MAX));
        if first != network {
            return Err(BadRange::NotTheFirst { range: format!("{first}/64") });
        }
        let special = [
            (network.segments()[0] == 0, "loopback, mapped and unspecified"),
            (network.is_unicast_link_local(), "link-local"),
            (network.is_multicast(), "multicast"),
        ];
        match special.into_iter().find(|(is_special, _)| *is_special) {
            Some((_, what)) => Err(BadRange::Special { what }),
            None => Ok(Self { network }),
        }
    }

    /// A unique local range (RFC 4193) of these random bytes: 40 bits of global id, 16 of subnet.
    pub fn from_random(bytes: [u8; 7]) -> Self {
        let mut octets = [0; 16];
        octets[0] = 0xfd;
        octets[1..8].copy_from_slice(&bytes);
        Self { network: Ipv6Addr::from(octets) }
    }

    /// Its first address, which nobody gets.
    pub fn network(&self) -> Ipv6Addr {
        self.network
    }

    /// How many leading bits all its addresses share: 64.
    pub fn prefix_length(&self) -> u8 {
        64
    }

    /// The zone that addresses of the range are looked up in (RFC 3596 section 2.5).
    pub fn reverse_zone(&self) -> Hostname {
        let nibbles =
            self.network.octets()[..8].iter().flat_map(|octet| [octet >> 4, octet & 15]).collect::<Vec<_>>();
        let labels: Vec<String> = nibbles.iter().rev().map(|nibble| format!("{nibble:x}")).collect();
        format!("{}.ip6.arpa", labels.join(".")).parse().expect("digits and dots make a name")
    }

    /// The TUN's own address.
    pub fn own_address(&self) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.network.to_bits() + 1)
    }

    /// The address at which our DNS server answers.
    pub fn dns_address(&self) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.network.to_bits() + 2)
    }

    /// Whether an address is one of the range's.
    pub fn contains(&self, address: Ipv6Addr) -> bool {
        address.to_bits() >> 64 == self.network.to_bits() >> 64
    }
}

const fn mask4(prefix_length: u8) -> u32 {
    match prefix_length {
        0 => 0,
        length => u32::MAX << (32 - length as u32),
    }
}

impl fmt::Display for Range4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix_length)
    }
}

impl fmt::Display for Range6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/64", self.network)
    }
}

impl FromStr for Range4 {
    type Err = BadRange;
    fn from_str(text: &str) -> Result<Self, BadRange> {
        let form = || BadRange::Form { example: "198.18.0.0/16" };
        let (network, prefix_length) = text.split_once('/').ok_or_else(form)?;
        Self::new(network.parse().map_err(|_| form())?, prefix_length.parse().map_err(|_| form())?)
    }
}

impl FromStr for Range6 {
    type Err = BadRange;
    fn from_str(text: &str) -> Result<Self, BadRange> {
        let form = || BadRange::Form { example: "fd12:3456:789a:1::/64" };
        let (network, prefix_length) = text.split_once('/').ok_or_else(form)?;
        match prefix_length.parse::<u8>().map_err(|_| form())? {
            64 => Self::new(network.parse().map_err(|_| form())?),
            _ => Err(BadRange::Size { allowed: "64" }),
        }
    }
}

/// The addresses that a route of this machine leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Destination {
    /// The first of them.
    pub network: IpAddr,
    /// How many leading bits they share.
    pub prefix_length: u8,
}

impl Destination {
    fn overlaps(&self, range: &Range4) -> bool {
        let IpAddr::V4(network) = self.network else { return false };
        let shared = mask4(self.prefix_length.min(range.prefix_length));
        self.prefix_length >= SHORTEST_SPECIFIC
            && network.to_bits() & shared == range.network.to_bits() & shared
    }
}

/// No range is free.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "this machine has routes into both 198.18.0.0/16 and 198.19.0.0/16: pin a free one with `range` in daemon.toml"
)]
pub struct NoFreeRange;

/// Picks the IPv4 range: the pinned one whatever the routes say, else `previous` (addresses that programs know stay
/// valid) or the first candidate that no route of another leads into.
///
/// # Errors
/// [`NoFreeRange`].
pub fn choose(
    pinned: Option<Range4>,
    previous: Option<Range4>,
    routes: &[Destination],
) -> Result<Range4, NoFreeRange> {
    if let Some(pinned) = pinned {
        return Ok(pinned);
    }
    let is_free = |range: &Range4| is_free(range, routes);
    previous.into_iter().chain(CANDIDATES).find(is_free).ok_or(NoFreeRange)
}

/// Whether no route leads into the range.
pub fn is_free(range: &Range4, routes: &[Destination]) -> bool {
    !routes.iter().any(|route| route.overlaps(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reverse_zones_are_those_of_the_range_and_no_wider() {
        let zones = |text| range(text).reverse_zones().iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(zones("198.18.0.0/16"), ["18.198.in-addr.arpa"]);
        assert_eq!(zones("10.4.0.0/15"), ["4.10.in-addr.arpa", "5.10.in-addr.arpa"]);
        assert_eq!(zones("10.1.2.0/24"), ["2.1.10.in-addr.arpa"]);
        let range6: Range6 = "fd31:fb81:48ce:16aa::/64".parse().unwrap();
        assert_eq!(range6.reverse_zone().as_str(), "a.a.6.1.e.c.8.4.1.8.b.f.1.3.d.f.ip6.arpa");
    }

    fn route(text: &str) -> Destination {
        let (network, prefix_length) = text.split_once('/').unwrap();
        Destination { network: network.parse().unwrap(), prefix_length: prefix_length.parse().unwrap() }
    }

    fn range(text: &str) -> Range4 {
        text.parse().unwrap()
    }

    #[test]
    fn the_first_range_without_routes_is_taken() {
        assert_eq!(choose(None, None, &[route("10.0.0.0/8")]), Ok(range("198.18.0.0/16")));
        assert_eq!(choose(None, None, &[route("198.18.7.0/24")]), Ok(range("198.19.0.0/16")));
        assert_eq!(choose(None, None, &[route("198.18.0.0/15")]), Err(NoFreeRange));
    }

    #[test]
    fn routes_that_stand_for_everything_are_no_conflict() {
        for everything in ["0.0.0.0/0", "128.0.0.0/1", "192.0.0.0/2"] {
            assert_eq!(choose(None, None, &[route(everything)]), Ok(range("198.18.0.0/16")), "{everything}");
        }
    }

    #[test]
    fn the_range_of_before_is_kept_while_it_is_free() {
        let before = Some(range("198.19.0.0/16"));
        assert_eq!(choose(None, before, &[]), Ok(range("198.19.0.0/16")));
        assert_eq!(choose(None, before, &[route("198.19.3.3/32")]), Ok(range("198.18.0.0/16")));
    }

    #[test]
    fn a_pinned_range_is_taken_whatever_the_routes_say() {
        let pinned = Some(range("10.9.0.0/16"));
        assert_eq!(choose(pinned, None, &[route("10.9.1.0/24")]), Ok(range("10.9.0.0/16")));
    }

    #[test]
    fn a_range_is_read_only_if_it_can_be_routed_to_us() {
        for bad in
            ["198.18.0.0", "198.18.0.1/16", "127.0.0.0/8", "224.0.0.0/8", "10.0.0.0/25", "10.0.0.0/7", "x/16"]
        {
            assert!(bad.parse::<Range4>().is_err(), "{bad:?} was accepted");
        }
        for bad in ["fd00::/48", "fd00::1/64", "fe80::/64", "::/64", "ff00::/64", "fd00::"] {
            assert!(bad.parse::<Range6>().is_err(), "{bad:?} was accepted");
        }
        assert_eq!(
            "198.18.3.4/16".parse::<Range4>().unwrap_err().to_string(),
            "the range that holds this address is 198.18.0.0/16"
        );
    }

    #[test]
    fn own_and_dns_address_lie_at_the_range_start() {
        let range4 = range("198.18.0.0/16");
        assert_eq!(
            (range4.own_address(), range4.dns_address()),
            (Ipv4Addr::new(198, 18, 0, 1), Ipv4Addr::new(198, 18, 0, 2))
        );
        let range6 = Range6::from_random([0x12, 0x34, 0x56, 0x78, 0x9a, 0, 1]);
        assert_eq!(range6.to_string(), "fd12:3456:789a:1::/64");
        assert_eq!(range6.dns_address().to_string(), "fd12:3456:789a:1::2");
        assert!(
            range6.contains(range6.own_address()) && !range6.contains("fd12:3456:789a:2::1".parse().unwrap())
        );
    }
}
