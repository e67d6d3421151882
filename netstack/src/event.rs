//! What the stack tells its owner.

use std::net::SocketAddr;

use crate::flow::FlowId;
use crate::held::IncomingId;

/// A SYN that waits for [`crate::Stack::accept`] or [`crate::Stack::refuse`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incoming {
    /// The name to answer it by.
    pub id: IncomingId,
    /// The local program's end.
    pub source: SocketAddr,
    /// Where it wants to go.
    pub destination: SocketAddr,
}

/// A UDP datagram to an address and port that [`crate::Stack::listen_datagrams`] named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// The local program's end.
    pub source: SocketAddr,
    /// The end that was listened on.
    pub destination: SocketAddr,
    /// Its content.
    pub payload: Vec<u8>,
}

/// Something that the owner did not cause.
///
/// `Readable` and `Writable` are edges: each comes once after a read or write that said `Blocked` (and once for a new
/// flow, as if both had been tried).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A SYN came, and is held.
    Incoming(Incoming),
    /// A held SYN is no more: its program reset it or asks anew with another sequence number (an `Incoming` follows),
    /// or nobody has asked for longer than programs do.
    IncomingGone(IncomingId),
    /// There is something to read, be it the end.
    Readable(FlowId),
    /// There is room to write.
    Writable(FlowId),
    /// The program reset the flow or answers no more. The id is dead.
    Gone(FlowId),
    /// A datagram came.
    Datagram(Datagram),
}
