//! The port tracker of one login: which (resource, port) has a grant, which one is being asked for, and which flows wait
//! for the answer. However many flows wait, the agent is asked once.
//!
//! ```text
//!            flow                TapNeeded               first request, tunnel up
//! (nothing) ------> Asked --------------------> Tapping - - - - - - - - - - - - - -> prompt
//!                     | Granted                             | Granted
//!                     v                                     v
//!                  Granted --- its time is over ---> (nothing)
//! Asked, Tapping --- Refused, out of time ---> Resting --- a moment later ---> (nothing)
//! ```
//!
//! Pure: no task, no clock. The worker feeds it and carries out what [`Tracker::poll_event`] says. It holds grants
//! unread; whether they are good is the proxies' to say.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use portlatch_clock::BootTime;
use portlatch_protocol::attach::{AccessWanted, Grant, HeldGrant};
use portlatch_protocol::names::{Hostname, ResourceId};
use portlatch_protocol::refusal::RefusalReason;

mod access;
mod ending;
mod limits;

use access::{Access, Renewal};
use limits::{MAX_ASKED, MAX_PORTS, MAX_SHOWN, MAX_WAITING, MAX_WAITING_AT_PORT, is_sound};

/// The agent asks control over the network: longer than its own deadline for that.
const ASK_DEADLINE: Duration = Duration::from_secs(15);
/// Longest that a prompt queues before it opens (design section 4), and a little for the messages.
const QUEUE_DEADLINE: Duration = Duration::from_secs(125);
/// What an open prompt may take beyond what the agent announced: the key's answer travels to control and back.
const PROMPT_SLACK: Duration = Duration::from_secs(20);
/// After a no, new flows are refused for this long without asking, so that a storm of reconnects stays here. The longer
/// cool-downs are the agent's.
const REST: Duration = Duration::from_secs(1);
/// A grant without a tap that has less than this left is asked for again while it serves (design section 5).
const RENEW_BELOW: Duration = Duration::from_secs(120);

/// What a grant is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PortKey {
    /// The resource.
    pub resource: ResourceId,
    /// The port of it.
    pub port: u16,
}

/// What a flow wants.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The port.
    pub key: &'a PortKey,
    /// The name that the program resolved.
    pub host: &'a Hostname,
    /// The inode of its socket.
    pub inode: u64,
    /// When the prompt may open, should a tap be needed.
    pub prompt_on: PromptOn,
}

/// A flow that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WaiterId(pub u64);

/// What must have come before a person is bothered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromptOn {
    /// The SYN.
    Syn,
    /// A valid first request of the protocol, so that a port scan never prompts.
    FirstRequest,
}

/// What a waiting flow is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// A tap is needed; the last word follows.
    TapNeeded,
    /// Go on with this grant.
    Granted(Grant),
    /// No.
    Refused(RefusalReason),
}

/// What the worker must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Ask the agent.
    Ask(AccessWanted),
    /// A tap is needed: see that a tunnel to a proxy of the resource is up.
    TunnelNeeded {
        /// The request.
        request: u64,
        /// The resource.
        resource: ResourceId,
    },
    /// Tell the agent that it may prompt.
    Proceed(u64),
    /// Tell the agent that the request is over.
    Cancel(u64, RefusalReason),
    /// Tell the agent how many programs wait.
    Waiting(u64, u32),
    /// Tell the flow.
    Verdict(WaiterId, Verdict),
}
/// The tracker of one login.
#[derive(Debug, Default)]
pub struct Tracker {
    ports: HashMap<PortKey, Access>,
    requests: HashMap<u64, PortKey>,
    last_request: u64,
    events: VecDeque<Event>,
}

impl Tracker {
    /// A flow wants this port. Its verdict comes by [`Tracker::poll_event`].
    pub fn handle_flow(&mut self, wanted: &Wanted<'_>, flow: WaiterId, now: BootTime) {
        let Wanted { key, host, inode, .. } = *wanted;
        self.drop_lapsed(key, now);
        let has_room = self.has_room_for_a_tap(key);
        let verdict = match self.ports.get_mut(key) {
            None => return self.ask(wanted, flow, now),
            Some(Access::Granted { grant, until, renewal }) => {
                let left = until.saturating_since(now);
                let granted = Verdict::Granted(Grant { expires_in: left, ..grant.clone() });
                let is_renewable = grant.amr.is_empty() && left < RENEW_BELOW && renewal.is_none();
                self.events.push_back(Event::Verdict(flow, granted));
                if is_renewable {
                    self.renew(key, host, inode, now);
                }
                return;
            }
            // Not limited here: whether a tap is needed is not known yet, and held SYNs have their own limit.
            Some(Access::Asked { waiting, .. }) => {
                waiting.push(flow);
                return;
            }
            Some(Access::Tapping { request, waiting, .. }) if has_room => {
                waiting.push(flow);
                let waiting = Event::Waiting(*request, count(waiting));
                self.events.push_back(waiting);
                Verdict::TapNeeded
            }
            Some(Access::Tapping { .. }) => Verdict::Refused(RefusalReason::Limit),
            Some(Access::Resting { .. }) => Verdict::Refused(RefusalReason::CoolDown),
        };
        self.events.push_back(Event::Verdict(flow, verdict));
    }

    /// A waiting flow has gone: its program gave up.
    pub fn handle_flow_gone(&mut self, key: &PortKey, flow: WaiterId) {
        match self.ports.get_mut(key) {
            Some(Access::Asked { waiting, .. }) => waiting.retain(|other| *other != flow),
            Some(Access::Tapping { request, waiting, prompt_on, .. }) => {
                let (request, before) = (*request, waiting.len());
                waiting.retain(|other| *other != flow);
                if waiting.is_empty() && *prompt_on == PromptOn::FirstRequest {
                    // Whoever came sent nothing that is worth a prompt.
                    self.end_request(request, key, RefusalReason::TimedOut, None);
                } else if waiting.len() != before {
                    self.events.push_back(Event::Waiting(request, count(waiting)));
                }
            }
            Some(Access::Granted { .. } | Access::Resting { .. }) | None => {}
        }
    }

    /// A flow of this port has sent a valid first request: the prompt that waits for one may open.
    pub fn handle_first_request(&mut self, key: &PortKey) {
        if let Some(Access::Tapping { request, prompt_on: prompt_on @ PromptOn::FirstRequest, .. }) =
            self.ports.get_mut(key)
        {
            *prompt_on = PromptOn::Syn;
            self.events.push_back(Event::TunnelNeeded { request: *request, resource: key.resource.clone() });
        }
    }

    /// The agent says that control wants a tap.
    pub fn handle_tap_needed(&mut self, request: u64, now: BootTime) {
        let Some(key) = self.requests.get(&request).cloned() else { return };
        let room = MAX_WAITING_AT_PORT.min(MAX_WAITING.saturating_sub(self.tapping()));
        match self.ports.get_mut(&key) {
            // Nobody may wait for the tap, so nobody is bothered.
            Some(Access::Asked { .. }) if room == 0 => {
                self.end_request(request, &key, RefusalReason::Limit, None);
            }
            Some(Access::Asked { waiting, prompt_on, .. }) => {
                let (mut waiting, prompt_on) = (std::mem::take(waiting), *prompt_on);
                if waiting.is_empty() {
                    // Whoever asked has gone already: nobody is bothered.
                    return self.end_request(request, &key, RefusalReason::TimedOut, None);
                }
                let over = waiting.split_off(room.min(waiting.len()));
                let refused = Verdict::Refused(RefusalReason::Limit);
                self.events.extend(over.into_iter().map(|flow| Event::Verdict(flow, refused.clone())));
                let told = waiting.iter().map(|flow| Event::Verdict(*flow, Verdict::TapNeeded));
                self.events.extend(told);
                if prompt_on == PromptOn::Syn {
                    self.events.push_back(Event::TunnelNeeded { request, resource: key.resource.clone() });
                }
                let give_up_at = now + QUEUE_DEADLINE;
                let tapping = Access::Tapping { request, waiting, prompt_on, is_open: false, give_up_at };
                self.ports.insert(key, tapping);
            }
            // The policy changed under a grant that serves: it goes on serving, and the next flow after it asks anew.
            Some(Access::Granted { renewal, .. }) => {
                *renewal = None;
                self.requests.remove(&request);
                self.events.push_back(Event::Cancel(request, RefusalReason::TimedOut));
            }
            Some(Access::Tapping { .. } | Access::Resting { .. }) | None => {}
        }
    }

    /// A tunnel to a proxy of the resource is up: the prompt may open.
    pub fn handle_tunnel_up(&mut self, request: u64) {
        let Some(key) = self.requests.get(&request) else { return };
        if let Some(Access::Tapping { waiting, .. }) = self.ports.get(key) {
            self.events.push_back(Event::Waiting(request, count(waiting)));
            self.events.push_back(Event::Proceed(request));
        }
    }

    /// No proxy of the resource can be reached: nobody is bothered.
    pub fn handle_no_tunnel(&mut self, request: u64) {
        let Some(key) = self.requests.get(&request).cloned() else { return };
        self.end_request(request, &key, RefusalReason::NoProxy, None);
    }

    /// The agent's prompt is open and has this long. It opens once: whoever waits for it waits no longer than that.
    pub fn handle_prompt_opened(&mut self, request: u64, length: Duration, now: BootTime) {
        let Some(key) = self.requests.get(&request) else { return };
        if let Some(Access::Tapping { give_up_at, is_open: is_open @ false, .. }) = self.ports.get_mut(key) {
            *is_open = true;
            *give_up_at = now + length.min(QUEUE_DEADLINE) + PROMPT_SLACK;
        }
    }

    /// The agent brings the grant.
    pub fn handle_granted(&mut self, request: u64, grant: Grant, now: BootTime) {
        if !is_sound(&grant) {
            return self.handle_refused(request, RefusalReason::Policy, now);
        }
        let Some(key) = self.requests.remove(&request) else { return };
        self.handle_offer(key, grant, now);
    }

    /// A grant for this port, asked for or not.
    pub fn handle_offer(&mut self, key: PortKey, grant: Grant, now: BootTime) {
        let is_new = !self.ports.contains_key(&key);
        if !is_sound(&grant) || is_new && self.ports.len() >= MAX_PORTS {
            return;
        }
        let until = now + grant.expires_in.min(portlatch_protocol::grant::MAX_LIFETIME);
        let granted = Access::Granted { grant: grant.clone(), until, renewal: None };
        let before = self.ports.insert(key, granted);
        if let Some(request) = before.as_ref().and_then(Access::request) {
            self.give_up(request);
        }
        match before {
            Some(Access::Asked { waiting, .. } | Access::Tapping { waiting, .. }) => {
                let told =
                    waiting.into_iter().map(|flow| Event::Verdict(flow, Verdict::Granted(grant.clone())));
                self.events.extend(told);
            }
            Some(Access::Granted { .. } | Access::Resting { .. }) | None => {}
        }
    }

    /// The agent says no.
    pub fn handle_refused(&mut self, request: u64, reason: RefusalReason, now: BootTime) {
        let Some(key) = self.requests.get(&request).cloned() else { return };
        let rests =
            matches!(reason, RefusalReason::Denied | RefusalReason::TimedOut | RefusalReason::CoolDown);
        self.requests.remove(&request);
        if let Some(Access::Granted { renewal, .. }) = self.ports.get_mut(&key) {
            *renewal = None;
            return;
        }
        self.tell_refused(&key, reason, rests.then(|| now + REST));
    }
    /// Of the flows that wait for this request's answer, the one that came first.
    pub fn first_waiting(&self, request: u64) -> Option<WaiterId> {
        match self.ports.get(self.requests.get(&request)?)? {
            Access::Asked { waiting, .. } | Access::Tapping { waiting, .. } => waiting.first().copied(),
            Access::Granted { .. } | Access::Resting { .. } => None,
        }
    }

    /// The next thing to do.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The grants that serve now, as many as a status shows.
    pub fn grants(&self, now: BootTime) -> Vec<HeldGrant> {
        let held = |(key, access): (&PortKey, &Access)| match access {
            Access::Granted { grant, until, .. } => Some(HeldGrant {
                resource: key.resource.clone(),
                port: key.port,
                expires_in: until.saturating_since(now),
                amr: grant.amr.clone(),
            }),
            Access::Asked { .. } | Access::Tapping { .. } | Access::Resting { .. } => None,
        };
        self.ports
            .iter()
            .filter_map(held)
            .filter(|grant| !grant.expires_in.is_zero())
            .take(MAX_SHOWN)
            .collect()
    }

    fn ask(&mut self, wanted: &Wanted<'_>, flow: WaiterId, now: BootTime) {
        let Wanted { key, host, inode, prompt_on } = *wanted;
        if self.ports.len() >= MAX_PORTS || self.requests.len() >= MAX_ASKED {
            return self.events.push_back(Event::Verdict(flow, Verdict::Refused(RefusalReason::Limit)));
        }
        let request = self.request(key, host, inode);
        let give_up_at = now + ASK_DEADLINE;
        let asked = Access::Asked { request, waiting: vec![flow], prompt_on, give_up_at };
        self.ports.insert(key.clone(), asked);
    }

    fn renew(&mut self, key: &PortKey, host: &Hostname, inode: u64, now: BootTime) {
        let request = self.request(key, host, inode);
        if let Some(Access::Granted { renewal, .. }) = self.ports.get_mut(key) {
            *renewal = Some(Renewal { request, give_up_at: now + ASK_DEADLINE });
        }
    }

    fn request(&mut self, key: &PortKey, host: &Hostname, inode: u64) -> u64 {
        self.last_request += 1;
        let request = self.last_request;
        self.requests.insert(request, key.clone());
        let PortKey { resource, port } = key.clone();
        let wanted = AccessWanted { request, resource, host: host.clone(), port, inode };
        self.events.push_back(Event::Ask(wanted));
        request
    }
}

fn count(waiting: &[WaiterId]) -> u32 {
    u32::try_from(waiting.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
