//! How what a tracker holds ends: out of time, taken back, or not wanted any more.

use portlatch_clock::BootTime;
use portlatch_protocol::refusal::RefusalReason;

use super::access::Access;
use super::{Event, PortKey, REST, Tracker, Verdict};

impl Tracker {
    /// A proxy said that this grant has ended (revoked, or the policy behind it changed): the next flow asks anew. A
    /// newer grant that has come meanwhile stays.
    pub fn handle_grant_ended(&mut self, key: &PortKey, token: &str) {
        if let Some(Access::Granted { grant, renewal, .. }) = self.ports.get(key)
            && grant.token == token
        {
            let renewal = renewal.map(|renewal| renewal.request);
            self.ports.remove(key);
            if let Some(request) = renewal {
                self.give_up(request);
            }
        }
    }

    /// The screen was locked or the machine woke up: who sits there now must tap again. Grants without a tap stay.
    pub fn forget_taps(&mut self) {
        self.ports.retain(|_, access| match access {
            Access::Granted { grant, .. } => grant.amr.is_empty(),
            Access::Asked { .. } | Access::Tapping { .. } | Access::Resting { .. } => true,
        });
    }

    /// What is out of time ends.
    pub fn handle_timeout(&mut self, now: BootTime) {
        let lapsed: Vec<PortKey> = self
            .ports
            .iter()
            .filter(|(_, access)| access.ends_at() <= now)
            .map(|(key, _)| key.clone())
            .collect();
        for key in lapsed {
            self.drop_lapsed(&key, now);
        }
    }

    /// When [`Tracker::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<BootTime> {
        self.ports.values().map(Access::ends_at).min()
    }

    /// Ends what has lapsed at this port, if it has.
    pub(super) fn drop_lapsed(&mut self, key: &PortKey, now: BootTime) {
        match self.ports.get_mut(key) {
            Some(access) if access.ends_at() > now => {}
            Some(Access::Granted { until, renewal: renewal @ Some(_), .. }) if *until > now => {
                // Only the renewal is out of time.
                if let Some(lapsed) = renewal.take() {
                    self.give_up(lapsed.request);
                }
            }
            Some(Access::Granted { renewal, .. }) => {
                let lapsed = renewal.map(|renewal| renewal.request);
                self.ports.remove(key);
                if let Some(request) = lapsed {
                    self.give_up(request);
                }
            }
            Some(Access::Resting { .. }) => {
                self.ports.remove(key);
            }
            Some(Access::Asked { request, .. } | Access::Tapping { request, .. }) => {
                let request = *request;
                self.end_request(request, &key.clone(), RefusalReason::TimedOut, Some(now + REST));
            }
            None => {}
        }
    }

    /// Forgets a request whose answer nobody waits for any more, if the agent has not answered it.
    pub(super) fn give_up(&mut self, request: u64) {
        if self.requests.remove(&request).is_some() {
            self.events.push_back(Event::Cancel(request, RefusalReason::TimedOut));
        }
    }

    /// Ends a request from our side: the agent and the flows are told.
    pub(super) fn end_request(
        &mut self,
        request: u64,
        key: &PortKey,
        reason: RefusalReason,
        rest: Option<BootTime>,
    ) {
        self.requests.remove(&request);
        self.events.push_back(Event::Cancel(request, reason));
        self.tell_refused(key, reason, rest);
    }

    pub(super) fn tell_refused(&mut self, key: &PortKey, reason: RefusalReason, rest: Option<BootTime>) {
        let ended = self.ports.remove(key);
        if let Some(Access::Asked { waiting, .. } | Access::Tapping { waiting, .. }) = ended {
            let told = waiting.into_iter().map(|flow| Event::Verdict(flow, Verdict::Refused(reason)));
            self.events.extend(told);
        }
        if let Some(until) = rest {
            self.ports.insert(key.clone(), Access::Resting { until });
        }
    }
}
