//! Portlatch's proxy: streams in, connections to resources out.
//!
//! One stream's way, in order: [`endpoint`] takes the tunnel, [`tunnel`] its streams, [`session`] is the story of one
//! stream (header, [`grant`], [`target`], [`limits`], [`record`], dial, copy). [`watch`] is the proxy's copy of what
//! control says; what it forbids cuts the sessions in [`sessions`], and [`deadlines`] ends those whose time is over.
//! [`listener`] is the TCP port beside the UDP one.
//!
//! Nothing here knows the control service: `main.rs` alone joins the two.

pub mod admission;
pub mod budget;
pub mod certificate;
pub mod deadlines;
pub mod endpoint;
pub mod grant;
pub mod limits;
pub mod listener;
pub mod proxy;
pub mod record;
pub mod session;
pub mod sessions;
pub mod stop;
pub mod target;
pub mod tunnel;
pub mod watch;
