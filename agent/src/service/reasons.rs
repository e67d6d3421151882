//! Why programs were refused without a prompt, as far as one word of the daemon's does not say it: told where people look,
//! once for each cause. What a prompt ended with, the prompt says itself.

use std::collections::VecDeque;
use std::time::Duration;

use portlatch_clock::BootTime;
use portlatch_protocol::attach::Refusal;
use portlatch_protocol::names::ResourceId;
use portlatch_protocol::refusal::RefusalReason;

use super::Service;
use super::access::Request;
use crate::broker::Subject;
use crate::identify::Program;

/// How long a cause is not told again: programs try again and again.
const TELL_AGAIN: Duration = Duration::from_secs(60);
/// Causes that are remembered; more at once than a person reads.
const MAX_TOLD: usize = 64;

/// What was told a moment ago.
#[derive(Debug, Default)]
pub(super) struct Reasons(VecDeque<(Cause, BootTime)>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Cause {
    resource: ResourceId,
    port: u16,
    reason: RefusalReason,
    program: Option<String>,
}

impl Reasons {
    /// Whether this is to be told now.
    fn is_news(&mut self, cause: Cause, now: BootTime) -> bool {
        self.0.retain(|(_, until)| now < *until);
        if self.0.iter().any(|(told, _)| *told == cause) {
            return false;
        }
        self.0.push_front((cause, now + TELL_AGAIN));
        self.0.truncate(MAX_TOLD);
        true
    }

    /// Whether people know already why this connection was refused, better than by its one word.
    pub(super) fn have_told(&self, refusal: &Refusal, now: BootTime) -> bool {
        let is_meant = |cause: &Cause| {
            refusal.resource.as_ref() == Some(&cause.resource)
                && (refusal.port, refusal.reason) == (cause.port, cause.reason)
        };
        self.0.iter().any(|(told, until)| now < *until && is_meant(told))
    }
}

impl Service {
    /// A program was refused, and nobody was asked.
    pub(super) fn tell_reason(&mut self, request: &Request, reason: RefusalReason, message: &str) {
        let Subject::Port { resource, port } = &request.subject else { return };
        let program = request.program.as_ref();
        let cause = Cause {
            resource: resource.clone(),
            port: *port,
            reason,
            program: program.map(|program| program.name.clone()),
        };
        if self.reasons.is_news(cause, self.clock.boot_time()) {
            let who = program.map(|Program { name, pid }| format!(" for {name}, pid {pid}"));
            let who = who.unwrap_or_default();
            self.note(format!("Refused: {}:{port}{who}: {message}", request.title));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> BootTime {
        BootTime::since_boot(Duration::from_secs(1_000 + seconds))
    }

    fn cause(port: u16) -> Cause {
        let resource = "db/billing-db".parse().unwrap();
        Cause { resource, port, reason: RefusalReason::CoolDown, program: None }
    }

    fn refusal(port: u16, reason: RefusalReason) -> Refusal {
        let resource = Some("db/billing-db".parse().unwrap());
        Refusal { time: 0, resource, host: "billing-db".into(), port, inode: 0, reason }
    }

    #[test]
    fn a_cause_is_told_once_a_minute_and_another_one_at_once() {
        let mut reasons = Reasons::default();
        assert!(reasons.is_news(cause(1), at(0)));
        assert!(!reasons.is_news(cause(1), at(59)));
        assert!(reasons.is_news(cause(2), at(59)));
        assert!(reasons.is_news(Cause { program: Some("psql".to_owned()), ..cause(1) }, at(59)));
        assert!(reasons.is_news(cause(1), at(60)));
    }

    #[test]
    fn what_was_told_in_full_is_not_told_in_a_word_as_well() {
        let mut reasons = Reasons::default();
        reasons.is_news(cause(1), at(0));
        assert!(reasons.have_told(&refusal(1, RefusalReason::CoolDown), at(1)));
        assert!(!reasons.have_told(&refusal(1, RefusalReason::TargetRefused), at(1)));
        assert!(!reasons.have_told(&refusal(2, RefusalReason::CoolDown), at(1)));
        assert!(!reasons.have_told(&refusal(1, RefusalReason::CoolDown), at(61)));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut reasons = Reasons::default();
        for port in 0..1000 {
            reasons.is_news(cause(port), at(0));
        }
        assert_eq!(reasons.0.len(), MAX_TOLD);
    }
}
