//! `portlatch doctor`: what is wrong between a program of this user and its resource, and what to do. It looks and changes
//! nothing; each look has a deadline, so that it ends whatever hangs.
//!
//! ```text
//! person     login, agent, security key, PIN, notifications, screen lock, environment
//! machine    the daemon, its attach, what it found; names, the way to their addresses
//! cluster    control, its clock; the proxies, over UDP
//! ```

use std::time::Duration;

use portlatch_clock::Clock;
use portlatch_protocol::api::Catalogue;
use serde::Serialize;
use tokio::time::timeout;

use super::{AGENT_TIME, ask_agent, print_json, status};
use crate::cli::Output;
use crate::daemon::{ask_machine, socket_path};
use crate::failure::Failure;
use crate::files::Files;
use crate::local::{Tell, Want};
use crate::login;
use crate::terminal::{emphasised, say};

mod cluster;
mod finding;
mod machine;
mod person;
mod proxies;
mod quic;

use finding::{Finding, State};
use machine::Daemon;
use person::Agent;

/// No part of the examination takes longer; most have shorter deadlines of their own.
const LONGEST: Duration = Duration::from_secs(12);

/// `doctor --json`.
#[derive(Debug, Serialize)]
struct Report {
    /// Whether nothing failed.
    ok: bool,
    /// In the order of the parts that a connection passes.
    checks: Vec<Finding>,
}

/// Looks for what is wrong.
pub(crate) async fn doctor(output: &Output, files: &Files, clock: &Clock) -> Result<(), Failure> {
    let checks = examine(files, clock).await;
    let report = Report { ok: checks.iter().all(|check| check.state != State::Fail), checks };
    match output.json {
        true => print_json(&report)?,
        false => report.print()?,
    }
    match report.ok {
        true => Ok(()),
        false => Err(Failure::Said),
    }
}

impl Report {
    fn print(&self) -> Result<(), Failure> {
        let width = self.checks.iter().map(|check| check.check.len()).max().unwrap_or(0);
        for Finding { check, state, text, advice } in &self.checks {
            let line = format!("{:4}  {check:width$}  {text}", state.word());
            match state {
                State::Ok => say(&line)?,
                State::Warn | State::Fail => say(&emphasised(&line))?,
            }
            if let Some(advice) = advice {
                say(&format!("{:indent$}-> {advice}", "", indent = width + 8))?;
            }
        }
        Ok(())
    }
}

async fn examine(files: &Files, clock: &Clock) -> Vec<Finding> {
    let login = login::read(files);
    let current = login.as_ref().ok().and_then(Option::as_ref);
    let current = current.filter(|login| login.file.time_left(clock.time_of_day()).is_some());
    let (agent, daemon, (cluster, catalogue), surroundings) = tokio::join!(
        in_time("agent", async { Ok(status::report(files, clock).await) }),
        in_time("service", async { Ok(ask_machine(&socket_path()).await) }),
        cluster::look(files, current, clock),
        person::surroundings(),
    );
    let catalogue = match catalogue {
        Some(catalogue) => Some(catalogue),
        None => agents_catalogue(files).await,
    };
    let (agent, late_agent) = split(agent);
    let (daemon, late_daemon) = split(daemon);
    let agent = agent.map(|report| Agent { report });
    let daemon = daemon.map(|answer| Daemon { answer });
    let (names, proxies) = tokio::join!(
        machine::names(catalogue.as_ref(), daemon.as_ref(), current),
        proxies::look(catalogue.as_ref()),
    );
    let mut findings = person::login(&login, files, clock);
    findings.extend(agent.iter().flat_map(|agent| agent.findings(daemon.as_ref())));
    findings.extend(late_agent);
    findings.extend(daemon.iter().flat_map(|daemon| daemon.findings(agent.as_ref(), current)));
    findings.extend(late_daemon);
    findings.extend(names);
    findings.extend(cluster);
    findings.extend(proxies);
    findings.extend(surroundings);
    findings.extend(person::environment(catalogue.as_ref(), |name| std::env::var(name).ok()));
    findings
}

/// Runs a look within the longest time; a look that takes longer is a failure of its own.
async fn in_time<T>(
    check: &'static str,
    look: impl Future<Output = Result<T, Finding>>,
) -> Result<T, Finding> {
    within(LONGEST, check, look).await
}

async fn within<T>(
    time: Duration,
    check: &'static str,
    look: impl Future<Output = Result<T, Finding>>,
) -> Result<T, Finding> {
    let late = |_| {
        let advice = "run it again; if it stays so, restart what does not answer";
        Err(Finding::fail(check, format!("no answer within {} s", time.as_secs()), advice))
    };
    timeout(time, look).await.unwrap_or_else(late)
}

fn split<T>(looked: Result<T, Finding>) -> (Option<T>, Option<Finding>) {
    match looked {
        Ok(seen) => (Some(seen), None),
        Err(finding) => (None, Some(finding)),
    }
}

/// What the agent knows of what there is, for when control does not say.
async fn agents_catalogue(files: &Files) -> Option<Catalogue> {
    match ask_agent(files, &Want::Catalogue, AGENT_TIME).await {
        Ok(Some(Tell::Catalogue { catalogue })) => catalogue.map(|catalogue| *catalogue),
        Ok(_) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_look_that_hangs_is_a_failure() {
        let looked: Result<(), Finding> = within(Duration::ZERO, "agent", std::future::pending()).await;
        let finding = looked.unwrap_err();
        assert_eq!((finding.check, finding.state), ("agent", State::Fail));
        assert_eq!(finding.text, "no answer within 0 s");
    }
}
