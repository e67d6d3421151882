//! A new user at the page of the one-time link: chooses a password, and enrols the first key or passkey.

use portlatch_audit::{Event, EventKind};
use portlatch_protocol::api::Secret;
use portlatch_protocol::names::{Id, UserName};

use super::challenges::{EnrolPurpose, PagePurpose};
use super::secrets::CookieSecret;
use super::sessions::at;
use super::sign_in::unavailable;
use super::{Task, Visit};
use crate::api::problem::Denial;
use crate::control::{Control, random_id};
use crate::login::limits::network_of;
use crate::login::token_hash;
use crate::store::credentials::{CredentialKind, NewCredential};
use crate::store::users::Enrolment;
use crate::webauthn::{UserVerified, amr};

/// What a new user typed.
#[derive(Debug)]
pub(crate) struct NewUser {
    /// Who.
    pub(crate) user: UserName,
    /// As `users add` printed it.
    pub(crate) token: Secret,
    /// The password to be.
    pub(crate) password: Secret,
    /// What the user calls the first key.
    pub(crate) name: String,
    /// What it is.
    pub(crate) kind: CredentialKind,
}

impl Control {
    /// Begins an enrolment: checks the token, and makes the challenge for the new key.
    ///
    /// # Errors
    /// A [`Denial`].
    pub(crate) async fn begin_web_enrolment(&self, visit: Visit, new: NewUser) -> Result<Task, Denial> {
        let (limits, now) = (&self.login_limits, self.clock.boot_time());
        let by_name = limits.by_name(&self.hub.now(), &new.user);
        if !limits.by_address.take(&network_of(visit.address), now)
            || !by_name.take(&new.user, visit.address, now)
        {
            return Err(Denial::RateLimited);
        }
        let token_hash = token_hash(&new.token.0);
        let stands = self.store.enrolment_stands(&token_hash, &new.user, self.clock.time_of_day()).await?;
        let secrets = self.store.user_secrets(&new.user).await?;
        let secrets = secrets.filter(|_| stands && self.hub.now().has_user(&new.user));
        let Some(secrets) = secrets else {
            return Err(self.sign_in_failed(&new.user, visit, "token").await);
        };
        by_name.give_back(&new.user, visit.address);
        self.refuse_locked_visitor(&new.user, visit).await?;
        let password_hash = self.passwords.hash(&new.password).await?;
        let known = self.store.credentials(&new.user).await?;
        let begun = self.relying_party.begin_browser_enrolment(&new.user, secrets.handle, &known, new.kind);
        let (options, state) = begun.map_err(unavailable)?;
        let NewUser { user, name, kind, .. } = new;
        let purpose = EnrolPurpose { user, token_hash, password_hash, name, kind, state };
        self.open_page_challenge(visit, PagePurpose::Enrol(Box::new(purpose)), options).await
    }

    /// Ends an enrolment: verifies the new key, consumes the token, keeps password and key, and signs the user in.
    ///
    /// # Errors
    /// A [`Denial`]. The challenge is over whatever happens; the token is used up only where it went well.
    pub(crate) async fn finish_web_enrolment(
        &self,
        visit: Visit,
        challenge: &Id,
        credential: &serde_json::Value,
    ) -> Result<CookieSecret, Denial> {
        let purpose = self.browsers.challenges.take(challenge, &visit.owner, self.clock.boot_time());
        let Some(PagePurpose::Enrol(enrol)) = purpose else {
            return Err(self.page_challenge_ended(visit).await);
        };
        let verified = self.relying_party.finish_browser_enrolment(credential, &enrol.state, enrol.kind);
        let security_key = self.tap_or_noted(&enrol.user, visit, verified).await?;
        // In the turn of locks: a new key and password are kept before one is set, or not at all.
        let turn = self.turn().await?;
        self.refuse_locked_visitor(&enrol.user, visit).await?;
        let (user, key_id) = (&enrol.user, random_id());
        if !self.hub.now().has_user(user) {
            return Err(self.sign_in_failed(user, visit, "user_gone").await);
        }
        let (name, kind) = (enrol.name.as_str(), enrol.kind);
        let enrolment = Enrolment {
            token_hash: &enrol.token_hash,
            password_hash: &enrol.password_hash,
            credential: NewCredential { id: &key_id, user, name, kind, security_key: &security_key },
            login: None,
        };
        let is_enrolled = self.store.enrol(&enrolment, self.clock.time_of_day()).await?;
        drop(turn);
        if !is_enrolled {
            return Err(self.sign_in_failed(user, visit, "token").await);
        }
        let added = Event { key_id: Some(key_id.clone()), ..at(EventKind::DeviceAdd, user, visit) };
        self.audit.note(added).await;
        let is_passkey = kind == CredentialKind::Passkey;
        self.open_web_session(user, Some(&key_id), visit, amr(is_passkey.then_some(UserVerified))).await
    }
}
