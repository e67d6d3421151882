//! Streams that say nothing, too little, too slowly, or take nothing.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portlatch_protocol::frame::{self, MAX_STREAM_FRAME};
use portlatch_protocol::identity::Subject;
use portlatch_protocol::stream::{close, reset};
use quinn::{ConnectionError, Endpoint, ReadError, RecvStream, SendStream, TransportConfig, VarInt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{HELD, memory, scene, scene_within};
use crate::budget::Budget;
use crate::endpoint::transport::STREAM_WINDOW;
use crate::proxy::fixture::login;
use crate::proxy::fixture::network::{Client, Network, PATIENCE, client_config};
use crate::session::HEADER_DEADLINE;
use crate::tunnel::USUAL_STREAMS;

/// When a stream without its header is cut, on a busy machine too.
const CUT: Range<Duration> = Duration::from_secs(4)..Duration::from_secs(9);

async fn assert_cut(receive: &mut RecvStream) {
    let end = timeout(PATIENCE, receive.read_chunk(1, true)).await.expect("the stream is cut");
    assert_eq!(end.unwrap_err(), ReadError::Reset(reset::BAD_HEADER.into()));
}

/// So many streams, each with this much of a header.
async fn open_all(client: &Client, count: u32, header: &[u8]) -> Vec<(SendStream, RecvStream)> {
    let mut streams = Vec::new();
    for _ in 0..count {
        let (mut send, receive) = client.connection.open_bi().await.unwrap();
        send.write_all(header).await.unwrap();
        streams.push((send, receive));
    }
    streams
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_say_nothing_or_one_byte_at_a_time_are_cut_and_may_come_again() {
    let (network, mut victims) = scene().await;
    let (silent, slow) = (network.tunnel().await, network.tunnel().await);
    // Credit for more than a few comes with the first session.
    let _session = network.session(&silent).await;
    let header = frame::encode(&network.open(&slow, |_| {}), MAX_STREAM_FRAME).unwrap();
    let begin = Instant::now();
    let say_nothing = async {
        let mut cut = Vec::new();
        for (_send, receive) in &mut open_all(&silent, USUAL_STREAMS - 1, &[0]).await {
            assert_cut(receive).await;
            cut.push(begin.elapsed());
        }
        // Those over the budget at once, the others at their deadline.
        let last = cut.into_iter().max().unwrap();
        assert!(CUT.contains(&last), "{last:?}");
    };
    let say_it_slowly = async {
        let (mut send, mut receive) = slow.connection.open_bi().await.unwrap();
        let bytes = async {
            for byte in &header {
                if send.write_all(&[*byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::join!(bytes, assert_cut(&mut receive));
        assert!(begin.elapsed() < CUT.end, "{:?}", begin.elapsed());
    };
    victims.beside(async { tokio::join!(say_nothing, say_it_slowly) }).await;
    // Neither is shut out: the credit is back, but for the last eighth, which QUIC does not announce by itself.
    let count = USUAL_STREAMS * 3 / 4;
    timeout(PATIENCE, open_all(&silent, count, &[0])).await.expect("credit for them");
    network.session(&slow).await;
}

#[tokio::test]
async fn a_longer_frame_than_may_be_closes_the_tunnel_at_its_length() {
    let (network, mut victims) = scene().await;
    let client = network.tunnel().await;
    let attack = async {
        let (mut send, _receive) = client.connection.open_bi().await.unwrap();
        send.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
        let closed = timeout(PATIENCE, client.connection.closed()).await.expect("the tunnel is closed");
        let ConnectionError::ApplicationClosed(closed) = closed else { panic!("{closed}") };
        assert_eq!(closed.error_code, VarInt::from_u32(close::PROTOCOL));
    };
    victims.beside(attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_without_their_header_are_held_within_the_budget() {
    // Room for what twenty of them may have sent behind a gap.
    let budget = Budget::new(20 * u64::from(STREAM_WINDOW), Duration::from_secs(1));
    let (network, mut victims) = scene_within(budget).await;
    let client = network.tunnel().await;
    let _session = network.session(&client).await;
    let begin = Instant::now();
    let attack = async {
        let mut streams = JoinSet::new();
        for (_send, mut receive) in open_all(&client, 200, &[0]).await {
            streams.spawn(async move {
                let _send = _send;
                assert_cut(&mut receive).await;
                begin.elapsed()
            });
        }
        streams.join_all().await
    };
    let mut cut = victims.beside(attack).await;
    cut.sort();
    // Twenty have until their own deadline; all the others went before it.
    assert!(cut[180] >= CUT.start, "more than need be were cut early: {:?}", cut[180]);
    assert!(cut[179] < HEADER_DEADLINE, "those over the budget waited for their deadline: {:?}", cut[179]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_ahead_of_the_answer_close_the_tunnel_and_are_not_kept() {
    // A listener whose queue is full answers no SYN, and its dialler waits.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let target = socket.local_addr().unwrap().as_socket().unwrap();
    let mut queue = Vec::new();
    while let Ok(stream) = timeout(Duration::from_millis(200), TcpStream::connect(target)).await {
        queue.push(stream.unwrap());
    }
    let network = Network::with_target(target).await;
    let (mean, patient) = (network.tunnel().await, network.tunnel().await);
    let ask = network.open(&patient, |_| {});
    let waits = tokio::spawn(async move { patient.open(&ask).await.2 });
    let before = memory();
    let open = frame::encode(&network.open(&mean, |_| {}), MAX_STREAM_FRAME).unwrap();
    let flood: Vec<u8> = open.iter().copied().chain(std::iter::repeat_n(0, 1 << 20)).collect();
    let mut streams = JoinSet::new();
    while let Ok((mut send, _receive)) = mean.connection.open_bi().await {
        let flood = flood.clone();
        streams.spawn(async move { send.write_all(&flood).await });
        if streams.len() == 60 {
            break;
        }
    }
    let closed = timeout(PATIENCE, mean.connection.closed()).await.expect("the tunnel is closed");
    let ConnectionError::ApplicationClosed(closed) = closed else { panic!("{closed}") };
    assert_eq!(closed.error_code, VarInt::from_u32(close::PROTOCOL));
    // The one who waits for its answer waits on.
    network.until(|proxy| proxy.sessions.count() == 1).await;
    assert!(!waits.is_finished());
    drop(streams);
    assert!(memory() < before + 2 * HELD, "{} MB more", (memory() - before) >> 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_that_take_nothing_hold_no_more_than_a_piece_each() {
    const SESSIONS: usize = 300;
    let (network, mut victims) = scene().await;
    let mut transport = TransportConfig::default();
    transport.stream_receive_window(VarInt::from_u32(16)).receive_window(VarInt::from_u32(64 * 1024));
    let client = tunnel_with(&network, transport).await;
    let before = memory();
    let attack = async {
        let mut sessions = Vec::new();
        for _ in 0..SESSIONS {
            let (mut send, receive) = network.session(&client).await;
            send.write_all(b"S").await.unwrap();
            sessions.push((send, receive));
        }
        // Until the targets' bytes stand still everywhere.
        let mut last = (0, Instant::now());
        while last.1.elapsed() < Duration::from_secs(1) {
            let moved = network.proxy.sessions.list().iter().map(|session| session.bytes()).sum();
            if moved != last.0 {
                last = (moved, Instant::now());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        (memory(), sessions)
    };
    let (most, sessions) = attack.await;
    assert!(most < before + HELD, "{} MB for {SESSIONS} sessions", (most - before) >> 20);
    victims.beside(tokio::time::sleep(Duration::from_secs(1))).await;
    drop(sessions);
    client.connection.close(VarInt::from_u32(0), b"");
    network.until(|proxy| proxy.sessions.count() == super::VICTIMS).await;
}

/// A tunnel whose client has these windows.
async fn tunnel_with(network: &Network, transport: TransportConfig) -> Client {
    let leaf = network.ca.leaf(Subject::Tunnel(login()));
    let mut config = client_config(&network.ca, leaf.chain.clone(), leaf.key());
    config.transport_config(Arc::new(transport));
    let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let connection = endpoint.connect_with(config, network.address, "p1").unwrap().await.unwrap();
    network.client(&leaf, (endpoint, connection))
}
