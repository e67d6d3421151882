//! Open challenges, in memory: each is bound to all that it is for, lives two minutes, and is taken before it is
//! verified, so that it works once, whatever happens.
//!
//! ```text
//! (made) ─► Open ─┬─ take ────► (gone) ─► verified, or not
//!                 ├─ cancel ──► (gone)
//!                 └─ 120 s ───► (gone)
//! ```
//!
//! No edge leads back. A restart forgets them all: nothing that was signed for one can be used after it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use portlatch_clock::BootTime;
use portlatch_protocol::identity::Login;
use portlatch_protocol::names::{DeviceName, Id, ResourceId, UserName};
use portlatch_protocol::thumbprint::Thumbprint;
use webauthn_rs::prelude::{SecurityKeyAuthentication, SecurityKeyRegistration};

/// How long a challenge can be answered (design section 5).
pub const LIFETIME: Duration = Duration::from_secs(120);
/// Open challenges of one login, or of one user who is logging in. One prompt is open at a time; the others are left
/// over from an agent that died, and the oldest of them makes room.
pub const MAX_PER_OWNER: usize = 3;
/// Open challenges in all: far above what people tap in two minutes, some 10 MiB.
pub const MAX_OPEN: usize = 4096;

/// Who may answer or cancel a ceremony.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Owner {
    /// A login, by its certificate.
    Login(Id),
    /// A user who is logging in: whoever knows the ceremony's name.
    LoggingIn(UserName),
}

/// What a challenge is for, with all that it is bound to.
#[derive(Debug, Clone)]
pub enum Purpose {
    /// A login with password and tap.
    Login {
        /// Who.
        user: UserName,
        /// Where.
        device: DeviceName,
        /// What verifies the answer.
        state: Box<SecurityKeyAuthentication>,
    },
    /// A login that begins with an enrolment.
    Enrolment {
        /// Who.
        user: UserName,
        /// Where.
        device: DeviceName,
        /// SHA-256 of the token; consumed with the answer.
        token_hash: [u8; 32],
        /// The hash of the password to be.
        password_hash: String,
        /// What verifies the answer.
        state: Box<SecurityKeyRegistration>,
    },
    /// Access to one port of a resource.
    Open(Box<OpenPurpose>),
}

/// All that a challenge for access is bound to.
#[derive(Debug, Clone)]
pub struct OpenPurpose {
    /// The login.
    pub login: Login,
    /// The tunnel key that the grant will name.
    pub tunnel_key: Thumbprint,
    /// The resource.
    pub resource: ResourceId,
    /// The port.
    pub port: u16,
    /// The program that asked, as the agent says; for the audit alone.
    pub program: Option<String>,
    /// What verifies the answer.
    pub state: SecurityKeyAuthentication,
}

/// An open challenge.
#[derive(Debug, Clone)]
pub struct Challenge {
    /// Who may answer.
    pub owner: Owner,
    /// What for.
    pub purpose: Purpose,
    /// From where it was asked for.
    pub address: IpAddr,
    /// When it ends.
    pub expires: BootTime,
}

/// The table of open challenges.
#[derive(Debug, Default)]
pub struct Ceremonies {
    /// A std mutex: taking must be one step with looking, and no await lies in between.
    open: Mutex<HashMap<Id, Challenge>>,
}

/// The table is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many challenges are open")]
pub struct TableFull;

impl Ceremonies {
    /// Keeps a challenge. The owner's oldest make room for it.
    ///
    /// # Errors
    /// [`TableFull`] if too many are open in all.
    pub fn insert(&self, id: Id, challenge: Challenge, now: BootTime) -> Result<(), TableFull> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut own: Vec<(BootTime, Id)> = open
            .iter()
            .filter(|(_, other)| other.owner == challenge.owner)
            .map(|(id, other)| (other.expires, id.clone()))
            .collect();
        own.sort();
        let surplus = (own.len() + 1).saturating_sub(MAX_PER_OWNER);
        own.iter().take(surplus).for_each(|(_, id)| {
            open.remove(id);
        });
        if open.len() >= MAX_OPEN {
            open.retain(|_, other| other.expires > now);
        }
        if open.len() >= MAX_OPEN {
            return Err(TableFull);
        }
        open.insert(id, challenge);
        Ok(())
    }

    /// Takes a login's challenge out of the table: it can never be answered again. A challenge of somebody else stays
    /// where it is, so that nobody can spoil another's.
    pub fn take(&self, id: &Id, owner: &Id, now: BootTime) -> Option<OpenPurpose> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let found = open.get(id)?;
        match &found.owner {
            Owner::Login(login) if login == owner => {}
            Owner::Login(_) | Owner::LoggingIn(_) => return None,
        }
        let taken = open.remove(id)?;
        match (taken.expires > now, taken.purpose) {
            (true, Purpose::Open(purpose)) => Some(*purpose),
            (true | false, Purpose::Open(_) | Purpose::Login { .. } | Purpose::Enrolment { .. }) => None,
        }
    }

    /// Takes the challenge of somebody who is logging in; the ceremony's name is the secret.
    pub fn take_login(&self, id: &Id, now: BootTime) -> Option<Challenge> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        match open.get(id)?.owner {
            Owner::LoggingIn(_) => {}
            Owner::Login(_) => return None,
        }
        open.remove(id).filter(|taken| taken.expires > now)
    }

    /// Forgets what has ended, and gives it to the audit.
    pub fn take_expired(&self, now: BootTime) -> Vec<Challenge> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let over: Vec<Id> =
            open.iter().filter(|(_, it)| it.expires <= now).map(|(id, _)| id.clone()).collect();
        over.iter().filter_map(|id| open.remove(id)).collect()
    }

    /// Forgets all challenges that rest on a user, because keys or password changed.
    pub fn forget_user(&self, user: &UserName) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, challenge| challenge.user() != user);
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Challenge {
    /// Whose it is.
    pub const fn user(&self) -> &UserName {
        match &self.purpose {
            Purpose::Login { user, .. } | Purpose::Enrolment { user, .. } => user,
            Purpose::Open(open) => &open.login.user,
        }
    }
}
