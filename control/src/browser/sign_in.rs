//! Signing in at the pages: with a passkey alone, or with password and key. What it ends in is a session of the pages; or,
//! for somebody who came from `portlatch login`, that device's login besides.
//!
//! Who guesses learns one thing, that it was wrong; a user whom nobody has is asked for keys as everybody else is.

use portlatch_audit::{Event, EventKind};
use portlatch_protocol::api::Secret;
use portlatch_protocol::names::{Id, UserName};
use webauthn_rs::fake::{FakePasskeyDistribution, WebauthnFakeCredentialGenerator};
use webauthn_rs::prelude::CredentialID;

use super::approval::{Place, Redirect};
use super::challenges::{PageChallenge, PagePurpose};
use super::secrets::CookieSecret;
use super::sessions::at;
use super::{Task, Visit};
use crate::api::problem::Denial;
use crate::ceremony::LIFETIME;
use crate::control::{Control, random_id};
use crate::login::limits::network_of;
use crate::webauthn::{KeyError, TapStrength};

/// What somebody signs in for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SignInTarget {
    /// The pages themselves.
    Pages,
    /// A device whose login waits.
    Device {
        /// It.
        login: Id,
        /// Where the browser is.
        place: Place,
    },
}

/// How somebody signs in.
#[derive(Debug)]
pub(crate) enum SignInProof {
    /// With a passkey: of this user, or whichever the browser finds.
    Passkey {
        /// Who they say they are.
        user: Option<UserName>,
    },
    /// With password, and a key after it.
    Password {
        /// Who they say they are.
        user: UserName,
        /// As typed.
        password: Secret,
    },
}

/// Somebody who has signed in.
#[derive(Debug)]
pub(crate) struct SignedIn {
    /// The cookie of the new session.
    pub(crate) cookie: CookieSecret,
    /// Where to go.
    pub(crate) leads: Leads,
}

/// Where somebody goes who has signed in.
#[derive(Debug)]
pub(crate) enum Leads {
    /// To the pages.
    Pages,
    /// Back to the agent on the same machine, whose login this was.
    Agent(Redirect),
    /// Nowhere: the agent on the other machine is told.
    Elsewhere,
}

impl Control {
    /// Begins a sign-in: checks the password, if there is one, and makes the challenge for the key.
    ///
    /// # Errors
    /// A [`Denial`].
    pub(crate) async fn begin_sign_in(
        &self,
        visit: Visit,
        target: SignInTarget,
        proof: SignInProof,
    ) -> Result<Task, Denial> {
        if !self.login_limits.by_address.take(&network_of(visit.address), self.clock.boot_time()) {
            return Err(Denial::RateLimited);
        }
        match proof {
            SignInProof::Passkey { user } => self.begin_passkey(visit, target, user).await,
            SignInProof::Password { user, password } => self.begin_key(visit, target, user, &password).await,
        }
    }

    async fn begin_passkey(
        &self,
        visit: Visit,
        target: SignInTarget,
        named: Option<UserName>,
    ) -> Result<Task, Denial> {
        let listed = match &named {
            Some(user) => self.names_of_keys(user).await?,
            None => Vec::new(),
        };
        let (options, state) = self.relying_party.begin_passkey(listed).map_err(unavailable)?;
        let purpose = PagePurpose::Passkey { named, target, state: Box::new(state) };
        self.open_page_challenge(visit, purpose, options).await
    }

    /// The names of the user's keys. For a user without any, or whom nobody has, some that are as good to look at: the
    /// answer must not tell who exists.
    async fn names_of_keys(&self, user: &UserName) -> Result<Vec<CredentialID>, Denial> {
        let keys = self.store.credentials(user).await?;
        let names: Vec<CredentialID> = keys.iter().map(|key| key.security_key.cred_id().clone()).collect();
        if !names.is_empty() && self.hub.now().has_user(user) {
            return Ok(names);
        }
        let decoys = WebauthnFakeCredentialGenerator::<FakePasskeyDistribution>::new(&self.browsers.decoy);
        let decoys = decoys.and_then(|decoys| decoys.generate(user.as_str().as_bytes()));
        decoys.map_err(|error| unavailable(KeyError::Refused(error)))
    }

    async fn begin_key(
        &self,
        visit: Visit,
        target: SignInTarget,
        user: UserName,
        password: &Secret,
    ) -> Result<Task, Denial> {
        let by_name = self.login_limits.by_name(&self.hub.now(), &user);
        if !by_name.take(&user, visit.address, self.clock.boot_time()) {
            return Err(Denial::RateLimited);
        }
        let secrets = self.store.user_secrets(&user).await?;
        let secrets = secrets.filter(|_| self.hub.now().has_user(&user));
        let stored = secrets.as_ref().and_then(|secrets| secrets.password_hash.as_deref());
        if !self.passwords.verify(password, stored).await? {
            return Err(self.sign_in_failed(&user, visit, "password").await);
        }
        by_name.give_back(&user, visit.address);
        self.refuse_locked_visitor(&user, visit).await?;
        let keys = self.store.credentials(&user).await?;
        let Ok((options, state)) = self.relying_party.begin_browser_tap(&keys, TapStrength::Presence) else {
            return Err(self.sign_in_failed(&user, visit, "no_key").await);
        };
        let purpose = PagePurpose::Key { user, target, state: Box::new(state) };
        self.open_page_challenge(visit, purpose, options).await
    }

    /// Ends a sign-in: takes the challenge, verifies the answer, and opens a session.
    ///
    /// # Errors
    /// A [`Denial`]. The challenge is over whatever happens.
    pub(crate) async fn finish_sign_in(
        &self,
        visit: Visit,
        challenge: &Id,
        credential: &serde_json::Value,
    ) -> Result<SignedIn, Denial> {
        // Taken before anything is verified: no path below can give it a second answer.
        let purpose = self.browsers.challenges.take(challenge, &visit.owner, self.clock.boot_time());
        let (user, target, verified) = match purpose {
            Some(PagePurpose::Passkey { named, target, state }) => {
                let now = self.clock.time_of_day();
                let verified = self.relying_party.finish_passkey(credential, *state, &self.store, now).await;
                let verified = verified.and_then(|(user, tap)| match &named {
                    Some(named) if *named != user => Err(KeyError::UnknownKey),
                    Some(_) | None => Ok((user, tap)),
                });
                match verified {
                    Ok((user, tap)) => (user, target, Ok(tap)),
                    Err(error) => return Err(self.passkey_failed(visit, named, error).await),
                }
            }
            Some(PagePurpose::Key { user, target, state }) => {
                let (party, now) = (&self.relying_party, self.clock.time_of_day());
                let tap = party.finish_browser_tap(credential, &user, &state, &self.store, now).await;
                (user, target, tap)
            }
            Some(
                PagePurpose::Enrol(_)
                | PagePurpose::Approve(_)
                | PagePurpose::Change(_)
                | PagePurpose::NewKey(_)
                | PagePurpose::NewApp(_),
            )
            | None => return Err(self.page_challenge_ended(visit).await),
        };
        let tap = self.tap_or_noted(&user, visit, verified).await?;
        self.refuse_locked_visitor(&user, visit).await?;
        if !self.hub.now().has_user(&user) {
            return Err(self.sign_in_failed(&user, visit, "user_gone").await);
        }
        let (amr, key_id, uv) = (tap.amr(), Some(tap.key_id.clone()), Some(tap.is_user_verified));
        let ok = Event { amr, key_id, uv, up: Some(true), ..at(EventKind::MfaOk, &user, visit) };
        self.audit.write(ok).await?;
        let leads = match target {
            SignInTarget::Pages => Leads::Pages,
            SignInTarget::Device { login, place } => {
                let redirect = self.approve_device(&login, &place, &user, &tap)?;
                redirect.map_or(Leads::Elsewhere, Leads::Agent)
            }
        };
        let cookie = self.open_web_session(&user, Some(&tap.key_id), visit, tap.amr()).await?;
        Ok(SignedIn { cookie, leads })
    }

    /// Keeps a challenge of a page, and records it.
    pub(super) async fn open_page_challenge(
        &self,
        visit: Visit,
        purpose: PagePurpose,
        options: serde_json::Value,
    ) -> Result<Task, Denial> {
        let client_addr = Some(visit.address.to_string());
        let made = Event {
            user: purpose.user().cloned(),
            client_addr,
            detail: Some("pages".to_owned()),
            ..Event::new(EventKind::MfaChallenge)
        };
        let challenge = random_id();
        // Kept before it is recorded: one that finds no room was never made, and ends on no record either.
        self.keep_page_challenge(visit, challenge.clone(), purpose).await?;
        if let Err(error) = self.audit.write(made).await {
            drop(self.browsers.challenges.take(&challenge, &visit.owner, self.clock.boot_time()));
            return Err(error.into());
        }
        Ok(Task { challenge, options })
    }

    /// Keeps a challenge of a page.
    pub(super) async fn keep_page_challenge(
        &self,
        visit: Visit,
        challenge: Id,
        purpose: PagePurpose,
    ) -> Result<(), Denial> {
        let now = self.clock.boot_time();
        let expires = now + LIFETIME;
        let kept = PageChallenge { owner: visit.owner, purpose, address: visit.address, expires };
        for event in self.browsers.challenges.insert(challenge, kept, now)? {
            self.audit.note(event).await;
        }
        Ok(())
    }

    pub(super) async fn refuse_locked_visitor(&self, user: &UserName, visit: Visit) -> Result<(), Denial> {
        let Some(message) = self.hub.now().lock_on_user(user, self.clock.time_of_day()) else {
            return Ok(());
        };
        let _ = self.sign_in_failed(user, visit, "locked").await;
        Err(Denial::Locked(message))
    }

    async fn passkey_failed(&self, visit: Visit, named: Option<UserName>, error: KeyError) -> Denial {
        if let KeyError::Store(error) = error {
            return error.into();
        }
        let (client_addr, reason) = (Some(visit.address.to_string()), Some(error.to_string()));
        self.audit.note(Event { user: named, client_addr, reason, ..Event::new(EventKind::MfaFail) }).await;
        Denial::BadLogin
    }

    /// The verified tap, or a record of why it is none.
    pub(super) async fn tap_or_noted<T>(
        &self,
        user: &UserName,
        visit: Visit,
        verified: Result<T, KeyError>,
    ) -> Result<T, Denial> {
        match verified {
            Ok(verified) => Ok(verified),
            Err(KeyError::Store(error)) => Err(error.into()),
            Err(error) => {
                let reason = Some(error.to_string());
                self.audit.note(Event { reason, ..at(EventKind::MfaFail, user, visit) }).await;
                Err(Denial::BadLogin)
            }
        }
    }

    pub(super) async fn sign_in_failed(&self, user: &UserName, visit: Visit, reason: &str) -> Denial {
        let (detail, reason) = (Some("pages".to_owned()), Some(reason.to_owned()));
        self.audit.note(Event { detail, reason, ..at(EventKind::Login, user, visit) }).await;
        Denial::BadLogin
    }

    pub(super) async fn page_challenge_ended(&self, visit: Visit) -> Denial {
        let client_addr = Some(visit.address.to_string());
        let reason = Some("ceremony_ended".to_owned());
        self.audit.note(Event { client_addr, reason, ..Event::new(EventKind::MfaFail) }).await;
        Denial::CeremonyEnded
    }
}

/// WebAuthn could not even ask.
pub(super) fn unavailable(error: KeyError) -> Denial {
    tracing::error!(%error, "a challenge could not be made for a page");
    Denial::Unavailable
}
