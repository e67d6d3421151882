//! What proxies hear of control: a snapshot, then changes, and a beat every five seconds.
//!
//! There is no queue between control and a watcher. Control keeps one value, [`Standing`], and says that it changed; each
//! watcher compares it with what it has told its proxy and tells the difference. So a slow watcher skips what was overtaken
//! meanwhile, memory is bounded by the state itself, and nothing can be lost between two messages.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use portlatch_clock::{Clock, TimeOfDay};
use portlatch_protocol::attach::CertificateBytes;
use portlatch_protocol::names::{Hostname, Id, ProxyName, ResourceId};
use portlatch_protocol::watch::{
    BEAT, Change, ControlTime, GrantKey, Hello, Lock, ProxyResource, RevokedGrant, Snapshot, WatchMessage,
};
use tokio::time::Instant;

use self::standing::{Endings, Standing};
use crate::documents::labels::Labels;

pub mod standing;

/// A difference of more than this is told as a new snapshot: the proxy reads it in one step.
const MAX_CHANGES: usize = 256;

/// What never changes while control runs.
#[derive(Debug, Clone)]
pub(crate) struct ClusterFacts {
    pub(crate) cluster: Hostname,
    pub(crate) authorities: Vec<CertificateBytes>,
    pub(crate) grant_keys: Vec<GrantKey>,
}

/// One proxy's watch.
#[derive(Debug)]
pub struct Watch {
    standing: tokio::sync::watch::Receiver<Arc<Standing>>,
    facts: Arc<ClusterFacts>,
    clock: Clock,
    proxy: ProxyName,
    labels: Labels,
    told: Option<Told>,
    changes: VecDeque<Change>,
    /// Ended logins that the proxy still has, and that nobody needs to know of any more.
    outdated: usize,
    next_beat: Instant,
}

/// What the proxy knows.
#[derive(Debug)]
struct Told {
    resources: BTreeMap<ResourceId, ProxyResource>,
    locks: BTreeMap<Id, Lock>,
    revoked: Arc<Endings>,
    ended_logins: Arc<Endings>,
}

impl Watch {
    pub(crate) fn new(
        standing: tokio::sync::watch::Receiver<Arc<Standing>>,
        facts: Arc<ClusterFacts>,
        clock: Clock,
        proxy: ProxyName,
        labels: Labels,
    ) -> Self {
        let (told, changes, next_beat) = (None, VecDeque::new(), Instant::now() + BEAT);
        Self { standing, facts, clock, proxy, labels, told, changes, outdated: 0, next_beat }
    }

    /// What control says first, before any message.
    pub const fn hello(&self) -> Hello {
        Hello::OWN
    }

    /// The next message; `None` when control is gone. Waits for at most [`BEAT`]. Cancel-safe.
    pub async fn next(&mut self) -> Option<WatchMessage> {
        loop {
            if let Some(message) = self.ready() {
                self.next_beat = Instant::now() + BEAT;
                return Some(message);
            }
            tokio::select! {
                changed = self.standing.changed() => {
                    changed.ok()?;
                    self.standing.mark_changed();
                }
                () = tokio::time::sleep_until(self.next_beat) => {
                    self.next_beat = Instant::now() + BEAT;
                    return Some(WatchMessage::Beat(self.time()));
                }
                // The proxy reckons with control's time: a test that moves it must not wait for a beat.
                () = self.clock.moved() => return Some(WatchMessage::Beat(self.time())),
            }
        }
    }

    /// A message that can be told without waiting.
    fn ready(&mut self) -> Option<WatchMessage> {
        let Some(told) = &mut self.told else { return Some(self.snapshot()) };
        if self.changes.is_empty() && self.standing.has_changed().unwrap_or(false) {
            let standing = self.standing.borrow_and_update().clone();
            let now = Told::of(&standing, &self.labels);
            self.changes = told.changes_to(&now);
            self.outdated += new_endings(&now.ended_logins, &told.ended_logins).count();
            *told = now;
        }
        if self.changes.len() > MAX_CHANGES || self.outdated > MAX_CHANGES {
            return Some(self.snapshot());
        }
        let change = self.changes.pop_front()?;
        Some(WatchMessage::Change(change, self.time()))
    }

    fn snapshot(&mut self) -> WatchMessage {
        let standing = self.standing.borrow_and_update().clone();
        let told = Told::of(&standing, &self.labels);
        self.changes.clear();
        self.outdated = 0;
        tracing::debug!(proxy = %self.proxy, resources = told.resources.len(), "snapshot told");
        let snapshot = Snapshot {
            time: self.time(),
            cluster: self.facts.cluster.clone(),
            authorities: self.facts.authorities.clone(),
            grant_keys: self.facts.grant_keys.clone(),
            resources: told.resources.values().cloned().collect(),
            locks: told.locks.values().cloned().collect(),
            revoked: told.revoked.iter().map(revoked).collect(),
            ended_logins: told.ended_logins.keys().cloned().collect(),
        };
        self.told = Some(told);
        WatchMessage::Snapshot(snapshot)
    }

    fn time(&self) -> ControlTime {
        let TimeOfDay(milliseconds) = self.clock.time_of_day();
        ControlTime(milliseconds)
    }
}

impl Told {
    fn of(standing: &Standing, labels: &Labels) -> Self {
        let resources = standing.proxy_resources(labels);
        Self {
            resources: resources.into_iter().map(|resource| (resource.id.clone(), resource)).collect(),
            locks: standing.locks.iter().map(|lock| (lock.id.clone(), lock.clone())).collect(),
            revoked: standing.revoked.clone(),
            ended_logins: standing.ended_logins.clone(),
        }
    }

    /// What cuts comes first.
    fn changes_to(&self, now: &Self) -> VecDeque<Change> {
        let mut changes = VecDeque::new();
        for (id, lock) in &now.locks {
            if self.locks.get(id) != Some(lock) {
                changes.push_back(Change::Locked(lock.clone()));
            }
        }
        let ended = new_endings(&self.ended_logins, &now.ended_logins);
        changes.extend(ended.map(|(login, _)| Change::LoginEnded(login.clone())));
        let gone = self.resources.keys().filter(|id| !now.resources.contains_key(*id));
        changes.extend(gone.cloned().map(Change::ResourceGone));
        let over: Vec<RevokedGrant> = new_endings(&self.revoked, &now.revoked).map(revoked).collect();
        if !over.is_empty() {
            changes.push_back(Change::Revoked(over));
        }
        for (id, resource) in &now.resources {
            if self.resources.get(id) != Some(resource) {
                changes.push_back(Change::Resource(resource.clone()));
            }
        }
        let lifted = self.locks.keys().filter(|id| !now.locks.contains_key(*id));
        changes.extend(lifted.cloned().map(Change::Unlocked));
        changes
    }
}

fn new_endings<'a>(
    old: &'a Arc<Endings>,
    new: &'a Arc<Endings>,
) -> impl Iterator<Item = (&'a Id, &'a TimeOfDay)> {
    let is_same = Arc::ptr_eq(old, new);
    new.iter().filter(move |(id, _)| !is_same && !old.contains_key(*id))
}

fn revoked((grant, end): (&Id, &TimeOfDay)) -> RevokedGrant {
    RevokedGrant { grant: grant.clone(), expires: ControlTime(end.0) }
}
