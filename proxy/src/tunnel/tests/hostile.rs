//! Peers that mean harm, with good certificates and without, against the real endpoint: what they hold is bounded and
//! ends at its deadline, and another user's flow goes on meanwhile.
//!
//! The peers live in the same process as the proxy, so what is measured of its memory is both sides' together.

mod fragments;
mod handshakes;
mod noise;
mod storms;
mod streams;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use portlatch_protocol::identity::{Login, Subject};
use portlatch_protocol::stream::Answer;
use quinn::{RecvStream, SendStream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::budget::Budget;
use crate::proxy::fixture::login;
use crate::proxy::fixture::network::{Client, Network, PATIENCE};

/// An answer of one byte that takes longer than this, beside whatever peer, is no service. Alone it takes a millisecond;
/// this is for a machine that is busy with other things and stands still at times.
const SANE: Duration = Duration::from_secs(2);
/// Answers beside an attack of which one in twenty may be late: of fewer, one would be more than that.
const SAMPLES: usize = 100;
/// Victims, so that every lane of the port has some.
const VICTIMS: usize = 4;
/// A storm's length, and the longer one with `PORTLATCH_NIGHTLY=1`.
const STORM: [usize; 2] = [100_000, 1_000_000];
/// What both sides together may hold for good, or for as long as a storm lasts: some thousand streams, and what an
/// allocator keeps.
const HELD: u64 = 128 * 1024 * 1024;

fn storm() -> usize {
    STORM[usize::from(std::env::var_os("PORTLATCH_NIGHTLY").is_some_and(|value| value == "1"))]
}

/// Resident memory of this process, in bytes.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// A proxy whose target does what the first byte of a connection says, and the flows of somebody who does no harm.
async fn scene() -> (Network, Victims) {
    scene_within(Budget::default()).await
}

async fn scene_within(budget: Budget) -> (Network, Victims) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let network = Network::with_budget(listener.local_addr().unwrap(), budget).await;
    let target = AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(target(stream));
        }
    }));
    let mut flows = Vec::new();
    for _ in 0..VICTIMS {
        flows.push(Victim::new(&network).await);
    }
    (network, Victims { flows, _target: target })
}

/// Another user's flows.
struct Victims {
    flows: Vec<Victim>,
    _target: AbortOnDropHandle<()>,
}

struct Victim {
    _client: Client,
    send: SendStream,
    receive: RecvStream,
}

impl Victims {
    /// Has the victims ask for answers while `attack` goes on: nearly all of them must be sane.
    async fn beside<T>(&mut self, attack: impl Future<Output = T>) -> T {
        let mut waits = Vec::new();
        tokio::pin!(attack);
        let done = loop {
            let turn = waits.len() % VICTIMS;
            tokio::select! {
                done = &mut attack => break done,
                wait = self.flows[turn].ask() => waits.push(wait),
            }
        };
        // A question that was interrupted may still be on its way.
        for victim in &mut self.flows {
            victim.settle().await;
        }
        while waits.len() < SAMPLES {
            let turn = waits.len() % VICTIMS;
            waits.push(self.flows[turn].ask().await);
        }
        waits.sort();
        let late = waits[waits.len() * 95 / 100];
        assert!(late < SANE, "of {} answers one in twenty took over {late:?}", waits.len());
        done
    }
}

impl Victim {
    async fn new(network: &Network) -> Self {
        let client = network.connect(network.ca.leaf(Subject::Tunnel(tom()))).await.expect("a tunnel");
        let open = network.open(&client, |claims| {
            let Login { user, login, device } = tom();
            (claims.sub, claims.login, claims.device) = (user, login, device);
        });
        let (mut send, receive, answer) = client.open(&open).await;
        assert_eq!(answer, Answer::Opened);
        send.write_all(b"E").await.unwrap();
        let mut victim = Self { _client: client, send, receive };
        victim.settle().await;
        victim
    }

    /// One byte to the target and back, and a rest.
    async fn ask(&mut self) -> Duration {
        let begin = Instant::now();
        self.send.write_all(b"x").await.unwrap();
        let mut answer = [0];
        timeout(PATIENCE, self.receive.read_exact(&mut answer)).await.expect("an answer").unwrap();
        let took = begin.elapsed();
        tokio::time::sleep(Duration::from_millis(5)).await;
        took
    }

    /// Reads until the last byte that was asked for is back: an interrupted question may still be on its way.
    async fn settle(&mut self) {
        self.send.write_all(b".").await.unwrap();
        let mut answer = [0];
        while answer != *b"." {
            timeout(PATIENCE, self.receive.read_exact(&mut answer)).await.expect("an answer").unwrap();
        }
    }
}

/// The user who does no harm.
fn tom() -> Login {
    Login { user: "tom".parse().unwrap(), login: "0f".parse().unwrap(), ..login() }
}

/// E: sends back what it gets. S: sends without end. Anything else: reads, and says nothing.
async fn target(mut stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    let mut buffer = vec![0; 64 * 1024];
    let Ok(kind) = stream.read_u8().await else { return };
    loop {
        let moved = match kind {
            b'S' => stream.write(&buffer).await,
            _ => stream.read(&mut buffer).await,
        };
        match moved {
            Ok(0) | Err(_) => return,
            Ok(count) if kind == b'E' => {
                if stream.write_all(&buffer[..count]).await.is_err() {
                    return;
                }
            }
            Ok(_) => {}
        }
    }
}

/// A loopback address of its own for each number: to a port, a peer from elsewhere.
fn elsewhere(number: usize) -> SocketAddr {
    let [_, _, high, low] = u32::try_from(number + 2).unwrap().to_be_bytes();
    SocketAddr::from(([127, 1, high, low], 0))
}
