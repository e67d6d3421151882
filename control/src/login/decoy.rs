//! What somebody is asked who says to be a user whom nobody has: the same as everybody else, so that nobody can find out
//! who exists. Keys that are named here exist nowhere; they stay the same for a name, as a real user's do.
//!
//! Whoever knows which make of keys a company hands out may still tell some names apart by the length of their keys'
//! names; without any answer to give, though.

use portlatch_protocol::names::{Hostname, UserName};
use webauthn_rs_proto::{
    AllowCredentials, PublicKeyCredentialHints, PublicKeyCredentialRequestOptions, RequestChallengeResponse,
    UserVerificationPolicy,
};

use crate::ceremony::LIFETIME;
use crate::keys::{KEYED_HASH_BYTES, Keys};

/// Bytes of the name of a credential on the most widespread make of security keys.
const NAME_BYTES: usize = 2 * KEYED_HASH_BYTES;
/// Of so many users one has a second key.
const HAVE_ONE_KEY: u8 = 3;
/// Bytes of a challenge, as webauthn-rs makes them.
const CHALLENGE_BYTES: usize = 32;

/// A challenge that no key can answer.
pub(super) fn options(cluster: &Hostname, user: &UserName, keys: &Keys) -> serde_json::Value {
    let mut challenge = vec![0; CHALLENGE_BYTES];
    getrandom::fill(&mut challenge).expect("the system has randomness");
    let options = PublicKeyCredentialRequestOptions {
        challenge,
        timeout: u32::try_from(LIFETIME.as_millis()).ok(),
        rp_id: cluster.to_string(),
        allow_credentials: names(user, keys).map(allowed).collect(),
        user_verification: UserVerificationPolicy::Required,
        hints: Some(vec![PublicKeyCredentialHints::SecurityKey]),
        extensions: None,
    };
    serde_json::to_value(RequestChallengeResponse { public_key: options, mediation: None })
        .expect("WebAuthn's documents are JSON")
}

fn names(user: &UserName, keys: &Keys) -> impl Iterator<Item = Vec<u8>> {
    let half = |n: u8| keys.keyed_hash(&format!("decoy/{n}"), user.as_str().as_bytes());
    let count = if half(0)[0] % (HAVE_ONE_KEY + 1) < HAVE_ONE_KEY { 1 } else { 2 };
    let name = move |n: u8| [half(2 * n + 1), half(2 * n + 2)].concat();
    let names: Vec<Vec<u8>> = (0..count).map(name).collect();
    debug_assert!(names.iter().all(|name| name.len() == NAME_BYTES), "two halves make a name");
    names.into_iter()
}

fn allowed(id: Vec<u8>) -> AllowCredentials {
    AllowCredentials { type_: "public-key".to_owned(), id, transports: None }
}
