//! A real Chromium with virtual security keys, a `portlatch-proxy` on loopback for it to visit, and the agent's side of the
//! API, played by the test where a whole agent would need a daemon.

pub mod agent;
pub mod authenticators;
pub mod chromium;
pub mod looks;
pub mod processes;
pub mod site;
pub mod totp;
pub mod webdriver;
