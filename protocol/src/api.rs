//! What agent and control say: JSON over HTTP/1.1 inside TLS with ALPN `portlatch-api/1`.
//!
//! | request | certificate | body | answer |
//! |---|---|---|---|
//! | `POST /v1/login` | none | [`LoginRequest`] | [`LoginChallenge`] |
//! | `POST /v1/login/{ceremony}` | none | [`LoginAnswer`] | [`LoginGranted`] |
//! | `POST /v1/logout` | login | - | 204 |
//! | `POST /v1/tunnel` | login | [`TunnelRequest`] | [`TunnelCertificate`] |
//! | `GET /v1/catalogue?after=REVISION` | login | - | [`Catalogue`], or 204 after 25 s without a change |
//! | `POST /v1/access` | login | [`AccessRequest`] | [`AccessAnswer`] |
//! | `POST /v1/ceremonies` | login | [`CeremonyRequest`](ceremony::CeremonyRequest) | [`Ceremony`] |
//! | `POST /v1/ceremonies/{ceremony}` | login | [`PresenceProof`](ceremony::PresenceProof) | [`CeremonyOutcome`](ceremony::CeremonyOutcome) |
//! | `DELETE /v1/ceremonies/{ceremony}` | login | - | 204 |
//! | `POST /v1/ceremonies/{ceremony}/page` | login | - | [`PageDecision`](browser::PageDecision), or 204 after 25 s |
//! | `POST /v1/browser-logins` | none | [`BrowserLoginRequest`](browser::BrowserLoginRequest) | [`BrowserLogin`](browser::BrowserLogin) |
//! | `POST /v1/browser-logins/{ceremony}` | none | [`BrowserProof`](ceremony::BrowserProof) | [`LoginGranted`] |
//! | `POST /v1/browser-logins/{ceremony}/page` | none | [`BrowserClaim`](browser::BrowserClaim) | [`PageDecision`](browser::PageDecision), or 204 after 25 s |
//! | `GET /v1/devices` | login | - | [`MfaDevices`](ceremony::MfaDevices) |
//! | `POST /v1/devices/{ceremony}` | login | [`DeviceProof`](ceremony::DeviceProof) | [`MfaDevice`](ceremony::MfaDevice) |
//! | `POST /v1/why` | login | [`ExecTarget`] | [`Explanation`](ceremony::Explanation) |
//! | `DELETE /v1/taps` | login | - | 204; proofs of presence and the grants that rest on them are forgotten |
//!
//! Every other status carries a [`Problem`]. Durations are whole seconds: clocks are never compared across machines.
//! WebAuthn's own documents pass through as JSON, untouched.

use self::ceremony::{BrowserOffer, DeviceChange, ExecTarget};
use crate::names::{DeviceName, Hostname, Id, ResourceId, UserName};
use crate::refusal::RefusalReason;
use crate::resource::{ProxyAddress, Resource, Zone};
use crate::thumbprint::Thumbprint;

pub mod browser;
pub mod ceremony;

/// The ALPN of the agent's API.
pub const ALPN: &[u8] = b"portlatch-api/1";
/// Largest request body that control reads, and largest that an agent sends.
pub const MAX_BODY: usize = 64 * 1024;
/// Largest answer that an agent reads: a catalogue of 4,096 names fits.
pub const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// How long control holds a request for the next catalogue.
pub const CATALOGUE_WAIT: std::time::Duration = std::time::Duration::from_secs(25);

/// A secret in a request: never printed.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

/// Begins a login.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LoginRequest {
    /// The user.
    pub user: UserName,
    /// What the machine calls itself.
    pub device: DeviceName,
    /// The first factor.
    pub proof: FirstFactor,
}

/// The first factor of a login.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum FirstFactor {
    /// The password; a tap of an enrolled key follows.
    Password {
        /// As typed.
        password: Secret,
    },
    /// A one-time enrolment token; sets the password and enrols the first key.
    Enrolment {
        /// As `users add` printed it.
        token: Secret,
        /// The password to be.
        new_password: Secret,
    },
    /// None: an enrolled key that verifies its user is enough, and is asked for by the challenge.
    Passkey,
}

/// What the security key must answer.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LoginChallenge {
    /// Names this ceremony.
    pub ceremony: Id,
    /// A tap of an enrolled key, or the enrolment of a new one.
    pub task: KeyTask,
    /// Seconds until it ends.
    pub expires_in: u64,
}

/// What a security key is asked to do.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum KeyTask {
    /// Make an assertion: WebAuthn's `PublicKeyCredentialRequestOptions` in `{"publicKey": ...}`.
    Assert {
        /// WebAuthn's document.
        options: serde_json::Value,
    },
    /// Make a credential: WebAuthn's `PublicKeyCredentialCreationOptions` in `{"publicKey": ...}`.
    Enrol {
        /// WebAuthn's document.
        options: serde_json::Value,
    },
}

/// Ends a login.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LoginAnswer {
    /// The second factor.
    pub proof: LoginProof,
    /// PKCS #10 request for the login certificate, signed by the new login key: base64 of the DER.
    pub csr: String,
}

/// What answers the challenge of a login.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum LoginProof {
    /// A security key's answer.
    Key {
        /// WebAuthn's `PublicKeyCredential`, or `RegisterPublicKeyCredential` of an enrolment, as JSON.
        credential: serde_json::Value,
    },
    /// One of the recovery codes, in place of the tap that follows a password.
    RecoveryCode {
        /// As it was shown; spaces, hyphens and case do not count.
        code: Secret,
    },
}

/// A login.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LoginGranted {
    /// The cluster's public host.
    pub cluster: Hostname,
    /// The user.
    pub user: UserName,
    /// The login's identifier.
    pub login: Id,
    /// The device, as control keeps it.
    pub device: DeviceName,
    /// The login certificate: base64 of the DER.
    pub certificate: String,
    /// The cluster's CA certificate: base64 of the DER.
    pub ca: String,
    /// Seconds until the login ends.
    pub expires_in: u64,
}

/// Asks for the certificate of a tunnel key.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TunnelRequest {
    /// PKCS #10 request, signed by the tunnel key: base64 of the DER.
    pub csr: String,
}

/// A tunnel certificate, valid until the login ends.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TunnelCertificate {
    /// Base64 of the DER.
    pub certificate: String,
    /// The key's thumbprint, as grants will name it.
    pub thumbprint: Thumbprint,
}

/// All that a login may reach.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Catalogue {
    /// Grows with every change that this login can see.
    pub revision: u64,
    /// The resources.
    pub resources: Vec<Resource>,
    /// The zones.
    pub zones: Vec<Zone>,
    /// The live proxies.
    pub proxies: Vec<ProxyAddress>,
    /// The hosts of control and proxies, which the daemon never answers itself.
    pub outside: Vec<Hostname>,
}

/// Asks for a grant, or for the ceremony that leads to one.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AccessRequest {
    /// The resource.
    pub resource: ResourceId,
    /// The port.
    pub port: u16,
    /// The tunnel key that the grant is to be bound to.
    pub tunnel_key: Thumbprint,
    /// The program that asks, as the agent saw it; a claim, for prompt and audit only.
    #[serde(default)]
    pub program: Option<String>,
    /// Its process.
    #[serde(default)]
    pub pid: Option<u32>,
}

/// Control's answer to an [`AccessRequest`].
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum AccessAnswer {
    /// Here it is.
    Granted(IssuedGrant),
    /// No.
    Refused {
        /// Why.
        reason: RefusalReason,
        /// For a person.
        message: String,
    },
    /// A tap first. Nothing was made yet.
    TapNeeded {
        /// Whether a code of an authenticator app would do as well.
        code_allowed: bool,
    },
}

/// A grant as it is handed out.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct IssuedGrant {
    /// The grant's identifier.
    pub id: Id,
    /// The JWT.
    pub token: String,
    /// Seconds that it serves for new streams.
    pub expires_in: u64,
    /// How presence was proved; empty where no tap was needed.
    pub amr: Vec<String>,
}

impl std::fmt::Debug for IssuedGrant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuedGrant").field("id", &self.id).field("amr", &self.amr).finish_non_exhaustive()
    }
}

/// A ceremony: a challenge that is bound to user, login and all that its purpose names.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Ceremony {
    /// Names it.
    pub ceremony: Id,
    /// WebAuthn's `PublicKeyCredentialRequestOptions` in `{"publicKey": ...}`.
    pub options: serde_json::Value,
    /// Seconds until it ends.
    pub expires_in: u64,
    /// Whether a code of an authenticator app answers it as well: the policy takes codes, and the user has an app.
    #[serde(default)]
    pub code_allowed: bool,
    /// The page that answers it; none where no browser can.
    #[serde(default)]
    pub browser: Option<BrowserOffer>,
}

/// Challenges and answers to them are never printed, however they come into a log.
macro_rules! unprinted {
    ($($name:ident),*) => {$(
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    )*};
}
unprinted!(KeyTask, LoginProof, LoginAnswer, Ceremony);

/// What the agent adds to `clientDataJSON`, as its member `portlatch`: what the person was shown. Control compares it
/// with the ceremony. A login has none.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", tag = "purpose", deny_unknown_fields)]
pub enum ClientDataContext {
    /// One port of one resource.
    Open {
        /// The resource that the person saw in the prompt.
        resource: ResourceId,
        /// The port.
        port: u16,
        /// The login.
        login: Id,
    },
    /// One command on several resources.
    Exec {
        /// All that the person saw, in ascending order.
        targets: Vec<ExecTarget>,
        /// The login.
        login: Id,
    },
    /// A change of the user's own keys and apps.
    ManageDevices {
        /// The change.
        change: DeviceChange,
        /// The login.
        login: Id,
    },
}

/// What went wrong, for a program and for a person.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Problem {
    /// For programs.
    pub code: ProblemCode,
    /// One sentence: what happened and what to do.
    pub message: String,
}

/// What went wrong, in one word. An attacker learns no more than that it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ProblemCode {
    /// User, password or token is wrong, or the key's answer is.
    BadLogin,
    /// The ceremony is over, unknown, or was answered already.
    CeremonyEnded,
    /// The key's answer does not verify.
    BadAssertion,
    /// The code is wrong, or was used already.
    BadCode,
    /// Too many codes were wrong: for a while a key alone will do.
    CodesPaused,
    /// The login has ended: log in again.
    LoginEnded,
    /// A lock stands against it.
    Locked,
    /// The roles do not allow it.
    Policy,
    /// The resource or port does not exist for this login.
    NotFound,
    /// Too much at once: wait.
    RateLimited,
    /// The request is not well formed.
    BadRequest,
    /// Control cannot serve now (disk, database); nothing was changed.
    Unavailable,
}

/// The agent's WebAuthn origin of a cluster: never a browser's, so that neither can stand in for the other.
pub fn agent_origin(cluster: &Hostname) -> String {
    format!("portlatch-agent://{cluster}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_and_grants_are_never_printed() {
        let factor = FirstFactor::Password { password: Secret("canary".into()) };
        let grant =
            IssuedGrant { id: "0a".parse().unwrap(), token: "canary".into(), expires_in: 1, amr: vec![] };
        assert!(!format!("{factor:?} {grant:?}").contains("canary"));
        let (canary, ceremony) = (serde_json::json!("canary"), "0a".parse().unwrap());
        let task = KeyTask::Assert { options: canary.clone() };
        let proofs = [
            LoginProof::Key { credential: canary.clone() },
            LoginProof::RecoveryCode { code: Secret("canary".into()) },
        ];
        let answers = proofs.map(|proof| LoginAnswer { proof, csr: "canary".into() });
        let open = Ceremony { ceremony, options: canary, expires_in: 1, code_allowed: true, browser: None };
        assert!(!format!("{task:?} {answers:?} {open:?}").contains("canary"));
    }

    #[test]
    fn the_first_factor_is_told_apart_by_its_type() {
        let json = r#"{"user":"jerry","device":"laptop","proof":{"type":"password","password":"x"}}"#;
        let request: LoginRequest = serde_json::from_str(json).unwrap();
        assert!(matches!(request.proof, FirstFactor::Password { .. }));
    }
}
