//! The DNS server on the TUN's second address: answers for our names, hands other names of our zones to the resolvers
//! that the machine has without us.
//!
//! ```text
//! UDP datagram --------------+
//!                            v            names::NameTable: which name has which address
//! TCP flow -- TcpFramer -> Server -+-- Action::Answer  -> back to who asked
//!                                  +-- Action::Forward -> Forwarder -> upstream resolver -> back to who asked
//! ```
//!
//! [`server`], [`names`] and [`framer`] are pure: bytes and time in, bytes out. [`forwarder`] is plain async.

use std::time::Duration;

pub mod answer;
pub mod arpa;
pub mod forwarder;
pub mod framer;
pub mod fuzzing;
pub mod message;
pub mod names;
pub mod server;

/// How long an address may be remembered. Names keep their addresses, so longer buys nothing, and shorter limits harm.
pub const TTL: Duration = Duration::from_secs(30);
/// How long "there is no such name" may be remembered: a resource that is added is reachable this soon.
pub const NEGATIVE_TTL: Duration = Duration::from_secs(5);
/// How long a TCP connection to the DNS server may be silent.
pub const TCP_IDLE: Duration = Duration::from_secs(10);
/// How many TCP connections to the DNS server may be open at once; a resolver needs one or two.
pub const MAX_TCP_CONNECTIONS: usize = 64;

/// How a query came, which decides how long its answer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Via {
    /// As a datagram.
    Udp,
    /// In a TCP connection, without its two bytes of length.
    Tcp,
}
