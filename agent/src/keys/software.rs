//! A security key in software, for tests and the demo: whoever can read its file can tap. Never in release packages.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::BoxFuture;
use rcgen::{KeyPair, SigningKey as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;
use webauthn_rs_proto::{
    AuthenticatorAssertionResponseRaw, AuthenticatorAttestationResponseRaw, PublicKeyCredential,
    PublicKeyCredentialCreationOptions, PublicKeyCredentialRequestOptions, RegisterPublicKeyCredential,
    UserVerificationPolicy,
};

use super::{Attempt, KeyError, KeyNotice, SecurityKey, attestation};
use crate::files::Files;

const FILE: &str = "software-key.json";
const LOCK: &str = "software-key.lock";
/// The identifier of P-256 with SHA-256 (RFC 9053 section 2.1).
const ES256: i64 = -7;
/// Credentials that the file holds: each is another enrolment of a demo.
const MAX_CREDENTIALS: usize = 64;

/// The warning of every start.
pub(crate) const WARNING: &str =
    "WARNING: this uses a SOFTWARE security key: any program of yours can tap it. For tests and demos only.";

/// When the software key taps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mode {
    /// By itself, at once.
    Auto,
    /// When Enter is pressed.
    Enter,
    /// Not at all.
    Never,
}

/// A finger for the software key: Enter, wherever it was pressed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Finger(Arc<Notify>);

impl Finger {
    /// Taps what waits for it now; a tap that nothing waits for is lost, as on a real key.
    pub(crate) fn tap(&self) {
        self.0.notify_waiters();
    }
}

/// The key in the agent's files.
#[derive(Debug)]
pub(crate) struct SoftwareKey {
    files: Files,
    mode: Mode,
    finger: Finger,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Stored {
    credentials: Vec<Credential>,
}

#[derive(Serialize, Deserialize)]
struct Credential {
    id: String,
    rp_id: String,
    key: String,
    counter: u32,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential").field("rp_id", &self.rp_id).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verification {
    Present,
    Verified,
}

impl SecurityKey for SoftwareKey {
    fn enrol(
        &self,
        options: PublicKeyCredentialCreationOptions,
        attempt: Attempt,
    ) -> BoxFuture<'_, Result<RegisterPublicKeyCredential, KeyError>> {
        Box::pin(async move {
            self.touch(&attempt).await?;
            self.make_credential(&options, &attempt)
        })
    }

    fn assert(
        &self,
        options: PublicKeyCredentialRequestOptions,
        attempt: Attempt,
    ) -> BoxFuture<'_, Result<PublicKeyCredential, KeyError>> {
        Box::pin(async move {
            self.touch(&attempt).await?;
            self.make_assertion(&options, &attempt)
        })
    }
}

impl SoftwareKey {
    /// The key in these files, tapped in this way.
    pub(crate) const fn new(files: Files, mode: Mode, finger: Finger) -> Self {
        Self { files, mode, finger }
    }

    async fn touch(&self, attempt: &Attempt) -> Result<(), KeyError> {
        let finger = async {
            match self.mode {
                Mode::Auto => {}
                Mode::Enter => {
                    let tapped = self.finger.0.notified();
                    attempt.notice(KeyNotice::PressEnter);
                    tapped.await;
                }
                Mode::Never => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = attempt.cancel.cancelled() => Err(KeyError::Cancelled),
            () = finger => Ok(()),
        }
    }

    fn make_credential(
        &self,
        options: &PublicKeyCredentialCreationOptions,
        attempt: &Attempt,
    ) -> Result<RegisterPublicKeyCredential, KeyError> {
        if !options.pub_key_cred_params.iter().any(|params| params.alg == ES256) {
            return Err(KeyError::Unsupported("an algorithm that the cluster accepts"));
        }
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(software)?;
        let mut id = [0; 32];
        getrandom::fill(&mut id).map_err(software)?;
        let credential = Credential {
            id: URL_SAFE_NO_PAD.encode(id),
            rp_id: options.rp.id.clone(),
            key: key.serialize_pem(),
            counter: 0,
        };
        let excluded = options.exclude_credentials.as_deref().unwrap_or_default();
        self.change(|stored| {
            let is_ours = |c: &Credential| excluded.iter().any(|e| URL_SAFE_NO_PAD.encode(&e.id) == c.id);
            if stored.credentials.iter().any(is_ours) {
                return Err(KeyError::AlreadyEnrolled);
            }
            let surplus = (stored.credentials.len() + 1).saturating_sub(MAX_CREDENTIALS);
            stored.credentials.drain(..surplus);
            stored.credentials.push(credential);
            Ok(())
        })?;
        let selection = options.authenticator_selection.as_ref();
        let verification = verification(selection.map(|selection| selection.user_verification));
        let mut data = authenticator_data(&options.rp.id, verification, 0);
        data[32] |= 0x40;
        data.extend(attested(&id, key.public_key_raw()));
        Ok(RegisterPublicKeyCredential {
            id: URL_SAFE_NO_PAD.encode(id),
            raw_id: id.to_vec(),
            response: AuthenticatorAttestationResponseRaw {
                attestation_object: attestation::none(&data),
                client_data_json: attempt.client_data.bytes().to_vec(),
                transports: None,
            },
            type_: "public-key".to_owned(),
            extensions: Default::default(),
        })
    }

    fn make_assertion(
        &self,
        options: &PublicKeyCredentialRequestOptions,
        attempt: &Attempt,
    ) -> Result<PublicKeyCredential, KeyError> {
        let allowed = |credential: &Credential| {
            let is_named = |allow: &[u8]| URL_SAFE_NO_PAD.encode(allow) == credential.id;
            credential.rp_id == options.rp_id
                && options.allow_credentials.iter().any(|allow| is_named(&allow.id))
        };
        let (id, key, counter) = self.change(|stored| {
            let credential =
                stored.credentials.iter_mut().find(|c| allowed(c)).ok_or(KeyError::NotEnrolled)?;
            credential.counter += 1;
            Ok((credential.id.clone(), credential.key.clone(), credential.counter))
        })?;
        let key = KeyPair::from_pem(&key).map_err(software)?;
        let data = authenticator_data(&options.rp_id, verification(Some(options.user_verification)), counter);
        let signed = [data.as_slice(), &Sha256::digest(attempt.client_data.bytes())].concat();
        let signature = key.sign(&signed).map_err(software)?;
        Ok(PublicKeyCredential {
            raw_id: URL_SAFE_NO_PAD.decode(&id).map_err(software)?,
            id,
            response: AuthenticatorAssertionResponseRaw {
                authenticator_data: data,
                client_data_json: attempt.client_data.bytes().to_vec(),
                signature,
                user_handle: None,
            },
            extensions: Default::default(),
            type_: "public-key".to_owned(),
        })
    }

    /// Reads, changes and writes the file, alone among this user's processes: a counter never goes out twice.
    fn change<T>(&self, change: impl FnOnce(&mut Stored) -> Result<T, KeyError>) -> Result<T, KeyError> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let lock = options.open(self.files.state(LOCK)).and_then(|file| file.lock().map(|()| file));
        let _held: std::fs::File = lock.map_err(|e: io::Error| software(e))?;
        let content = self.files.read(FILE).map_err(software)?;
        let mut stored = match content {
            Some(content) => serde_json::from_slice(&content).map_err(software)?,
            None => Stored::default(),
        };
        let outcome = change(&mut stored)?;
        let content = serde_json::to_vec_pretty(&stored).map_err(software)?;
        self.files.replace(FILE, &content).map_err(software)?;
        Ok(outcome)
    }
}

fn software(error: impl std::fmt::Display) -> KeyError {
    KeyError::Software(error.to_string())
}

/// There is no PIN and no finger: "verified" is granted where it is demanded, so that such resources can be shown.
fn verification(policy: Option<UserVerificationPolicy>) -> Verification {
    match policy {
        Some(UserVerificationPolicy::Required) => Verification::Verified,
        Some(UserVerificationPolicy::Preferred | UserVerificationPolicy::Discouraged_DO_NOT_USE) | None => {
            Verification::Present
        }
    }
}

/// WebAuthn Level 2, section 6.1: hash of the RP ID, flags, counter.
fn authenticator_data(rp_id: &str, verification: Verification, counter: u32) -> Vec<u8> {
    let flags = match verification {
        Verification::Present => 0x01,
        Verification::Verified => 0x05,
    };
    [Sha256::digest(rp_id).as_slice(), &[flags], &counter.to_be_bytes()].concat()
}

/// WebAuthn Level 2, section 6.5.1: AAGUID (none), credential and its COSE key (RFC 9052 section 7).
fn attested(id: &[u8; 32], point: &[u8]) -> Vec<u8> {
    let (x, y) = point[1..].split_at(32);
    [[0; 16].as_slice(), &[0, 32], id, b"\xa5\x01\x02\x03\x26\x20\x01\x21\x58\x20", x, b"\x22\x58\x20", y]
        .concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ceremony::ClientData;
    use p256::ecdsa::signature::Verifier as _;
    use p256::ecdsa::{Signature, VerifyingKey};
    use serde_json::json;
    use tokio::sync::mpsc;
    use tokio_util::sync::CancellationToken;

    fn creation() -> PublicKeyCredentialCreationOptions {
        serde_json::from_value(json!({
            "rp": {"name": "x", "id": "proxy.example.com"},
            "user": {"id": "AAAA", "name": "jerry", "displayName": "jerry"},
            "challenge": "YWJj",
            "pubKeyCredParams": [{"type": "public-key", "alg": -7}],
        }))
        .unwrap()
    }

    fn request(id: &[u8]) -> PublicKeyCredentialRequestOptions {
        let id = URL_SAFE_NO_PAD.encode(id);
        serde_json::from_value(json!({
            "challenge": "YWJj", "rpId": "proxy.example.com", "userVerification": "discouraged",
            "allowCredentials": [{"type": "public-key", "id": id}],
        }))
        .unwrap()
    }

    fn attempt() -> (Attempt, mpsc::Receiver<KeyNotice>) {
        let (notices, receiver) = mpsc::channel(1);
        let client_data = ClientData::for_login(b"abc", &"proxy.example.com".parse().unwrap());
        let pins = crate::keys::pin_entry::of_this_process();
        (Attempt { client_data, cancel: CancellationToken::new(), notices, pins }, receiver)
    }

    fn key(directory: &tempfile::TempDir, mode: Mode) -> SoftwareKey {
        SoftwareKey::new(Files::inside(directory.path()), mode, Finger::default())
    }

    /// The public key behind 10 bytes of COSE header at the end of the authenticator data.
    fn public_key(object: &[u8]) -> VerifyingKey {
        let cose = &object[object.len() - 67..];
        let point = [&[4], &cose[..32], &cose[35..]].concat();
        VerifyingKey::from_sec1_bytes(&point).unwrap()
    }

    #[tokio::test]
    async fn the_enrolled_key_signs_with_a_counter_that_grows() {
        let directory = tempfile::tempdir().unwrap();
        let key = key(&directory, Mode::Auto);
        let credential = key.enrol(creation(), attempt().0).await.unwrap();
        let verifying = public_key(&credential.response.attestation_object);
        let mut counters = Vec::new();
        for _ in 0..2 {
            let answer = key.assert(request(&credential.raw_id), attempt().0).await.unwrap();
            let data = &answer.response.authenticator_data;
            let hash = Sha256::digest(&answer.response.client_data_json);
            let signature = Signature::from_der(&answer.response.signature).unwrap();
            verifying.verify(&[data.as_slice(), &hash].concat(), &signature).unwrap();
            assert_eq!((data.len(), data[32]), (37, 0x01));
            counters.push(u32::from_be_bytes(data[33..].try_into().unwrap()));
        }
        assert_eq!(counters, [1, 2]);
    }

    #[tokio::test]
    async fn a_credential_of_another_cluster_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let key = key(&directory, Mode::Auto);
        let credential = key.enrol(creation(), attempt().0).await.unwrap();
        let mut request = request(&credential.raw_id);
        request.rp_id = "evil.example.com".to_owned();
        assert_eq!(key.assert(request, attempt().0).await.unwrap_err(), KeyError::NotEnrolled);
    }

    #[tokio::test]
    async fn in_enter_mode_it_waits_for_the_finger() {
        let directory = tempfile::tempdir().unwrap();
        let id = key(&directory, Mode::Auto).enrol(creation(), attempt().0).await.unwrap().raw_id;
        let finger = Finger::default();
        finger.tap();
        let key = SoftwareKey::new(Files::inside(directory.path()), Mode::Enter, finger.clone());
        let (attempt, mut notices) = attempt();
        let tap = async {
            assert_eq!(notices.recv().await, Some(KeyNotice::PressEnter));
            tokio::task::yield_now().await;
            finger.tap();
        };
        let (answer, ()) = tokio::join!(key.assert(request(&id), attempt), tap);
        assert!(answer.is_ok());
    }

    #[tokio::test]
    async fn a_cancelled_attempt_ends_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let (attempt, _notices) = attempt();
        attempt.cancel.cancel();
        let answer = key(&directory, Mode::Never).assert(request(b"x"), attempt).await;
        assert_eq!(answer.unwrap_err(), KeyError::Cancelled);
    }
}
