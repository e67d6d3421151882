//! Which resources an exec is for: of one kind, with these labels, and the port of each.

use std::collections::BTreeMap;
use std::str::FromStr;

use portlatch_protocol::api::Catalogue;
use portlatch_protocol::api::ceremony::{ExecTarget, MAX_EXEC_RESOURCES};
use portlatch_protocol::names::{Hostname, ResourceId};
use portlatch_protocol::resource::Resource;

use crate::cli::Exec;
use crate::failure::Failure;
use crate::safe_text::safe;

/// `KEY=VALUE,...`: all must be there; `*` is any value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Labels(BTreeMap<String, String>);

/// No labels.
#[derive(Debug, thiserror::Error)]
#[error("write labels as KEY=VALUE,..., for example env=prod; * is any value")]
pub(crate) struct NoLabels;

impl FromStr for Labels {
    type Err = NoLabels;
    fn from_str(text: &str) -> Result<Self, NoLabels> {
        let mut labels = BTreeMap::new();
        for label in text.split(',') {
            let (key, value) = label.split_once('=').ok_or(NoLabels)?;
            let (key, value) = (key.trim(), value.trim());
            if key.is_empty() || value.is_empty() || labels.insert(key.to_owned(), value.to_owned()).is_some()
            {
                return Err(NoLabels);
            }
        }
        Ok(Self(labels))
    }
}

impl Labels {
    fn match_all(&self, resource: &Resource) -> bool {
        let has = |(key, wanted): (&String, &String)| {
            resource.labels.get(key).is_some_and(|value| wanted == "*" || value == wanted)
        };
        self.0.iter().all(has)
    }
}

impl std::fmt::Display for Labels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let labels: Vec<String> = self.0.iter().map(|(key, value)| format!("{key}={value}")).collect();
        f.write_str(&safe(&labels.join(",")))
    }
}

/// A resource that the command runs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) id: ResourceId,
    pub(super) name: String,
    pub(super) host: Hostname,
    pub(super) port: u16,
    pub(super) protocol: Option<String>,
}

impl Target {
    pub(super) fn for_control(&self) -> ExecTarget {
        ExecTarget { resource: self.id.clone(), port: self.port }
    }
}

/// What an exec runs on, and what a person should know of what it leaves out.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) targets: Vec<Target>,
    pub(super) remarks: Vec<String>,
}

impl Choice {
    /// What the options choose of the catalogue, by name.
    pub(super) fn of(catalogue: &Catalogue, options: &Exec) -> Result<Self, Failure> {
        let Exec { kind, labels, port, .. } = options;
        let matching = |resource: &&Resource| resource.id.kind == *kind && labels.match_all(resource);
        let mut matching: Vec<&Resource> = catalogue.resources.iter().filter(matching).collect();
        matching.sort_by(|a, b| a.id.cmp(&b.id));
        let mut choice = Self { targets: Vec::new(), remarks: Vec::new() };
        for resource in matching {
            match target(resource, *port)? {
                Ok(target) => choice.targets.push(target),
                Err(remark) => choice.remarks.push(remark),
            }
        }
        match choice.targets.len() {
            0 => Err(Failure::Failed(format!(
                "nothing of kind {kind} with the labels {labels} can be run on: run `portlatch ls`{}",
                choice.remarks.iter().map(|remark| format!("; {remark}")).collect::<String>()
            ))),
            1..=MAX_EXEC_RESOURCES => Ok(choice),
            found => Err(Failure::Failed(format!(
                "{found} resources match, and at most {MAX_EXEC_RESOURCES} can be tapped for at once: add labels"
            ))),
        }
    }
}

/// The target, or why this resource is left out.
///
/// # Errors
/// Where the person must say which port.
fn target(resource: &Resource, port: Option<u16>) -> Result<Result<Target, String>, Failure> {
    let name = &resource.id.name;
    let Ok(host) = resource.host.as_str().parse() else {
        return Ok(Err(format!("{name} is left out: {} stands for many hosts", resource.host)));
    };
    let Some(port) = port.or_else(|| resource.only_port()) else {
        return Err(Failure::Failed(format!("{name} has several ports: say which one with --port")));
    };
    if !resource.has_port(port) {
        return Ok(Err(format!("{name} is left out: it has no port {port} for you")));
    }
    let (id, name, protocol) = (resource.id.clone(), name.to_string(), resource.protocol.clone());
    Ok(Ok(Target { id, name, host, port, protocol }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;
    use portlatch_protocol::ports::PortRange;
    use portlatch_protocol::resource::{Hold, MfaNeed};

    fn resource(id: &str, host: &str, ports: &[(u16, u16)], env: &str) -> Resource {
        Resource {
            id: id.parse().unwrap(),
            host: host.parse().unwrap(),
            ports: ports.iter().map(|(first, last)| PortRange::new(*first, *last).unwrap()).collect(),
            hold: Hold::Hybrid,
            mfa: MfaNeed::Tap,
            labels: [("env".to_owned(), env.to_owned())].into(),
            description: String::new(),
            proxies: vec![],
            protocol: None,
            refusal: Default::default(),
        }
    }

    fn catalogue(resources: Vec<Resource>) -> Catalogue {
        Catalogue { revision: 1, resources, zones: vec![], proxies: vec![], outside: vec![] }
    }

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        exec: Exec,
    }

    fn options(arguments: &[&str]) -> Exec {
        let all = ["exec"].iter().chain(arguments).chain(&["--", "psql"]);
        Line::parse_from(all).exec
    }

    fn chosen(catalogue: &Catalogue, arguments: &[&str]) -> Result<Vec<String>, String> {
        let choice = Choice::of(catalogue, &options(arguments)).map_err(|failure| failure.to_string())?;
        let shown = |target: &Target| format!("{} {}:{}", target.name, target.host, target.port);
        Ok(choice.targets.iter().map(shown).collect())
    }

    #[test]
    fn kind_and_labels_choose_and_names_give_the_order() {
        let catalogue = catalogue(vec![
            resource("db/users-db", "users-db.x.internal", &[(5432, 5432)], "prod"),
            resource("db/billing-db", "billing-db.x.internal", &[(5432, 5432)], "prod"),
            resource("db/test-db", "test-db.x.internal", &[(5432, 5432)], "dev"),
            resource("app/web", "web.x.internal", &[(80, 80)], "prod"),
        ]);
        assert_eq!(
            chosen(&catalogue, &["--kind", "db", "--labels", "env=prod"]).unwrap(),
            ["billing-db billing-db.x.internal:5432", "users-db users-db.x.internal:5432"]
        );
        assert_eq!(chosen(&catalogue, &["--kind", "db", "--labels", "env=*"]).unwrap().len(), 3);
        let nothing = chosen(&catalogue, &["--kind", "db", "--labels", "env=prod,tier=1"]).unwrap_err();
        assert!(nothing.contains("with the labels env=prod,tier=1"), "{nothing}");
    }

    #[test]
    fn a_port_is_named_where_there_are_several() {
        let catalogue = catalogue(vec![
            resource("db/a", "a.x.internal", &[(5432, 5432), (6432, 6439)], "prod"),
            resource("db/b", "b.x.internal", &[(5432, 5432)], "prod"),
        ]);
        let all = ["--kind", "db", "--labels", "env=prod"];
        assert!(
            chosen(&catalogue, &all).unwrap_err().contains("a has several ports: say which one with --port")
        );
        let with_port = |port| chosen(&catalogue, &[&all[..], &["--port", port]].concat());
        assert_eq!(with_port("6433").unwrap(), ["a a.x.internal:6433"]);
        assert_eq!(with_port("5432").unwrap().len(), 2);
        assert!(with_port("22").unwrap_err().contains("a is left out: it has no port 22 for you"));
    }

    #[test]
    fn a_wildcard_is_no_host_to_run_on() {
        let catalogue = catalogue(vec![resource("app/dev", "*.dev.x.internal", &[(80, 80)], "dev")]);
        let nothing = chosen(&catalogue, &["--kind", "app", "--labels", "env=dev"]).unwrap_err();
        assert!(nothing.contains("stands for many hosts"), "{nothing}");
    }

    #[test]
    fn more_than_a_person_can_read_are_not_tapped_for() {
        let many = |count: usize| {
            let one =
                |n: usize| resource(&format!("db/d{n}"), &format!("d{n}.x.internal"), &[(1, 1)], "prod");
            chosen(&catalogue((0..count).map(one).collect()), &["--kind", "db", "--labels", "env=prod"])
        };
        assert_eq!(many(MAX_EXEC_RESOURCES).unwrap().len(), MAX_EXEC_RESOURCES);
        assert!(many(MAX_EXEC_RESOURCES + 1).unwrap_err().contains("add labels"));
    }

    #[test]
    fn labels_are_pairs() {
        assert!("env=prod,tier=1".parse::<Labels>().is_ok());
        for text in ["", "env", "env=", "=prod", "env=prod,", "env=prod,env=dev"] {
            assert!(text.parse::<Labels>().is_err(), "{text:?}");
        }
    }
}
