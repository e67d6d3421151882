//! Who may do what, and the proof of a tap.

pub mod admin;
pub mod authority;
pub mod ceremony;
pub mod cli;
pub mod config;
pub mod documents;
pub mod init;
pub mod keys;
mod nearest;
pub mod login;
pub mod password;
pub mod policy;
pub mod store;
pub mod webauthn;
pub mod admin_server;
pub mod api;
pub mod audit_log;
pub mod control;
pub mod grants;
mod revocation;
pub mod watch;
