//! Which roles open a port, and the decision that follows.

use portlatch_protocol::names::{ResourceId, UserName};
use portlatch_protocol::refusal::RefusalReason;

use super::{Decision, PortSet, World, terms};
use crate::documents::resource::ResourceDocument;
use crate::documents::role::RoleDocument;

impl World {
    /// Whether `user` may open this port of this resource, and on which terms. Locks are not part of it.
    pub fn evaluate(&self, user: &UserName, resource: &ResourceId, port: u16) -> Decision {
        let Some(roles) = self.roles_of(user) else {
            return refused(RefusalReason::Policy, format!("there is no user {user}"));
        };
        let roles: Vec<&RoleDocument> = roles.collect();
        let Some(placed) = self.resources.get(resource) else {
            return refused(RefusalReason::UnknownPort, format!("there is no {resource}"));
        };
        let document = &placed.document;
        if placed.host.is_none() {
            return refused(RefusalReason::UnknownPort, format!("{resource} has no host name"));
        }
        if !document.ports.ranges().iter().any(|range| range.contains(port)) {
            return refused(RefusalReason::UnknownPort, format!("{resource} has no port {port}"));
        }
        if let Some(role) = roles.iter().find(|role| denies(role, document, port)) {
            return refused(
                RefusalReason::Policy,
                format!("role {} denies port {port} of {resource}", role.name),
            );
        }
        let granting: Vec<&RoleDocument> =
            roles.iter().copied().filter(|role| grants(role, document, port)).collect();
        if granting.is_empty() {
            return refused(RefusalReason::Policy, no_grant(&roles, document, port));
        }
        Decision::Allowed(terms::settle(&self.preference, &roles, &granting, document))
    }
}

const fn refused(reason: RefusalReason, rule: String) -> Decision {
    Decision::Refused { reason, rule }
}

fn no_grant(roles: &[&RoleDocument], document: &ResourceDocument, port: u16) -> String {
    match roles {
        [] => "the user has no role".to_owned(),
        roles => format!("none of the roles {} allows port {port} of {}", terms::names(roles), document.id),
    }
}

pub(super) fn grants(role: &RoleDocument, document: &ResourceDocument, port: u16) -> bool {
    role.allow.covers(document.id.kind, &document.header.labels) && role.allow.has_port(port)
}

pub(super) fn denies(role: &RoleDocument, document: &ResourceDocument, port: u16) -> bool {
    role.deny.covers(document.id.kind, &document.header.labels) && role.deny.has_port(port)
}

/// Whether a role opens any port of the resource, denials apart.
pub(super) fn grants_any(role: &RoleDocument, document: &ResourceDocument) -> bool {
    role.allow.covers(document.id.kind, &document.header.labels)
        && !role.allow.ports_of(document.ports.ranges()).is_empty()
}

/// The ports of the resource that the roles open together, less those that any of them denies.
pub(super) fn open_ports(document: &ResourceDocument, roles: &[&RoleDocument]) -> PortSet {
    let (kind, labels, all) = (document.id.kind, &document.header.labels, document.ports.ranges());
    let allowed = roles.iter().filter(|role| role.allow.covers(kind, labels));
    let allowed = PortSet::union(allowed.flat_map(|role| role.allow.ports_of(all)));
    let denied = roles.iter().filter(|role| role.deny.covers(kind, labels));
    allowed.without(&PortSet::union(denied.flat_map(|role| role.deny.ports_of(all))))
}
