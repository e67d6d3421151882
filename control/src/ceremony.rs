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

use portlatch_audit::{Event, EventKind};
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
#[derive(Clone)]
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

/// Says what it is and for whom: neither challenge nor hash of a password belongs into a log.
impl std::fmt::Debug for Purpose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Login { user, .. } => f.debug_struct("Login").field("user", user).finish_non_exhaustive(),
            Self::Enrolment { user, .. } => {
                f.debug_struct("Enrolment").field("user", user).finish_non_exhaustive()
            }
            Self::Open(open) => std::fmt::Debug::fmt(open, f),
        }
    }
}

/// All that a challenge for access is bound to.
#[derive(Clone)]
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

impl std::fmt::Debug for OpenPurpose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (login, resource, port) = (&self.login, &self.resource, self.port);
        f.debug_struct("Open")
            .field("login", login)
            .field("resource", resource)
            .field("port", &port)
            .finish_non_exhaustive()
    }
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
    /// Keeps a challenge. The owner's oldest make room for it, and are given to the audit.
    ///
    /// # Errors
    /// [`TableFull`] if too many are open in all.
    pub fn insert(&self, id: Id, challenge: Challenge, now: BootTime) -> Result<Vec<Challenge>, TableFull> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut own: Vec<(BootTime, Id)> = open
            .iter()
            .filter(|(_, other)| other.owner == challenge.owner)
            .map(|(id, other)| (other.expires, id.clone()))
            .collect();
        own.sort();
        let surplus = (own.len() + 1).saturating_sub(MAX_PER_OWNER);
        // What has ended and still lies there is the sweep's to record, and no reason to refuse.
        let standing = open.values().filter(|other| other.expires > now).count();
        if standing.saturating_sub(surplus) >= MAX_OPEN || open.len() >= 2 * MAX_OPEN {
            return Err(TableFull);
        }
        let displaced = own.iter().take(surplus).filter_map(|(_, id)| open.remove(id)).collect();
        open.insert(id, challenge);
        Ok(displaced)
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

    /// Forgets all challenges that rest on a user, because keys or password changed, and gives them to the audit.
    pub fn forget_user(&self, user: &UserName) -> Vec<Challenge> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.extract_if(|_, challenge| challenge.user() == user).map(|(_, challenge)| challenge).collect()
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

    /// The record of a challenge that nobody can answer any more.
    pub fn ended(self, reason: &str) -> Event {
        let (client_addr, reason) = (Some(self.address.to_string()), Some(reason.to_owned()));
        let user = Some(self.user().clone());
        let event = Event { user, client_addr, reason, ..Event::new(EventKind::MfaFail) };
        match self.purpose {
            Purpose::Login { device, .. } | Purpose::Enrolment { device, .. } => {
                Event { device: Some(device), ..event }
            }
            Purpose::Open(open) => Event {
                login: Some(open.login.login),
                device: Some(open.login.device),
                resource: Some(open.resource),
                port: Some(open.port),
                program: open.program,
                ..event
            },
        }
    }
}
