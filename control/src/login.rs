//! How a user becomes a login: password and tap; a key that verifies its user, alone; password and a recovery code, when
//! the key is lost; or an enrolment token that sets the password and enrols the first key. What follows the first factor
//! is in `finish`.
//!
//! Who guesses learns one thing, that it was wrong: the words are the same for user, password, token and key.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portlatch_audit::{Event, EventKind};
use portlatch_clock::TimeOfDay;
use portlatch_protocol::api::{FirstFactor, KeyTask, LoginChallenge, LoginRequest, Secret};
use portlatch_protocol::names::{DeviceName, UserName};
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use webauthn_rs::prelude::SecurityKeyAuthentication;

pub(crate) use self::finish::PageLogin;
pub use self::limits::LoginLimits;
use self::limits::network_of;
use crate::api::problem::Denial;
use crate::authority::{ProvenKey, Signer};
use crate::ceremony::{Challenge, EnrolmentPurpose, FirstShown, LIFETIME, LoginPurpose, Owner, Purpose};
use crate::control::{Control, random_id};
use crate::webauthn::TapStrength;

mod decoy;
mod finish;
mod keeping;
pub mod limits;

/// Longest certificate request in base64.
const MAX_REQUEST_TEXT: usize = 8 * 1024;

/// A user at a device, before there is a login.
#[derive(Debug, Clone, Copy)]
struct Person<'a> {
    user: &'a UserName,
    device: &'a DeviceName,
    address: IpAddr,
}

impl Person<'_> {
    fn login(&self, first: FirstShown, state: Option<SecurityKeyAuthentication>) -> Purpose {
        let (user, device) = (self.user.clone(), self.device.clone());
        Purpose::Login(Box::new(LoginPurpose { user, device, first, state }))
    }

    fn event(&self, kind: EventKind) -> Event {
        Event {
            user: Some(self.user.clone()),
            device: Some(self.device.clone()),
            client_addr: Some(self.address.to_string()),
            ..Event::new(kind)
        }
    }

    fn failed(&self, kind: EventKind, reason: &str) -> Event {
        Event { reason: Some(reason.to_owned()), ..self.event(kind) }
    }
}

impl Control {
    /// Begins a login: checks the first factor and makes the challenge for the key.
    ///
    /// # Errors
    /// A [`Denial`].
    pub async fn begin_login(
        &self,
        request: &LoginRequest,
        address: IpAddr,
    ) -> Result<LoginChallenge, Denial> {
        let now = self.clock.boot_time();
        let limits = &self.login_limits;
        let by_name = limits.by_name(&self.hub.now(), &request.user);
        // With a passkey nothing is guessed: what is open of that is bounded by itself.
        let is_guess = !matches!(request.proof, FirstFactor::Passkey);
        if !limits.by_address.take(&network_of(address), now)
            || (is_guess && !by_name.take(&request.user, address, now))
        {
            return Err(Denial::RateLimited);
        }
        let person = Person { user: &request.user, device: &request.device, address };
        let begun = match &request.proof {
            FirstFactor::Password { password } => self.begin_with_password(person, password).await,
            FirstFactor::Enrolment { token, new_password } => {
                self.begin_with_token(person, token, new_password).await
            }
            FirstFactor::Passkey => {
                let (purpose, task) = self.begin_with_passkey(person).await?;
                let owner = Owner::Unproven(person.user.clone(), network_of(address));
                return self.open_login_ceremony(person, owner, purpose, task).await;
            }
        };
        let (purpose, task) = begun?;
        by_name.give_back(&request.user, address);
        self.open_login_ceremony(person, Owner::LoggingIn(person.user.clone()), purpose, task).await
    }

    async fn begin_with_password(
        &self,
        person: Person<'_>,
        password: &Secret,
    ) -> Result<(Purpose, KeyTask), Denial> {
        let secrets = self.store.user_secrets(person.user).await?;
        let secrets = secrets.filter(|_| self.hub.now().has_user(person.user));
        let stored = secrets.as_ref().and_then(|secrets| secrets.password_hash.as_deref());
        if !self.passwords.verify(password, stored).await? {
            self.audit.note(person.failed(EventKind::Login, "password")).await;
            return Err(Denial::BadLogin);
        }
        self.refuse_if_locked(person).await?;
        let keys = self.store.credentials(person.user).await?;
        let Ok((options, state)) = self.relying_party.begin_tap(&keys, TapStrength::Presence) else {
            self.audit.note(person.failed(EventKind::Login, "no_key")).await;
            return Err(Denial::BadLogin);
        };
        let purpose = person.login(FirstShown::Password, Some(state));
        Ok((purpose, KeyTask::Assert { options }))
    }

    /// A key that verifies its user is two factors in one. A user whom nobody has, or who has no key, is asked for keys as
    /// everybody else is.
    async fn begin_with_passkey(&self, person: Person<'_>) -> Result<(Purpose, KeyTask), Denial> {
        let keys = self.store.credentials(person.user).await?;
        let keys = if self.hub.now().has_user(person.user) { keys } else { Vec::new() };
        let begun = match self.relying_party.begin_tap(&keys, TapStrength::Verification) {
            Ok((options, state)) => (options, Some(state)),
            Err(_) => (decoy::options(self.cluster(), person.user, &self.keys), None),
        };
        Ok((person.login(FirstShown::Nothing, begun.1), KeyTask::Assert { options: begun.0 }))
    }

    async fn begin_with_token(
        &self,
        person: Person<'_>,
        token: &Secret,
        new_password: &Secret,
    ) -> Result<(Purpose, KeyTask), Denial> {
        let token_hash = token_hash(&token.0);
        let now = self.clock.time_of_day();
        let stands = self.store.enrolment_stands(&token_hash, person.user, now).await?;
        let secrets = self.store.user_secrets(person.user).await?;
        let secrets = secrets.filter(|_| stands && self.hub.now().has_user(person.user));
        let Some(secrets) = secrets else {
            self.audit.note(person.failed(EventKind::Login, "token")).await;
            return Err(Denial::BadLogin);
        };
        self.refuse_if_locked(person).await?;
        let password_hash = self.passwords.hash(new_password).await?;
        let known = self.store.credentials(person.user).await?;
        let begun = self.relying_party.begin_enrolment(person.user, secrets.handle, &known);
        let (options, state) = begun.map_err(|error| {
            tracing::error!(%error, "an enrolment could not be begun");
            Denial::Unavailable
        })?;
        let (user, device) = (person.user.clone(), person.device.clone());
        let purpose = EnrolmentPurpose { user, device, token_hash, password_hash, state };
        Ok((Purpose::Enrolment(Box::new(purpose)), KeyTask::Enrol { options }))
    }

    async fn refuse_if_locked(&self, person: Person<'_>) -> Result<(), Denial> {
        let now = self.clock.time_of_day();
        let Some(message) = self.hub.now().lock_on_person(person.user, person.device, now) else {
            return Ok(());
        };
        self.audit.note(person.failed(EventKind::Login, "locked")).await;
        Err(Denial::Locked(message))
    }

    async fn open_login_ceremony(
        &self,
        person: Person<'_>,
        owner: Owner,
        purpose: Purpose,
        task: KeyTask,
    ) -> Result<LoginChallenge, Denial> {
        let now = self.clock.boot_time();
        let ceremony = random_id();
        let expires = now + LIFETIME;
        let challenge = Challenge { owner, purpose, address: person.address, expires };
        // Kept before it is recorded: one that finds no room was never made, and ends on no record either.
        let displaced = self.ceremonies.insert(ceremony.clone(), challenge, now)?;
        self.note_ended(displaced, "displaced").await;
        if let Err(error) = self.audit.write(person.event(EventKind::MfaChallenge)).await {
            drop(self.ceremonies.take_login(&ceremony, now));
            return Err(error.into());
        }
        Ok(LoginChallenge { ceremony, task, expires_in: LIFETIME.as_secs() })
    }

    pub(crate) fn signer(&self) -> Signer<'_> {
        Signer::new(self.cluster(), &self.keys)
    }
}

/// How one-time tokens are kept.
pub(crate) fn token_hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.trim()).into()
}

pub(crate) fn proven(request: &str) -> Result<ProvenKey, Denial> {
    Ok(ProvenKey::from_request(&decode(request)?)?)
}

fn decode(text: &str) -> Result<Vec<u8>, Denial> {
    let bad = || Denial::BadRequest("the certificate request is not base64".to_owned());
    if text.len() > MAX_REQUEST_TEXT {
        return Err(bad());
    }
    STANDARD.decode(text).map_err(|_| bad())
}

fn encode(certificate: &CertificateDer<'_>) -> String {
    STANDARD.encode(certificate)
}

pub(crate) fn seconds_until(end: TimeOfDay, now: TimeOfDay) -> u64 {
    u64::try_from(end.seconds().saturating_sub(now.seconds())).unwrap_or(0)
}
