//! How a user becomes a login.

pub mod limits;
