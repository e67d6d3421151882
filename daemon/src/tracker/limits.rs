//! How much one login may have waiting and granted at once, and how much a grant may carry.

use portlatch_protocol::attach::Grant;
use portlatch_protocol::grant::MAX_GRANT_BYTES;

use super::access::Access;
use super::{PortKey, Tracker};

/// Flows of one login that wait for a tap (design section 8).
pub(super) const MAX_WAITING: usize = 1024;
/// Flows that wait for a tap at one port (design section 8).
pub(super) const MAX_WAITING_AT_PORT: usize = 256;
/// Grants that a status shows: with the refusals beside them it must fit one frame.
pub(super) const MAX_SHOWN: usize = 64;
/// Longest program name that is kept: the agent sends no longer ones.
pub(super) const MAX_PROGRAM: usize = 256;
/// Ways of proving presence that one grant names, and the length of each (RFC 8176's are all shorter).
pub(super) const MAX_METHODS: usize = 8;
pub(super) const MAX_METHOD: usize = 16;
/// Ports that are tracked at once for one login: every wait and every grant is one. Over it, refused.
pub(super) const MAX_PORTS: usize = 8192;
/// Questions to the agent that are open at once: far more than a person's programs ask, and few enough for an agent that
/// is slow to read. A scan of a thousand ports of one's own must not cost the login. Over it, refused.
pub(super) const MAX_ASKED: usize = 512;

impl Tracker {
    /// Whether one more flow may wait for the tap that is needed at this port; true where none is.
    pub(super) fn has_room_for_a_tap(&self, key: &PortKey) -> bool {
        match self.ports.get(key) {
            Some(Access::Tapping { waiting, .. }) => {
                waiting.len() < MAX_WAITING_AT_PORT && self.tapping() < MAX_WAITING
            }
            Some(Access::Asked { .. } | Access::Granted { .. } | Access::Resting { .. }) | None => true,
        }
    }

    pub(super) fn tapping(&self) -> usize {
        let waiting = |access: &Access| match access {
            Access::Tapping { waiting, .. } => waiting.len(),
            Access::Asked { .. } | Access::Granted { .. } | Access::Resting { .. } => 0,
        };
        self.ports.values().map(waiting).sum()
    }
}

/// Whether a grant is one that control may have issued: its parts are as short as they must be to travel on.
pub(super) fn is_sound(grant: &Grant) -> bool {
    grant.token.len() <= MAX_GRANT_BYTES
        && grant.program.as_ref().is_none_or(|program| program.len() <= MAX_PROGRAM)
        && grant.amr.len() <= MAX_METHODS
        && grant.amr.iter().all(|method| method.len() <= MAX_METHOD)
}
