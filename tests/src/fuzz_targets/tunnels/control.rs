//! What control says in a story, and what follows from it for a proxy: the reference, written anew from the design and
//! not from the proxy.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use portlatch_protocol::grant::AUDIENCE;
use portlatch_protocol::names::ResourceId;
use portlatch_protocol::ports::PortRange;
use portlatch_protocol::watch::{
    Change, ControlTime, GrantKey, Lock, LockTarget, MAX_SILENCE, ProxyResource, RevokedGrant, Snapshot,
    WatchMessage,
};
use portlatch_proxy::grant::GrantFault;
use portlatch_proxy::watch::Objection;

use super::cluster::{BEGIN, CLUSTER, CLUSTER_OF_ALL, KIDS, LOGINS, Place, RESOURCES, STEP_SECONDS, Token};

/// Seconds by which a proxy's idea of control's time may be off.
const LEEWAY: i64 = 5;
const LONGEST_GRANT: i64 = 300;

/// Control, as far as it speaks.
#[derive(Debug, Default)]
pub(super) struct Control {
    /// How many steps its clock is off.
    pub(super) skew: i8,
}

impl Control {
    /// A message: which kind, of what, and how.
    pub(super) fn message(&self, (kind, number, mode): (u8, u8, u8), passed: u32) -> WatchMessage {
        let seconds = BEGIN + (i64::from(passed) + i64::from(self.skew)) * STEP_SECONDS;
        let time = ControlTime(seconds * 1000);
        let cluster = &*CLUSTER_OF_ALL;
        let resource = usize::from(number) % RESOURCES;
        let change = match kind % 10 {
            0 => return WatchMessage::Snapshot(snapshot(time, number, mode)),
            1 | 2 => return WatchMessage::Beat(time),
            3 => Change::Resource(resource_in(resource, mode)),
            4 => Change::ResourceGone(cluster.resources[resource].id.clone()),
            5 => Change::Locked(lock(number, mode, seconds)),
            6 => Change::Unlocked(lock_id(number)),
            7 => {
                let first = usize::from(number);
                Change::Revoked((first..=first + usize::from(mode % 3)).map(|at| revoked(at, mode)).collect())
            }
            8 => Change::LoginEnded(cluster.tunnels[usize::from(number) % LOGINS].login.login.clone()),
            _ => Change::GrantKeys(keys(mode)),
        };
        WatchMessage::Change(change, time)
    }
}

/// Everything at once: usually all resources and both keys, and nothing against anybody.
fn snapshot(time: ControlTime, number: u8, mode: u8) -> Snapshot {
    let is_without = |bit: u8| mode & (1 << bit) != 0;
    let resources =
        (0..RESOURCES).zip(0..).filter(|(_, bit)| !is_without(*bit)).map(|(at, _)| resource_in(at, 0));
    Snapshot {
        time,
        cluster: CLUSTER.parse().expect("a name"),
        authorities: Vec::new(),
        grant_keys: keys(if is_without(3) { number } else { 0 }),
        resources: resources.collect(),
        locks: if is_without(4) { vec![lock(number, mode, BEGIN)] } else { Vec::new() },
        revoked: if is_without(5) { vec![revoked(number.into(), mode)] } else { Vec::new() },
        ended_logins: match is_without(6) {
            true => vec![CLUSTER_OF_ALL.tunnels[usize::from(number) % LOGINS].login.login.clone()],
            false => Vec::new(),
        },
    }
}

/// A resource, with all of its ports or with the first alone.
fn resource_in(at: usize, mode: u8) -> ProxyResource {
    let mut resource = CLUSTER_OF_ALL.resources[at].clone();
    if mode % 4 == 3 {
        resource.ports.truncate(1);
    }
    resource
}

/// Which key has which name: as it should be, exchanged, one gone, or another one altogether.
fn keys(mode: u8) -> Vec<GrantKey> {
    let key = |kid, signer| CLUSTER_OF_ALL.key(kid, signer);
    match mode % 6 {
        0 | 1 => vec![key(0, 0), key(1, 1)],
        2 => vec![key(0, 1), key(1, 0)],
        3 => vec![key(1, 1)],
        4 => vec![key(0, 2)],
        _ => Vec::new(),
    }
}

fn lock_id(number: u8) -> portlatch_protocol::names::Id {
    format!("0c{:02x}", number % 4).parse().expect("an identifier")
}

fn lock(number: u8, mode: u8, seconds: i64) -> Lock {
    let tunnel = &CLUSTER_OF_ALL.tunnels[usize::from(number >> 2) % LOGINS].login;
    let target = match mode % 6 {
        0 => LockTarget::User(tunnel.user.clone()),
        1 => LockTarget::Device(tunnel.device.clone()),
        2 => LockTarget::Login(tunnel.login.clone()),
        3 => LockTarget::Proxy("p1".parse().expect("a name")),
        4 => LockTarget::Proxy("p2".parse().expect("a name")),
        _ => LockTarget::Resource(CLUSTER_OF_ALL.resources[usize::from(number >> 2) % RESOURCES].id.clone()),
    };
    let steps = i64::from(mode >> 4);
    let expires =
        (steps > 0).then(|| ControlTime((seconds + steps * STEP_SECONDS + STEP_SECONDS / 2) * 1000));
    Lock { id: lock_id(number), target, expires }
}

fn revoked(number: usize, mode: u8) -> RevokedGrant {
    let tokens = &CLUSTER_OF_ALL.tokens;
    let claims = &tokens[number % tokens.len()].claims;
    // Control says when a grant ends; now and then another time, which only keeps it longer or shorter in mind.
    let seconds = claims.exp - if mode & 0x80 == 0 { 0 } else { 20 * STEP_SECONDS };
    RevokedGrant { grant: claims.jti.clone(), expires: ControlTime(seconds * 1000) }
}

/// What a proxy that has listened must know.
#[derive(Debug)]
pub(super) struct Facts {
    /// Control's word, in milliseconds, and the step at which it came.
    heard: i64,
    heard_at: u32,
    /// Whose key each name stands for: its point.
    keys: BTreeMap<String, Vec<u8>>,
    resources: BTreeMap<ResourceId, Vec<PortRange>>,
    locks: BTreeMap<String, Lock>,
    revoked: BTreeMap<String, i64>,
    ended: BTreeSet<String>,
}

impl Facts {
    pub(super) fn take(facts: &mut Option<Self>, message: &WatchMessage, passed: u32) {
        if let WatchMessage::Snapshot(snapshot) = message {
            *facts = Some(Self::of(snapshot, passed));
            return;
        }
        // What comes before the first snapshot says nothing.
        let Some(facts) = facts else { return };
        match message {
            WatchMessage::Snapshot(_) => {}
            WatchMessage::Beat(time) => {
                (facts.heard, facts.heard_at) = (time.0, passed);
                facts.revoked.retain(|_, expires| *expires + 2 * LEEWAY * 1000 > time.0);
            }
            WatchMessage::Change(change, time) => {
                (facts.heard, facts.heard_at) = (time.0, passed);
                facts.change(change);
            }
        }
    }

    fn of(snapshot: &Snapshot, passed: u32) -> Self {
        let mut facts = Self {
            heard: snapshot.time.0,
            heard_at: passed,
            keys: BTreeMap::new(),
            resources: BTreeMap::new(),
            locks: BTreeMap::new(),
            revoked: BTreeMap::new(),
            ended: snapshot.ended_logins.iter().map(ToString::to_string).collect(),
        };
        snapshot.resources.iter().cloned().for_each(|resource| facts.change(&Change::Resource(resource)));
        snapshot.locks.iter().cloned().for_each(|lock| facts.change(&Change::Locked(lock)));
        facts.change(&Change::Revoked(snapshot.revoked.clone()));
        facts.change(&Change::GrantKeys(snapshot.grant_keys.clone()));
        facts
    }

    fn change(&mut self, change: &Change) {
        match change {
            Change::Resource(resource) => {
                self.resources.insert(resource.id.clone(), resource.ports.clone());
            }
            Change::ResourceGone(id) => drop(self.resources.remove(id)),
            Change::Locked(lock) => drop(self.locks.insert(lock.id.to_string(), lock.clone())),
            Change::Unlocked(id) => drop(self.locks.remove(id.as_str())),
            Change::Revoked(revoked) => {
                self.revoked.extend(revoked.iter().map(|one| (one.grant.to_string(), one.expires.0)));
            }
            Change::LoginEnded(id) => drop(self.ended.insert(id.to_string())),
            Change::GrantKeys(keys) => {
                self.keys = keys.iter().map(|key| (key.kid.to_string(), key.point.0.clone())).collect();
            }
        }
    }

    /// Whether control was heard lately.
    pub(super) fn is_fresh(&self, passed: u32) -> bool {
        super::cluster::STEP * (passed - self.heard_at) <= MAX_SILENCE
    }

    /// Control's time, in milliseconds.
    pub(super) fn now(&self, passed: u32) -> i64 {
        let since = Duration::from_secs(STEP_SECONDS.unsigned_abs()) * (passed - self.heard_at);
        self.heard + i64::try_from(since.as_millis()).expect("a short story")
    }

    pub(super) fn has(&self, place: &Place) -> bool {
        let ports = self.resources.get(&place.id);
        ports.is_some_and(|ports| ports.iter().any(|range| range.contains(place.port)))
    }

    fn is_locked(&self, passed: u32, is_meant: impl Fn(&LockTarget) -> bool) -> bool {
        let now = self.now(passed);
        let stands = |lock: &&Lock| lock.expires.is_none_or(|expires| now < expires.0);
        self.locks.values().filter(stands).any(|lock| is_meant(&lock.target))
    }

    fn is_tunnel_locked(&self, who: usize, passed: u32) -> bool {
        let login = &CLUSTER_OF_ALL.tunnels[who].login;
        self.is_locked(passed, |target| match target {
            LockTarget::User(user) => *user == login.user,
            LockTarget::Device(device) => *device == login.device,
            LockTarget::Login(id) => *id == login.login,
            LockTarget::Proxy(proxy) => proxy.as_str() == "p1",
            LockTarget::Resource(_) => false,
        })
    }

    fn has_login_ended(&self, who: usize) -> bool {
        self.ended.contains(CLUSTER_OF_ALL.tunnels[who].login.login.as_str())
    }

    pub(super) fn is_tunnel_cut(&self, who: usize, passed: u32) -> bool {
        self.has_login_ended(who) || self.is_tunnel_locked(who, passed)
    }

    /// All that stands against a session.
    pub(super) fn objections(&self, who: usize, place: &Place, passed: u32) -> Vec<Objection> {
        let is_meant = |target: &LockTarget| matches!(target, LockTarget::Resource(id) if *id == place.id);
        let is_locked = self.is_tunnel_locked(who, passed) || self.is_locked(passed, is_meant);
        let is_gone = !self.resources.contains_key(&place.id);
        let all = [
            (self.has_login_ended(who), Objection::LoginEnded),
            (is_locked, Objection::Locked),
            (is_gone, Objection::ResourceGone),
        ];
        all.into_iter().filter(|(stands, _)| *stands).map(|(_, objection)| objection).collect()
    }

    /// All that has come up against a grant since it was looked at.
    pub(super) fn faults_by_now(
        &self,
        token: &Token,
        who: usize,
        place: &Place,
        passed: u32,
    ) -> Vec<GrantFault> {
        let is_revoked = self.revoked.contains_key(token.claims.jti.as_str());
        let objections = self.objections(who, place, passed);
        let revoked = is_revoked.then_some(GrantFault::Revoked);
        revoked.into_iter().chain(objections.into_iter().map(GrantFault::from)).collect()
    }

    /// All that is wrong with a grant, for this tunnel and place, now.
    pub(super) fn faults(&self, token: &Token, who: usize, place: &Place, passed: u32) -> Vec<GrantFault> {
        let claims = &token.claims;
        let tunnel = &CLUSTER_OF_ALL.tunnels[who];
        let now = self.now(passed).div_euclid(1000);
        let point = self.keys.get(KIDS[token.kid]);
        let is_signed = point.is_some_and(|point| *point == CLUSTER_OF_ALL.point(token.signer));
        let login = (&claims.sub, &claims.login, &claims.device);
        let is_over = claims.exp + LEEWAY <= now || claims.session_end <= now;
        let all = [
            (point.is_none(), GrantFault::UnknownKey),
            (point.is_some() && !is_signed, GrantFault::BadSignature),
            (claims.aud != AUDIENCE || claims.iss.as_str() != CLUSTER, GrantFault::WrongIssuerOrAudience),
            (claims.cnf.jkt != tunnel.key, GrantFault::OtherKey),
            (
                login != (&tunnel.login.user, &tunnel.login.login, &tunnel.login.device),
                GrantFault::OtherLogin,
            ),
            (claims.resource != place.id, GrantFault::OtherResource),
            (claims.port != place.port, GrantFault::OtherPort),
            (is_over, GrantFault::Expired),
            (claims.exp > now + LONGEST_GRANT + LEEWAY, GrantFault::TooLongLived),
        ];
        let of_token = all.into_iter().filter(|(is_so, _)| *is_so).map(|(_, fault)| fault);
        token
            .header
            .into_iter()
            .chain(of_token)
            .chain(self.faults_by_now(token, who, place, passed))
            .collect()
    }
}
