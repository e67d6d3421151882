//! Cut or lost? A tunnel that gets no answer for 2 s is either cut (the network is away: wait, the idle time decides) or
//! lost (the proxy is gone: its flows must hear of it soon). A TCP connect to the same port tells: refused twice, a
//! second apart, means that the machine is there and the proxy is not.
//!
//! ```text
//!            nothing received          asked, and nothing          refused twice
//!            for QUIET: ask            received for UNANSWERED     a second apart
//!  answering ---------------> asked -----------------------> silent -------------> lost: closed
//!      ^                        | anything received             | anything received
//!      +------------------------+-------------------------------+
//! ```
//!
//! A program that only reads sends nothing, so a proxy that is killed, or killed and started again, would be noticed at
//! the next keep-alive alone, 15 s apart. So while somebody uses the tunnel and nothing is heard on it, the proxy is
//! asked for a sign of life. A tunnel that nobody uses is left alone: no timer runs for it.

use std::cell::Cell;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use portlatch_protocol::stream::close;
use quinn::{Connection, VarInt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::credentials::TUNNEL_WINDOW;

/// How often a tunnel in use is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// Silence after which a sign of life is asked for. With a look before it, [`UNANSWERED`] and [`BETWEEN_PROBES`] behind it,
/// flows hear of a proxy's end within 4.5 s of it (design section 11: 5 s).
const QUIET: Duration = Duration::from_secs(1);
/// How long the proxy may leave us without an answer before it is called silent (design section 11: 2 s).
const UNANSWERED: Duration = Duration::from_secs(2);
/// A refusal comes within a round trip; silence is no refusal.
const PROBE_DEADLINE: Duration = Duration::from_secs(1);
/// Between the two refusals that mean that the proxy is gone: a service manager may just be starting it again.
const BETWEEN_PROBES: Duration = Duration::from_secs(1);

/// A tunnel on which so many flows were open at once is closed when it has been unused for [`UNUSED`], and the next flow
/// dials anew: quinn keeps the room of every stream that a connection has ever had at once. Of 10,000 flows, 2.5 MB here
/// and 3 MB at the proxy stayed for as long as the login.
pub(super) const CROWD: usize = 1024;
pub(super) const UNUSED: Duration = Duration::from_secs(10);

/// How a tunnel stands, for those who use it or would.
#[derive(Debug, Default)]
pub(super) struct Health {
    users: Cell<usize>,
    most_users: Cell<usize>,
    is_silent: Cell<bool>,
    is_retired: Cell<bool>,
    changed: Notify,
}

/// A use of a tunnel, from an `Open` to the end of its session; given back when dropped.
#[derive(Debug)]
pub(crate) struct InUse(Rc<Health>);

impl Health {
    /// Somebody uses the tunnel from now on.
    pub(super) fn enter(self: &Rc<Self>) -> InUse {
        let before = self.users.replace(self.users.get() + 1);
        self.most_users.set(self.most_users.get().max(before + 1));
        // Each flow that opens waits for a change too: no more of them than matter.
        if before == 0 {
            self.changed.notify_waiters();
        }
        InUse(Rc::clone(self))
    }

    /// Whether the proxy leaves us without an answer.
    pub(super) const fn is_silent(&self) -> bool {
        self.is_silent.get()
    }

    /// Another tunnel to the same proxy has taken its place: it ends with its last use.
    pub(super) fn retire(&self) {
        self.is_retired.set(true);
        self.changed.notify_waiters();
    }

    /// Returns once the proxy leaves us without an answer.
    pub(super) async fn falls_silent(&self) {
        self.becomes(|health| health.is_silent.get()).await;
    }

    /// Returns once the proxy has been heard of.
    pub(super) async fn answers(&self) {
        self.becomes(|health| !health.is_silent.get()).await;
    }

    fn set_silent(&self, is_silent: Silent) {
        let was = self.is_silent.replace(is_silent == Silent::Yes);
        if was != self.is_silent.get() {
            self.changed.notify_waiters();
        }
    }

    fn is_needed(&self) -> bool {
        self.users.get() > 0
    }

    fn is_over(&self) -> bool {
        self.is_retired.get() && !self.is_needed()
    }

    /// Waits for the next use of a tunnel that nobody uses. False: it is not to be used again.
    async fn is_used_again(&self) -> bool {
        let used = self.becomes(|health| health.is_needed() || health.is_over());
        if self.most_users.get() < CROWD {
            used.await;
        } else if tokio::time::timeout(UNUSED, used).await.is_err() {
            return false;
        }
        !self.is_over()
    }

    async fn becomes(&self, is_so: impl Fn(&Self) -> bool) {
        while !is_so(self) {
            self.changed.notified().await;
        }
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let left = self.0.users.get().saturating_sub(1);
        self.0.users.set(left);
        if left == 0 {
            self.0.changed.notify_waiters();
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Silent {
    Yes,
    No,
}

/// Returns when the tunnel is down; closes it if its proxy is lost, or if it is retired and nobody uses it any more.
pub(super) async fn watch(connection: &Connection, health: &Health) {
    let watched = async {
        loop {
            if !health.is_used_again().await {
                return connection.close(VarInt::from_u32(close::DETACHED), b"not needed any more");
            }
            if watch_use(connection, health).await == Found::Lost {
                tracing::info!("the proxy is gone: its tunnel is closed");
                return connection.close(VarInt::from_u32(close::STOPPED), b"the proxy is gone");
            }
        }
    };
    tokio::select! {
        _ = connection.closed() => {}
        () = watched => {}
    }
    // Who waits for an answer is told by the connection itself.
    health.set_silent(Silent::No);
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    Unused,
    Lost,
}

/// Looks at the tunnel while somebody uses it.
async fn watch_use(connection: &Connection, health: &Health) -> Found {
    let mut silence = Silence::new(Seen::of(connection), Instant::now());
    let mut signs = Signs(TUNNEL_WINDOW);
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = health.becomes(|health| !health.is_needed()) => return Found::Unused,
        }
        match silence.handle_look(Seen::of(connection), Instant::now()) {
            Verdict::Heard => health.set_silent(Silent::No),
            Verdict::Quiet | Verdict::Asked => {}
            Verdict::Ask => signs.ask(connection),
            Verdict::Silent => {
                health.set_silent(Silent::Yes);
                // In a cut the question is what finds out that it is over: QUIC's own next try is up to as far away as
                // the cut has been long.
                signs.ask(connection);
                if is_lost(remote_of(connection), refuses).await {
                    match silence.handle_look(Seen::of(connection), Instant::now()) {
                        Verdict::Silent => return Found::Lost,
                        // It answered after all, while it was asked for.
                        Verdict::Heard => health.set_silent(Silent::No),
                        Verdict::Quiet | Verdict::Ask | Verdict::Asked => {}
                    }
                }
            }
        }
    }
}

/// Asks for signs of life. QUIC's PING is not for its users to send; the frame that says that a window has grown, here by
/// one byte, must be acknowledged as well. A datagram each way, of some 40 bytes.
#[derive(Debug)]
struct Signs(u64);

impl Signs {
    fn ask(&mut self, connection: &Connection) {
        self.0 += 1;
        connection.set_receive_window(VarInt::from_u64(self.0).unwrap_or(VarInt::MAX));
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

/// What has become of what was sent, look by look. What was sent last may be an acknowledgement, which nobody answers:
/// only after a question does silence mean something.
#[derive(Debug)]
struct Silence {
    last: Seen,
    quiet_since: Instant,
    asked: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Something was received.
    Heard,
    /// Nothing was, and nothing is to be expected yet.
    Quiet,
    /// A sign of life is to be asked for.
    Ask,
    /// It was, and its time is not over.
    Asked,
    /// The time is over.
    Silent,
}

impl Silence {
    const fn new(seen: Seen, now: Instant) -> Self {
        Self { last: seen, quiet_since: now, asked: None }
    }

    fn handle_look(&mut self, seen: Seen, now: Instant) -> Verdict {
        let last = std::mem::replace(&mut self.last, seen);
        if seen.received != last.received {
            (self.quiet_since, self.asked) = (now, None);
            return Verdict::Heard;
        }
        let was_sent = seen.sent != last.sent;
        match self.asked {
            None if was_sent || now - self.quiet_since >= QUIET => {
                self.asked = Some(now);
                Verdict::Ask
            }
            None => Verdict::Quiet,
            Some(asked) if now - asked >= UNANSWERED => Verdict::Silent,
            Some(_) => Verdict::Asked,
        }
    }
}

fn remote_of(connection: &Connection) -> SocketAddr {
    let remote = connection.remote_address();
    SocketAddr::new(remote.ip().to_canonical(), remote.port())
}

async fn is_lost<F: Future<Output = bool>>(proxy: SocketAddr, refuses: impl Fn(SocketAddr) -> F) -> bool {
    if !refuses(proxy).await {
        return false;
    }
    tokio::time::sleep(BETWEEN_PROBES).await;
    refuses(proxy).await
}

async fn refuses(proxy: SocketAddr) -> bool {
    let probe = tokio::time::timeout(PROBE_DEADLINE, TcpStream::connect(proxy)).await;
    matches!(probe, Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the last of these looks, half a second apart, finds: datagrams sent and received until then.
    fn verdict_after(looks: &[(u64, u64)]) -> Verdict {
        let begin = Instant::now();
        let mut silence = Silence::new(Seen { sent: 0, received: 0 }, begin);
        let at = (1..).map(|number| begin + LOOK * number);
        let verdicts = looks
            .iter()
            .zip(at)
            .map(|(&(sent, received), now)| silence.handle_look(Seen { sent, received }, now));
        verdicts.last().expect("a look")
    }

    #[test]
    fn a_tunnel_on_which_bytes_come_is_asked_nothing() {
        let looks: Vec<_> = (1..100).map(|number| (number, number)).collect();
        assert_eq!(verdict_after(&looks), Verdict::Heard);
    }

    #[test]
    fn a_quiet_tunnel_is_asked_after_a_second_and_again_once_it_has_answered() {
        assert_eq!(verdict_after(&[(0, 0)]), Verdict::Quiet);
        assert_eq!(verdict_after(&[(0, 0), (0, 0)]), Verdict::Ask);
        assert_eq!(verdict_after(&[(0, 0), (0, 0), (1, 1), (1, 1)]), Verdict::Quiet);
        assert_eq!(verdict_after(&[(0, 0), (0, 0), (1, 1), (1, 1), (1, 1)]), Verdict::Ask);
    }

    #[test]
    fn what_is_sent_without_an_answer_is_asked_about_at_the_next_look() {
        assert_eq!(verdict_after(&[(1, 1), (2, 1)]), Verdict::Ask);
    }

    #[test]
    fn two_seconds_without_an_answer_to_a_question_are_silence() {
        let asked = [(1, 0), (2, 0), (2, 0), (3, 0)];
        assert_eq!(verdict_after(&asked), Verdict::Asked);
        assert_eq!(verdict_after(&[&asked[..], &[(3, 0)]].concat()), Verdict::Silent);
        assert_eq!(verdict_after(&[&asked[..], &[(3, 0), (3, 0)]].concat()), Verdict::Silent);
    }

    #[test]
    fn an_answer_ends_the_silence() {
        let silent = [(1, 0), (2, 0), (2, 0), (3, 0), (3, 0)];
        assert_eq!(verdict_after(&[&silent[..], &[(3, 1)]].concat()), Verdict::Heard);
    }

    #[tokio::test(start_paused = true)]
    async fn a_proxy_is_lost_after_two_refusals_and_not_after_one() {
        let proxy: SocketAddr = "192.0.2.1:443".parse().unwrap();
        for (answers, lost) in [([true, true], true), ([true, false], false), ([false, true], false)] {
            let asked = Cell::new(0);
            let refuses = |_| {
                let answer = answers[asked.replace(asked.get() + 1)];
                async move { answer }
            };
            let begin = Instant::now();
            assert_eq!(is_lost(proxy, refuses).await, lost, "{answers:?}");
            assert!(!lost || begin.elapsed() >= BETWEEN_PROBES);
        }
    }
}
