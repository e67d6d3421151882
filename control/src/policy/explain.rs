//! Why somebody may open a port or not: the steps of the decision in the order in which they are taken, a sentence each.
//! It takes the same steps as the decision itself; a test compares the two on documents of every kind.

use portlatch_clock::TimeOfDay;
use portlatch_protocol::identity::Login;
use portlatch_protocol::names::ResourceKind;
use portlatch_protocol::ports::PortRange;
use portlatch_protocol::resource::MfaNeed;
use portlatch_protocol::watch::LockTarget;

use super::{Concerned, Decision, Placed, Terms, World, evaluate, is_over, takes_weaker_proofs, terms};
use crate::documents::labels::LabelRule;
use crate::documents::people::LockDocument;
use crate::documents::resource::{MfaScope, ResourceDocument};
use crate::documents::role::{RoleDocument, Rule};
use crate::documents::values::format_duration;

/// How a decision came about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Story {
    /// A sentence for each step, without the decision itself.
    pub steps: Vec<String>,
    /// The terms; or what decided, in one sentence.
    pub outcome: Result<Terms, String>,
}

/// Who reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// An administrator, who sees everything.
    Administrator,
    /// The user, who learns nothing of what no role of theirs opens, not even whether it exists.
    User,
}

impl World {
    /// Tells why those concerned may open this port, or why not.
    pub fn explain(&self, concerned: Concerned<'_>, port: u16, reader: Reader, now: TimeOfDay) -> Story {
        let mut steps = Vec::new();
        let outcome = self.tell(concerned, port, reader, now, &mut steps);
        Story { steps, outcome }
    }

    fn tell(
        &self,
        concerned: Concerned<'_>,
        port: u16,
        reader: Reader,
        now: TimeOfDay,
        steps: &mut Vec<String>,
    ) -> Result<Terms, String> {
        let (user, Some(resource)) = (concerned.user, concerned.resource) else {
            return Err("no resource was named".to_owned());
        };
        let Some(roles) = self.roles_of(user) else { return Err(format!("there is no user {user}")) };
        let roles: Vec<&RoleDocument> = roles.collect();
        steps.push(match roles.as_slice() {
            [] => format!("{user} has no role"),
            [one] => format!("{user} has the role {}", one.name),
            several => format!("{user} has the roles {}", terms::names(several)),
        });
        let decision = self.evaluate(user, resource, port);
        let is_hidden = reader == Reader::User && matches!(decision, Decision::Refused { .. });
        // A lock on a resource that the user cannot see is no more to be told than the resource.
        let concerned = if is_hidden { Concerned { resource: None, ..concerned } } else { concerned };
        if let Some(lock) = self.lock_against(concerned, now) {
            return Err(told(lock));
        }
        steps.push("no lock stands against it".to_owned());
        if is_hidden {
            return Err(format!("no role of yours allows port {port} of {resource}: ask an administrator"));
        }
        let Some(placed) = self.resources.get(resource) else {
            return Err(format!("there is no {resource}"));
        };
        let document = &placed.document;
        let ports = match reader {
            Reader::Administrator => document.ports.ranges().to_vec(),
            Reader::User => evaluate::open_ports(document, &roles).into_ranges(),
        };
        steps.push(described(placed, &ports));
        if let Decision::Refused { rule, .. } = &decision
            && (placed.host.is_none() || !has_port(document.ports.ranges(), port))
        {
            return Err(rule.clone());
        }
        tell_roles(&roles, document, port, steps)?;
        match decision {
            Decision::Refused { rule, .. } => Err(rule),
            Decision::Allowed(terms) => {
                let granting: Vec<&RoleDocument> =
                    roles.iter().copied().filter(|role| evaluate::grants(role, document, port)).collect();
                self.tell_proof(&granting, document, &terms, steps);
                tell_terms(&granting, &terms, steps);
                Ok(terms)
            }
        }
    }

    /// The locks that stand against one of these logins, or against a device of them: whoever comes with another one is
    /// let through.
    pub fn tell_locks(&self, logins: &[Login], now: TimeOfDay) -> Vec<String> {
        let concerns = |lock: &&LockDocument| match &lock.target {
            LockTarget::Device(device) => logins.iter().any(|login| login.device == *device),
            LockTarget::Login(id) => logins.iter().any(|login| login.login == *id),
            LockTarget::User(_) | LockTarget::Resource(_) | LockTarget::Proxy(_) => false,
        };
        let standing = self.locks.iter().filter(|lock| !is_over(lock, now)).filter(concerns);
        standing.map(|lock| format!("not from everywhere: {}", told(lock))).collect()
    }

    /// Which proof is asked for, and who asks.
    fn tell_proof(
        &self,
        granting: &[&RoleDocument],
        document: &ResourceDocument,
        terms: &Terms,
        steps: &mut Vec<String>,
    ) {
        let asking: Vec<&RoleDocument> =
            granting.iter().copied().filter(|role| role.options.require_session_mfa).collect();
        if self.preference.require_session_mfa {
            steps.push("the cluster asks for a tap everywhere (cluster_auth_preference)".to_owned());
        }
        if !asking.is_empty() {
            let names = terms::names(&asking);
            steps.push(format!("a tap is asked for by {names} (require_session_mfa)"));
        }
        steps.push(match (terms.mfa, document.id.kind) {
            (MfaNeed::None, _) => "neither the cluster nor a role that allows it asks for a tap".to_owned(),
            (MfaNeed::TapOrCode, _) => {
                "a code of an authenticator app does as well (second_factors has otp)".to_owned()
            }
            (MfaNeed::Tap, kind) if !takes_weaker_proofs(kind) => {
                format!("a key alone will do: codes are never taken for a {kind}")
            }
            (MfaNeed::Tap, _) if terms.user_verification => {
                "the key must verify its user, by PIN or fingerprint (mfa.user_verification)".to_owned()
            }
            (MfaNeed::Tap, _) => {
                "a key alone will do: codes are not among the cluster's second_factors".to_owned()
            }
        });
        if terms.user_verification && !takes_weaker_proofs(document.id.kind) {
            steps.push(
                "the key must verify its user, by PIN or fingerprint (mfa.user_verification)".to_owned(),
            );
        }
    }
}

/// Each role's word, first who denies it.
fn tell_roles(
    roles: &[&RoleDocument],
    document: &ResourceDocument,
    port: u16,
    steps: &mut Vec<String>,
) -> Result<(), String> {
    if let Some(role) = roles.iter().find(|role| evaluate::denies(role, document, port)) {
        let rule = rule_text(&role.deny, document.id.kind);
        return Err(format!("role {} denies it ({rule}), and a denial wins", role.name));
    }
    steps.push("no role denies it".to_owned());
    for role in roles {
        let rule = rule_text(&role.allow, document.id.kind);
        let kind = document.id.kind;
        steps.push(match role.allow.labels.get(&kind) {
            None => format!("role {} does not allow it: it has no {kind}_labels", role.name),
            Some(labels) if !labels.matches(&document.header.labels) => {
                format!("role {} does not allow it: {rule} does not match", role.name)
            }
            Some(_) if !role.allow.has_port(port) => {
                format!("role {} does not allow port {port}: {rule}", role.name)
            }
            Some(_) => format!("role {} allows it: {rule}", role.name),
        });
    }
    Ok(())
}

/// How far and how long a tap serves, and what else the terms restrict.
fn tell_terms(granting: &[&RoleDocument], terms: &Terms, steps: &mut Vec<String>) {
    if terms.mfa != MfaNeed::None {
        let setters: Vec<&RoleDocument> = granting
            .iter()
            .copied()
            .filter(|role| role.options.mfa_verification_interval == Some(terms.mfa_interval))
            .collect();
        let by = match setters.as_slice() {
            [] => String::new(),
            setters => format!(" (mfa_verification_interval of {})", terms::names(setters)),
        };
        let scope = match &terms.scope {
            MfaScope::Port => "this port alone".to_owned(),
            MfaScope::Resource => "every port of the resource (mfa.scope)".to_owned(),
            MfaScope::Group(name) => format!("every resource of the group {name} (mfa.scope)"),
        };
        steps.push(format!("one tap opens {scope}, for {}{by}", format_duration(terms.mfa_interval)));
    }
    if terms.pin_source_ip {
        steps.push("only from the address that the login was made from (pin_source_ip)".to_owned());
    }
    if terms.cross_device {
        steps.push("a browser on another machine may answer (cross_device)".to_owned());
    }
    if let Some(length) = terms.session.max_session {
        steps.push(format!("a session lasts at most {} (max_session)", format_duration(length)));
    }
    if let Some(idle) = terms.session.idle {
        steps.push(format!("a silent session ends after {} (client_idle_timeout)", format_duration(idle)));
    }
}

/// The resource, with those of its ports that the reader may know of.
fn described(placed: &Placed, ports: &[PortRange]) -> String {
    let document = &placed.document;
    let host = placed.host.as_ref().map_or("without a host name".to_owned(), |host| format!("at {host}"));
    let labels: Vec<String> =
        document.header.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let labels = match labels.is_empty() {
        true => "no labels".to_owned(),
        false => format!("the labels {}", labels.join(", ")),
    };
    format!("{} is {host}, port {}, with {labels}", document.id, ports_text(ports))
}

fn rule_text(rule: &Rule, kind: ResourceKind) -> String {
    let labels = rule.labels.get(&kind).map(LabelRule::to_string).unwrap_or_default();
    match rule.ports.is_empty() {
        true => format!("{kind}_labels {labels}"),
        false => format!("{kind}_labels {labels}, port {}", ports_text(&rule.ports)),
    }
}

fn ports_text(ranges: &[PortRange]) -> String {
    let text = |range: &PortRange| match range.first() == range.last() {
        true => range.first().to_string(),
        false => format!("{}-{}", range.first(), range.last()),
    };
    ranges.iter().map(text).collect::<Vec<_>>().join(", ")
}

fn has_port(ranges: &[PortRange], port: u16) -> bool {
    ranges.iter().any(|range| range.contains(port))
}

fn told(lock: &LockDocument) -> String {
    let message = if lock.message.is_empty() { String::new() } else { format!(": {}", lock.message) };
    format!("a lock stands against {}{message}", locked(&lock.target))
}

fn locked(target: &LockTarget) -> String {
    match target {
        LockTarget::User(user) => format!("the user {user}"),
        LockTarget::Device(device) => format!("the device {device}"),
        LockTarget::Login(login) => format!("the login {login}"),
        LockTarget::Resource(resource) => resource.to_string(),
        LockTarget::Proxy(proxy) => format!("the proxy {proxy}"),
    }
}
