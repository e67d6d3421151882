//! A user's keys, passkeys, apps and recovery codes at the pages: each change after a fresh tap, as from an agent
//! ([`crate::devices`]); what differs is who asks, and that a browser answers.
//!
//! ```text
//! change wanted ──► tap ─┬─► done
//!                        ├─► new key or passkey ──► its answer ──► enrolled
//!                        └─► new app ──► its first code ──► enrolled
//! ```

use std::time::Duration;

use portlatch_audit::{Event, EventKind};
use portlatch_protocol::api::Secret;
use portlatch_protocol::api::ceremony::{CeremonyPurpose, DeviceChange};
use portlatch_protocol::names::Id;
use zeroize::Zeroizing;

use super::challenges::{ChangePurpose, NewAppPurpose, NewKeyPurpose, PagePurpose};
use super::sessions::{WebSession, at};
use super::sign_in::unavailable;
use super::{Task, Visit};
use crate::api::problem::Denial;
use crate::ceremony::purpose::about;
use crate::codes::app;
use crate::control::{Control, random_id};
use crate::devices::{FIRST_CODES, Holder};
use crate::login::limits::Rate;
use crate::presence::Presence;
use crate::store::credentials::CredentialKind;
use crate::store::devices::Ground;

/// Changes that one session begins: ten, then one every six seconds.
pub(super) const CHANGES: Rate = Rate { burst: 10, every: Duration::from_secs(6) };

/// What somebody wants to change.
#[derive(Debug, Clone)]
pub(crate) struct WantedChange {
    /// It.
    pub(crate) change: DeviceChange,
    /// What a new key is to be; no matter for other changes.
    pub(crate) kind: CredentialKind,
}

/// What a confirmed change brought.
#[derive(Debug)]
pub(crate) enum Changed {
    /// It is done.
    Done,
    /// The new key or app must answer: its challenge.
    Enrol(Id),
    /// The recovery codes: shown once.
    Codes(Vec<Secret>),
}

/// What a new key or app is shown.
#[derive(Debug)]
pub(crate) enum Enrolling {
    /// A key or passkey is to be used.
    Key {
        /// What it is.
        kind: CredentialKind,
        /// What the user calls it.
        name: String,
    },
    /// An app is to be told this, and its code to be typed.
    App {
        /// `otpauth://totp/...`, the secret within.
        uri: Zeroizing<String>,
        /// What the user calls it.
        name: String,
    },
}

impl Control {
    /// Begins a change: makes the challenge for the tap that it needs.
    ///
    /// # Errors
    /// A [`Denial`].
    pub(crate) async fn begin_change(
        &self,
        session: &WebSession,
        visit: Visit,
        wanted: WantedChange,
    ) -> Result<Task, Denial> {
        if !self.browsers.changes.take(&session.hash, self.clock.boot_time()) {
            return Err(Denial::RateLimited);
        }
        let demand = self.demand_of_change(&holder(session, visit), &wanted.change).await?;
        let keys = self.store.credentials(&session.user).await?;
        let begun = self.relying_party.begin_browser_tap(&keys, demand.strength);
        let (options, state) = begun.map_err(|_| Denial::BadAssertion)?;
        let user = session.user.clone();
        let purpose = PagePurpose::Change(Box::new(ChangePurpose { user, wanted, state }));
        self.open_page_challenge(visit, purpose, options).await
    }

    /// Confirms a change with a tap, and makes it.
    ///
    /// # Errors
    /// A [`Denial`]. The challenge is over whatever happens.
    pub(crate) async fn finish_change(
        &self,
        session: &WebSession,
        visit: Visit,
        challenge: &Id,
        credential: &serde_json::Value,
    ) -> Result<Changed, Denial> {
        let taken = self.browsers.challenges.take(challenge, &visit.owner, self.clock.boot_time());
        let Some(PagePurpose::Change(purpose)) = taken else {
            return Err(self.page_challenge_ended(visit).await);
        };
        let ChangePurpose { wanted: WantedChange { change, kind }, state, .. } = *purpose;
        let (user, now) = (&session.user, self.clock.time_of_day());
        let tap = self.relying_party.finish_browser_tap(credential, user, &state, &self.store, now).await;
        let tap = self.tap_or_noted(user, visit, tap).await.map_err(of_a_key)?;
        let holder = holder(session, visit);
        // What there is may have changed since the tap was asked for.
        self.demand_of_change(&holder, &change).await?;
        let wanted = CeremonyPurpose::ManageDevices(change.clone());
        self.audit.write(Presence::Tap(tap).on(about(&wanted, holder.event(EventKind::MfaOk)))).await?;
        match change {
            DeviceChange::AddKey { name } => self.begin_page_key(session, visit, name, kind).await,
            DeviceChange::AddApp { name } => self.begin_page_app(session, visit, name).await,
            DeviceChange::Remove { device } => {
                self.remove_device(&holder, &device).await?;
                Ok(Changed::Done)
            }
            DeviceChange::Rename { device, name } => {
                self.rename_device(&holder, &device, &name).await?;
                Ok(Changed::Done)
            }
            DeviceChange::RecoveryCodes => self.new_recovery_codes(&holder).await.map(Changed::Codes),
        }
    }

    async fn begin_page_key(
        &self,
        session: &WebSession,
        visit: Visit,
        name: String,
        kind: CredentialKind,
    ) -> Result<Changed, Denial> {
        let user = &session.user;
        let secrets = self.store.user_secrets(user).await?.ok_or(Denial::LoginEnded)?;
        let known = self.store.credentials(user).await?;
        let begun = self.relying_party.begin_browser_enrolment(user, secrets.handle, &known, kind);
        let (options, state) = begun.map_err(unavailable)?;
        let purpose = NewKeyPurpose { user: user.clone(), name, kind, options, state };
        self.open_page_enrolment(visit, PagePurpose::NewKey(Box::new(purpose))).await
    }

    async fn begin_page_app(
        &self,
        session: &WebSession,
        visit: Visit,
        name: String,
    ) -> Result<Changed, Denial> {
        let (user, secret) = (session.user.clone(), app::new_secret());
        let purpose = NewAppPurpose { user, name, secret, tries: FIRST_CODES };
        self.open_page_enrolment(visit, PagePurpose::NewApp(Box::new(purpose))).await
    }

    async fn open_page_enrolment(&self, visit: Visit, purpose: PagePurpose) -> Result<Changed, Denial> {
        let challenge = random_id();
        self.keep_page_challenge(visit, challenge.clone(), purpose).await?;
        Ok(Changed::Enrol(challenge))
    }

    /// What the page of a new key or app shows.
    pub(crate) fn enrolling(&self, visit: Visit, challenge: &Id) -> Option<Enrolling> {
        let now = self.clock.boot_time();
        let look = |purpose: &mut PagePurpose| match purpose {
            PagePurpose::NewKey(new) => Some(Enrolling::Key { kind: new.kind, name: new.name.clone() }),
            PagePurpose::NewApp(new) => {
                let uri = app::uri(self.cluster(), &new.user, &new.secret)?;
                Some(Enrolling::App { uri, name: new.name.clone() })
            }
            PagePurpose::Passkey { .. }
            | PagePurpose::Key { .. }
            | PagePurpose::Enrol(_)
            | PagePurpose::Approve(_)
            | PagePurpose::Change(_) => None,
        };
        self.browsers.challenges.look(challenge, &visit.owner, now, look).flatten()
    }

    /// What a new key is asked; it may be asked again while its challenge is open.
    ///
    /// # Errors
    /// [`Denial::CeremonyEnded`].
    pub(crate) fn new_key_task(&self, visit: Visit, challenge: &Id) -> Result<Task, Denial> {
        let now = self.clock.boot_time();
        let options = self.browsers.challenges.look(challenge, &visit.owner, now, |purpose| match purpose {
            PagePurpose::NewKey(new) => Some(new.options.clone()),
            PagePurpose::Passkey { .. }
            | PagePurpose::Key { .. }
            | PagePurpose::Enrol(_)
            | PagePurpose::Approve(_)
            | PagePurpose::Change(_)
            | PagePurpose::NewApp(_) => None,
        });
        let options = options.flatten().ok_or(Denial::CeremonyEnded)?;
        Ok(Task { challenge: challenge.clone(), options })
    }

    /// Enrols a new key with its answer.
    ///
    /// # Errors
    /// A [`Denial`]. The challenge is over whatever happens.
    pub(crate) async fn finish_new_key(
        &self,
        session: &WebSession,
        visit: Visit,
        challenge: &Id,
        credential: &serde_json::Value,
    ) -> Result<(), Denial> {
        let taken = self.browsers.challenges.take(challenge, &visit.owner, self.clock.boot_time());
        let Some(PagePurpose::NewKey(new)) = taken else {
            return Err(self.page_challenge_ended(visit).await);
        };
        let key = self.relying_party.finish_browser_enrolment(credential, &new.state, new.kind);
        let key = self.tap_or_noted(&session.user, visit, key).await.map_err(of_a_key)?;
        self.keep_key(&holder(session, visit), (&new.name, new.kind), &key).await?;
        Ok(())
    }

    /// Enrols a new app with its first code. A wrong one may be typed again, some times.
    ///
    /// # Errors
    /// A [`Denial`]; [`Denial::BadCode`] while there are tries left.
    pub(crate) async fn finish_new_app(
        &self,
        session: &WebSession,
        visit: Visit,
        challenge: &Id,
        code: &Secret,
    ) -> Result<(), Denial> {
        let boot_time = self.clock.boot_time();
        let typed = app::TypedCode::read(&code.0);
        let now = self.clock.time_of_day();
        // Looked at and counted in one step, so that tries at the same time are as many as tries one after another.
        let step = self.browsers.challenges.look(challenge, &visit.owner, boot_time, |purpose| {
            let PagePurpose::NewApp(new) = purpose else { return None };
            let step = typed.as_ref().and_then(|typed| app::matching_step(&new.secret, typed, now));
            new.tries = new.tries.saturating_sub(u32::from(step.is_none()));
            Some((step, new.tries))
        });
        let Some((step, tries)) = step.flatten() else {
            return Err(self.page_challenge_ended(visit).await);
        };
        let Some(step) = step else {
            let reason = Some("code_wrong".to_owned());
            self.audit.note(Event { reason, ..at(EventKind::MfaFail, &session.user, visit) }).await;
            if tries > 0 {
                return Err(Denial::BadCode);
            }
            drop(self.browsers.challenges.take(challenge, &visit.owner, boot_time));
            return Err(Denial::CeremonyEnded);
        };
        let taken = self.browsers.challenges.take(challenge, &visit.owner, boot_time);
        let Some(PagePurpose::NewApp(new)) = taken else {
            return Err(self.page_challenge_ended(visit).await);
        };
        self.keep_app(&holder(session, visit), &new.name, &new.secret, step).await?;
        Ok(())
    }
}

/// What is wrong is the key's answer: whoever is signed in has no password or token to get wrong.
fn of_a_key(denial: Denial) -> Denial {
    if denial == Denial::BadLogin { Denial::BadAssertion } else { denial }
}

/// Somebody at the pages, as changes of devices know it.
fn holder(session: &WebSession, visit: Visit) -> Holder {
    let client_addr = Some(visit.address.to_string());
    let user = session.user.clone();
    let record = Event { user: Some(user.clone()), client_addr, ..Event::new(EventKind::MfaOk) };
    Holder { user, device: None, record, ground: Ground::Session(session.hash) }
}
