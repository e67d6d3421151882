//! PIN, fingerprint and the tokens that they bring (CTAP 2.1 section 6.5).

use p256::SecretKey;
use sha2::{Digest as _, Sha256};

use super::{Authenticator, Deed, Finger, Reply, Status};
use crate::cbor::Value;
use crate::pin_protocol::{Protocol, Shared, cose, new_secret, random};
use crate::record::Event;

/// What a token may be used for (CTAP 2.1 section 6.5.5.7).
pub(super) mod permission {
    pub(in crate::authenticator) const MAKE: i64 = 0x01;
    pub(in crate::authenticator) const ASSERT: i64 = 0x02;
}

const GET_RETRIES: i64 = 1;
const GET_KEY_AGREEMENT: i64 = 2;
const SET_PIN: i64 = 3;
const CHANGE_PIN: i64 = 4;
const GET_TOKEN: i64 = 5;
const GET_TOKEN_BY_FINGER: i64 = 6;
const GET_FINGER_RETRIES: i64 = 7;
const GET_TOKEN_BY_PIN: i64 = 9;

/// Wrong PINs until it is blocked for ever (CTAP 2.1 section 6.5.2.1), and in a row until it wants new power.
const PIN_RETRIES: u8 = 8;
const PIN_RETRIES_IN_A_ROW: u8 = 3;
const FINGER_RETRIES: u8 = 3;
/// A COSE algorithm that stands for the key agreement (CTAP 2.1 section 6.5.6).
const ECDH: i64 = -25;
const SHORTEST_PIN: usize = 4;

/// PIN state.
pub(super) struct Pins {
    /// The first half of the PIN's hash, as the protocol has it.
    hash: Option<[u8; 16]>,
    retries: u8,
    in_a_row: u8,
    finger_retries: u8,
    agreement: SecretKey,
    token: Option<Token>,
}

struct Token {
    bytes: [u8; 32],
    permissions: i64,
    rp_id: Option<String>,
}

impl Pins {
    pub(super) fn new(pin: Option<&str>) -> Self {
        Self {
            hash: pin.map(|pin| half_hash(pin.as_bytes())),
            retries: PIN_RETRIES,
            in_a_row: 0,
            finger_retries: FINGER_RETRIES,
            agreement: new_secret(),
            token: None,
        }
    }

    pub(super) const fn is_set(&self) -> bool {
        self.hash.is_some()
    }

    pub(super) fn power_up(&mut self) {
        self.in_a_row = 0;
        self.agreement = new_secret();
        self.token = None;
    }

    pub(super) const fn block(&mut self) {
        self.retries = 0;
    }

    /// A finger on the reader.
    pub(super) const fn look_at(&mut self, finger: Finger) -> Result<(), Status> {
        match (self.finger_retries, finger) {
            (0, _) => Err(Status::UvBlocked),
            (_, Finger::Known) => {
                self.finger_retries = FINGER_RETRIES;
                Ok(())
            }
            (left, Finger::Unknown) => {
                self.finger_retries = left - 1;
                Err(Status::UvInvalid)
            }
        }
    }

    /// A new token, encrypted for the platform.
    pub(super) fn token(&mut self, shared: &Shared, permissions: i64, rp_id: Option<String>) -> Value {
        let bytes = random();
        self.token = Some(Token { bytes, permissions, rp_id });
        Value::map([(2, Value::Bytes(shared.encrypt(&bytes)))])
    }

    /// A token serves one touch (CTAP 2.1 section 6.1.2 step 15).
    pub(super) fn spend_token(&mut self) {
        self.token = None;
    }

    pub(super) fn check_token(
        &mut self,
        protocol: Protocol,
        hash: &[u8],
        proof: &[u8],
        permission: i64,
        rp_id: &str,
    ) -> Result<(), Status> {
        let invalid = Status::PinAuthInvalid;
        let token = self.token.as_mut().ok_or(invalid)?;
        let is_of_this_rp = token.rp_id.as_deref().is_none_or(|bound| bound == rp_id);
        let is_permitted = token.permissions & permission != 0 && is_of_this_rp;
        if !is_permitted || !protocol.is_authentic(&token.bytes, hash, proof) {
            return Err(invalid);
        }
        token.rp_id.get_or_insert_with(|| rp_id.to_owned());
        Ok(())
    }

    fn try_pin(&mut self, half: &[u8]) -> Result<(), Status> {
        let hash = self.hash.ok_or(Status::PinNotSet)?;
        if self.retries == 0 {
            return Err(Status::PinBlocked);
        }
        if self.in_a_row >= PIN_RETRIES_IN_A_ROW {
            return Err(Status::PinAuthBlocked);
        }
        if half == hash {
            (self.retries, self.in_a_row) = (PIN_RETRIES, 0);
            return Ok(());
        }
        self.agreement = new_secret();
        self.retries -= 1;
        self.in_a_row += 1;
        Err(match (self.retries, self.in_a_row) {
            (0, _) => Status::PinBlocked,
            (_, PIN_RETRIES_IN_A_ROW..) => Status::PinAuthBlocked,
            (_, _) => Status::PinInvalid,
        })
    }

    fn keep(&mut self, padded: &[u8]) -> Result<(), Status> {
        let length = padded.iter().position(|byte| *byte == 0).unwrap_or(padded.len());
        if padded.len() != 64 || length < SHORTEST_PIN {
            return Err(Status::PinPolicyViolation);
        }
        self.hash = Some(half_hash(&padded[..length]));
        (self.retries, self.in_a_row) = (PIN_RETRIES, 0);
        self.token = None;
        Ok(())
    }
}

impl Authenticator {
    pub(super) fn client_pin(&mut self, parameters: &Value) -> Result<Reply, Status> {
        let missing = Status::MissingParameter;
        let now = |value| Ok(Reply::Now(Ok(value)));
        match parameters.member(2).and_then(Value::as_int).ok_or(missing)? {
            GET_RETRIES => {
                let needs_power = self.pins.in_a_row >= PIN_RETRIES_IN_A_ROW;
                let retries = Value::Int(i64::from(self.pins.retries));
                now(Some(Value::map([(3, retries), (4, Value::Bool(needs_power))])))
            }
            GET_FINGER_RETRIES if self.settings.has_finger => {
                now(Some(Value::map([(5, Value::Int(i64::from(self.pins.finger_retries)))])))
            }
            GET_KEY_AGREEMENT => {
                self.protocol(parameters.member(1).and_then(Value::as_int))?;
                now(Some(Value::map([(1, cose(&self.pins.agreement.public_key(), ECDH))])))
            }
            SET_PIN => {
                let shared = self.shared(parameters)?;
                let (new, proof) = (bytes(parameters, 5)?, bytes(parameters, 4)?);
                if self.pins.is_set() || !shared.is_authentic(new, proof) {
                    return Err(Status::PinAuthInvalid);
                }
                self.pins.keep(&shared.decrypt(new).ok_or(Status::PinAuthInvalid)?)?;
                now(None)
            }
            CHANGE_PIN => {
                let shared = self.shared(parameters)?;
                let (new, old, proof) = (bytes(parameters, 5)?, bytes(parameters, 6)?, bytes(parameters, 4)?);
                if !shared.is_authentic(&[new, old].concat(), proof) {
                    return Err(Status::PinAuthInvalid);
                }
                let new = shared.decrypt(new).ok_or(Status::PinAuthInvalid)?;
                self.try_encrypted_pin(&shared, old)?;
                self.pins.keep(&new)?;
                now(None)
            }
            GET_TOKEN => {
                let shared = self.shared(parameters)?;
                self.try_encrypted_pin(&shared, bytes(parameters, 6)?)?;
                let both = permission::MAKE | permission::ASSERT;
                now(Some(self.pins.token(&shared, both, None)))
            }
            GET_TOKEN_BY_PIN if self.settings.is_two_one => {
                let shared = self.shared(parameters)?;
                let (permissions, rp_id) = wanted(parameters)?;
                self.try_encrypted_pin(&shared, bytes(parameters, 6)?)?;
                now(Some(self.pins.token(&shared, permissions, rp_id)))
            }
            GET_TOKEN_BY_FINGER if self.settings.is_two_one && self.settings.has_finger => {
                let shared = Box::new(self.shared(parameters)?);
                let (permissions, rp_id) = wanted(parameters)?;
                if self.pins.finger_retries == 0 {
                    return Err(Status::UvBlocked);
                }
                Ok(Reply::OnTouch(Deed::VerifyFinger { shared, permissions, rp_id }))
            }
            _ => Err(Status::InvalidParameter),
        }
    }

    fn try_encrypted_pin(&mut self, shared: &Shared, encrypted: &[u8]) -> Result<(), Status> {
        let half = shared.decrypt(encrypted).ok_or(Status::PinAuthInvalid)?;
        let tried = self.pins.try_pin(&half);
        self.record.push(Event::Pin { is_right: tried.is_ok() });
        tried
    }

    fn shared(&self, parameters: &Value) -> Result<Shared, Status> {
        let protocol = self.protocol(parameters.member(1).and_then(Value::as_int))?;
        let theirs = parameters.member(3).ok_or(Status::MissingParameter)?;
        Shared::with(protocol, &self.pins.agreement, theirs).ok_or(Status::InvalidParameter)
    }
}

fn wanted(parameters: &Value) -> Result<(i64, Option<String>), Status> {
    let permissions = parameters.member(9).and_then(Value::as_int).ok_or(Status::MissingParameter)?;
    let both = permission::MAKE | permission::ASSERT;
    if permissions & !both != 0 || permissions == 0 {
        return Err(Status::UnauthorizedPermission);
    }
    let rp_id = parameters.member(10).and_then(Value::as_text);
    // These permissions are for one relying party only.
    let rp_id = rp_id.ok_or(Status::MissingParameter)?;
    Ok((permissions, Some(rp_id.to_owned())))
}

fn bytes(parameters: &Value, name: i64) -> Result<&[u8], Status> {
    parameters.member(name).and_then(Value::as_bytes).ok_or(Status::MissingParameter)
}

fn half_hash(pin: &[u8]) -> [u8; 16] {
    Sha256::digest(pin)[..16].try_into().expect("a hash has 32 bytes")
}
