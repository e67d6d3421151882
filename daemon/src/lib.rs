//! Portlatch's privileged daemon: TUN, userspace TCP, DNS, whose flow it is, the multi-port tracker, the tunnels.
//!
//! The way of a connection, and where each step stands:
//!
//! | step | module |
//! |---|---|
//! | the TUN gives packets, the netstack makes flows of them | `worker` |
//! | the story of one flow, from its SYN to its last byte | `forward` |
//! | whose it is, and what its address and port name | `login` |
//! | is there a grant, and who asks for one | [`tracker`] |
//! | which proxy, and the way to it | `tunnel` |
//! | agents come and go | `reception` |
//!
//! It never holds a user's login key, an MFA secret, or a path or command given by a user.

pub mod addresses;
mod budget;
pub mod cli;
pub mod config;
mod copy;
pub mod dns;
mod flow;
mod forward;
mod log;
mod login;
pub mod os;
mod reception;
mod refusals;
mod service;
pub mod tracker;
pub mod trust;
pub mod tun;
mod tunnel;
mod worker;
