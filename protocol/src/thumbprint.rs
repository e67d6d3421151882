//! The RFC 7638 thumbprint of a P-256 key: what a grant's `cnf.jkt` names, and what the key of a tunnel's certificate
//! is compared with.

use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::names::{NameError, name_type};

/// Base64url of a SHA-256 without padding.
const LENGTH: usize = 43;
/// An uncompressed point: 0x04, x, y (SEC 1 section 2.3.3).
const POINT_BYTES: usize = 65;

/// A key's thumbprint, in base64url.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Thumbprint(String);
name_type!(Thumbprint);

impl FromStr for Thumbprint {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        if let Some(character) = text.chars().find(|c| !(c.is_ascii_alphanumeric() || "-_".contains(*c))) {
            return Err(NameError::BadCharacter { character, kind: "a thumbprint" });
        }
        match text.len() {
            LENGTH => Ok(Self(text.to_owned())),
            0 => Err(NameError::Empty),
            _ => Err(NameError::TooLong { limit: LENGTH }),
        }
    }
}

impl Thumbprint {
    /// The thumbprint of the P-256 key in a certificate, or `None` if its key is of another kind.
    pub fn of_certificate(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        Self::of_point(&certificate.public_key().subject_public_key.data)
    }

    /// The thumbprint of a P-256 key given as DER SubjectPublicKeyInfo.
    pub fn of_public_key(spki: &[u8]) -> Option<Self> {
        let (_, key) = SubjectPublicKeyInfo::from_der(spki).ok()?;
        Self::of_point(&key.subject_public_key.data)
    }

    /// The thumbprint of an uncompressed P-256 point (RFC 7638 section 3.2: members in lexical order, no spaces).
    pub fn of_point(point: &[u8]) -> Option<Self> {
        let point: &[u8; POINT_BYTES] = point.try_into().ok()?;
        let [0x04, coordinates @ ..] = point else { return None };
        let (x, y) = coordinates.split_at(32);
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        let jwk = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        Some(Self(URL_SAFE_NO_PAD.encode(Sha256::digest(jwk))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificate_and_public_key_have_the_same_thumbprint() {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        let by_certificate = Thumbprint::of_certificate(certificate.der()).unwrap();
        assert_eq!(Some(by_certificate.clone()), Thumbprint::of_point(key.public_key_raw()));
        assert_eq!(by_certificate.to_string().parse(), Ok(by_certificate));
    }

    #[test]
    fn the_thumbprint_is_the_one_of_rfc_7638() {
        // The key of RFC 7517 appendix A.1; its thumbprint computed with an independent JOSE library.
        let x = URL_SAFE_NO_PAD.decode("MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4").unwrap();
        let y = URL_SAFE_NO_PAD.decode("4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM").unwrap();
        let point = [vec![4], x, y].concat();
        assert_eq!(
            Thumbprint::of_point(&point).unwrap().as_str(),
            "cn-I_WNMClehiVp51i_0VpOENW1upEerA8sEam5hn-s"
        );
    }

    #[test]
    fn other_keys_have_none() {
        let ed25519 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        assert_eq!(Thumbprint::of_point(ed25519.public_key_raw()), None);
        assert_eq!(Thumbprint::of_certificate(b"no certificate"), None);
    }
}
