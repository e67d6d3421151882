//! What the daemon knows: of the asking user, for `portlatch status`; of the machine, for `portlatch doctor`.

use std::net::Ipv4Addr;
use std::time::Duration;

use minicbor::{Decode, Encode};

use crate::names::{ProxyName, ResourceId};
use crate::refusal::RefusalReason;

/// A connection that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Refusal {
    /// Seconds since 1970, by this machine's clock.
    #[n(0)]
    pub time: i64,
    /// The resource, where the address named one.
    #[n(1)]
    pub resource: Option<ResourceId>,
    /// The host name, where the address has one; else the address.
    #[n(2)]
    pub host: String,
    /// The port.
    #[n(3)]
    pub port: u16,
    /// The inode of the program's socket; 0 where unknown.
    #[n(4)]
    pub inode: u64,
    /// Why.
    #[n(5)]
    pub reason: RefusalReason,
}

/// What the daemon knows of the asking user.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Status {
    /// The pid of the attached agent, if any.
    #[n(0)]
    pub agent: Option<u32>,
    /// The grants it holds.
    #[n(1)]
    pub grants: Vec<HeldGrant>,
    /// Newest first, at most [`MAX_REFUSALS`](super::MAX_REFUSALS).
    #[n(2)]
    pub refusals: Vec<Refusal>,
    /// Tunnels that are up.
    #[n(3)]
    pub tunnels: Vec<ProxyName>,
    /// Flows that are open.
    #[n(4)]
    pub flows: u32,
}

/// What the daemon knows of the machine, for `portlatch doctor`. Every local user may ask.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Machine {
    /// The range of our names' addresses.
    #[n(0)]
    pub network: Ipv4Addr,
    /// The length of its prefix.
    #[n(1)]
    pub prefix_length: u8,
    /// What works less well than it could.
    #[n(2)]
    pub findings: Vec<Finding>,
}

impl Machine {
    /// Whether an address is one of our names'.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        let mask = u32::MAX.checked_shl(32_u32.saturating_sub(u32::from(self.prefix_length))).unwrap_or(0);
        address.to_bits() & mask == self.network.to_bits() & mask
    }
}

/// One thing of the machine that a person should know.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Finding {
    /// What it is about, in a word.
    #[n(0)]
    pub subject: String,
    /// What is wrong.
    #[n(1)]
    pub what: String,
    /// What to do about it.
    #[n(2)]
    pub advice: String,
}

/// A grant in the daemon's memory, as status shows it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct HeldGrant {
    /// The resource.
    #[n(0)]
    pub resource: ResourceId,
    /// The port.
    #[n(1)]
    pub port: u16,
    /// How long it still serves.
    #[n(2)]
    pub expires_in: Duration,
    /// How presence was proved.
    #[n(3)]
    pub amr: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_ends_where_its_prefix_says() {
        let contains = |prefix_length, address: [u8; 4]| {
            let network = Ipv4Addr::new(198, 18, 0, 0);
            Machine { network, prefix_length, findings: vec![] }.contains(address.into())
        };
        assert!(contains(16, [198, 18, 255, 255]) && !contains(16, [198, 19, 0, 0]));
        assert!(contains(0, [1, 1, 1, 1]) && contains(32, [198, 18, 0, 0]) && !contains(32, [198, 18, 0, 1]));
        assert!(!contains(200, [198, 18, 0, 1]), "a prefix of nonsense does no harm");
    }
}
