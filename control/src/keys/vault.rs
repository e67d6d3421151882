//! Encryption at rest: AES-256-GCM under the key file, a random nonce before each text, the purpose as associated data.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use zeroize::Zeroizing;

use super::KeysError;

const KEY_BYTES: usize = 32;

/// The key file, ready for use. Random nonces are safe for 2^32 texts (NIST SP 800-38D section 8.3): a store seals a
/// few for each user.
pub(super) struct Vault(RandomizedNonceKey);

impl Vault {
    /// A new one, and the content of its key file.
    pub(super) fn generate() -> Result<(Self, Zeroizing<[u8; KEY_BYTES]>), KeysError> {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        getrandom::fill(key.as_mut_slice()).map_err(|_| KeysError::Crypto)?;
        Ok((Self::from_key(key.as_slice())?, key))
    }

    /// The one of this key file.
    pub(super) fn from_key(key: &[u8]) -> Result<Self, KeysError> {
        RandomizedNonceKey::new(&AES_256_GCM, key).map(Self).map_err(|_| KeysError::Crypto)
    }

    pub(super) fn seal(&self, purpose: &str, plain: &[u8]) -> Result<Vec<u8>, KeysError> {
        let mut text = plain.to_vec();
        let nonce = self.0.seal_in_place_append_tag(Aad::from(purpose.as_bytes()), &mut text);
        let nonce = nonce.map_err(|_| KeysError::Crypto)?;
        Ok([nonce.as_ref().as_slice(), &text].concat())
    }

    pub(super) fn open(&self, purpose: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeysError> {
        let (nonce, text) = sealed.split_at_checked(NONCE_LEN).ok_or(KeysError::Sealed)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| KeysError::Sealed)?;
        let mut text = Zeroizing::new(text.to_vec());
        let opened = self.0.open_in_place(nonce, Aad::from(purpose.as_bytes()), &mut text);
        let length = opened.map_err(|_| KeysError::Sealed)?.len();
        text.truncate(length);
        Ok(text)
    }
}
