//! What a key answers. It may be broken or somebody's toy: each length is looked at before it is used.

use minicbor::Decoder;
use minicbor::decode::Error;

/// Hash of the RP ID, flags, counter (WebAuthn Level 2 section 6.1).
const SHORTEST_DATA: usize = 37;
const FLAGS: usize = 32;
const ATTESTED: u8 = 0x40;
/// Where the length of a new credential's identifier stands: behind the model's 16 bytes.
const ID_LENGTH: usize = SHORTEST_DATA + 16;

/// A new credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Made {
    pub(crate) id: Vec<u8>,
    pub(crate) data: Vec<u8>,
}

/// An assertion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asserted {
    /// A key may leave it out where only one was allowed (CTAP 2.1 section 6.2.2).
    pub(crate) id: Option<Vec<u8>>,
    pub(crate) data: Vec<u8>,
    pub(crate) signature: Vec<u8>,
}

impl Made {
    pub(super) fn read(answer: &[u8]) -> Option<Self> {
        let data = member_bytes(answer, 2).ok()??;
        let is_attested = data.get(FLAGS)? & ATTESTED != 0;
        let length = data.get(ID_LENGTH..ID_LENGTH + 2).filter(|_| is_attested)?;
        let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
        let id = data.get(ID_LENGTH + 2..)?.get(..length).filter(|id| !id.is_empty())?;
        Some(Self { id: id.to_vec(), data: data.to_vec() })
    }
}

impl Asserted {
    pub(super) fn read(answer: &[u8]) -> Option<Self> {
        let data = member_bytes(answer, 2).ok()??;
        let signature = member_bytes(answer, 3).ok()??;
        let id = member_id(answer).ok()?;
        (data.len() >= SHORTEST_DATA).then(|| Self {
            id: id.map(<[u8]>::to_vec),
            data: data.to_vec(),
            signature: signature.to_vec(),
        })
    }
}

/// A member of the outermost map that holds bytes.
pub(crate) fn member_bytes(answer: &[u8], wanted: i64) -> Result<Option<&[u8]>, Error> {
    member(answer, wanted)?.map(|mut value| value.bytes()).transpose()
}

/// A member of the outermost map that holds a number.
pub(crate) fn member_number(answer: &[u8], wanted: i64) -> Result<Option<u64>, Error> {
    member(answer, wanted)?.map(|mut value| value.u64()).transpose()
}

/// A member of the outermost map that holds a yes or no.
pub(crate) fn member_bool(answer: &[u8], wanted: i64) -> Result<Option<bool>, Error> {
    member(answer, wanted)?.map(|mut value| value.bool()).transpose()
}

/// The decoder at a member of the outermost map.
pub(crate) fn member(answer: &[u8], wanted: i64) -> Result<Option<Decoder<'_>>, Error> {
    let mut decoder = Decoder::new(answer);
    let members = decoder.map()?.ok_or_else(|| Error::message("an indefinite length"))?;
    for _ in 0..members {
        if decoder.i64()? == wanted {
            return Ok(Some(decoder));
        }
        decoder.skip()?;
    }
    Ok(None)
}

/// The identifier in the descriptor, member 1.
fn member_id(answer: &[u8]) -> Result<Option<&[u8]>, Error> {
    let Some(mut decoder) = member(answer, 1)? else { return Ok(None) };
    let members = decoder.map()?.ok_or_else(|| Error::message("an indefinite length"))?;
    for _ in 0..members {
        if decoder.str()? == "id" {
            return decoder.bytes().map(|id| Some(id).filter(|id| !id.is_empty()));
        }
        decoder.skip()?;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::super::requests::written;
    use super::*;
    use proptest::prelude::*;

    fn assertion(data: &[u8]) -> Vec<u8> {
        written(|encoder| {
            encoder.map(3)?.u8(1)?.map(2)?.str("id")?.bytes(b"abc")?.str("type")?.str("public-key")?;
            encoder.u8(2)?.bytes(data)?.u8(3)?.bytes(b"signed")?;
            Ok(())
        })
    }

    fn credential(data: &[u8]) -> Vec<u8> {
        written(|encoder| {
            encoder.map(2)?.u8(1)?.str("packed")?.u8(2)?.bytes(data)?;
            Ok(())
        })
    }

    #[test]
    fn an_assertion_is_read() {
        let asserted = Asserted::read(&assertion(&[5; 37])).unwrap();
        assert_eq!((asserted.id, asserted.signature), (Some(b"abc".to_vec()), b"signed".to_vec()));
    }

    // D: 36-byte authData
    #[test]
    fn data_that_is_one_byte_too_short_is_no_assertion_and_no_credential() {
        assert_eq!(Asserted::read(&assertion(&[5; 36])), None);
        assert_eq!(Made::read(&credential(&[0xff; 36])), None);
    }

    #[test]
    fn a_credential_s_identifier_ends_where_the_data_ends() {
        let mut data = vec![0; 55];
        (data[32], data[54]) = (0x41, 3);
        data.extend(b"abc");
        assert_eq!(Made::read(&credential(&data)).unwrap().id, b"abc");
        data[54] = 4;
        assert_eq!(Made::read(&credential(&data)), None);
        data[54] = 0;
        assert_eq!(Made::read(&credential(&data)), None);
    }

    proptest! {
        #[test]
        fn whatever_a_key_answers_is_read_to_an_end(answer in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = (Asserted::read(&answer), Made::read(&answer), super::super::info::Info::read(&answer));
        }
    }
}
