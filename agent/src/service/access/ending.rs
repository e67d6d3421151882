//! How requests end: with what their tap brought, with a refusal, or since nobody is there any more; and what a command is
//! told of it, and on the way.

use std::time::Duration;

use portlatch_protocol::api::IssuedGrant;
use portlatch_protocol::api::ceremony::CeremonyOutcome;
use portlatch_protocol::attach::{Grant, ToDaemon};
use portlatch_protocol::names::ResourceId;
use portlatch_protocol::refusal::RefusalReason;

use super::{Origin, Request};
use crate::broker::{RequestId, Subject};
use crate::local::Tell;
use crate::service::Service;

/// Of what a command has not read yet, what is kept free for its end: it brings what cannot be had again.
const ROOM_FOR_THE_END: usize = 1;

impl Service {
    /// Ends a request with what its tap brought.
    pub(in crate::service) fn deliver(&mut self, id: RequestId, outcome: CeremonyOutcome) {
        let Some(request) = self.requests.remove(&id) else { return };
        match (request.subject.clone(), outcome) {
            (Subject::Port { resource, port }, CeremonyOutcome::Granted(grant)) => {
                self.deliver_grant(id, request, resource, port, &grant);
            }
            (Subject::Exec(_), CeremonyOutcome::Remembered { expires_in, .. }) => {
                let text = format!("{} may begin", request.title);
                tell(&request, Tell::Tapped { text, seconds: expires_in });
            }
            (_, outcome) => tell(&request, Tell::Changed { outcome }),
        }
    }

    fn deliver_grant(
        &mut self,
        id: RequestId,
        request: Request,
        resource: ResourceId,
        port: u16,
        grant: &IssuedGrant,
    ) {
        let for_daemon = Grant {
            token: grant.token.clone(),
            expires_in: Duration::from_secs(grant.expires_in),
            amr: grant.amr.clone(),
            program: request.program.as_ref().map(|program| program.name.clone()),
        };
        match request.origin {
            Origin::Daemon => self.send(ToDaemon::Granted(id.0, for_daemon)),
            Origin::Command(_) => {
                self.send(ToDaemon::Offer(resource, port, for_daemon));
                let text = format!("{} is open", request.what());
                tell(&request, Tell::Tapped { text, seconds: grant.expires_in });
            }
        }
    }

    /// Ends a request without one. The daemon tells of the refusals themselves, in a word; of what is not in a word, people
    /// hear here.
    pub(in crate::service) fn refuse(
        &mut self,
        id: RequestId,
        reason: RefusalReason,
        message: Option<String>,
    ) {
        let Some(request) = self.requests.remove(&id) else { return };
        tracing::debug!(%reason, ?message, "refused");
        match &request.origin {
            Origin::Daemon => {
                if let Some(message) = &message {
                    self.tell_reason(&request, reason, message);
                }
                self.send(ToDaemon::Refused(id.0, reason));
            }
            Origin::Command(tells) => {
                let _ = tells.try_send(failed(reason, message));
            }
        }
    }

    /// Whoever ran the command has pressed Ctrl-C.
    pub(in crate::service) fn drop_deserted(&mut self) {
        let is_deserted =
            |request: &Request| matches!(&request.origin, Origin::Command(tells) if tells.is_closed());
        let deserted: Vec<RequestId> =
            self.requests.iter().filter(|(_, request)| is_deserted(request)).map(|(id, _)| *id).collect();
        for id in deserted {
            self.requests.remove(&id);
            self.broker.handle_refused(id, RefusalReason::TimedOut, self.clock.boot_time());
        }
        self.obey_broker();
    }

    /// Nobody is there any more to whom answers could go.
    pub(in crate::service) fn drop_requests(&mut self, why: &str) {
        for request in std::mem::take(&mut self.requests).into_values() {
            tell_failed(&request, why);
        }
        self.broker.handle_nobody_there(RefusalReason::NoLogin);
        self.obey_broker();
    }

    /// The daemon is gone, or still is: what it is needed for ends. A change of keys needs none.
    pub(in crate::service) fn drop_requests_of_daemon(&mut self, why: &str) {
        let is_daemon_s = |request: &Request| !matches!(request.subject, Subject::Devices(_));
        let mut ids: Vec<RequestId> =
            self.requests.iter().filter(|(_, request)| is_daemon_s(request)).map(|(id, _)| *id).collect();
        // The open one last, so that none of the others opens in its place.
        ids.sort_by_key(|id| self.prompt.as_ref().is_some_and(|prompt| prompt.id == *id));
        let now = self.clock.boot_time();
        for id in ids {
            if let Some(request) = self.requests.remove(&id) {
                tell_failed(&request, why);
            }
            self.broker.handle_refused(id, RefusalReason::NoLogin, now);
        }
        self.obey_broker();
    }
}

/// Tells the command that asked how it ended, if it was one and still listens. A request ends once, so that there is room.
fn tell(request: &Request, tell: Tell) {
    if let Origin::Command(tells) = &request.origin {
        let _ = tells.try_send(tell);
    }
}

/// Tells it what happens meanwhile; whoever is slow to read misses some of it.
pub(in crate::service) fn tell_more(request: &Request, tell: Tell) {
    if let Origin::Command(tells) = &request.origin
        && tells.capacity() > ROOM_FOR_THE_END
    {
        let _ = tells.try_send(tell);
    }
}

pub(super) fn tell_failed(request: &Request, why: &str) {
    tell(request, Tell::Failed { denied: false, text: why.to_owned() });
}

pub(super) fn failed(reason: RefusalReason, message: Option<String>) -> Tell {
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
    let advice = match reason {
        // What is told to whoever waits with a program speaks of connecting.
        RefusalReason::TimedOut => "nobody tapped in time: run it again",
        RefusalReason::NoLogin
        | RefusalReason::UnknownPort
        | RefusalReason::Policy
        | RefusalReason::Denied
        | RefusalReason::QueueFull
        | RefusalReason::CoolDown
        | RefusalReason::Locked
        | RefusalReason::TargetRefused
        | RefusalReason::TargetUnreachable
        | RefusalReason::NoProxy
        | RefusalReason::Limit => reason.advice(),
    };
    Tell::Failed { denied, text: message.unwrap_or_else(|| advice.to_owned()) }
}

#[cfg(test)]
mod tests {
    use portlatch_protocol::api::Secret;
    use portlatch_protocol::api::ceremony::DeviceChange;
    use tokio::sync::mpsc;

    use super::super::Stage;
    use super::*;
    use crate::prompt::Waiting;

    #[test]
    fn a_command_is_told_to_be_run_again() {
        let Tell::Failed { denied, text } = failed(RefusalReason::TimedOut, None) else { panic!() };
        assert_eq!((denied, text.as_str()), (false, "nobody tapped in time: run it again"));
    }

    #[tokio::test]
    async fn how_it_ends_reaches_a_command_that_reads_nothing() {
        let (tells, mut told) = mpsc::channel(8);
        let request = Request {
            number: 1,
            origin: Origin::Command(tells),
            subject: Subject::Devices(DeviceChange::RecoveryCodes),
            title: "make recovery codes".to_owned(),
            program: None,
            inode: 0,
            mode: None,
            waiting: Waiting::Yes,
            stage: Stage::Prompt(0),
        };
        for number in 0..100 {
            tell_more(&request, Tell::Note { text: number.to_string() });
        }
        let codes = vec![Secret("0000-0000".to_owned())];
        tell(&request, Tell::Changed { outcome: CeremonyOutcome::RecoveryCodes { codes } });
        drop(request);
        let mut last = None;
        while let Some(tell) = told.recv().await {
            last = Some(tell);
        }
        assert!(matches!(last, Some(Tell::Changed { .. })), "{last:?}");
    }
}
