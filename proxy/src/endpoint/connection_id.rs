//! Connection IDs without a key of this process: the next process must recognize them as possible, to answer them with a
//! stateless reset. The first byte says which lane they belong to.

use std::time::Duration;

use quinn::{ConnectionId, ConnectionIdGenerator};

use super::steering;

const LENGTH: usize = 8;

/// Random IDs that lead to one lane.
#[derive(Debug)]
pub(super) struct LaneIds {
    pub(super) lane: usize,
    pub(super) lanes: usize,
}

impl ConnectionIdGenerator for LaneIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut bytes = [0; LENGTH];
        getrandom::fill(&mut bytes).expect("the system has randomness, or TLS would not have started");
        bytes[0] = steering::first_byte(bytes[0], self.lane, self.lanes);
        ConnectionId::new(&bytes)
    }

    fn cid_len(&self) -> usize {
        LENGTH
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}
