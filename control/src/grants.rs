//! From "may this tunnel key open this port?" to a signed grant.
//!
//! ```text
//! ask ──► granted            no tap needed, or one is remembered that covers it
//!    ├──► refused            policy, lock, unknown port
//!    └──► tap needed         nothing was made; a proof of presence ([`crate::proving`]) leads on
//! ```
//!
//! A grant is kept before it is signed, and the policy is looked at once more after it was kept: a change that came in
//! between finds it among the live ones, or is found by this second look.

use std::sync::Arc;

use portlatch_audit::EventKind;
use portlatch_clock::TimeOfDay;
use portlatch_protocol::api::ceremony::ExecTarget;
use portlatch_protocol::api::{AccessAnswer, AccessRequest, IssuedGrant};
use portlatch_protocol::grant::MAX_LIFETIME;
use portlatch_protocol::refusal::RefusalReason;
use portlatch_protocol::resource::MfaNeed;
use portlatch_protocol::thumbprint::Thumbprint;

pub(crate) use self::asker::shown;
pub use self::asker::{AccessLimits, Asker};
use self::sign::{Basis, GrantBounds};
use crate::api::problem::Denial;
use crate::control::{Control, random_id};
use crate::documents::resource::MfaScope;
use crate::policy::Terms;
use crate::store::grants::StoredGrant;
use crate::store::taps::{Tap, TapScope};
use crate::watch::standing::{Standing, Verdict};

mod asker;
pub mod failures;
pub mod sign;

/// Why access is not given.
#[derive(Debug)]
struct Refused {
    reason: RefusalReason,
    /// For people; none says no more than the reason.
    message: Option<String>,
    denial: Denial,
}

impl Control {
    /// Answers whether this tunnel key may open this port; a tap that is needed is not begun.
    ///
    /// # Errors
    /// A [`Denial`].
    pub async fn ask(&self, asker: Asker<'_>, request: &AccessRequest) -> Result<AccessAnswer, Denial> {
        if !self.access_limits.takes_question(asker, self.clock.boot_time()) {
            self.note_limited(asker, asker.about(EventKind::AccessDenied, request)).await;
            return Ok(refused(RefusalReason::Limit, None));
        }
        self.check_tunnel_key(asker, request).await?;
        let (standing, terms) = match self.evaluate(asker, request).await {
            Ok(allowed) => allowed,
            Err(Refused { reason, message, .. }) => return Ok(refused(reason, message)),
        };
        if terms.mfa == MfaNeed::None {
            let grant = self.issue(asker, request, &standing, &terms, Basis::NoTap).await?;
            return Ok(AccessAnswer::Granted(grant));
        }
        let target = ExecTarget { resource: request.resource.clone(), port: request.port };
        if let Some(tap) = self.tap_serving(asker, Some(&request.tunnel_key), &target, &terms).await? {
            match self.issue(asker, request, &standing, &terms, Basis::Tap(&tap)).await {
                // It was forgotten a moment ago: the person is asked.
                Err(Denial::CeremonyEnded) => {}
                issued => return issued.map(AccessAnswer::Granted),
            }
        }
        let takes_codes = terms.mfa == MfaNeed::TapOrCode;
        let user = &asker.login.login.user;
        let code_allowed = takes_codes && self.has_app(user).await? && !self.codes_pause(user).await?;
        Ok(AccessAnswer::TapNeeded { code_allowed })
    }

    pub(crate) async fn check_tunnel_key(
        &self,
        asker: Asker<'_>,
        request: &AccessRequest,
    ) -> Result<(), Denial> {
        if self.store.has_tunnel_key(&asker.login.login.login, &request.tunnel_key).await? {
            return Ok(());
        }
        self.audit.note(asker.failed(EventKind::AccessDenied, request, "tunnel_key")).await;
        Err(Denial::BadRequest("this tunnel key was not certified for this login".to_owned()))
    }

    /// The terms on which this login may open this port now; a refusal is on the record.
    pub(crate) async fn terms(
        &self,
        asker: Asker<'_>,
        request: &AccessRequest,
    ) -> Result<(Arc<Standing>, Terms), Denial> {
        self.evaluate(asker, request).await.map_err(|refused| refused.denial)
    }

    async fn evaluate(
        &self,
        asker: Asker<'_>,
        request: &AccessRequest,
    ) -> Result<(Arc<Standing>, Terms), Refused> {
        let (standing, now) = (self.hub.now(), self.clock.time_of_day());
        let verdict = standing.evaluate(&asker.login.login, &request.resource, request.port, now);
        let (word, refused) = match verdict {
            Verdict::Allowed(terms) if terms.pin_source_ip && !asker.is_at_home() => {
                let (reason, denial) = (RefusalReason::Policy, Denial::SourceAddress);
                ("source_address", Refused { reason, message: Some(denial.to_string()), denial })
            }
            Verdict::Allowed(terms) => return Ok((standing, terms)),
            Verdict::Refused { reason, message } => {
                let denial = denial(reason, message.clone());
                (reason.as_str(), Refused { reason, message, denial })
            }
        };
        self.audit.note(asker.failed(EventKind::AccessDenied, request, word)).await;
        Err(refused)
    }

    /// A tap that covers this port, as the resource says now and said when it was tapped; of one tunnel key, or of the
    /// login's newest.
    pub(crate) async fn tap_serving(
        &self,
        asker: Asker<'_>,
        tunnel_key: Option<&Thumbprint>,
        target: &ExecTarget,
        terms: &Terms,
    ) -> Result<Option<Tap>, Denial> {
        let now = self.clock.time_of_day();
        let interval = i64::try_from(terms.mfa_interval.min(MAX_LIFETIME).as_millis()).unwrap_or(i64::MAX);
        let group = match &terms.scope {
            MfaScope::Group(group) => Some(group),
            MfaScope::Port | MfaScope::Resource => None,
        };
        let by = (&asker.login.login.login, tunnel_key);
        let place = (&target.resource, target.port);
        let since = TimeOfDay(now.0.saturating_sub(interval));
        let taps = self.store.taps_covering(by, place, group, since).await?;
        let serves = |tap: &Tap| {
            let is_in_scope = match &tap.scope {
                TapScope::Port(..) => true,
                TapScope::Resource(_) => terms.scope == MfaScope::Resource,
                TapScope::Group(tapped) => group == Some(tapped),
            };
            // One of the future says nothing.
            is_in_scope
                && tap.time <= now
                && tap.presence.shortfall(terms).is_none()
                && sign::tap_expiry(tap, terms.mfa_interval) > now.seconds()
        };
        Ok(taps.into_iter().find(serves))
    }

    /// Keeps, signs and records a grant.
    pub(crate) async fn issue(
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
            presence: basis.tap().map(|tap| tap.presence.clone()),
            expires: TimeOfDay(bounds.exp.saturating_mul(1000)),
            terms: terms.binding(),
        };
        if !self.store.add_grant(&kept, basis.tap().map(|tap| &tap.id), now).await? {
            return Err(self.ground_gone(asker, asker.about(EventKind::AccessDenied, request)).await);
        }
        let latest = self.hub.now();
        if !Arc::ptr_eq(&latest, standing) && !latest.still_allows(&kept, now) {
            self.store.revoke_grants(std::slice::from_ref(&kept.id), now).await?;
            self.audit.note(asker.failed(EventKind::AccessDenied, request, "policy_changed")).await;
            return Err(Denial::Policy);
        }
        let claims = bounds.claims(self.cluster(), &kept, &request.tunnel_key, terms, basis);
        let token = self.grant_signer.sign(&claims)?;
        let mut granted = asker.about(EventKind::Grant, request);
        granted.grant = Some(kept.id.clone());
        if let Some(presence) = &kept.presence {
            granted = presence.on(granted);
        }
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
