//! The login as the service has it: read from its files when they change, ended when its time or control says so, and
//! the catalogue of what it may reach.

use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::Duration;

use portlatch_clock::BootTime;
use portlatch_protocol::api::{Catalogue, ProblemCode};
use portlatch_protocol::attach::{CertificateBytes, ToDaemon};
use portlatch_protocol::names::{Hostname, UserName};
use tokio_util::sync::CancellationToken;

use super::attach::DaemonState;
use super::work::Done;
use super::{Service, Trouble};
use crate::control::{ApiError, Control, SharedControl};
use crate::login::{self, LoginFile};

/// Pause before control is asked for the catalogue again after an error.
const CATALOGUE_AGAIN: Duration = Duration::from_secs(1);

/// What identifies one content of the login's file.
type Stamp = (u64, i64, i64);

/// Who is logged in.
#[derive(Debug, Default)]
pub(super) struct LoginState {
    pub(super) active: Option<ActiveLogin>,
    /// After a failed attach the next one waits until then, on whichever link.
    pub(super) attach_after: Option<BootTime>,
    /// How often in a row another agent of this user stood in the way.
    pub(super) taken: u32,
    /// The clock alone ended it, and clocks are set.
    lapsed: Option<LoginFile>,
    /// Whose login was the last one.
    last: Option<(Hostname, UserName)>,
    stamp: Option<Stamp>,
    has_looked: bool,
}

/// A login that serves.
#[derive(Debug)]
pub(super) struct ActiveLogin {
    pub(super) file: LoginFile,
    pub(super) control: SharedControl,
    pub(super) ca: CertificateBytes,
    pub(super) number: u64,
    cancel: CancellationToken,
}

impl Service {
    /// Looks whether there is another login than before, or none.
    pub(super) fn handle_login_files(&mut self) {
        let stamp = std::fs::metadata(self.files.state("login.json"));
        let stamp = stamp.ok().map(|file| (file.ino(), file.mtime(), file.mtime_nsec()));
        if self.login.has_looked && stamp == self.login.stamp {
            return;
        }
        self.login.stamp = stamp;
        match std::mem::replace(&mut self.login.has_looked, true) {
            false => self.read_login("Nobody is logged in: run `portlatch login`."),
            true => self.read_login("Logged out: run `portlatch login` to log in again."),
        }
    }

    /// A clock that was ahead is right again: the login that it ended is not over.
    pub(super) fn take_up_lapsed_login(&mut self) {
        let now = self.clock.time_of_day();
        if self.login.lapsed.as_ref().is_some_and(|file| file.time_left(now).is_some()) {
            self.read_login("Logged out: run `portlatch login` to log in again.");
        }
    }

    fn read_login(&mut self, without: &str) {
        let login = login::read(&self.files);
        self.settle(Trouble::Files);
        self.detach();
        (self.login.attach_after, self.login.lapsed) = (None, None);
        match login {
            Ok(Some(login)) => self.begin_login(&login),
            Ok(None) => self.note(without),
            Err(error) => self.complain(Trouble::Files, format!("{error}.")),
        }
    }

    fn begin_login(&mut self, login: &login::Login) {
        if login.file.time_left(self.clock.time_of_day()).is_none() {
            self.login.lapsed = Some(login.file.clone());
            return self.note("Your login has ended: run `portlatch login`.");
        }
        let control = match Control::for_login(login, &self.clock) {
            Ok(control) => Arc::new(control),
            Err(error) => return self.complain(Trouble::Files, format!("{error}.")),
        };
        let who = (login.file.cluster.clone(), login.file.user.clone());
        if self.login.last.replace(who.clone()).is_some_and(|last| last != who) {
            self.forget_user();
        }
        let number = self.next_number();
        self.login.active = Some(ActiveLogin {
            file: login.file.clone(),
            control,
            ca: CertificateBytes(login.ca.to_vec()),
            number,
            cancel: CancellationToken::new(),
        });
        self.note(format!("Logged in to {} as {}.", login.file.cluster, login.file.user));
        self.poll_catalogue(Duration::ZERO);
    }

    /// Takes the login back from the daemon and forgets what it could reach.
    pub(super) fn detach(&mut self) {
        let Some(active) = self.login.active.take() else { return };
        active.cancel.cancel();
        self.catalogue = None;
        // Also those that need no daemon: a change of keys.
        self.drop_requests("the login has ended: run `portlatch login`");
        self.settle(Trouble::Attach);
        self.settle(Trouble::Control);
        if matches!(self.daemon, DaemonState::Attaching(..) | DaemonState::Attached(..)) {
            self.send(ToDaemon::Detach);
            // What was sent still goes out; then the link is begun anew for the next login.
            self.handle_daemon_gone();
        }
    }

    /// The login is over, though its files are still there.
    pub(super) fn end_login(&mut self, why: &str) {
        if self.login.active.is_none() {
            return;
        }
        self.detach();
        self.note(why);
    }

    pub(super) fn end_expired_login(&mut self) {
        let now = self.clock.time_of_day();
        let active = self.login.active.as_ref().map(|active| &active.file);
        let Some(lapsed) = active.filter(|file| file.time_left(now).is_none()).cloned() else { return };
        self.end_login("Your login has ended: run `portlatch login`.");
        self.login.lapsed = Some(lapsed);
    }

    fn poll_catalogue(&mut self, pause: Duration) {
        let Some(active) = &self.login.active else { return };
        let (control, login, cancel) = (active.control.clone(), active.number, active.cancel.clone());
        let after = self.catalogue.as_ref().map(|catalogue| catalogue.revision);
        self.tasks.spawn(async move {
            let poll = async {
                tokio::time::sleep(pause).await;
                control.catalogue(after).await
            };
            let result = cancel.run_until_cancelled(poll).await;
            Done::Catalogue { login, result: result.unwrap_or(Ok(None)) }
        });
    }

    pub(super) fn handle_catalogue(&mut self, login: u64, result: Result<Option<Catalogue>, ApiError>) {
        if !self.is_current(login) {
            return;
        }
        match result {
            Ok(Some(catalogue)) => {
                self.settle(Trouble::Control);
                self.catalogue = Some(Arc::new(catalogue));
                // From the tunnel's certificate on the daemon has one, whether or not it has said already that it serves.
                if self.daemon.tunnel_key().is_some() {
                    self.send_catalogue();
                }
                self.offer_login();
                self.poll_catalogue(Duration::ZERO);
            }
            Ok(None) => {
                self.settle(Trouble::Control);
                self.poll_catalogue(Duration::ZERO);
            }
            Err(error) if error.is_login_over() => {
                self.end_login(&over(&error));
            }
            Err(error) => {
                self.complain(Trouble::Control, format!("{error}."));
                self.poll_catalogue(CATALOGUE_AGAIN);
            }
        }
    }

    pub(super) fn is_current(&self, login: u64) -> bool {
        self.login.active.as_ref().is_some_and(|active| active.number == login)
    }
}

/// What a person is told of a login that control has ended.
pub(super) fn over(error: &ApiError) -> String {
    match error.code() {
        Some(ProblemCode::LoginEnded) => "Your login has ended: run `portlatch login`.".to_owned(),
        Some(_) | None => format!("Your login has ended: {error}."),
    }
}
