//! How a user becomes a login: password and tap, or an enrolment token that sets the password and enrols the first key;
//! and what a login is certified for afterwards.
//!
//! Who guesses learns one thing, that it was wrong: the words are the same for user, password, token and key.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portlatch_audit::{Event, EventKind};
use portlatch_clock::TimeOfDay;
use portlatch_protocol::api::{
    FirstFactor, KeyTask, LoginAnswer, LoginChallenge, LoginGranted, LoginProof, LoginRequest, Secret,
};
use portlatch_protocol::identity::Login;
use portlatch_protocol::names::{DeviceName, Id, UserName};
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};

pub use self::limits::LoginLimits;
use self::limits::network_of;
use crate::api::problem::Denial;
use crate::authority::{ProvenKey, Signer};
use crate::ceremony::{Challenge, LIFETIME, Owner, Purpose};
use crate::control::{Control, random_id};
use crate::store::credentials::{CredentialKind, NewCredential};
use crate::store::logins::NewLogin;
use crate::store::users::Enrolment;
use crate::webauthn::{ExpectedTap, KeyError, VerifiedTap, amr};

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
        if !limits.by_address.take(&network_of(address), now) || !by_name.take(&request.user, now) {
            return Err(Denial::RateLimited);
        }
        let person = Person { user: &request.user, device: &request.device, address };
        let begun = match &request.proof {
            FirstFactor::Password { password } => self.begin_with_password(person, password).await,
            FirstFactor::Enrolment { token, new_password } => {
                self.begin_with_token(person, token, new_password).await
            }
            FirstFactor::Passkey => Err(Denial::BadLogin),
        };
        match begun {
            Ok((purpose, task)) => {
                by_name.give_back(&request.user);
                self.open_login_ceremony(person, purpose, task).await
            }
            Err(denial) => Err(denial),
        }
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
        let Ok((options, state)) =
            self.relying_party.begin_tap(&keys, crate::webauthn::TapStrength::Presence)
        else {
            self.audit.note(person.failed(EventKind::Login, "no_key")).await;
            return Err(Denial::BadLogin);
        };
        let (user, device) = (person.user.clone(), person.device.clone());
        Ok((Purpose::Login { user, device, state: Box::new(state) }, KeyTask::Assert { options }))
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
        let purpose = Purpose::Enrolment { user, device, token_hash, password_hash, state: Box::new(state) };
        Ok((purpose, KeyTask::Enrol { options }))
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
        purpose: Purpose,
        task: KeyTask,
    ) -> Result<LoginChallenge, Denial> {
        let now = self.clock.boot_time();
        let ceremony = random_id();
        let (owner, expires) = (Owner::LoggingIn(person.user.clone()), now + LIFETIME);
        self.audit.write(person.event(EventKind::MfaChallenge)).await?;
        let challenge = Challenge { owner, purpose, address: person.address, expires };
        let displaced = self.ceremonies.insert(ceremony.clone(), challenge, now)?;
        self.note_ended(displaced, "displaced").await;
        Ok(LoginChallenge { ceremony, task, expires_in: LIFETIME.as_secs() })
    }

    /// Ends a login's ceremony: verifies the key's answer, and signs the login's certificate.
    ///
    /// # Errors
    /// A [`Denial`]. The ceremony is over whatever happens.
    pub async fn finish_login(
        &self,
        ceremony: &Id,
        answer: &LoginAnswer,
        address: IpAddr,
    ) -> Result<LoginGranted, Denial> {
        if !self.login_limits.by_address.take(&network_of(address), self.clock.boot_time()) {
            return Err(Denial::RateLimited);
        }
        // Taken before anything is verified: no path below can give it a second answer.
        let Some(challenge) = self.ceremonies.take_login(ceremony, self.clock.boot_time()) else {
            let client_addr = Some(address.to_string());
            let reason = Some("ceremony_ended".to_owned());
            self.audit.note(Event { client_addr, reason, ..Event::new(EventKind::MfaFail) }).await;
            return Err(Denial::CeremonyEnded);
        };
        let LoginProof::Key { credential } = &answer.proof else {
            self.note_ended(vec![challenge], "recovery_code").await;
            return Err(Denial::BadLogin);
        };
        let key = match proven(&answer.csr) {
            Ok(key) => key,
            Err(denial) => {
                self.note_ended(vec![challenge], "certificate_request").await;
                return Err(denial);
            }
        };
        match challenge.purpose {
            Purpose::Login { user, device, state } => {
                let person = Person { user: &user, device: &device, address };
                let expected = ExpectedTap { user: &user, state: &state, context: None };
                let now = self.clock.time_of_day();
                let tap = self.relying_party.finish_tap(credential, &expected, &self.store, now).await;
                let tap = self.verified_or_noted(person, tap).await?;
                self.log_in(person, &key, &tap).await
            }
            Purpose::Enrolment { user, device, token_hash, password_hash, state } => {
                let person = Person { user: &user, device: &device, address };
                let security_key = self.relying_party.finish_enrolment(credential, &state);
                let security_key = self.verified_or_noted(person, security_key).await?;
                let key_id = random_id();
                let credential = NewCredential {
                    id: &key_id,
                    user: &user,
                    name: "first key",
                    kind: CredentialKind::SecurityKey,
                    security_key: &security_key,
                };
                self.enrol(person, &key, (&token_hash, &password_hash), credential).await
            }
            // The table never gives one out here.
            Purpose::Open(_) => Err(Denial::CeremonyEnded),
        }
    }

    async fn verified_or_noted<T>(
        &self,
        person: Person<'_>,
        result: Result<T, KeyError>,
    ) -> Result<T, Denial> {
        match result {
            Ok(verified) => Ok(verified),
            Err(KeyError::Store(error)) => Err(error.into()),
            Err(error) => {
                self.audit.note(person.failed(EventKind::MfaFail, &error.to_string())).await;
                Err(Denial::BadLogin)
            }
        }
    }

    async fn log_in(
        &self,
        person: Person<'_>,
        key: &ProvenKey,
        tap: &VerifiedTap,
    ) -> Result<LoginGranted, Denial> {
        self.still_welcome(person).await?;
        let (key_id, uv) = (Some(tap.key_id.clone()), Some(tap.is_user_verified));
        let ok = Event { amr: tap.amr(), key_id, up: Some(true), uv, ..person.event(EventKind::MfaOk) };
        self.audit.write(ok).await?;
        let now = self.clock.time_of_day();
        let (login, expires) = self.new_login(person, now);
        let kept = NewLogin {
            id: &login.login,
            user: &login.user,
            device: &login.device,
            spki: key.spki(),
            expires,
        };
        if !self.store.add_login(&kept, &tap.key_id, now).await? {
            self.audit.note(person.failed(EventKind::Login, "key_gone")).await;
            return Err(Denial::BadLogin);
        }
        self.grant_login(person, login, key, tap.amr(), expires).await
    }

    async fn enrol(
        &self,
        person: Person<'_>,
        key: &ProvenKey,
        (token_hash, password_hash): (&[u8; 32], &str),
        credential: NewCredential<'_>,
    ) -> Result<LoginGranted, Denial> {
        self.still_welcome(person).await?;
        let now = self.clock.time_of_day();
        let (login, expires) = self.new_login(person, now);
        let key_id = Some(credential.id.clone());
        let enrolment = Enrolment {
            token_hash,
            password_hash,
            credential,
            login: Some(NewLogin {
                id: &login.login,
                user: &login.user,
                device: &login.device,
                spki: key.spki(),
                expires,
            }),
        };
        if !self.store.enrol(&enrolment, now).await? {
            self.audit.note(person.failed(EventKind::Login, "token")).await;
            return Err(Denial::BadLogin);
        }
        let added = Event { key_id, login: Some(login.login.clone()), ..person.event(EventKind::DeviceAdd) };
        self.undo_unless_written(&login.login, added).await?;
        self.grant_login(person, login, key, amr(None), expires).await
    }

    /// User and locks may have changed while the person reached for the key.
    async fn still_welcome(&self, person: Person<'_>) -> Result<(), Denial> {
        if !self.hub.now().has_user(person.user) {
            self.audit.note(person.failed(EventKind::Login, "user_gone")).await;
            return Err(Denial::BadLogin);
        }
        self.refuse_if_locked(person).await
    }

    fn new_login(&self, person: Person<'_>, now: TimeOfDay) -> (Login, TimeOfDay) {
        let login = Login { user: person.user.clone(), login: random_id(), device: person.device.clone() };
        (login, now.after(self.hub.now().login_ttl(person.user)))
    }

    async fn grant_login(
        &self,
        person: Person<'_>,
        login: Login,
        key: &ProvenKey,
        amr: Vec<String>,
        expires: TimeOfDay,
    ) -> Result<LoginGranted, Denial> {
        let id = login.login.clone();
        self.undo_unless_written(
            &id,
            Event { login: Some(id.clone()), amr, ..person.event(EventKind::Login) },
        )
        .await?;
        let now = self.clock.time_of_day();
        let certificate = self.signer().login(&login, key, expires, now)?;
        Ok(LoginGranted {
            cluster: self.cluster().clone(),
            user: login.user,
            login: login.login,
            device: login.device,
            certificate: encode(&certificate),
            ca: encode(self.keys.ca_der()),
            expires_in: seconds_until(expires, now),
        })
    }

    /// What is not in the audit did not happen: the login that was kept a moment ago ends.
    async fn undo_unless_written(&self, login: &Id, event: Event) -> Result<(), Denial> {
        let Err(error) = self.audit.write(event).await else { return Ok(()) };
        self.store.end_login(login, self.clock.time_of_day()).await?;
        Err(error.into())
    }

    pub(crate) fn signer(&self) -> Signer<'_> {
        Signer::new(self.cluster(), &self.keys)
    }
}

/// How one-time tokens are kept.
pub(crate) fn token_hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.trim()).into()
}

fn proven(request: &str) -> Result<ProvenKey, Denial> {
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
