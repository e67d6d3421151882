//! What tests across the parts share: the lab with the real binaries, and the plain functions that fuzzers drive.
//!
//! The tests themselves are in `tests/`: `lab` (real binaries, a real TUN, real servers and clients; root, Linux), `wire`
//! (the kernel's TCP against our stack over a bad network) and `corpus` (every committed input through every fuzz target).

pub mod bench;
pub mod browser;
pub mod fuzz_targets;
pub mod lab;
pub mod own_network;
pub mod wire;
