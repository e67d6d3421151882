//! Writing: one source's spool, from [`Spool::append`] to the disk.
//!
//! A record is written with one `write()` under a lock, so that lines are whole and in the chain's order; a thread of
//! the spool's own puts them on the disk, many with one `fdatasync`. What failed once is never tried again: Linux
//! reports a failed write-back once and then forgets the pages, so a second, successful sync would prove nothing.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use portlatch_clock::TimeOfDay;
use portlatch_protocol::names::{Hostname, ProxyName};
use rustix::fs::{FlockOperation, flock};

use crate::chain::{self, Link};
use crate::event::{Event, EventKind};
use crate::segment;

mod recover;

/// How long records wait in the system's memory before they go to the disk, unless every one is waited for.
const SYNC_EVERY: Duration = Duration::from_millis(50);
/// A disk that takes longer than this for one sync has failed.
const SYNC_DEADLINE: Duration = Duration::from_secs(30);
/// Size at which a segment is closed: small enough to read whole at the next start.
const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;
/// What closing records may use of a spool that is full for others, so that running sessions end on the record.
const RESERVE_BYTES: u64 = 64 * 1024 * 1024;

/// When a record counts as written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// Once the operating system has it: it survives the death of the process. Synced to the disk every 50 ms.
    #[default]
    Os,
    /// Once the disk has it: it survives the loss of power.
    Disk,
}

/// Whose spool it is and where.
#[derive(Debug, Clone)]
pub struct SpoolConfig {
    /// The audit folder, shared by all sources of this machine.
    pub directory: PathBuf,
    /// The writer: `control` or a proxy's name.
    pub source: String,
    /// Stands in every record.
    pub cluster: Hostname,
    /// When a record counts as written.
    pub durability: Durability,
    /// What the source's records may take in all; beyond it nothing new begins.
    pub max_bytes: u64,
}

impl SpoolConfig {
    /// Some twenty million records.
    pub const DEFAULT_MAX_BYTES: u64 = 8 * 1024 * 1024 * 1024;
}

/// Why a spool could not be opened or written. The caller begins nothing new without its record.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The source's name cannot be a folder's.
    #[error("{0:?} cannot be the name of an audit source")]
    BadSource(String),
    /// Another process writes it.
    #[error("another process writes the audit of {0:?}")]
    InUse(String),
    /// The disk said no.
    #[error("the audit cannot be written: {0}")]
    Io(#[from] io::Error),
    /// The disk said no before: nothing is written any more until a restart has read again what is there.
    #[error("the audit failed before: restart once its disk is well")]
    Failed,
    /// The source has used what it may.
    #[error("the audit is full: raise its limit or archive it")]
    Full,
}

/// What opening found of the time before.
#[derive(Debug, Default)]
pub struct Recovery {
    /// Bytes of a torn record that were cut off.
    pub cut_bytes: u64,
    /// Records that had been on the disk and are damaged or gone; `verify` says where.
    pub damage: Option<String>,
    /// The records of sessions that never ended; their `session.lost` is written.
    pub lost: Vec<Event>,
}

/// A source's spool, open for writing. Dropping it puts all on the disk.
pub struct Spool {
    shared: Arc<Shared>,
    config: SpoolConfig,
    folder: PathBuf,
    recovery: Recovery,
    syncer: Option<JoinHandle<()>>,
}

struct Shared {
    /// A lock and not a task: appending is a few microseconds, and callers need not be on an executor.
    state: Mutex<State>,
    /// There is something to sync, or the spool closes.
    work: Condvar,
    /// Something was synced, or failed.
    done: Condvar,
    head: File,
    durability: Durability,
}

struct State {
    segment: Arc<File>,
    segment_bytes: u64,
    total_bytes: u64,
    last: Link,
    last_kind: Option<EventKind>,
    synced: u64,
    condition: Condition,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    Open,
    Failed,
    Closing,
}

impl Spool {
    /// Opens the source's spool: cuts a torn tail, ends sessions that never ended, and notes all of it.
    ///
    /// # Errors
    /// Any [`SpoolError`].
    pub fn open(config: SpoolConfig, now: TimeOfDay) -> Result<Self, SpoolError> {
        let is_name = config.source.parse::<ProxyName>().is_ok();
        if !is_name {
            return Err(SpoolError::BadSource(config.source));
        }
        let folder = config.directory.join(&config.source);
        segment::make_folder(&folder)?;
        let head = segment::open_head(&folder)?;
        if flock(&head, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(SpoolError::InUse(config.source));
        }
        let found = recover::recover(&folder)?;
        let state = State {
            segment: Arc::new(found.segment),
            segment_bytes: found.segment_bytes,
            total_bytes: found.total_bytes,
            last: found.last,
            last_kind: None,
            synced: 0,
            condition: Condition::Open,
        };
        let durability = config.durability;
        let (state, work, done) = (Mutex::new(state), Condvar::new(), Condvar::new());
        let shared = Arc::new(Shared { state, work, done, head, durability });
        let syncer = std::thread::Builder::new().name("audit-sync".into()).spawn({
            let shared = Arc::clone(&shared);
            move || shared.sync_until_closed()
        })?;
        let spool = Self { shared, config, folder, recovery: found.recovery, syncer: Some(syncer) };
        spool.note_recovery(now)?;
        Ok(spool)
    }

    fn note_recovery(&self, now: TimeOfDay) -> Result<(), SpoolError> {
        if self.recovery.cut_bytes > 0 {
            let detail = Some(format!("{} bytes", self.recovery.cut_bytes));
            self.append(&Event { detail, ..Event::new(EventKind::AuditCut) }, now)?;
        }
        if let Some(damage) = &self.recovery.damage {
            tracing::error!(damage, "the audit was damaged");
            let detail = Some(damage.clone());
            self.append(&Event { detail, ..Event::new(EventKind::AuditDamaged) }, now)?;
        }
        for session in &self.recovery.lost {
            self.append(&session.lost(), now)?;
        }
        self.append(&Event::new(EventKind::AuditOpen), now).map(drop)
    }

    /// What opening found.
    pub const fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// Writes a record and returns its number. Blocks: for microseconds, or with [`Durability::Disk`] for a sync.
    ///
    /// # Errors
    /// Any [`SpoolError`]; the record is then not to be relied on, and its cause must not happen.
    pub fn append(&self, event: &Event, now: TimeOfDay) -> Result<u64, SpoolError> {
        let mut state = self.shared.lock();
        if state.condition == Condition::Failed {
            return Err(SpoolError::Failed);
        }
        let mut line = chain::line(state.last, now, &self.config.cluster, event);
        let link = Link { seq: state.last.seq + 1, hash: chain::LineHash::of(&line) };
        line.push(b'\n');
        let length = u64::try_from(line.len()).unwrap_or(u64::MAX);
        let reserve = if event.kind.is_closing() { RESERVE_BYTES } else { 0 };
        if state.total_bytes + length > self.config.max_bytes.saturating_add(reserve) {
            return Err(SpoolError::Full);
        }
        if let Err(error) = state.write(&self.folder, &line, link) {
            state.condition = Condition::Failed;
            self.shared.done.notify_all();
            tracing::error!(%error, "the audit cannot be written");
            return Err(error.into());
        }
        let was_dirty = state.is_dirty();
        (state.last, state.last_kind) = (link, Some(event.kind));
        state.segment_bytes += length;
        state.total_bytes += length;
        // Else it syncs or is about to, and looks again by itself: waking it for every record would cost two changes of
        // thread each.
        if !was_dirty {
            self.shared.work.notify_one();
        }
        match self.config.durability {
            Durability::Os => Ok(link.seq),
            Durability::Disk => self.shared.wait_for_disk(state, link.seq),
        }
    }

    /// Signs the chain's head, unless nothing was written since the last time.
    ///
    /// # Errors
    /// Any [`SpoolError`].
    pub fn sign_head(&self, signer: &dyn Fn(&[u8]) -> Vec<u8>, now: TimeOfDay) -> Result<(), SpoolError> {
        let (last, last_kind) = {
            let state = self.shared.lock();
            (state.last, state.last_kind)
        };
        if last_kind == Some(EventKind::ChainHead) {
            return Ok(());
        }
        // The record is written with this time, so that whoever verifies finds in it what was signed.
        let (SpoolConfig { cluster, source, .. }, time) = (&self.config, chain::timestamp(now));
        let message = chain::head_message(cluster, source, last.seq, &last.hash.0, &time);
        let event = Event {
            detail: Some(format!("{} {}", last.seq, last.hash.to_hex())),
            signature: Some(hex::encode(signer(&message))),
            ..Event::new(EventKind::ChainHead)
        };
        self.append(&event, now).map(drop)
    }
}

impl State {
    /// Writes one line, in a new segment if the current one is full.
    fn write(&mut self, folder: &Path, line: &[u8], link: Link) -> io::Result<()> {
        if self.segment_bytes >= SEGMENT_BYTES {
            // The head may name a line of the new segment only if everything before it is on the disk.
            self.segment.sync_data()?;
            self.segment = Arc::new(segment::create(folder, link.seq)?);
            self.segment_bytes = 0;
        }
        let written = (&*self.segment).write(line)?;
        if written == line.len() {
            return Ok(());
        }
        // A short write is a full disk. Cut what came through; if that fails too, the next opening does it.
        self.segment.set_len(self.segment_bytes)?;
        Err(io::ErrorKind::StorageFull.into())
    }

    const fn is_dirty(&self) -> bool {
        self.last.seq > self.synced
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics between two writes of the state's fields.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for_disk(&self, state: MutexGuard<'_, State>, seq: u64) -> Result<u64, SpoolError> {
        let is_waiting = |state: &mut State| state.synced < seq && state.condition == Condition::Open;
        let wait = self.done.wait_timeout_while(state, SYNC_DEADLINE, is_waiting);
        let (mut state, timeout) = wait.unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() {
            state.condition = Condition::Failed;
        }
        match state.synced >= seq {
            true => Ok(seq),
            false => Err(SpoolError::Failed),
        }
    }

    fn sync_until_closed(&self) {
        while let Some((segment, last)) = self.next_work() {
            let result = segment.sync_data().and_then(|()| chain::write_head(&self.head, last));
            let mut state = self.lock();
            match result {
                Ok(()) => state.synced = last.seq,
                Err(error) => {
                    tracing::error!(%error, "the audit cannot be synced");
                    state.condition = Condition::Failed;
                }
            }
            self.done.notify_all();
        }
    }

    /// The segment to sync and the line to reach; `None` once there is nothing left to do.
    fn next_work(&self) -> Option<(Arc<File>, Link)> {
        let idle = |state: &mut State| !state.is_dirty() && state.condition == Condition::Open;
        let mut state = self.work.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        if self.durability == Durability::Os {
            let is_open = |state: &mut State| state.condition == Condition::Open;
            let wait = self.work.wait_timeout_while(state, SYNC_EVERY, is_open);
            state = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
        let has_work = state.is_dirty() && state.condition != Condition::Failed;
        has_work.then(|| (Arc::clone(&state.segment), state.last))
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if state.condition == Condition::Open {
            state.condition = Condition::Closing;
        }
        drop(state);
        self.shared.work.notify_all();
        if let Some(syncer) = self.syncer.take() {
            // It panicked or it ended: either way there is nothing more to sync.
            let _ = syncer.join();
        }
    }
}

impl std::fmt::Debug for Spool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spool").field("source", &self.config.source).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
