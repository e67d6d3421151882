//! Challenges that were made for a page. As with an agent's ([`crate::ceremony`]) each is taken before it is verified, so
//! that it works once; it belongs to the cookie that it was made for.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use portlatch_audit::{Event, EventKind};
use portlatch_clock::BootTime;
use portlatch_protocol::names::{Id, UserName};
use webauthn_rs::prelude::{DiscoverableAuthentication, SecurityKeyAuthentication, SecurityKeyRegistration};
use zeroize::Zeroizing;

use super::approval::Place;
use super::devices::WantedChange;
use super::secrets::CookieHash;
use super::sign_in::SignInTarget;
use crate::ceremony::{MAX_OPEN, MAX_PER_OWNER, TableFull};
use crate::login::limits::network_of;
use crate::store::credentials::CredentialKind;

/// Challenges open from one address: cookies cost nothing, and an office behind one address signs in at nine o'clock.
const MAX_PER_ADDRESS: usize = 256;

/// What a page's challenge is for.
#[derive(Clone)]
pub(crate) enum PagePurpose {
    /// Signing in with a passkey, of this user if one was named.
    Passkey { named: Option<UserName>, target: SignInTarget, state: Box<DiscoverableAuthentication> },
    /// Signing in with a key, once the password was right.
    Key { user: UserName, target: SignInTarget, state: Box<SecurityKeyAuthentication> },
    /// An enrolment with a one-time token.
    Enrol(Box<EnrolPurpose>),
    /// The approval of what an agent waits for.
    Approve(Box<ApprovePurpose>),
    /// A change of the user's own devices.
    Change(Box<ChangePurpose>),
    /// The enrolment of one more key; the tap that it needs was given.
    NewKey(Box<NewKeyPurpose>),
    /// The enrolment of an app, likewise.
    NewApp(Box<NewAppPurpose>),
}

/// What a change keeps until the key has answered.
#[derive(Clone)]
pub(crate) struct ChangePurpose {
    pub(crate) user: UserName,
    pub(crate) wanted: WantedChange,
    pub(crate) state: SecurityKeyAuthentication,
}

/// A key that is to be enrolled.
#[derive(Clone)]
pub(crate) struct NewKeyPurpose {
    pub(crate) user: UserName,
    pub(crate) name: String,
    pub(crate) kind: CredentialKind,
    /// What it is asked.
    pub(crate) options: serde_json::Value,
    pub(crate) state: SecurityKeyRegistration,
}

/// An app that is to be enrolled.
#[derive(Clone)]
pub(crate) struct NewAppPurpose {
    pub(crate) user: UserName,
    pub(crate) name: String,
    /// What it is told.
    pub(crate) secret: Zeroizing<Vec<u8>>,
    /// First codes that may still be wrong.
    pub(crate) tries: u32,
}

/// What an approval keeps until the key has answered.
#[derive(Clone)]
pub(crate) struct ApprovePurpose {
    pub(crate) user: UserName,
    /// The agent's ceremony.
    pub(crate) ceremony: Id,
    pub(crate) place: Place,
    pub(crate) state: SecurityKeyAuthentication,
}

/// All that an enrolment keeps until its key has answered.
#[derive(Clone)]
pub(crate) struct EnrolPurpose {
    pub(crate) user: UserName,
    /// SHA-256 of the token; consumed with the answer.
    pub(crate) token_hash: [u8; 32],
    /// The hash of the password to be.
    pub(crate) password_hash: String,
    /// What the user calls the key.
    pub(crate) name: String,
    pub(crate) kind: CredentialKind,
    pub(crate) state: SecurityKeyRegistration,
}

/// An open challenge of a page.
#[derive(Clone)]
pub(crate) struct PageChallenge {
    pub(crate) owner: CookieHash,
    pub(crate) purpose: PagePurpose,
    pub(crate) address: IpAddr,
    pub(crate) expires: BootTime,
}

/// Says for whom it is and nothing else.
impl std::fmt::Debug for PageChallenge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PageChallenge").field("user", &self.purpose.user()).finish_non_exhaustive()
    }
}

impl PagePurpose {
    /// Whose it is, where that is known yet.
    pub(crate) const fn user(&self) -> Option<&UserName> {
        match self {
            Self::Passkey { named, .. } => named.as_ref(),
            Self::Key { user, .. } => Some(user),
            Self::Enrol(enrol) => Some(&enrol.user),
            Self::Approve(approve) => Some(&approve.user),
            Self::Change(change) => Some(&change.user),
            Self::NewKey(new) => Some(&new.user),
            Self::NewApp(new) => Some(&new.user),
        }
    }
}

impl PageChallenge {
    /// The record of a challenge that nobody can answer any more.
    fn ended(self, reason: &str) -> Event {
        Event {
            user: self.purpose.user().cloned(),
            client_addr: Some(self.address.to_string()),
            reason: Some(reason.to_owned()),
            ..Event::new(EventKind::MfaFail)
        }
    }
}

/// The table of open page challenges.
#[derive(Debug, Default)]
pub(crate) struct PageChallenges {
    /// A std mutex: taking must be one step with looking, and no await lies in between.
    open: Mutex<HashMap<Id, PageChallenge>>,
}

impl PageChallenges {
    /// Keeps a challenge. The oldest of the same cookie make room for it, and are given to the audit.
    ///
    /// # Errors
    /// [`TableFull`] if too many are open in all, or from this address.
    pub(crate) fn insert(&self, id: Id, challenge: PageChallenge) -> Result<Vec<Event>, TableFull> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut own: Vec<(BootTime, Id)> = open
            .iter()
            .filter(|(_, other)| other.owner == challenge.owner)
            .map(|(id, other)| (other.expires, id.clone()))
            .collect();
        own.sort();
        let surplus = (own.len() + 1).saturating_sub(MAX_PER_OWNER);
        let displaced: Vec<Event> = own
            .iter()
            .take(surplus)
            .filter_map(|(_, id)| open.remove(id))
            .map(|challenge| challenge.ended("displaced"))
            .collect();
        let network = network_of(challenge.address);
        let from_there = open.values().filter(|other| network_of(other.address) == network).count();
        if open.len() >= MAX_OPEN || from_there >= MAX_PER_ADDRESS {
            return Err(TableFull);
        }
        open.insert(id, challenge);
        Ok(displaced)
    }

    /// Looks at a challenge of this cookie, which stays where it is.
    pub(crate) fn look<R>(
        &self,
        id: &Id,
        owner: &CookieHash,
        now: BootTime,
        look: impl FnOnce(&mut PagePurpose) -> R,
    ) -> Option<R> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let found = open.get_mut(id).filter(|found| found.owner == *owner && found.expires > now);
        found.map(|found| look(&mut found.purpose))
    }

    /// Takes a challenge out of the table: it can never be answered again. One of another cookie stays where it is.
    pub(crate) fn take(&self, id: &Id, owner: &CookieHash, now: BootTime) -> Option<PagePurpose> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.get(id).filter(|found| found.owner == *owner)?;
        open.remove(id).filter(|taken| taken.expires > now).map(|taken| taken.purpose)
    }

    /// Forgets what has ended, and gives it to the audit.
    pub(crate) fn take_expired(&self, now: BootTime) -> Vec<Event> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let over = open.extract_if(|_, challenge| challenge.expires <= now);
        over.map(|(_, challenge)| challenge.ended("timed_out")).collect()
    }

    /// Forgets all challenges that rest on a user, because keys or password changed, and gives them to the audit.
    pub(crate) fn forget_user(&self, user: &UserName, reason: &str) -> Vec<Event> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let over = open.extract_if(|_, challenge| challenge.purpose.user() == Some(user));
        over.map(|(_, challenge)| challenge.ended(reason)).collect()
    }
}
