//! Requests for access: from the daemon, whose programs wait, and from `portlatch tap`, which is beforehand.

use std::time::Duration;

use portlatch_clock::BootTime;
use portlatch_protocol::api::{AccessAnswer, AccessRequest, IssuedGrant};
use portlatch_protocol::attach::{AccessWanted, Grant, ToDaemon};
use portlatch_protocol::refusal::RefusalReason;
use tokio::sync::mpsc;

use super::Service;
use super::attach::DaemonState;
use super::login::over;
use super::work::Done;
use crate::broker::{RequestId, Subject};
use crate::control::ApiError;
use crate::identify::{Program, owner_of_socket};
use crate::local::Tell;
use crate::prompt::Waiting;
use crate::safe_text::{safe, safe_sentence};

/// Requests at once: the daemon asks once for each resource and port, so this is more than a person's programs open.
const MAX_REQUESTS: usize = 256;
/// How long the daemon has to say whether a proxy is up; its own limit is 5 s (design section 11).
const TUNNEL_TIME: Duration = Duration::from_secs(30);
/// Sockets whose program is remembered.
const MAX_PROGRAMS: usize = 64;
/// Our own requests' numbers have this bit, the daemon's do not: it counts from zero.
const OURS: u64 = 1 << 63;

/// A request that has not ended.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) origin: Origin,
    pub(super) subject: Subject,
    /// The host name that the program asked for.
    pub(super) host: String,
    pub(super) program: Option<Program>,
    pub(super) waiting: Waiting,
    /// Set while it waits for the daemon.
    pub(super) give_up_at: Option<BootTime>,
}

/// Who wants it.
#[derive(Debug)]
pub(super) enum Origin {
    /// The daemon, for programs that wait.
    Daemon,
    /// `portlatch tap`.
    Tap(mpsc::Sender<Tell>),
}

impl Request {
    /// What it is for, in a line for people.
    pub(super) fn what(&self) -> String {
        format!("{} ({}:{})", self.subject.resource.name, self.host, self.subject.port)
    }
}

impl Service {
    pub(super) fn handle_access_wanted(&mut self, wanted: AccessWanted) {
        let id = RequestId(wanted.request);
        if self.requests.len() >= MAX_REQUESTS || self.requests.contains_key(&id) {
            return self.send(ToDaemon::Refused(wanted.request, RefusalReason::Limit));
        }
        let subject = Subject { resource: wanted.resource, port: wanted.port };
        let request = Request {
            origin: Origin::Daemon,
            subject,
            host: safe(wanted.host.as_str()),
            program: None,
            waiting: Waiting::Yes,
            give_up_at: None,
        };
        self.ask(id, request, wanted.inode);
    }

    /// A ceremony beforehand.
    pub(super) fn handle_tap_wanted(
        &mut self,
        subject: Subject,
        host: String,
        pid: u32,
        tells: mpsc::Sender<Tell>,
    ) {
        if self.requests.len() >= MAX_REQUESTS {
            let text = "too much is going on at once: try again".to_owned();
            let _ = tells.try_send(Tell::Failed { denied: false, text });
            return;
        }
        let program = Program { name: "portlatch tap".to_owned(), pid };
        let request = Request {
            origin: Origin::Tap(tells),
            subject,
            host,
            program: Some(program),
            waiting: Waiting::Yes,
            give_up_at: None,
        };
        let id = RequestId(OURS | self.next_number());
        self.ask(id, request, 0);
    }

    fn ask(&mut self, id: RequestId, request: Request, inode: u64) {
        let (known, subject) = (request.program.clone(), request.subject.clone());
        self.requests.insert(id, request);
        let (Some(active), Some(tunnel_key)) = (&self.login.active, self.daemon.tunnel_key().cloned()) else {
            return self.refuse(id, RefusalReason::NoLogin, None);
        };
        let control = active.control.clone();
        self.tasks.spawn(async move {
            let program = match known {
                Some(program) => Some(program),
                None => owner_of_socket(inode).await,
            };
            let request = access_request(&subject, tunnel_key, program.as_ref());
            let answer = control.access(&request).await;
            Done::Asked { id, inode, program, answer }
        });
    }

    pub(super) fn handle_asked(
        &mut self,
        id: RequestId,
        inode: u64,
        program: Option<Program>,
        answer: Result<AccessAnswer, ApiError>,
    ) {
        if let Some(program) = program.clone().filter(|_| inode != 0) {
            self.programs.push_front((inode, program));
            self.programs.truncate(MAX_PROGRAMS);
        }
        let Some(request) = self.requests.get_mut(&id) else { return };
        request.program = program;
        match answer {
            Ok(AccessAnswer::Granted(grant)) => self.deliver(id, &grant),
            Ok(AccessAnswer::Refused { reason, message }) => {
                self.refuse(id, reason, Some(safe_sentence(&message)))
            }
            Ok(AccessAnswer::TapNeeded { .. }) => self.want_tunnel(id),
            Err(error) => {
                self.refuse(id, error.refusal(), Some(error.to_string()));
                if error.is_login_over() {
                    self.end_login(&over(&error));
                }
            }
        }
    }

    /// Nobody is bothered before a proxy of the resource is up.
    fn want_tunnel(&mut self, id: RequestId) {
        let now = self.clock.boot_time();
        let Some(request) = self.requests.get_mut(&id) else { return };
        if let Some(reason) = self.broker.objection(&request.subject, now) {
            return self.refuse(id, reason, None);
        }
        request.give_up_at = Some(now + TUNNEL_TIME);
        let message = match request.origin {
            Origin::Daemon => ToDaemon::TapNeeded(id.0),
            Origin::Tap(_) => ToDaemon::TunnelWanted(id.0, request.subject.resource.clone()),
        };
        self.send(message);
    }

    pub(super) fn handle_proceed(&mut self, request: u64) {
        let (id, now) = (RequestId(request), self.clock.boot_time());
        // Only a request that waits for this goes on; a repeated word changes nothing.
        let Some(request) = self.requests.get_mut(&id).filter(|request| request.give_up_at.is_some()) else {
            return;
        };
        request.give_up_at = None;
        let (subject, waiting) = (request.subject.clone(), request.waiting);
        self.broker.handle_request(id, subject, now);
        if waiting == Waiting::GaveUp {
            self.broker.handle_abandoned(id, now);
        }
        self.obey_broker();
    }

    pub(super) fn handle_cancel(&mut self, request: u64, reason: RefusalReason) {
        let id = RequestId(request);
        // The daemon knows: only `portlatch tap` is still to be told.
        if let Some(Request { origin: Origin::Tap(tells), .. }) = self.requests.remove(&id) {
            let _ = tells.try_send(failed(reason, None));
        }
        self.broker.handle_refused(id, reason, self.clock.boot_time());
        self.obey_broker();
    }

    pub(super) fn handle_waiting(&mut self, request: u64, programs: u32) {
        let (id, now) = (RequestId(request), self.clock.boot_time());
        let Some(request) = self.requests.get_mut(&id) else { return };
        let is_queued = request.give_up_at.is_none();
        let waiting = match programs {
            0 => Waiting::GaveUp,
            _ => Waiting::Yes,
        };
        if std::mem::replace(&mut request.waiting, waiting) == waiting {
            return;
        }
        match programs {
            0 if is_queued => self.broker.handle_abandoned(id, now),
            0 => {}
            _ => self.broker.handle_rejoined(id),
        }
        self.obey_broker();
        self.show_prompt();
    }

    /// Ends a request with a grant.
    pub(super) fn deliver(&mut self, id: RequestId, grant: &IssuedGrant) {
        let Some(request) = self.requests.remove(&id) else { return };
        let serves = Duration::from_secs(grant.expires_in);
        let Subject { resource, port } = request.subject;
        let for_daemon = Grant {
            token: grant.token.clone(),
            expires_in: serves,
            amr: grant.amr.clone(),
            program: request.program.map(|program| program.name),
        };
        match request.origin {
            Origin::Daemon => self.send(ToDaemon::Granted(id.0, for_daemon)),
            Origin::Tap(tells) => {
                let text = format!("{} ({}:{port}) is open", resource.name, request.host);
                self.send(ToDaemon::Offer(resource, port, for_daemon));
                let _ = tells.try_send(Tell::Tapped { text, seconds: grant.expires_in });
            }
        }
    }

    /// Ends a request without one. The daemon tells of the refusals themselves.
    pub(super) fn refuse(&mut self, id: RequestId, reason: RefusalReason, message: Option<String>) {
        let Some(request) = self.requests.remove(&id) else { return };
        tracing::debug!(%reason, ?message, "refused");
        match request.origin {
            Origin::Daemon => self.send(ToDaemon::Refused(id.0, reason)),
            Origin::Tap(tells) => {
                let _ = tells.try_send(failed(reason, message));
            }
        }
    }

    pub(super) fn give_up_requests(&mut self, now: BootTime) {
        let is_late = |request: &Request| request.give_up_at.is_some_and(|at| at <= now);
        let late: Vec<RequestId> =
            self.requests.iter().filter(|(_, request)| is_late(request)).map(|(id, _)| *id).collect();
        for id in late {
            self.refuse(id, RefusalReason::NoProxy, None);
        }
    }

    /// Whoever ran `portlatch tap` has pressed Ctrl-C.
    pub(super) fn drop_deserted_taps(&mut self) {
        let is_deserted =
            |request: &Request| matches!(&request.origin, Origin::Tap(tells) if tells.is_closed());
        let deserted: Vec<RequestId> =
            self.requests.iter().filter(|(_, request)| is_deserted(request)).map(|(id, _)| *id).collect();
        for id in deserted {
            self.requests.remove(&id);
            self.broker.handle_refused(id, RefusalReason::TimedOut, self.clock.boot_time());
        }
        self.obey_broker();
    }

    /// Nobody is there any more to whom answers could go.
    pub(super) fn drop_requests(&mut self, why: &str) {
        let now = self.clock.boot_time();
        for (id, request) in std::mem::take(&mut self.requests) {
            if let Origin::Tap(tells) = request.origin {
                let _ = tells.try_send(Tell::Failed { denied: false, text: why.to_owned() });
            }
            self.broker.handle_refused(id, RefusalReason::NoLogin, now);
        }
        self.obey_broker();
    }

    pub(super) const fn is_attached(&self) -> bool {
        matches!(self.daemon, DaemonState::Attached(..))
    }
}

/// What control is asked for this subject.
pub(super) fn access_request(
    subject: &Subject,
    tunnel_key: portlatch_protocol::thumbprint::Thumbprint,
    program: Option<&Program>,
) -> AccessRequest {
    AccessRequest {
        resource: subject.resource.clone(),
        port: subject.port,
        tunnel_key,
        program: program.map(|program| program.name.clone()),
        pid: program.map(|program| program.pid),
    }
}

fn failed(reason: RefusalReason, message: Option<String>) -> Tell {
    let denied = match reason {
        RefusalReason::Denied
        | RefusalReason::Policy
        | RefusalReason::UnknownPort
        | RefusalReason::Locked
        | RefusalReason::CoolDown
        | RefusalReason::QueueFull
        | RefusalReason::Limit => true,
        RefusalReason::NoLogin
        | RefusalReason::TimedOut
        | RefusalReason::TargetRefused
        | RefusalReason::TargetUnreachable
        | RefusalReason::NoProxy => false,
    };
    Tell::Failed { denied, text: message.unwrap_or_else(|| reason.advice().to_owned()) }
}
