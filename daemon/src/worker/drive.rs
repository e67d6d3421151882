//! The packets: from the TUN into the stack, from the stack to whoever waits, from the stack into the TUN. Then sleep
//! until something is there to do.

use std::io;
use std::rc::Rc;
use std::time::Instant;

use portlatch_netstack::{Checksum as PacketChecksum, Event};

use super::Worker;
use crate::tun::{BUFFER, Checksum, HEADROOM, Tun};

/// Packets that are taken in before answers go out: about one acknowledgement a batch and flow, and no flow waits long.
const BATCH: usize = 64;

/// Moves packets until the TUN fails.
pub(super) async fn drive(tun: &Tun, worker: &Rc<Worker>) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let is_full_batch = take_in(tun, worker, &mut buffer)?;
        hand_out(worker);
        send_out(tun, worker, &mut buffer)?;
        worker.reap();
        if is_full_batch {
            tokio::task::yield_now().await;
            continue;
        }
        let timeout = worker.stack.with(|stack| stack.poll_timeout());
        tokio::select! {
            ready = tun.readable() => ready?,
            () = worker.stack.kicked.notified() => {}
            () = sleep_until(timeout) => {}
        }
        let now = Instant::now();
        if timeout.is_some_and(|deadline| deadline <= now) {
            worker.stack.with(|stack| stack.handle_timeout(now));
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// A batch of packets into the stack; true if there may be more.
fn take_in(tun: &Tun, worker: &Worker, buffer: &mut [u8]) -> io::Result<bool> {
    for _ in 0..BATCH {
        let Some(packet) = tun.try_recv(buffer)? else { return Ok(false) };
        worker.stack.with(|stack| stack.handle_packet(packet, Instant::now()));
    }
    Ok(true)
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
