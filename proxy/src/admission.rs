//! How many handshakes may be under way and how many connections open, in all and from one address, so that peers which
//! never finish keep nobody else out.
//!
//! A handshake that finishes takes a few round trips; one that is under way for long is a peer's that withholds
//! something. So where there is no place left for another, the oldest gives way. A connection that is open may well be
//! in use: there it is the newcomer who is turned away.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// What a handshake has (design section 11).
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// Handshakes under way at once: some 30 KB each.
const MAX_HANDSHAKES: usize = 1024;
/// Of these from one address. An office behind one address reconnects within seconds at this width.
const MAX_FROM_ONE: usize = 128;
/// Connections open at once at the TCP port: an agent has one or two.
const MAX_CONNECTIONS: usize = 8192;
/// Of these from one address: an office behind one address has a thousand agents.
const MAX_CONNECTIONS_FROM_ONE: u32 = 1024;
/// With so many under way, an address must first show that it is its sender's.
const BUSY_FROM: usize = 64;

/// The handshakes under way at one port.
#[derive(Debug, Clone, Default)]
pub struct Handshakes {
    /// A lock and not a task: held for a look at the table, never across an await.
    table: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    /// In the order in which they began.
    underway: BTreeMap<u64, Handshake>,
    by_address: HashMap<IpAddr, BTreeSet<u64>>,
}

#[derive(Debug)]
struct Handshake {
    address: IpAddr,
    gives_way: CancellationToken,
}

impl Handshakes {
    /// Whether so many are under way that addresses are to be validated first.
    pub fn are_many(&self) -> bool {
        self.lock().underway.len() >= BUSY_FROM
    }

    /// A place for another one from this address. If there is none left, the oldest gives way: the oldest from the same
    /// address, if that has its share.
    pub fn begin(&self, address: IpAddr) -> Underway {
        let address = network_of(address);
        let mut table = self.lock();
        let of_address = table.by_address.get(&address);
        let oldest = match of_address.filter(|numbers| numbers.len() >= MAX_FROM_ONE) {
            Some(numbers) => numbers.first().copied(),
            None if table.underway.len() >= MAX_HANDSHAKES => table.underway.keys().next().copied(),
            None => None,
        };
        if let Some(handshake) = oldest.and_then(|oldest| table.remove(oldest)) {
            handshake.gives_way.cancel();
        }
        let (number, gives_way) = (table.next, CancellationToken::new());
        table.next += 1;
        table.underway.insert(number, Handshake { address, gives_way: gives_way.clone() });
        table.by_address.entry(address).or_default().insert(number);
        Underway { handshakes: self.clone(), number, gives_way }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn remove(&mut self, number: u64) -> Option<Handshake> {
        let handshake = self.underway.remove(&number)?;
        if let Some(numbers) = self.by_address.get_mut(&handshake.address) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.by_address.remove(&handshake.address);
            }
        }
        Some(handshake)
    }
}

/// A handshake's place, given back when dropped.
#[derive(Debug)]
pub struct Underway {
    handshakes: Handshakes,
    number: u64,
    gives_way: CancellationToken,
}

impl Underway {
    /// Returns once the handshake has to give way to a newer one.
    pub async fn gives_way(&self) {
        self.gives_way.cancelled().await;
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.handshakes.lock().remove(self.number);
    }
}

/// The places of open connections at one port.
#[derive(Debug, Clone)]
pub struct Places {
    all: Arc<Semaphore>,
    by_address: Arc<DashMap<IpAddr, u32>>,
}

impl Default for Places {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(MAX_CONNECTIONS)), by_address: Arc::default() }
    }
}

impl Places {
    /// A place for this address, until it is dropped; `None` if there is none.
    pub fn admit(&self, address: IpAddr) -> Option<Place> {
        let permit = Arc::clone(&self.all).try_acquire_owned().ok()?;
        let address = network_of(address);
        let mut count = self.by_address.entry(address).or_insert(0);
        if *count >= MAX_CONNECTIONS_FROM_ONE {
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

    fn has_to_go(underway: &Underway) -> bool {
        underway.gives_way.is_cancelled()
    }

    #[test]
    fn the_oldest_handshake_from_a_crowded_address_gives_way_and_no_other() {
        let handshakes = Handshakes::default();
        let begin = |address: &str| handshakes.begin(address.parse().unwrap());
        let elsewhere = begin("2001:db8:0:1::1");
        // All of a /64 is one host.
        let crowd: Vec<_> = (1..=MAX_FROM_ONE).map(|host| begin(&format!("2001:db8::{host:x}"))).collect();
        assert!(handshakes.are_many() && crowd.iter().all(|underway| !has_to_go(underway)));
        let next = begin("2001:db8::ffff");
        assert!(has_to_go(&crowd[0]) && !crowd[1..].iter().any(has_to_go));
        assert!(!has_to_go(&elsewhere) && !has_to_go(&next));
        drop(crowd);
        assert_eq!(handshakes.lock().underway.len(), 2);
    }

    #[test]
    fn where_all_places_are_taken_the_oldest_handshake_gives_way_to_a_newcomer() {
        let handshakes = Handshakes::default();
        let address = |number: usize| IpAddr::from(u32::try_from(number).unwrap().to_be_bytes());
        let taken: Vec<_> = (0..MAX_HANDSHAKES).map(|number| handshakes.begin(address(number))).collect();
        let newcomer = handshakes.begin(address(MAX_HANDSHAKES));
        assert!(has_to_go(&taken[0]) && !taken[1..].iter().any(has_to_go) && !has_to_go(&newcomer));
        assert_eq!(handshakes.lock().underway.len(), MAX_HANDSHAKES);
    }

    #[test]
    fn nothing_is_kept_of_finished_handshakes() {
        let handshakes = Handshakes::default();
        drop(handshakes.begin("10.0.0.1".parse().unwrap()));
        let table = handshakes.lock();
        assert!(table.underway.is_empty() && table.by_address.is_empty());
    }

    #[test]
    fn one_address_cannot_take_every_connection() {
        let places = Places::default();
        let hoarder = "198.51.100.7".parse().unwrap();
        let taken: Vec<_> = (0..MAX_CONNECTIONS_FROM_ONE).map(|_| places.admit(hoarder).unwrap()).collect();
        assert!(places.admit(hoarder).is_none());
        assert!(places.admit("198.51.100.8".parse().unwrap()).is_some());
        drop(taken);
        assert!(places.admit(hoarder).is_some());
    }
}
