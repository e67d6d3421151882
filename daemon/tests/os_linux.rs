//! What the daemon does to Linux, tried on the running kernel: each test in network and mount namespaces of its own,
//! which need root. Without root the tests say so and pass.
//!
//! The experiments are those of the project's reliability notes: identity of a SYN, injection from the LAN, what dies
//! with the TUN, systemd-resolved in a namespace.

#[path = "os_linux/guard.rs"]
mod guard;
#[path = "os_linux/identity.rs"]
mod identity;
#[path = "os_linux/lab.rs"]
mod lab;
#[path = "os_linux/name_service.rs"]
mod name_service;
#[path = "os_linux/network.rs"]
mod network;
#[path = "os_linux/packet.rs"]
mod packet;
#[path = "os_linux/tun.rs"]
mod tun;
