//! Who may do what, and the proof of a tap.

pub mod admin;
pub mod admin_server;
pub mod api;
pub mod audit_log;
pub mod authority;
pub mod browser;
pub mod ceremony;
pub mod cli;
pub mod codes;
pub mod config;
pub mod control;
pub mod devices;
pub mod documents;
pub mod grants;
pub mod init;
pub mod keys;
pub mod login;
mod nearest;
pub mod pages;
pub mod password;
pub mod policy;
pub mod presence;
mod proving;
mod revocation;
pub mod store;
pub mod watch;
pub mod webauthn;
