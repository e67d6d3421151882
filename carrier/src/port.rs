//! The UDP socket under QUIC: quinn's own, with fewer and larger system calls.
//!
//! ```text
//! quinn: up to 10 datagrams a piece ──► Train ──► sendmsg with UDP_SEGMENT, up to 64 KB
//! quinn's endpoint ◄── recvmmsg with UDP_GRO, until a short answer says that there is no more
//! ```
//!
//! Both matter where a link is faster than a system call. Of the daemon's time in an upload sendmsg was 30 %, at 74
//! calls a megabyte; with trains it is 18 calls.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::io::Interest;

mod train;

use train::{Train, goes_on};

/// Messages that are received at once: each is up to 64 KB of datagrams, so that this is as much as stays in a core's
/// cache until it is decrypted.
const RECEIVED_AT_ONCE: usize = 8;

/// A UDP socket for a [`quinn::Endpoint`].
#[derive(Debug)]
pub struct Port {
    io: tokio::net::UdpSocket,
    state: UdpSocketState,
    /// A lock and not a task: held for one system call, never across an await.
    departure: Mutex<Departure>,
}

#[derive(Debug, Default)]
struct Departure {
    train: Train,
    /// How long the train was when it was last looked at.
    seen: usize,
    /// The endpoint's task, which sends trains off that nobody fills any further.
    endpoint: Option<Waker>,
}

impl Port {
    /// Takes a bound socket. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// If the runtime or the kernel does not take it.
    pub fn new(socket: UdpSocket) -> io::Result<Arc<Self>> {
        socket.set_nonblocking(true)?;
        let state = UdpSocketState::new((&socket).into())?;
        let io = tokio::net::UdpSocket::from_std(socket)?;
        Ok(Arc::new(Self { io, state, departure: Mutex::default() }))
    }

    fn lock(&self) -> MutexGuard<'_, Departure> {
        self.departure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends at once. The only error is that the kernel takes nothing now; what else may be wrong with a datagram is
    /// for QUIC to find out, as a loss.
    fn send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.io.try_io(Interest::WRITABLE, || self.state.send((&self.io).into(), transmit))
    }

    /// Sends the train. If the kernel takes nothing now, it stays as it is.
    fn send_off(&self, departure: &mut Departure) -> io::Result<()> {
        if let Some(transmit) = departure.train.transmit() {
            self.send(&transmit)?;
        }
        departure.train.clear();
        departure.seen = 0;
        Ok(())
    }

    /// Marks the socket as empty, which it is after a short answer; what comes later is announced anew.
    fn wait_for_more(&self) {
        let _ = self.io.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
    }

    /// Sends the train off if nothing was coupled to it since the last look; else looks again after the other tasks
    /// have had their turn.
    fn look_at_train(&self, context: &mut Context<'_>) -> io::Result<()> {
        let mut departure = self.lock();
        if departure.endpoint.as_ref().is_none_or(|waker| !waker.will_wake(context.waker())) {
            departure.endpoint = Some(context.waker().clone());
        }
        if departure.train.is_empty() {
            return Ok(());
        }
        if departure.train.len() != departure.seen {
            departure.seen = departure.train.len();
            context.waker().wake_by_ref();
            return Ok(());
        }
        while self.send_off(&mut departure).is_err() {
            if self.io.poll_send_ready(context)?.is_pending() {
                break;
            }
        }
        Ok(())
    }
}

impl AsyncUdpSocket for Port {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Poller { port: self, waiting: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let most = self.state.max_gso_segments();
        let mut departure = self.lock();
        if !departure.train.is_empty() {
            if departure.train.couple(transmit, most) {
                let is_complete = !goes_on(transmit) || !departure.train.has_room_for(transmit, most);
                if is_complete && self.send_off(&mut departure).is_err() {
                    departure.wake_endpoint();
                }
                return Ok(());
            }
            self.send_off(&mut departure)?;
        }
        if goes_on(transmit) && departure.endpoint.is_some() && departure.train.couple(transmit, most) {
            departure.wake_endpoint();
            return Ok(());
        }
        departure.train.clear();
        drop(departure);
        self.send(transmit)
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let most = RECEIVED_AT_ONCE.min(buffers.len());
        loop {
            if self.io.poll_recv_ready(context)?.is_pending() {
                self.look_at_train(context)?;
                return Poll::Pending;
            }
            let received = self.io.try_io(Interest::READABLE, || {
                self.state.recv((&self.io).into(), &mut buffers[..most], &mut meta[..most])
            });
            match received {
                Ok(received) => {
                    match received < most {
                        // Not asking once more saves a system call at every wake-up.
                        true => self.wait_for_more(),
                        // The end, where trains are looked at, may be far off.
                        false => self.look_at_train(context)?,
                    }
                    return Poll::Ready(Ok(received));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
}

impl Departure {
    /// Has the endpoint's task look at the train, once the tasks before it have had their turn.
    fn wake_endpoint(&self) {
        if let Some(endpoint) = &self.endpoint {
            endpoint.wake_by_ref();
        }
    }
}

type Waiting = Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>;

/// Waits for room, for one connection.
struct Poller {
    port: Arc<Port>,
    waiting: Option<Waiting>,
}

impl UdpPoller for Poller {
    fn poll_writable(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // There nearly always is, and that costs no allocation.
        if self.waiting.is_none() && self.port.io.try_io(Interest::WRITABLE, || Ok(())).is_ok() {
            return Poll::Ready(Ok(()));
        }
        let port = Arc::clone(&self.port);
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(async move { port.io.writable().await }));
        let writable = ready!(waiting.as_mut().poll(context));
        self.waiting = None;
        Poll::Ready(writable)
    }
}

impl fmt::Debug for Poller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poller").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
