//! The audit: a spool of records on the disk of the process that wrote them, each chained to the one before.
//!
//! Every writer (control, each proxy) is a *source* with its own folder and its own chain, so that no two processes
//! share a file:
//!
//! ```text
//! DIR/audit/SOURCE/head                        the newest record known to be on the disk; also the writer's lock
//! DIR/audit/SOURCE/00000000000000000001.jsonl  records, one JSON object a line; named by its first record
//! DIR/audit/SOURCE/00000000000000131072.jsonl  the next segment
//! ```
//!
//! [`Spool`] writes, [`verify()`] finds what was changed afterwards, [`Reader`] reads all sources merged by time. Shipping
//! records to control is not done here. Calls block on the disk and nothing here is async: a caller on an executor that
//! wants [`Durability::Disk`] calls from a blocking thread.

mod chain;
mod event;
mod read;
mod segment;
mod spool;
mod verify;

pub use chain::head_message;
pub use event::{Event, EventKind};
pub use read::{ReadError, Reader, Record};
pub use spool::{Durability, Recovery, Spool, SpoolConfig, SpoolError};
pub use verify::{
    CheckHead, Report, Signature, SignedHead, SourceReport, VerifyError, verify, verify_signed,
};
