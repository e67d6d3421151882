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
use crate::ceremony::{MAX_OPEN, MAX_PER_OWNER, MAX_UNPROVEN, TableFull};
use crate::login::limits::network_of;
use crate::store::credentials::CredentialKind;

/// Challenges open from one network, for people who have shown something and as many for those who have not: cookies cost
/// nothing, and an office behind one address signs in at nine o'clock.
const MAX_PER_NETWORK: usize = 256;

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

    /// Whether it was made for somebody who has shown nothing yet: no password, token or session.
    const fn is_unproven(&self) -> bool {
        match self {
            Self::Passkey { .. } => true,
            Self::Key { .. }
            | Self::Enrol(_)
            | Self::Approve(_)
            | Self::Change(_)
            | Self::NewKey(_)
            | Self::NewApp(_) => false,
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
    /// [`TableFull`] if too many are open in all, from this network, or for people who have shown nothing; everything stays
    /// as it was.
    pub(crate) fn insert(
        &self,
        id: Id,
        challenge: PageChallenge,
        now: BootTime,
    ) -> Result<Vec<Event>, TableFull> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut surplus: Vec<(BootTime, Id)> = open
            .iter()
            .filter(|(_, other)| other.owner == challenge.owner)
            .map(|(id, other)| (other.expires, id.clone()))
            .collect();
        surplus.sort();
        surplus.truncate((surplus.len() + 1).saturating_sub(MAX_PER_OWNER));
        let stays = |id: &Id| surplus.iter().all(|(_, own)| own != id);
        // What has ended and still lies there is the sweep's to record, and no reason to refuse.
        let standing = open.iter().filter(|(id, other)| other.expires > now && stays(id));
        let (network, is_unproven) = (network_of(challenge.address), challenge.purpose.is_unproven());
        let (mut all, mut alike, mut from_there) = (0, 0, 0);
        for (_, other) in standing {
            all += 1;
            if other.purpose.is_unproven() == is_unproven {
                alike += 1;
                from_there += usize::from(network_of(other.address) == network);
            }
        }
        let is_full = all >= MAX_OPEN || open.len() >= 2 * MAX_OPEN;
        if is_full || from_there >= MAX_PER_NETWORK || (is_unproven && alike >= MAX_UNPROVEN) {
            return Err(TableFull);
        }
        let displaced = surplus.iter().filter_map(|(_, id)| open.remove(id));
        let displaced = displaced.map(|challenge| challenge.ended("displaced")).collect();
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

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::time::Duration;

    use super::*;
    use crate::webauthn::RelyingParty;

    fn at(seconds: u64) -> BootTime {
        BootTime::since_boot(Duration::from_secs(1_000 + seconds))
    }

    fn id(number: usize) -> Id {
        Id::from_random(u128::try_from(number).unwrap().to_be_bytes())
    }

    fn owner(number: usize) -> CookieHash {
        let mut owner = CookieHash::default();
        owner[..8].copy_from_slice(&number.to_be_bytes());
        owner
    }

    /// Each ten of them at a network of their own.
    fn address(number: usize) -> IpAddr {
        let [.., a, b] = u32::try_from(number / 10).unwrap().to_be_bytes();
        Ipv4Addr::new(10, 7, a, b).into()
    }

    fn challenge(
        owner: CookieHash,
        purpose: PagePurpose,
        address: IpAddr,
        expires: BootTime,
    ) -> PageChallenge {
        PageChallenge { owner, purpose, address, expires }
    }

    fn unproven() -> PagePurpose {
        let party = RelyingParty::new(&"proxy.example.com".parse().unwrap(), 443).unwrap();
        let state = Box::new(party.begin_passkey(Vec::new()).unwrap().1);
        PagePurpose::Passkey { named: None, target: SignInTarget::Pages, state }
    }

    fn proven() -> PagePurpose {
        let (user, name) = ("jerry".parse().unwrap(), "phone".to_owned());
        PagePurpose::NewApp(Box::new(NewAppPurpose { user, name, secret: Zeroizing::new(vec![1]), tries: 1 }))
    }

    #[test]
    fn strangers_at_many_networks_keep_nobody_out_who_has_shown_something() {
        let table = PageChallenges::default();
        let insert = |number: usize, purpose, now| {
            let made = challenge(owner(number), purpose, address(number), now + Duration::from_secs(120));
            table.insert(id(number), made, now)
        };
        for number in 0..MAX_UNPROVEN {
            insert(number, unproven(), at(0)).unwrap();
        }
        assert_eq!(insert(MAX_UNPROVEN, unproven(), at(1)).err(), Some(TableFull));
        assert!(insert(MAX_OPEN, proven(), at(1)).is_ok());
        // When their time is over there is room again, whether or not they were swept.
        assert!(insert(MAX_UNPROVEN, unproven(), at(120)).is_ok());
    }

    #[test]
    fn strangers_at_one_network_keep_nobody_out_there_who_has_shown_something() {
        let table = PageChallenges::default();
        // All of one /64, which one host has.
        let insert = |number: usize, purpose| {
            let last = u16::try_from(number).unwrap();
            let address = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, last).into();
            table.insert(id(number), challenge(owner(number), purpose, address, at(120)), at(0))
        };
        for number in 0..MAX_PER_NETWORK {
            insert(number, unproven()).unwrap();
        }
        assert_eq!(insert(5000, unproven()).err(), Some(TableFull));
        for number in 6000..6000 + MAX_PER_NETWORK {
            insert(number, proven()).unwrap();
        }
        assert_eq!(insert(7000, proven()).err(), Some(TableFull));
    }

    // G: whatever is made ends on the record.
    #[test]
    fn whoever_is_refused_loses_nothing() {
        let table = PageChallenges::default();
        let there = Ipv4Addr::new(192, 0, 2, 1).into();
        for number in 0..MAX_PER_NETWORK {
            table.insert(id(number), challenge(owner(number), proven(), there, at(120)), at(0)).unwrap();
        }
        let mine = |number: usize, address| {
            challenge(owner(9000), proven(), address, at(100 + u64::try_from(number).unwrap()))
        };
        for number in 0..MAX_PER_OWNER {
            let elsewhere = address(number);
            table.insert(id(9000 + number), mine(number, elsewhere), at(0)).unwrap();
        }
        assert_eq!(table.insert(id(9900), mine(9, there), at(0)).err(), Some(TableFull));
        for number in 0..MAX_PER_OWNER {
            assert!(table.look(&id(9000 + number), &owner(9000), at(0), |_| ()).is_some(), "{number}");
        }
        // With room, the oldest goes, and on the record.
        let displaced = table.insert(id(9901), mine(10, address(10)), at(0)).unwrap();
        assert_eq!(displaced.len(), 1);
        assert_eq!(displaced[0].reason.as_deref(), Some("displaced"));
        assert!(table.look(&id(9000), &owner(9000), at(0), |_| ()).is_none());
    }
}
