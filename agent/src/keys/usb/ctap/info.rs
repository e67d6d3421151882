//! What a key says that it can do (CTAP 2.1 section 6.4).

use minicbor::Decoder;
use minicbor::decode::Error;

/// Longest message of a key that does not say (CTAP 2.1 section 6.4: 1024).
const DEFAULT_MESSAGE: usize = 1024;
/// Protocols that are looked at.
const MAX_PROTOCOLS: u64 = 16;

/// What we want to know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Info {
    /// It has the command for a touch alone (CTAP 2.1).
    pub(crate) knows_selection: bool,
    /// It has a finger enrolled.
    pub(crate) has_finger: bool,
    /// It has a PIN, could have one, or cannot.
    pub(crate) pin: PinState,
    /// It wants PIN or finger at every touch.
    pub(crate) always_verifies: bool,
    /// Its tokens have permissions (CTAP 2.1).
    pub(crate) has_permissions: bool,
    /// Its PIN protects making credentials.
    pub(crate) makes_with_pin_only: bool,
    /// The PIN protocols that it offers, the preferred one first.
    pub(crate) protocols: Vec<u64>,
    /// Its longest message.
    pub(crate) longest_message: usize,
    /// Credentials in one list, where it says so.
    pub(crate) longest_list: Option<usize>,
}

/// The option `clientPin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PinState {
    Set,
    NotSet,
    None,
}

#[derive(Default)]
struct Options {
    uv: bool,
    client_pin: Option<bool>,
    always_uv: bool,
    pin_uv_auth_token: bool,
    make_cred_uv_not_rqd: bool,
}

impl Info {
    pub(super) fn read(answer: &[u8]) -> Option<Self> {
        read(&mut Decoder::new(answer)).ok()
    }
}

fn read(decoder: &mut Decoder<'_>) -> Result<Info, Error> {
    let (mut knows_selection, mut options, mut protocols) = (false, Options::default(), Vec::new());
    let (mut longest_message, mut longest_list) = (DEFAULT_MESSAGE, None);
    let members = decoder.map()?.ok_or_else(indefinite)?;
    for _ in 0..members {
        match decoder.i64()? {
            0x01 => {
                for _ in 0..decoder.array()?.ok_or_else(indefinite)? {
                    // "FIDO_2_1_PRE" is a draft, and some of its keys have no selection.
                    knows_selection |= matches!(decoder.str()?, "FIDO_2_1" | "FIDO_2_2");
                }
            }
            0x04 => options = read_options(decoder)?,
            0x05 => longest_message = size(decoder)?,
            0x06 => {
                for _ in 0..decoder.array()?.ok_or_else(indefinite)?.min(MAX_PROTOCOLS) {
                    protocols.push(decoder.u64()?);
                }
            }
            0x07 => longest_list = Some(size(decoder)?).filter(|length| *length > 0),
            _ => decoder.skip()?,
        }
    }
    let pin = match options.client_pin {
        Some(true) => PinState::Set,
        Some(false) => PinState::NotSet,
        None => PinState::None,
    };
    Ok(Info {
        knows_selection,
        has_finger: options.uv,
        pin,
        always_verifies: options.always_uv,
        has_permissions: options.pin_uv_auth_token,
        makes_with_pin_only: pin == PinState::Set && !options.make_cred_uv_not_rqd,
        protocols,
        longest_message,
        longest_list,
    })
}

fn read_options(decoder: &mut Decoder<'_>) -> Result<Options, Error> {
    let mut options = Options::default();
    for _ in 0..decoder.map()?.ok_or_else(indefinite)? {
        match decoder.str()? {
            "uv" => options.uv = decoder.bool()?,
            "clientPin" => options.client_pin = Some(decoder.bool()?),
            "alwaysUv" => options.always_uv = decoder.bool()?,
            "pinUvAuthToken" => options.pin_uv_auth_token = decoder.bool()?,
            "makeCredUvNotRqd" => options.make_cred_uv_not_rqd = decoder.bool()?,
            _ => decoder.skip()?,
        }
    }
    Ok(options)
}

fn size(decoder: &mut Decoder<'_>) -> Result<usize, Error> {
    Ok(usize::try_from(decoder.u64()?).unwrap_or(usize::MAX))
}

/// CTAP2 has no indefinite lengths (CTAP 2.1 section 8).
fn indefinite() -> Error {
    Error::message("an indefinite length")
}

#[cfg(test)]
mod tests {
    use super::*;
    use minicbor::Encoder;

    #[test]
    fn a_key_of_ctap_2_0_is_read() {
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(&mut bytes);
        encoder.map(3).unwrap();
        encoder.u8(1).unwrap().array(2).unwrap().str("U2F_V2").unwrap().str("FIDO_2_0").unwrap();
        encoder.u8(3).unwrap().bytes(&[0; 16]).unwrap();
        encoder.u8(4).unwrap().map(3).unwrap();
        encoder.str("rk").unwrap().bool(true).unwrap().str("up").unwrap().bool(true).unwrap();
        encoder.str("clientPin").unwrap().bool(true).unwrap();
        let info = Info::read(&bytes).unwrap();
        assert_eq!((info.knows_selection, info.has_permissions), (false, false));
        assert_eq!((info.pin, info.makes_with_pin_only), (PinState::Set, true));
        assert_eq!((info.longest_message, info.longest_list), (1024, None));
    }

    #[test]
    fn what_is_no_description_is_none() {
        assert_eq!(Info::read(&[]), None);
        assert_eq!(Info::read(&[0xbf, 0xff]), None);
        assert_eq!(Info::read(&[0xa1, 0x07, 0x61, 0x61]), None);
        assert_eq!(Info::read(&[0xbb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]), None);
    }
}
