//! Encryption at rest: AES-256-GCM under the key file, a random nonce before each text, the purpose as associated data.
//! And keyed hashes, HMAC-SHA-256 under a key of their own that follows from the key file.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use super::KeysError;

const KEY_BYTES: usize = 32;
/// Bytes of a keyed hash.
pub(crate) const KEYED_HASH_BYTES: usize = 32;
/// What tells the key of the hashes from everything else that may ever follow from the key file.
const HASH_KEY_LABEL: &[u8] = b"portlatch keyed hash 1";

/// The key file, ready for use. Random nonces are safe for 2^32 texts (NIST SP 800-38D section 8.3): a store seals a
/// few for each user.
pub(super) struct Vault {
    cipher: RandomizedNonceKey,
    hash: hmac::Key,
}

impl Vault {
    /// A new one, and the content of its key file.
    pub(super) fn generate() -> Result<(Self, Zeroizing<[u8; KEY_BYTES]>), KeysError> {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        getrandom::fill(key.as_mut_slice()).map_err(|_| KeysError::Crypto)?;
        Ok((Self::from_key(key.as_slice())?, key))
    }

    /// The one of this key file.
    pub(super) fn from_key(key: &[u8]) -> Result<Self, KeysError> {
        let cipher = RandomizedNonceKey::new(&AES_256_GCM, key).map_err(|_| KeysError::Crypto)?;
        let hash_key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), HASH_KEY_LABEL);
        Ok(Self { cipher, hash: hmac::Key::new(hmac::HMAC_SHA256, hash_key.as_ref()) })
    }

    /// The purpose ends with a byte that no purpose has, so that it and the text cannot run into each other.
    pub(super) fn keyed_hash(&self, purpose: &str, text: &[u8]) -> [u8; KEYED_HASH_BYTES] {
        let mut context = hmac::Context::with_key(&self.hash);
        context.update(purpose.as_bytes());
        context.update(&[0]);
        context.update(text);
        let mut hash = [0; KEYED_HASH_BYTES];
        hash.copy_from_slice(context.sign().as_ref());
        hash
    }

    pub(super) fn seal(&self, purpose: &str, plain: &[u8]) -> Result<Vec<u8>, KeysError> {
        let mut text = plain.to_vec();
        let nonce = self.cipher.seal_in_place_append_tag(Aad::from(purpose.as_bytes()), &mut text);
        let nonce = nonce.map_err(|_| KeysError::Crypto)?;
        Ok([nonce.as_ref().as_slice(), &text].concat())
    }

    pub(super) fn open(&self, purpose: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeysError> {
        let (nonce, text) = sealed.split_at_checked(NONCE_LEN).ok_or(KeysError::Sealed)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| KeysError::Sealed)?;
        let mut text = Zeroizing::new(text.to_vec());
        let opened = self.cipher.open_in_place(nonce, Aad::from(purpose.as_bytes()), &mut text);
        let length = opened.map_err(|_| KeysError::Sealed)?.len();
        text.truncate(length);
        Ok(text)
    }
}
