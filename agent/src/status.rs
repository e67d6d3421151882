//! How things are: what `portlatch status` shows, and its JSON, which programs rely on (design section 7).

use std::collections::VecDeque;

use portlatch_protocol::attach::{HeldGrant, MAX_REFUSALS, Refusal};
use portlatch_protocol::names::{Hostname, UserName};
use portlatch_protocol::refusal::RefusalReason;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::identify::Program;
use crate::login::LoginFile;
use crate::prompt::PromptView;
use crate::safe_text::safe;

/// `status --json`; the order of the members is the table's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StatusView {
    /// Who is logged in.
    pub(crate) user: Option<UserName>,
    /// Where.
    pub(crate) cluster: Option<Hostname>,
    /// Until when, RFC 3339.
    pub(crate) login_expires: Option<String>,
    /// Whether the agent runs.
    pub(crate) agent: bool,
    /// Whether the daemon runs.
    pub(crate) daemon: bool,
    /// The prompt that is open, if any.
    pub(crate) prompts: Vec<PromptView>,
    /// The grants that the daemon holds.
    pub(crate) grants: Vec<GrantView>,
    /// What was refused, newest first.
    pub(crate) refusals: Vec<RefusalView>,
}

/// How things are, and for a person what is amiss.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StatusReport {
    /// How things are.
    pub(crate) status: Box<StatusView>,
    /// What keeps the login from serving, a sentence each.
    pub(crate) troubles: Vec<String>,
}

/// A grant that still serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GrantView {
    /// The resource's name.
    pub(crate) resource: String,
    /// The port.
    pub(crate) port: u16,
    /// How long it still serves.
    pub(crate) seconds_left: u64,
    /// How presence was proved.
    pub(crate) amr: Vec<String>,
}

/// A connection that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RefusalView {
    /// When, RFC 3339.
    pub(crate) time: String,
    /// The resource, where the address named one.
    pub(crate) resource: Option<String>,
    /// The host name or address.
    pub(crate) host: String,
    /// The port.
    pub(crate) port: u16,
    /// The program, where it was found.
    pub(crate) program: Option<String>,
    /// Its process.
    pub(crate) pid: Option<u32>,
    /// Why.
    pub(crate) reason: RefusalReason,
}

impl StatusView {
    /// Of this login, with nothing else known.
    pub(crate) fn of_login(login: Option<&LoginFile>) -> Self {
        Self {
            user: login.map(|login| login.user.clone()),
            cluster: login.map(|login| login.cluster.clone()),
            login_expires: login.map(|login| rfc3339(login.expires)),
            ..Self::default()
        }
    }
}

impl From<&HeldGrant> for GrantView {
    fn from(grant: &HeldGrant) -> Self {
        Self {
            resource: grant.resource.name.to_string(),
            port: grant.port,
            seconds_left: grant.expires_in.as_secs(),
            amr: grant.amr.iter().map(|method| safe(method)).collect(),
        }
    }
}

impl RefusalView {
    /// The daemon's refusal, with the program as the agent saw it.
    pub(crate) fn new(refusal: &Refusal, program: Option<Program>) -> Self {
        Self {
            time: rfc3339(refusal.time),
            resource: refusal.resource.as_ref().map(|resource| resource.name.to_string()),
            host: safe(&refusal.host),
            port: refusal.port,
            pid: program.as_ref().map(|program| program.pid),
            program: program.map(|program| program.name),
            reason: refusal.reason,
        }
    }

    /// One line for a person.
    pub(crate) fn line(&self) -> String {
        let Self { host, port, reason, .. } = self;
        let who = match (&self.program, self.pid) {
            (Some(program), Some(pid)) => format!(" for {program}, pid {pid}"),
            (Some(_) | None, _) => String::new(),
        };
        format!("Refused: {host}:{port}{who}: {}", reason.advice())
    }
}

/// The refusals of one user, newest first, the last [`MAX_REFUSALS`].
#[derive(Debug, Default)]
pub(crate) struct Refusals(VecDeque<(Refusal, Option<Program>)>);

impl Refusals {
    /// One that has just happened. One that is known already only gains its program.
    pub(crate) fn add(&mut self, refusal: Refusal, program: Option<Program>) {
        match self.0.iter_mut().find(|(known, _)| *known == refusal) {
            Some((_, known)) => *known = known.take().or(program),
            None => self.0.push_front((refusal, program)),
        }
        self.0.truncate(MAX_REFUSALS);
    }

    /// Those that the daemon kept; returns those that were not known, newest first.
    pub(crate) fn add_older(&mut self, older: Vec<Refusal>) -> Vec<Refusal> {
        let is_known = |refusal: &Refusal| self.0.iter().any(|(known, _)| known == refusal);
        let mut new: Vec<Refusal> =
            older.into_iter().take(MAX_REFUSALS).filter(|refusal| !is_known(refusal)).collect();
        new.dedup();
        self.0.extend(new.iter().map(|refusal| (refusal.clone(), None)));
        self.0.make_contiguous().sort_by_key(|(refusal, _)| std::cmp::Reverse(refusal.time));
        self.0.truncate(MAX_REFUSALS);
        new
    }

    /// Newest first, as status shows them.
    pub(crate) fn views(&self) -> Vec<RefusalView> {
        self.0.iter().map(|(refusal, program)| RefusalView::new(refusal, program.clone())).collect()
    }
}

/// Seconds since 1970 as RFC 3339 writes them, in UTC.
pub(crate) fn rfc3339(seconds: i64) -> String {
    let moment = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    moment.format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Duration;

    fn refusal(time: i64, port: u16) -> Refusal {
        Refusal {
            time,
            resource: Some("db/billing-db".parse().unwrap()),
            host: "billing-db.corp.internal".into(),
            port,
            inode: 7,
            reason: RefusalReason::CoolDown,
        }
    }

    #[test]
    fn the_json_is_the_table_s() {
        let login = LoginFile {
            cluster: "proxy.example.com".parse().unwrap(),
            port: 443,
            user: "jerry".parse().unwrap(),
            login: "0a".parse().unwrap(),
            device: "laptop".parse().unwrap(),
            expires: 1_800_000_000,
            mfa_mode: Default::default(),
        };
        let program = Program { name: "psql".into(), pid: 4242 };
        let grant = HeldGrant {
            resource: "db/billing-db".parse().unwrap(),
            port: 5432,
            expires_in: Duration::from_millis(298_900),
            amr: vec!["hwk".into(), "user".into()],
        };
        let status = StatusView {
            agent: true,
            daemon: true,
            prompts: vec![PromptView {
                id: 3,
                resource: "billing-db".into(),
                host: "billing-db.corp.internal".into(),
                port: 5432,
                program: None,
                pid: None,
                seconds_left: 58,
            }],
            grants: vec![GrantView::from(&grant)],
            refusals: vec![RefusalView::new(&refusal(1_700_000_000, 5432), Some(program))],
            ..StatusView::of_login(Some(&login))
        };
        assert_eq!(
            serde_json::to_value(&status).unwrap(),
            json!({
                "user": "jerry", "cluster": "proxy.example.com", "login_expires": "2027-01-15T08:00:00Z",
                "agent": true, "daemon": true,
                "prompts": [{"id": 3, "resource": "billing-db", "host": "billing-db.corp.internal", "port": 5432,
                    "program": null, "pid": null, "seconds_left": 58}],
                "grants": [{"resource": "billing-db", "port": 5432, "seconds_left": 298, "amr": ["hwk", "user"]}],
                "refusals": [{"time": "2023-11-14T22:13:20Z", "resource": "billing-db",
                    "host": "billing-db.corp.internal", "port": 5432, "program": "psql", "pid": 4242,
                    "reason": "cool_down"}],
            })
        );
    }

    #[test]
    fn without_a_login_its_members_are_null() {
        let json = serde_json::to_value(StatusView::of_login(None)).unwrap();
        assert_eq!(
            (&json["user"], &json["cluster"], &json["login_expires"]),
            (&json!(null), &json!(null), &json!(null))
        );
    }

    #[test]
    fn the_last_hundred_refusals_are_kept_newest_first() {
        let mut refusals = Refusals::default();
        for time in 0..150 {
            refusals.add(refusal(time, 1), None);
        }
        let views = refusals.views();
        assert_eq!((views.len(), &views[0].time, &views[99].time), (100, &rfc3339(149), &rfc3339(50)));
    }

    #[test]
    fn what_the_daemon_kept_is_added_once_and_keeps_its_program() {
        let mut refusals = Refusals::default();
        let program = Program { name: "psql".into(), pid: 1 };
        refusals.add(refusal(20, 1), None);
        refusals.add_older(vec![refusal(30, 2), refusal(20, 1), refusal(10, 1)]);
        refusals.add(refusal(20, 1), Some(program));
        let seen: Vec<_> = refusals.views().iter().map(|r| (r.port, r.program.is_some())).collect();
        assert_eq!(seen, [(2, false), (1, true), (1, false)]);
    }
}
