//! The binary of the proxy.
fn main() {}
