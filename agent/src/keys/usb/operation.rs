//! What a key is asked, from the first word to the answer. Everything here blocks: it runs on the key's own thread.
//!
//! ```text
//! info -> which of the credentials is on it, without a touch -> none: the wrong key
//!           |
//!           '-> user to be verified? -> several keys: a touch says which -> PIN or finger -> token
//!                 |                                                                           |
//!                 '-----------------------------> the touch that signs <----------------------'
//! ```

use sha2::{Digest as _, Sha256};
use webauthn_rs_proto::{
    AuthenticatorAssertionResponseRaw, AuthenticatorAttestationResponseRaw, AuthenticatorTransport,
    PublicKeyCredential, PublicKeyCredentialCreationOptions, PublicKeyCredentialRequestOptions,
    RegisterPublicKeyCredential, UserVerificationPolicy,
};

use super::channel::{Broken, Channel};
use super::ctap::{AssertRequest, Asserted, Info, MakeRequest, Presence, Refused, Verification, status};
use super::person::Person;
use super::pin::{Permission, Wanted};
use super::trouble::Trouble;
use crate::ceremony::ClientData;
use crate::keys::purpose::purpose;
use crate::keys::{KeyNotice, attestation};

/// Signed by nobody's finger, to find out which credential the key has; it is no answer to anything.
const PREFLIGHT: &[u8] = b"portlatch: is this credential on this key?";
/// Credentials in one request to a key that does not say how many it takes.
const DEFAULT_LIST: usize = 8;
/// Bytes of a request besides its credentials, and of a credential besides its identifier: the names, hashes and proofs.
const REQUEST_BYTES: usize = 400;
const ENTRY_BYTES: usize = 32;

/// One question to one key.
pub(super) trait Operation: Send + Sync {
    /// The key's answer.
    type Answer;

    /// Asks the key; blocks until it answers.
    fn run(&self, key: &mut Channel, person: &Person) -> Result<Self::Answer, Trouble>;
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

    fn run(&self, key: &mut Channel, person: &Person) -> Result<RegisterPublicKeyCredential, Trouble> {
        let info = key.info()?;
        let (rp, user) = (&self.options.rp, &self.options.user);
        let hash = hash_of(&self.client_data);
        let exclude = self.excluded(key, &info)?;
        let purpose = purpose(&self.client_data);
        let wanted = Wanted { permission: Permission::Make, rp_id: &rp.id, hash: &hash, purpose: &purpose };
        let algorithms: Vec<i64> = self.options.pub_key_cred_params.iter().map(|params| params.alg).collect();
        let mut request = MakeRequest {
            hash,
            rp: (&rp.id, &rp.name),
            user_id: &user.id,
            user_names: (&user.name, &user.display_name),
            algorithms: &algorithms,
            exclude: &exclude,
            verification: Verification::None,
        };
        if self.is_verification_wanted() || info.always_verifies || info.makes_with_pin_only {
            request.verification = key.verify(&info, &wanted, person)?;
        }
        let made = match key.make(&request) {
            // It has changed its mind, or has not said so.
            Err(Refused::Status(status::VERIFICATION_REQUIRED))
                if request.verification == Verification::None =>
            {
                request.verification = key.verify(&info, &wanted, person)?;
                key.make(&request)?
            }
            made => made?,
        };
        Ok(RegisterPublicKeyCredential {
            id: base64url(&made.id),
            raw_id: made.id,
            response: AuthenticatorAttestationResponseRaw {
                attestation_object: attestation::none(&made.data),
                client_data_json: self.client_data.bytes().to_vec(),
                transports: Some(vec![AuthenticatorTransport::Usb]),
            },
            type_: "public-key".to_owned(),
            extensions: Default::default(),
        })
    }
}

impl Enrol {
    fn is_verification_wanted(&self) -> bool {
        let selection = self.options.authenticator_selection.as_ref();
        selection.is_some_and(|selection| selection.user_verification == UserVerificationPolicy::Required)
    }

    /// Those of the excluded credentials that are on this key: the key itself says no to them, once it is touched.
    fn excluded(&self, key: &mut Channel, info: &Info) -> Result<Vec<Vec<u8>>, Trouble> {
        let excluded = self.options.exclude_credentials.iter().flatten();
        let excluded: Vec<Vec<u8>> = excluded.map(|descriptor| descriptor.id.clone()).collect();
        match preflight(key, info, &self.options.rp.id, &excluded) {
            Ok(lists) => Ok(lists.into_iter().next().unwrap_or_default()),
            Err(Trouble::NotEnrolled) => Ok(Vec::new()),
            Err(trouble) => Err(trouble),
        }
    }
}

impl Operation for Assert {
    type Answer = PublicKeyCredential;

    fn run(&self, key: &mut Channel, person: &Person) -> Result<PublicKeyCredential, Trouble> {
        let info = key.info()?;
        let allowed: Vec<Vec<u8>> =
            self.options.allow_credentials.iter().map(|allow| allow.id.clone()).collect();
        let is_wanted = self.options.user_verification == UserVerificationPolicy::Required;
        let mut strength = match is_wanted || info.always_verifies {
            true => Strength::Verification,
            false => Strength::Touch,
        };
        for list in preflight(key, &info, &self.options.rp_id, &allowed)? {
            let asserted = match self.sign(key, &info, person, &list, strength) {
                // It has changed its mind, or has not said so.
                Err(Trouble::Status(status::VERIFICATION_REQUIRED)) if strength == Strength::Touch => {
                    strength = Strength::Verification;
                    self.sign(key, &info, person, &list, strength)
                }
                asserted => asserted,
            };
            match asserted {
                Err(Trouble::Status(status::NO_CREDENTIALS)) => {}
                asserted => return self.answer(asserted?, &list),
            }
        }
        Err(Trouble::NotEnrolled)
    }
}

/// What the key is to find out about the person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Strength {
    Touch,
    Verification,
}

impl Assert {
    fn sign(
        &self,
        key: &mut Channel,
        info: &Info,
        person: &Person,
        allow: &[Vec<u8>],
        strength: Strength,
    ) -> Result<Asserted, Trouble> {
        let (rp_id, hash) = (self.options.rp_id.as_str(), hash_of(&self.client_data));
        let verification = match strength {
            Strength::Touch => Verification::None,
            Strength::Verification => {
                let purpose = purpose(&self.client_data);
                let wanted = Wanted { permission: Permission::Assert, rp_id, hash: &hash, purpose: &purpose };
                key.verify(info, &wanted, person)?
            }
        };
        let request = AssertRequest { rp_id, hash, allow, presence: Presence::Touch, verification };
        Ok(key.assert(&request)?)
    }

    fn answer(&self, asserted: Asserted, allowed: &[Vec<u8>]) -> Result<PublicKeyCredential, Trouble> {
        let id = answered_id(&asserted, allowed);
        let id = id.ok_or(Broken::Garbled("an assertion of no credential"))?;
        Ok(PublicKeyCredential {
            id: base64url(&id),
            raw_id: id,
            response: AuthenticatorAssertionResponseRaw {
                authenticator_data: asserted.data,
                client_data_json: self.client_data.bytes().to_vec(),
                signature: asserted.signature,
                user_handle: None,
            },
            extensions: Default::default(),
            type_: "public-key".to_owned(),
        })
    }
}

/// Waits for a touch of a key that has none of the credentials, so that the person can be told.
pub(super) fn watch(key: &mut Channel, person: &Person) -> Result<(), Trouble> {
    let info = key.info()?;
    key.select(&info)?;
    person.notice(KeyNotice::WrongKeyTouched);
    Ok(())
}

/// The lists of credentials to ask the key for in turn: the one that it has, found without a touch. A key that answers
/// nothing without one is asked for all of them.
fn preflight(
    key: &mut Channel,
    info: &Info,
    rp_id: &str,
    ids: &[Vec<u8>],
) -> Result<Vec<Vec<Vec<u8>>>, Trouble> {
    let hash = Sha256::digest(PREFLIGHT).into();
    let mut unanswered = Vec::new();
    for allow in lists(info, ids) {
        let (presence, verification) = (Presence::Unasked, Verification::None);
        match key.assert(&AssertRequest { rp_id, hash, allow, presence, verification }) {
            Ok(asserted) => {
                let found = answered_id(&asserted, allow);
                return Ok(vec![found.map_or_else(|| allow.to_vec(), |id| vec![id])]);
            }
            Err(Refused::Status(status::NO_CREDENTIALS)) => {}
            Err(Refused::Status(_)) => unanswered.push(allow.to_vec()),
            Err(Refused::Broken(broken)) => return Err(broken.into()),
        }
    }
    match unanswered.is_empty() {
        true => Err(Trouble::NotEnrolled),
        false => Ok(unanswered),
    }
}

/// The credentials in lists that this key takes.
fn lists<'i>(info: &Info, ids: &'i [Vec<u8>]) -> impl Iterator<Item = &'i [Vec<u8>]> {
    let longest_id = ids.iter().map(Vec::len).max().unwrap_or(0);
    let by_bytes = info.longest_message.saturating_sub(REQUEST_BYTES) / (longest_id + ENTRY_BYTES);
    let length = info.longest_list.unwrap_or(DEFAULT_LIST).min(by_bytes).max(1);
    ids.chunks(length)
}

/// A key may leave the identifier out where only one credential was allowed (CTAP 2.1 section 6.2.2).
fn answered_id(asserted: &Asserted, allowed: &[Vec<u8>]) -> Option<Vec<u8>> {
    match (&asserted.id, allowed) {
        (Some(id), _) => Some(id.clone()),
        (None, [only]) => Some(only.clone()),
        (None, _) => None,
    }
}

fn hash_of(client_data: &ClientData) -> [u8; 32] {
    Sha256::digest(client_data.bytes()).into()
}

fn base64url(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::usb::ctap::PinState;

    fn info(longest_message: usize, longest_list: Option<usize>) -> Info {
        Info {
            knows_selection: true,
            has_finger: false,
            pin: PinState::None,
            always_verifies: false,
            has_permissions: false,
            makes_with_pin_only: false,
            protocols: Vec::new(),
            longest_message,
            longest_list,
        }
    }

    #[test]
    fn an_answer_without_an_identifier_is_the_only_credential_s() {
        let unnamed = Asserted { id: None, data: Vec::new(), signature: Vec::new() };
        assert_eq!(answered_id(&unnamed, &[vec![1]]), Some(vec![1]));
        assert_eq!(answered_id(&unnamed, &[vec![1], vec![2]]), None);
        let named = Asserted { id: Some(vec![2]), ..unnamed };
        assert_eq!(answered_id(&named, &[vec![1], vec![2]]), Some(vec![2]));
    }

    #[test]
    fn lists_are_as_long_as_the_key_takes_them() {
        let ids = vec![vec![0; 64]; 100];
        let longest = |info| lists(&info, &ids).map(<[_]>::len).max();
        assert_eq!(longest(info(1200, Some(20))), Some(8));
        assert_eq!(longest(info(1200, Some(3))), Some(3));
        assert_eq!(longest(info(7609, None)), Some(8));
        assert_eq!(longest(info(0, None)), Some(1));
        assert_eq!(lists(&info(1200, None), &ids).map(<[_]>::len).sum::<usize>(), 100);
    }
}
