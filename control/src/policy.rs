//! What the documents mean together: who may reach what, and on which terms. Pure: no store, no clock, no network.
//!
//! **Several roles.** Access is the union of what a user's roles allow, less what any of them denies. The terms are the
//! most restrictive that anybody set:
//!
//! * A tap is needed if the cluster's preference says so, or *any* role that grants this port of this resource.
//! * `mfa_verification_interval`, `max_session` and `client_idle_timeout`: the shortest among the roles that grant it.
//!   A role that gives nothing here says nothing here.
//! * `pin_source_ip`: if any role that grants it says so. `cross_device`: if one of them says so and none says no.
//! * `max_session_ttl`, `max_connections`, `max_connection_rate` and `max_connection_burst` speak of the user, not of a
//!   resource: the lowest among *all* of the user's roles. Where no role says anything, the design's default stands; so
//!   a role can raise it. Where a rate is given without a burst, the burst is four times the rate, as in the default.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use portlatch_clock::TimeOfDay;
use portlatch_protocol::grant::ConnectionLimits;
use portlatch_protocol::names::{
    DeviceName, HostPattern, Id, ProxyName, ResourceId, ResourceKind, RoleName, UserName,
};
use portlatch_protocol::refusal::RefusalReason;
use portlatch_protocol::resource::{Hold, MfaNeed, Resource, Zone};
use portlatch_protocol::watch::{ControlTime, Lock, LockTarget, ProxyResource, Target};

use self::ports::PortSet;
use crate::documents::Document;
use crate::documents::cluster::AuthPreference;
use crate::documents::labels::Labels;
use crate::documents::people::LockDocument;
use crate::documents::resource::{MfaScope, ResourceDocument};
use crate::documents::role::RoleDocument;

mod evaluate;
pub mod explain;
mod ports;
mod terms;

/// How long a login lasts where no role says otherwise (design section 5).
pub const DEFAULT_LOGIN_TTL: Duration = Duration::from_secs(12 * 3600);

/// All documents in force.
#[derive(Debug, Clone, Default)]
pub struct World {
    preference: AuthPreference,
    zones: Vec<Zone>,
    roles: HashMap<RoleName, RoleDocument>,
    users: HashMap<UserName, Vec<RoleName>>,
    resources: BTreeMap<ResourceId, Placed>,
    locks: Vec<LockDocument>,
}

/// A resource with its host name; one without a host name cannot be reached.
#[derive(Debug, Clone)]
struct Placed {
    host: Option<HostPattern>,
    document: ResourceDocument,
}

/// A proxy that watches control now.
#[derive(Debug, Clone)]
pub struct LiveProxy {
    /// Its name.
    pub name: ProxyName,
    /// Its labels.
    pub labels: Labels,
}

/// Whether a user may open a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Yes, on these terms.
    Allowed(Terms),
    /// No.
    Refused {
        /// For programs.
        reason: RefusalReason,
        /// Which rule said no, for people.
        rule: String,
    },
}

/// The terms on which a user may open a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Which proof of presence is needed.
    pub mfa: MfaNeed,
    /// The key must know its user.
    pub user_verification: bool,
    /// What one tap opens.
    pub scope: MfaScope,
    /// How long a tap opens it to new connections: at most five minutes.
    pub mfa_interval: Duration,
    /// Only from the address that the login was made from.
    pub pin_source_ip: bool,
    /// A browser on another machine may answer for this one.
    pub cross_device: bool,
    /// How a program waits for the tap.
    pub hold: Hold,
    /// What the user may have at once at one proxy.
    pub limits: ConnectionLimits,
    /// How long sessions live.
    pub session: SessionLimits,
    /// Which roles grant it and who asks for the tap, for people.
    pub rule: String,
}

/// How long a session lives, the login's own end apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SessionLimits {
    /// From open to close.
    pub max_session: Option<Duration>,
    /// Without traffic.
    pub idle: Option<Duration>,
}

/// Whom and what a connection or login concerns; a lock against any of them stands against it.
#[derive(Debug, Clone, Copy)]
pub struct Concerned<'a> {
    /// The user.
    pub user: &'a UserName,
    /// The login, once there is one.
    pub login: Option<&'a Id>,
    /// The device.
    pub device: Option<&'a DeviceName>,
    /// The resource, if it is about one.
    pub resource: Option<&'a ResourceId>,
}

impl World {
    /// The world that these documents describe. They are a checked set: of two of one name, the later counts.
    pub fn new(documents: impl IntoIterator<Item = Document>) -> Self {
        let (mut world, mut resources) = (Self::default(), Vec::new());
        for document in documents {
            match document {
                Document::AuthPreference(preference) => world.preference = preference,
                Document::Vnet(vnet) => world.zones = vnet.zones,
                Document::Role(role) => drop(world.roles.insert(role.name.clone(), role)),
                Document::User(user) => drop(world.users.insert(user.name, user.roles)),
                Document::Resource(resource) => resources.push(resource),
                Document::Lock(lock) => world.locks.push(lock),
            }
        }
        for document in resources {
            let host = document.host(&world.zones).unwrap_or_default();
            world.resources.insert(document.id.clone(), Placed { host, document });
        }
        world
    }

    /// The zones whose names users' machines answer.
    pub fn zones(&self) -> &[Zone] {
        &self.zones
    }

    /// Whether there is such a user.
    pub fn has_user(&self, user: &UserName) -> bool {
        self.users.contains_key(user)
    }

    /// Whether there is such a resource.
    pub fn has_resource(&self, resource: &ResourceId) -> bool {
        self.resources.contains_key(resource)
    }

    /// Whether codes of an authenticator app count, where they may.
    pub fn allows_otp(&self) -> bool {
        self.preference.allows_otp
    }

    /// How long a login of this user may last; nothing if there is no such user.
    pub fn login_ttl(&self, user: &UserName) -> Option<Duration> {
        let roles = self.roles_of(user)?;
        let shortest = roles.filter_map(|role| role.options.max_session_ttl).min();
        Some(shortest.unwrap_or(DEFAULT_LOGIN_TTL))
    }

    /// Whether a browser on another machine may log this user in: one of the roles says so, and none says no.
    pub fn lets_log_in_elsewhere(&self, user: &UserName) -> bool {
        let roles = self.users.get(user).into_iter().flatten();
        let roles: Vec<&RoleDocument> = roles.filter_map(|role| self.roles.get(role)).collect();
        terms::allows_cross_device(&roles)
    }

    /// The locks that stand at `now`.
    pub fn locks(&self, now: TimeOfDay) -> Vec<Lock> {
        let standing = self.locks.iter().filter(|lock| !is_over(lock, now));
        standing
            .map(|lock| Lock { id: lock.id.clone(), target: lock.target.clone(), expires: ends(lock) })
            .collect()
    }

    /// The first lock that stands against any of those concerned.
    pub fn lock_against(&self, concerned: Concerned<'_>, now: TimeOfDay) -> Option<&LockDocument> {
        self.locks.iter().find(|lock| !is_over(lock, now) && names_one_of(&lock.target, concerned))
    }

    /// What a proxy with these labels may dial.
    pub fn proxy_resources(&self, labels: &Labels) -> Vec<ProxyResource> {
        let own = self.resources.values().filter(|placed| may_dial(&placed.document, labels));
        own.filter_map(Placed::for_proxy).collect()
    }

    /// Whether a proxy with these labels may dial a resource.
    pub fn may_dial(&self, resource: &ResourceId, labels: &Labels) -> bool {
        self.resources.get(resource).is_some_and(|placed| may_dial(&placed.document, labels))
    }

    /// What a user may reach, in order of kind and name. Being listed promises nothing.
    pub fn catalogue(&self, user: &UserName, live_proxies: &[LiveProxy]) -> Vec<Resource> {
        let Some(roles) = self.roles_of(user) else { return Vec::new() };
        let roles: Vec<&RoleDocument> = roles.collect();
        self.resources.values().filter_map(|placed| self.listed(placed, &roles, live_proxies)).collect()
    }

    fn listed(
        &self,
        placed: &Placed,
        roles: &[&RoleDocument],
        live_proxies: &[LiveProxy],
    ) -> Option<Resource> {
        let Placed { host: Some(host), document } = placed else { return None };
        let ports = evaluate::open_ports(document, roles);
        if ports.is_empty() {
            return None;
        }
        let granting: Vec<&RoleDocument> =
            roles.iter().copied().filter(|role| evaluate::grants_any(role, document)).collect();
        let dialling = live_proxies.iter().filter(|proxy| may_dial(document, &proxy.labels));
        Some(Resource {
            id: document.id.clone(),
            host: host.clone(),
            ports: ports.into_ranges(),
            hold: terms::hold(document),
            mfa: terms::mfa_need(&self.preference, &granting, document),
            labels: document.header.labels.clone(),
            description: document.header.description.clone(),
            proxies: dialling.map(|proxy| proxy.name.clone()).collect(),
            protocol: document.protocol.clone(),
            refusal: document.mfa.refusal,
        })
    }

    /// The roles of a user that exist; nothing if there is no such user.
    fn roles_of(&self, user: &UserName) -> Option<impl Iterator<Item = &RoleDocument>> {
        let names = self.users.get(user)?;
        Some(names.iter().filter_map(|name| self.roles.get(name)))
    }
}

impl Placed {
    fn for_proxy(&self) -> Option<ProxyResource> {
        let document = &self.document;
        Some(ProxyResource {
            id: document.id.clone(),
            host: self.host.clone()?,
            target: Target { host: document.target.clone(), port: None },
            ports: document.ports.ranges().to_vec(),
            allow_local_target: document.allow_local_target,
        })
    }
}

fn may_dial(document: &ResourceDocument, labels: &Labels) -> bool {
    document.proxies.as_ref().is_none_or(|rule| rule.matches(labels))
}

fn ends(lock: &LockDocument) -> Option<ControlTime> {
    let millis = lock.expires?.unix_timestamp_nanos() / 1_000_000;
    Some(ControlTime(i64::try_from(millis).unwrap_or(i64::MAX)))
}

fn is_over(lock: &LockDocument, now: TimeOfDay) -> bool {
    ends(lock).is_some_and(|ControlTime(end)| end <= now.0)
}

fn names_one_of(target: &LockTarget, concerned: Concerned<'_>) -> bool {
    match target {
        LockTarget::User(user) => user == concerned.user,
        LockTarget::Device(device) => Some(device) == concerned.device,
        LockTarget::Login(login) => Some(login) == concerned.login,
        LockTarget::Resource(resource) => Some(resource) == concerned.resource,
        // A locked proxy serves nobody; it learns so by its watch.
        LockTarget::Proxy(_) => false,
    }
}

/// Desktops and clusters take a security key alone, on the machine that asks (design sections 5 and 6); in code, so that
/// no document can change it.
const fn takes_weaker_proofs(kind: ResourceKind) -> bool {
    match kind {
        ResourceKind::App | ResourceKind::Db | ResourceKind::Node => true,
        ResourceKind::KubeCluster | ResourceKind::Desktop => false,
    }
}

#[cfg(test)]
mod tests;
