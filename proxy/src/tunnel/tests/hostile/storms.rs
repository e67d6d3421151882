//! Streams that are opened and thrown away as fast as it goes.

use std::collections::VecDeque;
use std::time::Duration;

use portlatch_protocol::frame::{self, MAX_STREAM_FRAME};
use portlatch_protocol::stream::reset;
use quinn::{RecvStream, SendStream, VarInt};
use tokio::time::timeout;

use super::{HELD, VICTIMS, memory, scene, storm};
use crate::proxy::fixture::network::{Client, PATIENCE};

/// Longer than a storm takes on a busy machine.
const LONG: Duration = Duration::from_secs(100);

/// How many streams live at once: those that came before are reset.
const ALIVE: usize = 64;

/// Opens so many streams, each with these bytes, and resets both of their directions a little later; how many there
/// were.
async fn open_and_reset(client: &Client, count: usize, header: &[u8]) -> usize {
    let mut alive: VecDeque<(SendStream, RecvStream)> = VecDeque::new();
    for number in 0..count {
        let Ok((mut send, receive)) = client.connection.open_bi().await else { return number };
        if send.write_all(header).await.is_err() {
            return number;
        }
        alive.push_back((send, receive));
        if alive.len() < ALIVE {
            continue;
        }
        // What has been written arrives before the resets do, most of it.
        tokio::time::sleep(Duration::from_millis(1)).await;
        for (mut send, mut receive) in alive.drain(..ALIVE / 2) {
            let _ = send.reset(VarInt::from_u32(reset::BY_PEER));
            let _ = receive.stop(VarInt::from_u32(reset::BY_PEER));
        }
    }
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_resets_leaves_nothing_behind() {
    let (network, mut victims) = scene().await;
    let client = network.tunnel().await;
    // Credit for more than a few streams comes with the first session.
    let _session = network.session(&client).await;
    let mut grown = Vec::new();
    let before = memory();
    for _ in 0..2 {
        let storm = timeout(LONG, open_and_reset(&client, storm() / 2, &[0]));
        assert_eq!(victims.beside(storm).await, Ok(storm_size()), "the peer was let to do it");
        grown.push(memory().saturating_sub(before));
    }
    // What the first half has made grow, the second half finds free.
    assert!(grown[0] < HELD && grown[1] < grown[0] + HELD / 4, "{grown:?}");
    // It is allowed, if mean: the tunnel serves on.
    network.session(&client).await;
}

fn storm_size() -> usize {
    storm() / 2
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_sessions_is_held_by_its_users_limits() {
    let (network, mut victims) = scene().await;
    let client = network.tunnel().await;
    let open = frame::encode(&network.open(&client, |_| {}), MAX_STREAM_FRAME).unwrap();
    let before = memory();
    // The burst that anybody may have, what is refused in peace, and what is too much.
    let storm = timeout(LONG, open_and_reset(&client, 100_000, &open));
    let opened = victims.beside(storm).await.expect("the tunnel is closed on such a peer");
    assert!((2000..100_000).contains(&opened), "{opened}");
    network.until(|proxy| proxy.sessions.count() == VICTIMS).await;
    assert!(memory() < before + HELD, "{} MB more", (memory() - before) >> 20);
    let begun = network.records("session.start").len();
    assert!((VICTIMS + 500..VICTIMS + 60_000).contains(&begun), "{begun} sessions");
    assert_eq!(network.records_come("session.end", begun - VICTIMS).await.len(), begun - VICTIMS);
    timeout(PATIENCE, network.end()).await.expect("everything ends");
}
