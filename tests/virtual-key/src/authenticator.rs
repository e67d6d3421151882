//! CTAP2's commands: what is answered at once, and what waits for a touch.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use p256::SecretKey;
use sha2::{Digest as _, Sha256};

use crate::cbor::Value;
use crate::pin_protocol::{Protocol, Shared};
use crate::record::Event;
use crate::settings::Settings;

mod client_pin;
mod credentials;

use client_pin::Pins;

/// CTAP 2.1 section 8.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Ok = 0x00,
    InvalidCommand = 0x01,
    InvalidParameter = 0x02,
    InvalidCbor = 0x12,
    MissingParameter = 0x14,
    CredentialExcluded = 0x19,
    UnsupportedAlgorithm = 0x26,
    OperationDenied = 0x27,
    UnsupportedOption = 0x2B,
    InvalidOption = 0x2C,
    KeepAliveCancel = 0x2D,
    NoCredentials = 0x2E,
    UserActionTimeout = 0x2F,
    NotAllowed = 0x30,
    PinInvalid = 0x31,
    PinBlocked = 0x32,
    PinAuthInvalid = 0x33,
    PinAuthBlocked = 0x34,
    PinNotSet = 0x35,
    PuatRequired = 0x36,
    PinPolicyViolation = 0x37,
    UvBlocked = 0x3C,
    UvInvalid = 0x3F,
    UnauthorizedPermission = 0x40,
}

pub(crate) mod command {
    pub(crate) const MAKE_CREDENTIAL: u8 = 0x01;
    pub(crate) const GET_ASSERTION: u8 = 0x02;
    pub(crate) const GET_INFO: u8 = 0x04;
    pub(crate) const CLIENT_PIN: u8 = 0x06;
    pub(crate) const RESET: u8 = 0x07;
    pub(crate) const SELECTION: u8 = 0x0B;
}

/// A reset is taken this long after plugging in (CTAP 2.1 section 6.6).
const RESET_TIME: Duration = Duration::from_secs(10);

/// The part of a key that knows its secrets.
pub(crate) struct Authenticator {
    settings: Settings,
    credentials: HashMap<Vec<u8>, Credential>,
    counter: u32,
    pins: Pins,
    plugged_at: Instant,
    record: Vec<Event>,
}

struct Credential {
    rp_id: String,
    key: SecretKey,
}

/// What a command comes to.
pub(crate) enum Reply {
    Now(Answer),
    OnTouch(Deed),
}

/// A status, and the answer's CBOR where there is one.
pub(crate) type Answer = Result<Option<Value>, Status>;

/// What a touch does.
pub(crate) enum Deed {
    Make {
        hash: Vec<u8>,
        rp_id: String,
        verified: Verified,
    },
    Assert {
        id: Vec<u8>,
        hash: Vec<u8>,
        verified: Verified,
        listed: usize,
    },
    Select,
    Reset,
    /// Nothing but this status: the touch says which key is meant.
    Refuse(Status),
    /// A finger is looked at, for a token.
    VerifyFinger {
        shared: Box<Shared>,
        permissions: i64,
        rp_id: Option<String>,
    },
}

/// Whether the user was verified for this request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verified {
    No,
    /// By a token that a PIN or a finger has brought.
    Yes,
    /// By the finger that is about to touch.
    ByTouch,
}

/// Which finger touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finger {
    Known,
    Unknown,
}

impl Authenticator {
    pub(crate) fn new(settings: Settings, now: Instant) -> Self {
        let pins = Pins::new(settings.pin.as_deref());
        Self { settings, credentials: HashMap::new(), counter: 0, pins, plugged_at: now, record: Vec::new() }
    }

    pub(crate) const fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(crate) const fn settings_mut(&mut self) -> &mut Settings {
        &mut self.settings
    }

    /// New power: what only power clears is cleared.
    pub(crate) fn power_up(&mut self, now: Instant) {
        self.plugged_at = now;
        self.pins.power_up();
    }

    pub(crate) fn block_pin(&mut self) {
        self.pins.block();
    }

    /// Whether it takes any request as touched just now.
    pub(crate) fn is_fresh(&self, now: Instant) -> bool {
        now.duration_since(self.plugged_at) < self.settings.fresh_time
    }

    pub(crate) fn take_record(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.record)
    }

    pub(crate) fn handle(&mut self, message: &[u8], now: Instant) -> Reply {
        let Some((&number, parameters)) = message.split_first() else {
            return Reply::Now(Err(Status::InvalidCommand));
        };
        self.record.push(Event::Command(number));
        match number {
            command::GET_INFO => return Reply::Now(Ok(Some(self.info()))),
            command::SELECTION if self.settings.is_two_one => return Reply::OnTouch(Deed::Select),
            command::RESET if now.duration_since(self.plugged_at) < RESET_TIME => {
                return Reply::OnTouch(Deed::Reset);
            }
            command::RESET => return Reply::Now(Err(Status::NotAllowed)),
            _ => {}
        }
        let Some(parameters) = Value::decode(parameters) else {
            return Reply::Now(Err(Status::InvalidCbor));
        };
        let reply = match number {
            command::MAKE_CREDENTIAL => self.make_credential(&parameters),
            command::GET_ASSERTION => self.get_assertion(&parameters),
            command::CLIENT_PIN => self.client_pin(&parameters),
            _ => Err(Status::InvalidCommand),
        };
        reply.unwrap_or_else(|status| Reply::Now(Err(status)))
    }

    /// The touch has come.
    pub(crate) fn touched(&mut self, deed: Deed, finger: Finger) -> Answer {
        match deed {
            Deed::Select => Ok(None),
            Deed::Refuse(status) => Err(status),
            Deed::Reset => {
                self.credentials.clear();
                self.pins = Pins::new(None);
                Ok(None)
            }
            Deed::Make { hash, rp_id, verified } => {
                let verified = self.verify_by_touch(verified, finger)?;
                Ok(Some(self.make(&hash, rp_id, verified)))
            }
            Deed::Assert { id, hash, verified, listed } => {
                let verified = self.verify_by_touch(verified, finger)?;
                self.assert(&id, &hash, Presence::Touched(verified), listed).map(Some)
            }
            Deed::VerifyFinger { shared, permissions, rp_id } => {
                self.pins.look_at(finger)?;
                Ok(Some(self.pins.token(&shared, permissions, rp_id)))
            }
        }
    }

    fn verify_by_touch(&mut self, verified: Verified, finger: Finger) -> Result<Verified, Status> {
        if verified == Verified::ByTouch {
            self.pins.look_at(finger)?;
            return Ok(Verified::Yes);
        }
        Ok(verified)
    }

    /// CTAP 2.1 section 6.4.
    fn info(&self) -> Value {
        let settings = &self.settings;
        let mut versions = vec![Value::text("FIDO_2_0")];
        let mut options = vec![("rk", false), ("up", true)];
        if settings.has_finger {
            options.push(("uv", true));
        }
        options.push(("plat", false));
        if settings.always_verifies {
            options.push(("alwaysUv", true));
        }
        options.push(("clientPin", self.pins.is_set()));
        if settings.is_two_one {
            versions.push(Value::text("FIDO_2_1"));
            options.push(("pinUvAuthToken", true));
            if settings.makes_without_pin && !settings.always_verifies {
                options.push(("makeCredUvNotRqd", true));
            }
        }
        let options = options.into_iter().map(|(name, value)| (Value::text(name), Value::Bool(value)));
        let protocols = settings.pin_protocols.iter().map(|number| Value::Int(i64::from(*number)));
        let mut members = vec![
            (Value::Int(1), Value::Array(versions)),
            (Value::Int(3), Value::Bytes(credentials::AAGUID.to_vec())),
            (Value::Int(4), Value::Map(options.collect())),
            (Value::Int(5), int(settings.longest_message)),
            (Value::Int(6), Value::Array(protocols.collect())),
        ];
        if let Some(longest_list) = settings.longest_list {
            members.push((Value::Int(7), int(longest_list)));
            members.push((Value::Int(8), int(credentials::ID_LENGTH)));
        }
        members.push((Value::Int(9), Value::Array(vec![Value::text("usb")])));
        let algorithm =
            Value::map([("alg", Value::Int(credentials::ES256)), ("type", Value::text("public-key"))]);
        members.push((Value::Int(10), Value::Array(vec![algorithm])));
        Value::Map(members)
    }

    /// Whether the parameters prove that the user was verified: a token's authentication of the hash (CTAP 2.1 sections
    /// 6.1.2 and 6.2.2, the steps that both have).
    fn verification(&mut self, request: &Request<'_>, permission: i64) -> Result<Verified, Status> {
        if let Some(proof) = request.proof {
            let protocol = self.protocol(request.protocol)?;
            self.pins.check_token(protocol, request.hash, proof, permission, request.rp_id)?;
            return Ok(Verified::Yes);
        }
        match request.uv {
            true if self.settings.has_finger => Ok(Verified::ByTouch),
            // CTAP 2.0 and 2.1 differ here.
            true if self.settings.is_two_one => Err(Status::InvalidOption),
            true => Err(Status::UnsupportedOption),
            false => Ok(Verified::No),
        }
    }

    fn protocol(&self, number: Option<i64>) -> Result<Protocol, Status> {
        let number = number.ok_or(Status::MissingParameter)?;
        let is_offered = self.settings.pin_protocols.iter().any(|offered| i64::from(*offered) == number);
        Protocol::of(number).filter(|_| is_offered).ok_or(Status::InvalidParameter)
    }
}

/// Whether the key was touched for an assertion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    Silent,
    Touched(Verified),
}

/// What making and asserting have in common.
struct Request<'r> {
    hash: &'r [u8],
    rp_id: &'r str,
    proof: Option<&'r [u8]>,
    protocol: Option<i64>,
    uv: bool,
}

/// The platform wants a touch and nothing else: an empty proof (CTAP 2.1 section 6.1.2 step 1).
fn asks_for_touch_alone(proof: Option<&[u8]>) -> bool {
    proof.is_some_and(<[u8]>::is_empty)
}

fn hash_of(rp_id: &str) -> [u8; 32] {
    Sha256::digest(rp_id).into()
}

fn int(value: usize) -> Value {
    Value::Int(i64::try_from(value).expect("sizes of a key are small"))
}
