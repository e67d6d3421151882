//! PIN/UV auth protocols one and two (CTAP 2.1 sections 6.5.6 and 6.5.7), our side, by aws-lc.

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey, UnparsedPublicKey, agree};
use aws_lc_rs::cipher::{
    AES_256, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext, UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::{digest, hkdf, hmac};
use minicbor::Decoder;
use zeroize::Zeroizing;

use crate::keys::usb::ctap::member;

const BLOCK: usize = 16;
const COORDINATE: usize = 32;
/// Bytes of the proof under protocol one.
const SHORT_PROOF: usize = 16;

/// A protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    One,
    Two,
}

/// What we and a key have derived together.
pub(crate) struct Shared {
    protocol: Protocol,
    aes: Zeroizing<[u8; 32]>,
    /// Our public key: its coordinates.
    ours: ([u8; COORDINATE], [u8; COORDINATE]),
}

/// A key's word that its user was verified.
pub(crate) struct Token {
    protocol: Protocol,
    bytes: Zeroizing<Vec<u8>>,
}

/// The key's side of the agreement makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadAgreement;

impl Protocol {
    /// The one that the key prefers among those that we know; keys that name none have the first.
    pub(crate) fn preferred(offered: &[u64]) -> Option<Self> {
        let known = |number: &u64| match number {
            1 => Some(Self::One),
            2 => Some(Self::Two),
            _ => None,
        };
        match offered {
            [] => Some(Self::One),
            offered => offered.iter().find_map(known),
        }
    }

    pub(crate) const fn number(self) -> u64 {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }

    fn proof(self, key: &[u8], message: &[u8]) -> Vec<u8> {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message);
        match self {
            Self::One => tag.as_ref()[..SHORT_PROOF].to_vec(),
            Self::Two => tag.as_ref().to_vec(),
        }
    }
}

impl Shared {
    /// With the key's answer to `getKeyAgreement`.
    pub(crate) fn with(protocol: Protocol, answer: &[u8]) -> Result<Self, BadAgreement> {
        let theirs = their_point(answer).ok_or(BadAgreement)?;
        let private = PrivateKey::generate(&ECDH_P256).map_err(|_| BadAgreement)?;
        let public = private.compute_public_key().map_err(|_| BadAgreement)?;
        let (_, coordinates) = public.as_ref().split_first().ok_or(BadAgreement)?;
        let (x, y) = coordinates.split_at_checked(COORDINATE).ok_or(BadAgreement)?;
        let ours = (x.try_into().map_err(|_| BadAgreement)?, y.try_into().map_err(|_| BadAgreement)?);
        let theirs = UnparsedPublicKey::new(&ECDH_P256, theirs);
        let aes = agree(&private, theirs, BadAgreement, |z| Ok(protocol.encryption_key(z)))?;
        Ok(Self { protocol, aes, ours })
    }

    /// Our public key's coordinates, for the request.
    pub(crate) const fn ours(&self) -> (&[u8; COORDINATE], &[u8; COORDINATE]) {
        (&self.ours.0, &self.ours.1)
    }

    /// The left half of the PIN's hash, for the key alone.
    pub(crate) fn encrypted_pin(&self, pin: &str) -> Vec<u8> {
        let hash = digest::digest(&digest::SHA256, pin.as_bytes());
        let mut block = Zeroizing::new([0; BLOCK]);
        block.copy_from_slice(&hash.as_ref()[..BLOCK]);
        let iv = self.new_iv();
        let key = UnboundCipherKey::new(&AES_256, self.aes.as_slice()).and_then(EncryptingKey::cbc);
        let key = key.expect("32 bytes are a key");
        let context = EncryptionContext::Iv128(FixedLength::from(iv));
        key.less_safe_encrypt(block.as_mut_slice(), context).expect("a block can be encrypted");
        match self.protocol {
            Protocol::One => block.to_vec(),
            Protocol::Two => [iv.as_slice(), block.as_slice()].concat(),
        }
    }

    /// The token in the key's answer.
    pub(crate) fn token(&self, encrypted: &[u8]) -> Option<Token> {
        let (iv, text) = match self.protocol {
            Protocol::One => ([0; BLOCK], encrypted),
            Protocol::Two => {
                let (iv, text) = encrypted.split_at_checked(BLOCK)?;
                (iv.try_into().ok()?, text)
            }
        };
        // Two blocks; the first protocol's may be one.
        if !matches!((self.protocol, text.len()), (_, 32) | (Protocol::One, 16)) {
            return None;
        }
        let mut bytes = Zeroizing::new(text.to_vec());
        let key = UnboundCipherKey::new(&AES_256, self.aes.as_slice()).and_then(DecryptingKey::cbc).ok()?;
        key.decrypt(&mut bytes, DecryptionContext::Iv128(FixedLength::from(iv))).ok()?;
        Some(Token { protocol: self.protocol, bytes })
    }

    fn new_iv(&self) -> [u8; BLOCK] {
        let mut iv = [0; BLOCK];
        if self.protocol == Protocol::Two {
            getrandom::fill(&mut iv).expect("the kernel has random bytes");
        }
        iv
    }
}

impl Token {
    /// The proof that the user was verified for these client data, and its protocol.
    pub(crate) fn proof(&self, hash: &[u8]) -> (Vec<u8>, u64) {
        (self.protocol.proof(&self.bytes, hash), self.protocol.number())
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("protocol", &self.protocol).finish_non_exhaustive()
    }
}

impl Protocol {
    /// What we encrypt with; what authenticates changes of a PIN is not needed, since nothing here changes one.
    fn encryption_key(self, z: &[u8]) -> Zeroizing<[u8; 32]> {
        let mut key = Zeroizing::new([0; 32]);
        match self {
            Self::One => key.copy_from_slice(digest::digest(&digest::SHA256, z).as_ref()),
            Self::Two => {
                let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, &[0; 32]).extract(z);
                let info: [&[u8]; 1] = [b"CTAP2 AES key"];
                let okm = prk.expand(&info, hkdf::HKDF_SHA256).expect("32 bytes are not too many");
                okm.fill(key.as_mut_slice()).expect("32 bytes were asked for");
            }
        }
        key
    }
}

/// The key's public point, uncompressed, out of its COSE key (member 1).
fn their_point(answer: &[u8]) -> Option<Vec<u8>> {
    let decoder = member(answer, 1).ok()??;
    let (x, y) = coordinates(decoder).ok()?;
    let is_whole = x.len() == COORDINATE && y.len() == COORDINATE;
    is_whole.then(|| [&[4], x, y].concat())
}

fn coordinates(mut decoder: Decoder<'_>) -> Result<(&[u8], &[u8]), minicbor::decode::Error> {
    let (mut x, mut y): (&[u8], &[u8]) = (&[], &[]);
    let members = decoder.map()?.unwrap_or(0);
    for _ in 0..members {
        match decoder.i64()? {
            -2 => x = decoder.bytes()?,
            -3 => y = decoder.bytes()?,
            _ => decoder.skip()?,
        }
    }
    Ok((x, y))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::usb::ctap::written;

    /// A key's answer with this public key.
    fn agreement(x: &[u8], y: &[u8]) -> Vec<u8> {
        written(|encoder| {
            encoder.map(1)?.u8(1)?.map(5)?.u8(1)?.u8(2)?.u8(3)?.i8(-25)?.i8(-1)?.u8(1)?;
            encoder.i8(-2)?.bytes(x)?.i8(-3)?.bytes(y)?;
            Ok(())
        })
    }

    #[test]
    fn a_point_that_is_not_on_the_curve_is_no_agreement() {
        for protocol in [Protocol::One, Protocol::Two] {
            assert!(Shared::with(protocol, &agreement(&[1; 32], &[2; 32])).is_err());
            assert!(Shared::with(protocol, &agreement(&[1; 31], &[2; 32])).is_err());
            assert!(Shared::with(protocol, &[]).is_err());
        }
    }

    #[test]
    fn the_first_protocol_that_both_know_is_taken() {
        assert_eq!(Protocol::preferred(&[7, 2, 1]), Some(Protocol::Two));
        assert_eq!(Protocol::preferred(&[1, 2]), Some(Protocol::One));
        assert_eq!(Protocol::preferred(&[]), Some(Protocol::One));
        assert_eq!(Protocol::preferred(&[9]), None);
    }

    #[test]
    fn keys_are_derived_as_the_standard_has_it() {
        // By an implementation in Python: hashlib and hmac, HKDF of RFC 5869 written out.
        let z = [0x42; 32];
        assert_eq!(hex::encode(Protocol::One.encryption_key(&z)), ONE);
        assert_eq!(hex::encode(Protocol::Two.encryption_key(&z)), TWO);
    }

    const ONE: &str = "425ed4e4a36b30ea21b90e21c712c649e8214c29b7eaf68089d1039c6e55384c";
    const TWO: &str = "b78d4fb41bf531372da915f6626fc41fbd255114d7c6ecd7663ff2aed8cb1dc0";
}
