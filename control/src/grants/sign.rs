//! What a grant says and for how long, and its signature.

use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use portlatch_clock::TimeOfDay;
use portlatch_protocol::grant::{AUDIENCE, Confirmation, GrantClaims, JWT_TYPE, MAX_LIFETIME};
use portlatch_protocol::names::Hostname;
use portlatch_protocol::thumbprint::Thumbprint;

use crate::api::problem::Denial;
use crate::keys::Keys;
use crate::policy::Terms;
use crate::store::grants::StoredGrant;
use crate::store::taps::Tap;

/// What a grant rests on.
#[derive(Debug, Clone, Copy)]
pub enum Basis<'a> {
    /// The policy alone: no tap is needed.
    NoTap,
    /// A verified tap.
    Tap(&'a Tap),
}

impl<'a> Basis<'a> {
    pub(super) const fn tap(self) -> Option<&'a Tap> {
        match self {
            Self::NoTap => None,
            Self::Tap(tap) => Some(tap),
        }
    }
}

/// When a grant ends, and the sessions that are opened with it. Seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrantBounds {
    issued: i64,
    pub(super) exp: i64,
    session_end: i64,
}

impl GrantBounds {
    /// With a tap: counted from the tap, fixed; without: from now. Never beyond the login.
    pub(super) fn new(basis: Basis<'_>, terms: &Terms, login_end: TimeOfDay, now: TimeOfDay) -> Self {
        let latest = now.after(MAX_LIFETIME).seconds();
        let exp = match basis {
            Basis::NoTap => latest,
            Basis::Tap(tap) => tap_expiry(tap, terms.mfa_interval).min(latest),
        };
        let session = terms.session.max_session.map_or(login_end, |length| now.after(length).min(login_end));
        Self { issued: now.seconds(), exp: exp.min(login_end.seconds()), session_end: session.seconds() }
    }

    pub(super) fn claims(
        self,
        cluster: &Hostname,
        grant: &StoredGrant,
        tunnel_key: &Thumbprint,
        terms: &Terms,
        basis: Basis<'_>,
    ) -> GrantClaims {
        let tap = basis.tap();
        GrantClaims {
            iss: cluster.clone(),
            sub: grant.login.user.clone(),
            aud: AUDIENCE.to_owned(),
            jti: grant.id.clone(),
            iat: self.issued,
            exp: self.exp,
            cnf: Confirmation { jkt: tunnel_key.clone() },
            login: grant.login.login.clone(),
            device: grant.login.device.clone(),
            resource: grant.resource.clone(),
            port: grant.port,
            amr: tap.map(|tap| tap.presence.amr()).unwrap_or_default(),
            auth_time: tap.map(|tap| tap.time.seconds()),
            key_id: tap.map(|tap| tap.presence.device().clone()),
            session_end: self.session_end,
            idle: terms.session.idle.map(|idle| idle.as_secs()),
            limits: terms.limits,
        }
    }
}

/// When the grants of a tap end, in seconds: by what was said when it was tapped and by what is said now.
pub(crate) fn tap_expiry(tap: &Tap, interval: Duration) -> i64 {
    tap.time.after(tap.lifetime.min(interval).min(MAX_LIFETIME)).seconds()
}

/// Signs grants with the cluster's grant key.
pub struct GrantSigner {
    header: Header,
    key: EncodingKey,
}

impl std::fmt::Debug for GrantSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrantSigner").field("kid", &self.header.kid).finish_non_exhaustive()
    }
}

impl GrantSigner {
    /// A signer with the grant key of `keys`.
    pub fn new(keys: &Keys) -> Self {
        let mut header = Header::new(Algorithm::ES256);
        header.typ = Some(JWT_TYPE.to_owned());
        header.kid = Some(keys.grant_kid().to_string());
        Self { header, key: EncodingKey::from_ec_der(keys.grant_key()) }
    }

    /// The claims as a JWT.
    ///
    /// # Errors
    /// [`Denial::Unavailable`], which does not happen on a working machine.
    pub fn sign(&self, claims: &GrantClaims) -> Result<String, Denial> {
        jsonwebtoken::encode(&self.header, claims, &self.key).map_err(|error| {
            tracing::error!(%error, "a grant could not be signed");
            Denial::Unavailable
        })
    }
}
