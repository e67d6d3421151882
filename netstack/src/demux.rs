//! From a segment's addresses and ports to what it belongs to, at a cost that does not depend on how much there is.
//!
//! The table has the 4-tuples' hashes and not the 4-tuples, which stand with their owners: an entry takes 16 bytes, so
//! that 100,000 of them lie in the processor's cache, and the owner is looked at next anyway. Sixty-four bits of a keyed
//! hash stand for one 4-tuple alone: among 100,000 two meet once in four thousand million tables. If they ever do, the
//! later one is found and the other is not, as if its owner were gone.

use std::collections::HashMap;
use std::hash::{BuildHasher, DefaultHasher, Hasher};
use std::net::{IpAddr, SocketAddr};

/// With fewer entries than this part of its room a table gives the rest back.
const SPARSE: usize = 8;
/// A table this small need not shrink.
const SMALL: usize = 1_024;

/// The name of a TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FourTuple {
    /// The local program's end.
    pub(crate) source: SocketAddr,
    /// Our end.
    pub(crate) destination: SocketAddr,
}

/// What a 4-tuple stands for at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A SYN that waits for its answer.
    Held(u32),
    /// A flow.
    Flow(u32),
    /// A connection that is over; only its last acknowledgement may have to be said again.
    TimeWait(u32),
}

/// All 4-tuples that stand for something.
#[derive(Debug)]
pub(crate) struct Tuples {
    owners: HashMap<u64, Owner, Hashed>,
    seeded: Seeded,
}

impl Tuples {
    pub(crate) fn new(seeded: Seeded) -> Tuples {
        Tuples { owners: HashMap::default(), seeded }
    }

    /// Who has this 4-tuple, most probably; whoever is asked next knows it for sure.
    pub(crate) fn get(&self, tuple: &FourTuple) -> Option<Owner> {
        self.owners.get(&self.seeded.hash(tuple)).copied()
    }

    pub(crate) fn insert(&mut self, tuple: &FourTuple, owner: Owner) {
        self.owners.insert(self.seeded.hash(tuple), owner);
    }

    /// Takes the entry away if it is this owner's.
    pub(crate) fn remove(&mut self, tuple: &FourTuple, owner: Owner) {
        let hash = self.seeded.hash(tuple);
        if self.owners.get(&hash) == Some(&owner) {
            self.owners.remove(&hash);
            self.shrink();
        }
    }

    /// After a crowd. Each time costs as much as there are entries left, and comes after many times as many have gone.
    fn shrink(&mut self) {
        let room = self.owners.capacity();
        if room > SMALL && self.owners.len() < room / SPARSE {
            self.owners.shrink_to(2 * self.owners.len());
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.owners.len()
    }

    #[cfg(test)]
    fn room(&self) -> usize {
        self.owners.capacity()
    }
}

/// Hashes with a secret, so that nobody can choose ports that all fall into one bucket.
#[derive(Debug, Clone)]
pub(crate) struct Seeded(DefaultHasher);

impl Seeded {
    /// `what` tells the hashes that are made of one secret apart: from none of them the secret can be had, or another one.
    pub(crate) fn new(secret: u64, what: u64) -> Seeded {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(secret);
        hasher.write_u64(what);
        Seeded(hasher)
    }

    /// A number that tells nothing of the secret.
    pub(crate) fn number(&self) -> u64 {
        self.0.finish()
    }

    /// A few whole words cost half of what the parts cost one by one. The two families differ in length.
    fn hash(&self, tuple: &FourTuple) -> u64 {
        let mut hasher = self.0.clone();
        for end in [tuple.source, tuple.destination] {
            match end.ip() {
                IpAddr::V4(address) => {
                    hasher.write_u64(u64::from(u32::from(address)) << 16 | u64::from(end.port()));
                }
                IpAddr::V6(address) => {
                    let bits = u128::from(address);
                    hasher.write_u64((bits >> 64) as u64);
                    hasher.write_u64(bits as u64);
                    hasher.write_u64(end.port().into());
                }
            }
        }
        hasher.finish()
    }
}

impl BuildHasher for Seeded {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        self.0.clone()
    }
}

/// For what is a hash already.
#[derive(Debug, Default, Clone, Copy)]
struct Hashed(u64);

impl BuildHasher for Hashed {
    type Hasher = Hashed;

    fn build_hasher(&self) -> Hashed {
        Hashed::default()
    }
}

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("a hash is one number");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(number: u32) -> FourTuple {
        let source = SocketAddr::from(([198, 18, 0, 1], number as u16));
        FourTuple { source, destination: SocketAddr::from(([198, 18, 7, (number >> 16) as u8], 80)) }
    }

    #[test]
    fn what_was_put_in_is_found_until_its_owner_takes_it_out() {
        let mut tuples = Tuples::new(Seeded::new(1, 2));
        for number in 0..100_000 {
            tuples.insert(&tuple(number), Owner::Flow(number));
        }
        for number in 0..100_000 {
            assert_eq!(tuples.get(&tuple(number)), Some(Owner::Flow(number)));
            tuples.remove(&tuple(number), Owner::Held(number));
            assert_eq!(tuples.get(&tuple(number)), Some(Owner::Flow(number)));
            tuples.remove(&tuple(number), Owner::Flow(number));
            assert_eq!(tuples.get(&tuple(number)), None);
        }
        assert_eq!(tuples.len(), 0);
    }

    #[test]
    fn a_table_gives_back_the_room_of_a_crowd() {
        let mut tuples = Tuples::new(Seeded::new(1, 2));
        for number in 0..50_000 {
            tuples.insert(&tuple(number), Owner::Flow(number));
        }
        for number in 10..50_000 {
            tuples.remove(&tuple(number), Owner::Flow(number));
        }
        assert!(tuples.room() <= 2 * SMALL, "{}", tuples.room());
        for number in 0..10 {
            assert_eq!(tuples.get(&tuple(number)), Some(Owner::Flow(number)));
        }
    }

    #[test]
    fn ends_that_differ_in_anything_hash_differently() {
        let seeded = Seeded::new(1, 2);
        let ends = ["198.18.0.1:80", "198.18.0.1:81", "198.18.0.2:80", "[fd00::1]:80", "[fd00::1]:81"];
        let ends = ends.map(|end| end.parse().unwrap());
        let mut hashes = Vec::new();
        for source in ends {
            hashes.extend(ends.map(|destination| seeded.hash(&FourTuple { source, destination })));
        }
        let different: std::collections::HashSet<_> = hashes.iter().collect();
        assert_eq!(different.len(), hashes.len());
        assert_ne!(Seeded::new(1, 3).number(), seeded.number());
        assert_ne!(Seeded::new(2, 2).number(), seeded.number());
    }
}
