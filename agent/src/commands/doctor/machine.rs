//! What is the machine's: the daemon and what it found, whether names come to it, and whether their addresses do.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use futures_util::future::join_all;
use portlatch_protocol::api::Catalogue;
use portlatch_protocol::attach::{Finding as Found, Machine, Status, VERSION};
use portlatch_protocol::names::Hostname;
use portlatch_protocol::resource::Zone;
use tokio::time::timeout;

use super::finding::{Finding, untried};
use super::person::Agent;
use crate::daemon::DaemonError;
use crate::login::Login;
use crate::safe_text::{plain, safe, safe_sentence, sentence};

/// How long the system's resolver has for a name; ours answers in a millisecond.
const RESOLVE_TIME: Duration = Duration::from_secs(5);
/// Zones that are tried.
const MAX_ZONES: usize = 8;
/// A name below a wildcard: nobody has one like it.
const ANY_NAME: &str = "portlatch-doctor";

/// What the daemon has said.
pub(super) struct Daemon {
    pub(super) answer: Result<(Status, Option<Machine>), DaemonError>,
}

impl Daemon {
    /// Why it says nothing, as the agent would say it.
    pub(super) fn error(&self) -> Option<String> {
        self.answer.as_ref().err().map(|error| sentence(&format!("{error}.")))
    }

    fn machine(&self) -> Option<&Machine> {
        self.answer.as_ref().ok()?.1.as_ref()
    }

    /// How it is, whether the login serves, and what it found of the machine.
    pub(super) fn findings(&self, agent: Option<&Agent>, login: Option<&Login>) -> Vec<Finding> {
        let (status, machine) = match &self.answer {
            Ok(answer) => answer,
            Err(error) => return vec![Finding::error("service", error)],
        };
        let Some(Machine { network, prefix_length, findings }) = machine else {
            let advice = "restart portlatchd: the one that runs is older than this program";
            let older =
                Finding::warn("service", "portlatchd answers, and does not tell of the machine", advice);
            return std::iter::once(older).chain(attached(status, agent, login)).collect();
        };
        let range = format!("version {VERSION}, addresses in {network}/{prefix_length}");
        let found = |Found { subject, what, advice }: &Found| {
            let text = format!("{}: {}", safe(subject), safe_sentence(what));
            Finding::warn("machine", text, safe_sentence(advice))
        };
        std::iter::once(Finding::ok("service", format!("portlatchd answers ({range})")))
            .chain(attached(status, agent, login))
            .chain(findings.iter().map(found))
            .collect()
    }
}

/// Whether the daemon serves the login. Where there is no login or no agent, their own lines say so.
fn attached(status: &Status, agent: Option<&Agent>, login: Option<&Login>) -> Option<Finding> {
    if let Some(pid) = status.agent {
        let tunnels: Vec<&str> = status.tunnels.iter().map(|name| name.as_str()).collect();
        let tunnels = match tunnels.is_empty() {
            true => "no tunnel is needed yet".to_owned(),
            false => format!("tunnels to {}", tunnels.join(", ")),
        };
        return Some(Finding::ok("attach", format!("the login serves (agent {pid}); {tunnels}")));
    }
    let agent_runs = agent.is_some_and(Agent::runs);
    (login.is_some() && agent_runs).then(|| {
        Finding::fail(
            "attach",
            "portlatchd does not serve the login, so that programs are refused",
            "see the agent's line; if it has none, try again in a few seconds",
        )
    })
}

/// Whether the names of each zone resolve to our addresses, and whether the way there leads to us.
pub(super) async fn names(
    catalogue: Option<&Catalogue>,
    daemon: Option<&Daemon>,
    login: Option<&Login>,
) -> Vec<Finding> {
    let Some(machine) = daemon.and_then(Daemon::machine) else { return Vec::new() };
    let zones = catalogue.into_iter().flat_map(|catalogue| {
        catalogue.zones.iter().filter_map(|zone| Some((zone, name_in(catalogue, zone)?)))
    });
    let mut zones: Vec<(&Zone, Hostname)> = zones.collect();
    let more = zones.len().saturating_sub(MAX_ZONES);
    zones.truncate(MAX_ZONES);
    let looks = zones.into_iter().map(async |(zone, name)| {
        let looked = timeout(RESOLVE_TIME, tokio::net::lookup_host((name.as_str(), 0))).await;
        let looked = looked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        resolved(&name, zone, looked.map(|found| found.map(|address| address.ip()).collect()), machine)
    });
    let (mut findings, addresses): (Vec<Finding>, Vec<_>) = join_all(looks).await.into_iter().unzip();
    let own = addresses.into_iter().flatten().next();
    if findings.is_empty() {
        findings.push(no_name(catalogue, login));
    }
    findings.extend(untried("names", more));
    findings.push(way_to(own.unwrap_or_else(|| an_address(machine)), machine));
    findings
}

/// Why no name was tried.
fn no_name(catalogue: Option<&Catalogue>, login: Option<&Login>) -> Finding {
    let unknown = "no name was tried: it is not known which there are";
    match (catalogue, login) {
        (Some(_), _) => Finding::warn(
            "names",
            "no name was tried: none of your resources is in a zone",
            "if there should be some, tell an administrator",
        ),
        (None, Some(_)) => Finding::warn("names", unknown, "see control's line, which should list them"),
        (None, None) => Finding::warn("names", unknown, "log in first"),
    }
}

/// A name of the zone that is ours.
fn name_in(catalogue: &Catalogue, zone: &Zone) -> Option<Hostname> {
    let within = catalogue.resources.iter().filter(|resource| resource.host.anchor().is_within(&zone.suffix));
    let name = |host: &portlatch_protocol::names::HostPattern| match host.parent() {
        Some(parent) => format!("{ANY_NAME}.{parent}").parse().ok(),
        None => Some(host.anchor()),
    };
    within.filter_map(|resource| name(&resource.host)).min_by_key(|name| name.as_str().starts_with(ANY_NAME))
}

/// What the answer of the system's resolver means, and an address of ours in it.
fn resolved(
    name: &Hostname,
    zone: &Zone,
    answer: io::Result<Vec<IpAddr>>,
    machine: &Machine,
) -> (Finding, Option<Ipv4Addr>) {
    let why = match &answer {
        Ok(_) => "it has no IPv4 address".to_owned(),
        Err(error) => plain(error),
    };
    let v4 = |address: IpAddr| match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    };
    let addresses: Vec<Ipv4Addr> = answer.unwrap_or_default().into_iter().filter_map(v4).collect();
    let foreign = addresses.iter().find(|address| !machine.contains(**address));
    match (addresses.first(), foreign) {
        (Some(address), None) => (Finding::ok("names", format!("{name} is {address}")), Some(*address)),
        (_, Some(foreign)) => {
            let text =
                format!("{name} is {foreign}, which is no address of Portlatch's: another resolver answers");
            let advice = format!(
                "see who answers for {} (`resolvectl status`, /etc/resolv.conf): another VPN may have taken DNS",
                zone.suffix
            );
            (Finding::fail("names", text, advice), None)
        }
        (None, None) => (
            Finding::fail("names", format!("{name} does not resolve ({why})"), how_to_resolve(zone, machine)),
            None,
        ),
    }
}

/// The daemon may know why names do not resolve.
fn how_to_resolve(zone: &Zone, machine: &Machine) -> String {
    let of_names = |found: &&Found| ["dns", "resolv.conf", "resolved"].contains(&found.subject.as_str());
    match machine.findings.iter().find(of_names) {
        Some(found) => safe_sentence(&found.advice),
        None => format!(
            "see that the login is attached, and that root listed the zone: `portlatchd trust ... --zone {}`",
            zone.suffix
        ),
    }
}

/// An address that no program uses: the daemon's name server's.
fn an_address(machine: &Machine) -> Ipv4Addr {
    Ipv4Addr::from_bits(machine.network.to_bits().saturating_add(2))
}

/// Which way a packet to this address would take. Connecting a UDP socket asks the kernel for the route and sends nothing.
fn way_to(address: Ipv4Addr, machine: &Machine) -> Finding {
    let (network, prefix) = (machine.network, machine.prefix_length);
    let restart = "restart portlatchd; if that does not help, see `ip rule` and `ip route show table all`";
    let routed = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        // The discard port.
        socket.connect((address, 9))?;
        socket.local_addr()
    });
    match routed {
        Ok(SocketAddr::V4(own)) if machine.contains(*own.ip()) => {
            Finding::ok("route", format!("{network}/{prefix} leads to portlatchd"))
        }
        Ok(own) => Finding::fail(
            "route",
            format!("connections to {network}/{prefix} would leave from {}, not by portlatchd", own.ip()),
            restart,
        ),
        Err(error) => Finding::fail(
            "route",
            format!("there is no way to {network}/{prefix} ({})", plain(&error)),
            restart,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;
    use crate::catalogue::tests::of;

    fn machine(network: [u8; 4], findings: Vec<Found>) -> Machine {
        Machine { network: network.into(), prefix_length: 16, findings }
    }

    fn zone() -> Zone {
        Zone { suffix: "corp.internal".parse().unwrap(), exclusive: false }
    }

    fn of_answer(answer: io::Result<Vec<IpAddr>>, machine: &Machine) -> (Finding, Option<Ipv4Addr>) {
        resolved(&"db.corp.internal".parse().unwrap(), &zone(), answer, machine)
    }

    #[test]
    fn a_daemon_that_does_not_tell_of_the_machine_is_older_and_not_out_of_order() {
        let status = Status { agent: None, grants: vec![], refusals: vec![], tunnels: vec![], flows: 0 };
        let daemon = Daemon { answer: Ok((status, None)) };
        let findings = daemon.findings(None, None);
        assert_eq!((findings[0].check, findings[0].state), ("service", State::Warn));
        assert!(findings[0].advice.as_ref().unwrap().starts_with("restart portlatchd"));
        assert!(daemon.error().is_none() && daemon.machine().is_none());
    }

    #[test]
    fn an_answer_of_ours_is_well_and_any_other_is_not() {
        let machine = machine([198, 18, 0, 0], vec![]);
        let ours: IpAddr = [198, 18, 3, 4].into();
        let (finding, address) = of_answer(Ok(vec!["fd00::1".parse().unwrap(), ours]), &machine);
        assert_eq!((finding.state, address), (State::Ok, Some([198, 18, 3, 4].into())));
        let (finding, address) = of_answer(Ok(vec![ours, [10, 0, 0, 9].into()]), &machine);
        assert_eq!((finding.state, address), (State::Fail, None));
        assert!(finding.text.contains("db.corp.internal is 10.0.0.9"), "{}", finding.text);
        let (finding, _) = of_answer(Err(io::ErrorKind::TimedOut.into()), &machine);
        assert!(finding.advice.unwrap().contains("--zone corp.internal"));
    }

    #[test]
    fn what_the_daemon_knows_of_its_names_is_the_advice() {
        let found = Found { subject: "dns".into(), what: "no resolved".into(), advice: "start it".into() };
        let (finding, _) = of_answer(Ok(vec![]), &machine([198, 18, 0, 0], vec![found]));
        assert_eq!(finding.advice.as_deref(), Some("start it"));
    }

    #[test]
    fn a_name_is_tried_before_one_below_a_wildcard() {
        let both = of(&[("app/any", "*.apps.corp.internal"), ("db/db", "db.corp.internal")]);
        assert_eq!(name_in(&both, &zone()).unwrap().as_str(), "db.corp.internal");
        let wild = of(&[("app/any", "*.apps.corp.internal"), ("db/db", "db.example.com")]);
        assert_eq!(name_in(&wild, &zone()).unwrap().as_str(), "portlatch-doctor.apps.corp.internal");
        assert_eq!(name_in(&of(&[("db/db", "db.example.com")]), &zone()), None);
    }

    #[test]
    fn where_there_is_no_name_to_try_it_is_told_why() {
        let advice = |catalogue| no_name(catalogue, None).advice.unwrap();
        assert_eq!(advice(None), "log in first");
        assert_eq!(advice(Some(&of(&[]))), "if there should be some, tell an administrator");
    }

    #[test]
    fn the_way_is_ours_where_it_begins_at_an_address_of_ours() {
        let loopback = machine([127, 0, 0, 0], vec![]);
        assert_eq!(way_to(an_address(&loopback), &loopback).state, State::Ok);
        let elsewhere = machine([198, 18, 0, 0], vec![]);
        assert_eq!(way_to([127, 0, 0, 1].into(), &elsewhere).state, State::Fail);
    }
}
