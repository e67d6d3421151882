//! What control says, as this proxy knows it at this moment: resources, keys, locks, revocations, and control's time.
//!
//! Before the first complete snapshot, and once control has been silent for [`MAX_SILENCE`], the view is not ready and
//! no stream is taken. Expiries are compared with [`View::now`], control's time carried on by the boot clock, never with
//! this machine's time of day.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use jsonwebtoken::DecodingKey;
use portlatch_clock::{BootTime, Clock};
use portlatch_protocol::grant::EXPIRY_LEEWAY;
use portlatch_protocol::identity::Login;
use portlatch_protocol::names::{Hostname, Id, ProxyName, ResourceId};
use portlatch_protocol::watch::{
    Change, ControlTime, GrantKey, Hello, Lock, LockTarget, MAX_SILENCE, ProxyResource, Snapshot,
    WatchMessage,
};
use tokio::sync::watch;

/// A difference of the clocks that somebody should look at (design section 1).
const REPORTED_SKEW: Duration = Duration::from_secs(30);
/// How long a stream waits for a view that is not ready: right after a suspend the next beat is on its way.
const READY_PATIENCE: Duration = Duration::from_secs(1);

/// Control's messages, in order; in process or by wire.
pub trait ControlWatch: Send {
    /// What control said first.
    fn hello(&self) -> Hello;

    /// The next message; `None` once there will be none any more.
    fn next(&mut self) -> impl Future<Output = Option<WatchMessage>> + Send;
}

/// The proxy's copy of what control says. Held under a lock for the time of a look-up, never across an await.
pub struct View {
    clock: Clock,
    proxy: ProxyName,
    facts: RwLock<Option<Facts>>,
    /// Moves with every message.
    heard: watch::Sender<()>,
}

struct Facts {
    cluster: Hostname,
    heard: Heard,
    keys: HashMap<Id, Arc<DecodingKey>>,
    resources: HashMap<ResourceId, Arc<ProxyResource>>,
    locks: HashMap<Id, Lock>,
    /// Each with the end of its grant, until when it is kept.
    revoked: HashMap<Id, ControlTime>,
    ended_logins: HashSet<Id>,
}

/// When control was last heard, on both clocks.
#[derive(Clone, Copy)]
struct Heard {
    time: ControlTime,
    at: BootTime,
}

/// Why somebody may not have a session or tunnel, now or any longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Objection {
    /// A lock stands against it.
    Locked,
    /// The login has ended.
    LoginEnded,
    /// The resource is gone.
    ResourceGone,
}

/// What a grant is compared with.
pub struct GrantContext {
    /// The cluster that grants must come from.
    pub cluster: Hostname,
    /// Control's time.
    pub now: ControlTime,
    /// The key of the grant's `kid`.
    pub key: Arc<DecodingKey>,
}

/// Whether a message may have ended somebody's right to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It cannot have.
    None,
    /// Sessions and tunnels are to be looked at again.
    Recheck,
}

impl View {
    /// A view that has heard nothing yet.
    pub fn new(proxy: ProxyName, clock: Clock) -> Arc<Self> {
        Arc::new(Self { clock, proxy, facts: RwLock::new(None), heard: watch::Sender::new(()) })
    }

    /// Takes a message of the watch.
    pub fn handle_message(&self, message: WatchMessage) -> Effect {
        let at = self.clock.boot_time();
        let mut facts = self.write();
        let effect = match message {
            WatchMessage::Snapshot(snapshot) => {
                self.report_skew(snapshot.time);
                *facts = Some(Facts::from_snapshot(snapshot, at));
                Effect::Recheck
            }
            WatchMessage::Change(change, time) => {
                // A change to nothing: control sends the snapshot first, so it is not for us to guess.
                let Some(facts) = facts.as_mut() else { return Effect::None };
                facts.heard = Heard { time, at };
                facts.apply(change)
            }
            WatchMessage::Beat(time) => {
                let Some(facts) = facts.as_mut() else { return Effect::None };
                facts.heard = Heard { time, at };
                facts.forget_old_revocations();
                Effect::None
            }
        };
        drop(facts);
        self.heard.send_replace(());
        effect
    }

    fn report_skew(&self, time: ControlTime) {
        let here = self.clock.time_of_day();
        let skew = Duration::from_millis(time.0.abs_diff(here.0));
        if skew > REPORTED_SKEW {
            tracing::warn!(?skew, "this machine's clock differs from control's; control's counts");
        }
    }

    /// Whether new streams may be taken.
    pub fn is_ready(&self) -> bool {
        let silence = |facts: &Facts| self.clock.boot_time().saturating_since(facts.heard.at);
        self.read().as_ref().is_some_and(|facts| silence(facts) <= MAX_SILENCE)
    }

    /// Whether new streams may be taken, now or after a moment's patience.
    pub async fn becomes_ready(&self) -> bool {
        let mut heard = self.heard.subscribe();
        let ready = async {
            while !self.is_ready() {
                if heard.changed().await.is_err() {
                    break;
                }
            }
        };
        tokio::time::timeout(READY_PATIENCE, ready).await.is_ok() && self.is_ready()
    }

    /// Control's time, carried on by the boot clock since it was last heard.
    pub fn now(&self) -> Option<ControlTime> {
        self.read().as_ref().map(|facts| facts.now(self.clock.boot_time()))
    }

    /// The boot-clock moment of a time of control's, given in seconds since 1970.
    pub fn boot_time_of(&self, seconds: i64) -> Option<BootTime> {
        let left = seconds.saturating_mul(1000).saturating_sub(self.now()?.0);
        Some(self.clock.boot_time() + Duration::from_millis(u64::try_from(left).unwrap_or(0)))
    }

    /// What a grant with this `kid` is compared with; `None` if there is no such key.
    pub fn grant_context(&self, kid: &str) -> Option<GrantContext> {
        let facts = self.read();
        let facts = facts.as_ref()?;
        let key = Arc::clone(facts.keys.get(kid)?);
        Some(GrantContext { cluster: facts.cluster.clone(), now: facts.now(self.clock.boot_time()), key })
    }

    /// Whether the grant was revoked.
    pub fn is_revoked(&self, grant: &Id) -> bool {
        self.read().as_ref().is_none_or(|facts| facts.revoked.contains_key(grant))
    }

    /// The resource, if this proxy may dial it.
    pub fn resource(&self, id: &ResourceId) -> Option<Arc<ProxyResource>> {
        self.read().as_ref()?.resources.get(id).cloned()
    }

    /// What stands against a session of this login to this resource.
    pub fn objection(&self, login: &Login, resource: &ResourceId) -> Option<Objection> {
        let facts = self.read();
        let facts = facts.as_ref()?;
        let tunnel = facts.tunnel_objection(login, &self.proxy, self.clock.boot_time());
        tunnel.or_else(|| facts.resource_objection(resource, self.clock.boot_time()))
    }

    /// What stands against a tunnel of this login.
    pub fn tunnel_objection(&self, login: &Login) -> Option<Objection> {
        self.read().as_ref()?.tunnel_objection(login, &self.proxy, self.clock.boot_time())
    }

    fn read(&self) -> RwLockReadGuard<'_, Option<Facts>> {
        self.facts.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Option<Facts>> {
        self.facts.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Facts {
    fn from_snapshot(snapshot: Snapshot, at: BootTime) -> Self {
        let resources = snapshot.resources.into_iter().map(|r| (r.id.clone(), Arc::new(r)));
        Self {
            cluster: snapshot.cluster,
            heard: Heard { time: snapshot.time, at },
            keys: keys(snapshot.grant_keys),
            resources: resources.collect(),
            locks: snapshot.locks.into_iter().map(|lock| (lock.id.clone(), lock)).collect(),
            revoked: snapshot.revoked.into_iter().map(|revoked| (revoked.grant, revoked.expires)).collect(),
            ended_logins: snapshot.ended_logins.into_iter().collect(),
        }
    }

    fn apply(&mut self, change: Change) -> Effect {
        match change {
            Change::Resource(resource) => {
                self.resources.insert(resource.id.clone(), Arc::new(resource));
                return Effect::None;
            }
            Change::ResourceGone(id) => drop(self.resources.remove(&id)),
            Change::Locked(lock) => drop(self.locks.insert(lock.id.clone(), lock)),
            Change::Unlocked(id) => drop(self.locks.remove(&id)),
            Change::Revoked(revoked) => {
                self.revoked.extend(revoked.into_iter().map(|revoked| (revoked.grant, revoked.expires)));
                return Effect::None;
            }
            Change::LoginEnded(id) => drop(self.ended_logins.insert(id)),
            Change::GrantKeys(new) => {
                self.keys = keys(new);
                return Effect::None;
            }
        }
        Effect::Recheck
    }

    /// Those whose grants have ended on control's clock, wherever that clock was when they were revoked.
    fn forget_old_revocations(&mut self) {
        let leeway = i64::try_from((2 * EXPIRY_LEEWAY).as_millis()).unwrap_or(i64::MAX);
        let now = self.heard.time.0;
        self.revoked.retain(|_, expires| expires.0.saturating_add(leeway) > now);
    }

    fn now(&self, boot_time: BootTime) -> ControlTime {
        let passed = boot_time.saturating_since(self.heard.at).as_millis();
        ControlTime(self.heard.time.0.saturating_add(i64::try_from(passed).unwrap_or(i64::MAX)))
    }

    fn standing_locks(&self, boot_time: BootTime) -> impl Iterator<Item = &LockTarget> {
        let now = self.now(boot_time);
        let stands = move |lock: &&Lock| lock.expires.is_none_or(|end| now < end);
        self.locks.values().filter(stands).map(|lock| &lock.target)
    }

    fn tunnel_objection(&self, login: &Login, here: &ProxyName, boot_time: BootTime) -> Option<Objection> {
        if self.ended_logins.contains(&login.login) {
            return Some(Objection::LoginEnded);
        }
        let is_against = |target: &LockTarget| match target {
            LockTarget::User(user) => *user == login.user,
            LockTarget::Device(device) => *device == login.device,
            LockTarget::Login(id) => *id == login.login,
            LockTarget::Proxy(proxy) => proxy == here,
            LockTarget::Resource(_) => false,
        };
        self.standing_locks(boot_time).any(is_against).then_some(Objection::Locked)
    }

    fn resource_objection(&self, resource: &ResourceId, boot_time: BootTime) -> Option<Objection> {
        if !self.resources.contains_key(resource) {
            return Some(Objection::ResourceGone);
        }
        let lock = LockTarget::Resource(resource.clone());
        self.standing_locks(boot_time).any(|target| *target == lock).then_some(Objection::Locked)
    }
}

fn keys(keys: Vec<GrantKey>) -> HashMap<Id, Arc<DecodingKey>> {
    keys.into_iter().map(|key| (key.kid, Arc::new(DecodingKey::from_ec_der(&key.point.0)))).collect()
}

/// Certificates' dates are compared with control's time too, once it is known.
impl rustls::time_provider::TimeProvider for View {
    fn current_time(&self) -> Option<rustls::pki_types::UnixTime> {
        let Some(now) = self.now() else { return self.clock.current_time() };
        let millis = u64::try_from(now.0).ok()?;
        Some(rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_millis(millis)))
    }
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("proxy", &self.proxy).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use portlatch_protocol::grant::MAX_LIFETIME;
    use portlatch_protocol::watch::RevokedGrant;

    use super::*;
    use crate::proxy::fixture;

    #[test]
    fn nothing_is_ready_before_the_first_snapshot_nor_after_long_silence() {
        let (clock, mover) = Clock::movable();
        let view = View::new("p1".parse().unwrap(), clock.clone());
        let _ = view.handle_message(WatchMessage::Beat(fixture::control_time(&clock)));
        assert!(!view.is_ready() && view.now().is_none());
        let _ = view.handle_message(WatchMessage::Snapshot(fixture::snapshot(&clock)));
        assert!(view.is_ready());
        mover.send(MAX_SILENCE + Duration::from_secs(1)).unwrap();
        assert!(!view.is_ready());
        let _ = view.handle_message(WatchMessage::Beat(fixture::control_time(&clock)));
        assert!(view.is_ready());
    }

    #[test]
    fn controls_time_goes_on_by_the_boot_clock_and_not_by_the_time_of_day() {
        let (clock, mover) = Clock::movable();
        let view = View::new("p1".parse().unwrap(), clock.clone());
        let far = ControlTime(5_000_000_000_000);
        let _ =
            view.handle_message(WatchMessage::Snapshot(Snapshot { time: far, ..fixture::snapshot(&clock) }));
        mover.send(Duration::from_secs(30)).unwrap();
        let passed = view.now().unwrap().0 - far.0;
        assert!((30_000..35_000).contains(&passed), "{passed} ms");
    }

    #[test]
    fn locks_stand_against_what_they_name_until_they_end() {
        let (clock, mover) = Clock::movable();
        let view = fixture::view(&clock);
        let login = fixture::login();
        let resource: ResourceId = "db/billing".parse().unwrap();
        assert_eq!(view.objection(&login, &resource), None);
        let targets = [
            LockTarget::User(login.user.clone()),
            LockTarget::Device(login.device.clone()),
            LockTarget::Login(login.login.clone()),
            LockTarget::Resource(resource.clone()),
            LockTarget::Proxy("p1".parse().unwrap()),
        ];
        for target in targets {
            let time = fixture::control_time(&clock);
            let expires = Some(ControlTime(time.0 + 20_000));
            let lock = Lock { id: "0a".parse().unwrap(), target: target.clone(), expires };
            assert_eq!(
                view.handle_message(WatchMessage::Change(Change::Locked(lock), time)),
                Effect::Recheck
            );
            assert_eq!(view.objection(&login, &resource), Some(Objection::Locked), "{target:?}");
            let before = *mover.borrow();
            mover.send(before + Duration::from_secs(21)).unwrap();
            assert_eq!(view.objection(&login, &resource), None, "{target:?}");
        }
    }

    #[test]
    fn a_gone_resource_and_an_ended_login_are_objections() {
        let (clock, _mover) = Clock::movable();
        let view = fixture::view(&clock);
        let login = fixture::login();
        let resource: ResourceId = "db/billing".parse().unwrap();
        let time = fixture::control_time(&clock);
        let _ = view.handle_message(WatchMessage::Change(Change::ResourceGone(resource.clone()), time));
        assert_eq!(view.objection(&login, &resource), Some(Objection::ResourceGone));
        assert_eq!(view.tunnel_objection(&login), None);
        let _ = view.handle_message(WatchMessage::Change(Change::LoginEnded(login.login.clone()), time));
        assert_eq!(view.tunnel_objection(&login), Some(Objection::LoginEnded));
    }

    #[test]
    fn revocations_are_forgotten_only_when_their_grants_have_ended() {
        let (clock, mover) = Clock::movable();
        let view = fixture::view(&clock);
        let (grant, start) = ("0f".parse().unwrap(), fixture::control_time(&clock));
        let _ = view.handle_message(WatchMessage::Change(revoked(&grant, start), start));
        mover.send(MAX_LIFETIME).unwrap();
        let _ = view.handle_message(WatchMessage::Beat(fixture::control_time(&clock)));
        assert!(view.is_revoked(&grant));
        mover.send(MAX_LIFETIME * 2).unwrap();
        let _ = view.handle_message(WatchMessage::Beat(fixture::control_time(&clock)));
        assert!(!view.is_revoked(&grant));
    }

    #[test]
    fn a_revocation_outlives_its_grant_even_if_controls_clock_was_set_back_before_it() {
        let (clock, _mover) = Clock::movable();
        let view = fixture::view(&clock);
        let (grant, start) = ("0f".parse().unwrap(), fixture::control_time(&clock));
        let later = |seconds: i64| ControlTime(start.0 + seconds * 1000);
        // Given at `start`; a quarter of an hour is taken back; then it is revoked.
        let _ = view.handle_message(WatchMessage::Change(revoked(&grant, start), later(-900)));
        for seconds in [-890, -400, 0, 299, 304] {
            let _ = view.handle_message(WatchMessage::Beat(later(seconds)));
            assert!(view.is_revoked(&grant), "{seconds} s");
        }
        let _ = view.handle_message(WatchMessage::Beat(later(311)));
        assert!(!view.is_revoked(&grant));
    }

    /// The revocation of a grant that was given at this time.
    fn revoked(grant: &Id, given: ControlTime) -> Change {
        let expires = ControlTime(given.0 + i64::try_from(MAX_LIFETIME.as_millis()).unwrap());
        Change::Revoked(vec![RevokedGrant { grant: grant.clone(), expires }])
    }
}
