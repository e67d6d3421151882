//! Ceremonies: what one proof of presence is for, how it can be given, and what comes of it.

use super::{AccessRequest, ClientDataContext, IssuedGrant, Secret};
use crate::names::{Id, ResourceId};
use crate::resource::MfaNeed;
use crate::thumbprint::Thumbprint;

/// How long an agent's prompt is open from its challenge; the challenge lasts longer, for the answer that is on its way.
pub const PROMPT_TIME: std::time::Duration = std::time::Duration::from_secs(60);

/// Resources of one `exec` at most: what a person can be expected to read before the tap.
pub const MAX_EXEC_RESOURCES: usize = 64;

/// Asks for a ceremony: a challenge that is bound to user, login and purpose.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CeremonyRequest {
    /// What for.
    pub purpose: CeremonyPurpose,
    /// Where a browser on this machine brings its answer; none where the agent can open no browser.
    #[serde(default)]
    pub browser: Option<BrowserReturn>,
}

/// What a ceremony is for.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum CeremonyPurpose {
    /// One port of one resource.
    Open(AccessRequest),
    /// One command on several resources: one tap, remembered for them all.
    Exec(ExecRequest),
    /// A change of the user's own keys and authenticator apps.
    ManageDevices(DeviceChange),
}

/// What `portlatch exec` asks for.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ExecRequest {
    /// The ports, at most [`MAX_EXEC_RESOURCES`] and one of each resource.
    pub targets: Vec<ExecTarget>,
    /// The tunnel key that the grants are to be bound to.
    pub tunnel_key: Thumbprint,
    /// The command, as the person typed it; a claim, for prompt and audit only.
    #[serde(default)]
    pub program: Option<String>,
}

/// One port that an `exec` reaches.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ExecTarget {
    /// The resource.
    pub resource: ResourceId,
    /// The port.
    pub port: u16,
}

impl std::fmt::Display for ExecTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.resource, self.port)
    }
}

/// A change of what proves the user's presence.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", tag = "change")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum DeviceChange {
    /// Adds a security key; its enrolment follows ([`CeremonyOutcome::EnrolKey`]).
    AddKey {
        /// What the user calls it.
        name: String,
    },
    /// Adds an authenticator app; its first code follows ([`CeremonyOutcome::EnrolApp`]).
    AddApp {
        /// What the user calls it.
        name: String,
    },
    /// Removes a key or an app. The last key cannot be removed.
    Remove {
        /// It.
        device: Id,
    },
    /// Gives a key or an app another name.
    Rename {
        /// It.
        device: Id,
        /// Its new name.
        name: String,
    },
    /// Ten new recovery codes in place of the old ones.
    RecoveryCodes,
}

impl std::fmt::Display for DeviceChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AddKey { name } => write!(f, "add the key {name:?}"),
            Self::AddApp { name } => write!(f, "add the app {name:?}"),
            Self::Remove { device } => write!(f, "remove {device}"),
            Self::Rename { device, name } => write!(f, "rename {device} to {name:?}"),
            Self::RecoveryCodes => f.write_str("make new recovery codes"),
        }
    }
}

impl CeremonyPurpose {
    /// What the person is shown of it, as agent and control put it into and compare it with `clientDataJSON`.
    pub fn context(&self, login: &Id) -> ClientDataContext {
        let login = login.clone();
        match self {
            Self::Open(AccessRequest { resource, port, .. }) => {
                ClientDataContext::Open { resource: resource.clone(), port: *port, login }
            }
            Self::Exec(exec) => {
                let mut targets = exec.targets.clone();
                targets.sort();
                ClientDataContext::Exec { targets, login }
            }
            Self::ManageDevices(change) => ClientDataContext::ManageDevices { change: change.clone(), login },
        }
    }
}

/// The answer to a ceremony: one proof of presence.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum PresenceProof {
    /// A security key's: WebAuthn's `PublicKeyCredential`, as JSON.
    Key {
        /// WebAuthn's document.
        credential: serde_json::Value,
    },
    /// A code of an authenticator app.
    Code {
        /// Six digits.
        code: Secret,
    },
    /// What a browser on this machine brought over the loopback redirect.
    Browser(BrowserProof),
}

impl std::fmt::Debug for PresenceProof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Key { .. } => "Key",
            Self::Code { .. } => "Code",
            Self::Browser(_) => "Browser",
        })
    }
}

/// What a proof of presence brought.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum CeremonyOutcome {
    /// Of an open: the grant.
    Granted(IssuedGrant),
    /// Of an exec: the tap is remembered, grants for its ports are signed when they are asked for.
    Remembered {
        /// Seconds that it serves.
        expires_in: u64,
        /// How presence was proved.
        amr: Vec<String>,
    },
    /// Of adding a key: enrol it, and answer at `/v1/devices/{ceremony}`.
    EnrolKey {
        /// Names the enrolment.
        ceremony: Id,
        /// WebAuthn's `PublicKeyCredentialCreationOptions` in `{"publicKey": ...}`.
        options: serde_json::Value,
        /// Seconds until it ends.
        expires_in: u64,
    },
    /// Of adding an app: show it this, and answer its first code at `/v1/devices/{ceremony}`.
    EnrolApp {
        /// Names the enrolment.
        ceremony: Id,
        /// `otpauth://totp/...`, the secret within: shown once.
        uri: Secret,
        /// Seconds until it ends.
        expires_in: u64,
    },
    /// The recovery codes: shown once.
    RecoveryCodes {
        /// Ten.
        codes: Vec<Secret>,
    },
    /// Done.
    Done,
}

impl std::fmt::Debug for CeremonyOutcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Granted(_) => "Granted",
            Self::Remembered { .. } => "Remembered",
            Self::EnrolKey { .. } => "EnrolKey",
            Self::EnrolApp { .. } => "EnrolApp",
            Self::RecoveryCodes { .. } => "RecoveryCodes",
            Self::Done => "Done",
        })
    }
}

/// The proof that ends an enrolment of `/v1/devices/{ceremony}`.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum DeviceProof {
    /// A key's: WebAuthn's `RegisterPublicKeyCredential`, as JSON.
    Key {
        /// WebAuthn's document.
        credential: serde_json::Value,
    },
    /// An app's first code.
    Code {
        /// Six digits.
        code: Secret,
    },
}

impl std::fmt::Debug for DeviceProof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Key { .. } => "Key",
            Self::Code { .. } => "Code",
        })
    }
}

/// A key or an authenticator app, as its user sees it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MfaDevice {
    /// Names it.
    pub id: Id,
    /// What it is.
    pub kind: MfaDeviceKind,
    /// What the user calls it.
    pub name: String,
    /// When it was added: seconds since 1970 on control's clock.
    pub created: i64,
    /// When it was used last, likewise.
    #[serde(default)]
    pub last_used: Option<i64>,
}

/// What proves presence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum MfaDeviceKind {
    /// A security key that is tapped.
    SecurityKey,
    /// A passkey that verifies its user.
    Passkey,
    /// An authenticator app.
    App,
}

/// The user's keys and apps.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MfaDevices {
    /// Oldest first.
    pub devices: Vec<MfaDevice>,
    /// Recovery codes that are left.
    pub recovery_codes: u32,
}

/// Where a browser on the agent's machine returns to. The agent's secret never travels with the browser: as with
/// RFC 7636 (PKCE) only its hash is announced, and RFC 8252 section 7.3 says how the loopback address is used.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BrowserReturn {
    /// The port on 127.0.0.1 where the agent listens for one request.
    pub port: u16,
    /// base64url without padding of the SHA-256 of the agent's secret.
    pub secret_hash: String,
}

/// What a browser can do for a ceremony.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BrowserOffer {
    /// The page to open.
    pub url: String,
    /// Four characters that a person types into the page on another machine; only where the roles allow that.
    #[serde(default)]
    pub code: Option<String>,
}

/// What shows that the page was answered in a browser on this machine.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BrowserProof {
    /// The one-time code that the redirect brought; none where the approval came from another machine.
    #[serde(default)]
    pub code: Option<Secret>,
    /// The agent's secret.
    pub secret: Secret,
}

impl std::fmt::Debug for BrowserProof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BrowserProof")
    }
}

/// Which rule decides on a port, for `portlatch why`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Explanation {
    /// Whether a connection would be let through, after a tap if one is needed.
    pub is_allowed: bool,
    /// Which proof of presence this very port asks for; none where it is refused.
    #[serde(default)]
    pub mfa: Option<MfaNeed>,
    /// Seconds for which an earlier proof opens it still.
    #[serde(default)]
    pub proved_for: Option<u64>,
    /// One sentence for each step of the decision, in the order they are taken; the last one decides.
    pub steps: Vec<String>,
}

impl Explanation {
    /// Of a port that is refused.
    pub const fn refused(steps: Vec<String>) -> Self {
        Self { is_allowed: false, mfa: None, proved_for: None, steps }
    }

    /// Of a port that opens with this proof.
    pub const fn allowed(mfa: MfaNeed, steps: Vec<String>) -> Self {
        Self { is_allowed: true, mfa: Some(mfa), proved_for: None, steps }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_proves_presence_is_never_printed() {
        let canary = || Secret("canary".into());
        let credential = serde_json::json!("canary");
        let proofs = [
            PresenceProof::Key { credential: credential.clone() },
            PresenceProof::Code { code: canary() },
            PresenceProof::Browser(BrowserProof { code: Some(canary()), secret: canary() }),
        ];
        let enrolments = [DeviceProof::Key { credential }, DeviceProof::Code { code: canary() }];
        let codes = CeremonyOutcome::RecoveryCodes { codes: vec![canary()] };
        assert!(!format!("{proofs:?} {enrolments:?} {codes:?}").contains("canary"));
    }

    #[test]
    fn a_purpose_is_told_apart_by_its_type() {
        let json = r#"{"purpose":{"type":"manage_devices","change":"remove","device":"0a"}}"#;
        let request: CeremonyRequest = serde_json::from_str(json).unwrap();
        assert!(matches!(request.purpose, CeremonyPurpose::ManageDevices(DeviceChange::Remove { .. })));
    }
}
