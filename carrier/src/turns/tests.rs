//! Many flows on one real connection whose send window they use up.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quinn::{ClientConfig, Connection, Endpoint, RecvStream, ServerConfig, TransportConfig};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);
const FLOWS: usize = 64;
/// A few chunks of all flows together.
const SEND_WINDOW: u64 = 256 * 1024;
const CHUNK: usize = 64 * 1024;
/// Bytes that are shared out: some eight chunks a flow.
const ALL: u64 = 8 * (FLOWS * CHUNK) as u64;

/// Two ends of a connection whose second may have this much from each stream.
async fn connection(stream_window: u32) -> (Connection, Connection, [Endpoint; 2]) {
    let made = rcgen::generate_simple_self_signed(["there".to_owned()]).unwrap();
    let certificate: CertificateDer<'static> = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let mut server = ServerConfig::with_single_cert(vec![certificate.clone()], key).unwrap();
    let mut transport = TransportConfig::default();
    transport.stream_receive_window(stream_window.into()).max_concurrent_bidi_streams(1000_u32.into());
    server.transport_config(Arc::new(transport));
    let there = Endpoint::server(server, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();

    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let mut client = ClientConfig::with_root_certificates(Arc::new(roots)).unwrap();
    let mut transport = TransportConfig::default();
    transport.send_window(SEND_WINDOW);
    client.transport_config(Arc::new(transport));
    let here = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let connecting = here.connect_with(client, there.local_addr().unwrap(), "there").unwrap();
    let (one, other) = tokio::join!(connecting, async { there.accept().await.unwrap().await });
    (one.unwrap(), other.unwrap(), [here, there])
}

/// Opens a stream; its reader's end comes with it.
async fn stream(here: &Connection, there: &Connection) -> (SendStream, RecvStream) {
    let (mut send, _) = here.open_bi().await.unwrap();
    send.write_all(b"!").await.unwrap();
    let (_, mut receive) = there.accept_bi().await.unwrap();
    receive.read_exact(&mut [0]).await.unwrap();
    (send, receive)
}

/// Writes for ever.
async fn flood(turns: &Turns, send: &mut SendStream) {
    let chunk = Bytes::from(vec![0; CHUNK]);
    loop {
        let turn = turns.next().await;
        turns.write(turn, send, &mut [chunk.clone()]).await.unwrap();
    }
}

async fn read(receive: &mut RecvStream, most: usize) -> usize {
    let mut total = 0;
    while total < most {
        total += receive.read_chunk(most - total, true).await.unwrap().unwrap().bytes.len();
    }
    total
}

#[tokio::test]
async fn all_flows_get_the_same_of_a_send_window_that_is_used_up() {
    let (here, there, _endpoints) = connection(1 << 20).await;
    let turns = Arc::new(Turns::new(here.clone(), SEND_WINDOW));
    let totals: Arc<Vec<AtomicU64>> = Arc::new((0..FLOWS).map(|_| AtomicU64::new(0)).collect());
    let mut streams = Vec::new();
    for _ in 0..FLOWS {
        streams.push(stream(&here, &there).await);
    }
    let mut tasks = JoinSet::new();
    for (flow, (mut send, mut receive)) in streams.into_iter().enumerate() {
        let (turns, totals) = (Arc::clone(&turns), Arc::clone(&totals));
        tasks.spawn(async move { flood(&turns, &mut send).await });
        tasks.spawn(async move {
            while totals.iter().map(|total| total.load(Ordering::Relaxed)).sum::<u64>() < ALL {
                let chunk = receive.read_chunk(usize::MAX, true).await.unwrap().unwrap();
                totals[flow].fetch_add(chunk.bytes.len() as u64, Ordering::Relaxed);
            }
        });
    }
    timeout(PATIENCE, tasks.join_next()).await.expect("one has seen that it is enough").unwrap().unwrap();
    tasks.shutdown().await;
    let (sum, squares) = totals.iter().fold((0.0, 0.0), |(sum, squares), total| {
        let total = total.load(Ordering::Relaxed) as f64;
        (sum + total, squares + total * total)
    });
    let fairness = sum * sum / (squares * FLOWS as f64);
    assert!(fairness > 0.8, "{fairness}: {totals:?}");
}

#[tokio::test]
async fn flows_whose_readers_stall_leave_the_others_their_turns() {
    let (here, there, _endpoints) = connection(32 * 1024).await;
    let turns = Arc::new(Turns::new(here.clone(), SEND_WINDOW));
    let (mut writers, mut stalled) = (JoinSet::new(), Vec::new());
    for _ in 0..2 * AT_ONCE {
        let (mut send, receive) = stream(&here, &there).await;
        stalled.push(receive);
        let turns = Arc::clone(&turns);
        writers.spawn(async move { flood(&turns, &mut send).await });
    }
    let (mut send, mut receive) = stream(&here, &there).await;
    writers.spawn(async move { flood(&turns, &mut send).await });
    let read = timeout(PATIENCE, read(&mut receive, 8 << 20)).await;
    assert_eq!(read, Ok(8 << 20));
    assert_eq!(stalled.len(), 2 * AT_ONCE);
}

#[tokio::test]
async fn a_flow_that_was_stalled_for_long_loses_and_repeats_no_byte() {
    let (here, there, _endpoints) = connection(32 * 1024).await;
    let turns = Turns::new(here.clone(), SEND_WINDOW);
    let (mut send, mut receive) = stream(&here, &there).await;
    let sent: Vec<u8> = (0..1 << 20).map(|n: u32| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    let mut chunks: Vec<Bytes> = sent.chunks(100_000).map(Bytes::copy_from_slice).collect();
    let write = async {
        turns.write(turns.next().await, &mut send, &mut chunks).await.unwrap();
        send.finish().unwrap();
    };
    let read = async {
        let mut all = Vec::new();
        while let Some(chunk) = receive.read_chunk(30_000, true).await.unwrap() {
            all.extend_from_slice(&chunk.bytes);
            // Slower than a turn lasts, at first.
            if all.len() < 100_000 {
                sleep(2 * LONGEST).await;
            }
        }
        all
    };
    let ((), all) = timeout(PATIENCE, async { tokio::join!(write, read) }).await.unwrap();
    assert!(all == sent);
}
