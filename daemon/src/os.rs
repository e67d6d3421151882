//! What the daemon does to the operating system, and what it asks of it. Linux only, for now: `linux` is the one place
//! that knows how; values and pure decisions stand beside it and are the same for every system.
//!
//! | concern | here | how Linux does it |
//! |---|---|---|
//! | which range is ours | [`ranges`] | - |
//! | addresses, routes, rules | [`NetworkPlan`] | `linux/network.rs`, rtnetlink |
//! | spoofed and forwarded packets | [`PacketGuard`] | `linux/nftables.rs`, nfnetlink |
//! | whose socket it is; sockets that a crash left hanging | [`sock_diag`] | `linux/sock_diag.rs` |
//! | memory for the flows' rings | [`RingSlab`] | `linux/ring_slab.rs`, mmap |
//! | the system's resolver sends our zones to us | [`name_service`] | `linux/name_service.rs` and below |
//! | files, one instance | [`StateDir`] | - |
//! | what a person should know about all of that | [`Findings`] | - |
//!
//! Order at start: state directory and lock, [`cleanup`]'s leftovers are undone by each part's `apply`, TUN, sockets
//! destroyed, name service, packet guard, network (which ends with link up).

mod findings;
mod network_plan;
pub mod ranges;
mod resolv_conf;
mod state_dir;

#[cfg(target_os = "linux")]
mod linux;

pub use findings::{Finding, Findings};
#[cfg(target_os = "linux")]
pub use linux::{
    CleanupError, NetworkError, PacketGuard, RingSlab, cleanup, name_service, routes, sock_diag,
};
pub use network_plan::{Applied, Ipv6State, NetworkPlan};
pub use state_dir::{AlreadyRunning, InstanceLock, StateDir, StateError};
