//! `portlatch ls`: what the login may reach.

use std::collections::BTreeMap;

use portlatch_clock::Clock;
use portlatch_protocol::api::Catalogue;
use portlatch_protocol::names::{HostPattern, ResourceKind, ResourceName};
use portlatch_protocol::ports::PortRange;
use portlatch_protocol::resource::{MfaNeed, Resource};
use serde::Serialize;

use super::{AGENT_TIME, ask_agent, current_login, print_json, print_table};
use crate::cli::Output;
use crate::control::Control;
use crate::failure::Failure;
use crate::files::Files;
use crate::local::{Tell, Want};
use crate::safe_text::safe;
use crate::terminal::{complain, say};

/// A row of `ls --json` (design section 7).
#[derive(Debug, Serialize)]
struct Row<'c> {
    kind: ResourceKind,
    name: &'c ResourceName,
    host: &'c HostPattern,
    ports: Vec<Ports>,
    labels: &'c BTreeMap<String, String>,
    mfa: MfaNeed,
    description: &'c str,
}

/// A port or a range; a single port is a range of one.
#[derive(Debug, Serialize)]
struct Ports {
    port: u16,
    end_port: u16,
}

impl From<&PortRange> for Ports {
    fn from(range: &PortRange) -> Self {
        Self { port: range.first(), end_port: range.last() }
    }
}

impl<'c> From<&'c Resource> for Row<'c> {
    fn from(resource: &'c Resource) -> Self {
        Self {
            kind: resource.id.kind,
            name: &resource.id.name,
            host: &resource.host,
            ports: resource.ports.iter().map(Ports::from).collect(),
            labels: &resource.labels,
            mfa: resource.mfa,
            description: &resource.description,
        }
    }
}

/// Lists the catalogue.
pub(crate) async fn ls(output: &Output, files: &Files, clock: &Clock) -> Result<(), Failure> {
    let mut catalogue = catalogue(files, clock).await?;
    catalogue.resources.sort_by(|a, b| a.id.cmp(&b.id));
    match output.json {
        true => print_json(&catalogue.resources.iter().map(Row::from).collect::<Vec<_>>()),
        false => print(&catalogue.resources),
    }
}

/// The agent's catalogue, or control's where there is no agent that has one.
pub(super) async fn catalogue(files: &Files, clock: &Clock) -> Result<Catalogue, Failure> {
    if let Some(Tell::Catalogue { catalogue: Some(catalogue) }) =
        ask_agent(files, &Want::Catalogue, AGENT_TIME).await?
    {
        return Ok(*catalogue);
    }
    let login = current_login(files, clock)?;
    let catalogue = Control::for_login(&login, clock)?.catalogue(None).await?;
    catalogue.ok_or_else(|| Failure::because("the cluster has no list for you yet: try again"))
}

fn print(resources: &[Resource]) -> Result<(), Failure> {
    if resources.is_empty() {
        complain("There is nothing that you may reach: ask an administrator for a role.");
        return Ok(());
    }
    let rows: Vec<_> = resources.iter().map(row).collect();
    print_table(["KIND", "NAME", "HOST", "PORTS", "TAP", "DESCRIPTION"], &rows)?;
    if resources.iter().all(|resource| resource.proxies.is_empty()) {
        say("No proxy of these resources is up at the moment.")?;
    }
    Ok(())
}

fn row(resource: &Resource) -> [String; 6] {
    let ports: Vec<String> = resource.ports.iter().map(ToString::to_string).collect();
    let mfa = match resource.mfa {
        MfaNeed::None => "no",
        MfaNeed::Tap => "yes",
        MfaNeed::TapOrCode => "yes, or code",
    };
    [
        resource.id.kind.to_string(),
        resource.id.name.to_string(),
        resource.host.to_string(),
        ports.join(","),
        mfa.to_owned(),
        safe(&resource.description),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use portlatch_protocol::resource::Hold;
    use serde_json::json;

    #[test]
    fn the_json_is_the_design_s() {
        let resource = Resource {
            id: "db/billing-db".parse().unwrap(),
            host: "billing-db.corp.internal".parse().unwrap(),
            ports: vec![PortRange::single(5432).unwrap(), PortRange::new(6432, 6439).unwrap()],
            hold: Hold::Hybrid,
            mfa: MfaNeed::Tap,
            labels: [("env".to_owned(), "prod".to_owned())].into(),
            description: "Billing".into(),
            proxies: vec![],
            protocol: None,
            refusal: Default::default(),
        };
        assert_eq!(
            serde_json::to_value([Row::from(&resource)]).unwrap(),
            json!([{"kind": "db", "name": "billing-db", "host": "billing-db.corp.internal",
                "ports": [{"port": 5432, "end_port": 5432}, {"port": 6432, "end_port": 6439}],
                "labels": {"env": "prod"}, "mfa": "tap", "description": "Billing"}])
        );
    }
}
