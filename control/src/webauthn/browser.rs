//! What is asked of an authenticator through a browser, and its answers. They show the browser's origin and nothing of
//! ours beside it: what the person saw is the page's, and bound to the challenge on this side.

use portlatch_clock::TimeOfDay;
use portlatch_protocol::names::UserName;
use webauthn_rs::prelude::{
    Credential, CredentialID, DiscoverableAuthentication, PublicKeyCredential, SecurityKey,
    SecurityKeyAuthentication, SecurityKeyRegistration,
};
use webauthn_rs_proto::{
    AllowCredentials, AuthenticatorAttachment, AuthenticatorSelectionCriteria, CredProtect,
    CredentialProtectionPolicy, RequestRegistrationExtensions, ResidentKeyRequirement,
    UserVerificationPolicy,
};

use super::{ExpectedTap, KeyError, RelyingParty, TapStrength, VerifiedTap, client_data, keep_counter};
use crate::store::Store;
use crate::store::credentials::{CredentialKind, StoredCredential};
use crate::store::users::HANDLE_BYTES;

impl RelyingParty {
    /// Begins an enrolment in a browser: WebAuthn's document for it, and what verifies the answer.
    ///
    /// # Errors
    /// [`KeyError::Refused`].
    pub fn begin_browser_enrolment(
        &self,
        user: &UserName,
        handle: [u8; HANDLE_BYTES],
        known: &[StoredCredential],
        kind: CredentialKind,
    ) -> Result<(serde_json::Value, SecurityKeyRegistration), KeyError> {
        let (mut options, state) = self.start_enrolment(user, handle, known)?;
        let public_key = &mut options.public_key;
        public_key.authenticator_selection = Some(selection(kind));
        if kind == CredentialKind::Passkey {
            public_key.hints = None;
        }
        // Nobody finds a passkey on a key that was lost without its PIN; but a bare tap of it suffices where the
        // credential is named, as for every other key.
        let policy = CredentialProtectionPolicy::UserVerificationOptionalWithCredentialIDList;
        let protected = CredProtect {
            credential_protection_policy: policy,
            enforce_credential_protection_policy: Some(false),
        };
        public_key.extensions = (kind == CredentialKind::Passkey).then_some(protected).map(|cred_protect| {
            RequestRegistrationExtensions {
                cred_protect: Some(cred_protect),
                uvm: None,
                cred_props: None,
                min_pin_length: None,
                hmac_create_secret: None,
            }
        });
        Ok((serde_json::to_value(options).map_err(|_| KeyError::Malformed)?, state))
    }

    /// Verifies what a new key answered to a browser.
    ///
    /// # Errors
    /// [`KeyError`] with the cause, for the audit.
    pub fn finish_browser_enrolment(
        &self,
        answer: &serde_json::Value,
        state: &SecurityKeyRegistration,
        kind: CredentialKind,
    ) -> Result<SecurityKey, KeyError> {
        self.check_browser(answer)?;
        let answer = serde_json::from_value(answer.clone()).map_err(|_| KeyError::Malformed)?;
        let enrolled = self.webauthn.finish_securitykey_registration(&answer, state);
        let key = enrolled.map_err(KeyError::Refused)?;
        let is_verified = Credential::from(key.clone()).user_verified;
        match (kind, is_verified) {
            (CredentialKind::Passkey, false) => Err(KeyError::NotVerified),
            (CredentialKind::Passkey, true) | (CredentialKind::SecurityKey, _) => Ok(key),
        }
    }

    /// Begins a tap in a browser, of any of these keys.
    ///
    /// # Errors
    /// [`KeyError::UnknownKey`] if the user has no key.
    pub fn begin_browser_tap(
        &self,
        keys: &[StoredCredential],
        strength: TapStrength,
    ) -> Result<(serde_json::Value, SecurityKeyAuthentication), KeyError> {
        let (mut options, state) = self.start_tap(keys, strength)?;
        if keys.iter().any(|key| key.kind == CredentialKind::Passkey) {
            options.public_key.hints = None;
            if strength == TapStrength::Presence {
                // A passkey's own device would rather ask; a key without a PIN is tapped as ever.
                options.public_key.user_verification = UserVerificationPolicy::Preferred;
            }
        }
        Ok((serde_json::to_value(options).map_err(|_| KeyError::Malformed)?, state))
    }

    /// Verifies what a key answered to a browser; keeps its counter. The challenge must have been taken before.
    ///
    /// # Errors
    /// [`KeyError`] with the cause, for the audit.
    pub async fn finish_browser_tap(
        &self,
        answer: &serde_json::Value,
        user: &UserName,
        state: &SecurityKeyAuthentication,
        store: &Store,
        now: TimeOfDay,
    ) -> Result<VerifiedTap, KeyError> {
        self.check_browser(answer)?;
        self.verify_tap(answer, &ExpectedTap { user, state, context: None }, store, now).await
    }

    /// Begins a sign-in with a passkey: any that the browser finds, or one of those listed.
    ///
    /// # Errors
    /// [`KeyError::Refused`].
    pub fn begin_passkey(
        &self,
        listed: Vec<CredentialID>,
    ) -> Result<(serde_json::Value, DiscoverableAuthentication), KeyError> {
        let (mut options, state) =
            self.webauthn.start_discoverable_authentication().map_err(KeyError::Refused)?;
        // Asked for with a button, not offered in a field; and no extension: nobody reads one.
        options.mediation = None;
        options.public_key.extensions = None;
        let listed = listed.into_iter().map(|id| AllowCredentials {
            type_: "public-key".to_owned(),
            id,
            transports: None,
        });
        options.public_key.allow_credentials = listed.collect();
        Ok((serde_json::to_value(options).map_err(|_| KeyError::Malformed)?, state))
    }

    /// Verifies what a passkey answered to a browser, and says whose it is; keeps its counter. The challenge must have been
    /// taken before.
    ///
    /// # Errors
    /// [`KeyError`] with the cause, for the audit.
    pub async fn finish_passkey(
        &self,
        answer: &serde_json::Value,
        state: DiscoverableAuthentication,
        store: &Store,
        now: TimeOfDay,
    ) -> Result<(UserName, VerifiedTap), KeyError> {
        self.check_browser(answer)?;
        client_data::check_extensions(answer)?;
        let parsed: PublicKeyCredential =
            serde_json::from_value(answer.clone()).map_err(|_| KeyError::Malformed)?;
        let found = store.credential_named(parsed.get_credential_id()).await?;
        let (user, key) = found.ok_or(KeyError::UnknownKey)?;
        let secrets = store.user_secrets(&user).await?.ok_or(KeyError::UnknownKey)?;
        let handle = parsed.get_user_unique_id().filter(|handle| !handle.is_empty());
        if handle.is_some_and(|handle| handle != secrets.handle) {
            return Err(KeyError::UserHandle);
        }
        let credential = Credential::from(key.security_key);
        let verified = self.webauthn.finish_discoverable_authentication_v2(&parsed, state, &credential);
        let verified = verified.map_err(KeyError::Refused)?;
        let tap = keep_counter(&verified, &user, store, now).await?;
        match tap.is_user_verified {
            true => Ok((user, tap)),
            false => Err(KeyError::NotVerified),
        }
    }
}

fn selection(kind: CredentialKind) -> AuthenticatorSelectionCriteria {
    match kind {
        CredentialKind::SecurityKey => AuthenticatorSelectionCriteria {
            authenticator_attachment: Some(AuthenticatorAttachment::CrossPlatform),
            resident_key: Some(ResidentKeyRequirement::Discouraged),
            require_resident_key: false,
            user_verification: UserVerificationPolicy::Discouraged_DO_NOT_USE,
        },
        CredentialKind::Passkey => AuthenticatorSelectionCriteria {
            authenticator_attachment: None,
            resident_key: Some(ResidentKeyRequirement::Preferred),
            require_resident_key: false,
            user_verification: UserVerificationPolicy::Required,
        },
    }
}
