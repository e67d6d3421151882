//! What people and their commands want of the service.

use std::sync::Arc;
use std::time::Duration;

use portlatch_clock::BootTime;
use portlatch_protocol::api::Catalogue;
use portlatch_protocol::attach::{Refusal, Status, ToDaemon};
use portlatch_protocol::names::Hostname;
use portlatch_protocol::refusal::RefusalReason;
use portlatch_protocol::resource::Resource;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::attach::DaemonState;
use super::work::Done;
use super::{Service, Trouble};
use crate::broker::Subject;
use crate::control::ApiError;
use crate::identify::{Program, owner_of_socket};
use crate::local::Tell;
use crate::login;
use crate::safe_text::safe;
use crate::status::{GrantView, RefusalView, StatusReport, StatusView};

/// How long the daemon has to say how things are.
const STATUS_TIME: Duration = Duration::from_secs(2);

/// What a tap is told while the attach goes on.
const NOT_YET: &str = "the login is not attached yet: try again in a moment";

/// A wish.
#[derive(Debug)]
pub(crate) enum Command {
    /// How things are.
    Status(oneshot::Sender<StatusReport>),
    /// What the login may reach.
    Catalogue(oneshot::Sender<Option<Arc<Catalogue>>>),
    /// All that happens, and the prompt that is open now.
    Watch(oneshot::Sender<(Option<Tell>, broadcast::Receiver<Tell>)>),
    /// No to this prompt.
    Deny(u64),
    /// Enter was pressed.
    Enter,
    /// A ceremony beforehand.
    Tap {
        /// Host name or resource.
        host: String,
        /// The port, if one was named.
        port: Option<u16>,
        /// Who asks.
        pid: u32,
        /// What comes of it.
        tells: mpsc::Sender<Tell>,
    },
    /// The login's files have changed.
    LoginChanged,
    /// End the login.
    Logout(oneshot::Sender<Tell>),
}

impl Service {
    pub(super) fn handle_command(&mut self, command: Command) {
        // Whoever asked may have gone meanwhile: then nobody needs the answer.
        match command {
            Command::Status(reply) => self.handle_status_wanted(reply),
            Command::Catalogue(reply) => {
                let _ = reply.send(self.catalogue.clone());
            }
            Command::Watch(reply) => {
                let _ = reply.send((self.prompt_tell(), self.people.subscribe()));
            }
            Command::Deny(number) => self.handle_deny(number),
            Command::Enter => (self.enter)(),
            Command::Tap { host, port, pid, tells } => self.handle_tap_command(&host, port, pid, tells),
            Command::LoginChanged => self.handle_login_files(),
            Command::Logout(reply) => self.handle_logout(reply),
        }
    }

    fn handle_status_wanted(&mut self, reply: oneshot::Sender<StatusReport>) {
        let (is_settling, takes_questions) = (self.is_settling(), self.daemon.takes_questions());
        if !is_settling && !takes_questions {
            let _ = reply.send(self.report(&[]));
            return;
        }
        self.status_wanted.push((reply, self.clock.boot_time() + STATUS_TIME));
        if !is_settling {
            self.send(ToDaemon::StatusWanted);
        }
    }

    /// Whether the daemon or the attach is about to be there: whoever asks just then rather waits a moment than hears
    /// half of it.
    fn is_settling(&self) -> bool {
        match self.daemon {
            DaemonState::Down => !self.complaints.contains_key(&Trouble::Daemon),
            DaemonState::Up(_) | DaemonState::Attaching(..) => {
                self.login.active.is_some() && self.login.attach_after.is_none() && self.complaints.is_empty()
            }
            DaemonState::Attached(..) | DaemonState::Spent(_) => false,
        }
    }

    pub(super) fn handle_status(&mut self, status: Status) {
        let grants: Vec<GrantView> = status.grants.iter().map(GrantView::from).collect();
        self.refusals.add_older(status.refusals);
        if self.is_settling() {
            return;
        }
        for (reply, _) in std::mem::take(&mut self.status_wanted) {
            let _ = reply.send(self.report(&grants));
        }
    }

    /// A daemon that does not answer is left out.
    pub(super) fn answer_status_late(&mut self, now: BootTime) {
        let is_daemon_gone = self.daemon.sender().is_none() && !self.is_settling();
        let wanted = std::mem::take(&mut self.status_wanted).into_iter();
        let (late, waiting): (Vec<_>, Vec<_>) =
            wanted.partition(|(_, deadline)| is_daemon_gone || *deadline <= now);
        self.status_wanted = waiting;
        for (reply, _) in late {
            let _ = reply.send(self.report(&[]));
        }
    }

    fn report(&self, grants: &[GrantView]) -> StatusReport {
        let mut troubles: Vec<(Trouble, String)> =
            self.complaints.iter().map(|(trouble, text)| (*trouble, text.clone())).collect();
        troubles.sort();
        let troubles = troubles.into_iter().map(|(_, text)| text).collect();
        StatusReport { status: Box::new(self.status(grants)), troubles }
    }

    fn status(&self, grants: &[GrantView]) -> StatusView {
        let login = self.login.active.as_ref().map(|active| &active.file);
        StatusView {
            agent: true,
            daemon: self.daemon.sender().is_some(),
            prompts: self.open_view().into_iter().collect(),
            grants: grants.to_vec(),
            refusals: self.refusals.views(),
            ..StatusView::of_login(login)
        }
    }

    pub(super) fn handle_refusal(&mut self, refusal: Refusal) {
        let known = self.programs.iter().find(|(inode, _)| *inode == refusal.inode && refusal.inode != 0);
        match known.map(|(_, program)| program.clone()) {
            Some(program) => self.handle_identified(refusal, Some(program)),
            None => {
                self.tasks.spawn(async move {
                    let program = owner_of_socket(refusal.inode).await;
                    Done::Identified { refusal, program }
                });
            }
        }
    }

    pub(super) fn handle_identified(&mut self, refusal: Refusal, program: Option<Program>) {
        let is_said_by_prompt = matches!(refusal.reason, RefusalReason::Denied | RefusalReason::TimedOut);
        if !is_said_by_prompt {
            self.note(RefusalView::new(&refusal, program.clone()).line());
        }
        self.refusals.add(refusal, program);
    }

    fn handle_tap_command(&mut self, host: &str, port: Option<u16>, pid: u32, tells: mpsc::Sender<Tell>) {
        match self.tap_subject(host, port) {
            Ok((subject, host)) => self.handle_tap_wanted(subject, host, pid, tells),
            Err(failed) => {
                let _ = tells.try_send(failed);
            }
        }
    }

    fn tap_subject(&self, host: &str, port: Option<u16>) -> Result<(Subject, String), Tell> {
        let failed = |text: &str| Tell::Failed { denied: false, text: text.to_owned() };
        if self.login.active.is_none() {
            return Err(failed("nobody is logged in: run `portlatch login`"));
        }
        let Some(catalogue) = self.catalogue.as_ref().filter(|_| self.is_attached()) else {
            let why = [Trouble::Daemon, Trouble::Attach, Trouble::Control];
            let why = why.iter().find_map(|trouble| self.complaints.get(trouble));
            return Err(failed(why.map_or(NOT_YET, String::as_str)));
        };
        let resource = find(catalogue, host).ok_or_else(|| {
            failed(&format!("{} is not among your resources: run `portlatch ls`", safe(host)))
        })?;
        let port = port.or_else(|| only_port(resource)).ok_or_else(|| {
            failed(&format!("{} has several ports: name one, as in {}:PORT", resource.id.name, safe(host)))
        })?;
        if !resource.has_port(port) {
            return Err(failed(&format!("{} has no port {port}: run `portlatch ls`", resource.id.name)));
        }
        Ok((Subject { resource: resource.id.clone(), port }, safe(host)))
    }

    fn handle_logout(&mut self, reply: oneshot::Sender<Tell>) {
        let Some(active) = &self.login.active else {
            return self.handle_logged_out(reply, &Ok(()));
        };
        let control = active.control.clone();
        // What control says of this login from now on is no news.
        self.retire_login();
        self.tasks.spawn(async move { Done::LoggedOut { reply, result: control.logout().await } });
    }

    /// Whatever control says, this machine forgets the login.
    pub(super) fn handle_logged_out(&mut self, reply: oneshot::Sender<Tell>, result: &Result<(), ApiError>) {
        self.detach();
        let tell = match login::remove(&self.files) {
            Ok(()) => Tell::Done { text: crate::commands::logged_out(result) },
            Err(error) => Tell::Failed { denied: false, text: error.to_string() },
        };
        let _ = reply.send(tell);
        self.handle_login_files();
    }
}

/// The resource with this host name or, failing that, of this name.
fn find<'c>(catalogue: &'c Catalogue, host: &str) -> Option<&'c Resource> {
    let by_host = host.parse::<Hostname>().ok().and_then(|host| {
        let exact = |resource: &&Resource| resource.host.as_str() == host.as_str();
        let matching = |resource: &&Resource| resource.host.matches(&host);
        catalogue.resources.iter().find(exact).or_else(|| catalogue.resources.iter().find(matching))
    });
    by_host.or_else(|| catalogue.resources.iter().find(|resource| resource.id.name.as_str() == host))
}

fn only_port(resource: &Resource) -> Option<u16> {
    match resource.ports[..] {
        [only] if only.first() == only.last() => Some(only.first()),
        _ => None,
    }
}
