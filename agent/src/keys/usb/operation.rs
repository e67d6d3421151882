//! What a USB key is asked, in CTAP2's terms. Everything here blocks: it runs on the key's own thread.

use ctap_hid_fido2::FidoKeyHid;
use ctap_hid_fido2::fidokey::get_assertion::get_assertion_params::Assertion;
use ctap_hid_fido2::fidokey::{GetAssertionArgsBuilder, MakeCredentialArgsBuilder};
use ctap_hid_fido2::public_key_credential_user_entity::PublicKeyCredentialUserEntity;
use webauthn_rs_proto::{
    AuthenticatorAssertionResponseRaw, AuthenticatorAttestationResponseRaw, AuthenticatorTransport,
    PublicKeyCredential, PublicKeyCredentialCreationOptions, PublicKeyCredentialRequestOptions,
    RegisterPublicKeyCredential, UserVerificationPolicy,
};

use crate::ceremony::ClientData;
use crate::keys::attestation;

/// Signed by nobody's finger, to find out which credential the key has; it is no answer to anything.
const PREFLIGHT: &[u8] = b"portlatch: is this credential on this key?";
/// Credentials in one request to a key that does not say how many it takes.
const DEFAULT_LIST: usize = 8;
/// The status of a key without any of the credentials (CTAP 2.1 section 8.2).
const NO_CREDENTIALS: &str = "response_status err = 0x2E CTAP2_ERR_NO_CREDENTIALS";

/// One question to one key.
pub(super) trait Operation: Send + Sync {
    /// The key's answer.
    type Answer;

    /// Asks the key; blocks until it answers.
    fn run(&self, device: &FidoKeyHid) -> anyhow::Result<Self::Answer>;
}

/// Makes a credential.
pub(super) struct Enrol {
    pub(super) options: PublicKeyCredentialCreationOptions,
    pub(super) client_data: ClientData,
}

/// Makes an assertion.
pub(super) struct Assert {
    pub(super) options: PublicKeyCredentialRequestOptions,
    pub(super) client_data: ClientData,
}

impl Operation for Enrol {
    type Answer = RegisterPublicKeyCredential;

    fn run(&self, device: &FidoKeyHid) -> anyhow::Result<RegisterPublicKeyCredential> {
        let user = &self.options.user;
        let user =
            PublicKeyCredentialUserEntity::new(Some(&user.id), Some(&user.name), Some(&user.display_name));
        // The library hashes what it calls the challenge: these bytes make it the clientDataHash.
        let mut request =
            MakeCredentialArgsBuilder::new(&self.options.rp.id, self.client_data.bytes()).user_entity(&user);
        for excluded in self.options.exclude_credentials.iter().flatten() {
            request = request.exclude_authenticator(&excluded.id);
        }
        let selection = self.options.authenticator_selection.as_ref();
        if selection.is_none_or(|selection| selection.user_verification != UserVerificationPolicy::Required) {
            request = request.without_pin_and_uv();
        }
        let made = device.make_credential_with_args(&request.build())?;
        let id = made.credential_descriptor.id;
        Ok(RegisterPublicKeyCredential {
            id: base64url(&id),
            raw_id: id,
            response: AuthenticatorAttestationResponseRaw {
                attestation_object: attestation::none(&made.auth_data),
                client_data_json: self.client_data.bytes().to_vec(),
                transports: Some(vec![AuthenticatorTransport::Usb]),
            },
            type_: "public-key".to_owned(),
            extensions: Default::default(),
        })
    }
}

impl Operation for Assert {
    type Answer = PublicKeyCredential;

    fn run(&self, device: &FidoKeyHid) -> anyhow::Result<PublicKeyCredential> {
        let candidates = self.candidates(device)?;
        let mut request = GetAssertionArgsBuilder::new(&self.options.rp_id, self.client_data.bytes());
        for id in &candidates {
            request = request.add_credential_id(id);
        }
        if self.options.user_verification != UserVerificationPolicy::Required {
            request = request.without_pin_and_uv();
        }
        let answers = device.get_assertion_with_args(&request.build())?;
        let answer =
            answers.into_iter().next().ok_or_else(|| anyhow::anyhow!("an answer without an assertion"))?;
        let id = answered_id(&answer, &candidates)
            .ok_or_else(|| anyhow::anyhow!("an answer without a credential"))?;
        Ok(PublicKeyCredential {
            id: base64url(&id),
            raw_id: id,
            response: AuthenticatorAssertionResponseRaw {
                authenticator_data: answer.auth_data,
                client_data_json: self.client_data.bytes().to_vec(),
                signature: answer.signature,
                user_handle: None,
            },
            extensions: Default::default(),
            type_: "public-key".to_owned(),
        })
    }
}

impl Assert {
    /// The credential that this key has, found without a touch and in lists as long as the key takes.
    fn candidates(&self, device: &FidoKeyHid) -> anyhow::Result<Vec<Vec<u8>>> {
        let allowed: Vec<Vec<u8>> =
            self.options.allow_credentials.iter().map(|allow| allow.id.clone()).collect();
        let longest_list = device.get_info().map(|info| info.max_credential_count_in_list).unwrap_or(0);
        let longest_list = match usize::try_from(longest_list) {
            Ok(0) | Err(_) => DEFAULT_LIST,
            Ok(length) => length,
        };
        for list in allowed.chunks(longest_list) {
            let mut question = GetAssertionArgsBuilder::new(&self.options.rp_id, PREFLIGHT)
                .without_up()
                .without_pin_and_uv();
            for id in list {
                question = question.add_credential_id(id);
            }
            match device.get_assertion_with_args(&question.build()) {
                Ok(answers) => {
                    let found = answers.first().and_then(|answer| answered_id(answer, list));
                    return Ok(found.map_or_else(|| list.to_vec(), |id| vec![id]));
                }
                Err(error) if error.to_string().starts_with(NO_CREDENTIALS) => {}
                // A key that answers nothing without a touch is asked with the list itself.
                Err(_) => return Ok(list.to_vec()),
            }
        }
        Err(anyhow::anyhow!(NO_CREDENTIALS))
    }
}

/// A key may leave the identifier out where only one credential was allowed (CTAP 2.1 section 6.2.2).
fn answered_id(answer: &Assertion, allowed: &[Vec<u8>]) -> Option<Vec<u8>> {
    match (answer.credential_id.is_empty(), allowed) {
        (false, _) => Some(answer.credential_id.clone()),
        (true, [only]) => Some(only.clone()),
        (true, _) => None,
    }
}

fn base64url(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_an_identifier_is_the_only_credential_s() {
        let answer = Assertion::default();
        assert_eq!(answered_id(&answer, &[vec![1]]), Some(vec![1]));
        assert_eq!(answered_id(&answer, &[vec![1], vec![2]]), None);
        let named = Assertion { credential_id: vec![2], ..Assertion::default() };
        assert_eq!(answered_id(&named, &[vec![1], vec![2]]), Some(vec![2]));
    }
}
