//! The machine's network configuration as one value. Applying it twice equals applying it once; how is in
//! `linux/network.rs`.

use super::ranges::{Range4, Range6};

/// The private table's number, and the priority of its rule. Before every rule of other products, behind `local`.
pub(super) const NUMBER: u32 = 5200;

/// What the machine's network shall look like for us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkPlan {
    /// The TUN's name.
    pub interface: String,
    /// The TUN's number.
    pub ifindex: u32,
    /// The IPv4 range.
    pub range4: Range4,
    /// The IPv6 range, unless IPv6 is switched off.
    pub range6: Option<Range6>,
    /// The routing table that holds the range's route to the TUN, and nothing else.
    pub table: u32,
    /// The priority of `iif lo to RANGE lookup TABLE`; `to RANGE unreachable` comes right behind it.
    pub priority: u32,
}

impl NetworkPlan {
    /// The plan with the usual table and priorities.
    pub fn new(interface: &str, ifindex: u32, range4: Range4, range6: Option<Range6>) -> Self {
        Self { interface: interface.to_owned(), ifindex, range4, range6, table: NUMBER, priority: NUMBER }
    }
}

/// What came of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// Whether addresses of the IPv6 range reach us.
    pub ipv6: Ipv6State,
}

/// Whether IPv6 works on the TUN. Where it does not, nobody may be given an AAAA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ipv6State {
    /// It does.
    Works,
    /// The plan has no IPv6 range, or the machine has no IPv6.
    Off,
}
