//! What stands at this moment: the policy, the live proxies, locks, and what was revoked or ended. One value, replaced as
//! a whole; whoever reads it sees one moment and not two.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use portlatch_clock::TimeOfDay;
use portlatch_protocol::api::Catalogue;
use portlatch_protocol::identity::Login;
use portlatch_protocol::names::{DeviceName, Hostname, Id, ProxyName, ResourceId, UserName};
use portlatch_protocol::refusal::RefusalReason;
use portlatch_protocol::resource::{MfaNeed, ProxyAddress};
use portlatch_protocol::watch::{Lock, LockTarget, ProxyResource};
use tokio::sync::watch;

use crate::documents::labels::Labels;
use crate::policy::{Concerned, DEFAULT_LOGIN_TTL, Decision, LiveProxy, Terms, World};
use crate::store::grants::StoredGrant;

/// Identifiers that are over before their time, with that time.
pub type Endings = BTreeMap<Id, TimeOfDay>;

/// A proxy that serves now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServingProxy {
    /// Where tunnels find it.
    pub address: ProxyAddress,
    /// What resources choose it by.
    pub labels: Labels,
}

/// One moment of the cluster.
#[derive(Debug, Clone)]
pub struct Standing {
    /// The policy.
    pub world: Arc<World>,
    /// Grows with every change that a catalogue could show.
    pub revision: u64,
    /// The proxies that serve.
    pub proxies: BTreeMap<ProxyName, ServingProxy>,
    /// The locks that stand.
    pub locks: Vec<Lock>,
    /// Grants that were revoked.
    pub revoked: Arc<Endings>,
    /// Logins that were ended.
    pub ended_logins: Arc<Endings>,
}

/// What policy and locks say about one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Yes, on these terms.
    Allowed(Terms),
    /// No.
    Refused {
        /// For programs.
        reason: RefusalReason,
        /// For people; none says no more than the reason.
        message: Option<String>,
    },
}

impl Standing {
    /// A cluster without proxies, in which nothing was revoked.
    pub fn new(world: World, revision: u64, now: TimeOfDay) -> Self {
        let locks = world.locks(now);
        let (revoked, ended_logins) = (Arc::default(), Arc::default());
        Self { world: Arc::new(world), revision, proxies: BTreeMap::new(), locks, revoked, ended_logins }
    }

    /// Whether there is such a user.
    pub fn has_user(&self, user: &UserName) -> bool {
        self.world.has_user(user)
    }

    /// How long a login of this user lasts.
    pub fn login_ttl(&self, user: &UserName) -> Duration {
        self.world.login_ttl(user).unwrap_or(DEFAULT_LOGIN_TTL)
    }

    /// The lock that stands against a user, wherever: `Some`, with its message if it has one.
    pub fn lock_on_user(&self, user: &UserName, now: TimeOfDay) -> Option<Option<String>> {
        self.lock(Concerned { user, device: None, login: None, resource: None }, now)
    }

    /// The lock that stands against a user or device: `Some`, with its message if it has one.
    pub fn lock_on_person(
        &self,
        user: &UserName,
        device: &DeviceName,
        now: TimeOfDay,
    ) -> Option<Option<String>> {
        self.lock(Concerned { user, device: Some(device), login: None, resource: None }, now)
    }

    /// The lock that stands against a login, its user or its device.
    pub fn lock_on_login(&self, login: &Login, now: TimeOfDay) -> Option<Option<String>> {
        let Login { user, login, device } = login;
        self.lock(Concerned { user, device: Some(device), login: Some(login), resource: None }, now)
    }

    /// The lock that stands against any of those concerned: `Some`, with its message if it has one.
    pub fn lock(&self, concerned: Concerned<'_>, now: TimeOfDay) -> Option<Option<String>> {
        let lock = self.world.lock_against(concerned, now)?;
        Some(Some(lock.message.clone()).filter(|message| !message.is_empty()))
    }

    /// Whether this login may open this port: locks first, then the policy.
    pub fn evaluate(&self, login: &Login, resource: &ResourceId, port: u16, now: TimeOfDay) -> Verdict {
        let concerned = Concerned {
            user: &login.user,
            device: Some(&login.device),
            login: Some(&login.login),
            resource: Some(resource),
        };
        if let Some(message) = self.lock(concerned, now) {
            return Verdict::Refused { reason: RefusalReason::Locked, message };
        }
        match self.world.evaluate(&login.user, resource, port) {
            Decision::Allowed(terms) => Verdict::Allowed(terms),
            Decision::Refused { reason, rule } => Verdict::Refused { reason, message: Some(rule) },
        }
    }

    /// Whether a grant that was handed out would be handed out again on what it rests on.
    pub fn still_allows(&self, grant: &StoredGrant, now: TimeOfDay) -> bool {
        match self.evaluate(&grant.login, &grant.resource, grant.port, now) {
            Verdict::Refused { .. } => false,
            Verdict::Allowed(terms) => {
                let is_proved = match &grant.presence {
                    Some(presence) => presence.shortfall(&terms).is_none(),
                    None => terms.mfa == MfaNeed::None,
                };
                is_proved && terms.binding() == grant.terms
            }
        }
    }

    /// What a proxy may dial.
    pub fn proxy_resources(&self, labels: &Labels) -> Vec<ProxyResource> {
        self.world.proxy_resources(labels)
    }

    /// The proxies that serve now and may dial a resource.
    pub fn proxies_of(&self, resource: &ResourceId) -> Vec<String> {
        let dialling = self.unlocked_proxies().filter(|proxy| self.world.may_dial(resource, &proxy.labels));
        dialling.map(|proxy| proxy.address.name.to_string()).collect()
    }

    /// A locked proxy serves nobody.
    fn unlocked_proxies(&self) -> impl Iterator<Item = &ServingProxy> {
        let is_locked = |name: &ProxyName| {
            self.locks.iter().any(|lock| matches!(&lock.target, LockTarget::Proxy(locked) if locked == name))
        };
        self.proxies.values().filter(move |proxy| !is_locked(&proxy.address.name))
    }

    /// What a user may reach, and by which proxies.
    pub fn catalogue(&self, user: &UserName, control: &Hostname) -> Catalogue {
        let serving: Vec<&ServingProxy> = self.unlocked_proxies().collect();
        let live: Vec<LiveProxy> = serving
            .iter()
            .map(|proxy| LiveProxy { name: proxy.address.name.clone(), labels: proxy.labels.clone() })
            .collect();
        // An address is no host name that a resolver asks for.
        let hosts = serving.iter().filter(|proxy| proxy.address.host.parse::<std::net::IpAddr>().is_err());
        let mut outside: Vec<Hostname> = hosts.filter_map(|proxy| proxy.address.host.parse().ok()).collect();
        outside.push(control.clone());
        outside.sort();
        outside.dedup();
        Catalogue {
            revision: self.revision,
            resources: self.world.catalogue(user, &live),
            zones: self.world.zones().to_vec(),
            proxies: serving.into_iter().map(|proxy| proxy.address.clone()).collect(),
            outside,
        }
    }
}

/// Holds the standing, and tells everyone who watches that it changed.
#[derive(Debug)]
pub struct Hub(watch::Sender<Arc<Standing>>);

impl Hub {
    /// A hub with this standing.
    pub fn new(standing: Standing) -> Self {
        Self(watch::Sender::new(Arc::new(standing)))
    }

    /// What stands now.
    pub fn now(&self) -> Arc<Standing> {
        self.0.borrow().clone()
    }

    /// Changes it, for everyone at once.
    pub fn change(&self, change: impl FnOnce(&mut Standing)) {
        self.0.send_modify(|standing| change(Arc::make_mut(standing)));
    }

    /// For whoever waits for changes.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Standing>> {
        self.0.subscribe()
    }
}
