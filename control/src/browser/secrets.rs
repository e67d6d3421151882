//! The random value of a cookie, and what is derived from it: the name that the store knows it by, and the token that every
//! form carries. Neither leads back to it or to the other.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

const BYTES: usize = 32;

/// SHA-256 of a cookie's value.
pub(crate) type CookieHash = [u8; 32];

/// The value of a cookie.
#[derive(Clone)]
pub(crate) struct CookieSecret(Zeroizing<[u8; BYTES]>);

impl std::fmt::Debug for CookieSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(cookie)")
    }
}

impl CookieSecret {
    /// A new one.
    pub(crate) fn random() -> Self {
        let mut bytes = Zeroizing::new([0; BYTES]);
        getrandom::fill(bytes.as_mut_slice()).expect("the system has randomness");
        Self(bytes)
    }

    /// The one that a browser sent; `None` for what is none of ours.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).ok()?);
        let bytes: [u8; BYTES] = bytes.as_slice().try_into().ok()?;
        Some(Self(Zeroizing::new(bytes)))
    }

    /// As the browser keeps it.
    pub(crate) fn text(&self) -> Zeroizing<String> {
        Zeroizing::new(URL_SAFE_NO_PAD.encode(self.0.as_slice()))
    }

    /// As the store knows it.
    pub(crate) fn hash(&self) -> CookieHash {
        self.derive("portlatch cookie")
    }

    /// What forms of pages that belong to this cookie carry: another site can neither read nor guess it.
    pub(crate) fn form_token(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.derive("portlatch form"))
    }

    /// Whether a form came from a page that belongs to this cookie.
    pub(crate) fn is_form_token(&self, text: &str) -> bool {
        bool::from(self.form_token().as_bytes().ct_eq(text.as_bytes()))
    }

    fn derive(&self, what_for: &str) -> [u8; 32] {
        Sha256::new()
            .chain_update(what_for)
            .chain_update([0])
            .chain_update(self.0.as_slice())
            .finalize()
            .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_reads_back_and_shows_nothing_of_itself() {
        let secret = CookieSecret::random();
        let read = CookieSecret::parse(&secret.text()).unwrap();
        assert_eq!(read.hash(), secret.hash());
        assert!(read.is_form_token(&secret.form_token()));
        assert!(!format!("{secret:?}").contains(secret.text().as_str()));
        assert_ne!(secret.form_token(), *secret.text());
    }

    #[test]
    fn another_cookie_s_token_is_not_taken() {
        let (one, other) = (CookieSecret::random(), CookieSecret::random());
        assert!(!one.is_form_token(&other.form_token()) && !one.is_form_token(""));
    }

    #[test]
    fn what_is_no_cookie_of_ours_is_none() {
        for text in ["", "x", "a b", &"A".repeat(42), &"A".repeat(44)] {
            assert!(CookieSecret::parse(text).is_none(), "{text:?}");
        }
    }
}
