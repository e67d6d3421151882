//! Browsers: who is signed in at the pages, what a page has begun, and what a person decides there for an agent that
//! waits.
//!
//! ```text
//! visit ──► sign in ──► session ──► keys, codes
//!   (cookie)  passkey,     (cookie)  └──► approve or deny what an agent asks for
//!             password + key
//! ```
//!
//! Every WebAuthn answer that comes here was made for the browser's origin, answers a challenge that was made for a page,
//! and belongs to the cookie that the challenge was made for. Not here: HTML, cookies and headers ([`crate::pages`]).

use std::net::IpAddr;

use portlatch_protocol::names::{Id, UserName};
use sha2::{Digest as _, Sha256};

use self::challenges::PageChallenges;
use self::secrets::CookieHash;
use crate::control::Control;
use crate::keys::Keys;

pub(crate) mod challenges;
pub(crate) mod enrolment;
pub(crate) mod secrets;
pub(crate) mod sessions;
pub(crate) mod sign_in;

/// What control keeps of browsers in memory.
#[derive(Debug)]
pub(crate) struct Browsers {
    pub(crate) challenges: PageChallenges,
    /// What credentials of nobody are named with: a secret that stays, so that nobody can tell them from somebody's.
    pub(crate) decoy: [u8; 32],
}

impl Browsers {
    /// Nobody has begun anything.
    pub(crate) fn new(keys: &Keys) -> Self {
        let decoy = Sha256::new().chain_update("portlatch decoy").chain_update(keys.grant_key());
        Self { challenges: PageChallenges::default(), decoy: decoy.finalize().into() }
    }
}

/// A browser at a page, signed in or not: the hash of the cookie that its challenges belong to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Visit {
    /// Of the cookie.
    pub(crate) owner: CookieHash,
    /// From where.
    pub(crate) address: IpAddr,
}

/// What a page's script hands to the authenticator.
#[derive(Debug)]
pub(crate) struct Task {
    /// Names the challenge.
    pub(crate) challenge: Id,
    /// WebAuthn's options in `{"publicKey": ...}`.
    pub(crate) options: serde_json::Value,
}

impl Control {
    /// Forgets page challenges that rest on a user.
    pub(crate) async fn forget_pages_of(&self, user: &UserName, reason: &str) {
        for event in self.browsers.challenges.forget_user(user, reason) {
            self.audit.note(event).await;
        }
    }

    /// Records page challenges that nobody can answer any more.
    pub(crate) async fn note_lapsed_pages(&self) {
        for event in self.browsers.challenges.take_expired(self.clock.boot_time()) {
            self.audit.note(event).await;
        }
    }
}
