//! The port with real sockets and, where it is about order and loss, with real QUIC on it.

use std::future::poll_fn;
use std::time::Duration;

use quinn::udp::BATCH_SIZE;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);
const SIZE: usize = 1200;

async fn port() -> Arc<Port> {
    let port = Port::new(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
    port.io.writable().await.unwrap();
    port
}

/// One look of the endpoint's task, which receives nothing.
async fn look(port: &Port) {
    poll_fn(|context| {
        let mut buffer = [0; SIZE];
        let mut meta = [RecvMeta::default()];
        assert!(port.poll_recv(context, &mut [IoSliceMut::new(&mut buffer)], &mut meta).is_pending());
        Poll::Ready(())
    })
    .await;
}

/// Every datagram that lies in the socket, which must be at least one.
async fn received(port: &Port) -> Vec<Vec<u8>> {
    let mut room = vec![vec![0; 65_535]; BATCH_SIZE];
    let mut meta = [RecvMeta::default(); BATCH_SIZE];
    let count = tokio::time::timeout(
        PATIENCE,
        poll_fn(|context| {
            let mut buffers: Vec<_> = room.iter_mut().map(|bytes| IoSliceMut::new(bytes)).collect();
            port.poll_recv(context, &mut buffers, &mut meta)
        }),
    )
    .await
    .expect("datagrams came")
    .unwrap();
    let messages = room.iter().zip(&meta[..count]);
    messages.flat_map(|(bytes, meta)| bytes[..meta.len].chunks(meta.stride).map(<[u8]>::to_vec)).collect()
}

fn datagrams(numbers: std::ops::Range<u8>) -> Vec<u8> {
    numbers.flat_map(|number| [number; SIZE]).collect()
}

fn transmit<'a>(to: &Port, contents: &'a [u8]) -> Transmit<'a> {
    let segment_size = (contents.len() > SIZE).then_some(SIZE);
    Transmit { destination: to.local_addr().unwrap(), ecn: None, contents, segment_size, src_ip: None }
}

#[tokio::test]
async fn a_single_datagram_leaves_at_once() {
    let (here, there) = (port().await, port().await);
    look(&here).await;
    here.try_send(&transmit(&there, &[7; 30])).unwrap();
    assert_eq!(received(&there).await, [[7; 30]]);
}

#[tokio::test]
async fn full_pieces_wait_for_the_end_of_the_burst_and_arrive_in_order() {
    let (here, there) = (port().await, port().await);
    look(&here).await;
    let (first, second) = (datagrams(0..10), datagrams(10..20));
    here.try_send(&transmit(&there, &first)).unwrap();
    here.try_send(&transmit(&there, &second)).unwrap();
    assert_eq!(here.lock().train.len(), 20 * SIZE, "nothing has left");
    here.try_send(&transmit(&there, &[20; 30])).unwrap();
    assert!(here.lock().train.is_empty());
    let received = received(&there).await;
    assert_eq!(received.iter().map(|datagram| datagram[0]).collect::<Vec<_>>(), (0..21).collect::<Vec<_>>());
    assert_eq!(received[20], [20; 30]);
}

#[tokio::test]
async fn a_train_leaves_by_itself_once_nothing_is_coupled_any_more() {
    let (here, there) = (port().await, port().await);
    look(&here).await;
    here.try_send(&transmit(&there, &datagrams(0..10))).unwrap();
    look(&here).await;
    here.try_send(&transmit(&there, &datagrams(10..20))).unwrap();
    look(&here).await;
    assert_eq!(here.lock().train.len(), 20 * SIZE, "it grew since the last look");
    look(&here).await;
    assert!(here.lock().train.is_empty());
    assert_eq!(received(&there).await.len(), 20);
}

#[tokio::test]
async fn what_cannot_be_coupled_comes_after_the_train() {
    let (here, there) = (port().await, port().await);
    look(&here).await;
    here.try_send(&transmit(&there, &datagrams(0..10))).unwrap();
    here.try_send(&transmit(&there, &[99; SIZE + 1][..]).single()).unwrap();
    let mut arrived = Vec::new();
    while arrived.len() < 11 {
        arrived.extend(received(&there).await);
    }
    assert_eq!(arrived.last().unwrap()[..], [99; SIZE + 1]);
}

#[tokio::test]
async fn nothing_is_held_before_there_is_somebody_to_look_at_it() {
    let (here, there) = (port().await, port().await);
    here.try_send(&transmit(&there, &datagrams(0..10))).unwrap();
    assert_eq!(received(&there).await.len(), 10);
}

#[tokio::test]
async fn a_socket_that_was_emptied_says_when_something_comes_again() {
    let (here, there) = (port().await, port().await);
    look(&here).await;
    for round in 0..100 {
        here.try_send(&transmit(&there, &[round; 30])).unwrap();
        assert_eq!(received(&there).await, [[round; 30]]);
    }
}

trait Single {
    fn single(self) -> Self;
}

impl Single for Transmit<'_> {
    /// One datagram, however long.
    fn single(mut self) -> Self {
        self.segment_size = None;
        self
    }
}
