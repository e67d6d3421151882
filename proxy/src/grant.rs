//! Verifying a grant: the one way to a [`VerifiedGrant`], and so to a session.

use std::sync::Arc;

use jsonwebtoken::{Algorithm, Validation, decode, decode_header};
use portlatch_protocol::grant::{
    AUDIENCE, EXPIRY_LEEWAY, GrantClaims, JWT_TYPE, MAX_GRANT_BYTES, MAX_LIFETIME,
};
use portlatch_protocol::identity::Login;
use portlatch_protocol::stream::{Open, OpenRefusal};
use portlatch_protocol::thumbprint::Thumbprint;

use crate::watch::{GrantContext, Objection, View};

mod known;

pub use known::KnownGrants;

/// A grant that is good, now, for the stream and the tunnel that it was verified for. Holding one is having checked.
#[derive(Debug)]
pub struct VerifiedGrant(Arc<GrantClaims>);

/// Who is at the other end of a tunnel, by its certificate.
#[derive(Debug, Clone)]
pub struct TunnelIdentity {
    /// The login.
    pub login: Login,
    /// The thumbprint of the certificate's key.
    pub key: Thumbprint,
}

/// What is wrong with a grant. The audit keeps the word, the peer hears only the refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GrantFault {
    /// Not a JWT with our claims, or over the limit of size.
    #[error("malformed")]
    Malformed,
    /// Another JWT of ours, or somebody else's.
    #[error("wrong_type")]
    WrongType,
    /// Not ES256.
    #[error("wrong_algorithm")]
    WrongAlgorithm,
    /// Signed with a key that control does not have.
    #[error("unknown_key")]
    UnknownKey,
    /// Altered, or signed by another.
    #[error("bad_signature")]
    BadSignature,
    /// Of another cluster, or for somebody else than proxies.
    #[error("wrong_issuer_or_audience")]
    WrongIssuerOrAudience,
    /// For another tunnel's key.
    #[error("other_key")]
    OtherKey,
    /// For another user, login or device.
    #[error("other_login")]
    OtherLogin,
    /// For another resource.
    #[error("other_resource")]
    OtherResource,
    /// For another port.
    #[error("other_port")]
    OtherPort,
    /// It lives longer than any grant may.
    #[error("too_long_lived")]
    TooLongLived,
    /// It has ended.
    #[error("expired")]
    Expired,
    /// Control revoked it.
    #[error("revoked")]
    Revoked,
    /// Its login has ended.
    #[error("login_ended")]
    LoginEnded,
    /// A lock stands against it.
    #[error("locked")]
    Locked,
    /// The resource is gone.
    #[error("resource_gone")]
    ResourceGone,
}

impl GrantFault {
    /// What the peer hears.
    pub const fn refusal(self) -> OpenRefusal {
        match self {
            Self::Malformed
            | Self::WrongType
            | Self::WrongAlgorithm
            | Self::UnknownKey
            | Self::BadSignature
            | Self::WrongIssuerOrAudience
            | Self::OtherKey
            | Self::OtherLogin
            | Self::OtherResource
            | Self::OtherPort
            | Self::TooLongLived => OpenRefusal::BadGrant,
            Self::Expired | Self::Revoked | Self::LoginEnded => OpenRefusal::GrantEnded,
            Self::Locked => OpenRefusal::Locked,
            Self::ResourceGone => OpenRefusal::UnknownResource,
        }
    }
}

impl From<Objection> for GrantFault {
    fn from(objection: Objection) -> Self {
        match objection {
            Objection::Locked => Self::Locked,
            Objection::LoginEnded => Self::LoginEnded,
            Objection::ResourceGone => Self::ResourceGone,
        }
    }
}

impl VerifiedGrant {
    /// What it says.
    pub fn claims(&self) -> &GrantClaims {
        &self.0
    }

    /// Verifies the grant in `open` for this tunnel. A signature that was found good on the tunnel before is `known`;
    /// all else is looked at for every stream.
    ///
    /// # Errors
    /// The first [`GrantFault`] found.
    pub fn verify(
        open: &Open,
        tunnel: &TunnelIdentity,
        view: &View,
        known: &KnownGrants,
    ) -> Result<Self, GrantFault> {
        if open.grant.len() > MAX_GRANT_BYTES {
            return Err(GrantFault::Malformed);
        }
        let (claims, context) = match known.find(&open.grant, view) {
            Some(found) => found,
            None => check_signature(&open.grant, view, known)?,
        };
        if claims.iss != context.cluster || claims.aud != AUDIENCE {
            return Err(GrantFault::WrongIssuerOrAudience);
        }
        check_binding(&claims, open, tunnel)?;
        check_time(&claims, context.now.0.div_euclid(1000))?;
        let grant = Self(claims);
        grant.check_standing(tunnel, view)?;
        Ok(grant)
    }

    /// Whether nothing that control has said by now stands against it: revocations, locks, an ended login, a resource
    /// that is gone.
    ///
    /// # Errors
    /// The first [`GrantFault`] found.
    pub fn check_standing(&self, tunnel: &TunnelIdentity, view: &View) -> Result<(), GrantFault> {
        if view.is_revoked(&self.0.jti) {
            return Err(GrantFault::Revoked);
        }
        view.objection(&tunnel.login, &self.0.resource).map_or(Ok(()), |objection| Err(objection.into()))
    }
}

fn check_signature(
    grant: &str,
    view: &View,
    known: &KnownGrants,
) -> Result<(Arc<GrantClaims>, GrantContext), GrantFault> {
    let header = decode_header(grant).map_err(|_| GrantFault::Malformed)?;
    if header.typ.as_deref() != Some(JWT_TYPE) || header.crit.is_some() {
        return Err(GrantFault::WrongType);
    }
    if header.alg != Algorithm::ES256 {
        return Err(GrantFault::WrongAlgorithm);
    }
    let kid = header.kid.ok_or(GrantFault::UnknownKey)?;
    let context = view.grant_context(&kid).ok_or(GrantFault::UnknownKey)?;
    let token = decode::<GrantClaims>(grant, &context.key, &signature_alone());
    let claims = Arc::new(token.map_err(|error| signature_fault(&error))?.claims);
    known.remember(grant, kid, &context.key, &claims);
    Ok((claims, context))
}

fn check_binding(claims: &GrantClaims, open: &Open, tunnel: &TunnelIdentity) -> Result<(), GrantFault> {
    if claims.cnf.jkt != tunnel.key {
        return Err(GrantFault::OtherKey);
    }
    let login = &tunnel.login;
    if claims.sub != login.user || claims.login != login.login || claims.device != login.device {
        return Err(GrantFault::OtherLogin);
    }
    if claims.resource != open.resource {
        return Err(GrantFault::OtherResource);
    }
    if claims.port != open.port {
        return Err(GrantFault::OtherPort);
    }
    Ok(())
}

fn check_time(claims: &GrantClaims, now: i64) -> Result<(), GrantFault> {
    let seconds = |duration: std::time::Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    let leeway = seconds(EXPIRY_LEEWAY);
    if claims.exp.saturating_add(leeway) <= now || claims.session_end <= now {
        return Err(GrantFault::Expired);
    }
    if claims.exp > now.saturating_add(seconds(MAX_LIFETIME) + leeway) {
        return Err(GrantFault::TooLongLived);
    }
    Ok(())
}

/// jsonwebtoken checks the signature and nothing else: its clock is the system's, and claims are compared as values.
fn signature_alone() -> Validation {
    let mut validation = Validation::new(Algorithm::ES256);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation
}

fn signature_fault(error: &jsonwebtoken::errors::Error) -> GrantFault {
    use jsonwebtoken::errors::ErrorKind;
    if matches!(error.kind(), ErrorKind::InvalidSignature) {
        return GrantFault::BadSignature;
    }
    GrantFault::Malformed
}

#[cfg(test)]
mod tests;
