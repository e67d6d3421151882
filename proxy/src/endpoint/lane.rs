//! A lane: one thread with an executor and a socket of its own, and the tunnels that come by it.
//!
//! On an executor of several threads a stream's bytes would be handed from thread to thread, and each hand-over wakes
//! somebody: at 1,900 new connections a second that was 10 futex calls and 13 context switches each.
//!
//! The loop that takes connections never waits for one: each handshake is a task of its own with a deadline, so a peer
//! that withholds its certificate keeps nobody waiting but itself.

use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use portlatch_carrier::port::Port;
use portlatch_protocol::stream::close;
use quinn::{ConnectionError, Endpoint, EndpointConfig, Incoming, ServerConfig, TokioRuntime};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::admission::{HANDSHAKE_DEADLINE, Handshakes, Underway};
use crate::proxy::Proxy;
use crate::tunnel;

/// Tunnels at once, of all users and on all lanes together.
pub(super) const MAX_TUNNELS: usize = 16_384;
/// How long peers have to hear that the endpoint has closed.
const GOODBYE: Duration = Duration::from_secs(1);

/// A lane that is not served yet.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) number: usize,
    pub(super) socket: UdpSocket,
    pub(super) endpoint: EndpointConfig,
    pub(super) server: ServerConfig,
}

impl Lane {
    /// Serves the lane on a thread of its own; returns once it has ended.
    pub(super) async fn start(self, proxy: Arc<Proxy>, handshakes: Handshakes, most_tunnels: usize) {
        let (on_thread, ended) = oneshot::channel::<()>();
        let name = format!("lane-{}", self.number);
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            // Dropped at the end, whatever ends it.
            let _on_thread = on_thread;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let served =
                runtime.and_then(|runtime| runtime.block_on(self.serve(proxy, handshakes, most_tunnels)));
            if let Err(error) = served {
                tracing::error!(%error, "a lane cannot be served");
            }
        });
        match thread {
            Ok(_) => drop(ended.await),
            Err(error) => tracing::error!(%error, "a lane has no thread"),
        }
    }

    /// Serves the lane on the executor that this is called on, until the proxy has ended.
    pub(super) async fn serve(
        self,
        proxy: Arc<Proxy>,
        handshakes: Handshakes,
        most_tunnels: usize,
    ) -> io::Result<()> {
        let Self { socket, endpoint, server, .. } = self;
        let port = Port::new(socket)?;
        let runtime = Arc::new(TokioRuntime);
        let endpoint = Endpoint::new_with_abstract_socket(endpoint, Some(server), port, runtime)?;
        accept(proxy, endpoint, handshakes, most_tunnels).await;
        Ok(())
    }
}

/// Takes connections until the proxy has ended.
async fn accept(proxy: Arc<Proxy>, endpoint: Endpoint, handshakes: Handshakes, most_tunnels: usize) {
    let mut tunnels = JoinSet::new();
    loop {
        tokio::select! {
            incoming = endpoint.accept() => match incoming {
                // Whoever comes now hears at once that there is nobody.
                Some(incoming) if proxy.stop.is_draining() => incoming.refuse(),
                Some(incoming) if endpoint.open_connections() >= most_tunnels => incoming.refuse(),
                Some(incoming) => take(&proxy, incoming, &handshakes, &mut tunnels),
                None => break,
            },
            Some(ended) = tunnels.join_next() => if let Err(error) = ended {
                tracing::error!(%error, "a tunnel broke");
            },
            () = proxy.stop.ended.cancelled() => break,
        }
    }
    while tunnels.join_next().await.is_some() {}
    endpoint.close(close::STOPPED.into(), b"stopped");
    // Nobody to say goodbye to must not keep the process.
    let _ = timeout(GOODBYE, endpoint.wait_idle()).await;
}

/// Sorts a connection attempt: taken, asked to show its address, or refused. Waits for nothing.
fn take(proxy: &Arc<Proxy>, incoming: Incoming, handshakes: &Handshakes, tunnels: &mut JoinSet<()>) {
    if handshakes.are_many() && !incoming.remote_address_validated() {
        // It may retry exactly because it is not validated.
        let _ = incoming.retry();
        return;
    }
    let underway = handshakes.begin(incoming.remote_address().ip());
    tunnels.spawn(handshake(Arc::clone(proxy), incoming, underway));
}

async fn handshake(proxy: Arc<Proxy>, incoming: Incoming, underway: Underway) {
    let address = incoming.remote_address();
    let Ok(connecting) = incoming.accept() else { return };
    let handshake = tokio::select! {
        handshake = timeout(HANDSHAKE_DEADLINE, connecting) => handshake,
        () = underway.gives_way() => return tracing::debug!(%address, "no tunnel: too many handshakes under way"),
        () = proxy.stop.ended.cancelled() => return,
    };
    drop(underway);
    match handshake {
        Ok(Ok(connection)) => tunnel::serve(proxy, connection).await,
        Ok(Err(error)) => {
            tracing::debug!(%error, %address, "no tunnel");
            if is_about_the_certificate(&error) {
                tunnel::turned_away(&proxy, address, None, "certificate").await;
            }
        }
        Err(_) => tracing::debug!(%address, "no tunnel: the handshake took too long"),
    }
}

/// Whether we ended the handshake because the peer's certificate is none of a tunnel: by RFC 9001 section 4.8 a TLS alert
/// is an error code of its own.
fn is_about_the_certificate(error: &ConnectionError) -> bool {
    let ConnectionError::TransportError(error) = error else { return false };
    CERTIFICATE_ALERTS.contains(&(u64::from(error.code)))
}

/// The alerts of RFC 8446 section 6.2 from bad_certificate (42) to certificate_unknown (46), unknown_ca (48), access_denied (49) and certificate_required (116), each as a QUIC error.
const CERTIFICATE_ALERTS: [u64; 8] = [0x12a, 0x12b, 0x12c, 0x12d, 0x12e, 0x130, 0x131, 0x174];
