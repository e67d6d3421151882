//! Open challenges, in memory: each is bound to all that it is for, lives two minutes, and is taken before it is
//! verified, so that it works once, whatever happens.
//!
//! ```text
//! (made) ─► Open ─┬─ take ────► (gone) ─► verified, or not
//!                 ├─ cancel ──► (gone)
//!                 └─ 120 s ───► (gone)
//! ```
//!
//! No edge leads back. A restart forgets them all: nothing that was signed for one can be used after it. (The first code
//! of a new authenticator app is no proof of anything, and may be typed again: that challenge alone is given back.)

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portlatch_audit::{Event, EventKind};
use portlatch_clock::BootTime;
use portlatch_protocol::names::{Id, UserName};

pub use self::purpose::{
    Codes, EnrolmentPurpose, FirstShown, LoginPurpose, NewDevice, NewDevicePurpose, ProofPurpose, Purpose,
};

pub use crate::browser::approval::Approval;
use crate::login::limits::network_of;

mod page;
pub(crate) mod purpose;
#[cfg(test)]
mod tests;

/// How long a challenge can be answered (design section 5).
pub const LIFETIME: Duration = Duration::from_secs(120);
/// Open challenges of one login, or of one user who is logging in, from one network. One prompt is open at a time; the
/// others are left over from an agent that died, and the oldest of them makes room. Somebody who has stolen the login
/// and asks from elsewhere displaces nothing of its user's.
pub const MAX_PER_OWNER: usize = 3;
/// The same, from all networks together: beyond that the oldest of the network that has most makes room.
pub const MAX_EVERYWHERE: usize = 4 * MAX_PER_OWNER;
/// Open challenges in all: far above what people tap in two minutes, some 10 MiB.
pub const MAX_OPEN: usize = 4096;
/// Of these, for people who have shown nothing yet: whoever knows no password keeps nobody else out.
pub const MAX_UNPROVEN: usize = 1024;

/// Who may answer or cancel a ceremony.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Owner {
    /// A login, by its certificate.
    Login(Id),
    /// A user who is logging in and has shown the password or a token: whoever knows the ceremony's name.
    LoggingIn(UserName),
    /// Somebody who says to be this user, at this network: whoever knows the ceremony's name. Somebody elsewhere who says
    /// the same displaces nothing.
    Unproven(UserName, IpAddr),
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
    /// Keeps a challenge. Others of its owner make room for it where there are too many, and are given to the audit.
    ///
    /// # Errors
    /// [`TableFull`] if too many are open in all.
    pub fn insert(&self, id: Id, challenge: Challenge, now: BootTime) -> Result<Vec<Challenge>, TableFull> {
        let mut open = self.lock();
        let displaced = giving_way(&open, &challenge);
        let surplus = displaced.len();
        // What has ended and still lies there is the sweep's to record, and no reason to refuse.
        let standing = || open.values().filter(|other| other.expires > now);
        let is_full = standing().count().saturating_sub(surplus) >= MAX_OPEN || open.len() >= 2 * MAX_OPEN;
        let unproven = || standing().filter(|other| other.is_unproven()).count().saturating_sub(surplus);
        if is_full || (challenge.is_unproven() && unproven() >= MAX_UNPROVEN) {
            return Err(TableFull);
        }
        let displaced = displaced.iter().filter_map(|id| open.remove(id)).collect();
        open.insert(id, challenge);
        Ok(displaced)
    }

    /// Takes a login's proof out of the table: it can never be answered again. A challenge of somebody else, or for
    /// something else, stays where it is, so that nobody can spoil another's.
    pub fn take_proof(&self, id: &Id, login: &Id, now: BootTime) -> Option<(ProofPurpose, IpAddr)> {
        let taken = self.take(id, now, |it| it.is_of(login) && matches!(it.purpose, Purpose::Proof(_)))?;
        match taken.purpose {
            Purpose::Proof(proof) => Some((*proof, taken.address)),
            Purpose::Login(_) | Purpose::Enrolment(_) | Purpose::NewDevice(_) => None,
        }
    }

    /// Takes a login's enrolment of one more device.
    pub fn take_new_device(&self, id: &Id, login: &Id, now: BootTime) -> Option<Challenge> {
        self.take(id, now, |it| it.is_of(login) && matches!(it.purpose, Purpose::NewDevice(_)))
    }

    /// Takes the challenge of somebody who is logging in; the ceremony's name is the secret.
    pub fn take_login(&self, id: &Id, now: BootTime) -> Option<Challenge> {
        self.take(id, now, |it| matches!(it.purpose, Purpose::Login(_) | Purpose::Enrolment(_)))
    }

    /// Takes whatever challenge of a login this names, because the person said no.
    pub fn take_cancelled(&self, id: &Id, login: &Id, now: BootTime) -> Option<Challenge> {
        self.take(id, now, |it| it.is_of(login))
    }

    fn take(&self, id: &Id, now: BootTime, is_meant: impl Fn(&Challenge) -> bool) -> Option<Challenge> {
        let mut open = self.lock();
        if !open.get(id).is_some_and(is_meant) {
            return None;
        }
        open.remove(id).filter(|taken| taken.expires > now)
    }

    /// Gives the enrolment of an app back, whose first code was typed wrongly.
    pub fn give_back(&self, id: Id, challenge: Challenge) {
        self.lock().insert(id, challenge);
    }

    /// Forgets what has ended, and gives it to the audit.
    pub fn take_expired(&self, now: BootTime) -> Vec<Challenge> {
        self.take_all(|it| it.expires <= now)
    }

    /// Forgets all challenges that rest on a user, because keys or password changed, and gives them to the audit.
    pub fn forget_user(&self, user: &UserName) -> Vec<Challenge> {
        self.take_all(|it| it.purpose.user() == user)
    }

    /// Forgets all challenges of a login from this address's network, and gives them to the audit.
    pub fn forget_login(&self, login: &Id, address: IpAddr) -> Vec<Challenge> {
        self.take_all(|it| it.is_of(login) && it.network() == network_of(address))
    }

    fn take_all(&self, is_over: impl Fn(&Challenge) -> bool) -> Vec<Challenge> {
        let mut open = self.lock();
        open.extract_if(|_, challenge| is_over(challenge)).map(|(_, challenge)| challenge).collect()
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Id, Challenge>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The challenges that make room for a new one, where it is one too many of its owner: the oldest from the same network or,
/// if that has no more than its share, from the one that has most.
fn giving_way(open: &HashMap<Id, Challenge>, new: &Challenge) -> Vec<Id> {
    let own = open.iter().filter(|(_, other)| other.owner == new.owner);
    let mut own: Vec<(IpAddr, BootTime, &Id)> =
        own.map(|(id, other)| (other.network(), other.expires, id)).collect();
    own.sort();
    let from = |network: IpAddr| own.iter().filter(move |(other, ..)| *other == network);
    let here = from(new.network()).count();
    let fullest = own.iter().map(|(network, ..)| *network).max_by_key(|network| from(*network).count());
    let (network, surplus) = match fullest {
        Some(_) if here >= MAX_PER_OWNER => (new.network(), here + 1 - MAX_PER_OWNER),
        Some(fullest) if own.len() >= MAX_EVERYWHERE => (fullest, own.len() + 1 - MAX_EVERYWHERE),
        Some(_) | None => return Vec::new(),
    };
    from(network).take(surplus).map(|(.., id)| (*id).clone()).collect()
}

impl Challenge {
    fn is_of(&self, login: &Id) -> bool {
        matches!(&self.owner, Owner::Login(owner) if owner == login)
    }

    fn network(&self) -> IpAddr {
        network_of(self.address)
    }

    const fn is_unproven(&self) -> bool {
        matches!(self.owner, Owner::Unproven(..))
    }

    /// The record of a challenge that nobody can answer any more.
    pub fn ended(self, reason: &str) -> Event {
        let (client_addr, reason) = (Some(self.address.to_string()), Some(reason.to_owned()));
        Event { client_addr, reason, ..self.purpose.event(EventKind::MfaFail) }
    }
}
