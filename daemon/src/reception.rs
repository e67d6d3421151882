//! The daemon's unix socket: agents attach here, and `portlatch` asks for its user's status.
//!
//! The peer's uid comes from the socket and is the only scope there is: whoever connects speaks for that user and no
//! other. Anything that is not the protocol closes that one connection.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use portlatch_clock::Clock;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::dns::names::TrustedZone;
use crate::os::StateDir;
use crate::os::name_service::NameServicePlan;
use crate::trust::Trust;
use crate::worker::Command;

mod attach;
mod conversation;
mod frames;
mod machine;

pub(crate) use machine::Machine;

/// Connections of one user: an agent, a few commands (reliability.md 2.4).
const MAX_PER_USER: usize = 8;
/// Connections in all (reliability.md 2.4).
const MAX_CONNECTIONS: usize = 64;
/// After an accept failed for want of descriptors: time for some to be given back.
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// Who is at the other end.
#[derive(Debug, Clone, Copy)]
struct Peer {
    uid: u32,
    pid: u32,
}

/// What every conversation needs.
#[derive(Clone)]
struct Desk {
    state: StateDir,
    commands: mpsc::Sender<Command>,
    clock: Clock,
    serials: Arc<Mutex<u64>>,
    /// What the system's resolver is told: with the zones that root listed by now.
    names: Arc<watch::Sender<NameServicePlan>>,
    machine: Machine,
    stopping: CancellationToken,
}

/// The socket, bound.
pub(crate) struct Reception {
    listener: UnixListener,
    path: PathBuf,
    desk: Desk,
    visitors: Arc<Mutex<HashMap<u32, usize>>>,
}

impl Reception {
    /// Binds the socket, in place of one that a killed daemon left. Everybody may connect: what one may do is decided
    /// by who one is. Also gives the plans that the system's resolver is to follow.
    pub(crate) fn bind(
        path: &Path,
        state: StateDir,
        commands: mpsc::Sender<Command>,
        clock: Clock,
        names: NameServicePlan,
        machine: Machine,
        stopping: CancellationToken,
    ) -> io::Result<(Self, watch::Receiver<NameServicePlan>)> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
        let (names, plans) = watch::channel(names);
        let serials = Arc::default();
        let desk = Desk { state, commands, clock, serials, names: names.into(), machine, stopping };
        Ok((Self { listener, path: path.to_owned(), desk, visitors: Arc::default() }, plans))
    }

    /// Serves until told to stop; then the socket is gone.
    pub(crate) async fn serve(self) {
        let mut conversations = JoinSet::new();
        loop {
            tokio::select! {
                () = self.desk.stopping.cancelled() => break,
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => self.welcome(stream, &mut conversations),
                    Err(error) => {
                        tracing::warn!(%error, "accepting a local connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(ended) = conversations.join_next() => if let Err(error) = ended {
                    tracing::error!(%error, "a conversation failed");
                },
            }
        }
        // Each hears of the stop by itself.
        while conversations.join_next().await.is_some() {}
        let _ = std::fs::remove_file(&self.path);
    }

    fn welcome(&self, stream: UnixStream, conversations: &mut JoinSet<()>) {
        let Ok(credentials) = stream.peer_cred() else { return };
        let pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
        let peer = Peer { uid: credentials.uid(), pid };
        let Some(seat) = Seat::take(&self.visitors, peer.uid) else {
            return tracing::warn!(uid = peer.uid, "too many local connections: one was closed");
        };
        let desk = self.desk.clone();
        conversations.spawn(async move {
            conversation::hold(stream, peer, &desk).await;
            drop(seat);
        });
    }
}

/// The zones that root listed, and whose each is.
pub(crate) fn trusted_zones(trust: &Trust) -> Vec<TrustedZone> {
    let zones = |cluster: &crate::trust::TrustedCluster| {
        let host = cluster.host.clone();
        let zones = cluster.zones.clone();
        zones.into_iter().map(move |suffix| TrustedZone { cluster: host.clone(), suffix })
    };
    trust.clusters().iter().flat_map(zones).collect()
}

impl Desk {
    /// The system's resolver and our own server answer for the zones that root listed by now.
    async fn handle_trust(&self, trust: &Trust) {
        let zones = trusted_zones(trust);
        self.names.send_if_modified(|plan| {
            let suffixes: Vec<_> = zones.iter().map(|zone| zone.suffix.clone()).collect();
            let is_new = plan.zones != suffixes;
            plan.zones = suffixes;
            is_new
        });
        let _ = self.commands.send(Command::Trusted(zones)).await;
    }

    fn next_serial(&self) -> u64 {
        // A counter under a lock held for one line: conversations are tasks of their own.
        let mut serial = self.serials.lock().unwrap_or_else(PoisonError::into_inner);
        *serial += 1;
        *serial
    }
}

/// A connection's place, given back when dropped.
struct Seat {
    visitors: Arc<Mutex<HashMap<u32, usize>>>,
    uid: u32,
}

impl Seat {
    fn take(visitors: &Arc<Mutex<HashMap<u32, usize>>>, uid: u32) -> Option<Self> {
        // Held for a few lines, never across an await; a seat is given back in `Drop`, which cannot await.
        let mut taken = visitors.lock().unwrap_or_else(PoisonError::into_inner);
        let has_room = taken.values().sum::<usize>() < MAX_CONNECTIONS;
        let own = taken.get(&uid).copied().unwrap_or(0);
        if !has_room || own >= MAX_PER_USER {
            return None;
        }
        taken.insert(uid, own + 1);
        drop(taken);
        Some(Self { visitors: Arc::clone(visitors), uid })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.visitors.lock().unwrap_or_else(PoisonError::into_inner);
        match taken.get_mut(&self.uid) {
            Some(own) if *own > 1 => *own -= 1,
            Some(_) | None => drop(taken.remove(&self.uid)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_so_many_seats_and_gets_them_back() {
        let visitors = Arc::default();
        let seats: Vec<_> = (0..MAX_PER_USER).filter_map(|_| Seat::take(&visitors, 1000)).collect();
        assert_eq!(seats.len(), MAX_PER_USER);
        assert!(Seat::take(&visitors, 1000).is_none());
        assert!(Seat::take(&visitors, 1001).is_some(), "another user is not touched");
        drop(seats);
        assert!(Seat::take(&visitors, 1000).is_some());
    }
}
