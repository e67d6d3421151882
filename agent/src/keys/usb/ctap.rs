//! CTAP2 requests and answers (CTAP 2.1 section 6), as far as a client that taps needs them. Bytes out, bytes in; what a key
//! answers is believed in nothing.

use super::channel::{Broken, Channel, WaitsFor};

mod answers;
mod info;
mod requests;

pub(super) use answers::{Asserted, Made, member, member_bool, member_bytes, member_number};
pub(super) use info::{Info, PinState};
pub(super) use requests::{AssertRequest, MakeRequest, Presence, Verification, written};

/// CTAP 2.1 section 6.
mod command {
    pub(super) const MAKE_CREDENTIAL: u8 = 0x01;
    pub(super) const GET_ASSERTION: u8 = 0x02;
    pub(super) const GET_INFO: u8 = 0x04;
    pub(super) const CLIENT_PIN: u8 = 0x06;
    pub(super) const SELECTION: u8 = 0x0B;
}

/// What a key says no with (CTAP 2.1 section 8.2).
pub(super) mod status {
    pub(crate) const NO_CREDENTIALS: u8 = 0x2E;
    pub(crate) const PIN_INVALID: u8 = 0x31;
    pub(crate) const PIN_BLOCKED: u8 = 0x32;
    pub(crate) const PIN_AUTH_BLOCKED: u8 = 0x34;
    pub(crate) const PIN_NOT_SET: u8 = 0x35;
    pub(crate) const VERIFICATION_REQUIRED: u8 = 0x36;
    pub(crate) const FINGER_BLOCKED: u8 = 0x3C;
    pub(crate) const FINGER_UNKNOWN: u8 = 0x3F;
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// The key said no.
    Status(u8),
    /// There was no exchange.
    Broken(Broken),
}

impl From<Broken> for Refused {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

/// What a key that speaks CTAP2 is asked.
impl Channel {
    /// What the key can do.
    pub(super) fn info(&mut self) -> Result<Info, Refused> {
        let answer = self.ask(&[command::GET_INFO], WaitsFor::Machine)?;
        Ok(Info::read(&answer).ok_or(Broken::Garbled("its description makes no sense"))?)
    }

    /// A credential.
    pub(super) fn make(&mut self, request: &MakeRequest<'_>) -> Result<Made, Refused> {
        let answer = self.ask(&with(command::MAKE_CREDENTIAL, &request.encoded()), WaitsFor::Person)?;
        Ok(Made::read(&answer).ok_or(Broken::Garbled("its credential makes no sense"))?)
    }

    /// An assertion.
    pub(super) fn assert(&mut self, request: &AssertRequest<'_>) -> Result<Asserted, Refused> {
        let waits_for = match request.presence {
            Presence::Unasked => WaitsFor::Machine,
            Presence::Touch => WaitsFor::Person,
        };
        let answer = self.ask(&with(command::GET_ASSERTION, &request.encoded()), waits_for)?;
        Ok(Asserted::read(&answer).ok_or(Broken::Garbled("its assertion makes no sense"))?)
    }

    /// A touch and nothing else: which key is meant.
    pub(super) fn select(&mut self, info: &Info) -> Result<(), Refused> {
        let asked = match info.knows_selection {
            true => self.ask(&[command::SELECTION], WaitsFor::Person),
            // Keys of CTAP 2.0 answer so to a request with an empty proof, once they were touched.
            false => self.ask(&with(command::MAKE_CREDENTIAL, &requests::touch_alone()), WaitsFor::Person),
        };
        match asked {
            Ok(_) | Err(Refused::Status(status::PIN_INVALID | status::PIN_NOT_SET)) => Ok(()),
            Err(refused) => Err(refused),
        }
    }

    /// A request about the PIN; a finger's takes a person.
    pub(super) fn client_pin(&mut self, parameters: &[u8], waits_for: WaitsFor) -> Result<Vec<u8>, Refused> {
        self.ask(&with(command::CLIENT_PIN, parameters), waits_for)
    }

    fn ask(&mut self, message: &[u8], waits_for: WaitsFor) -> Result<Vec<u8>, Refused> {
        match self.request(message, waits_for)? {
            (0, answer) => Ok(answer),
            (status, _) => Err(Refused::Status(status)),
        }
    }
}

fn with(command: u8, parameters: &[u8]) -> Vec<u8> {
    [&[command], parameters].concat()
}
