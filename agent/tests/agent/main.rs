//! The real binary against a daemon and a control that are played by the test; the software key taps.
#![cfg(feature = "software-key")]
#![expect(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "whatever is not as a test expects it fails the test"
)]

mod codes;
mod commands;
mod crowds;
mod desktop;
mod doctor;
mod exec;
mod leaving;
mod mfa;
mod prompts;
mod rdp;
mod reasons;
mod secrets;
mod support;
mod terminal;
mod why;
