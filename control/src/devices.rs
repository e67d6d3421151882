//! A user's own keys, authenticator apps and recovery codes: seen at any time, changed after a fresh tap.
//!
//! ```text
//! add a key or app ──► tap ──► what the new one must answer ──► its answer ──► enrolled
//! remove, rename, new recovery codes ──► tap ──► done
//! ```
//!
//! A code proves nothing here: whoever sees one over a shoulder must not be able to add a key.

use portlatch_audit::{Event, EventKind};
use portlatch_protocol::api::Secret;
use portlatch_protocol::api::ceremony::{
    CeremonyOutcome, CeremonyPurpose, DeviceChange, DeviceProof, MfaDevice, MfaDeviceKind, MfaDevices,
};
use portlatch_protocol::names::{DeviceName, Id, UserName};
use tokio::sync::SemaphorePermit;
use zeroize::Zeroizing;

use crate::api::problem::Denial;
use crate::ceremony::{Challenge, LIFETIME, NewDevice, NewDevicePurpose, Owner, Purpose};
use crate::codes::{self, MAX_APPS, app, recovery};
use crate::control::{Control, random_id};
use crate::grants::Asker;
use crate::policy::Concerned;
use crate::presence::Presence;
use crate::proving::{Demand, Proved};
use crate::store::apps::NewApp;
use crate::store::credentials::{CredentialKind, NewCredential};
use crate::store::devices::{Ground, Kept, Removed};
use crate::webauthn::KeyError;

/// Keys of one user: each is named in every challenge.
pub const MAX_KEYS: usize = 20;
/// Longest name of a key or app, in characters: fits a line of a table.
pub const MAX_DEVICE_NAME: usize = 64;
/// First codes of a new app that may be wrong: people mistype, and clocks are off.
pub(crate) const FIRST_CODES: u32 = 5;

/// Whose devices are changed, and how that stands in the records.
#[derive(Debug, Clone)]
pub(crate) struct Holder {
    /// Whose.
    pub(crate) user: UserName,
    /// The device that a login is of; none at the pages.
    pub(crate) device: Option<DeviceName>,
    /// Who asks and from where; of whatever kind.
    pub(crate) record: Event,
    /// What must stand when the change is written.
    pub(crate) ground: Ground,
}

impl Holder {
    /// The record of this kind.
    pub(crate) fn event(&self, kind: EventKind) -> Event {
        Event { kind, ..self.record.clone() }
    }

    /// Against whom a lock stands in the way of the change.
    fn concerned(&self) -> Concerned<'_> {
        let login = match &self.ground {
            Ground::Login(login) => Some(login),
            Ground::Session(_) => None,
        };
        Concerned { user: &self.user, login, device: self.device.as_ref(), resource: None }
    }

    fn about(&self, kind: EventKind, device: &Id, name: &str) -> Event {
        Event { key_id: Some(device.clone()), detail: Some(name.to_owned()), ..self.event(kind) }
    }
}

impl From<Asker<'_>> for Holder {
    fn from(asker: Asker<'_>) -> Self {
        let login = &asker.login.login;
        let ground = Ground::Login(login.login.clone());
        let (user, device) = (login.user.clone(), Some(login.device.clone()));
        Self { user, device, record: asker.event(EventKind::MfaOk), ground }
    }
}

impl Control {
    /// The user's keys and apps.
    ///
    /// # Errors
    /// [`Denial::Unavailable`].
    pub async fn mfa_devices(&self, user: &UserName) -> Result<MfaDevices, Denial> {
        let devices = self.store.mfa_devices(user).await?;
        Ok(MfaDevices { devices, recovery_codes: self.store.recovery_codes_left(user).await? })
    }

    /// Whether a change can be made at all, before anybody is asked to tap for it.
    pub(crate) async fn demand_of_change(
        &self,
        holder: &Holder,
        change: &DeviceChange,
    ) -> Result<Demand, Denial> {
        let devices = self.store.mfa_devices(&holder.user).await?;
        let is_there = |id: &Id| devices.iter().any(|device| device.id == *id);
        let apps = devices.iter().filter(|device| device.kind == MfaDeviceKind::App).count();
        let keys = devices.len() - apps;
        let bad = |message: &str| Err(Denial::BadRequest(message.to_owned()));
        match change {
            DeviceChange::AddKey { name } | DeviceChange::AddApp { name } => check_name(name)?,
            DeviceChange::Rename { name, .. } => check_name(name)?,
            DeviceChange::Remove { .. } | DeviceChange::RecoveryCodes => {}
        }
        match change {
            DeviceChange::AddKey { .. } if keys >= MAX_KEYS => {
                bad("you have as many keys as one can have: remove one first")
            }
            DeviceChange::AddApp { .. } if !self.hub.now().world.allows_otp() => {
                bad("codes are not taken in this cluster: use a security key")
            }
            DeviceChange::AddApp { .. } if apps >= usize::try_from(MAX_APPS).unwrap_or(usize::MAX) => {
                bad("you have as many apps as one can have: remove one first")
            }
            DeviceChange::Remove { device } | DeviceChange::Rename { device, .. } if !is_there(device) => {
                bad("you have no such key or app: `portlatch mfa ls` shows them")
            }
            DeviceChange::Remove { device } if keys == 1 && !is_app(&devices, device) => bad(LAST_KEY),
            DeviceChange::AddKey { .. }
            | DeviceChange::AddApp { .. }
            | DeviceChange::Remove { .. }
            | DeviceChange::Rename { .. }
            | DeviceChange::RecoveryCodes => Ok(Demand::KEY),
        }
    }

    /// Makes a change that a fresh tap was given for.
    pub(crate) async fn conclude_change(
        &self,
        asker: Asker<'_>,
        change: &DeviceChange,
        Proved { presence, shown, .. }: Proved,
    ) -> Result<CeremonyOutcome, Denial> {
        let wanted = CeremonyPurpose::ManageDevices(change.clone());
        if matches!(presence, Presence::Code { .. }) {
            self.answer_failed(asker, &wanted, "code_not_allowed").await;
            return Err(Denial::BadAssertion);
        }
        let holder = Holder::from(asker);
        self.demand_of_change(&holder, change).await?;
        let ok = crate::ceremony::purpose::about(&wanted, asker.event(shown.event()));
        self.audit.write(presence.on(ok)).await?;
        match change {
            DeviceChange::AddKey { name } => self.begin_new_key(asker, name).await,
            DeviceChange::AddApp { name } => self.begin_new_app(asker, name).await,
            DeviceChange::Remove { device } => self.remove_device(&holder, device).await,
            DeviceChange::Rename { device, name } => self.rename_device(&holder, device, name).await,
            DeviceChange::RecoveryCodes => {
                let codes = self.new_recovery_codes(&holder).await?;
                Ok(CeremonyOutcome::RecoveryCodes { codes })
            }
        }
    }

    async fn begin_new_key(&self, asker: Asker<'_>, name: &str) -> Result<CeremonyOutcome, Denial> {
        let user = &asker.login.login.user;
        let secrets = self.store.user_secrets(user).await?.ok_or(Denial::LoginEnded)?;
        let known = self.store.credentials(user).await?;
        let begun = self.relying_party.begin_enrolment(user, secrets.handle, &known);
        let (options, state) = begun.map_err(|error| {
            tracing::error!(%error, "an enrolment could not be begun");
            Denial::Unavailable
        })?;
        let ceremony = self.open_enrolment(asker, name, NewDevice::Key(Box::new(state))).await?;
        Ok(CeremonyOutcome::EnrolKey { ceremony, options, expires_in: LIFETIME.as_secs() })
    }

    async fn begin_new_app(&self, asker: Asker<'_>, name: &str) -> Result<CeremonyOutcome, Denial> {
        let secret = app::new_secret();
        let uri = app::uri(self.cluster(), &asker.login.login.user, &secret).ok_or(Denial::Unavailable)?;
        let device = NewDevice::App { secret, tries: FIRST_CODES };
        let ceremony = self.open_enrolment(asker, name, device).await?;
        let uri = Secret(uri.to_string());
        Ok(CeremonyOutcome::EnrolApp { ceremony, uri, expires_in: LIFETIME.as_secs() })
    }

    async fn open_enrolment(&self, asker: Asker<'_>, name: &str, device: NewDevice) -> Result<Id, Denial> {
        let (login, now, ceremony) = (&asker.login.login, self.clock.boot_time(), random_id());
        let purpose = NewDevicePurpose { login: login.clone(), name: name.to_owned(), device };
        let challenge = Challenge {
            owner: Owner::Login(login.login.clone()),
            purpose: Purpose::NewDevice(Box::new(purpose)),
            address: asker.address,
            expires: now + LIFETIME,
        };
        let displaced = self.ceremonies.insert(ceremony.clone(), challenge, now)?;
        self.note_ended(displaced, "displaced").await;
        Ok(ceremony)
    }

    /// Ends the enrolment of a key or app with its first answer.
    ///
    /// # Errors
    /// A [`Denial`]. The enrolment is over, unless it was a code that was typed wrongly.
    pub async fn finish_enrolment(
        &self,
        asker: Asker<'_>,
        ceremony: &Id,
        proof: &DeviceProof,
    ) -> Result<MfaDevice, Denial> {
        let (login, now) = (&asker.login.login.login, self.clock.boot_time());
        let Some(mut challenge) = self.ceremonies.take_new_device(ceremony, login, now) else {
            let ended = Some("ceremony_ended".to_owned());
            self.audit.note(Event { reason: ended, ..asker.event(EventKind::MfaFail) }).await;
            return Err(Denial::CeremonyEnded);
        };
        let Purpose::NewDevice(new) = &mut challenge.purpose else { return Err(Denial::CeremonyEnded) };
        match (&mut new.device, proof) {
            (NewDevice::Key(state), DeviceProof::Key { credential }) => {
                match self.relying_party.finish_enrolment(credential, state) {
                    Ok(key) => {
                        self.keep_key(&asker.into(), (&new.name, CredentialKind::SecurityKey), &key).await
                    }
                    Err(error) => Err(self.enrolment_failed(challenge, &error.to_string()).await),
                }
            }
            (NewDevice::App { secret, tries }, DeviceProof::Code { code }) => {
                let typed = app::TypedCode::read(&code.0);
                let now = self.clock.time_of_day();
                let step = typed.and_then(|typed| app::matching_step(secret, &typed, now));
                if let Some(step) = step {
                    return self.keep_app(&asker.into(), &new.name, secret, step).await;
                }
                *tries = tries.saturating_sub(1);
                if *tries == 0 {
                    self.enrolment_failed(challenge, "code_wrong").await;
                } else {
                    self.ceremonies.give_back(ceremony.clone(), challenge);
                }
                Err(Denial::BadCode)
            }
            (NewDevice::Key(_), DeviceProof::Code { .. })
            | (NewDevice::App { .. }, DeviceProof::Key { .. }) => {
                Err(self.enrolment_failed(challenge, "malformed").await)
            }
        }
    }

    async fn enrolment_failed(&self, challenge: Challenge, reason: &str) -> Denial {
        self.note_ended(vec![challenge], reason).await;
        Denial::BadAssertion
    }

    pub(crate) async fn keep_key(
        &self,
        holder: &Holder,
        (name, kind): (&str, CredentialKind),
        security_key: &webauthn_rs::prelude::SecurityKey,
    ) -> Result<MfaDevice, Denial> {
        let (user, id, now) = (&holder.user, random_id(), self.clock.time_of_day());
        // What is not in the audit did not happen: it is written first.
        self.audit.write(holder.about(EventKind::DeviceAdd, &id, name)).await?;
        let credential = NewCredential { id: &id, user, name, kind, security_key };
        let event = holder.about(EventKind::DeviceAdd, &id, name);
        let turn = self.unlocked_turn(holder, &event).await?;
        let kept = self.store.add_credential(&credential, &holder.ground, now).await?;
        drop(turn);
        match kept {
            Kept::Yes => self.device(user, &id).await,
            Kept::No => {
                let reason = Some(KeyError::EnrolledAlready.to_string());
                self.audit.note(Event { reason, ..event }).await;
                Err(Denial::BadAssertion)
            }
            Kept::GroundGone => Err(self.not_kept(event).await),
        }
    }

    pub(crate) async fn keep_app(
        &self,
        holder: &Holder,
        name: &str,
        secret: &Zeroizing<Vec<u8>>,
        step: u64,
    ) -> Result<MfaDevice, Denial> {
        let (user, id, now) = (&holder.user, random_id(), self.clock.time_of_day());
        let sealed = self.keys.seal(&codes::seal_purpose(user, &id), secret).map_err(|error| {
            tracing::error!(%error, "an app's secret could not be sealed");
            Denial::Unavailable
        })?;
        self.audit.write(holder.about(EventKind::DeviceAdd, &id, name)).await?;
        let app = NewApp { id: &id, user, name, secret: &sealed, step };
        let event = holder.about(EventKind::DeviceAdd, &id, name);
        let turn = self.unlocked_turn(holder, &event).await?;
        let kept = self.store.add_app(&app, &holder.ground, MAX_APPS, now).await?;
        drop(turn);
        match kept {
            Kept::Yes => self.device(user, &id).await,
            Kept::No => {
                self.audit.note(Event { reason: Some("too_many".to_owned()), ..event }).await;
                Err(Denial::RateLimited)
            }
            Kept::GroundGone => Err(self.not_kept(event).await),
        }
    }

    /// Whoever asked was signed out between the answer and the write.
    async fn not_kept(&self, event: Event) -> Denial {
        self.audit.note(Event { reason: Some("login_ended".to_owned()), ..event }).await;
        Denial::LoginEnded
    }

    /// What was recorded found nothing to change: another request was faster.
    async fn not_there(&self, event: Event) -> Denial {
        self.audit.note(Event { reason: Some("not_done".to_owned()), ..event }).await;
        Denial::NotFound
    }

    /// The turn in which locks are set too, where none stands in the way of a recorded change. A lock ends no login, and so
    /// the ground of a change still stands behind one; but none is set while this is held, and a change that was written
    /// in it came before every lock that is not seen here.
    async fn unlocked_turn(&self, holder: &Holder, event: &Event) -> Result<SemaphorePermit<'_>, Denial> {
        let failed = |reason: &str| Event { reason: Some(reason.to_owned()), ..event.clone() };
        let turn = match self.turn().await {
            Ok(turn) => turn,
            Err(denial) => {
                self.audit.note(failed("not_done")).await;
                return Err(denial);
            }
        };
        let Some(message) = self.hub.now().lock(holder.concerned(), self.clock.time_of_day()) else {
            return Ok(turn);
        };
        drop(turn);
        self.audit.note(failed("locked")).await;
        Err(Denial::Locked(message))
    }

    async fn device(&self, user: &UserName, id: &Id) -> Result<MfaDevice, Denial> {
        let devices = self.store.mfa_devices(user).await?;
        devices.into_iter().find(|device| device.id == *id).ok_or(Denial::Unavailable)
    }

    /// Taps, grants and challenges that rest on it are over at once.
    pub(crate) async fn remove_device(
        &self,
        holder: &Holder,
        device: &Id,
    ) -> Result<CeremonyOutcome, Denial> {
        let (user, now) = (&holder.user, self.clock.time_of_day());
        let name = self.device(user, device).await?.name;
        let event = holder.about(EventKind::DeviceRemove, device, &name);
        self.audit.write(event.clone()).await?;
        let turn = self.unlocked_turn(holder, &event).await?;
        let removed = self.store.remove_device(device, user, &holder.ground, now).await?;
        drop(turn);
        match removed {
            Removed::Yes => {}
            Removed::Unknown => return Err(self.not_there(event).await),
            Removed::LastKey => {
                self.audit.note(Event { reason: Some("last_key".to_owned()), ..event }).await;
                return Err(Denial::BadRequest(LAST_KEY.to_owned()));
            }
            Removed::GroundGone => return Err(self.not_kept(event).await),
        }
        self.note_ended(self.ceremonies.forget_user(user), "device_removed").await;
        self.settle().await;
        Ok(CeremonyOutcome::Done)
    }

    pub(crate) async fn rename_device(
        &self,
        holder: &Holder,
        device: &Id,
        name: &str,
    ) -> Result<CeremonyOutcome, Denial> {
        let (event, now) = (holder.about(EventKind::DeviceRename, device, name), self.clock.time_of_day());
        self.audit.write(event.clone()).await?;
        let _turn = self.unlocked_turn(holder, &event).await?;
        match self.store.rename_device((device, name), &holder.user, &holder.ground, now).await? {
            Kept::Yes => Ok(CeremonyOutcome::Done),
            Kept::No => Err(self.not_there(event).await),
            Kept::GroundGone => Err(self.not_kept(event).await),
        }
    }

    pub(crate) async fn new_recovery_codes(&self, holder: &Holder) -> Result<Vec<Secret>, Denial> {
        let user = &holder.user;
        let codes = recovery::new_codes();
        let hash = |code: &Zeroizing<String>| {
            recovery::hash(&self.keys, user, code).expect("a code of ours has the form of one")
        };
        let hashes: Vec<_> = codes.iter().map(hash).collect();
        let (event, now) = (holder.event(EventKind::DeviceCodes), self.clock.time_of_day());
        self.audit.write(event.clone()).await?;
        let _turn = self.unlocked_turn(holder, &event).await?;
        match self.store.replace_recovery_codes(user, &hashes, &holder.ground, now).await? {
            Kept::Yes => {}
            Kept::No | Kept::GroundGone => return Err(self.not_kept(event).await),
        }
        Ok(codes.iter().map(|code| Secret(code.to_string())).collect())
    }
}

const LAST_KEY: &str = "this is your last key, and without one there is no way in: add another one first";

fn is_app(devices: &[MfaDevice], id: &Id) -> bool {
    devices.iter().any(|device| device.id == *id && device.kind == MfaDeviceKind::App)
}

/// A name that can stand in a line of a table.
fn check_name(name: &str) -> Result<(), Denial> {
    let is_shown = crate::grants::shown(name) == name;
    match is_shown && !name.trim().is_empty() && name.chars().count() <= MAX_DEVICE_NAME {
        true => Ok(()),
        false => Err(Denial::BadRequest(format!(
            "a key's or app's name has 1 to {MAX_DEVICE_NAME} characters, all of which can be seen"
        ))),
    }
}
