//! The end of a login: the answer to its challenge is verified, and the login's certificate signed.

use std::net::IpAddr;

use portlatch_audit::{Event, EventKind};
use portlatch_clock::TimeOfDay;
use portlatch_protocol::api::{LoginAnswer, LoginGranted, LoginProof, Secret};
use portlatch_protocol::identity::Login;
use portlatch_protocol::names::{DeviceName, Id, UserName};

use super::limits::network_of;
use super::{Person, encode, proven, seconds_until};
use crate::api::problem::Denial;
use crate::authority::ProvenKey;
use crate::ceremony::{EnrolmentPurpose, FirstShown, LoginPurpose, Purpose};
use crate::codes::recovery;
use crate::control::{Control, random_id};
use crate::proving::Shown;
use crate::store::credentials::{CredentialKind, NewCredential};
use crate::store::logins::NewLogin;
use crate::store::users::Enrolment;
use crate::webauthn::{ExpectedTap, KeyError, VerifiedTap, amr};

/// Somebody who signed in at a page, for a device.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PageLogin<'a> {
    /// Who.
    pub(crate) user: &'a UserName,
    /// Where.
    pub(crate) device: &'a DeviceName,
    /// The login key.
    pub(crate) key: &'a ProvenKey,
    /// What was shown at the page.
    pub(crate) tap: &'a VerifiedTap,
}

impl Control {
    /// The login of somebody who signed in at a page.
    ///
    /// # Errors
    /// A [`Denial`].
    pub(crate) async fn log_in_from_page(
        &self,
        login: PageLogin<'_>,
        address: IpAddr,
    ) -> Result<LoginGranted, Denial> {
        let person = Person { user: login.user, device: login.device, address };
        self.log_in(person, login.key, (login.tap, Shown::AtPage)).await
    }

    /// Ends a login's ceremony: verifies the answer, and signs the login's certificate.
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
        let key = match proven(&answer.csr) {
            Ok(key) => key,
            Err(denial) => {
                self.note_ended(vec![challenge], "certificate_request").await;
                return Err(denial);
            }
        };
        match (challenge.purpose, &answer.proof) {
            (Purpose::Login(login), LoginProof::Key { credential }) => {
                self.finish_with_key(&login, &key, credential, address).await
            }
            (Purpose::Login(login), LoginProof::RecoveryCode { code }) => {
                self.finish_with_recovery_code(&login, &key, code, address).await
            }
            (Purpose::Enrolment(enrolment), LoginProof::Key { credential }) => {
                self.finish_with_new_key(&enrolment, &key, credential, address).await
            }
            (Purpose::Enrolment(enrolment), LoginProof::RecoveryCode { .. }) => {
                let person = Person { user: &enrolment.user, device: &enrolment.device, address };
                self.audit.note(person.failed(EventKind::MfaFail, "recovery_code_not_allowed")).await;
                Err(Denial::BadLogin)
            }
            // The table never gives one out here.
            (Purpose::Proof(_) | Purpose::NewDevice(_), _) => Err(Denial::CeremonyEnded),
        }
    }

    async fn finish_with_key(
        &self,
        login: &LoginPurpose,
        key: &ProvenKey,
        credential: &serde_json::Value,
        address: IpAddr,
    ) -> Result<LoginGranted, Denial> {
        let person = Person { user: &login.user, device: &login.device, address };
        let Some(state) = &login.state else {
            // As long as a real user's answer takes to be found wrong.
            let _ = self.store.user_secrets(person.user).await?;
            self.audit.note(person.failed(EventKind::MfaFail, "no_key")).await;
            return Err(Denial::BadLogin);
        };
        let expected = ExpectedTap { user: &login.user, state, context: None };
        let now = self.clock.time_of_day();
        let tap = self.relying_party.finish_tap(credential, &expected, &self.store, now).await;
        let tap = tap.and_then(|tap| match login.first == FirstShown::Password || tap.is_user_verified {
            true => Ok(tap),
            false => Err(KeyError::NotVerified),
        });
        let tap = self.verified_or_noted(person, tap).await?;
        self.log_in(person, key, (&tap, Shown::ByAgent)).await
    }

    async fn finish_with_new_key(
        &self,
        enrolment: &EnrolmentPurpose,
        key: &ProvenKey,
        credential: &serde_json::Value,
        address: IpAddr,
    ) -> Result<LoginGranted, Denial> {
        let EnrolmentPurpose { user, device, token_hash, password_hash, state } = enrolment;
        let person = Person { user, device, address };
        let security_key = self.relying_party.finish_enrolment(credential, state);
        let security_key = self.verified_or_noted(person, security_key).await?;
        let key_id = random_id();
        let credential = NewCredential {
            id: &key_id,
            user,
            name: "first key",
            kind: CredentialKind::SecurityKey,
            security_key: &security_key,
        };
        self.enrol(person, key, (token_hash, password_hash), credential).await
    }

    async fn finish_with_recovery_code(
        &self,
        login: &LoginPurpose,
        key: &ProvenKey,
        code: &Secret,
        address: IpAddr,
    ) -> Result<LoginGranted, Denial> {
        let person = Person { user: &login.user, device: &login.device, address };
        let fail = |reason: &str| person.failed(EventKind::MfaFail, reason);
        if login.first != FirstShown::Password {
            self.audit.note(fail("recovery_code_not_allowed")).await;
            return Err(Denial::BadLogin);
        }
        if !self.login_limits.by_recovery.take(person.user, self.clock.boot_time()) {
            self.audit.note(fail("rate_limited")).await;
            return Err(Denial::RateLimited);
        }
        let Some(hash) = recovery::hash(&self.keys, person.user, &code.0) else {
            self.audit.note(fail("recovery_code")).await;
            return Err(Denial::BadLogin);
        };
        self.still_welcome(person).await?;
        let now = self.clock.time_of_day();
        let (login, expires) = self.new_login(person, now);
        let kept = kept(&login, key, expires, address);
        let Some(left) = self.store.add_login_by_recovery(&kept, &hash, now).await? else {
            self.audit.note(fail("recovery_code")).await;
            return Err(Denial::BadLogin);
        };
        let detail = Some(format!("recovery code; {left} left"));
        let amr = vec!["otp".to_owned()];
        let ok = Event { amr, detail, login: Some(login.login.clone()), ..person.event(EventKind::MfaOk) };
        self.undo_unless_written(&login.login, ok).await?;
        self.grant_login(person, login, key, vec!["otp".to_owned()], expires).await
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
        (tap, shown): (&VerifiedTap, Shown),
    ) -> Result<LoginGranted, Denial> {
        self.still_welcome(person).await?;
        let (key_id, uv) = (Some(tap.key_id.clone()), Some(tap.is_user_verified));
        let ok = Event { amr: tap.amr(), key_id, up: Some(true), uv, ..person.event(shown.event()) };
        self.audit.write(ok).await?;
        let now = self.clock.time_of_day();
        let (login, expires) = self.new_login(person, now);
        let kept = kept(&login, key, expires, person.address);
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
        // In the turn of locks: a new key and password are kept before one is set, or not at all.
        let turn = self.turn().await?;
        self.still_welcome(person).await?;
        let now = self.clock.time_of_day();
        let (login, expires) = self.new_login(person, now);
        let key_id = Some(credential.id.clone());
        let enrolment = Enrolment {
            token_hash,
            password_hash,
            credential,
            login: Some(kept(&login, key, expires, person.address)),
        };
        let is_enrolled = self.store.enrol(&enrolment, now).await?;
        drop(turn);
        if !is_enrolled {
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
}

fn kept<'a>(login: &'a Login, key: &'a ProvenKey, expires: TimeOfDay, address: IpAddr) -> NewLogin<'a> {
    NewLogin {
        id: &login.login,
        user: &login.user,
        device: &login.device,
        spki: key.spki(),
        address,
        expires,
    }
}
