//! The userspace TCP stack behind the TUN: IP packets in and out, flows in between.
//!
//! Pure: packets, time and commands go in; packets, events and the next deadline come out. It starts no thread, awaits
//! nothing, reads no clock and does no I/O. Who a flow belongs to and where its bytes go is the caller's business; the
//! TCP state machine is smoltcp's. What is here is what smoltcp leaves to its user: finding the flow of a packet at a
//! cost that does not grow with their number, holding a SYN unanswered, timers, memory, and the replies that belong to
//! no flow.
//!
//! The caller's turn, over and over:
//!
//! 1. [`Stack::handle_packet`] for what the TUN has; [`Stack::handle_timeout`] when [`Stack::poll_timeout`] is due;
//! 2. [`Stack::poll_event`] until it is empty, with [`Stack::read_with`], [`Stack::write`] and the other commands;
//! 3. [`Stack::poll_packet`] until it is empty, into the TUN;
//! 4. sleep until [`Stack::poll_timeout`].

// Forbidden, not only denied: no exception can be made further down.
#![forbid(unsafe_code)]

mod config;
mod counters;
mod datagram;
mod demux;
mod device;
mod event;
mod flow;
mod held;
mod icmp;
mod memory;
mod pool;
mod reply;
mod segment;
mod stack;
mod time_wait;
mod timers;
mod window;
mod wire;

pub use config::StackConfig;
pub use counters::Counters;
pub use event::{Datagram, Event, Incoming};
pub use flow::{FlowId, ReadError, WriteError};
pub use held::IncomingId;
pub use memory::{Ring, RingMemory, Vacant, VecMemory};
pub use stack::{Checksum, OutPacket, Refusal, Stack};
