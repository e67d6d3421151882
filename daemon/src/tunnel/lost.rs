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

/// Looks in a row without an answer after which a tunnel is suspected (design section 11: 2 s).
const SUSPICIOUS: u32 = 2;

/// Returns when the tunnel is down; closes it if its proxy is lost.
pub(super) async fn watch(connection: &Connection) {
    let mut silence = Silence::new(Seen::of(connection));
    loop {
        tokio::select! {
            _ = connection.closed() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        silence.handle_look(Seen::of(connection));
        if !silence.is_suspicious() {
            continue;
        }
        if is_lost(remote_of(connection)).await {
            tracing::info!("the proxy is gone: its tunnel is closed");
            return connection.close(VarInt::from_u32(close::STOPPED), b"the proxy is gone");
        }
        silence = Silence::new(Seen::of(connection));
    }
}

/// How many datagrams went out and came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// How many looks found something sent since something was last received. What is not answered is sent again, so two of
/// them follow each other soon; a last acknowledgement, which nobody answers, is one look and no more.
#[derive(Debug)]
struct Silence {
    last: Seen,
    looks: u32,
}

impl Silence {
    const fn new(seen: Seen) -> Self {
        Self { last: seen, looks: 0 }
    }

    const fn handle_look(&mut self, seen: Seen) {
        let (was_sent, was_answered) = (seen.sent != self.last.sent, seen.received != self.last.received);
        self.last = seen;
        self.looks = match (was_answered, was_sent) {
            (true, _) => 0,
            (false, true) => self.looks + 1,
            (false, false) => self.looks,
        };
    }

    const fn is_suspicious(&self) -> bool {
        self.looks >= SUSPICIOUS
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

#[cfg(test)]
mod tests {
    use super::*;

    fn silence_after(looks: &[(u64, u64)]) -> Silence {
        let mut silence = Silence::new(Seen { sent: 0, received: 0 });
        looks
            .iter()
            .for_each(|(sent, received)| silence.handle_look(Seen { sent: *sent, received: *received }));
        silence
    }

    #[test]
    fn a_tunnel_on_which_nothing_was_sent_is_never_suspected() {
        assert!(!silence_after(&[(0, 0); 100]).is_suspicious());
    }

    #[test]
    fn what_is_sent_again_and_again_without_an_answer_is_suspicious() {
        assert!(!silence_after(&[(1, 0)]).is_suspicious());
        assert!(silence_after(&[(1, 0), (2, 0)]).is_suspicious());
        assert!(silence_after(&[(1, 0), (1, 0), (2, 0)]).is_suspicious());
    }

    #[test]
    fn a_last_acknowledgement_is_not_suspicious_however_long_nothing_follows() {
        assert!(!silence_after(&[(1, 0); 100]).is_suspicious());
    }

    #[test]
    fn an_answer_ends_the_suspicion() {
        assert!(!silence_after(&[(1, 0), (2, 0), (3, 1)]).is_suspicious());
        assert!(!silence_after(&[(1, 0), (2, 1), (3, 1)]).is_suspicious());
    }
}
