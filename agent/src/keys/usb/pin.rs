//! Having a key verify its user: by the finger that it knows, or by the PIN that the person gives (CTAP 2.1 section 6.5).
//!
//! A PIN goes from whoever asked for it to the key and is wiped. It is tried once: another try is another answer of the
//! person, who is told how many are left. The key's own count is asked each time, so that nothing here can use it up.

use super::channel::{Broken, Channel, WaitsFor};
use super::ctap::{
    Info, PinState, Refused, Verification, member_bool, member_bytes, member_number, status, written,
};
use super::person::Person;
use super::trouble::Trouble;
use crate::keys::KeyNotice;
use crate::keys::pin_entry::{PinAfter, PinQuestion};

mod protocol;

use protocol::{Protocol, Shared, Token};

/// CTAP 2.1 section 6.5.5, subcommands.
const GET_RETRIES: u8 = 0x01;
const GET_KEY_AGREEMENT: u8 = 0x02;
const GET_TOKEN: u8 = 0x05;
const GET_TOKEN_BY_FINGER: u8 = 0x06;
const GET_TOKEN_BY_PIN: u8 = 0x09;

/// Characters and bytes of a PIN (CTAP 2.1 section 6.5.1); what is none costs no try.
const SHORTEST_PIN: usize = 4;
const LONGEST_PIN: usize = 63;
/// Questions in one use of the key: it blocks after eight wrong ones itself.
const MAX_QUESTIONS: u32 = 8;
/// Fingers that are looked at before the PIN is asked instead.
const MAX_FINGERS: u32 = 3;

/// What a token may be used for (CTAP 2.1 section 6.5.5.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Permission {
    Make = 0x01,
    Assert = 0x02,
}

/// What the verification is for.
pub(super) struct Wanted<'w> {
    pub(super) permission: Permission,
    pub(super) rp_id: &'w str,
    /// Of the client data.
    pub(super) hash: &'w [u8],
    /// For the person.
    pub(super) purpose: &'w str,
}

impl Channel {
    /// Has the key verify its user.
    ///
    /// # Errors
    /// [`Trouble`].
    pub(super) fn verify(
        &mut self,
        info: &Info,
        wanted: &Wanted<'_>,
        person: &Person,
    ) -> Result<Verification, Trouble> {
        let by_finger = match (info.has_finger, info.has_permissions) {
            (true, true) => self.verify_finger(info, wanted, person)?,
            // A key of CTAP 2.0 looks at the finger that touches.
            (true, false) => return Ok(Verification::ByTouch),
            (false, _) => None,
        };
        if let Some(verification) = by_finger {
            return Ok(verification);
        }
        match info.pin {
            PinState::Set => self.verify_pin(info, wanted, person),
            PinState::NotSet => Err(Trouble::NoPinSet),
            PinState::None => Err(Trouble::CannotVerify),
        }
    }

    /// By a finger; nothing if the key wants its PIN instead.
    fn verify_finger(
        &mut self,
        info: &Info,
        wanted: &Wanted<'_>,
        person: &Person,
    ) -> Result<Option<Verification>, Trouble> {
        let protocol = protocol_of(info)?;
        for _ in 0..MAX_FINGERS {
            let shared = self.agree(protocol)?;
            let request = token_request(GET_TOKEN_BY_FINGER, &shared, protocol, None, Some(wanted));
            match self.client_pin(&request, WaitsFor::Person) {
                Ok(answer) => {
                    person.chose();
                    return proof(&shared, &answer, wanted).map(Some);
                }
                Err(Refused::Status(status::FINGER_UNKNOWN)) => {
                    person.chose();
                    person.notice(KeyNotice::UnknownFinger);
                }
                Err(Refused::Status(status::FINGER_BLOCKED)) => return Ok(None),
                Err(refused) => return Err(refused.into()),
            }
        }
        Ok(None)
    }

    fn verify_pin(
        &mut self,
        info: &Info,
        wanted: &Wanted<'_>,
        person: &Person,
    ) -> Result<Verification, Trouble> {
        let protocol = protocol_of(info)?;
        if person.has_choice() {
            self.select(info)?;
        }
        person.chose();
        let mut after = PinAfter::Nothing;
        for _ in 0..MAX_QUESTIONS {
            let question = PinQuestion {
                purpose: wanted.purpose.to_owned(),
                retries_left: self.retries(protocol)?,
                after,
            };
            let pin = person.ask_pin(question)?;
            if pin.text().chars().count() < SHORTEST_PIN || pin.text().len() > LONGEST_PIN {
                after = PinAfter::Impossible;
                continue;
            }
            let shared = self.agree(protocol)?;
            let encrypted = shared.encrypted_pin(pin.text());
            drop(pin);
            let (subcommand, bound) = match info.has_permissions {
                true => (GET_TOKEN_BY_PIN, Some(wanted)),
                false => (GET_TOKEN, None),
            };
            let request = token_request(subcommand, &shared, protocol, Some(&encrypted), bound);
            match self.client_pin(&request, WaitsFor::Machine) {
                Ok(answer) => {
                    person.notice(KeyNotice::TouchNow);
                    return proof(&shared, &answer, wanted);
                }
                Err(Refused::Status(status::PIN_INVALID)) => after = PinAfter::Wrong,
                Err(refused) => return Err(refused.into()),
            }
        }
        Err(Trouble::PinRefused)
    }

    /// The tries that are left.
    fn retries(&mut self, protocol: Protocol) -> Result<u8, Trouble> {
        let request = written(|encoder| {
            encoder.map(2)?.u8(1)?.u64(protocol.number())?.u8(2)?.u8(GET_RETRIES)?;
            Ok(())
        });
        let answer = self.client_pin(&request, WaitsFor::Machine)?;
        let garbled = |_| Trouble::Broken(Broken::Garbled("its count of tries makes no sense"));
        let left = member_number(&answer, 3).map_err(garbled)?.unwrap_or(0);
        let needs_power = member_bool(&answer, 4).map_err(garbled)?.unwrap_or(false);
        match (left, needs_power) {
            (0, _) => Err(Trouble::Status(status::PIN_BLOCKED)),
            (_, true) => Err(Trouble::Status(status::PIN_AUTH_BLOCKED)),
            (left, false) => Ok(u8::try_from(left).unwrap_or(u8::MAX)),
        }
    }

    fn agree(&mut self, protocol: Protocol) -> Result<Shared, Trouble> {
        let request = written(|encoder| {
            encoder.map(2)?.u8(1)?.u64(protocol.number())?.u8(2)?.u8(GET_KEY_AGREEMENT)?;
            Ok(())
        });
        let answer = self.client_pin(&request, WaitsFor::Machine)?;
        Shared::with(protocol, &answer)
            .map_err(|_| Trouble::Broken(Broken::Garbled("its public key makes no sense")))
    }
}

fn protocol_of(info: &Info) -> Result<Protocol, Trouble> {
    Protocol::preferred(&info.protocols).ok_or(Trouble::CannotVerify)
}

fn token_request(
    subcommand: u8,
    shared: &Shared,
    protocol: Protocol,
    pin: Option<&[u8]>,
    bound: Option<&Wanted<'_>>,
) -> Vec<u8> {
    let (x, y) = shared.ours();
    written(|encoder| {
        encoder.map(3 + u64::from(pin.is_some()) + 2 * u64::from(bound.is_some()))?;
        encoder.u8(1)?.u64(protocol.number())?.u8(2)?.u8(subcommand)?.u8(3)?;
        // COSE: EC2, key agreement, P-256 (CTAP 2.1 section 6.5.6).
        encoder.map(5)?.u8(1)?.u8(2)?.u8(3)?.i8(-25)?.i8(-1)?.u8(1)?;
        encoder.i8(-2)?.bytes(x)?.i8(-3)?.bytes(y)?;
        if let Some(pin) = pin {
            encoder.u8(6)?.bytes(pin)?;
        }
        if let Some(wanted) = bound {
            encoder.u8(9)?.u8(wanted.permission as u8)?.u8(10)?.str(wanted.rp_id)?;
        }
        Ok(())
    })
}

fn proof(shared: &Shared, answer: &[u8], wanted: &Wanted<'_>) -> Result<Verification, Trouble> {
    let token: Option<Token> = member_bytes(answer, 2).ok().flatten().and_then(|bytes| shared.token(bytes));
    let token = token.ok_or(Trouble::Broken(Broken::Garbled("its token makes no sense")))?;
    let (proof, protocol) = token.proof(wanted.hash);
    Ok(Verification::Proof(proof, protocol))
}
