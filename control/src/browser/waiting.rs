//! An agent's ceremony at its page: seen by its own user alone, approved with a fresh tap, or denied; and the agent hears
//! of it.
//!
//! Whoever asks for a request that is unknown, over or somebody else's gets [`Denial::NotFound`], whichever it is.

use std::net::IpAddr;
use std::time::Duration;

use portlatch_audit::{Event, EventKind};
use portlatch_clock::{BootTime, TimeOfDay};
use portlatch_protocol::api::browser::{APPROVAL_WAIT, PageDecision};
use portlatch_protocol::api::ceremony::{BrowserProof, CeremonyOutcome, CeremonyPurpose, PROMPT_TIME};
use portlatch_protocol::identity::Login;
use portlatch_protocol::names::{Id, UserName};

use super::approval::{Claimed, CrossDevice, Place, PlaceVerdict, Redirect};
use super::challenges::{ApprovePurpose, PagePurpose};
use super::sessions::at;
use super::{Task, Visit};
use crate::api::problem::Denial;
use crate::ceremony::LIFETIME;
use crate::ceremony::purpose::about;
use crate::control::Control;
use crate::grants::Asker;
use crate::presence::Presence;
use crate::proving::{Proved, Shown};
use crate::store::logins::StoredLogin;
use crate::watch::standing::Verdict;
use crate::webauthn::KeyError;

/// What waits, as its page shows it.
#[derive(Debug, Clone)]
pub(crate) struct Waiting {
    /// What for.
    pub(crate) wanted: CeremonyPurpose,
    /// Whose, and on which device.
    pub(crate) login: Login,
    /// Where the agent is.
    pub(crate) address: IpAddr,
    /// Whether a browser on another machine may approve.
    pub(crate) cross: CrossDevice,
    /// The agent's port, where a browser on its machine goes.
    pub(crate) port: u16,
    /// How long it waits still: as long as the agent's prompt is open.
    pub(crate) left: Duration,
}

impl Control {
    /// What waits behind this name for this user.
    pub(crate) fn waiting(&self, id: &Id, user: &UserName) -> Option<Waiting> {
        let now = self.clock.boot_time();
        let found = self.ceremonies.page(id, user, now, |proof, address, expires| {
            let approval = proof.browser.as_ref().filter(|approval| approval.is_open())?;
            Some(Waiting {
                wanted: proof.wanted.clone(),
                login: proof.login.clone(),
                address,
                cross: approval.code().map_or(CrossDevice::Refused, |_| CrossDevice::WithCode),
                port: approval.port(),
                left: expires.saturating_since(now).saturating_sub(LIFETIME.saturating_sub(PROMPT_TIME)),
            })
        });
        found.flatten()
    }

    /// All that waits for this user and can be answered at a page, the next to end first.
    pub(crate) fn all_waiting(&self, user: &UserName) -> Vec<(Id, Waiting)> {
        let ids = self.ceremonies.pages_of(user, self.clock.boot_time()).into_iter();
        let waiting = ids.filter_map(|id| self.waiting(&id, user).map(|waiting| (id, waiting)));
        waiting.filter(|(_, waiting)| !waiting.left.is_zero()).collect()
    }

    /// Begins an approval: looks at the place and the policy, and makes the challenge for the tap.
    ///
    /// # Errors
    /// A [`Denial`].
    pub(crate) async fn begin_approval(
        &self,
        visit: Visit,
        user: &UserName,
        id: &Id,
        claimed: &Claimed,
    ) -> Result<Task, Denial> {
        let waiting = self.waiting(id, user).ok_or(Denial::NotFound)?;
        if !self.access_limits.approvals.take(user, self.clock.boot_time()) {
            return Err(Denial::RateLimited);
        }
        let place = self.place_of(id, &waiting, claimed).await?;
        let login = self.login_behind(&waiting).await?;
        let asker = Asker { login: &login, address: waiting.address };
        let demand = self.demand(asker, &waiting.wanted).await?;
        let keys = self.store.credentials(user).await?;
        let begun = self.relying_party.begin_browser_tap(&keys, demand.strength);
        let (options, state) = begun.map_err(|_| Denial::BadAssertion)?;
        let purpose = ApprovePurpose { user: user.clone(), ceremony: id.clone(), place, state };
        self.open_page_challenge(visit, PagePurpose::Approve(Box::new(purpose)), options).await
    }

    /// Where the browser may be; a wrong code counts, and the last one ends the request.
    async fn place_of(&self, id: &Id, waiting: &Waiting, claimed: &Claimed) -> Result<Place, Denial> {
        let now = self.clock.boot_time();
        let verdict = self.ceremonies.page(id, &waiting.login.user, now, |proof, _, _| {
            proof.browser.as_mut().map(|approval| approval.place(claimed))
        });
        match verdict.flatten() {
            Some(PlaceVerdict::Fits(place)) => {
                self.check_place(&place, &waiting.login, &waiting.wanted)?;
                Ok(place)
            }
            Some(PlaceVerdict::Refused) => Err(Denial::Refused(CROSS_DEVICE.to_owned())),
            Some(PlaceVerdict::Wrong(left)) => {
                self.note_wrong_code(waiting).await;
                let tries = if left == 1 { "one try is" } else { "two tries are" };
                Err(Denial::Refused(format!(
                    "this is not the code that the program's machine shows: {tries} left"
                )))
            }
            Some(PlaceVerdict::Dead) => {
                self.note_wrong_code(waiting).await;
                self.end_waiting(id, &waiting.login.user, "wrong_page_code").await;
                Err(Denial::NotFound)
            }
            Some(PlaceVerdict::Answered) | None => Err(Denial::NotFound),
        }
    }

    async fn note_wrong_code(&self, waiting: &Waiting) {
        let event = Event {
            user: Some(waiting.login.user.clone()),
            login: Some(waiting.login.login.clone()),
            device: Some(waiting.login.device.clone()),
            reason: Some("page_code".to_owned()),
            ..Event::new(EventKind::MfaFail)
        };
        self.audit.note(about(&waiting.wanted, event)).await;
    }

    /// What the policy says of this place at this moment.
    fn check_place(&self, place: &Place, login: &Login, wanted: &CeremonyPurpose) -> Result<(), Denial> {
        let takes_cross_device = || {
            let CeremonyPurpose::Open(open) = wanted else { return false };
            let (standing, now) = (self.hub.now(), self.clock.time_of_day());
            match standing.evaluate(login, &open.resource, open.port, now) {
                Verdict::Allowed(terms) => terms.cross_device,
                Verdict::Refused { .. } => false,
            }
        };
        match place {
            Place::Elsewhere if !takes_cross_device() => Err(Denial::Refused(CROSS_DEVICE.to_owned())),
            Place::Here | Place::Elsewhere => Ok(()),
        }
    }

    /// As [`Self::check_place`], once somebody has tapped: a refusal is on the record.
    async fn recheck_place(
        &self,
        asker: Asker<'_>,
        place: &Place,
        wanted: &CeremonyPurpose,
    ) -> Result<(), Denial> {
        let checked = self.check_place(place, &asker.login.login, wanted);
        if checked.is_err() {
            let reason = Some("cross_device".to_owned());
            self.audit.note(Event { reason, ..about(wanted, asker.event(EventKind::MfaFail)) }).await;
        }
        checked
    }

    /// The login of the agent that waits, if it stands.
    async fn login_behind(&self, waiting: &Waiting) -> Result<StoredLogin, Denial> {
        let login = self.store.login(&waiting.login.login).await?;
        login.and_then(|login| self.stands(login).ok()).ok_or(Denial::NotFound)
    }

    /// Ends an approval: takes the challenge, verifies the tap, and approves. Gives where the browser goes.
    ///
    /// # Errors
    /// A [`Denial`]. The challenge is over whatever happens.
    pub(crate) async fn finish_approval(
        &self,
        visit: Visit,
        user: &UserName,
        challenge: &Id,
        credential: &serde_json::Value,
    ) -> Result<Option<Redirect>, Denial> {
        let taken = self.browsers.challenges.take(challenge, &visit.owner, self.clock.boot_time());
        let Some(PagePurpose::Approve(approve)) = taken else {
            return Err(self.page_challenge_ended(visit).await);
        };
        let ApprovePurpose { ceremony, place, state, .. } = *approve;
        let Some(waiting) = self.waiting(&ceremony, user) else {
            // Approved, denied, cancelled or over while somebody reached for the key.
            let reason = Some("ceremony_ended".to_owned());
            self.audit.note(Event { reason, ..at(EventKind::MfaFail, user, visit) }).await;
            return Err(Denial::NotFound);
        };
        let login = self.login_behind(&waiting).await?;
        let asker = Asker { login: &login, address: visit.address };
        let now = self.clock.time_of_day();
        let tap = self.relying_party.finish_browser_tap(credential, user, &state, &self.store, now).await;
        let tap = match tap {
            Ok(tap) => tap,
            Err(KeyError::Store(error)) => return Err(error.into()),
            Err(error) => {
                self.answer_failed(asker, &waiting.wanted, &error.to_string()).await;
                return Err(Denial::BadAssertion);
            }
        };
        // What the role says may have changed since the code was typed.
        self.recheck_place(asker, &place, &waiting.wanted).await?;
        let presence = Presence::Tap(tap);
        let ok = Event { detail: Some("pages".to_owned()), ..asker.event(EventKind::MfaOk) };
        self.audit.write(presence.on(about(&waiting.wanted, ok))).await?;
        let boot_time = self.clock.boot_time();
        let approved = self.ceremonies.page(&ceremony, user, boot_time, |proof, _, _| {
            proof.browser.as_mut().and_then(|approval| approval.approve(presence, &place, boot_time))
        });
        // Approved, cancelled or over meanwhile.
        let redirect = approved.flatten().ok_or(Denial::NotFound)?;
        self.browsers.tell_agents();
        Ok(redirect)
    }

    /// Denies: the request is gone, and its agent is told at once.
    ///
    /// # Errors
    /// [`Denial::NotFound`].
    pub(crate) async fn deny_waiting(&self, user: &UserName, id: &Id) -> Result<(), Denial> {
        self.waiting(id, user).ok_or(Denial::NotFound)?;
        match self.end_waiting(id, user, "denied_at_page").await {
            true => Ok(()),
            false => Err(Denial::NotFound),
        }
    }

    async fn end_waiting(&self, id: &Id, user: &UserName, reason: &str) -> bool {
        let now = self.clock.boot_time();
        let Some(challenge) = self.ceremonies.take_page(id, user, now) else { return false };
        self.browsers.deny(id.clone(), now);
        self.note_ended(vec![challenge], reason).await;
        true
    }

    /// Ends a ceremony that was approved at its page: the agent shows its secret and what the page gave it.
    ///
    /// # Errors
    /// A [`Denial`]. Where the agent cannot show it, the ceremony goes on waiting.
    pub(crate) async fn finish_with_page(
        &self,
        asker: Asker<'_>,
        id: &Id,
        proof: &BrowserProof,
    ) -> Result<CeremonyOutcome, Denial> {
        let (login, now) = (&asker.login.login.login, self.clock.boot_time());
        let taken = self.ceremonies.take_approved(id, login, proof, now);
        let Some((purpose, presence, (age, place))) = taken else {
            let reason = Some("page_not_approved".to_owned());
            self.audit.note(Event { reason, ..asker.event(EventKind::MfaFail) }).await;
            return Err(Denial::CeremonyEnded);
        };
        self.refuse_if_paused(asker, &purpose.wanted).await?;
        // From the tap on, however long the agent kept it back.
        let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        let time = TimeOfDay(self.clock.time_of_day().0.saturating_sub(age));
        self.conclude(asker, &purpose.wanted, Proved { presence, time, place, shown: Shown::AtPage }).await
    }

    /// Waits for what is decided at the page of a login's ceremony; `None` if nothing is for a while.
    ///
    /// # Errors
    /// [`Denial::CeremonyEnded`] if there is nothing to wait for.
    pub(crate) async fn page_decision(&self, login: &Id, id: &Id) -> Result<Option<PageDecision>, Denial> {
        self.browsers
            .decision(|now: BootTime| self.ceremonies.is_approved_elsewhere(id, login, now), id, &self.clock)
            .await
    }
}

/// What somebody is told whose roles do not let other machines approve.
pub(crate) const CROSS_DEVICE: &str =
    "your roles do not let a browser on another machine answer: open the page on the machine itself";

impl super::Browsers {
    /// Waits until something is decided about `id`: `state` says whether it was approved elsewhere, or is gone.
    pub(super) async fn decision(
        &self,
        state: impl Fn(BootTime) -> Option<bool>,
        id: &Id,
        clock: &portlatch_clock::Clock,
    ) -> Result<Option<PageDecision>, Denial> {
        let deadline = tokio::time::Instant::now() + APPROVAL_WAIT;
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let now = clock.boot_time();
            match state(now) {
                Some(true) => return Ok(Some(PageDecision::Approved)),
                Some(false) => {}
                None if self.is_denied(id, now) => return Ok(Some(PageDecision::Denied)),
                None => return Err(Denial::CeremonyEnded),
            }
            if tokio::time::timeout_at(deadline, changed.changed()).await.is_err() {
                return Ok(None);
            }
        }
    }
}
