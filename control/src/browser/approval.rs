//! What a page may decide for an agent that waits: once, by the person whose request it is, and for that agent alone.
//!
//! ```text
//! Open ─┬─ approved on the agent's machine ──► redirect with a one-time code ──► code + secret ──► taken
//!       ├─ approved on another machine ──────► agent is told ──────────────────► secret ─────────► taken
//!       ├─ denied, or a wrong code for the third time ──► gone, agent is told
//!       └─ cancelled, answered otherwise, time over ────► gone
//! ```
//!
//! No edge leads back. Pure: whoever owns this holds it in a table under a lock.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portlatch_clock::BootTime;
use portlatch_protocol::api::Secret;
use portlatch_protocol::api::browser::TYPED_CODE;
use portlatch_protocol::api::ceremony::{BrowserProof, BrowserReturn};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::api::problem::Denial;

/// How long an agent has to take what was approved.
pub const TAKEN_WITHIN: Duration = Duration::from_secs(60);
/// Codes that may be typed wrongly; the last of them ends the request.
pub const MAX_WRONG_CODES: u8 = 3;
/// Ports below are the system's, and no agent listens there.
const FIRST_PORT: u16 = 1024;
/// What codes are made of: no two characters that one takes for the other, and no vowels but these, for the words' sake.
/// 23 to the fourth are 279,841 codes, of which three can be tried.
const CODE_ALPHABET: &[u8; 23] = b"34679ACDEFGHJKMNPQRTWXY";

/// Where the browser is that approves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// On the agent's machine: it returns there by itself.
    Here,
    /// On another one.
    Elsewhere,
}

/// What a page says of the place.
#[derive(Debug, Clone)]
pub enum Claimed {
    /// On the agent's machine.
    Here,
    /// On another one, with the code that the agent shows.
    Elsewhere(Secret),
}

/// Whether a browser on another machine may approve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrossDevice {
    /// With a typed code.
    WithCode,
    /// Not at all.
    Refused,
}

/// What a page may decide for an agent; what is approved is an `A`.
#[derive(Clone)]
pub struct Approval<A> {
    port: u16,
    secret_hash: [u8; 32],
    code: Option<[u8; TYPED_CODE]>,
    wrong_codes: u8,
    approved: Option<Approved<A>>,
}

#[derive(Clone)]
struct Approved<A> {
    what: A,
    /// Of the one-time code of the redirect; none where the approval came from another machine.
    code_hash: Option<[u8; 32]>,
    until: BootTime,
}

/// Neither codes nor hashes belong into a log.
impl<A> std::fmt::Debug for Approval<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Approval").field("is_approved", &self.approved.is_some()).finish_non_exhaustive()
    }
}

/// Where a browser goes that approved on the agent's machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// The agent's port.
    pub port: u16,
    /// What the agent needs besides its secret.
    pub code: Secret,
}

/// What became of the claim to be at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlaceVerdict {
    /// It may go on.
    Fits(Place),
    /// The code is wrong; so many more may be.
    Wrong(u8),
    /// The code was wrong once too often: the request is dead.
    Dead,
    /// No browser on another machine is wanted.
    Refused,
    /// It was approved already.
    Answered,
}

impl<A: Clone> Approval<A> {
    /// An approval that the agent announced.
    ///
    /// # Errors
    /// [`Denial::BadRequest`] if what it announced is not well formed.
    pub fn new(announced: &BrowserReturn, cross: CrossDevice) -> Result<Self, Denial> {
        let bad = |what: &str| Denial::BadRequest(format!("the browser's {what} is not well formed"));
        let hash = URL_SAFE_NO_PAD.decode(&announced.secret_hash).map_err(|_| bad("secret_hash"))?;
        let secret_hash = hash.try_into().map_err(|_| bad("secret_hash"))?;
        if announced.port < FIRST_PORT {
            return Err(bad("port"));
        }
        let code = (cross == CrossDevice::WithCode).then(new_code);
        Ok(Self { port: announced.port, secret_hash, code, wrong_codes: 0, approved: None })
    }

    /// The agent's port.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The code that the agent shows, where a browser on another machine may approve.
    pub fn code(&self) -> Option<String> {
        self.code.map(|code| code.iter().copied().map(char::from).collect())
    }

    /// Whether it was approved on another machine, so that the agent's secret is all that is missing.
    pub fn is_approved_elsewhere(&self) -> bool {
        self.approved.as_ref().is_some_and(|approved| approved.code_hash.is_none())
    }

    /// How long ago it was approved, and where; `None` if it was not.
    pub fn approved(&self, now: BootTime) -> Option<(Duration, Place)> {
        let approved = self.approved.as_ref()?;
        let place = if approved.code_hash.is_some() { Place::Here } else { Place::Elsewhere };
        Some((TAKEN_WITHIN.saturating_sub(approved.until.saturating_since(now)), place))
    }

    /// Whether nothing was decided yet.
    pub const fn is_open(&self) -> bool {
        self.approved.is_none()
    }

    /// Whether a browser may be where it claims to be. A wrong code counts.
    pub fn place(&mut self, claimed: &Claimed) -> PlaceVerdict {
        if self.approved.is_some() {
            return PlaceVerdict::Answered;
        }
        let Claimed::Elsewhere(typed) = claimed else { return PlaceVerdict::Fits(Place::Here) };
        let Some(code) = &self.code else { return PlaceVerdict::Refused };
        if self.wrong_codes >= MAX_WRONG_CODES {
            return PlaceVerdict::Dead;
        }
        if bool::from(normal(&typed.0).as_bytes().ct_eq(code)) {
            return PlaceVerdict::Fits(Place::Elsewhere);
        }
        self.wrong_codes += 1;
        match MAX_WRONG_CODES - self.wrong_codes {
            0 => PlaceVerdict::Dead,
            left => PlaceVerdict::Wrong(left),
        }
    }

    /// Approves, once. `None` if it was approved already; within, where the browser goes.
    pub fn approve(&mut self, what: A, place: &Place, now: BootTime) -> Option<Option<Redirect>> {
        if self.approved.is_some() {
            return None;
        }
        let redirect = match place {
            Place::Here => Some(Redirect { port: self.port, code: one_time_code() }),
            Place::Elsewhere => None,
        };
        let code_hash = redirect.as_ref().map(|redirect| Sha256::digest(&redirect.code.0).into());
        self.approved = Some(Approved { what, code_hash, until: now + TAKEN_WITHIN });
        Some(redirect)
    }

    /// Whether this is the agent's secret.
    pub fn is_agents(&self, secret: &Secret) -> bool {
        let hash: [u8; 32] = Sha256::digest(&secret.0).into();
        bool::from(hash.ct_eq(&self.secret_hash))
    }

    /// What was approved, if the agent shows what it takes, in time. It stays here: whoever holds the table takes the whole
    /// in the same step.
    pub fn redeemed(&self, proof: &BrowserProof, now: BootTime) -> Option<A> {
        let approved = self.approved.as_ref().filter(|approved| now < approved.until)?;
        let is_code = match (&approved.code_hash, &proof.code) {
            (Some(hash), Some(code)) => bool::from(<[u8; 32]>::from(Sha256::digest(&code.0)).ct_eq(hash)),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        (is_code && self.is_agents(&proof.secret)).then(|| approved.what.clone())
    }
}

fn new_code() -> [u8; TYPED_CODE] {
    let mut code = [0; TYPED_CODE];
    for character in &mut code {
        *character = loop {
            let mut byte = [0];
            getrandom::fill(&mut byte).expect("the system has randomness");
            // Thrown again above the last multiple, so that no character comes more often.
            let index = usize::from(byte[0]);
            if index < CODE_ALPHABET.len() * (256 / CODE_ALPHABET.len()) {
                break CODE_ALPHABET[index % CODE_ALPHABET.len()];
            }
        };
    }
    code
}

/// A code as people type it: in small letters, with spaces or hyphens.
fn normal(typed: &str) -> String {
    typed
        .chars()
        .filter(|c| !c.is_whitespace() && *c != '-')
        .take(TYPED_CODE + 1)
        .collect::<String>()
        .to_ascii_uppercase()
}

fn one_time_code() -> Secret {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the system has randomness");
    Secret(URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "the agent's";

    fn approval(cross: CrossDevice) -> Approval<&'static str> {
        let secret_hash = URL_SAFE_NO_PAD.encode(Sha256::digest(SECRET));
        Approval::new(&BrowserReturn { port: 40000, secret_hash }, cross).unwrap()
    }

    fn at(seconds: u64) -> BootTime {
        BootTime::since_boot(Duration::from_secs(seconds))
    }

    fn proof(code: Option<Secret>, secret: &str) -> BrowserProof {
        BrowserProof { code, secret: Secret(secret.into()) }
    }

    fn typed(text: &str) -> Claimed {
        Claimed::Elsewhere(Secret(text.into()))
    }

    #[test]
    fn code_and_secret_together_redeem_an_approval_here() {
        let mut approval = approval(CrossDevice::Refused);
        assert!(approval.redeemed(&proof(None, SECRET), at(1)).is_none(), "before anybody approved");
        assert_eq!(approval.approved(at(1)), None);
        let redirect = approval.approve("yes", &Place::Here, at(1)).unwrap().unwrap();
        assert_eq!(redirect.port, 40000);
        assert_eq!(approval.approved(at(31)), Some((Duration::from_secs(30), Place::Here)));
        let code = Some(redirect.code);
        assert_eq!(approval.redeemed(&proof(code.clone(), SECRET), at(2)), Some("yes"));
        assert!(approval.redeemed(&proof(code.clone(), "another's"), at(2)).is_none());
        assert!(approval.redeemed(&proof(None, SECRET), at(2)).is_none());
        assert!(approval.redeemed(&proof(Some(Secret("guess".into())), SECRET), at(2)).is_none());
        assert_eq!(approval.redeemed(&proof(code.clone(), SECRET), at(60)), Some("yes"));
        assert!(approval.redeemed(&proof(code, SECRET), at(61)).is_none(), "a minute later");
    }

    #[test]
    fn the_secret_alone_redeems_an_approval_from_another_machine() {
        let mut approval = approval(CrossDevice::WithCode);
        let code = approval.code().unwrap();
        assert_eq!(approval.place(&typed(&code)), PlaceVerdict::Fits(Place::Elsewhere));
        assert_eq!(approval.approve("yes", &Place::Elsewhere, at(1)), Some(None));
        assert!(approval.is_approved_elsewhere());
        assert_eq!(approval.approved(at(1)), Some((Duration::ZERO, Place::Elsewhere)));
        assert!(approval.redeemed(&proof(Some(Secret(code)), SECRET), at(2)).is_none());
        assert!(approval.redeemed(&proof(None, "another's"), at(2)).is_none());
        assert_eq!(approval.redeemed(&proof(None, SECRET), at(2)), Some("yes"));
    }

    #[test]
    fn a_second_approval_is_refused() {
        let mut approval = approval(CrossDevice::WithCode);
        approval.approve("yes", &Place::Here, at(1)).unwrap();
        assert_eq!(approval.approve("again", &Place::Elsewhere, at(1)), None);
        let code = approval.code().unwrap();
        assert_eq!(approval.place(&typed(&code)), PlaceVerdict::Answered);
        assert_eq!(approval.place(&Claimed::Here), PlaceVerdict::Answered);
    }

    #[test]
    fn the_third_wrong_code_is_the_last() {
        let mut approval = approval(CrossDevice::WithCode);
        let code = approval.code().unwrap();
        assert_eq!(approval.place(&typed("0000")), PlaceVerdict::Wrong(2));
        assert_eq!(approval.place(&typed("")), PlaceVerdict::Wrong(1));
        assert_eq!(approval.place(&typed(&format!("{code}A"))), PlaceVerdict::Dead);
        assert_eq!(approval.place(&typed(&code)), PlaceVerdict::Dead, "the right one comes too late");
    }

    #[test]
    fn a_code_is_typed_as_people_type() {
        let mut approval = approval(CrossDevice::WithCode);
        let code = approval.code().unwrap().to_lowercase();
        let spaced = format!(" {} {}", &code[..2], &code[2..]);
        assert_eq!(approval.place(&typed(&spaced)), PlaceVerdict::Fits(Place::Elsewhere));
    }

    #[test]
    fn where_no_other_machine_may_there_is_no_code() {
        let mut approval = approval(CrossDevice::Refused);
        assert_eq!(approval.code(), None);
        assert_eq!(approval.place(&typed("AAAA")), PlaceVerdict::Refused);
        assert_eq!(approval.place(&Claimed::Here), PlaceVerdict::Fits(Place::Here));
    }

    #[test]
    fn what_an_agent_announces_is_looked_at() {
        let hash = URL_SAFE_NO_PAD.encode([0; 32]);
        for (port, secret_hash) in [(80, hash.as_str()), (0, &hash), (40000, "AA"), (40000, "not base64")] {
            let announced = BrowserReturn { port, secret_hash: secret_hash.to_owned() };
            assert!(Approval::<()>::new(&announced, CrossDevice::Refused).is_err(), "{announced:?}");
        }
    }

    #[test]
    fn codes_have_no_character_that_looks_like_another() {
        let codes: String = (0..200).map(|_| new_code()).flat_map(|code| code.map(char::from)).collect();
        assert!(
            !codes.contains(['0', 'O', '1', 'I', 'L', '5', 'S', '2', 'Z', '8', 'B', 'U', 'V']),
            "{codes}"
        );
    }
}
