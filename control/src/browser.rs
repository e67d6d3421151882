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

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use portlatch_audit::{Event, EventKind};
use portlatch_clock::BootTime;
use portlatch_protocol::names::{Id, UserName};
use sha2::{Digest as _, Sha256};

use self::challenges::PageChallenges;
use self::device_login::DeviceLogins;
use self::secrets::CookieHash;
use crate::control::Control;
use crate::keys::Keys;
use crate::login::limits::{Limit, Rate, network_of};

pub mod approval;
pub(crate) mod challenges;
pub(crate) mod device_login;
pub(crate) mod devices;
pub(crate) mod enrolment;
pub(crate) mod secrets;
pub(crate) mod sessions;
pub(crate) mod sign_in;
pub(crate) mod waiting;

/// How long an agent can still ask about a request that was denied: it does so at once.
const DENIED_KEPT: Duration = Duration::from_secs(120);
/// Records of forms that were not made for the browser that sends them: a page that is out of date makes one, a program that
/// tries its luck thousands.
const FOREIGN_FORMS: Rate = Rate { burst: 5, every: Duration::from_secs(60) };
/// Denials that are remembered; only people make them.
const MAX_DENIED: usize = 4096;

/// What control keeps of browsers in memory.
#[derive(Debug)]
pub(crate) struct Browsers {
    pub(crate) challenges: PageChallenges,
    /// Changes of devices that each session begins.
    changes: Limit<CookieHash>,
    /// Records of foreign forms from each network.
    foreign_forms: Limit<IpAddr>,
    /// Logins of agents that wait for their pages.
    pub(crate) logins: DeviceLogins,
    /// What was denied a moment ago, and until when that is remembered.
    denied: Mutex<HashMap<Id, BootTime>>,
    /// Grows with everything that is decided at a page; whoever waits looks again.
    changed: tokio::sync::watch::Sender<u64>,
    /// What credentials of nobody are named with: a secret that stays, so that nobody can tell them from somebody's.
    pub(crate) decoy: [u8; 32],
}

impl Browsers {
    /// Nobody has begun anything.
    pub(crate) fn new(keys: &Keys) -> Self {
        let decoy = Sha256::new().chain_update("portlatch decoy").chain_update(keys.grant_key());
        Self {
            challenges: PageChallenges::default(),
            changes: Limit::new(devices::CHANGES),
            foreign_forms: Limit::new(FOREIGN_FORMS),
            logins: DeviceLogins::default(),
            denied: Mutex::default(),
            changed: tokio::sync::watch::Sender::new(0),
            decoy: decoy.finalize().into(),
        }
    }

    /// Has agents that wait look again.
    fn tell_agents(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Remembers for its agent that a request was denied.
    fn deny(&self, id: Id, now: BootTime) {
        let mut denied = self.denied.lock().unwrap_or_else(PoisonError::into_inner);
        denied.retain(|_, until| now < *until);
        if denied.len() < MAX_DENIED {
            denied.insert(id, now + DENIED_KEPT);
        }
        drop(denied);
        self.tell_agents();
    }

    fn is_denied(&self, id: &Id, now: BootTime) -> bool {
        let denied = self.denied.lock().unwrap_or_else(PoisonError::into_inner);
        denied.get(id).is_some_and(|until| now < *until)
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

    /// Records a form that was refused for its token; of many from one network, a few.
    pub(crate) async fn note_foreign_form(&self, user: Option<&UserName>, address: IpAddr) {
        if self.browsers.foreign_forms.take(&network_of(address), self.clock.boot_time()) {
            let (client_addr, reason) = (Some(address.to_string()), Some("csrf".to_owned()));
            let denied = Event::new(EventKind::AccessDenied);
            self.audit.note(Event { user: user.cloned(), client_addr, reason, ..denied }).await;
        }
    }

    /// Records page challenges that nobody can answer any more.
    pub(crate) async fn note_lapsed_pages(&self) {
        let now = self.clock.boot_time();
        let lapsed = self.browsers.challenges.take_expired(now);
        for event in lapsed.into_iter().chain(self.browsers.logins.take_expired(now)) {
            self.audit.note(event).await;
        }
    }
}
