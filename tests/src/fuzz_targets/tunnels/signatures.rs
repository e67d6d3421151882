//! Signatures that this process has checked: the same few grants come again and again, and checking one takes as long as
//! dozens of steps of a story.
//!
//! The proxy's code is as it is, down to the library that it reads grants with; here, under that library, a signature is
//! looked up by all that its checking depends on, byte by byte: key, signature and message. So each is checked once.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::LazyLock;

use jsonwebtoken::crypto::{CryptoProvider, JwtVerifier, aws_lc};
use jsonwebtoken::errors::Result;
use jsonwebtoken::signature::{Error, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey};

/// Checked signatures in mind at once, of some 900 bytes each: nearly all that the alterations of all grants come to.
const MOST: usize = 1 << 16;

static REMEMBERING: LazyLock<CryptoProvider> =
    LazyLock::new(|| CryptoProvider { verifier_factory: remembering, ..aws_lc::DEFAULT_PROVIDER.clone() });

thread_local! {
    /// What was checked, and whether it is good.
    static CHECKED: RefCell<HashMap<Vec<u8>, bool>> = RefCell::default();
}

/// From now on each signature is checked once.
pub(super) fn remember() {
    // If grants were read here before, it is too late for it, and every signature is checked each time.
    let _ = LazyLock::force(&REMEMBERING).install_default();
}

fn remembering(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    let real = (aws_lc::DEFAULT_PROVIDER.verifier_factory)(algorithm, key)?;
    if *algorithm != Algorithm::ES256 {
        return Ok(real);
    }
    Ok(Box::new(Remembering { real, key: key.try_get_as_bytes()?.to_vec() }))
}

struct Remembering {
    real: Box<dyn JwtVerifier>,
    key: Vec<u8>,
}

impl JwtVerifier for Remembering {
    fn algorithm(&self) -> Algorithm {
        self.real.algorithm()
    }
}

impl Verifier<Vec<u8>> for Remembering {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), Error> {
        let lengths = [self.key.len(), signature.len()].map(usize::to_be_bytes);
        let all = [lengths.as_flattened(), &self.key, signature, message].concat();
        let is_good = CHECKED.with_borrow_mut(|checked| {
            if let Some(is_good) = checked.get(&all) {
                return *is_good;
            }
            if checked.len() >= MOST {
                checked.clear();
            }
            *checked.entry(all).or_insert_with(|| self.real.verify(message, signature).is_ok())
        });
        if is_good { Ok(()) } else { Err(Error::new()) }
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};

    use super::*;

    #[test]
    fn what_is_remembered_of_a_signature_is_for_its_own_bytes_and_key_alone() {
        let [own, other] =
            [(); 2].map(|()| EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap());
        let signature = own.sign(&SystemRandom::new(), b"message").unwrap().as_ref().to_vec();
        let verify = |key: &EcdsaKeyPair, message: &[u8], signature: &Vec<u8>| {
            let key = DecodingKey::from_ec_der(key.public_key().as_ref());
            remembering(&Algorithm::ES256, &key).unwrap().verify(message, signature).is_ok()
        };
        for _ in 0..2 {
            assert!(verify(&own, b"message", &signature));
            assert!(!verify(&other, b"message", &signature));
            assert!(!verify(&own, b"massage", &signature));
            assert!(!verify(&own, b"message", &signature[..63].to_vec()));
            let moved = [&signature[63..], b"message"].concat();
            assert!(!verify(&own, &moved, &signature[..63].to_vec()));
        }
        assert_eq!(CHECKED.with_borrow(HashMap::len), 5);
    }
}
