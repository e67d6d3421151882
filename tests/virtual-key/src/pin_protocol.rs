//! PIN/UV auth protocols one and two (CTAP 2.1 sections 6.5.6 and 6.5.7), the key's side.

use aes::cipher::{BlockModeDecrypt as _, BlockModeEncrypt as _, KeyIvInit as _};
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit as _, Mac as _};
use p256::elliptic_curve::sec1::ToSec1Point as _;
use p256::{PublicKey, SecretKey};
use sha2::{Digest as _, Sha256};

use crate::cbor::Value;

const BLOCK: usize = 16;

/// Which protocol a platform chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    One,
    Two,
}

/// What both sides derived.
pub(crate) struct Shared {
    protocol: Protocol,
    hmac: [u8; 32],
    aes: [u8; 32],
}

impl Protocol {
    pub(crate) const fn of(number: i64) -> Option<Self> {
        match number {
            1 => Some(Self::One),
            2 => Some(Self::Two),
            _ => None,
        }
    }

    /// Whether `proof` is the authentication of `message` under a token.
    pub(crate) fn is_authentic(self, token: &[u8], message: &[u8], proof: &[u8]) -> bool {
        authenticate(self, token, message) == proof
    }
}

impl Shared {
    /// With the platform's COSE key.
    pub(crate) fn with(protocol: Protocol, ours: &SecretKey, theirs: &Value) -> Option<Self> {
        let coordinate = |name: i64| theirs.member(name).and_then(Value::as_bytes).filter(|c| c.len() == 32);
        let point = [&[4], coordinate(-2)?, coordinate(-3)?].concat();
        let theirs = PublicKey::from_sec1_bytes(&point).ok()?;
        let secret = ours.diffie_hellman(&theirs);
        let z = secret.raw_secret_bytes();
        Some(match protocol {
            Protocol::One => {
                let key: [u8; 32] = Sha256::digest(z).into();
                Self { protocol, hmac: key, aes: key }
            }
            Protocol::Two => {
                let derive = Hkdf::<Sha256>::new(Some(&[0; 32]), z);
                let (mut hmac, mut aes) = ([0; 32], [0; 32]);
                derive.expand(b"CTAP2 HMAC key", &mut hmac).expect("32 bytes are not too many");
                derive.expand(b"CTAP2 AES key", &mut aes).expect("32 bytes are not too many");
                Self { protocol, hmac, aes }
            }
        })
    }

    pub(crate) fn is_authentic(&self, message: &[u8], proof: &[u8]) -> bool {
        authenticate(self.protocol, &self.hmac, message) == proof
    }

    pub(crate) fn decrypt(&self, message: &[u8]) -> Option<Vec<u8>> {
        let (iv, text) = match self.protocol {
            Protocol::One => (vec![0; BLOCK], message),
            Protocol::Two => message.split_at_checked(BLOCK).map(|(iv, text)| (iv.to_vec(), text))?,
        };
        if text.is_empty() || text.len() % BLOCK != 0 {
            return None;
        }
        let mut cipher = cbc::Decryptor::<aes::Aes256>::new_from_slices(&self.aes, &iv).ok()?;
        let mut plain = text.to_vec();
        for block in plain.chunks_exact_mut(BLOCK) {
            cipher.decrypt_block(block.try_into().expect("a chunk is a block"));
        }
        Some(plain)
    }

    pub(crate) fn encrypt(&self, message: &[u8]) -> Vec<u8> {
        let iv = match self.protocol {
            Protocol::One => [0; BLOCK],
            Protocol::Two => random(),
        };
        let mut cipher =
            cbc::Encryptor::<aes::Aes256>::new_from_slices(&self.aes, &iv).expect("32 and 16 bytes");
        let mut secret = message.to_vec();
        for block in secret.chunks_exact_mut(BLOCK) {
            cipher.encrypt_block(block.try_into().expect("a chunk is a block"));
        }
        match self.protocol {
            Protocol::One => secret,
            Protocol::Two => [iv.as_slice(), &secret].concat(),
        }
    }
}

fn authenticate(protocol: Protocol, key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(message);
    let proof = mac.finalize().into_bytes();
    match protocol {
        Protocol::One => proof[..16].to_vec(),
        Protocol::Two => proof.to_vec(),
    }
}

/// A public key as COSE (RFC 9052 section 7), for this algorithm.
pub(crate) fn cose(key: &PublicKey, algorithm: i64) -> Value {
    let point = key.to_sec1_point(false);
    let coordinate =
        |bytes: Option<&_>| Value::Bytes(AsRef::<[u8]>::as_ref(bytes.expect("not compressed")).to_vec());
    Value::map([
        (1, Value::Int(2)),
        (3, Value::Int(algorithm)),
        (-1, Value::Int(1)),
        (-2, coordinate(point.x().map(|x: &p256::FieldBytes| x))),
        (-3, coordinate(point.y().map(|y: &p256::FieldBytes| y))),
    ])
}

/// A new P-256 key.
pub(crate) fn new_secret() -> SecretKey {
    loop {
        // All but one in 2^32 strings are scalars.
        if let Ok(key) = SecretKey::from_slice(&random::<32>()) {
            return key;
        }
    }
}

pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the kernel has random bytes");
    bytes
}
