//! One tunnel: a connection whose certificate says whose it is, and the streams that come by it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;

use portlatch_carrier::turns::Turns;
use portlatch_protocol::identity::{Identity, Login, Subject};
use portlatch_protocol::stream::close;
use portlatch_protocol::thumbprint::Thumbprint;
use quinn::{Connection, VarInt};
use rustls::pki_types::CertificateDer;
use tokio::task::JoinSet;

use crate::endpoint::transport::SEND_WINDOW;
use crate::grant::{GrantFault, KnownGrants, TunnelIdentity};
use crate::proxy::Proxy;
use crate::record::Denial;
use crate::session;
use crate::sessions::LiveTunnel;

/// Streams that a tunnel may have open before its first session. quinn makes room for every stream at once, 70 bytes
/// each: with 2,048 a handshake that came to nothing held 190 KB here, with these 28 KB.
pub const FIRST_STREAMS: u32 = 64;
/// Streams that a tunnel may have open from its first session on: the default limit of connections, and as many again
/// that are being refused or ended.
pub const USUAL_STREAMS: u32 = 2048;
/// Streams that a tunnel may have with the widest role: half a kilobyte each in quinn's tables.
const MAX_STREAMS: u32 = 32_768;

/// One tunnel, as its sessions see it.
#[derive(Debug)]
pub struct Tunnel {
    /// Who is at the other end.
    pub identity: TunnelIdentity,
    /// What it runs on.
    pub connection: Connection,
    /// In which order its sessions send.
    pub turns: Turns,
    /// The grants that have come by it.
    pub grants: KnownGrants,
    streams: AtomicU32,
    has_given_up: AtomicBool,
}

impl Tunnel {
    /// Marks that nothing more is expected of this tunnel; true the first time alone.
    pub fn gives_up(&self) -> bool {
        !self.has_given_up.swap(true, Ordering::Relaxed)
    }

    /// Where the other end is now.
    pub fn client(&self) -> SocketAddr {
        let address = self.connection.remote_address();
        SocketAddr::new(address.ip().to_canonical(), address.port())
    }

    /// Gives the tunnel as much credit for streams as a grant's limit of connections asks for.
    pub fn allow_streams(&self, connections: u32) {
        let wanted = connections.saturating_add(USUAL_STREAMS / 2).min(MAX_STREAMS);
        if self.streams.fetch_max(wanted, Ordering::Relaxed) < wanted {
            self.connection.set_max_concurrent_bi_streams(VarInt::from_u32(wanted));
        }
    }
}

/// Serves a tunnel until it ends.
pub async fn serve(proxy: Arc<Proxy>, connection: Connection) {
    let Some(identity) = identity_of(&connection) else {
        return connection.close(close::PROTOCOL.into(), b"not a tunnel");
    };
    let login = identity.login.clone();
    let Ok(_place) = proxy.limits.tunnel(&login.user) else {
        connection.close(close::LIMIT.into(), b"too many tunnels");
        return turned_away(&proxy, connection.remote_address(), Some(&login), "limit").await;
    };
    let live = LiveTunnel { login: login.clone(), connection: connection.clone() };
    let _entry = proxy.sessions.add_tunnel(live);
    // After the tunnel is in the table, so that no lock can pass between look and entry.
    if let Some(objection) = proxy.view.tunnel_objection(&login) {
        connection.close(close::LOCKED.into(), b"locked or gone");
        let reason = GrantFault::from(objection).to_string();
        return turned_away(&proxy, connection.remote_address(), Some(&login), &reason).await;
    }
    tracing::debug!(user = %login.user, login = %login.login, "tunnel up");
    let streams = AtomicU32::new(FIRST_STREAMS);
    let (turns, grants) = (Turns::new(connection.clone(), SEND_WINDOW), KnownGrants::default());
    let has_given_up = AtomicBool::new(false);
    let tunnel = Tunnel { identity, connection, turns, grants, streams, has_given_up };
    serve_streams(&proxy, Arc::new(tunnel)).await;
    tracing::debug!(login = %login.login, "tunnel down");
}

/// Puts on the record that a tunnel was refused, unless that many were of late that the record would be filled by it.
pub async fn turned_away(proxy: &Proxy, address: SocketAddr, login: Option<&Login>, reason: &str) {
    if proxy.limits.turned_away(Instant::now()).is_err() {
        return tracing::debug!(%address, reason, "a tunnel was refused");
    }
    let client = SocketAddr::new(address.ip().to_canonical(), address.port());
    let detail = Some("no tunnel".to_owned());
    proxy.recorder.denied(Denial { login, client, open: None, reason, detail }).await;
}

async fn serve_streams(proxy: &Arc<Proxy>, tunnel: Arc<Tunnel>) {
    let mut sessions = JoinSet::new();
    loop {
        if proxy.stop.is_draining() && sessions.is_empty() {
            tunnel.connection.close(close::STOPPED.into(), b"stopped");
            break;
        }
        tokio::select! {
            stream = tunnel.connection.accept_bi() => match stream {
                Ok((send, receive)) => {
                    let story = session::run(Arc::clone(proxy), Arc::clone(&tunnel), send, receive);
                    sessions.spawn(story);
                }
                Err(_) => break,
            },
            Some(ended) = sessions.join_next() => if let Err(error) = ended {
                tracing::error!(%error, "a session broke");
            },
            () = proxy.stop.draining.cancelled(), if !proxy.stop.is_draining() => {}
            () = proxy.stop.ended.cancelled() => break,
        }
    }
    proxy_ended(proxy, &tunnel, sessions).await;
}

/// The tunnel is gone or the proxy ends: sessions see it by themselves, and write their ends.
async fn proxy_ended(proxy: &Proxy, tunnel: &Tunnel, mut sessions: JoinSet<()>) {
    while let Some(ended) = sessions.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a session broke");
        }
    }
    if proxy.stop.ended.is_cancelled() {
        tunnel.connection.close(close::STOPPED.into(), b"stopped");
    }
}

/// Whom the verified certificate speaks for. The verifier has let only tunnels' certificates pass.
fn identity_of(connection: &Connection) -> Option<TunnelIdentity> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    let leaf = chain.first()?;
    let Subject::Tunnel(login) = Identity::from_certificate(leaf).ok()?.subject else { return None };
    Some(TunnelIdentity { login, key: Thumbprint::of_certificate(leaf)? })
}

#[cfg(test)]
mod tests;
