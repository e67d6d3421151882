//! What agent, daemon, proxy and control say to each other, and who is who.
//!
//! Pure: bytes and values in, values and bytes out. There is no socket, no file, no clock and no randomness here;
//! time is passed in, secrets are made elsewhere. Whoever holds the socket reads frames with [`frame`] and turns them
//! into the messages of one of the conversations:
//!
//! | conversation | module | carried by |
//! |---|---|---|
//! | agent and daemon | [`attach`] | CBOR frames on a unix socket |
//! | daemon and proxy | [`stream`] | one CBOR frame each way at the head of a QUIC stream |
//! | agent and control | [`api`] | JSON over HTTPS |
//! | control and proxy | [`watch`] | in process, or CBOR frames |
//!
//! [`x224`] reads the one request of a foreign protocol that both ends must know.
//!
//! [`names`] and [`identity`] are parsed once, at the border, and compared as values ever after.

pub mod api;
pub mod attach;
pub mod frame;
pub mod grant;
pub mod identity;
pub mod names;
pub mod ports;
pub mod refusal;
pub mod resource;
pub mod stream;
pub mod thumbprint;
pub mod tls;
pub mod watch;
pub mod x224;
