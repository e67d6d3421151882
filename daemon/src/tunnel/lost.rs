//! Cut or lost? A tunnel that gets no answer for 2 s is either cut (the network is away: wait, the idle time decides) or
//! lost (the proxy is gone: its flows must hear of it soon). A TCP connect to the same port tells: refused twice, a
//! second apart, means that the machine is there and the proxy is not.

use std::net::SocketAddr;
use std::time::Duration;

use quinn::{Connection, VarInt};
use tokio::net::TcpStream;

use portlatch_protocol::stream::close;

/// How often a tunnel is looked at; two looks without an answer make the 2 s of design section 11.
const LOOK: Duration = Duration::from_secs(1);
/// A refusal comes within a round trip; silence is no refusal.
const PROBE_DEADLINE: Duration = Duration::from_secs(1);

/// Returns when the tunnel is down; closes it if its proxy is lost.
pub(super) async fn watch(connection: &Connection) {
    let mut unanswered = 0_u32;
    let mut last = Seen::of(connection);
    loop {
        tokio::select! {
            _ = connection.closed() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let seen = Seen::of(connection);
        let (sent, received) = (seen.sent != last.sent, seen.received != last.received);
        last = seen;
        unanswered = match (sent, received) {
            (_, true) => 0,
            (true, false) => unanswered + 1,
            (false, false) if unanswered > 0 => unanswered + 1,
            (false, false) => 0,
        };
        if unanswered >= 2 && is_lost(remote_of(connection)).await {
            tracing::info!("the proxy is gone: its tunnel is closed");
            return connection.close(VarInt::from_u32(close::STOPPED), b"the proxy is gone");
        }
    }
}

/// How many datagrams went out and came in.
#[derive(Clone, Copy)]
struct Seen {
    sent: u64,
    received: u64,
}

impl Seen {
    fn of(connection: &Connection) -> Self {
        let stats = connection.stats();
        Self { sent: stats.udp_tx.datagrams, received: stats.udp_rx.datagrams }
    }
}

fn remote_of(connection: &Connection) -> SocketAddr {
    let remote = connection.remote_address();
    SocketAddr::new(remote.ip().to_canonical(), remote.port())
}

async fn is_lost(proxy: SocketAddr) -> bool {
    if !refuses(proxy).await {
        return false;
    }
    tokio::time::sleep(LOOK).await;
    refuses(proxy).await
}

async fn refuses(proxy: SocketAddr) -> bool {
    let probe = tokio::time::timeout(PROBE_DEADLINE, TcpStream::connect(proxy)).await;
    matches!(probe, Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused)
}
