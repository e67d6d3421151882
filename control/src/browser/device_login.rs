//! `portlatch login` at a page: the agent brings its key's certificate request and waits; somebody signs in at the page, for
//! this device; and the agent takes the login with its secret and what the page gave it.
//!
//! Nobody needs to be known for such a request to be made, so that it shows only what its agent claims: a device's name,
//! and the address that it came from.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portlatch_audit::{Event, EventKind};
use portlatch_clock::BootTime;
use portlatch_protocol::api::browser::{BrowserLogin, BrowserLoginRequest, PageDecision};
use portlatch_protocol::api::ceremony::{BrowserOffer, BrowserProof};
use portlatch_protocol::api::{LoginGranted, Secret};
use portlatch_protocol::names::{DeviceName, Id, UserName};

use super::approval::{Approval, Claimed, CrossDevice, Place, PlaceVerdict, Redirect};
use super::waiting::CROSS_DEVICE;
use crate::api::problem::Denial;
use crate::authority::ProvenKey;
use crate::ceremony::TableFull;
use crate::control::{Control, random_id};
use crate::login::limits::network_of;
use crate::login::{PageLogin, proven};
use crate::webauthn::VerifiedTap;

/// How long a login waits for its page: people look for their password, and their key.
const LIFETIME: Duration = Duration::from_secs(5 * 60);
/// Logins that wait at once, in all: some 1 KiB each.
const MAX_WAITING: usize = 4096;
/// Of these from one address: an office behind one address.
const MAX_PER_ADDRESS: usize = 128;

/// Somebody who signed in for a device.
#[derive(Debug, Clone)]
struct SignedIn {
    user: UserName,
    tap: VerifiedTap,
}

/// A login that waits for its page.
#[derive(Debug, Clone)]
struct DeviceLogin {
    user: Option<UserName>,
    device: DeviceName,
    key: ProvenKey,
    address: IpAddr,
    approval: Approval<SignedIn>,
    expires: BootTime,
}

/// What waits, as its page shows it.
#[derive(Debug, Clone)]
pub(crate) struct WaitingDevice {
    /// Who must sign in, if it says so.
    pub(crate) user: Option<UserName>,
    /// What the machine calls itself.
    pub(crate) device: DeviceName,
    /// Where it is.
    pub(crate) address: IpAddr,
    /// Where a browser on it goes.
    pub(crate) port: u16,
}

/// The logins that wait.
#[derive(Debug, Default)]
pub(crate) struct DeviceLogins {
    /// A std mutex: taking must be one step with looking, and no await lies in between.
    open: Mutex<HashMap<Id, DeviceLogin>>,
}

impl DeviceLogins {
    fn lock(&self) -> MutexGuard<'_, HashMap<Id, DeviceLogin>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, id: Id, login: DeviceLogin) -> Result<(), TableFull> {
        let mut open = self.lock();
        let network = network_of(login.address);
        let from_there = open.values().filter(|other| network_of(other.address) == network).count();
        if open.len() >= MAX_WAITING || from_there >= MAX_PER_ADDRESS {
            return Err(TableFull);
        }
        open.insert(id, login);
        Ok(())
    }

    fn look<R>(&self, id: &Id, now: BootTime, look: impl FnOnce(&mut DeviceLogin) -> R) -> Option<R> {
        self.lock().get_mut(id).filter(|found| found.expires > now).map(look)
    }

    fn take(&self, id: &Id, now: BootTime) -> Option<DeviceLogin> {
        self.lock().remove(id).filter(|taken| taken.expires > now)
    }

    /// Takes a login that was approved, if the agent shows what it takes; otherwise it stays.
    fn take_approved(&self, id: &Id, proof: &BrowserProof, now: BootTime) -> Option<(DeviceLogin, SignedIn)> {
        let mut open = self.lock();
        let signed_in = open.get(id).filter(|found| found.expires > now)?.approval.redeemed(proof, now)?;
        Some((open.remove(id)?, signed_in))
    }

    /// Forgets what has ended, and gives it to the audit.
    pub(crate) fn take_expired(&self, now: BootTime) -> Vec<Event> {
        let mut open = self.lock();
        let over = open.extract_if(|_, login| login.expires <= now);
        over.map(|(_, login)| login.failed("timed_out")).collect()
    }
}

impl DeviceLogin {
    fn event(&self, kind: EventKind) -> Event {
        let (device, client_addr) = (Some(self.device.clone()), Some(self.address.to_string()));
        let detail = Some("login at a page".to_owned());
        Event { user: self.user.clone(), device, client_addr, detail, ..Event::new(kind) }
    }

    fn failed(&self, reason: &str) -> Event {
        Event { reason: Some(reason.to_owned()), ..self.event(EventKind::MfaFail) }
    }
}

impl Control {
    /// Begins a login at a page.
    ///
    /// # Errors
    /// A [`Denial`].
    pub(crate) async fn begin_browser_login(
        &self,
        request: &BrowserLoginRequest,
        address: IpAddr,
    ) -> Result<BrowserLogin, Denial> {
        let now = self.clock.boot_time();
        if !self.login_limits.by_address.take(&network_of(address), now) {
            return Err(Denial::RateLimited);
        }
        // Whose roles count is known once somebody has signed in: until then every login has a code.
        let approval = Approval::new(&request.browser, CrossDevice::WithCode)?;
        let (ceremony, key) = (random_id(), proven(&request.csr)?);
        let url = format!("https://{}/login/device/{ceremony}", self.authority_part());
        let offer = BrowserOffer { url, code: approval.code() };
        let (user, device) = (request.user.clone(), request.device.clone());
        let login = DeviceLogin { user, device, key, address, approval, expires: now + LIFETIME };
        let made = login.event(EventKind::MfaChallenge);
        // Kept before it is recorded: one that finds no room was never made, and ends on no record either.
        self.browsers.logins.insert(ceremony.clone(), login)?;
        if let Err(error) = self.audit.write(made).await {
            drop(self.browsers.logins.take(&ceremony, now));
            return Err(error.into());
        }
        Ok(BrowserLogin { ceremony, browser: offer, expires_in: LIFETIME.as_secs() })
    }

    /// What waits behind this name.
    pub(crate) fn waiting_device(&self, id: &Id) -> Option<WaitingDevice> {
        let found = self.browsers.logins.look(id, self.clock.boot_time(), |login| {
            login.approval.is_open().then(|| WaitingDevice {
                user: login.user.clone(),
                device: login.device.clone(),
                address: login.address,
                port: login.approval.port(),
            })
        });
        found.flatten()
    }

    /// Where a browser may be that signs in for a device; a wrong code counts, and the last one ends the request.
    ///
    /// # Errors
    /// A [`Denial`].
    pub(crate) async fn device_place(&self, id: &Id, claimed: &Claimed) -> Result<Place, Denial> {
        let now = self.clock.boot_time();
        let verdict = self.browsers.logins.look(id, now, |login| {
            let verdict = login.approval.place(claimed);
            (verdict, login.failed("page_code"))
        });
        match verdict.ok_or(Denial::NotFound)? {
            (PlaceVerdict::Fits(place), _) => Ok(place),
            (PlaceVerdict::Wrong(left), event) => {
                self.audit.note(event).await;
                let tries = if left == 1 { "one try is" } else { "two tries are" };
                Err(Denial::Refused(format!(
                    "this is not the code that the other machine shows: {tries} left"
                )))
            }
            (PlaceVerdict::Dead, event) => {
                self.audit.note(event).await;
                self.end_device_login(id, "wrong_page_code").await;
                Err(Denial::NotFound)
            }
            (PlaceVerdict::Refused | PlaceVerdict::Answered, _) => Err(Denial::NotFound),
        }
    }

    /// Approves a device's login, for somebody who has just signed in for it. Gives where the browser goes.
    ///
    /// # Errors
    /// A [`Denial`].
    pub(super) fn approve_device(
        &self,
        id: &Id,
        place: &Place,
        user: &UserName,
        tap: &VerifiedTap,
    ) -> Result<Option<Redirect>, Denial> {
        let waiting = self.waiting_device(id).ok_or(Denial::NotFound)?;
        if waiting.user.is_some_and(|wanted| wanted != *user) {
            return Err(Denial::Refused("another user asked for this login: sign in as that one".to_owned()));
        }
        if *place == Place::Elsewhere && !self.hub.now().world.lets_log_in_elsewhere(user) {
            return Err(Denial::Refused(CROSS_DEVICE.to_owned()));
        }
        let now = self.clock.boot_time();
        let signed_in = SignedIn { user: user.clone(), tap: tap.clone() };
        let approved =
            self.browsers.logins.look(id, now, |login| login.approval.approve(signed_in, place, now));
        let redirect = approved.flatten().ok_or(Denial::NotFound)?;
        self.browsers.tell_agents();
        Ok(redirect)
    }

    /// Denies a device's login; its agent is told at once.
    ///
    /// # Errors
    /// [`Denial::NotFound`].
    pub(crate) async fn deny_device(&self, id: &Id) -> Result<(), Denial> {
        self.waiting_device(id).ok_or(Denial::NotFound)?;
        match self.end_device_login(id, "denied_at_page").await {
            true => Ok(()),
            false => Err(Denial::NotFound),
        }
    }

    async fn end_device_login(&self, id: &Id, reason: &str) -> bool {
        let now = self.clock.boot_time();
        let Some(login) = self.browsers.logins.take(id, now) else { return false };
        self.browsers.deny(id.clone(), now);
        self.audit.note(login.failed(reason)).await;
        true
    }

    /// Waits for what is decided at the page of a login; `None` if nothing is for a while.
    ///
    /// # Errors
    /// [`Denial::CeremonyEnded`] if there is nothing to wait for, or it is another agent's.
    pub(crate) async fn browser_login_decision(
        &self,
        id: &Id,
        secret: &Secret,
    ) -> Result<Option<PageDecision>, Denial> {
        let state = |now: BootTime| {
            let found = self.browsers.logins.look(id, now, |login| {
                let is_ours = login.approval.is_agents(secret);
                is_ours.then(|| login.approval.is_approved_elsewhere())
            });
            found.flatten()
        };
        self.browsers.decision(state, id, &self.clock).await
    }

    /// Ends a login at a page: the agent shows its secret and what the page gave it, and has its certificate.
    ///
    /// # Errors
    /// A [`Denial`].
    pub(crate) async fn finish_browser_login(
        &self,
        id: &Id,
        proof: &BrowserProof,
        address: IpAddr,
    ) -> Result<LoginGranted, Denial> {
        let now = self.clock.boot_time();
        if !self.login_limits.by_address.take(&network_of(address), now) {
            return Err(Denial::RateLimited);
        }
        let Some((login, SignedIn { user, tap })) = self.browsers.logins.take_approved(id, proof, now) else {
            let (client_addr, reason) = (Some(address.to_string()), Some("page_not_approved".to_owned()));
            self.audit.note(Event { client_addr, reason, ..Event::new(EventKind::MfaFail) }).await;
            return Err(Denial::CeremonyEnded);
        };
        // What the user's roles say may have changed since somebody signed in; no code comes back from another machine.
        if proof.code.is_none() && !self.hub.now().world.lets_log_in_elsewhere(&user) {
            self.audit.note(Event { user: Some(user), ..login.failed("cross_device") }).await;
            return Err(Denial::Refused(CROSS_DEVICE.to_owned()));
        }
        let DeviceLogin { device, key, .. } = login;
        self.log_in_from_page(PageLogin { user: &user, device: &device, key: &key, tap: &tap }, address).await
    }
}
