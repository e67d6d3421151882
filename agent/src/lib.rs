//! The user's side of Portlatch: the command line, and the background process that answers prompts.
//!
//! It holds the login key and runs the security key; it never needs root, and the daemon never sees what it holds.
//!
//! ```text
//! commands ----> service (one per user)      status, ls, tap, watch, logout ask it over its own socket
//!                  |  link      to the daemon's socket: attach, access wanted, grants
//!                  |  control   to control: catalogue, access, ceremonies
//!                  |  broker    which prompt is open, who waits, who is told no at once
//!                  |  absence   whether the screen is locked and what is to be tapped for again
//!                  |  notification   prompts on the desktop
//!                  '- keys      the security keys: USB, or software for tests and the demo
//! ```
//!
//! Not here: policy (control decides), flows and names (the daemon has them).

mod absence;
mod address;
mod broker;
mod browser;
mod catalogue;
mod ceremony;
mod cli;
mod code;
mod commands;
mod control;
mod daemon;
mod failure;
mod files;
mod identify;
mod keys;
mod local;
mod login;
mod mfa_mode;
mod notification;
mod program;
mod prompt;
mod safe_text;
mod service;
mod status;
mod terminal;

use std::process::ExitCode;

/// Runs the command that the process's arguments name, to its end.
pub fn run() -> ExitCode {
    cli::run()
}
