//! What tunnels run on, as far as it is the same at the daemon's end and at the proxy's.
//!
//! [`port`] is the UDP socket under QUIC. Who may speak on it, and with which windows, is each end's own.

pub mod port;
