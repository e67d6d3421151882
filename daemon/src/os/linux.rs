//! Linux: one file per concern.

mod cleanup;
pub mod name_service;
mod netlink;
mod network;
mod network_watch;
mod nftables;
mod resolv_conf_file;
mod resolved;
mod ring_slab;
mod rules;
pub mod sock_diag;

pub use cleanup::{CleanupError, cleanup};
pub use network::{NetworkError, routes};
pub use nftables::PacketGuard;
pub use ring_slab::RingSlab;
