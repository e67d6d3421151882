//! One port of one resource: a proof brings a grant, and is remembered as widely as the resource says.

use portlatch_audit::{Event, EventKind};
use portlatch_protocol::api::AccessRequest;
use portlatch_protocol::api::ceremony::{CeremonyOutcome, CeremonyPurpose};
use portlatch_protocol::resource::MfaNeed;

use super::{Demand, Proved};
use crate::api::problem::Denial;
use crate::browser::approval::{CrossDevice, Place};
use crate::ceremony::Codes;
use crate::control::{Control, random_id};
use crate::documents::resource::MfaScope;
use crate::grants::Asker;
use crate::grants::sign::{Basis, tap_expiry};
use crate::policy::Terms;
use crate::store::taps::{Tap, TapScope};
use crate::webauthn::TapStrength;

impl Demand {
    /// What these terms ask for.
    pub(super) const fn of(terms: &Terms) -> Self {
        let strength = match terms.user_verification {
            true => TapStrength::Verification,
            false => TapStrength::Presence,
        };
        let codes = match terms.mfa {
            MfaNeed::TapOrCode => Codes::Taken,
            MfaNeed::None | MfaNeed::Tap => Codes::Refused,
        };
        let cross = match terms.cross_device {
            true => CrossDevice::WithCode,
            false => CrossDevice::Refused,
        };
        Self { strength, codes, cross }
    }
}

impl Control {
    pub(super) async fn demand_of_open(
        &self,
        asker: Asker<'_>,
        request: &AccessRequest,
    ) -> Result<Demand, Denial> {
        self.check_tunnel_key(asker, request).await?;
        let (_, terms) = self.terms(asker, request).await?;
        Ok(Demand::of(&terms))
    }

    pub(super) async fn conclude_open(
        &self,
        asker: Asker<'_>,
        request: &AccessRequest,
        Proved { presence, time, place, shown }: Proved,
    ) -> Result<CeremonyOutcome, Denial> {
        // What the resource asks for may have changed since the prompt opened: what holds now counts.
        let (standing, terms) = self.terms(asker, request).await?;
        if let Some(shortfall) = presence.shortfall(&terms) {
            self.fell_short(asker, &CeremonyPurpose::Open(request.clone()), &presence, shortfall).await;
            return Err(Denial::BadAssertion);
        }
        if place == Place::Elsewhere && !terms.cross_device {
            return Err(self.refuse_elsewhere(asker, &CeremonyPurpose::Open(request.clone())).await);
        }
        self.audit.write(presence.on(asker.about(shown.event(), request))).await?;
        let resource = request.resource.clone();
        let scope = match (&terms.scope, place) {
            // Beside it in a group may be what takes no answer of another machine.
            (_, Place::Elsewhere) | (MfaScope::Port, Place::Here) => TapScope::Port(resource, request.port),
            (MfaScope::Resource, Place::Here) => TapScope::Resource(resource),
            (MfaScope::Group(group), Place::Here) => TapScope::Group(group.clone()),
        };
        let tap = Tap {
            id: random_id(),
            login: asker.login.login.login.clone(),
            tunnel_key: request.tunnel_key.clone(),
            scope,
            presence,
            time,
            lifetime: terms.mfa_interval,
        };
        if tap_expiry(&tap, terms.mfa_interval) <= self.clock.time_of_day().seconds() {
            let reason = Some("tap_over".to_owned());
            self.audit.note(Event { reason, ..asker.about(EventKind::MfaFail, request) }).await;
            return Err(Denial::CeremonyEnded);
        }
        if !self.store.add_taps(std::slice::from_ref(&tap)).await? {
            return Err(self.ground_gone(asker, asker.about(EventKind::AccessDenied, request)).await);
        }
        let grant = self.issue(asker, request, &standing, &terms, Basis::Tap(&tap)).await?;
        Ok(CeremonyOutcome::Granted(grant))
    }
}
