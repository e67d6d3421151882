//! A CTAP2 security key in software, down to its 64-byte reports. For tests only: it keeps its secrets in memory and taps
//! itself when told to.
//!
//! ```text
//! reports <--> channels (CTAPHID: framing, busy, keep-alive, CANCEL) <--> authenticator (CTAP2: info, make, assert, PIN)
//!    |                                                                        ^
//!    |  plugged.rs: in this process, each opener with a copy of every report  '-- whoever holds the key: touch, deny, faults
//!    '  uhid.rs:    on /dev/uhid, as /dev/hidrawN of this machine
//! ```
//!
//! One implementation serves both, so that what a test in one process proves holds for a booted machine too; there
//! libfido2 confirms that it is a conformant key. It shares no code with the agent: a mistake on one side shows.
//!
//! Not here: U2F (CTAP1), discoverable credentials, extensions.

mod authenticator;
mod cbor;
mod channels;
pub mod control;
mod pin_protocol;
mod plugged;
mod record;
mod settings;
pub mod uhid;

pub use channels::REPORT;
pub use plugged::{Opened, Plugged};
pub use record::{Event, Recorded};
pub use settings::{Fault, Settings, TouchMode};
