//! Proofs that wait for a page as well: found by the user who is signed in there, and taken by the agent with what the page
//! gave it, in one step with the look at whether it fits.

use std::net::IpAddr;
use std::time::Duration;

use portlatch_clock::BootTime;
use portlatch_protocol::api::ceremony::BrowserProof;
use portlatch_protocol::names::{Id, UserName};

use super::{Ceremonies, Challenge, ProofPurpose, Purpose};
use crate::browser::approval::Place;
use crate::presence::Presence;

impl Ceremonies {
    /// Looks at a proof of this user that a page may answer, with where it was asked for and when it ends.
    pub(crate) fn page<R>(
        &self,
        id: &Id,
        user: &UserName,
        now: BootTime,
        look: impl FnOnce(&mut ProofPurpose, IpAddr, BootTime) -> R,
    ) -> Option<R> {
        let mut open = self.lock();
        let challenge = open.get_mut(id).filter(|found| found.expires > now)?;
        let (address, expires) = (challenge.address, challenge.expires);
        let proof = challenge.page_of_mut().filter(|proof| proof.login.user == *user)?;
        Some(look(proof, address, expires))
    }

    /// The proofs of this user that a page may answer, the next to end first.
    pub(crate) fn pages_of(&self, user: &UserName, now: BootTime) -> Vec<Id> {
        let open = self.lock();
        let is_own = |challenge: &Challenge| {
            challenge.expires > now && challenge.page_of().is_some_and(|proof| proof.login.user == *user)
        };
        let own = open.iter().filter(|(_, challenge)| is_own(challenge));
        let mut own: Vec<(BootTime, &Id)> = own.map(|(id, challenge)| (challenge.expires, id)).collect();
        own.sort();
        own.into_iter().map(|(_, id)| id.clone()).collect()
    }

    /// Takes it, because the person said no at the page.
    pub(crate) fn take_page(&self, id: &Id, user: &UserName, now: BootTime) -> Option<Challenge> {
        self.take(id, now, |it| it.page_of().is_some_and(|proof| proof.login.user == *user))
    }

    /// Whether a login's proof was approved on another machine; `None` if it is over, or no page's.
    pub(crate) fn is_approved_elsewhere(&self, id: &Id, login: &Id, now: BootTime) -> Option<bool> {
        let open = self.lock();
        let challenge = open.get(id).filter(|found| found.expires > now && found.is_of(login))?;
        challenge.page_of()?.browser.as_ref().map(super::Approval::is_approved_elsewhere)
    }

    /// Takes a login's proof that was approved at its page, with how long ago and where that was, if the agent shows what it
    /// takes. What it cannot show leaves the proof where it is: it is no guess that could be repeated.
    pub(crate) fn take_approved(
        &self,
        id: &Id,
        login: &Id,
        proof: &BrowserProof,
        now: BootTime,
    ) -> Option<(ProofPurpose, Presence, (Duration, Place))> {
        let mut open = self.lock();
        let found = open.get(id).filter(|found| found.expires > now && found.is_of(login))?;
        let approval = found.page_of()?.browser.as_ref()?;
        let (presence, approved) = (approval.redeemed(proof, now)?, approval.approved(now)?);
        match open.remove(id)?.purpose {
            Purpose::Proof(proof) => Some((*proof, presence, approved)),
            Purpose::Login(_) | Purpose::Enrolment(_) | Purpose::NewDevice(_) => None,
        }
    }
}

impl Challenge {
    fn page_of(&self) -> Option<&ProofPurpose> {
        match &self.purpose {
            Purpose::Proof(proof) => Some(proof).filter(|proof| proof.browser.is_some()).map(AsRef::as_ref),
            Purpose::Login(_) | Purpose::Enrolment(_) | Purpose::NewDevice(_) => None,
        }
    }

    fn page_of_mut(&mut self) -> Option<&mut ProofPurpose> {
        match &mut self.purpose {
            Purpose::Proof(proof) => Some(proof).filter(|proof| proof.browser.is_some()).map(AsMut::as_mut),
            Purpose::Login(_) | Purpose::Enrolment(_) | Purpose::NewDevice(_) => None,
        }
    }
}
