//! Who may do what, and the proof of a tap.

pub mod admin;
pub mod keys;
