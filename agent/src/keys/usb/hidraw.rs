//! Security keys on Linux: `/sys/class/hidraw` says what is plugged in, `/dev/hidrawN` carries the reports. No library and
//! no unsafe code: the files are enough (Documentation/hid/hidraw.rst).

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::bus::{Bus, Found, KeyId, Lost, OpenError, REPORT, Report, Reports};
use super::descriptor::is_security_key;
use super::seat;

const CLASS: &str = "/sys/class/hidraw";
/// The kernel's own limit (`HID_MAX_DESCRIPTOR_SIZE`).
const MAX_DESCRIPTOR: u64 = 4096;
/// Devices that are looked at: keyboards and mice are among them.
const MAX_DEVICES: usize = 128;

/// The keys of this machine.
#[derive(Debug, Default)]
pub(super) struct Hidraw;

impl Bus for Hidraw {
    fn list(&self) -> io::Result<Vec<Found>> {
        let entries = match fs::read_dir(CLASS) {
            Ok(entries) => entries,
            // A kernel without HID has no keys.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let names = entries.take(MAX_DEVICES).filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut found: Vec<Found> = names.filter_map(|name| key_called(&name)).collect();
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    fn open(&self, key: &KeyId) -> Result<Box<dyn Reports>, OpenError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed());
        match options.open(&key.device) {
            Ok(file) => Ok(Box::new(OpenHidraw(file))),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                Err(OpenError::NoAccess(seat::why_no_access(&key.device)))
            }
            Err(error) => Err(OpenError::Io(error)),
        }
    }
}

/// The key behind this name of the class, if it is one.
fn key_called(name: &str) -> Option<Found> {
    let entry = Path::new(CLASS).join(name);
    let mut descriptor = Vec::new();
    let file = File::open(entry.join("device/report_descriptor")).ok()?;
    file.take(MAX_DESCRIPTOR).read_to_end(&mut descriptor).ok()?;
    if !is_security_key(&descriptor) {
        return None;
    }
    // The kernel numbers each plugging-in of a device anew: 0003:1050:0407.000A.
    let instance = fs::canonicalize(entry.join("device")).ok()?;
    let instance = instance.file_name()?.to_str()?.to_owned();
    let device = format!("/dev/{name}");
    // The node is made when the device comes, and nothing that is done with it changes this time of it.
    let made = fs::metadata(&device).and_then(|node| node.modified()).ok();
    // A node from the future: the clock was set meanwhile, and says nothing.
    let age = made.and_then(|made| SystemTime::now().duration_since(made).ok());
    Some(Found { key: KeyId { device, instance }, age })
}

/// A node that is open and never blocks.
struct OpenHidraw(File);

impl Reports for OpenHidraw {
    fn send(&mut self, report: &Report) -> Result<(), Lost> {
        let mut numbered = [0; REPORT + 1];
        numbered[1..].copy_from_slice(report);
        match self.0.write(&numbered) {
            // A report is written whole or not at all.
            Ok(length) if length == numbered.len() => Ok(()),
            Ok(_) => Err(Lost),
            Err(error) => {
                tracing::debug!(%error, "a security key takes no report");
                Err(Lost)
            }
        }
    }

    fn receive(&mut self, time: Duration) -> Result<Option<Report>, Lost> {
        let mut wanted = [PollFd::new(&self.0, PollFlags::IN)];
        let time = Timespec::try_from(time).map_err(|_| Lost)?;
        match poll(&mut wanted, Some(&time)) {
            Ok(0) | Err(Errno::INTR) => return Ok(None),
            Ok(_) => {}
            Err(_) => return Err(Lost),
        }
        let mut report = [0; REPORT];
        match self.0.read(&mut report) {
            Ok(REPORT) => Ok(Some(report)),
            // A report of another size is none of CTAPHID's.
            Ok(length) if length > 0 => Ok(None),
            Ok(_) => Err(Lost),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(_) => Err(Lost),
        }
    }
}
