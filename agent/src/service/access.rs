//! Requests: from the daemon, whose programs wait, and from commands (`portlatch tap`, `exec`, `mfa`), which are
//! beforehand. How they end is in `ending`.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use portlatch_clock::BootTime;
use portlatch_protocol::api::ceremony::{CeremonyOutcome, ExecTarget};
use portlatch_protocol::api::{AccessAnswer, AccessRequest};
use portlatch_protocol::attach::{AccessWanted, ToDaemon};
use portlatch_protocol::names::ResourceId;
use portlatch_protocol::refusal::RefusalReason;
use tokio::sync::mpsc;

use super::Service;
use super::attach::DaemonState;
use super::leaving::Taps;
use super::login::over;
use super::work::Done;
use crate::broker::{RequestId, Subject, Wish};
use crate::control::ApiError;
use crate::identify::{Program, owner_of_socket};
use crate::local::Tell;
use crate::mfa_mode::MfaMode;
use crate::prompt::Waiting;
use crate::safe_text::{safe, safe_sentence};

mod ending;

pub(super) use ending::tell_more;
use ending::{failed, tell_failed};

/// Requests at once: the daemon asks once for each resource and port, so this is more than a person's programs open.
const MAX_REQUESTS: usize = 256;
/// How long the daemon has to say whether a proxy is up; its own limit is 5 s (design section 11).
const TUNNEL_TIME: Duration = Duration::from_secs(30);
/// Sockets whose program is remembered.
const MAX_PROGRAMS: usize = 64;
/// Our own requests' numbers have this bit, the daemon's do not: it counts from zero.
const OURS: u64 = 1 << 63;

/// What a command is told while nobody can see a prompt.
pub(super) const AWAY: &str = "your screen is locked, so that nobody can tap: unlock it, then try again";

/// A request that has not ended.
#[derive(Debug)]
pub(super) struct Request {
    /// What no other request has: a daemon that begins anew counts anew.
    pub(super) number: u64,
    pub(super) origin: Origin,
    pub(super) subject: Subject,
    /// The host name that the program asked for; of what is no port, what a person calls it.
    pub(super) title: String,
    pub(super) program: Option<Program>,
    /// The socket that it waits with, by which the program is found; 0 without one.
    pub(super) inode: u64,
    /// How to prove presence, if not as the login says.
    pub(super) mode: Option<MfaMode>,
    pub(super) waiting: Waiting,
    pub(super) stage: Stage,
}

/// What is asked for a request, of control or of the system.
#[derive(Debug)]
pub(super) struct Asked {
    id: RequestId,
    number: u64,
    inode: u64,
}

/// Who wants it.
#[derive(Debug)]
pub(super) enum Origin {
    /// The daemon, for programs that wait.
    Daemon,
    /// A command.
    Command(mpsc::Sender<Tell>),
}

/// How far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stage {
    /// Control decides.
    Asked,
    /// The daemon sees to a tunnel, at most until then; if there is none, to one for the next of these.
    Tunnel(BootTime, VecDeque<ResourceId>),
    /// The broker has it, since this many taps.
    Prompt(u64),
}

impl Request {
    /// What it is for, in a line for people.
    pub(super) fn what(&self) -> String {
        match &self.subject {
            Subject::Port { resource, port } => format!("{} ({}:{port})", resource.name, self.title),
            Subject::Exec(_) | Subject::Devices(_) => self.title.clone(),
        }
    }

    pub(super) fn wish(&self) -> Wish {
        let program = self.program.as_ref().map(|program| program.name.clone());
        Wish { subject: self.subject.clone(), program }
    }

    const fn give_up_at(&self) -> Option<BootTime> {
        match self.stage {
            Stage::Tunnel(until, _) => Some(until),
            Stage::Asked | Stage::Prompt(_) => None,
        }
    }
}

impl Service {
    pub(super) fn handle_access_wanted(&mut self, wanted: AccessWanted) {
        let id = RequestId(wanted.request);
        if self.requests.len() >= MAX_REQUESTS || self.requests.contains_key(&id) {
            return self.send(ToDaemon::Refused(wanted.request, RefusalReason::Limit));
        }
        let request = Request {
            number: self.next_number(),
            origin: Origin::Daemon,
            subject: Subject::Port { resource: wanted.resource.clone(), port: wanted.port },
            title: safe(wanted.host.as_str()),
            program: None,
            inode: wanted.inode,
            mode: None,
            waiting: Waiting::Yes,
            stage: Stage::Asked,
        };
        self.requests.insert(id, request);
        self.ask(id, wanted.resource, wanted.port, wanted.inode);
    }

    /// A ceremony beforehand.
    pub(super) fn handle_wish(&mut self, request: Request) {
        if self.requests.len() >= MAX_REQUESTS {
            return tell_failed(&request, "too much is going on at once: try again");
        }
        let id = RequestId(OURS | self.next_number());
        let subject = request.subject.clone();
        self.requests.insert(id, request);
        match subject {
            Subject::Port { resource, port } => self.ask(id, resource, port, 0),
            // Control decides when the ceremony begins; the tunnel is for the grants that follow.
            Subject::Exec(targets) => self.want_tunnel(id, self.tunnels_to_try(&targets)),
            Subject::Devices(_) => self.want_change(id),
        }
    }

    /// A change of keys needs no tunnel, only the user's ear.
    fn want_change(&mut self, id: RequestId) {
        let wish = self.requests.get(&id).map(Request::wish);
        let objection = wish.and_then(|wish| self.broker.objection(&wish, self.clock.boot_time()));
        match objection {
            Some(objection) => self.refuse(id, objection.reason(), Some(objection.advice())),
            None => self.enter_broker(id),
        }
    }

    fn ask(&mut self, id: RequestId, resource: ResourceId, port: u16, inode: u64) {
        let Some(request) = self.requests.get(&id) else { return };
        let (known, number) = (request.program.clone(), request.number);
        let asked = Asked { id, number, inode };
        let (Some(active), Some(tunnel_key)) = (&self.login.active, self.daemon.tunnel_key().cloned()) else {
            return self.refuse(id, RefusalReason::NoLogin, None);
        };
        let (control, taps) = (active.control.clone(), self.leaving.taps);
        self.tasks.spawn(async move {
            // Or control would grant by a tap of before the lock.
            if taps == Taps::ToForget
                && let Err(error) = control.forget_taps().await
            {
                return Done::Asked { asked, program: known, answer: Err(error) };
            }
            let program = match known {
                Some(program) => Some(program),
                None => owner_of_socket(inode).await,
            };
            let request = access_request(resource, port, tunnel_key, program.as_ref());
            let answer = control.access(&request).await;
            Done::Asked { asked, program, answer }
        });
    }

    pub(super) fn handle_asked(
        &mut self,
        Asked { id, number, inode }: Asked,
        program: Option<Program>,
        answer: Result<AccessAnswer, ApiError>,
    ) {
        // One that has ended meanwhile is none of whoever asks now, be it by the same name.
        if self.requests.get(&id).is_none_or(|request| request.number != number) {
            return;
        }
        self.remember_program(inode, program.clone());
        let Some(request) = self.requests.get_mut(&id) else { return };
        if request.inode == inode {
            request.program = program;
        }
        match answer {
            Ok(AccessAnswer::Granted(grant)) => self.deliver(id, CeremonyOutcome::Granted(grant)),
            Ok(AccessAnswer::Refused { reason, message }) => {
                self.refuse(id, reason, Some(safe_sentence(&message)))
            }
            Ok(AccessAnswer::TapNeeded { .. }) => {
                if let Subject::Port { resource, .. } = &request.subject {
                    let resource = resource.clone();
                    self.want_tunnel(id, VecDeque::from([resource]));
                }
            }
            Err(error) => {
                self.refuse(id, error.refusal(), Some(error.to_string()));
                if error.is_login_over() {
                    self.end_login(&over(&error));
                }
            }
        }
    }

    fn remember_program(&mut self, inode: u64, program: Option<Program>) {
        if let Some(program) = program.filter(|_| inode != 0) {
            self.programs.push_front((inode, program));
            self.programs.truncate(MAX_PROGRAMS);
        }
    }

    /// Nobody is bothered before a proxy of the resource is up, nor while the user wants no prompts.
    fn want_tunnel(&mut self, id: RequestId, mut resources: VecDeque<ResourceId>) {
        let now = self.clock.boot_time();
        let Some(request) = self.requests.get(&id) else { return };
        let Some(resource) = resources.pop_front() else {
            return self.refuse(id, RefusalReason::UnknownPort, None);
        };
        if let Some(objection) = self.broker.objection(&request.wish(), now) {
            return self.refuse(id, objection.reason(), Some(objection.advice()));
        }
        if self.absence.is_away() {
            return self.refuse(id, RefusalReason::TimedOut, Some(AWAY.to_owned()));
        }
        let message = match request.origin {
            Origin::Daemon => ToDaemon::TapNeeded(id.0),
            Origin::Command(_) => ToDaemon::TunnelWanted(id.0, resource),
        };
        self.set_stage(id, Stage::Tunnel(now + TUNNEL_TIME, resources));
        self.send(message);
    }

    /// A command's resources in the order in which a tunnel is looked for, until one has it: what another one lacks is told
    /// by the command that runs on it. First those that bring another proxy into play.
    fn tunnels_to_try(&self, targets: &[ExecTarget]) -> VecDeque<ResourceId> {
        let mut tried = HashSet::new();
        let known = |id: &ResourceId| {
            self.catalogue
                .iter()
                .flat_map(|catalogue| &catalogue.resources)
                .find(|resource| resource.id == *id)
        };
        let brings_another = |id: &ResourceId| {
            let proxies = known(id).map(|resource| resource.proxies.as_slice()).unwrap_or_default();
            // Each is looked at, so that each counts as tried.
            proxies.iter().filter(|proxy| tried.insert(*proxy)).count() > 0
        };
        let resources = targets.iter().map(|target| target.resource.clone());
        let (mut first, rest): (VecDeque<ResourceId>, VecDeque<ResourceId>) =
            resources.partition(brings_another);
        first.extend(rest);
        first
    }

    /// Looks for a tunnel to the next of a command's resources, if there is one and time for it.
    fn try_next_tunnel(&mut self, id: RequestId) -> Option<()> {
        let Stage::Tunnel(until, others) = &mut self.requests.get_mut(&id)?.stage else { return None };
        let next = others.pop_front().filter(|_| self.clock.boot_time() < *until)?;
        self.send(ToDaemon::TunnelWanted(id.0, next));
        Some(())
    }

    pub(super) fn handle_proceed(&mut self, request: u64) {
        let id = RequestId(request);
        // Only a request that waits for this goes on; a repeated word changes nothing.
        if self.requests.get(&id).is_some_and(|request| request.give_up_at().is_some()) {
            self.enter_broker(id);
        }
    }

    fn enter_broker(&mut self, id: RequestId) {
        let now = self.clock.boot_time();
        if self.absence.is_away() {
            return self.refuse(id, RefusalReason::TimedOut, Some(AWAY.to_owned()));
        }
        self.set_stage(id, Stage::Prompt(self.taps));
        let Some(request) = self.requests.get(&id) else { return };
        let (wish, waiting) = (request.wish(), request.waiting);
        self.broker.handle_request(id, wish, now);
        if waiting == Waiting::GaveUp {
            self.broker.handle_abandoned(id, now);
        }
        self.obey_broker();
    }

    fn set_stage(&mut self, id: RequestId, stage: Stage) {
        if let Some(request) = self.requests.get_mut(&id) {
            request.stage = stage;
        }
    }

    pub(super) fn handle_cancel(&mut self, request: u64, reason: RefusalReason) {
        let id = RequestId(request);
        if reason == RefusalReason::NoProxy && self.try_next_tunnel(id).is_some() {
            return;
        }
        // The daemon knows: only a command is still to be told.
        if let Some(Request { origin: Origin::Command(tells), .. }) = self.requests.remove(&id) {
            let _ = tells.try_send(failed(reason, None));
        }
        self.broker.handle_refused(id, reason, self.clock.boot_time());
        self.obey_broker();
    }

    pub(super) fn handle_waiting(&mut self, request: u64, programs: u32, first: Option<u64>) {
        let (id, now) = (RequestId(request), self.clock.boot_time());
        let Some(request) = self.requests.get_mut(&id) else { return };
        let is_queued = matches!(request.stage, Stage::Prompt(_));
        let waiting = match programs {
            0 => Waiting::GaveUp,
            _ => Waiting::Yes,
        };
        let is_news = std::mem::replace(&mut request.waiting, waiting) != waiting;
        if let Some(inode) = first.filter(|inode| *inode != request.inode) {
            self.name_newcomer(id, inode);
        }
        if !is_news {
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

    /// Whoever was named has gone, and another program waits. What has the old one's pid by now is nobody's to name.
    fn name_newcomer(&mut self, id: RequestId, inode: u64) {
        let Some(request) = self.requests.get_mut(&id) else { return };
        (request.program, request.inode) = (None, inode);
        let newcomer = Asked { id, number: request.number, inode };
        self.tasks
            .spawn(async move { Done::NewcomerFound { newcomer, program: owner_of_socket(inode).await } });
    }

    pub(super) fn handle_newcomer(&mut self, newcomer: &Asked, program: Option<Program>) {
        let Asked { id, number, inode } = *newcomer;
        self.remember_program(inode, program.clone());
        let is_meant = |request: &&mut Request| request.number == number && request.inode == inode;
        let Some(request) = self.requests.get_mut(&id).filter(is_meant) else { return };
        request.program = program;
        let program = request.wish().program;
        self.broker.handle_newcomer(id, program, self.clock.boot_time());
        self.obey_broker();
        self.show_prompt();
    }

    pub(super) fn give_up_requests(&mut self, now: BootTime) {
        let is_late = |request: &Request| request.give_up_at().is_some_and(|at| at <= now);
        let late: Vec<RequestId> =
            self.requests.iter().filter(|(_, request)| is_late(request)).map(|(id, _)| *id).collect();
        for id in late {
            self.refuse(id, RefusalReason::NoProxy, None);
        }
    }

    /// When the next request gives up by itself.
    pub(super) fn next_give_up(&self) -> Option<BootTime> {
        self.requests.values().filter_map(Request::give_up_at).min()
    }

    pub(super) const fn is_attached(&self) -> bool {
        matches!(self.daemon, DaemonState::Attached(..))
    }
}

/// What control is asked for this port.
pub(super) fn access_request(
    resource: ResourceId,
    port: u16,
    tunnel_key: portlatch_protocol::thumbprint::Thumbprint,
    program: Option<&Program>,
) -> AccessRequest {
    AccessRequest {
        resource,
        port,
        tunnel_key,
        program: program.map(|program| program.name.clone()),
        pid: program.map(|program| program.pid),
    }
}
