//! The sessions and tunnels that live now, for lock, kill and stop to reach them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use dashmap::DashMap;
use portlatch_clock::TimeOfDay;
use portlatch_protocol::identity::Login;
use portlatch_protocol::names::{Id, ResourceId};
use tokio_util::sync::CancellationToken;

use crate::watch::Objection;

/// Why a session ended, in the audit's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// Both sides closed.
    Closed,
    /// The program reset its connection.
    ProgramReset,
    /// The target reset its connection, or died.
    TargetReset,
    /// The tunnel is gone.
    TunnelLost,
    /// No byte for as long as the grant allows.
    Idle,
    /// The end that the grant set.
    SessionOver,
    /// A lock.
    Locked,
    /// The login ended.
    LoginEnded,
    /// The resource is gone.
    ResourceGone,
    /// An administrator ended it.
    Killed,
    /// The proxy stopped.
    ProxyStopped,
    /// The target refused; no byte went to it.
    TargetRefused,
    /// The target could not be reached; no byte went to it.
    TargetUnreachable,
    /// Stalled sessions held too much, and its user most of it.
    OverBudget,
    /// A fault of ours ended it.
    Internal,
}

impl EndReason {
    /// The audit's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::ProgramReset => "program_reset",
            Self::TargetReset => "target_reset",
            Self::TunnelLost => "tunnel_lost",
            Self::Idle => "idle",
            Self::SessionOver => "session_over",
            Self::Locked => "locked",
            Self::LoginEnded => "login_ended",
            Self::ResourceGone => "resource_gone",
            Self::Killed => "killed",
            Self::ProxyStopped => "proxy_stopped",
            Self::TargetRefused => "target_refused",
            Self::TargetUnreachable => "target_unreachable",
            Self::OverBudget => "over_budget",
            Self::Internal => "internal",
        }
    }
}

impl From<Objection> for EndReason {
    fn from(objection: Objection) -> Self {
        match objection {
            Objection::Locked => Self::Locked,
            Objection::LoginEnded => Self::LoginEnded,
            Objection::ResourceGone => Self::ResourceGone,
        }
    }
}

/// One live session.
#[derive(Debug)]
pub struct LiveSession {
    /// Its identifier.
    pub id: Id,
    /// Whose.
    pub login: Login,
    /// To what.
    pub resource: ResourceId,
    /// Which port.
    pub port: u16,
    /// Where it was dialled.
    pub target: SocketAddr,
    /// From where.
    pub client: SocketAddr,
    /// The program, as the user's machine named it.
    pub program: Option<String>,
    /// When it began.
    pub started: TimeOfDay,
    /// Bytes from the program.
    pub bytes_in: AtomicU64,
    /// Bytes to the program.
    pub bytes_out: AtomicU64,
    /// The end, once somebody other than its two sides has called for it.
    pub end: End,
}

impl LiveSession {
    /// Bytes both ways: a session is idle while this stands still.
    pub fn bytes(&self) -> u64 {
        self.bytes_in.load(Ordering::Relaxed).wrapping_add(self.bytes_out.load(Ordering::Relaxed))
    }
}

/// A session's end as others call for it: the first reason counts.
#[derive(Debug, Default)]
pub struct End {
    reason: OnceLock<EndReason>,
    called: CancellationToken,
}

impl End {
    /// Calls for the end.
    pub fn call(&self, reason: EndReason) {
        // A second caller's reason adds nothing.
        let _ = self.reason.set(reason);
        self.called.cancel();
    }

    /// Returns once the end is called for. Cancel-safe.
    pub async fn called(&self) -> EndReason {
        self.called.cancelled().await;
        self.reason.get().copied().unwrap_or(EndReason::Internal)
    }
}

/// One live tunnel.
#[derive(Debug)]
pub struct LiveTunnel {
    /// Whose.
    pub login: Login,
    /// The connection.
    pub connection: quinn::Connection,
}

/// All that lives.
#[derive(Debug, Default)]
pub struct Sessions {
    sessions: DashMap<Id, Arc<LiveSession>>,
    tunnels: DashMap<u64, LiveTunnel>,
    next_tunnel: AtomicU64,
}

impl Sessions {
    /// Adds a session until the entry is dropped.
    pub fn add(self: &Arc<Self>, session: LiveSession) -> SessionEntry {
        let session = Arc::new(session);
        self.sessions.insert(session.id.clone(), Arc::clone(&session));
        SessionEntry { table: Arc::clone(self), session }
    }

    /// Adds a tunnel until the entry is dropped.
    pub fn add_tunnel(self: &Arc<Self>, tunnel: LiveTunnel) -> TunnelEntry {
        let number = self.next_tunnel.fetch_add(1, Ordering::Relaxed);
        self.tunnels.insert(number, tunnel);
        TunnelEntry { table: Arc::clone(self), number }
    }

    /// The live sessions, oldest first.
    pub fn list(&self) -> Vec<Arc<LiveSession>> {
        let mut list: Vec<_> = self.sessions.iter().map(|entry| Arc::clone(entry.value())).collect();
        list.sort_by_key(|session| session.started);
        list
    }

    /// How many sessions live.
    pub fn count(&self) -> usize {
        self.sessions.len()
    }

    /// Ends one session; whether it lived.
    pub fn kill(&self, id: &Id) -> Killed {
        match self.sessions.get(id) {
            Some(session) => {
                session.end.call(EndReason::Killed);
                Killed::Ended
            }
            None => Killed::Unknown,
        }
    }

    /// Ends every session.
    pub fn end_all(&self, reason: EndReason) {
        self.sessions.iter().for_each(|session| session.end.call(reason));
    }

    /// Ends the sessions that something stands against now.
    pub fn end_where(&self, objection: impl Fn(&LiveSession) -> Option<Objection>) {
        for session in &self.sessions {
            if let Some(objection) = objection(&session) {
                session.end.call(objection.into());
            }
        }
    }

    /// Closes the tunnels that something stands against now.
    pub fn close_tunnels_where(&self, is_cut: impl Fn(&Login) -> bool, code: u32, reason: &[u8]) {
        for tunnel in &self.tunnels {
            if is_cut(&tunnel.login) {
                tunnel.connection.close(code.into(), reason);
            }
        }
    }
}

/// Whether a session was there to be ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Killed {
    /// It was told to end.
    Ended,
    /// There is none of that name.
    Unknown,
}

/// A session's place in the table.
#[derive(Debug)]
pub struct SessionEntry {
    table: Arc<Sessions>,
    session: Arc<LiveSession>,
}

impl SessionEntry {
    /// The session, for whoever must reach it longer than this borrow.
    pub const fn shared(&self) -> &Arc<LiveSession> {
        &self.session
    }
}

impl std::ops::Deref for SessionEntry {
    type Target = LiveSession;
    fn deref(&self) -> &LiveSession {
        &self.session
    }
}

impl Drop for SessionEntry {
    fn drop(&mut self) {
        self.table.sessions.remove(&self.session.id);
    }
}

/// A tunnel's place in the table.
#[derive(Debug)]
pub struct TunnelEntry {
    table: Arc<Sessions>,
    number: u64,
}

impl Drop for TunnelEntry {
    fn drop(&mut self) {
        self.table.tunnels.remove(&self.number);
    }
}
