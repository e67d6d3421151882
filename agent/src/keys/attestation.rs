//! The attestation object of a credential whose maker is nobody's business: format `none` (WebAuthn Level 2, section
//! 8.7). Control asks for no attestation, so a client drops what the key added.

use minicbor::Encoder;

/// The CBOR of `{"fmt": "none", "attStmt": {}, "authData": ...}`, keys in CTAP2's canonical order.
pub(crate) fn none(authenticator_data: &[u8]) -> Vec<u8> {
    let mut object = Vec::with_capacity(authenticator_data.len() + 32);
    write(&mut object, authenticator_data).expect("writing to a vector cannot fail");
    object
}

fn write(
    object: &mut Vec<u8>,
    authenticator_data: &[u8],
) -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
    let mut encoder = Encoder::new(object);
    encoder.map(3)?.str("fmt")?.str("none")?;
    encoder.str("attStmt")?.map(0)?;
    encoder.str("authData")?.bytes(authenticator_data)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_object_has_these_bytes() {
        let expected = [b"\xa3\x63fmt\x64none\x67attStmt\xa0\x68authData\x43".as_slice(), b"abc"].concat();
        assert_eq!(super::none(b"abc"), expected);
    }
}
