//! `portlatch why HOST:PORT`: which rule opens a port or refuses it, as control tells it; and what this machine knows
//! besides: whether it is open now, what was refused last, what keeps the login from serving. Nothing is decided here.

use portlatch_clock::Clock;
use portlatch_protocol::api::Catalogue;
use portlatch_protocol::api::ceremony::{ExecTarget, Explanation};
use portlatch_protocol::names::{Hostname, ResourceId};
use portlatch_protocol::resource::{MfaNeed, Resource};
use serde::Serialize;

use super::{current_login, print_json};
use crate::address::split_port;
use crate::catalogue::find;
use crate::cli::Why;
use crate::control::Control;
use crate::failure::Failure;
use crate::files::Files;
use crate::login::Login;
use crate::safe_text::{safe_sentence, sentence};
use crate::status::{RefusalView, StatusReport};
use crate::terminal::{emphasised, say};

/// `why --json`.
#[derive(Debug, Serialize)]
struct Answer {
    host: Hostname,
    port: Option<u16>,
    /// `KIND/NAME`; null where no resource of the user has this host.
    resource: Option<ResourceId>,
    /// Whether a connection may be made, after a tap if one is needed.
    is_allowed: bool,
    /// Which tap; null where it is refused.
    mfa: Option<MfaNeed>,
    /// The steps of the decision, the last one decides.
    steps: Vec<String>,
    /// How long it is open without another tap; null where it is not.
    open_for_seconds: Option<u64>,
    /// The newest refusal of this port.
    last_refusal: Option<RefusalView>,
    /// What keeps this machine from serving, whatever the rules say.
    troubles: Vec<String>,
    /// What to do.
    advice: String,
}

/// Tells why.
pub(crate) async fn why(options: &Why, files: &Files, clock: &Clock) -> Result<(), Failure> {
    let (host, port) = split_port(&options.target).map_err(|error| Failure::Usage(error.to_string()))?;
    let login = current_login(files, clock)?;
    let catalogue = super::ls::catalogue(files, clock).await?;
    let mut answer = match find(&catalogue, host.as_str()) {
        Some(resource) => Answer::of_resource(host, port, resource, &login, clock).await?,
        None => Answer::of_stranger(host, port, &catalogue),
    };
    answer.look_around(super::status::report(files, clock).await);
    match options.json {
        true => print_json(&answer)?,
        false => answer.print()?,
    }
    match answer.is_allowed {
        true => Ok(()),
        false => Err(Failure::Refused),
    }
}

impl Answer {
    /// As control tells it.
    async fn of_resource(
        host: Hostname,
        port: Option<u16>,
        resource: &Resource,
        login: &Login,
        clock: &Clock,
    ) -> Result<Self, Failure> {
        let port = port.or_else(|| resource.only_port()).ok_or_else(|| {
            let ports = ports(resource);
            Failure::Failed(format!("{host} has several ports ({ports}): name one, as in {host}:PORT"))
        })?;
        let target = ExecTarget { resource: resource.id.clone(), port };
        let explained = Control::for_login(login, clock)?.why(&target).await?;
        let Explanation { is_allowed, mfa, proved_for, steps } = explained;
        // The catalogue says what the strictest of the ports asks for; of this one control says it.
        let mfa = is_allowed.then(|| mfa.unwrap_or(resource.mfa));
        let advice = match mfa {
            Some(need) => how_to_connect(&host, port, (resource, need)),
            None => whom_to_ask(&target, resource, login),
        };
        Ok(Self {
            host,
            port: Some(port),
            resource: Some(target.resource),
            is_allowed,
            mfa,
            steps: steps.iter().map(|step| safe_sentence(step)).collect(),
            open_for_seconds: proved_for,
            last_refusal: None,
            troubles: Vec::new(),
            advice,
        })
    }

    /// Of a host that no resource of the user has.
    fn of_stranger(host: Hostname, port: Option<u16>, catalogue: &Catalogue) -> Self {
        let zone = catalogue.zones.iter().find(|zone| host.is_within(&zone.suffix));
        let is_address = host.as_str().parse::<std::net::IpAddr>().is_ok();
        let (step, advice) = match zone {
            _ if is_address => (
                format!("{host} is an address, and resources are known by their names"),
                "use the host name, which `portlatch ls` shows".to_owned(),
            ),
            Some(zone) => (
                format!("{host} is in the cluster's zone {}, but no role of yours opens it", zone.suffix),
                "look for it in `portlatch ls`; if it should be there, ask an administrator for a role"
                    .to_owned(),
            ),
            None => (
                format!(
                    "{host} is in none of the cluster's zones: a connection to it never comes to Portlatch"
                ),
                format!("check the name: `portlatch ls` shows yours, all of them in {}", suffixes(catalogue)),
            ),
        };
        Self {
            host,
            port,
            resource: None,
            is_allowed: false,
            mfa: None,
            steps: vec![step, "refused: it is not among your resources".to_owned()],
            open_for_seconds: None,
            last_refusal: None,
            troubles: Vec::new(),
            advice,
        }
    }

    /// Adds what this machine knows.
    fn look_around(&mut self, report: Result<StatusReport, Failure>) {
        match report {
            Ok(report) => self.look_at(report),
            // An agent that is silent is told of; the rules are as they are.
            Err(failure) => self.troubles.push(sentence(&format!("{failure}."))),
        }
        let needs_a_tap = self.mfa.is_some_and(|need| need != MfaNeed::None);
        if let (true, Some(seconds)) = (needs_a_tap, self.open_for_seconds) {
            self.advice = format!("connect: it is open for {seconds} s more, without another tap");
        }
    }

    fn look_at(&mut self, StatusReport { status, troubles }: StatusReport) {
        let name = self.resource.as_ref().map(|resource| resource.name.as_str());
        let is_this = |resource: Option<&str>, port: u16| {
            resource.is_some() && resource == name && Some(port) == self.port
        };
        let held = status.grants.iter().find(|grant| is_this(Some(&grant.resource), grant.port));
        self.open_for_seconds = held.map(|grant| grant.seconds_left).max(self.open_for_seconds);
        let same_host = |refusal: &RefusalView| {
            refusal.host == self.host.as_str() && self.port.is_none_or(|port| port == refusal.port)
        };
        let concerns =
            |refusal: &&RefusalView| is_this(refusal.resource.as_deref(), refusal.port) || same_host(refusal);
        self.last_refusal = status.refusals.iter().find(concerns).cloned();
        self.troubles.extend(troubles);
    }

    fn print(&self) -> Result<(), Failure> {
        let Self { host, port, .. } = self;
        let place = port.map_or_else(|| host.to_string(), |port| format!("{host}:{port}"));
        let verdict = match (self.is_allowed, self.mfa, self.open_for_seconds) {
            (false, _, _) => "refused",
            (true, Some(MfaNeed::Tap | MfaNeed::TapOrCode), Some(_)) => "yours, without another tap",
            (true, Some(MfaNeed::Tap), None) => "yours, after a tap",
            (true, Some(MfaNeed::TapOrCode), None) => "yours, after a tap or a code",
            (true, Some(MfaNeed::None) | None, _) => "yours, without a tap",
        };
        say(&emphasised(&format!("{place}: {verdict}")))?;
        for step in &self.steps {
            say(&format!("  - {step}"))?;
        }
        if let Some(refusal) = &self.last_refusal {
            say(&format!("The last time: {}  {}", refusal.time, refusal.line()))?;
        }
        for trouble in &self.troubles {
            say(&format!("But on this machine: {trouble}"))?;
        }
        Ok(say(&format!("What to do: {}.", self.advice))?)
    }
}

fn how_to_connect(host: &Hostname, port: u16, (resource, need): (&Resource, MfaNeed)) -> String {
    if resource.proxies.is_empty() {
        return "wait, or tell an administrator: no proxy of this resource is up now".to_owned();
    }
    let beforehand = format!("or tap beforehand with `portlatch tap {host}:{port}`");
    match need {
        MfaNeed::None => "connect: nothing else is needed".to_owned(),
        MfaNeed::Tap => format!("connect, and tap your security key at the prompt; {beforehand}"),
        MfaNeed::TapOrCode => {
            format!("connect, and tap your security key or enter a code at the prompt; {beforehand}")
        }
    }
}

/// Which ports there are; or what an administrator can look at.
fn whom_to_ask(target: &ExecTarget, resource: &Resource, login: &Login) -> String {
    let ExecTarget { resource: id, port } = target;
    match resource.has_port(*port) {
        false => format!("use one of the ports that you may: {}", ports(resource)),
        true => format!(
            "ask an administrator, to whom `portlatch-proxy why {} {id} {port}` tells more",
            login.file.user
        ),
    }
}

fn ports(resource: &Resource) -> String {
    let ports: Vec<String> = resource.ports.iter().map(ToString::to_string).collect();
    ports.join(", ")
}

fn suffixes(catalogue: &Catalogue) -> String {
    let suffixes: Vec<&str> = catalogue.zones.iter().map(|zone| zone.suffix.as_str()).collect();
    match suffixes.is_empty() {
        true => "no zone yet".to_owned(),
        false => suffixes.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::tests::of;
    use crate::status::{GrantView, StatusView};
    use portlatch_protocol::refusal::RefusalReason;

    fn stranger(host: &str) -> Answer {
        Answer::of_stranger(host.parse().unwrap(), Some(22), &of(&[("db/billing", "billing.corp.internal")]))
    }

    fn report(grants: Vec<GrantView>, refusals: Vec<RefusalView>) -> StatusReport {
        let status = StatusView { grants, refusals, ..StatusView::default() };
        StatusReport { status: Box::new(status), troubles: vec!["No agent is running.".to_owned()] }
    }

    fn refusal(resource: Option<&str>, host: &str, port: u16) -> RefusalView {
        RefusalView {
            time: "2026-11-22T00:00:00Z".into(),
            resource: resource.map(str::to_owned),
            host: host.into(),
            port,
            program: None,
            pid: None,
            reason: RefusalReason::CoolDown,
        }
    }

    #[test]
    fn a_host_of_no_resource_is_told_by_its_zone() {
        assert!(stranger("x.corp.internal").steps[0].contains("in the cluster's zone corp.internal"));
        let outside = stranger("www.example.com");
        assert!(outside.steps[0].contains("never comes to Portlatch"));
        assert!(outside.advice.contains("corp.internal"));
        assert!(stranger("198.18.0.9").advice.contains("host name"));
        assert!(!outside.is_allowed);
    }

    #[test]
    fn what_the_machine_knows_of_this_port_and_of_no_other_is_added() {
        let mut answer = Answer {
            resource: Some("db/billing".parse().unwrap()),
            port: Some(5432),
            is_allowed: true,
            mfa: Some(MfaNeed::Tap),
            ..stranger("billing.corp.internal")
        };
        let grant = |port| GrantView { resource: "billing".into(), port, seconds_left: 200, amr: vec![] };
        let refusals = vec![
            refusal(Some("billing"), "billing.corp.internal", 22),
            refusal(Some("other"), "other.corp.internal", 5432),
            refusal(Some("billing"), "alias.corp.internal", 5432),
        ];
        answer.look_around(Ok(report(vec![grant(22), grant(5432)], refusals)));
        assert_eq!(answer.open_for_seconds, Some(200));
        assert_eq!(answer.last_refusal.as_ref().unwrap().host, "alias.corp.internal");
        assert!(answer.advice.contains("200 s more") && answer.troubles.len() == 1);
    }

    #[test]
    fn of_a_stranger_its_own_refusals_are_told() {
        let mut answer = stranger("x.corp.internal");
        answer.look_around(Ok(report(vec![], vec![refusal(None, "x.corp.internal", 22)])));
        assert!(answer.last_refusal.is_some());
        let mut silent = stranger("x.corp.internal");
        silent.look_around(Err(Failure::because("the agent does not answer")));
        assert_eq!(silent.troubles, ["The agent does not answer."]);
    }
}
