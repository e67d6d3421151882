//! From a segment's addresses and ports to what it belongs to, at a cost that does not depend on how much there is.

use std::collections::HashMap;
use std::hash::{BuildHasher, DefaultHasher, Hasher};
use std::net::SocketAddr;

use crate::time_wait::TimeWait;

/// The name of a TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FourTuple {
    /// The local program's end.
    pub(crate) source: SocketAddr,
    /// Our end.
    pub(crate) destination: SocketAddr,
}

/// What a 4-tuple stands for at the moment.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Owner {
    /// A SYN that waits for its answer.
    Held(u32),
    /// A flow.
    Flow(u32),
    /// A connection that is over; only its last acknowledgement may have to be said again.
    TimeWait(TimeWait),
}

/// All 4-tuples that stand for something.
pub(crate) type Tuples = HashMap<FourTuple, Owner, Seeded>;

/// Hashes with a secret, so that nobody can choose ports that all fall into one bucket.
#[derive(Debug, Clone)]
pub(crate) struct Seeded(pub(crate) u64);

impl BuildHasher for Seeded {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.0);
        hasher
    }
}
