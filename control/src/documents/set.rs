//! What must hold between documents: names that are referred to, and host names that two resources claim.

use std::collections::{HashMap, HashSet};

use portlatch_protocol::names::{HostPattern, ResourceId, RoleName, UserName};
use portlatch_protocol::ports::PortRange;
use portlatch_protocol::resource::Zone;
use portlatch_protocol::watch::LockTarget;

use super::fault::{Fault, Warning};
use super::people::{LockDocument, UserDocument};
use super::resource::ResourceDocument;
use super::{Document, ParseContext};

/// Checks all documents that would be in force together; their order does not matter.
///
/// # Errors
/// Every fault; a document that was not read from a file is named in the message.
pub fn check_set(documents: &[Document], context: &ParseContext) -> Result<Vec<Warning>, Vec<Fault>> {
    let mut check = Check { context, names: Names::of(documents), faults: Vec::new(), warnings: Vec::new() };
    check.repeated(documents);
    let mut claims: HashMap<HostPattern, Vec<Claim<'_>>> = HashMap::new();
    for document in documents {
        match document {
            Document::User(user) => check.user(document, user),
            Document::Lock(lock) => check.lock(document, lock),
            Document::Resource(resource) => {
                let Some(host) = check.host(document, resource) else { continue };
                let claim = |ports: &PortRange| Claim { ports: *ports, document };
                claims.entry(host).or_default().extend(resource.ports.ranges().iter().map(claim));
            }
            Document::AuthPreference(_) | Document::Vnet(_) | Document::Role(_) => {}
        }
    }
    for (host, claims) in claims {
        check.claims(&host, claims);
    }
    if check.faults.is_empty() {
        return Ok(check.warnings);
    }
    check.faults.sort_by_key(|fault| {
        fault.place.as_ref().map(|place| (place.file.to_string(), place.line, place.column))
    });
    Err(check.faults)
}

/// What may be referred to.
struct Names<'d> {
    roles: HashSet<&'d RoleName>,
    users: HashSet<&'d UserName>,
    resources: HashSet<&'d ResourceId>,
    zones: &'d [Zone],
}

impl<'d> Names<'d> {
    fn of(documents: &'d [Document]) -> Self {
        let mut names =
            Self { roles: HashSet::new(), users: HashSet::new(), resources: HashSet::new(), zones: &[] };
        for document in documents {
            match document {
                Document::Role(role) => drop(names.roles.insert(&role.name)),
                Document::User(user) => drop(names.users.insert(&user.name)),
                Document::Resource(resource) => drop(names.resources.insert(&resource.id)),
                Document::Vnet(vnet) => names.zones = &vnet.zones,
                Document::AuthPreference(_) | Document::Lock(_) => {}
            }
        }
        names
    }
}

/// Ports of one host name that a resource has.
struct Claim<'d> {
    ports: PortRange,
    document: &'d Document,
}

struct Check<'d> {
    context: &'d ParseContext,
    names: Names<'d>,
    faults: Vec<Fault>,
    warnings: Vec<Warning>,
}

impl Check<'_> {
    fn fault(&mut self, document: &Document, message: impl std::fmt::Display) {
        let message = format!("{document}: {message}");
        self.faults.push(Fault { place: document.place().cloned(), message });
    }

    fn warn(&mut self, document: &Document, message: impl std::fmt::Display) {
        let message = format!("{document}: {message}");
        self.warnings.push(Warning { place: document.place().cloned(), message });
    }

    fn repeated(&mut self, documents: &[Document]) {
        let mut seen = HashMap::new();
        for document in documents {
            let Some(first) = seen.insert((document.kind(), document.name()), document) else { continue };
            let place = first.place().map(|place| format!(" (first at {place})")).unwrap_or_default();
            self.fault(document, format!("stands here twice{place}: remove one"));
        }
    }

    fn user(&mut self, document: &Document, user: &UserDocument) {
        for role in &user.roles {
            if !self.names.roles.contains(role) {
                let known = self.names.roles.iter().map(|role| role.as_str());
                let hint = match crate::nearest::nearest(role.as_str(), known) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "apply the role, too".to_owned(),
                };
                self.fault(document, format!("there is no role `{role}`: {hint}"));
            }
        }
    }

    fn lock(&mut self, document: &Document, lock: &LockDocument) {
        let is_known = match &lock.target {
            LockTarget::User(user) => self.names.users.contains(user),
            LockTarget::Resource(resource) => self.names.resources.contains(resource),
            LockTarget::Device(_) | LockTarget::Login(_) | LockTarget::Proxy(_) => true,
        };
        if !is_known {
            self.warn(document, "what it locks does not exist (yet)");
        }
    }

    fn host(&mut self, document: &Document, resource: &ResourceDocument) -> Option<HostPattern> {
        let host = match resource.host(self.names.zones) {
            Ok(Some(host)) => host,
            Ok(None) => {
                self.warn(
                    document,
                    "it has no host name: give it a public_addr, or apply a vnet_config with a zone",
                );
                return None;
            }
            Err(error) => {
                self.fault(
                    document,
                    format!("its name is no part of a host name, give it a public_addr: {error}"),
                );
                return None;
            }
        };
        if host.matches(&self.context.public_host) {
            self.fault(document, format!("{host} takes the cluster's own host: give it another public_addr"));
        }
        let anchor = host.anchor();
        if !self.names.zones.iter().any(|zone| anchor.is_within(&zone.suffix)) {
            self.warn(
                document,
                format!("{host} lies in no zone of the vnet_config: nobody will be able to resolve it"),
            );
        }
        Some(host)
    }

    /// Two resources must not have the same port of the same name. (A name may lie below a wildcard: the longer one is
    /// meant.)
    fn claims(&mut self, host: &HostPattern, mut claims: Vec<Claim<'_>>) {
        claims.sort_by_key(|claim| (claim.ports, claim.document.place().map(|place| place.line)));
        let mut highest: Option<Claim<'_>> = None;
        for claim in claims {
            let Some(last) = highest.take() else {
                highest = Some(claim);
                continue;
            };
            let is_taken = claim.ports.first() <= last.ports.last()
                && claim.document.name_and_kind() != last.document.name_and_kind();
            if is_taken {
                self.fault(
                    claim.document,
                    format!("{} has port {} of {host} already", last.document, claim.ports.first()),
                );
            }
            highest = Some(if claim.ports.last() > last.ports.last() { claim } else { last });
        }
    }
}

impl Document {
    fn name_and_kind(&self) -> (super::DocumentKind, &str) {
        (self.kind(), self.name())
    }
}
