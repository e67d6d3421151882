//! Connection IDs without a key of this process: the next process must recognize them as possible, to answer them with a
//! stateless reset.

use std::time::Duration;

use quinn::{ConnectionId, ConnectionIdGenerator};

const LENGTH: usize = 8;

/// Purely random IDs.
#[derive(Debug)]
pub(super) struct RandomIds;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut bytes = [0; LENGTH];
        getrandom::fill(&mut bytes).expect("the system has randomness, or TLS would not have started");
        ConnectionId::new(&bytes)
    }

    fn cid_len(&self) -> usize {
        LENGTH
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}
