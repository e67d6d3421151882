//! Proofs of presence: from "what does this need?" to what it brings.
//!
//! ```text
//! begin ──► policy looked at ──► a challenge, bound to login and all that its purpose names
//! finish ─► taken ─► the proof verified ─► concluded: policy looked at again, and what was wanted done
//! ```
//!
//! Three purposes: opening one port ([`open`]), one command on several resources ([`exec`]), a change of the user's own
//! keys and apps ([`crate::devices`]). However a presence was proved, `conclude` is the one way from there.

use portlatch_audit::{Event, EventKind};
use portlatch_clock::TimeOfDay;
use portlatch_protocol::api::ceremony::{
    BrowserOffer, CeremonyOutcome, CeremonyPurpose, CeremonyRequest, PresenceProof,
};
use portlatch_protocol::api::{AccessRequest, Ceremony};
use portlatch_protocol::names::Id;

use crate::api::problem::Denial;
use crate::browser::approval::{Approval, CrossDevice, Place};
use crate::browser::waiting::CROSS_DEVICE;
use crate::ceremony::purpose::about;
use crate::ceremony::{Challenge, Codes, LIFETIME, Owner, ProofPurpose, Purpose};
use crate::codes::{CodeError, Next};
use crate::control::{Control, random_id};
use crate::grants::failures::Consequence;
use crate::grants::{Asker, shown};
use crate::presence::Presence;
use crate::webauthn::{ExpectedTap, KeyError, TapStrength};

mod exec;
mod open;

/// What a proof must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Demand {
    /// How much a key must do.
    pub(crate) strength: TapStrength,
    /// Whether a code does as well.
    pub(crate) codes: Codes,
    /// Whether a browser on another machine may answer.
    pub(crate) cross: CrossDevice,
}

/// A presence that was proved.
#[derive(Debug, Clone)]
pub(crate) struct Proved {
    /// How.
    pub(crate) presence: Presence,
    /// When: what it opens counts from then.
    pub(crate) time: TimeOfDay,
    /// By a browser on another machine, or here.
    pub(crate) place: Place,
    /// By whom control was shown it.
    pub(crate) shown: Shown,
}

/// By whom control was shown a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    /// By the agent, that moment.
    ByAgent,
    /// At a page, before; now the agent comes for it.
    AtPage,
}

impl Shown {
    /// How what follows from the proof begins in the audit: each proof is `mfa.ok` once.
    pub(crate) const fn event(self) -> EventKind {
        match self {
            Self::ByAgent => EventKind::MfaOk,
            Self::AtPage => EventKind::MfaRedeem,
        }
    }
}

impl Demand {
    /// A key, tapped.
    pub(crate) const KEY: Self =
        Self { strength: TapStrength::Presence, codes: Codes::Refused, cross: CrossDevice::Refused };
}

impl Control {
    /// Makes the challenge for a proof of presence.
    ///
    /// # Errors
    /// A [`Denial`].
    pub async fn begin_ceremony(
        &self,
        asker: Asker<'_>,
        request: &CeremonyRequest,
    ) -> Result<Ceremony, Denial> {
        let (login, now) = (&asker.login.login, self.clock.boot_time());
        let wanted = comparable(&request.purpose);
        self.refuse_if_paused(asker, &wanted).await?;
        if !self.access_limits.challenges.take(&login.user, asker.address, now) {
            self.note_limited(asker, about(&wanted, asker.event(EventKind::AccessDenied))).await;
            return Err(Denial::RateLimited);
        }
        let demand = self.demand(asker, &wanted).await?;
        let keys = self.store.credentials(&login.user).await?;
        let begun = self.relying_party.begin_tap(&keys, demand.strength);
        let Ok((options, state)) = begun else {
            let reason = Some("no_key".to_owned());
            self.audit.note(Event { reason, ..about(&wanted, asker.event(EventKind::AccessDenied)) }).await;
            return Err(Denial::BadAssertion);
        };
        let codes = match demand.codes == Codes::Taken && self.has_app(&login.user).await? {
            true => Codes::Taken,
            false => Codes::Refused,
        };
        // One that is typed all the same hears why it is not looked at.
        let code_allowed = codes == Codes::Taken && !self.codes_pause(&login.user).await?;
        let browser = request.browser.as_ref().map(|browser| Approval::new(browser, demand.cross));
        let browser = browser.transpose()?;
        let ceremony = random_id();
        let page = browser.as_ref().map(|approval| BrowserOffer {
            url: format!("https://{}/mfa/{ceremony}", self.authority_part()),
            code: approval.code(),
        });
        let proof = ProofPurpose { login: login.clone(), wanted, codes, state, browser };
        let made = about(&proof.wanted, asker.event(EventKind::MfaChallenge));
        let challenge = Challenge {
            owner: Owner::Login(login.login.clone()),
            purpose: Purpose::Proof(Box::new(proof)),
            address: asker.address,
            expires: now + LIFETIME,
        };
        // Kept before it is recorded: one that finds no room was never made, and ends on no record either.
        let displaced = self.ceremonies.insert(ceremony.clone(), challenge, now)?;
        self.note_ended(displaced, "displaced").await;
        if let Err(error) = self.audit.write(made).await {
            drop(self.ceremonies.take_cancelled(&ceremony, &login.login, now));
            return Err(error.into());
        }
        let expires_in = LIFETIME.as_secs();
        Ok(Ceremony { ceremony, options, expires_in, code_allowed, browser: page })
    }

    /// What is asked for, by the policy of this moment; what it refuses is on the record.
    pub(crate) async fn demand(&self, asker: Asker<'_>, wanted: &CeremonyPurpose) -> Result<Demand, Denial> {
        match wanted {
            CeremonyPurpose::Open(open) => self.demand_of_open(asker, open).await,
            CeremonyPurpose::Exec(exec) => self.demand_of_exec(asker, exec).await,
            CeremonyPurpose::ManageDevices(change) => self.demand_of_change(&asker.into(), change).await,
        }
    }

    /// Ends a ceremony: takes the challenge, verifies the proof, and does what was wanted.
    ///
    /// # Errors
    /// A [`Denial`]. The ceremony is over whatever happens.
    pub async fn finish_ceremony(
        &self,
        asker: Asker<'_>,
        ceremony: &Id,
        proof: &PresenceProof,
    ) -> Result<CeremonyOutcome, Denial> {
        if let PresenceProof::Browser(page) = proof {
            return self.finish_with_page(asker, ceremony, page).await;
        }
        // Taken before anything is verified: no path below can give it a second answer.
        let (login, now) = (&asker.login.login, self.clock.boot_time());
        let Some((purpose, _)) = self.ceremonies.take_proof(ceremony, &login.login, now) else {
            let ended = Some("ceremony_ended".to_owned());
            self.audit.note(Event { reason: ended, ..asker.event(EventKind::MfaFail) }).await;
            return Err(Denial::CeremonyEnded);
        };
        self.refuse_if_paused(asker, &purpose.wanted).await?;
        let presence = self.verify_proof(asker, &purpose, proof).await?;
        let (time, place, shown) = (self.clock.time_of_day(), Place::Here, Shown::ByAgent);
        let proved = Proved { presence, time, place, shown };
        self.conclude(asker, &purpose.wanted, proved).await
    }

    /// Does what was wanted, now that somebody was shown to be there.
    pub(crate) async fn conclude(
        &self,
        asker: Asker<'_>,
        wanted: &CeremonyPurpose,
        proved: Proved,
    ) -> Result<CeremonyOutcome, Denial> {
        match (wanted, &proved.place) {
            (CeremonyPurpose::Open(open), _) => self.conclude_open(asker, open, proved).await,
            (CeremonyPurpose::Exec(exec), Place::Here) => self.conclude_exec(asker, exec, proved).await,
            (CeremonyPurpose::ManageDevices(change), Place::Here) => {
                self.conclude_change(asker, change, proved).await
            }
            (CeremonyPurpose::Exec(_) | CeremonyPurpose::ManageDevices(_), Place::Elsewhere) => {
                Err(self.refuse_elsewhere(asker, wanted).await)
            }
        }
    }

    /// A browser on another machine answered, and that does not count here, or not any more.
    async fn refuse_elsewhere(&self, asker: Asker<'_>, wanted: &CeremonyPurpose) -> Denial {
        let reason = Some("cross_device".to_owned());
        self.audit.note(Event { reason, ..about(wanted, asker.event(EventKind::MfaFail)) }).await;
        Denial::Refused(CROSS_DEVICE.to_owned())
    }

    async fn verify_proof(
        &self,
        asker: Asker<'_>,
        purpose: &ProofPurpose,
        proof: &PresenceProof,
    ) -> Result<Presence, Denial> {
        match proof {
            PresenceProof::Key { credential } => self.verify_key(asker, purpose, credential).await,
            PresenceProof::Code { code } => {
                if purpose.codes == Codes::Refused {
                    self.note_failed(asker, &purpose.wanted, "code_not_allowed").await;
                    return Err(Denial::BadCode);
                }
                self.verify_typed(asker, purpose, code).await
            }
            // Taken apart before: what a page approved is no answer to verify here.
            PresenceProof::Browser(_) => Err(Denial::BadAssertion),
        }
    }

    async fn verify_key(
        &self,
        asker: Asker<'_>,
        purpose: &ProofPurpose,
        credential: &serde_json::Value,
    ) -> Result<Presence, Denial> {
        let context = purpose.wanted.context(&purpose.login.login);
        let user = &purpose.login.user;
        let expected = ExpectedTap { user, state: &purpose.state, context: Some(&context) };
        let now = self.clock.time_of_day();
        match self.relying_party.finish_tap(credential, &expected, &self.store, now).await {
            Ok(tap) => Ok(Presence::Tap(tap)),
            Err(KeyError::Store(error)) => Err(error.into()),
            Err(error) => {
                self.answer_failed(asker, &purpose.wanted, &error.to_string()).await;
                Err(Denial::BadAssertion)
            }
        }
    }

    async fn verify_typed(
        &self,
        asker: Asker<'_>,
        purpose: &ProofPurpose,
        code: &portlatch_protocol::api::Secret,
    ) -> Result<Presence, Denial> {
        let (error, next) = match self.verify_code(&purpose.login.user, code).await {
            Ok(app) => return Ok(Presence::Code { app }),
            Err((CodeError::Store(error), _)) => return Err(error.into()),
            Err(refused) => refused,
        };
        self.note_failed(asker, &purpose.wanted, &error.to_string()).await;
        if next == Next::Paused {
            let detail = Some("codes".to_owned());
            self.audit.note(Event { detail, ..asker.event(EventKind::MfaLock) }).await;
        }
        Err(match error {
            CodeError::Paused(left) => Denial::CodesPaused(left),
            CodeError::Wrong | CodeError::Replayed | CodeError::NoApp | CodeError::Store(_) => {
                Denial::BadCode
            }
        })
    }

    /// Records a proof that was none. Of codes that is all: they have a pause of their own, and must not pause the key.
    async fn note_failed(&self, asker: Asker<'_>, wanted: &CeremonyPurpose, reason: &str) {
        let reason = Some(reason.to_owned());
        self.audit.note(Event { reason, ..about(wanted, asker.event(EventKind::MfaFail)) }).await;
    }

    /// Records a proof that is not enough any more; a key's counts as a wrong answer.
    pub(crate) async fn fell_short(
        &self,
        asker: Asker<'_>,
        wanted: &CeremonyPurpose,
        presence: &Presence,
        reason: &str,
    ) {
        match presence {
            Presence::Tap(_) => self.answer_failed(asker, wanted, reason).await,
            Presence::Code { .. } => self.note_failed(asker, wanted, reason).await,
        }
    }

    /// Counts and records a key's proof that was none; one too many pauses the login's proofs from there.
    pub(crate) async fn answer_failed(&self, asker: Asker<'_>, wanted: &CeremonyPurpose, reason: &str) {
        let (login, now) = (&asker.login.login.login, self.clock.boot_time());
        self.note_failed(asker, wanted, reason).await;
        if self.access_limits.failures.count(login, asker.address, now) == Consequence::Paused {
            self.audit.note(asker.event(EventKind::MfaLock)).await;
            self.note_ended(self.ceremonies.forget_login(login, asker.address), "paused").await;
        }
    }

    pub(crate) async fn refuse_if_paused(
        &self,
        asker: Asker<'_>,
        wanted: &CeremonyPurpose,
    ) -> Result<(), Denial> {
        let (login, now) = (&asker.login.login.login, self.clock.boot_time());
        let Some(left) = self.access_limits.failures.pause(login, asker.address, now) else { return Ok(()) };
        self.note_limited(asker, about(wanted, asker.event(EventKind::MfaFail))).await;
        Err(Denial::Paused(left))
    }

    /// Login, key, app or tap have gone since the request was let in.
    pub(crate) async fn ground_gone(&self, asker: Asker<'_>, event: Event) -> Denial {
        let (reason, denial) = match self.store.login(&asker.login.login.login).await {
            Ok(Some(login)) if login.ended.is_none() => ("proof_gone", Denial::CeremonyEnded),
            Ok(_) => ("login_ended", Denial::LoginEnded),
            Err(error) => return error.into(),
        };
        self.audit.note(Event { reason: Some(reason.to_owned()), ..event }).await;
        denial
    }

    /// Forgets a ceremony that the person denied.
    pub async fn cancel_ceremony(&self, asker: Asker<'_>, ceremony: &Id) {
        let (login, now) = (&asker.login.login.login, self.clock.boot_time());
        let Some(challenge) = self.ceremonies.take_cancelled(ceremony, login, now) else { return };
        self.note_ended(vec![challenge], "cancelled").await;
    }
}

/// What is wanted, in the form in which it is compared and kept.
fn comparable(wanted: &CeremonyPurpose) -> CeremonyPurpose {
    let mut wanted = wanted.clone();
    match &mut wanted {
        CeremonyPurpose::Open(AccessRequest { program, .. }) => {
            *program = program.as_deref().map(shown);
        }
        CeremonyPurpose::Exec(exec) => {
            exec.targets.sort();
            exec.program = exec.program.as_deref().map(shown);
        }
        CeremonyPurpose::ManageDevices(_) => {}
    }
    wanted
}
