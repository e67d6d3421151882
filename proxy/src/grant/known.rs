//! Grants whose signature was found good, of one tunnel: the same grant comes with every stream for up to five minutes,
//! and its signature is a third of what opening a session costs here (60 us of 200, measured with 16 new connections at
//! a time).
//!
//! What a grant says is looked at for every stream all the same, and so is whether its key is still one of control's.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use jsonwebtoken::DecodingKey;
use portlatch_protocol::grant::GrantClaims;

use crate::watch::{GrantContext, View};

/// Ports that a tunnel uses again and again; a grant and its claims are some 2 KB.
const MAX_KNOWN: usize = 32;

/// The grants of one tunnel, the one used last in front.
#[derive(Default)]
pub struct KnownGrants(Mutex<VecDeque<Known>>);

struct Known {
    grant: String,
    kid: String,
    key: Arc<DecodingKey>,
    claims: Arc<GrantClaims>,
}

impl KnownGrants {
    /// The claims of a grant that is known to be signed with a key that control has now, and what to compare them with.
    pub(super) fn find(&self, grant: &str, view: &View) -> Option<(Arc<GrantClaims>, GrantContext)> {
        // Held for a comparison with a few strings, never across an await.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = known.iter().position(|known| known.grant == grant)?;
        let found = known.remove(at)?;
        let context = view.grant_context(&found.kid)?;
        if !Arc::ptr_eq(&context.key, &found.key) {
            return None;
        }
        let claims = Arc::clone(&found.claims);
        known.push_front(found);
        Some((claims, context))
    }

    /// Its signature was found good with this key.
    pub(super) fn remember(
        &self,
        grant: &str,
        kid: String,
        key: &Arc<DecodingKey>,
        claims: &Arc<GrantClaims>,
    ) {
        let (key, claims) = (Arc::clone(key), Arc::clone(claims));
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.push_front(Known { grant: grant.to_owned(), kid, key, claims });
        known.truncate(MAX_KNOWN);
    }
}

impl std::fmt::Debug for KnownGrants {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KnownGrants").finish_non_exhaustive()
    }
}
