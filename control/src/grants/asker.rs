//! Who asks for access, how often it may, and how its questions stand in the audit.

use std::net::IpAddr;
use std::time::Duration;

use portlatch_audit::{Event, EventKind};
use portlatch_protocol::api::AccessRequest;
use portlatch_protocol::names::Id;

use crate::login::limits::{Limit, Rate};
use crate::store::logins::StoredLogin;

/// Questions of one login: a browser opens some dozens of ports at once; beyond that something scans.
const QUESTIONS: Rate = Rate { burst: 200, every: Duration::from_millis(50) };
/// Challenges of one login: nobody taps more often than once a second for a minute.
const CHALLENGES: Rate = Rate { burst: 60, every: Duration::from_secs(1) };
/// Wrong answers of one login: ten, then one a minute.
const FAILURES: Rate = Rate { burst: 10, every: Duration::from_secs(60) };
/// Records of requests that one login is refused whatever it asks for: an agent that has not heard of its login's end goes
/// on asking.
const RECORDS: Rate = Rate { burst: 5, every: Duration::from_secs(60) };
/// Longest name of a program that is kept: it is a claim of the user's machine.
const MAX_PROGRAM: usize = 64;

/// The limits on a login's questions.
#[derive(Debug)]
pub struct AccessLimits {
    pub(super) questions: Limit<Id>,
    pub(super) challenges: Limit<Id>,
    pub(super) failures: Limit<Id>,
    pub(crate) records: Limit<Id>,
}

impl Default for AccessLimits {
    fn default() -> Self {
        let (questions, challenges) = (Limit::new(QUESTIONS), Limit::new(CHALLENGES));
        Self { questions, challenges, failures: Limit::new(FAILURES), records: Limit::new(RECORDS) }
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
    pub(super) fn event(&self, kind: EventKind, request: &AccessRequest) -> Event {
        let login = &self.login.login;
        Event {
            user: Some(login.user.clone()),
            login: Some(login.login.clone()),
            device: Some(login.device.clone()),
            client_addr: Some(self.address.to_string()),
            resource: Some(request.resource.clone()),
            port: Some(request.port),
            program: request.program.as_deref().map(shown),
            ..Event::new(kind)
        }
    }

    pub(super) fn failed(&self, kind: EventKind, request: &AccessRequest, reason: &str) -> Event {
        Event { reason: Some(reason.to_owned()), ..self.event(kind, request) }
    }
}

/// A program's name as it may be kept: short, and without characters that act on a terminal.
pub(super) fn shown(program: &str) -> String {
    let is_plain = |c: &char| {
        !c.is_control()
            && !matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    program.chars().filter(is_plain).take(MAX_PROGRAM).collect()
}
