//! The packets: from the TUN into the stack, from the stack to whoever waits, from the stack into the TUN. Then sleep
//! until something is there to do.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Instant;

use portlatch_netstack::{Checksum as PacketChecksum, Event};
use tokio::time::Sleep;

use super::Worker;
use crate::tun::{BUFFER, Checksum, HEADROOM, Tun};

/// Packets that are taken in before answers go out: about one acknowledgement a batch and flow, and no flow waits long.
const BATCH: usize = 64;
/// A batch with fewer bytes is requests, not a transfer: they go on their way before they are acknowledged. It takes a
/// write into the TUN, 3 us, off the way of a request; a transfer is acknowledged first, so that its sender goes on.
const SMALL_BATCH: usize = 4096;

/// Moves packets until the TUN fails.
pub(super) async fn drive(tun: Rc<Tun>, worker: Rc<Worker>) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    let mut alarm = Alarm::new();
    loop {
        let taken = take_in(&tun, &worker, &mut buffer)?;
        hand_out(&worker);
        if taken.bytes > 0 && taken.bytes < SMALL_BATCH {
            tokio::task::yield_now().await;
        }
        send_out(&tun, &worker, &mut buffer)?;
        worker.reap();
        if taken.packets == BATCH {
            tokio::task::yield_now().await;
            continue;
        }
        let deadline = worker.stack.with(|stack| stack.poll_timeout());
        tokio::select! {
            ready = tun.readable() => ready?,
            () = worker.stack.kicked.notified() => {}
            () = alarm.at(deadline) => {}
        }
        let now = Instant::now();
        if deadline.is_some_and(|deadline| deadline <= now) {
            worker.stack.with(|stack| stack.handle_timeout(now));
        }
    }
}

/// The stack's next deadline, which is nearly always the one of the turn before: it is set only when it moves.
struct Alarm {
    sleep: Pin<Box<Sleep>>,
    deadline: Option<Instant>,
}

impl Alarm {
    fn new() -> Self {
        let now = Instant::now();
        Self { sleep: Box::pin(tokio::time::sleep_until(now.into())), deadline: Some(now) }
    }

    async fn at(&mut self, deadline: Option<Instant>) {
        let Some(moment) = deadline else { return std::future::pending().await };
        if self.deadline != deadline {
            self.deadline = deadline;
            self.sleep.as_mut().reset(moment.into());
        }
        self.sleep.as_mut().await;
    }
}

/// What came in one batch.
#[derive(Default)]
struct Taken {
    packets: usize,
    bytes: usize,
}

/// A batch of packets into the stack.
fn take_in(tun: &Tun, worker: &Worker, buffer: &mut [u8]) -> io::Result<Taken> {
    let mut taken = Taken::default();
    while taken.packets < BATCH {
        let Some(packet) = tun.try_recv(buffer)? else { break };
        taken.packets += 1;
        taken.bytes += packet.len();
        worker.stack.with(|stack| stack.handle_packet(packet, Instant::now()));
    }
    Ok(taken)
}

/// What the stack has to say, to whoever waits for it.
fn hand_out(worker: &Rc<Worker>) {
    while let Some(event) = worker.stack.with(|stack| stack.poll_event()) {
        match event {
            Event::Incoming(incoming) => worker.handle_incoming(incoming),
            Event::Datagram(datagram) => super::naming::handle_datagram(worker, datagram),
            Event::IncomingGone(_) | Event::Readable(_) | Event::Writable(_) | Event::Gone(_) => {
                worker.stack.handle_event(&event);
            }
        }
    }
}

/// The stack's packets into the TUN.
fn send_out(tun: &Tun, worker: &Worker, buffer: &mut [u8]) -> io::Result<()> {
    let now = Instant::now();
    while let Some(packet) = worker.stack.with(|stack| stack.poll_packet(now, &mut buffer[HEADROOM..])) {
        let checksum = match packet.checksum {
            PacketChecksum::Complete => Checksum::Complete,
            PacketChecksum::Partial { start, offset } => Checksum::Partial { start, offset },
        };
        match tun.try_send(&mut buffer[..HEADROOM + packet.len], checksum) {
            Ok(true) => {}
            // The kernel has no memory for it: lost, as on a full wire. The stack sends it again.
            Ok(false) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                tracing::error!(length = packet.len, "the kernel found a packet of ours malformed");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
