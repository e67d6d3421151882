//! The last refusals of each user, newest first: what `portlatch status` shows, and what is kept for an agent that comes
//! later.

use std::collections::{HashMap, VecDeque};

use portlatch_protocol::attach::{MAX_REFUSALS, Refusal};

/// How many users' refusals are kept; a machine has fewer, and a program cannot make users.
const MAX_USERS: usize = 256;

/// The refusals, by uid.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    users: HashMap<u32, VecDeque<Refusal>>,
}

impl Refusals {
    /// Keeps one.
    pub(crate) fn record(&mut self, uid: u32, refusal: Refusal) {
        if !self.users.contains_key(&uid) && self.users.len() >= MAX_USERS {
            return;
        }
        let kept = self.users.entry(uid).or_default();
        kept.truncate(MAX_REFUSALS - 1);
        kept.push_front(refusal);
    }

    /// Those of one user, newest first.
    pub(crate) fn of(&self, uid: u32) -> Vec<Refusal> {
        self.users.get(&uid).map(|kept| kept.iter().cloned().collect()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portlatch_protocol::refusal::RefusalReason;

    fn refusal(port: u16) -> Refusal {
        let host = "billing-db.corp.internal".to_owned();
        Refusal { time: 0, resource: None, host, port, inode: 0, reason: RefusalReason::NoLogin }
    }

    #[test]
    fn the_newest_hundred_are_kept_and_come_first() {
        let mut refusals = Refusals::default();
        (1..=150).for_each(|port| refusals.record(1000, refusal(port)));
        let kept = refusals.of(1000);
        assert_eq!((kept.len(), kept[0].port, kept[99].port), (100, 150, 51));
    }

    #[test]
    fn users_do_not_see_each_others_refusals() {
        let mut refusals = Refusals::default();
        refusals.record(1000, refusal(1));
        assert!(refusals.of(1001).is_empty());
    }
}
