//! The claims of a grant: proof that this tunnel key may open this resource's port until a stated time.
//!
//! A grant travels as a JWT (RFC 7519), signed by control with ES256 and no other algorithm. Control signs it, the
//! daemon carries it unread, every proxy verifies it on every stream. Signing and verifying stand where the keys are;
//! here is only what the two must agree on.

use std::time::Duration;

use crate::names::{DeviceName, Hostname, Id, ResourceId, UserName};
use crate::thumbprint::Thumbprint;

/// The `aud` of every grant (RFC 7519 section 4.1.3): a grant is for proxies and nothing else.
pub const AUDIENCE: &str = "portlatch-proxy";
/// The `typ` of a grant's header (RFC 8725 section 3.11), so that no other JWT of ours can stand in for one.
pub const JWT_TYPE: &str = "portlatch-grant+jwt";
/// How long a grant lives at most, for new streams (design section 5).
pub const MAX_LIFETIME: Duration = Duration::from_secs(5 * 60);
/// How far a proxy's estimate of control's time may be off (design section 5).
pub const EXPIRY_LEEWAY: Duration = Duration::from_secs(5);
/// Longest grant that anyone reads: it must fit a stream's header with room to spare.
pub const MAX_GRANT_BYTES: usize = 8 * 1024;

/// What a grant says. Times are seconds since 1970 on control's clock (RFC 7519 NumericDate).
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct GrantClaims {
    /// The cluster that issued it.
    pub iss: Hostname,
    /// The user.
    pub sub: UserName,
    /// Always [`AUDIENCE`].
    pub aud: String,
    /// The grant's own identifier, for revocation and audit.
    pub jti: Id,
    /// When it was issued.
    pub iat: i64,
    /// When it ends for new streams.
    pub exp: i64,
    /// The key that must hold the tunnel.
    pub cnf: Confirmation,
    /// The login.
    pub login: Id,
    /// The device.
    pub device: DeviceName,
    /// The resource.
    pub resource: ResourceId,
    /// The one port of it.
    pub port: u16,
    /// How presence was proved (RFC 8176: `hwk`, `user`, `pin`, `otp`); empty where no tap was needed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub amr: Vec<String>,
    /// When presence was proved; present exactly with `amr`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_time: Option<i64>,
    /// Which security key proved it, as control names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<Id>,
    /// When sessions opened with it end at the latest.
    pub session_end: i64,
    /// Seconds after which a session without traffic ends, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<u64>,
    /// What the user may have at once at one proxy.
    pub limits: ConnectionLimits,
}

/// The key binding of a grant (RFC 7800).
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Confirmation {
    /// RFC 7638 thumbprint of the tunnel key.
    pub jkt: Thumbprint,
}

/// What one user may have at one proxy (design section 11); role options change them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ConnectionLimits {
    /// Connections at once.
    pub connections: u32,
    /// New connections a second, in the long run.
    pub rate: u32,
    /// New connections in one burst.
    pub burst: u32,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self { connections: 1024, rate: 500, burst: 2000 }
    }
}
