//! What a forger does to a grant: other claims, another signature, a bit here and there.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

fn part_of(token: &str, index: usize) -> &str {
    token.split('.').nth(index).expect("a JWT has three parts")
}

/// The claims that a grant shows to whoever looks.
///
/// # Panics
/// If it is no JWT.
pub fn claims(token: &str) -> Value {
    let bytes = URL_SAFE_NO_PAD.decode(part_of(token, 1)).expect("base64");
    serde_json::from_slice(&bytes).expect("JSON")
}

/// The grant with its claims changed under its old signature.
///
/// # Panics
/// If it is no JWT.
pub fn changed(token: &str, change: impl FnOnce(&mut Value)) -> String {
    let mut claims = claims(token);
    change(&mut claims);
    let body = URL_SAFE_NO_PAD.encode(claims.to_string());
    format!("{}.{body}.{}", part_of(token, 0), part_of(token, 2))
}

/// The same claims under the same header, signed by a key of the forger's own.
///
/// # Panics
/// If it is no JWT.
pub fn forged(token: &str) -> String {
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
    let signed = format!("{}.{}", part_of(token, 0), part_of(token, 1));
    let signature = key.sign(&SystemRandom::new(), signed.as_bytes()).expect("a signature");
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// The same claims, said to need no signature.
///
/// # Panics
/// If it is no JWT.
pub fn unsigned(token: &str) -> String {
    let header = URL_SAFE_NO_PAD.decode(part_of(token, 0)).expect("base64");
    let mut header: Value = serde_json::from_slice(&header).expect("JSON");
    header["alg"] = "none".into();
    format!("{}.{}.", URL_SAFE_NO_PAD.encode(header.to_string()), part_of(token, 1))
}

/// The grant with one bit of its signature turned.
///
/// # Panics
/// If it is no JWT.
pub fn bit_flipped(token: &str) -> String {
    let mut signature = URL_SAFE_NO_PAD.decode(part_of(token, 2)).expect("base64");
    signature[7] ^= 0x10;
    format!("{}.{}.{}", part_of(token, 0), part_of(token, 1), URL_SAFE_NO_PAD.encode(signature))
}
