//! Peers that begin a handshake and withhold the rest, from one address and from many, or show what is no certificate.

use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use portlatch_protocol::identity::Subject;
use portlatch_protocol::stream::Answer;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{
    AsyncUdpSocket, Connecting, ConnectionError, Endpoint, EndpointConfig, Runtime as _, TokioRuntime,
    UdpPoller,
};
use tokio::time::timeout;

use super::{HELD, elsewhere, memory, scene};
use crate::admission::HANDSHAKE_DEADLINE;
use crate::proxy::fixture::login;
use crate::proxy::fixture::network::{Network, PATIENCE, client_config};

/// A newcomer who is not through by then finds nobody (design section 4 has 5 s for all of it).
const NEWCOMER: Duration = Duration::from_secs(3);

/// A socket that lets nothing out behind the ClientHello: the certificate and all that follows are withheld.
#[derive(Debug)]
struct Withholding {
    socket: Arc<dyn AsyncUdpSocket>,
    ears: Ears,
    relents: Arc<AtomicBool>,
}

/// What a peer that withholds listens to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ears {
    /// Everything, so that it hears when it is turned away.
    Open,
    /// Only that it must try again to show its address: it costs next to nothing to be a crowd of these.
    Shut,
}

impl AsyncUdpSocket for Withholding {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.socket).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> std::io::Result<()> {
        let size = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        match self.relents.load(Ordering::Relaxed) || transmit.contents.chunks(size).all(is_hello) {
            true => self.socket.try_send(transmit),
            false => Ok(()),
        }
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [std::io::IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<std::io::Result<usize>> {
        let polled = self.socket.poll_recv(context, buffers, meta);
        if let (Poll::Ready(Ok(count)), Ears::Shut) = (&polled, self.ears) {
            for (buffer, meta) in buffers.iter().zip(meta).take(*count) {
                // RFC 9000 section 17.2.5: what is no Retry is as good as lost.
                if buffer[0] & 0xf0 != 0xf0 {
                    meta.len = 0;
                }
            }
        }
        polled
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

/// Whether a datagram is of Initial packets alone (RFC 9000 sections 17.2 and 17.2.2).
fn is_hello(mut datagram: &[u8]) -> bool {
    const LONG_INITIAL: u8 = 0xc0;
    while let Some(first) = datagram.first() {
        // What pads a datagram behind its last packet is inside of it; nothing else follows.
        if first & 0xf0 != LONG_INITIAL {
            return false;
        }
        let Some(length) = initial_length(datagram) else { return false };
        datagram = datagram.get(length..).unwrap_or_default();
    }
    true
}

fn initial_length(packet: &[u8]) -> Option<usize> {
    let mut at = 5;
    for _ in 0..2 {
        at += 1 + usize::from(*packet.get(at)?);
    }
    let (token, size) = varint(packet.get(at..)?)?;
    at += size + token;
    let (length, size) = varint(packet.get(at..)?)?;
    Some(at + size + length)
}

/// A number as QUIC writes it, and how many bytes that takes.
fn varint(bytes: &[u8]) -> Option<(usize, usize)> {
    let size = 1 << (bytes.first()? >> 6);
    let number = bytes.get(..size)?.iter().fold(0_usize, |number, byte| number << 8 | usize::from(*byte));
    Some((number & !(3 << (8 * size - 2)), size))
}

/// An endpoint at this address that withholds, until it is told to relent.
fn withholding(address: SocketAddr, ears: Ears) -> (Endpoint, Arc<AtomicBool>) {
    let socket = TokioRuntime.wrap_udp_socket(UdpSocket::bind(address).unwrap()).unwrap();
    let relents = Arc::new(AtomicBool::new(false));
    let socket = Arc::new(Withholding { socket, ears, relents: Arc::clone(&relents) });
    let config = EndpointConfig::default();
    let endpoint = Endpoint::new_with_abstract_socket(config, None, socket, Arc::new(TokioRuntime));
    (endpoint.unwrap(), relents)
}

/// A crowd's handshakes, which it withholds for as long as this lives.
fn crowd(network: &Network, addresses: usize, each: usize) -> Vec<(Endpoint, Vec<Connecting>)> {
    let leaf = network.ca.leaf(Subject::Tunnel(login()));
    let config = client_config(&network.ca, leaf.chain.clone(), leaf.key());
    let of_one = |number| {
        let (endpoint, _) = withholding(elsewhere(number), Ears::Shut);
        let connect = |_| endpoint.connect_with(config.clone(), network.address, "p1").unwrap();
        let handshakes = (0..each).map(connect).collect();
        (endpoint, handshakes)
    };
    (0..addresses).map(of_one).collect()
}

/// A newcomer from this address comes through.
async fn assert_comes_through(network: &Network, from: SocketAddr) {
    let leaf = network.ca.leaf(Subject::Tunnel(login()));
    let config = client_config(&network.ca, leaf.chain.clone(), leaf.key());
    let endpoint = Endpoint::client(from).unwrap();
    let begin = Instant::now();
    let connecting = endpoint.connect_with(config, network.address, "p1").unwrap();
    let connection = timeout(NEWCOMER, connecting).await.expect("in time").expect("a tunnel");
    let client = network.client(&leaf, (endpoint, connection));
    timeout(NEWCOMER, network.session(&client)).await.expect("a session");
    assert!(begin.elapsed() < NEWCOMER, "{:?}", begin.elapsed());
}

/// Withholds its certificate for so long, then shows it and asks for a session; whether there is one.
async fn late_by(network: &Network, time: Duration) -> bool {
    let leaf = network.ca.leaf(Subject::Tunnel(login()));
    let config = client_config(&network.ca, leaf.chain.clone(), leaf.key());
    let (endpoint, relents) = withholding("127.0.0.1:0".parse().unwrap(), Ears::Open);
    // A client of TLS 1.3 is done once the server's part is there.
    let connection = endpoint.connect_with(config, network.address, "p1").unwrap().await.unwrap();
    tokio::time::sleep(time).await;
    relents.store(true, Ordering::Relaxed);
    let client = network.client(&leaf, (endpoint, connection));
    let open = network.open(&client, |_| {});
    let answer = timeout(NEWCOMER, client.open(&open)).await;
    answer.is_ok_and(|(_, _, answer)| answer == Answer::Opened)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_is_withheld_is_given_up_at_its_deadline() {
    let (network, mut victims) = scene().await;
    // Who is late by a second is only slow. (By more, and QUIC's next try may be too far away for this test.)
    let (early, late) = (Duration::from_secs(1), HANDSHAKE_DEADLINE + Duration::from_secs(1));
    let attack = async { tokio::join!(late_by(&network, early), late_by(&network, late)) };
    assert_eq!(victims.beside(attack).await, (true, false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_that_withholds_its_certificates_keeps_nobody_out() {
    let (network, mut victims) = scene().await;
    let before = memory();
    let attack = async {
        // More than there are places, from addresses of which each takes all that one may.
        let _crowd = crowd(&network, 10, 130);
        for number in 0..4 {
            tokio::time::sleep(Duration::from_millis(250)).await;
            assert_comes_through(&network, elsewhere(1000 + number)).await;
            assert_comes_through(&network, elsewhere(number)).await;
        }
        memory()
    };
    let most = victims.beside(attack).await;
    assert!(most < before + 2 * HELD, "{} MB more", (most - before) >> 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_of_certificates_without_end_is_refused() {
    let (network, mut victims) = scene().await;
    let attack = async {
        for copies in [2, 8, 60] {
            let leaf = network.ca.leaf(Subject::Tunnel(login()));
            let chain: Vec<_> = leaf.chain.iter().cycle().take(2 * copies).cloned().collect();
            let config = client_config(&network.ca, chain, leaf.key());
            let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
            let connecting = endpoint.connect_with(config, network.address, "p1").unwrap();
            let end = async {
                match connecting.await {
                    Ok(connection) => connection.closed().await,
                    Err(error) => error,
                }
            };
            let end = timeout(PATIENCE, end).await.expect("it is refused");
            assert!(matches!(end, ConnectionError::ConnectionClosed(_)), "{copies}: {end}");
        }
    };
    victims.beside(attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tunnels_that_come_and_go_in_a_storm_leave_nothing_behind() {
    let (network, mut victims) = scene().await;
    let before = memory();
    let attack = async {
        let leaf = network.ca.leaf(Subject::Tunnel(login()));
        let config = client_config(&network.ca, leaf.chain.clone(), leaf.key());
        let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        for _ in 0..300 {
            let connecting = endpoint.connect_with(config.clone(), network.address, "p1").unwrap();
            connecting.await.expect("a tunnel").close(0_u32.into(), b"");
        }
    };
    victims.beside(attack).await;
    // Each had given its place back, or the ninth would have been the last.
    network.session(&network.tunnel().await).await;
    assert!(memory() < before + HELD, "{} MB more", (memory() - before) >> 20);
}
