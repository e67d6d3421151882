//! From "may this tunnel key open this port?" to a signed grant.
//!
//! ```text
//! ask ──► granted            no tap needed, or one is remembered that covers it
//!    ├──► refused            policy, lock, unknown port
//!    └──► tap needed         nothing was made
//! begin ──► a challenge, bound to login, tunnel key, resource and port
//! finish ──► taken, verified, policy looked at again, tap remembered ──► granted
//! ```
//!
//! A grant is kept before it is signed, and the policy is looked at once more after it was kept: a change that came in
//! between finds it among the live ones, or is found by this second look.

use std::sync::Arc;
use std::time::Duration;

use portlatch_audit::{Event, EventKind};
use portlatch_clock::TimeOfDay;
use portlatch_protocol::api::ceremony::{CeremonyOutcome, CeremonyPurpose, CeremonyRequest, PresenceProof};
use portlatch_protocol::api::{AccessAnswer, AccessRequest, Ceremony, ClientDataContext, IssuedGrant};
use portlatch_protocol::grant::MAX_LIFETIME;
use portlatch_protocol::names::Id;
use portlatch_protocol::refusal::RefusalReason;
use portlatch_protocol::resource::MfaNeed;

use self::asker::shown;
pub use self::asker::{AccessLimits, Asker};
use self::sign::{Basis, GrantBounds};
use crate::api::problem::Denial;
use crate::ceremony::{Challenge, LIFETIME, OpenPurpose, Owner, Purpose};
use crate::control::{Control, random_id};
use crate::documents::resource::MfaScope;
use crate::policy::Terms;
use crate::store::grants::StoredGrant;
use crate::store::taps::{Tap, TapScope};
use crate::watch::standing::{Standing, Verdict};
use crate::webauthn::{ExpectedTap, KeyError, TapStrength, UserVerified, amr};

mod asker;
pub mod sign;

impl Control {
    /// Answers whether this tunnel key may open this port; a tap that is needed is not begun.
    ///
    /// # Errors
    /// A [`Denial`].
    pub async fn ask(&self, asker: Asker<'_>, request: &AccessRequest) -> Result<AccessAnswer, Denial> {
        let id = &asker.login.login.login;
        if !self.access_limits.questions.take(id, self.clock.boot_time()) {
            return Ok(refused(RefusalReason::Limit, None));
        }
        self.check_tunnel_key(asker, request).await?;
        let (standing, now) = (self.hub.now(), self.clock.time_of_day());
        let terms = match standing.evaluate(&asker.login.login, &request.resource, request.port, now) {
            Verdict::Allowed(terms) => terms,
            Verdict::Refused { reason, message } => {
                self.audit.note(asker.failed(EventKind::AccessDenied, request, reason.as_str())).await;
                return Ok(refused(reason, message));
            }
        };
        if terms.mfa == MfaNeed::None {
            let grant = self.issue(asker, request, &standing, &terms, Basis::NoTap).await?;
            return Ok(AccessAnswer::Granted(grant));
        }
        match self.remembered_tap(asker, request, &terms, now).await? {
            Some(tap) => {
                let grant = self.issue(asker, request, &standing, &terms, Basis::Tap(&tap)).await?;
                Ok(AccessAnswer::Granted(grant))
            }
            // Codes are not taken yet, whatever the policy would allow.
            None => Ok(AccessAnswer::TapNeeded { code_allowed: false }),
        }
    }

    async fn check_tunnel_key(&self, asker: Asker<'_>, request: &AccessRequest) -> Result<(), Denial> {
        if self.store.has_tunnel_key(&asker.login.login.login, &request.tunnel_key).await? {
            return Ok(());
        }
        self.audit.note(asker.failed(EventKind::AccessDenied, request, "tunnel_key")).await;
        Err(Denial::BadRequest("this tunnel key was not certified for this login".to_owned()))
    }

    async fn remembered_tap(
        &self,
        asker: Asker<'_>,
        request: &AccessRequest,
        terms: &Terms,
        now: TimeOfDay,
    ) -> Result<Option<Tap>, Denial> {
        let login = &asker.login.login.login;
        let since = TimeOfDay(now.0.saturating_sub(milliseconds(terms.mfa_interval)));
        let taps = self
            .store
            .taps_covering(login, &request.tunnel_key, &request.resource, request.port, since)
            .await?;
        // A wide tap says nothing about this port where each port asks for its own; one of the future nothing at all.
        let serves = |tap: &Tap| {
            (tap.scope.port.is_some() || terms.scope == MfaScope::Resource)
                && tap.time <= now
                && (tap.is_user_verified || !terms.user_verification)
                && sign::tap_expiry(tap.time, terms.mfa_interval) > now.seconds()
        };
        Ok(taps.into_iter().find(serves))
    }

    /// Makes the challenge for a tap.
    ///
    /// # Errors
    /// A [`Denial`].
    pub async fn begin_ceremony(
        &self,
        asker: Asker<'_>,
        request: &CeremonyRequest,
    ) -> Result<Ceremony, Denial> {
        match &request.purpose {
            CeremonyPurpose::Open(request) => self.begin_open(asker, request).await,
            CeremonyPurpose::Exec(_) | CeremonyPurpose::ManageDevices(_) => {
                Err(Denial::BadRequest("this version of the service has no such ceremony".to_owned()))
            }
        }
    }

    async fn begin_open(&self, asker: Asker<'_>, request: &AccessRequest) -> Result<Ceremony, Denial> {
        let (login, now) = (&asker.login.login, self.clock.boot_time());
        if !self.access_limits.challenges.take(&login.login, now) {
            return Err(Denial::RateLimited);
        }
        self.check_tunnel_key(asker, request).await?;
        let terms = self.terms_or_noted(asker, request).await?;
        let strength = match terms.user_verification {
            true => TapStrength::Verification,
            false => TapStrength::Presence,
        };
        let keys = self.store.credentials(&login.user).await?;
        let begun = self.relying_party.begin_tap(&keys, strength);
        let (options, state) = begun.map_err(|_| Denial::BadAssertion)?;
        let purpose = OpenPurpose {
            login: login.clone(),
            tunnel_key: request.tunnel_key.clone(),
            resource: request.resource.clone(),
            port: request.port,
            program: request.program.as_deref().map(shown),
            state,
        };
        self.audit.write(asker.event(EventKind::MfaChallenge, request)).await?;
        let ceremony = random_id();
        let challenge = Challenge {
            owner: Owner::Login(login.login.clone()),
            purpose: Purpose::Open(Box::new(purpose)),
            address: asker.address,
            expires: now + LIFETIME,
        };
        let displaced = self.ceremonies.insert(ceremony.clone(), challenge, now)?;
        self.note_ended(displaced, "displaced").await;
        Ok(Ceremony { ceremony, options, expires_in: LIFETIME.as_secs(), code_allowed: false, browser: None })
    }

    /// Ends a ceremony: takes the challenge, verifies the answer, and signs the grant.
    ///
    /// # Errors
    /// A [`Denial`]. The ceremony is over whatever happens.
    pub async fn finish_ceremony(
        &self,
        asker: Asker<'_>,
        ceremony: &Id,
        proof: &PresenceProof,
    ) -> Result<CeremonyOutcome, Denial> {
        let (login, boot_time) = (&asker.login.login, self.clock.boot_time());
        if !self.access_limits.failures.has_left(&login.login, boot_time) {
            return Err(Denial::RateLimited);
        }
        // Taken before anything is verified: no path below can give it a second answer.
        let Some(open) = self.ceremonies.take(ceremony, &login.login, boot_time) else {
            self.note_ceremony_ended(asker).await;
            return Err(Denial::CeremonyEnded);
        };
        let request = AccessRequest {
            resource: open.resource.clone(),
            port: open.port,
            tunnel_key: open.tunnel_key.clone(),
            program: open.program.clone(),
            pid: None,
        };
        let PresenceProof::Key { credential } = proof else {
            return Err(self.answer_failed(asker, &request, &KeyError::Malformed).await);
        };
        let tap = self.verify_tap(asker, &open, &request, credential).await?;
        // What the resource asks for may have changed since the prompt opened: what holds now counts.
        let (standing, terms) = self.standing_terms(asker, &request).await?;
        if terms.user_verification && !tap.is_user_verified {
            return Err(self.answer_failed(asker, &request, &KeyError::NotVerified).await);
        }
        let (key_id, uv) = (Some(tap.key_id.clone()), Some(tap.is_user_verified));
        let amr = amr(tap.is_user_verified.then_some(UserVerified));
        let ok = Event { amr, key_id, up: Some(true), uv, ..asker.event(EventKind::MfaOk, &request) };
        self.audit.write(ok).await?;
        let port = match terms.scope {
            MfaScope::Port => Some(open.port),
            MfaScope::Resource => None,
        };
        let scope = TapScope { port, ..tap.scope };
        let tap = Tap { scope, ..tap };
        if !self.store.add_tap(&tap).await? {
            return Err(self.login_ended(asker, &request).await);
        }
        let grant = self.issue(asker, &request, &standing, &terms, Basis::Tap(&tap)).await?;
        Ok(CeremonyOutcome::Granted(grant))
    }

    async fn verify_tap(
        &self,
        asker: Asker<'_>,
        open: &OpenPurpose,
        request: &AccessRequest,
        credential: &serde_json::Value,
    ) -> Result<Tap, Denial> {
        let context = ClientDataContext::Open {
            resource: open.resource.clone(),
            port: open.port,
            login: open.login.login.clone(),
        };
        let expected = ExpectedTap { user: &open.login.user, state: &open.state, context: Some(&context) };
        let now = self.clock.time_of_day();
        match self.relying_party.finish_tap(credential, &expected, &self.store, now).await {
            Ok(verified) => Ok(Tap {
                id: random_id(),
                login: open.login.login.clone(),
                tunnel_key: open.tunnel_key.clone(),
                scope: TapScope { resource: open.resource.clone(), port: Some(open.port) },
                key_id: verified.key_id,
                is_user_verified: verified.is_user_verified,
                time: now,
            }),
            Err(KeyError::Store(error)) => Err(error.into()),
            Err(error) => Err(self.answer_failed(asker, request, &error).await),
        }
    }

    async fn answer_failed(&self, asker: Asker<'_>, request: &AccessRequest, error: &KeyError) -> Denial {
        let _ = self.access_limits.failures.take(&asker.login.login.login, self.clock.boot_time());
        self.audit.note(asker.failed(EventKind::MfaFail, request, &error.to_string())).await;
        Denial::BadAssertion
    }

    /// Login or key have gone since the request was let in.
    async fn login_ended(&self, asker: Asker<'_>, request: &AccessRequest) -> Denial {
        self.audit.note(asker.failed(EventKind::AccessDenied, request, "login_ended")).await;
        Denial::LoginEnded
    }

    async fn note_ceremony_ended(&self, asker: Asker<'_>) {
        let login = asker.login.login.clone();
        let event = Event {
            user: Some(login.user),
            login: Some(login.login),
            device: Some(login.device),
            client_addr: Some(asker.address.to_string()),
            reason: Some("ceremony_ended".to_owned()),
            ..Event::new(EventKind::MfaFail)
        };
        self.audit.note(event).await;
    }

    async fn terms_or_noted(&self, asker: Asker<'_>, request: &AccessRequest) -> Result<Terms, Denial> {
        self.standing_terms(asker, request).await.map(|(_, terms)| terms)
    }

    async fn standing_terms(
        &self,
        asker: Asker<'_>,
        request: &AccessRequest,
    ) -> Result<(Arc<Standing>, Terms), Denial> {
        let (standing, now) = (self.hub.now(), self.clock.time_of_day());
        match standing.evaluate(&asker.login.login, &request.resource, request.port, now) {
            Verdict::Allowed(terms) => Ok((standing, terms)),
            Verdict::Refused { reason, message } => {
                self.audit.note(asker.failed(EventKind::AccessDenied, request, reason.as_str())).await;
                Err(denial(reason, message))
            }
        }
    }

    /// Forgets a ceremony that the person denied.
    pub async fn cancel_ceremony(&self, asker: Asker<'_>, ceremony: &Id) {
        let login = &asker.login.login.login;
        let Some(open) = self.ceremonies.take(ceremony, login, self.clock.boot_time()) else { return };
        let request = AccessRequest {
            resource: open.resource,
            port: open.port,
            tunnel_key: open.tunnel_key,
            program: open.program,
            pid: None,
        };
        self.audit.note(asker.failed(EventKind::MfaFail, &request, "cancelled")).await;
    }

    /// Keeps, signs and records a grant.
    async fn issue(
        &self,
        asker: Asker<'_>,
        request: &AccessRequest,
        standing: &Arc<Standing>,
        terms: &Terms,
        basis: Basis<'_>,
    ) -> Result<IssuedGrant, Denial> {
        let now = self.clock.time_of_day();
        let bounds = GrantBounds::new(basis, terms, asker.login.expires, now);
        let kept = StoredGrant {
            id: random_id(),
            login: asker.login.login.clone(),
            resource: request.resource.clone(),
            port: request.port,
            key_id: basis.tap().map(|tap| tap.key_id.clone()),
            is_user_verified: basis.tap().is_some_and(|tap| tap.is_user_verified),
            expires: TimeOfDay(bounds.exp.saturating_mul(1000)),
            terms: terms.binding(),
        };
        if !self.store.add_grant(&kept, now).await? {
            return Err(self.login_ended(asker, request).await);
        }
        let latest = self.hub.now();
        if !Arc::ptr_eq(&latest, standing) && !latest.still_allows(&kept, now) {
            self.store.revoke_grants(std::slice::from_ref(&kept.id), now).await?;
            self.audit.note(asker.failed(EventKind::AccessDenied, request, "policy_changed")).await;
            return Err(Denial::Policy);
        }
        let claims = bounds.claims(self.cluster(), &kept, &request.tunnel_key, terms, basis);
        let token = self.grant_signer.sign(&claims)?;
        let granted = Event {
            grant: Some(kept.id.clone()),
            amr: claims.amr.clone(),
            key_id: kept.key_id.clone(),
            ..asker.event(EventKind::Grant, request)
        };
        if let Err(error) = self.audit.write(granted).await {
            self.store.revoke_grants(std::slice::from_ref(&kept.id), now).await?;
            return Err(error.into());
        }
        let expires_in = u64::try_from(bounds.exp - now.seconds()).unwrap_or(0);
        Ok(IssuedGrant { id: kept.id, token, expires_in, amr: claims.amr })
    }
}

fn refused(reason: RefusalReason, message: Option<String>) -> AccessAnswer {
    AccessAnswer::Refused { reason, message: message.unwrap_or_else(|| reason.advice().to_owned()) }
}

fn denial(reason: RefusalReason, message: Option<String>) -> Denial {
    match reason {
        RefusalReason::Locked => Denial::Locked(message),
        RefusalReason::UnknownPort => Denial::NotFound,
        RefusalReason::NoLogin => Denial::LoginEnded,
        RefusalReason::Limit => Denial::RateLimited,
        RefusalReason::Policy
        | RefusalReason::Denied
        | RefusalReason::TimedOut
        | RefusalReason::QueueFull
        | RefusalReason::CoolDown
        | RefusalReason::TargetRefused
        | RefusalReason::TargetUnreachable
        | RefusalReason::NoProxy => Denial::Policy,
    }
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.min(MAX_LIFETIME).as_millis()).unwrap_or(i64::MAX)
}
