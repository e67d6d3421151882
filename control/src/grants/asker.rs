//! Who asks for access, how often it may, and how its questions stand in the audit.

use std::net::IpAddr;
use std::time::Duration;

use portlatch_audit::{Event, EventKind};
use portlatch_clock::BootTime;
use portlatch_protocol::api::AccessRequest;
use portlatch_protocol::names::{Id, UserName};

use super::failures::Failures;
use crate::api::problem::Denial;
use crate::control::Control;
use crate::login::limits::{Limit, NetworkLimit, Rate, network_of};
use crate::store::logins::StoredLogin;

// From one network each; what is asked from all together has a bound besides. Somebody who has stolen a login, and uses it
// elsewhere, uses up no share of its user's.

/// Questions of one login: a browser opens some dozens of ports at once; beyond that something scans.
const QUESTIONS: Rate = Rate { burst: 200, every: Duration::from_millis(50) };
/// Challenges of one user, on however many devices: ten a minute, which is more than a person is willing to answer. At the
/// pages as many besides: what is approved there was counted when its agent asked.
const CHALLENGES: Rate = Rate { burst: 10, every: Duration::from_secs(6) };
/// Requests for the catalogue by one login: each waits for a change or 25 s; an agent that starts again asks at once.
const CATALOGUES: Rate = Rate { burst: 60, every: Duration::from_secs(1) };
/// Everything else that one login asks: answers to its challenges, what it gives back, what it looks at. A program in a loop
/// is slowed down before it fills the audit.
const OTHERS: Rate = Rate { burst: 60, every: Duration::from_secs(1) };
/// Records of requests that one login is refused whatever it asks for: an agent that has not heard of its login's end goes
/// on asking.
const RECORDS: Rate = Rate { burst: 5, every: Duration::from_secs(60) };
/// Longest name of a program that is kept: it is a claim of the user's machine.
const MAX_PROGRAM: usize = 64;

/// The limits on a login's questions.
#[derive(Debug)]
pub struct AccessLimits {
    questions: NetworkLimit<Id>,
    pub(crate) challenges: NetworkLimit<UserName>,
    /// Challenges of pages that approve.
    pub(crate) approvals: Limit<UserName>,
    pub(crate) catalogues: NetworkLimit<Id>,
    pub(crate) others: NetworkLimit<Id>,
    pub(crate) failures: Failures,
    pub(crate) records: Limit<Id>,
}

impl Default for AccessLimits {
    fn default() -> Self {
        Self {
            questions: NetworkLimit::shared(QUESTIONS),
            challenges: NetworkLimit::shared(CHALLENGES),
            approvals: Limit::new(CHALLENGES),
            catalogues: NetworkLimit::shared(CATALOGUES),
            others: NetworkLimit::shared(OTHERS),
            failures: Failures::default(),
            records: Limit::new(RECORDS),
        }
    }
}

impl AccessLimits {
    /// Whether the login may ask one question more.
    pub(crate) fn takes_question(&self, asker: Asker<'_>, now: BootTime) -> bool {
        self.questions.take(&asker.login.login.login, asker.address, now)
    }
}

/// A login that asks, and from where.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// The login, which stands at this moment.
    pub login: &'a StoredLogin,
    /// The address of its agent.
    pub address: IpAddr,
}

impl Asker<'_> {
    /// Whether the login is used from where it was made. Of a login from before that was kept, nobody knows.
    pub(crate) fn is_at_home(&self) -> bool {
        self.login.address.is_some_and(|address| network_of(address) == network_of(self.address))
    }

    /// The record of this kind: who, and from where.
    pub(crate) fn event(&self, kind: EventKind) -> Event {
        let login = &self.login.login;
        Event {
            user: Some(login.user.clone()),
            login: Some(login.login.clone()),
            device: Some(login.device.clone()),
            client_addr: Some(self.address.to_string()),
            ..Event::new(kind)
        }
    }

    /// The record of this kind about a port.
    pub(crate) fn about(&self, kind: EventKind, request: &AccessRequest) -> Event {
        Event {
            resource: Some(request.resource.clone()),
            port: Some(request.port),
            program: request.program.as_deref().map(shown),
            ..self.event(kind)
        }
    }

    pub(super) fn failed(&self, kind: EventKind, request: &AccessRequest, reason: &str) -> Event {
        Event { reason: Some(reason.to_owned()), ..self.about(kind, request) }
    }
}

impl Control {
    /// Takes one of a login's requests that have no limit of their own.
    ///
    /// # Errors
    /// [`Denial::RateLimited`].
    pub(crate) async fn take_other(&self, asker: Asker<'_>) -> Result<(), Denial> {
        let (login, now) = (&asker.login.login.login, self.clock.boot_time());
        if self.access_limits.others.take(login, asker.address, now) {
            return Ok(());
        }
        self.note_limited(asker, asker.event(EventKind::AccessDenied)).await;
        Err(Denial::RateLimited)
    }

    /// Records that a request was refused because there were too many; of many of those, a few.
    pub(crate) async fn note_limited(&self, asker: Asker<'_>, event: Event) {
        if self.access_limits.records.take(&asker.login.login.login, self.clock.boot_time()) {
            self.audit.note(Event { reason: Some("rate_limited".to_owned()), ..event }).await;
        }
    }
}

/// A program's name as it may be kept: short, and without characters that act on a terminal.
pub(crate) fn shown(program: &str) -> String {
    let is_plain = |c: &char| {
        !c.is_control()
            && !matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    program.chars().filter(is_plain).take(MAX_PROGRAM).collect()
}
