//! Where keys come from: what is plugged in, and the reports of the one that is opened. Linux' hidraw in life, keys in
//! software in the tests; all above this file is the same for both.

use std::io;
use std::time::Duration;

/// Bytes of a report: those of a full-speed device, which every FIDO2 key is (CTAP 2.1 section 11.2.8).
pub(super) const REPORT: usize = 64;

/// One report, in or out.
pub(super) type Report = [u8; REPORT];

/// A key that is plugged in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct KeyId {
    /// What a person and the kernel call it: `/dev/hidraw3`.
    pub(super) device: String,
    /// This plugging-in of it: the same name may be another key the next time.
    pub(super) instance: String,
}

/// A key and how long it has been in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) key: KeyId,
    /// Nothing where that cannot be known.
    pub(super) age: Option<Duration>,
}

/// Why a key cannot be opened.
#[derive(Debug)]
pub(super) enum OpenError {
    /// This user may not; the sentence says why and what to do.
    NoAccess(String),
    /// It was taken out just now, or the kernel has another reason.
    Io(io::Error),
}

/// The key was taken out, or its driver is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lost;

/// All keys of a machine.
pub(super) trait Bus: Send + Sync + std::fmt::Debug {
    /// The keys that are plugged in, those of others too.
    ///
    /// # Errors
    /// If they cannot be listed.
    fn list(&self) -> io::Result<Vec<Found>>;

    /// Opens a key.
    ///
    /// # Errors
    /// [`OpenError`].
    fn open(&self, key: &KeyId) -> Result<Box<dyn Reports>, OpenError>;
}

/// An open key.
pub(super) trait Reports: Send {
    /// Hands it a report. May take as long as the kernel lets a device take, which is 5 s.
    ///
    /// # Errors
    /// [`Lost`].
    fn send(&mut self, report: &Report) -> Result<(), Lost>;

    /// Its next report, if one comes within this time.
    ///
    /// # Errors
    /// [`Lost`].
    fn receive(&mut self, time: Duration) -> Result<Option<Report>, Lost>;
}
