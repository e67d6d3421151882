//! What tunnels run on, as far as it is the same at the daemon's end and at the proxy's.
//!
//! [`port`] is the UDP socket under QUIC, [`turns`] the order in which flows get a tunnel's send window. Who may speak,
//! and with which windows, is each end's own.

pub mod port;
pub mod turns;
