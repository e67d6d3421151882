//! How many handshakes may be under way and how many connections open, in all and from one address, so that peers which
//! never finish keep nobody else out.

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
/// Connections open at once at the TCP port: an agent has one or two.
const MAX_CONNECTIONS: usize = 8192;
/// Of these from one address: an office behind one address has a thousand agents.
const MAX_CONNECTIONS_FROM_ONE: u32 = 1024;
/// With so many under way, an address must first show that it is its sender's.
const BUSY_FROM: usize = 64;

/// The places at one port, for handshakes or for connections.
#[derive(Debug, Clone)]
pub struct Places {
    all: Arc<Semaphore>,
    capacity: usize,
    most_from_one: u32,
    by_address: Arc<DashMap<IpAddr, u32>>,
}

impl Places {
    /// Places for handshakes under way.
    pub fn for_handshakes() -> Self {
        Self::new(MAX_HANDSHAKES, MAX_FROM_ONE)
    }

    /// Places for open connections.
    pub fn for_connections() -> Self {
        Self::new(MAX_CONNECTIONS, MAX_CONNECTIONS_FROM_ONE)
    }

    fn new(capacity: usize, most_from_one: u32) -> Self {
        Self { all: Arc::new(Semaphore::new(capacity)), capacity, most_from_one, by_address: Arc::default() }
    }

    /// Whether so many are taken that addresses are to be validated first.
    pub fn are_many(&self) -> bool {
        self.all.available_permits() < self.capacity - BUSY_FROM
    }

    /// A place for this address, until it is dropped; `None` if there is none.
    pub fn admit(&self, address: IpAddr) -> Option<Place> {
        let permit = Arc::clone(&self.all).try_acquire_owned().ok()?;
        let address = network_of(address);
        let mut count = self.by_address.entry(address).or_insert(0);
        if *count >= self.most_from_one {
            return None;
        }
        *count += 1;
        drop(count);
        Some(Place { places: self.clone(), address, _permit: permit })
    }
}

/// A place that is taken.
#[derive(Debug)]
pub struct Place {
    places: Places,
    address: IpAddr,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(mut count) = self.places.by_address.get_mut(&self.address) {
            *count = count.saturating_sub(1);
        }
        self.places.by_address.remove_if(&self.address, |_, count| *count == 0);
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
        let handshakes = Places::for_handshakes();
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
    fn one_address_cannot_take_every_connection() {
        let places = Places::for_connections();
        let hoarder = "198.51.100.7".parse().unwrap();
        let taken: Vec<_> = (0..MAX_CONNECTIONS_FROM_ONE).map(|_| places.admit(hoarder).unwrap()).collect();
        assert!(places.admit(hoarder).is_none());
        assert!(places.admit("198.51.100.8".parse().unwrap()).is_some());
        drop(taken);
        assert!(places.admit(hoarder).is_some());
    }

    #[test]
    fn nothing_is_kept_of_finished_handshakes() {
        let handshakes = Places::for_handshakes();
        drop(handshakes.admit("10.0.0.1".parse().unwrap()));
        assert!(handshakes.by_address.is_empty() && !handshakes.are_many());
    }
}
