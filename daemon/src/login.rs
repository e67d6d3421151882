//! An attached login, on the worker: what it may reach, its port tracker, its tunnels, and the way back to its agent.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use portlatch_clock::{BootTime, Clock};
use portlatch_protocol::attach::{Refusal, ToAgent, ToDaemon};
use portlatch_protocol::identity::Login as LoginIdentity;
use portlatch_protocol::names::{HostPattern, Hostname, ResourceId, ResourceKind};
use portlatch_protocol::refusal::RefusalReason;
use portlatch_protocol::resource::{Hold, Resource};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::tracker::{Event, PortKey, PromptOn, Tracker, Verdict, WaiterId, Wanted};
use crate::tunnel::Tunnels;

/// SYNs of one login that are held at once (design section 8).
const MAX_HELD: usize = 2048;
/// Taps beforehand that wait for their tunnel at once: a person makes one at a time.
const MAX_PREPARING: usize = 8;
/// Verdicts that a flow may not have read yet: a tap is needed, and the last word.
const MAX_VERDICTS: usize = 2;

/// What an address and port name, for one login.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) resource: Rc<Resource>,
    pub(crate) host: Hostname,
    pub(crate) port: u16,
}

impl Place {
    /// When a prompt for it may open. A desktop's clients speak first, and then wait for as long as a person needs.
    pub(crate) fn prompt_on(&self) -> PromptOn {
        let is_desktop = self.resource.id.kind == ResourceKind::Desktop;
        match (is_desktop, self.resource.hold) {
            (true, Hold::Data) => PromptOn::FirstRequest,
            (true, Hold::Syn | Hold::Hybrid) | (false, _) => PromptOn::Syn,
        }
    }
}

/// What an address names, without a login: for refusals that people read.
#[derive(Debug, Clone)]
pub(crate) struct Sight {
    pub(crate) resource: Option<ResourceId>,
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// An attached login.
pub(crate) struct Login {
    pub(crate) uid: u32,
    pub(crate) agent_pid: u32,
    /// Tells this attach from an earlier one of the same user.
    pub(crate) serial: u64,
    pub(crate) identity: LoginIdentity,
    pub(crate) expires_at: BootTime,
    pub(crate) tunnels: Rc<Tunnels>,
    /// Ends everything of this login: flows, dials, tunnels.
    pub(crate) cancelled: CancellationToken,
    catalogue: RefCell<HashMap<HostPattern, Vec<Rc<Resource>>>>,
    tracker: RefCell<Tracker>,
    waiters: RefCell<HashMap<WaiterId, Waiting>>,
    last_waiter: Cell<u64>,
    held: Cell<usize>,
    /// Tunnels that the agent wants before a tap, and that are not up yet.
    preparing: Cell<usize>,
    to_agent: mpsc::Sender<ToAgent>,
    /// Rung when the tracker's next deadline may have changed.
    deadline_changed: Notify,
    clock: Clock,
}

/// A program that waits for its verdict.
struct Waiting {
    verdicts: mpsc::Sender<Verdict>,
    inode: u64,
}

/// What makes a [`Login`].
pub(crate) struct NewLogin {
    pub(crate) uid: u32,
    pub(crate) agent_pid: u32,
    pub(crate) serial: u64,
    pub(crate) identity: LoginIdentity,
    pub(crate) expires_at: BootTime,
    pub(crate) to_agent: mpsc::Sender<ToAgent>,
    pub(crate) cancelled: CancellationToken,
}

impl Login {
    pub(crate) fn new(new: NewLogin, tunnels: Rc<Tunnels>, clock: Clock) -> Rc<Self> {
        let NewLogin { uid, agent_pid, serial, identity, expires_at, to_agent, cancelled } = new;
        Rc::new(Self {
            uid,
            agent_pid,
            serial,
            identity,
            expires_at,
            tunnels,
            cancelled,
            catalogue: RefCell::default(),
            tracker: RefCell::default(),
            waiters: RefCell::default(),
            last_waiter: Cell::default(),
            held: Cell::default(),
            preparing: Cell::default(),
            to_agent,
            deadline_changed: Notify::new(),
            clock,
        })
    }

    /// Puts this catalogue in place of the one before.
    pub(crate) fn handle_catalogue(&self, resources: Vec<Resource>) {
        let mut catalogue: HashMap<HostPattern, Vec<Rc<Resource>>> = HashMap::new();
        for resource in resources {
            catalogue.entry(resource.host.clone()).or_default().push(Rc::new(resource));
        }
        *self.catalogue.borrow_mut() = catalogue;
    }

    /// What this name and port are for this login.
    pub(crate) fn place(&self, name: &HostPattern, port: u16) -> Result<Place, (Sight, RefusalReason)> {
        let catalogue = self.catalogue.borrow();
        let sight = Sight { resource: None, host: name.to_string(), port };
        // The address has a name, so somebody may reach it: for this login it is the policy that says no.
        let Some(resources) = catalogue.get(name) else { return Err((sight, RefusalReason::Policy)) };
        match resources.iter().find(|resource| resource.has_port(port)) {
            Some(resource) => Ok(Place { resource: Rc::clone(resource), host: name.anchor(), port }),
            None => {
                let resource = resources.first().map(|resource| resource.id.clone());
                Err((Sight { resource, ..sight }, RefusalReason::UnknownPort))
            }
        }
    }

    /// A resource of this login.
    pub(crate) fn resource(&self, id: &ResourceId) -> Option<Rc<Resource>> {
        let catalogue = self.catalogue.borrow();
        catalogue.values().flatten().find(|resource| resource.id == *id).cloned()
    }

    /// Takes one of the login's places for held SYNs; `None` if all are taken.
    pub(crate) fn hold(self: &Rc<Self>) -> Option<HeldPlace> {
        let held = self.held.get();
        (held < MAX_HELD).then(|| {
            self.held.set(held + 1);
            HeldPlace(Rc::clone(self))
        })
    }

    /// Asks the tracker for this place. Dropping the answer means that the program has gone.
    pub(crate) fn request(self: &Rc<Self>, place: &Place, inode: u64) -> Waiter {
        let id = WaiterId(self.last_waiter.get() + 1);
        self.last_waiter.set(id.0);
        let (sender, verdicts) = mpsc::channel(MAX_VERDICTS);
        self.waiters.borrow_mut().insert(id, Waiting { verdicts: sender, inode });
        let key = PortKey { resource: place.resource.id.clone(), port: place.port };
        let now = self.clock.boot_time();
        let prompt_on = place.prompt_on();
        let wanted = Wanted { key: &key, host: &place.host, inode, prompt_on };
        self.tracker.borrow_mut().handle_flow(&wanted, id, now);
        self.carry_out();
        Waiter { login: Rc::clone(self), key, id, verdicts }
    }

    /// A proxy said that this grant for this place has ended.
    pub(crate) fn handle_grant_ended(&self, place: &Place, token: &str) {
        let key = PortKey { resource: place.resource.id.clone(), port: place.port };
        self.tracker.borrow_mut().handle_grant_ended(&key, token);
    }

    /// A message of the agent.
    pub(crate) fn handle_message(self: &Rc<Self>, message: ToDaemon) {
        let now = self.clock.boot_time();
        let mut tracker = self.tracker.borrow_mut();
        match message {
            ToDaemon::TapNeeded(request) => tracker.handle_tap_needed(request, now),
            ToDaemon::PromptOpened(request, length) => tracker.handle_prompt_opened(request, length, now),
            ToDaemon::Granted(request, grant) => tracker.handle_granted(request, grant, now),
            ToDaemon::Refused(request, reason) => tracker.handle_refused(request, reason, now),
            ToDaemon::Offer(resource, port, grant) => {
                tracker.handle_offer(PortKey { resource, port }, grant, now);
            }
            ToDaemon::ForgetGrants => tracker.forget_taps(),
            ToDaemon::TunnelWanted(request, resource) => self.prepare_tunnel(request, resource),
            // The conversation's own, which the reception keeps to itself.
            ToDaemon::Hello(_)
            | ToDaemon::Attach(_)
            | ToDaemon::TunnelCertificate(_)
            | ToDaemon::Catalogue(_)
            | ToDaemon::Detach
            | ToDaemon::StatusWanted
            | ToDaemon::MachineWanted => {}
        }
        drop(tracker);
        self.carry_out();
    }

    /// The grants that serve now.
    pub(crate) fn grants(&self) -> Vec<portlatch_protocol::attach::HeldGrant> {
        self.tracker.borrow().grants(self.clock.boot_time())
    }

    /// Tells the agent. An agent that does not read is let go: its queue is bounded.
    pub(crate) fn tell(&self, message: ToAgent) {
        if self.to_agent.try_send(message).is_err() {
            self.cancelled.cancel();
        }
    }

    /// Tells the agent of a refusal, unless it has much to read already: a program that is refused a thousand times a second
    /// must not cost its user the login. What was left out is in the status.
    pub(crate) fn tell_refusal(&self, refusal: Refusal) {
        if self.to_agent.capacity() > self.to_agent.max_capacity() / 2 {
            self.tell(ToAgent::Refusal(refusal));
        }
    }

    /// Moves the tracker's time until the login ends.
    pub(crate) async fn keep_time(self: Rc<Self>) {
        loop {
            let deadline =
                self.tracker.borrow().poll_timeout().unwrap_or(self.expires_at).min(self.expires_at);
            tokio::select! {
                () = self.cancelled.cancelled() => return,
                () = self.deadline_changed.notified() => continue,
                () = self.clock.sleep_until(deadline) => {}
            }
            let now = self.clock.boot_time();
            if self.expires_at <= now {
                tracing::info!(uid = self.uid, "the login has ended");
                return self.cancelled.cancel();
            }
            self.tracker.borrow_mut().handle_timeout(now);
            self.carry_out();
        }
    }

    /// Does what the tracker says.
    fn carry_out(self: &Rc<Self>) {
        loop {
            let Some(event) = self.tracker.borrow_mut().poll_event() else { break };
            match event {
                Event::Ask(wanted) => self.tell(ToAgent::AccessWanted(wanted)),
                Event::Proceed(request) => self.tell(ToAgent::Proceed(request)),
                Event::Cancel(request, reason) => self.tell(ToAgent::Cancel(request, reason)),
                Event::Waiting(request, flows) => {
                    let first = self.tracker.borrow().first_waiting(request);
                    let inode = first.and_then(|flow| Some(self.waiters.borrow().get(&flow)?.inode));
                    self.tell(ToAgent::Waiting(request, flows, inode));
                }
                Event::TunnelNeeded { request, resource } => self.bring_tunnel_up(request, resource),
                Event::Verdict(flow, verdict) => {
                    if let Some(waiter) = self.waiters.borrow().get(&flow) {
                        // Full or closed only if the flow has gone.
                        let _ = waiter.verdicts.try_send(verdict);
                    }
                }
            }
        }
        self.deadline_changed.notify_one();
    }

    fn bring_tunnel_up(self: &Rc<Self>, request: u64, resource: ResourceId) {
        let login = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let is_up = login.has_tunnel_for(&resource).await;
            let mut tracker = login.tracker.borrow_mut();
            match is_up {
                true => tracker.handle_tunnel_up(request),
                false => tracker.handle_no_tunnel(request),
            }
            drop(tracker);
            login.carry_out();
        });
    }

    /// The agent taps beforehand: it hears whether a tunnel is up.
    fn prepare_tunnel(self: &Rc<Self>, request: u64, resource: ResourceId) {
        if self.preparing.get() >= MAX_PREPARING {
            return self.tell(ToAgent::Cancel(request, RefusalReason::Limit));
        }
        self.preparing.set(self.preparing.get() + 1);
        let login = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let answer = match login.has_tunnel_for(&resource).await {
                true => ToAgent::Proceed(request),
                false => ToAgent::Cancel(request, RefusalReason::NoProxy),
            };
            login.preparing.set(login.preparing.get().saturating_sub(1));
            login.tell(answer);
        });
    }

    async fn has_tunnel_for(&self, resource: &ResourceId) -> bool {
        let Some(resource) = self.resource(resource) else { return false };
        tokio::select! {
            () = self.cancelled.cancelled() => false,
            tunnel = self.tunnels.tunnel_for(&resource) => tunnel.is_some(),
        }
    }
}

/// A flow's place among the login's held SYNs, given back when dropped.
pub(crate) struct HeldPlace(Rc<Login>);

impl Drop for HeldPlace {
    fn drop(&mut self) {
        self.0.held.set(self.0.held.get().saturating_sub(1));
    }
}

/// A flow that waits for its verdict.
pub(crate) struct Waiter {
    login: Rc<Login>,
    key: PortKey,
    id: WaiterId,
    verdicts: mpsc::Receiver<Verdict>,
}

impl Waiter {
    /// The program has sent a valid first request.
    pub(crate) fn handle_first_request(&self) {
        self.login.tracker.borrow_mut().handle_first_request(&self.key);
        self.login.carry_out();
    }

    /// The next verdict. Cancel-safe.
    pub(crate) async fn verdict(&mut self) -> Verdict {
        self.verdicts.recv().await.unwrap_or(Verdict::Refused(RefusalReason::NoLogin))
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.login.waiters.borrow_mut().remove(&self.id);
        self.login.tracker.borrow_mut().handle_flow_gone(&self.key, self.id);
        self.login.carry_out();
    }
}

impl Sight {
    /// An address that names nothing.
    pub(crate) fn nameless(destination: SocketAddr) -> Self {
        let host = match destination.ip() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => ip.to_string(),
        };
        Self { resource: None, host, port: destination.port() }
    }

    /// An address with a name.
    pub(crate) fn named(name: &HostPattern, port: u16) -> Self {
        Self { resource: None, host: name.to_string(), port }
    }

    /// A place.
    pub(crate) fn of(place: &Place) -> Self {
        Self { resource: Some(place.resource.id.clone()), host: place.host.to_string(), port: place.port }
    }
}
