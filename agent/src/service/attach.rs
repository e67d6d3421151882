//! The daemon and the login: whatever changes of daemon, login and catalogue, the login is attached again as soon as all
//! three are there.
//!
//! ```text
//! no login --login file--> logged in --catalogue--> (daemon up) Attach --> certify --> Attached
//!    ^                        |
//!    '--- expired, ended, logged out: Detach
//! ```

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portlatch_clock::BootTime;
use portlatch_protocol::api::{Catalogue, TunnelCertificate};
use portlatch_protocol::attach::{
    Attach, AttachRefusal, CataloguePart, CertificateBytes, MAX_PART, ToAgent, ToDaemon,
};
use portlatch_protocol::thumbprint::Thumbprint;
use tokio::sync::mpsc;

use super::login::over;
use super::work::Done;
use super::{Service, Trouble};
use crate::control::ApiError;
use crate::daemon::{DaemonError, LinkEvent};
use crate::safe_text::safe_sentence;

/// How long after a failed attach it is tried again: root may have run `portlatchd trust` meanwhile.
const ATTACH_AGAIN: Duration = Duration::from_secs(3);
/// How long after another agent stood in the way: it is most likely just ending. One that stays is asked less and less
/// often, since each try is a certificate of control.
const TAKEN_AGAIN: Duration = Duration::from_millis(500);
const TAKEN_AGAIN_AT_MOST: Duration = Duration::from_secs(30);
/// From the first of these pauses to the longest.
const MAX_DOUBLINGS: u32 = 6;

/// How far the daemon and we are.
#[derive(Debug)]
pub(super) enum DaemonState {
    /// It is not there.
    Down,
    /// It is there.
    Up(mpsc::Sender<ToDaemon>),
    /// A login is offered; the thumbprint is there once control has certified the tunnel key.
    Attaching(mpsc::Sender<ToDaemon>, Option<Thumbprint>),
    /// The login serves.
    Attached(mpsc::Sender<ToDaemon>, Thumbprint),
    /// The attach failed; a new one begins with a new link.
    Spent(mpsc::Sender<ToDaemon>),
}

impl DaemonState {
    pub(super) const fn sender(&self) -> Option<&mpsc::Sender<ToDaemon>> {
        match self {
            Self::Down => None,
            Self::Up(sender)
            | Self::Attaching(sender, _)
            | Self::Attached(sender, _)
            | Self::Spent(sender) => Some(sender),
        }
    }

    /// Whether it may be asked how things are: between an offer and its certificate it waits for the one thing.
    pub(super) const fn takes_questions(&self) -> bool {
        match self {
            Self::Up(_) | Self::Attaching(_, Some(_)) | Self::Attached(..) => true,
            Self::Down | Self::Attaching(_, None) | Self::Spent(_) => false,
        }
    }

    /// The tunnel key that grants are to be bound to.
    pub(super) const fn tunnel_key(&self) -> Option<&Thumbprint> {
        match self {
            Self::Attaching(_, thumbprint) => thumbprint.as_ref(),
            Self::Attached(_, thumbprint) => Some(thumbprint),
            Self::Down | Self::Up(_) | Self::Spent(_) => None,
        }
    }
}

impl Service {
    /// Attaches once login, catalogue and daemon are there.
    pub(super) fn offer_login(&mut self) {
        let (Some(active), Some(_), DaemonState::Up(sender)) =
            (&self.login.active, &self.catalogue, &self.daemon)
        else {
            return;
        };
        if self.login.attach_after.is_some() {
            return;
        }
        let Some(expires_in) = active.file.time_left(self.clock.time_of_day()) else { return };
        let attach = Attach {
            cluster: active.file.cluster.clone(),
            user: active.file.user.clone(),
            login: active.file.login.clone(),
            ca: active.ca.clone(),
            expires_in,
        };
        self.daemon = DaemonState::Attaching(sender.clone(), None);
        self.send(ToDaemon::Attach(attach));
    }

    pub(super) fn handle_link(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Up(sender) => {
                self.daemon = DaemonState::Up(sender);
                self.settle(Trouble::Daemon);
                self.greet_daemon();
                self.offer_login();
            }
            LinkEvent::Down(error) => self.handle_link_down(&error),
            LinkEvent::Message(message) => self.handle_message(*message),
        }
    }

    fn handle_link_down(&mut self, error: &DaemonError) {
        let was_in_use = matches!(self.daemon, DaemonState::Attaching(..) | DaemonState::Attached(..));
        self.handle_daemon_gone();
        match error {
            DaemonError::NotRunning
            | DaemonError::Impostor { .. }
            | DaemonError::Version { .. }
            | DaemonError::Io(_) => self.complain(Trouble::Daemon, format!("{error}.")),
            DaemonError::Ended | DaemonError::Silent | DaemonError::NotUnderstood(_) if was_in_use => {
                self.complain(Trouble::Daemon, format!("{error}: connecting again."));
            }
            DaemonError::Ended | DaemonError::Silent | DaemonError::NotUnderstood(_) => {}
        }
        self.answer_status_late(self.clock.boot_time());
    }

    /// Asks an idle daemon how things are.
    pub(super) fn greet_daemon(&mut self) {
        if matches!(self.daemon, DaemonState::Up(_)) {
            self.send(ToDaemon::StatusWanted);
        }
    }

    fn handle_message(&mut self, message: ToAgent) {
        // After we let go of a link, what it still had to say is of no use.
        if self.daemon.sender().is_none() {
            return;
        }
        match message {
            ToAgent::CertifyTunnel(csr) => self.certify(csr),
            ToAgent::Attached => self.handle_attached(),
            ToAgent::AttachRefused(refusal, text) => self.handle_attach_refused(refusal, &text),
            ToAgent::AccessWanted(wanted) => self.handle_access_wanted(wanted),
            ToAgent::Proceed(request) => self.handle_proceed(request),
            ToAgent::Cancel(request, reason) => self.handle_cancel(request, reason),
            ToAgent::Waiting(request, programs, first) => {
                self.handle_waiting(request, programs, first);
            }
            ToAgent::Refusal(refusal) => self.handle_refusal(refusal),
            ToAgent::Status(status) => self.handle_status(status),
            ToAgent::Welcome(_) | ToAgent::Machine(_) => tracing::debug!("a word that was not asked for"),
        }
    }

    fn certify(&mut self, csr: CertificateBytes) {
        let Some(active) = &self.login.active else { return };
        let (control, login) = (active.control.clone(), active.number);
        self.tasks.spawn(async move { Done::Certified { login, result: control.certify(&csr.0).await } });
    }

    pub(super) fn handle_certified(&mut self, login: u64, result: Result<TunnelCertificate, ApiError>) {
        if !self.is_current(login) {
            return;
        }
        let DaemonState::Attaching(sender, _) = &self.daemon else { return };
        let certified = result.map(|tunnel| (STANDARD.decode(&tunnel.certificate), tunnel.thumbprint));
        match certified {
            Ok((Ok(certificate), thumbprint)) => {
                self.daemon = DaemonState::Attaching(sender.clone(), Some(thumbprint));
                self.send(ToDaemon::TunnelCertificate(vec![CertificateBytes(certificate)]));
                self.send_catalogue();
            }
            Ok((Err(_), _)) => {
                self.wait_to_attach("the server's tunnel certificate is no base64.", ATTACH_AGAIN)
            }
            Err(error) if error.is_login_over() => {
                self.end_login(&over(&error));
            }
            Err(error) => self.wait_to_attach(&format!("{error}."), ATTACH_AGAIN),
        }
    }

    pub(super) fn send_catalogue(&mut self) {
        let Some(catalogue) = self.catalogue.clone() else { return };
        for part in parts(&catalogue) {
            self.send(ToDaemon::Catalogue(part));
        }
    }

    fn handle_attached(&mut self) {
        let DaemonState::Attaching(sender, Some(thumbprint)) = &self.daemon else { return };
        self.daemon = DaemonState::Attached(sender.clone(), thumbprint.clone());
        self.login.taken = 0;
        self.settle(Trouble::Attach);
        if !self.status_wanted.is_empty() {
            self.send(ToDaemon::StatusWanted);
        }
        if let Some(active) = &self.login.active {
            self.note(format!("Attached: this machine now serves the names of {}.", active.file.cluster));
        }
    }

    fn handle_attach_refused(&mut self, refusal: AttachRefusal, text: &str) {
        let pause = match refusal {
            AttachRefusal::AlreadyAttached => {
                let pause = TAKEN_AGAIN.saturating_mul(1 << self.login.taken.min(MAX_DOUBLINGS));
                self.login.taken = self.login.taken.saturating_add(1);
                pause.min(TAKEN_AGAIN_AT_MOST)
            }
            AttachRefusal::UntrustedCluster
            | AttachRefusal::BadCertificate
            | AttachRefusal::Version
            | AttachRefusal::Limit => ATTACH_AGAIN,
        };
        self.wait_to_attach(
            &format!("The Portlatch service refused the login: {}", safe_sentence(text)),
            pause,
        );
    }

    fn wait_to_attach(&mut self, why: &str, pause: Duration) {
        self.complain(Trouble::Attach, why);
        self.login.attach_after = Some(self.clock.boot_time() + pause);
        if let Some(sender) = self.daemon.sender().cloned() {
            self.daemon = DaemonState::Spent(sender);
        }
    }

    pub(super) fn retry_attach(&mut self, now: BootTime) {
        if self.login.attach_after.take_if(|at| *at <= now).is_none() {
            return;
        }
        match &self.daemon {
            DaemonState::Spent(_) => self.handle_daemon_gone(),
            DaemonState::Up(_) => self.offer_login(),
            DaemonState::Down | DaemonState::Attaching(..) | DaemonState::Attached(..) => {}
        }
    }

    /// The link is gone, or is let go: nobody waits for what it asked.
    pub(super) fn handle_daemon_gone(&mut self) {
        self.daemon = DaemonState::Down;
        self.drop_requests_of_daemon("the Portlatch service has ended the connection: try again");
    }
}

/// The catalogue in parts that fit a frame; zones and proxies travel with the last.
fn parts(catalogue: &Catalogue) -> Vec<CataloguePart> {
    let mut parts: Vec<CataloguePart> = catalogue
        .resources
        .chunks(MAX_PART)
        .map(|resources| CataloguePart {
            resources: resources.to_vec(),
            zones: Vec::new(),
            proxies: Vec::new(),
            outside: Vec::new(),
            is_last: false,
        })
        .collect();
    parts.push(CataloguePart {
        resources: Vec::new(),
        zones: catalogue.zones.clone(),
        proxies: catalogue.proxies.clone(),
        outside: catalogue.outside.clone(),
        is_last: true,
    });
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use portlatch_protocol::ports::PortRange;
    use portlatch_protocol::resource::{Hold, MfaNeed, Resource};

    #[test]
    fn a_catalogue_travels_in_parts_and_the_last_says_so() {
        let resource = |n: usize| Resource {
            id: format!("app/a{n}").parse().unwrap(),
            host: format!("a{n}.corp.internal").parse().unwrap(),
            ports: vec![PortRange::single(80).unwrap()],
            hold: Hold::Hybrid,
            mfa: MfaNeed::Tap,
            labels: Default::default(),
            description: String::new(),
            proxies: vec![],
            protocol: None,
            refusal: Default::default(),
        };
        let catalogue = Catalogue {
            revision: 1,
            resources: (0..MAX_PART * 2 + 1).map(resource).collect(),
            zones: vec![],
            proxies: vec![],
            outside: vec!["proxy.example.com".parse().unwrap()],
        };
        let parts = parts(&catalogue);
        let last: Vec<bool> = parts.iter().map(|part| part.is_last).collect();
        assert_eq!(last, [false, false, false, true]);
        let together: Vec<Resource> = parts.iter().flat_map(|part| part.resources.clone()).collect();
        assert_eq!(together, catalogue.resources);
        assert_eq!(parts[3].outside, catalogue.outside);
    }
}
