//! What a key is asked: CBOR in CTAP2's canonical form (CTAP 2.1 section 8), which some keys insist on.

use std::convert::Infallible;

use minicbor::Encoder;
use minicbor::encode::Error;

/// The kind of every credential.
const PUBLIC_KEY: &str = "public-key";
/// Bytes of the names in a request; keys keep at most 64.
const MAX_NAME: usize = 64;

type Written = Result<(), Error<Infallible>>;
type Writer<'b> = Encoder<&'b mut Vec<u8>>;

/// Whether a touch is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    /// Not: only whether the key has one of the credentials.
    Unasked,
    Touch,
}

/// How the user is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verification {
    /// Not at all.
    None,
    /// By the finger that touches (CTAP 2.0).
    ByTouch,
    /// By a token's authentication of the client data, under this PIN protocol.
    Proof(Vec<u8>, u64),
}

/// `authenticatorMakeCredential`.
pub(crate) struct MakeRequest<'r> {
    pub(crate) hash: [u8; 32],
    pub(crate) rp: (&'r str, &'r str),
    pub(crate) user_id: &'r [u8],
    pub(crate) user_names: (&'r str, &'r str),
    pub(crate) algorithms: &'r [i64],
    pub(crate) exclude: &'r [Vec<u8>],
    pub(crate) verification: Verification,
}

/// `authenticatorGetAssertion`.
pub(crate) struct AssertRequest<'r> {
    pub(crate) rp_id: &'r str,
    pub(crate) hash: [u8; 32],
    pub(crate) allow: &'r [Vec<u8>],
    pub(crate) presence: Presence,
    pub(crate) verification: Verification,
}

impl MakeRequest<'_> {
    pub(super) fn encoded(&self) -> Vec<u8> {
        written(|encoder| {
            let members = 4
                + u64::from(!self.exclude.is_empty())
                + match self.verification {
                    Verification::None => 0,
                    Verification::ByTouch => 1,
                    Verification::Proof(..) => 2,
                };
            encoder.map(members)?;
            encoder.u8(1)?.bytes(&self.hash)?;
            encoder.u8(2)?;
            names(encoder, &[("id", self.rp.0), ("name", self.rp.1)])?;
            encoder.u8(3)?.map(3)?.str("id")?.bytes(self.user_id)?;
            encoder.str("name")?.str(cut(self.user_names.0))?;
            encoder.str("displayName")?.str(cut(self.user_names.1))?;
            encoder.u8(4)?.array(self.algorithms.len() as u64)?;
            for algorithm in self.algorithms {
                encoder.map(2)?.str("alg")?.i64(*algorithm)?.str("type")?.str(PUBLIC_KEY)?;
            }
            if !self.exclude.is_empty() {
                encoder.u8(5)?;
                list(encoder, self.exclude)?;
            }
            match &self.verification {
                Verification::None => {}
                Verification::ByTouch => {
                    encoder.u8(7)?.map(1)?.str("uv")?.bool(true)?;
                }
                Verification::Proof(proof, protocol) => {
                    encoder.u8(8)?.bytes(proof)?.u8(9)?.u64(*protocol)?;
                }
            }
            Ok(())
        })
    }
}

impl AssertRequest<'_> {
    pub(super) fn encoded(&self) -> Vec<u8> {
        written(|encoder| {
            let option = match (self.presence, &self.verification) {
                (Presence::Unasked, _) => Some(("up", false)),
                (Presence::Touch, Verification::ByTouch) => Some(("uv", true)),
                (Presence::Touch, Verification::None | Verification::Proof(..)) => None,
            };
            let proof = match &self.verification {
                Verification::Proof(proof, protocol) => Some((proof, protocol)),
                Verification::None | Verification::ByTouch => None,
            };
            let members = 3 + u64::from(option.is_some()) + 2 * u64::from(proof.is_some());
            encoder.map(members)?;
            encoder.u8(1)?.str(self.rp_id)?.u8(2)?.bytes(&self.hash)?.u8(3)?;
            list(encoder, self.allow)?;
            if let Some((name, value)) = option {
                encoder.u8(5)?.map(1)?.str(name)?.bool(value)?;
            }
            if let Some((proof, protocol)) = proof {
                encoder.u8(6)?.bytes(proof)?.u8(7)?.u64(*protocol)?;
            }
            Ok(())
        })
    }
}

/// A request that nothing but a touch can answer: an empty proof (CTAP 2.1 section 6.1.2 step 1).
pub(super) fn touch_alone() -> Vec<u8> {
    written(|encoder| {
        encoder.map(6)?.u8(1)?.bytes(&[0; 32])?.u8(2)?;
        names(encoder, &[("id", "portlatch.invalid"), ("name", "Portlatch")])?;
        encoder.u8(3)?.map(2)?.str("id")?.bytes(&[0])?.str("name")?.str("nobody")?;
        encoder.u8(4)?.array(1)?.map(2)?.str("alg")?.i64(-7)?.str("type")?.str(PUBLIC_KEY)?;
        encoder.u8(8)?.bytes(&[])?.u8(9)?.u8(1)?;
        Ok(())
    })
}

fn names(encoder: &mut Writer<'_>, members: &[(&str, &str)]) -> Written {
    encoder.map(members.len() as u64)?;
    members.iter().try_for_each(|(name, value)| {
        encoder.str(name)?.str(value)?;
        Ok(())
    })
}

fn list(encoder: &mut Writer<'_>, ids: &[Vec<u8>]) -> Written {
    encoder.array(ids.len() as u64)?;
    ids.iter().try_for_each(|id| {
        encoder.map(2)?.str("id")?.bytes(id)?.str("type")?.str(PUBLIC_KEY)?;
        Ok(())
    })
}

/// As much of a name as keys keep, without half a letter.
fn cut(name: &str) -> &str {
    &name[..name.floor_char_boundary(MAX_NAME)]
}

pub(crate) fn written(write: impl FnOnce(&mut Writer<'_>) -> Written) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&mut Encoder::new(&mut bytes)).expect("writing to a vector cannot fail");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assertion_s_request_has_these_bytes() {
        let request = AssertRequest {
            rp_id: "h.e",
            hash: [7; 32],
            allow: &[vec![1, 2]],
            presence: Presence::Unasked,
            verification: Verification::None,
        };
        let expected = [
            b"\xa4\x01\x63h.e\x02\x58\x20".as_slice(),
            &[7; 32],
            b"\x03\x81\xa2\x62id\x42\x01\x02\x64type\x6apublic-key\x05\xa1\x62up\xf4",
        ]
        .concat();
        assert_eq!(request.encoded(), expected);
    }

    #[test]
    fn a_proof_stands_behind_all_else() {
        let request = AssertRequest {
            rp_id: "h.e",
            hash: [7; 32],
            allow: &[],
            presence: Presence::Touch,
            verification: Verification::Proof(vec![9; 16], 1),
        };
        let tail = [b"\x03\x80\x06\x50".as_slice(), &[9; 16], b"\x07\x01"].concat();
        assert!(request.encoded().ends_with(&tail));
    }

    #[test]
    fn a_long_name_is_cut_between_letters() {
        assert_eq!(cut(&"é".repeat(40)).len(), 64);
        assert_eq!(cut(&format!("a{}", "é".repeat(40))).len(), 63);
    }
}
