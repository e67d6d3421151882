//! Control as a WebAuthn relying party: enrols security keys and verifies their answers.
//!
//! webauthn-rs verifies what the specification says; what it leaves to its caller is here: which of the two origins this
//! path accepts, `crossOrigin`, the user handle, extensions that nobody asked for, the context that the agent puts into
//! `clientDataJSON`, user verification where a resource wants it, and the counter in the moment of its writing.

use portlatch_clock::TimeOfDay;
use portlatch_protocol::api::{ClientDataContext, agent_origin};
use portlatch_protocol::names::{Hostname, Id, UserName};
use webauthn_rs::prelude::{
    AuthenticationResult, SecurityKey, SecurityKeyAuthentication, SecurityKeyRegistration, Url, Uuid,
    WebauthnError,
};
use webauthn_rs::{Webauthn, WebauthnBuilder};
use webauthn_rs_proto::{CreationChallengeResponse, RequestChallengeResponse};

use self::client_data::ClientData;
use crate::store::credentials::StoredCredential;
use crate::store::users::HANDLE_BYTES;
use crate::store::{Store, StoreError};

mod browser;
pub mod client_data;

/// Why an answer of a security key was not accepted. The peer hears none of it; the audit does.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It is no `PublicKeyCredential`, or its `clientDataJSON` is none.
    #[error("malformed")]
    Malformed,
    /// The origin belongs to another path.
    #[error("origin")]
    Origin,
    /// It was made in a foreign frame.
    #[error("cross_origin")]
    CrossOrigin,
    /// It shows an extension that was not asked for.
    #[error("extension")]
    Extension,
    /// It names another user.
    #[error("user_handle")]
    UserHandle,
    /// The person saw another resource, port or login than the challenge is for, or none.
    #[error("context")]
    Context,
    /// The key did not verify its user.
    #[error("user_not_verified")]
    NotVerified,
    /// The counter has not grown, or the key has gone meanwhile.
    #[error("counter")]
    Counter,
    /// The key is not one of the user's.
    #[error("unknown_key")]
    UnknownKey,
    /// The key is enrolled already.
    #[error("enrolled_already")]
    EnrolledAlready,
    /// webauthn-rs refused.
    #[error("{}", word(.0))]
    Refused(WebauthnError),
    /// The store cannot be used; nothing was changed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A verified tap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedTap {
    /// The key, as control names it.
    pub key_id: Id,
    /// Whether it verified its user.
    pub is_user_verified: bool,
}

impl VerifiedTap {
    /// How presence was proved (RFC 8176).
    pub fn amr(&self) -> Vec<String> {
        amr(self.is_user_verified.then_some(UserVerified))
    }
}

/// The key verified its user and not only a presence.
#[derive(Debug, Clone, Copy)]
pub struct UserVerified;

/// The `amr` of a tap of a security key.
pub fn amr(verified: Option<UserVerified>) -> Vec<String> {
    let words = ["hwk", "user"].into_iter().chain(verified.map(|_| "pin"));
    words.map(str::to_owned).collect()
}

/// How much a key must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TapStrength {
    /// A bare tap.
    Presence,
    /// PIN or fingerprint.
    Verification,
}

/// The relying party of one cluster.
#[derive(Debug)]
pub struct RelyingParty {
    webauthn: Webauthn,
    agent_origin: String,
    browser_origin: String,
}

/// The cluster's host cannot be a relying party's name.
#[derive(Debug, thiserror::Error)]
#[error("security keys need a host name: {0} cannot be one (an IP address cannot)")]
pub struct BadHost(String);

impl RelyingParty {
    /// The relying party of the cluster at `host` and, for browsers, `port`.
    ///
    /// # Errors
    /// [`BadHost`] if the host is an address.
    pub fn new(host: &Hostname, port: u16) -> Result<Self, BadHost> {
        let bad = || BadHost(host.to_string());
        let browser = match port {
            443 => format!("https://{host}"),
            port => format!("https://{host}:{port}"),
        };
        let browser_origin = browser;
        let browser = Url::parse(&browser_origin).map_err(|_| bad())?;
        let agent_origin = agent_origin(host);
        let agent = Url::parse(&agent_origin).map_err(|_| bad())?;
        let webauthn = WebauthnBuilder::new(host.as_str(), &browser)
            .map_err(|_| bad())?
            .append_allowed_origin(&agent)
            .rp_name("Portlatch")
            .timeout(crate::ceremony::LIFETIME)
            // Without this, keys with a PIN hide from a bare tap for ever (credProtect), from their first enrolment.
            .danger_set_user_presence_only_security_keys(true)
            .build()
            .map_err(|_| bad())?;
        Ok(Self { webauthn, agent_origin, browser_origin })
    }

    /// The origin of this cluster's pages.
    pub fn browser_origin(&self) -> &str {
        &self.browser_origin
    }

    /// Begins an enrolment: WebAuthn's document for the key, and what verifies the answer.
    ///
    /// # Errors
    /// [`KeyError::Refused`].
    pub fn begin_enrolment(
        &self,
        user: &UserName,
        handle: [u8; HANDLE_BYTES],
        known: &[StoredCredential],
    ) -> Result<(serde_json::Value, SecurityKeyRegistration), KeyError> {
        let (options, state) = self.start_enrolment(user, handle, known)?;
        Ok((serde_json::to_value(options).map_err(|_| KeyError::Malformed)?, state))
    }

    fn start_enrolment(
        &self,
        user: &UserName,
        handle: [u8; HANDLE_BYTES],
        known: &[StoredCredential],
    ) -> Result<(CreationChallengeResponse, SecurityKeyRegistration), KeyError> {
        let exclude: Vec<_> = known.iter().map(|key| key.security_key.cred_id().clone()).collect();
        self.webauthn
            .start_securitykey_registration(
                Uuid::from_bytes(handle),
                user.as_str(),
                user.as_str(),
                (!exclude.is_empty()).then_some(exclude),
                None,
                None,
            )
            .map_err(KeyError::Refused)
    }

    /// Verifies what a new key answered to an agent.
    ///
    /// # Errors
    /// [`KeyError`] with the cause, for the audit.
    pub fn finish_enrolment(
        &self,
        answer: &serde_json::Value,
        state: &SecurityKeyRegistration,
    ) -> Result<SecurityKey, KeyError> {
        let client_data = ClientData::of_answer(answer)?;
        check_path(&client_data, &self.agent_origin)?;
        let answer = serde_json::from_value(answer.clone()).map_err(|_| KeyError::Malformed)?;
        self.webauthn.finish_securitykey_registration(&answer, state).map_err(KeyError::Refused)
    }

    /// Begins a tap: WebAuthn's document for the key, and what verifies the answer.
    ///
    /// # Errors
    /// [`KeyError::UnknownKey`] if the user has no key.
    pub fn begin_tap(
        &self,
        keys: &[StoredCredential],
        strength: TapStrength,
    ) -> Result<(serde_json::Value, SecurityKeyAuthentication), KeyError> {
        let (options, state) = self.start_tap(keys, strength)?;
        Ok((serde_json::to_value(options).map_err(|_| KeyError::Malformed)?, state))
    }

    fn start_tap(
        &self,
        keys: &[StoredCredential],
        strength: TapStrength,
    ) -> Result<(RequestChallengeResponse, SecurityKeyAuthentication), KeyError> {
        if keys.is_empty() {
            return Err(KeyError::UnknownKey);
        }
        let keys: Vec<SecurityKey> = keys.iter().map(|key| key.security_key.clone()).collect();
        let begun = self.webauthn.start_securitykey_authentication(&keys);
        let (mut options, state) = begun.map_err(KeyError::Refused)?;
        if strength == TapStrength::Verification {
            options.public_key.user_verification = webauthn_rs_proto::UserVerificationPolicy::Required;
        }
        Ok((options, state))
    }

    /// Verifies what a key answered to an agent; keeps its counter.
    ///
    /// The challenge must have been taken before. webauthn-rs compares the counter with the one at the challenge's
    /// making; the store compares it again with the newest, in the statement that writes it, so that of two answers with
    /// one counter only the first passes.
    ///
    /// # Errors
    /// [`KeyError`] with the cause, for the audit.
    pub async fn finish_tap(
        &self,
        answer: &serde_json::Value,
        expected: &ExpectedTap<'_>,
        store: &Store,
        now: TimeOfDay,
    ) -> Result<VerifiedTap, KeyError> {
        let client_data = ClientData::of_answer(answer)?;
        check_path(&client_data, &self.agent_origin)?;
        if expected.context != client_data.context.as_ref() {
            return Err(KeyError::Context);
        }
        self.verify_tap(answer, expected, store, now).await
    }

    /// What does not depend on the path by which an answer came.
    async fn verify_tap(
        &self,
        answer: &serde_json::Value,
        expected: &ExpectedTap<'_>,
        store: &Store,
        now: TimeOfDay,
    ) -> Result<VerifiedTap, KeyError> {
        client_data::check_extensions(answer)?;
        let parsed: webauthn_rs::prelude::PublicKeyCredential =
            serde_json::from_value(answer.clone()).map_err(|_| KeyError::Malformed)?;
        let handle = parsed.get_user_unique_id().filter(|handle| !handle.is_empty());
        let secrets = store.user_secrets(expected.user).await?.ok_or(KeyError::UnknownKey)?;
        if handle.is_some_and(|handle| handle != secrets.handle) {
            return Err(KeyError::UserHandle);
        }
        let verified = self.webauthn.finish_securitykey_authentication(&parsed, expected.state);
        let verified = verified.map_err(KeyError::Refused)?;
        keep_counter(&verified, expected.user, store, now).await
    }

    /// A browser's origin alone, and nothing that an agent would have added.
    fn check_browser(&self, answer: &serde_json::Value) -> Result<(), KeyError> {
        let client_data = ClientData::of_answer(answer)?;
        check_path(&client_data, &self.browser_origin)?;
        match client_data.context {
            Some(_) => Err(KeyError::Context),
            None => Ok(()),
        }
    }
}

/// Each path takes its own origin alone: a browser's page cannot stand in for the agent, nor the agent for a page.
fn check_path(client_data: &ClientData, origin: &str) -> Result<(), KeyError> {
    if client_data.origin != origin {
        return Err(KeyError::Origin);
    }
    match client_data.cross_origin {
        Some(true) => Err(KeyError::CrossOrigin),
        Some(false) | None => Ok(()),
    }
}

/// What an answer to a challenge must show.
#[derive(Debug)]
pub struct ExpectedTap<'a> {
    /// Whose keys.
    pub user: &'a UserName,
    /// What webauthn-rs remembers of the challenge.
    pub state: &'a SecurityKeyAuthentication,
    /// What the person must have seen; none for a login, which shows no resource.
    pub context: Option<&'a ClientDataContext>,
}

async fn keep_counter(
    verified: &AuthenticationResult,
    user: &UserName,
    store: &Store,
    now: TimeOfDay,
) -> Result<VerifiedTap, KeyError> {
    let keys = store.credentials(user).await?;
    let key = keys.into_iter().find(|key| key.security_key.cred_id() == verified.cred_id());
    let mut key = key.ok_or(KeyError::UnknownKey)?;
    key.security_key.update_credential(verified);
    let is_kept = store.advance_counter(&key.id, user, &key.security_key, verified.counter(), now).await?;
    match is_kept {
        true => Ok(VerifiedTap { key_id: key.id, is_user_verified: verified.user_verified() }),
        false => Err(KeyError::Counter),
    }
}

/// The cause in one word, for the audit.
#[expect(clippy::wildcard_enum_match_arm, reason = "webauthn-rs has a hundred; the rest is malformed input")]
fn word(error: &WebauthnError) -> &'static str {
    match error {
        WebauthnError::InvalidClientDataType => "type",
        WebauthnError::MismatchedChallenge => "challenge",
        WebauthnError::InvalidRPOrigin => "origin",
        WebauthnError::InvalidRPIDHash => "rp_id",
        WebauthnError::UserNotPresent => "user_not_present",
        WebauthnError::UserNotVerified => "user_not_verified",
        WebauthnError::CredentialCrossOrigin => "cross_origin",
        WebauthnError::AuthenticationFailure => "signature",
        WebauthnError::CredentialPossibleCompromise => "counter",
        WebauthnError::CredentialNotFound => "unknown_key",
        WebauthnError::CredentialBackupEligibilityInconsistent
        | WebauthnError::CredentialMayNotBeHardwareBound => "backup_flags",
        WebauthnError::CredentialAlteredAlgFromRequest => "algorithm",
        _ => "malformed",
    }
}
