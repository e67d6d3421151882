//! How many handshakes may be under way, in all and from one address, so that peers which never finish theirs keep
//! nobody else out.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What a handshake has (design section 11).
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// Handshakes under way at once: some 30 KB each.
const MAX_HANDSHAKES: usize = 1024;
/// Of these from one address. An office behind one address reconnects within seconds at this width.
const MAX_FROM_ONE: u32 = 128;
/// With so many under way, an address must first show that it is its sender's.
const BUSY_FROM: usize = 64;

/// The handshakes under way at one port.
#[derive(Debug, Clone)]
pub struct Handshakes {
    all: Arc<Semaphore>,
    by_address: Arc<DashMap<IpAddr, u32>>,
}

impl Default for Handshakes {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(MAX_HANDSHAKES)), by_address: Arc::default() }
    }
}

impl Handshakes {
    /// Whether so many are under way that addresses are to be validated first.
    pub fn are_many(&self) -> bool {
        self.all.available_permits() < MAX_HANDSHAKES - BUSY_FROM
    }

    /// A place for one handshake from this address, until it is dropped; `None` if there is none.
    pub fn admit(&self, address: IpAddr) -> Option<Underway> {
        let permit = Arc::clone(&self.all).try_acquire_owned().ok()?;
        let address = network_of(address);
        let mut count = self.by_address.entry(address).or_insert(0);
        if *count >= MAX_FROM_ONE {
            return None;
        }
        *count += 1;
        drop(count);
        Some(Underway { handshakes: self.clone(), address, _permit: permit })
    }
}

/// One handshake's place.
#[derive(Debug)]
pub struct Underway {
    handshakes: Handshakes,
    address: IpAddr,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Underway {
    fn drop(&mut self) {
        if let Some(mut count) = self.handshakes.by_address.get_mut(&self.address) {
            *count = count.saturating_sub(1);
        }
        self.handshakes.by_address.remove_if(&self.address, |_, count| *count == 0);
    }
}

/// An IPv6 host has all of its /64.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) & !u128::from(u64::MAX);
            IpAddr::V6(network.into())
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_every_place() {
        let handshakes = Handshakes::default();
        let flooder = "2001:db8::1".parse().unwrap();
        let neighbour_of_it = "2001:db8::2".parse().unwrap();
        let mut taken: Vec<_> = (0..MAX_FROM_ONE).map(|_| handshakes.admit(flooder).unwrap()).collect();
        assert!(handshakes.admit(flooder).is_none() && handshakes.admit(neighbour_of_it).is_none());
        assert!(handshakes.admit("2001:db8:0:1::1".parse().unwrap()).is_some());
        assert!(handshakes.are_many());
        taken.pop();
        assert!(handshakes.admit(neighbour_of_it).is_some());
    }

    #[test]
    fn nothing_is_kept_of_finished_handshakes() {
        let handshakes = Handshakes::default();
        drop(handshakes.admit("10.0.0.1".parse().unwrap()));
        assert!(handshakes.by_address.is_empty() && !handshakes.are_many());
    }
}
