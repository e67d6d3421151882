//! Streams in the smallest pieces that there are, with gaps between them.

use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use portlatch_protocol::identity::Subject;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Endpoint, EndpointConfig, Runtime as _, TokioRuntime, UdpPoller};
use tokio::time::timeout;

use super::{HELD, memory, scene};
use crate::proxy::fixture::login;
use crate::proxy::fixture::network::{Client, Network, PATIENCE, client_config};

/// Frames that a mean peer sends.
const FRAMES: u64 = 1_500;

/// A socket that loses every third of what it sends while it is told to.
#[derive(Debug)]
struct Lossy {
    socket: Arc<dyn AsyncUdpSocket>,
    loses: Arc<AtomicBool>,
    sent: AtomicUsize,
}

impl AsyncUdpSocket for Lossy {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.socket).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> std::io::Result<()> {
        let number = self.sent.fetch_add(1, Ordering::Relaxed);
        match self.loses.load(Ordering::Relaxed) && number.is_multiple_of(3) {
            true => Ok(()),
            false => self.socket.try_send(transmit),
        }
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [std::io::IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<std::io::Result<usize>> {
        self.socket.poll_recv(context, buffers, meta)
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

/// A tunnel from a socket that loses what it is told to.
async fn lossy_tunnel(network: &Network) -> (Client, Arc<AtomicBool>) {
    let leaf = network.ca.leaf(Subject::Tunnel(login()));
    let config = client_config(&network.ca, leaf.chain.clone(), leaf.key());
    let socket = TokioRuntime.wrap_udp_socket(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
    let loses = Arc::new(AtomicBool::new(false));
    let socket = Arc::new(Lossy { socket, loses: Arc::clone(&loses), sent: AtomicUsize::new(0) });
    let runtime = Arc::new(TokioRuntime);
    let endpoint =
        Endpoint::new_with_abstract_socket(EndpointConfig::default(), None, socket, runtime).unwrap();
    let connection = endpoint.connect_with(config, network.address, "p1").unwrap().await.unwrap();
    (network.client(&leaf, (endpoint, connection)), loses)
}

// E: a byte in each frame, and gaps between them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_come_one_by_one_and_out_of_order_arrive_whole_and_hold_nothing() {
    let (network, mut victims) = scene().await;
    let (client, loses) = lossy_tunnel(&network).await;
    let (mut send, mut receive) = network.session(&client).await;
    send.write_all(b"E").await.unwrap();
    let before = memory();
    let attack = async {
        loses.store(true, Ordering::Relaxed);
        let say = async {
            let mut said = Vec::new();
            while client.connection.stats().frame_tx.stream < FRAMES {
                let byte = u8::try_from(said.len() % 251).unwrap();
                send.write_all(&[byte]).await.unwrap();
                said.push(byte);
                // It goes before the next one comes.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            loses.store(false, Ordering::Relaxed);
            send.finish().unwrap();
            said
        };
        tokio::join!(say, receive.read_to_end(1 << 20))
    };
    let (said, heard) = timeout(PATIENCE * 3, victims.beside(attack)).await.expect("all of it arrives");
    assert_eq!(heard.unwrap(), said);
    assert!(memory() < before + HELD, "{} MB more", (memory() - before) >> 20);
}
