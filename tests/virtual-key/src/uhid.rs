//! A key on /dev/uhid: the kernel makes a HID device of it, with its own `/dev/hidrawN`, and udev sees a security key like
//! any other (linux/uhid.h).

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::channels::REPORT;
use crate::plugged::{Opened, Plugged};

const DEVICE: &str = "/dev/uhid";
/// Bytes of `struct uhid_event`: its type, and its largest member (`uhid_create2_req`).
const EVENT: usize = 4 + 4372;
/// How often a thread looks whether the device is to go.
const GLANCE: Duration = Duration::from_millis(100);

mod kind {
    pub(super) const DESTROY: u32 = 1;
    pub(super) const OUTPUT: u32 = 6;
    pub(super) const GET_REPORT: u32 = 9;
    pub(super) const GET_REPORT_REPLY: u32 = 10;
    pub(super) const CREATE2: u32 = 11;
    pub(super) const INPUT2: u32 = 12;
    pub(super) const SET_REPORT: u32 = 13;
    pub(super) const SET_REPORT_REPLY: u32 = 14;
}

const BUS_USB: u16 = 0x03;
/// 0x1209 is for projects without a number of their own (pid.codes); 0x0001 is its product for tests.
const VENDOR: u32 = 0x1209;
const PRODUCT: u32 = 0x0001;
/// `EIO`, for requests that a security key has no answer to.
const NO_ANSWER: u16 = 5;

/// CTAP 2.1 section 11.2.8.2: usage page FIDO, one report of 64 bytes in, one out.
const REPORT_DESCRIPTOR: [u8; 34] = [
    0x06, 0xD0, 0xF1, 0x09, 0x01, 0xA1, 0x01, 0x09, 0x20, 0x15, 0x00, 0x26, 0xFF, 0x00, 0x75, 0x08, 0x95,
    0x40, 0x81, 0x02, 0x09, 0x21, 0x15, 0x00, 0x26, 0xFF, 0x00, 0x75, 0x08, 0x95, 0x40, 0x91, 0x02, 0xC0,
];

/// A device of the kernel's; dropping it takes it away.
pub struct Device {
    file: Arc<Mutex<File>>,
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Device {
    /// Makes a device of this key, which must be plugged in.
    ///
    /// # Errors
    /// If the kernel has no /dev/uhid for us.
    pub fn of(key: &Plugged, name: &str) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(DEVICE)?;
        let reader = file.try_clone()?;
        let file = Arc::new(Mutex::new(file));
        write_event(&file, &creation(name))?;
        let open = || key.open().ok_or_else(|| io::Error::other("the key is not plugged in"));
        let (to_key, from_key) = (open()?, open()?);
        let is_over = Arc::new(AtomicBool::new(false));
        let over = (is_over.clone(), is_over.clone());
        let (kernel, answers) = (file.clone(), file.clone());
        let threads = vec![
            std::thread::spawn(move || carry_to_key(reader, &answers, &to_key, &over.0)),
            std::thread::spawn(move || carry_from_key(&from_key, &kernel, &over.1)),
        ];
        Ok(Self { file, is_over, threads })
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        // Closing the file takes the device away as well, should this fail.
        let _ = write_event(&self.file, &event(kind::DESTROY, &[]));
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn carry_to_key(mut reader: File, answers: &Mutex<File>, key: &Opened, is_over: &AtomicBool) {
    let mut bytes = vec![0; EVENT];
    while !is_over.load(Ordering::Relaxed) {
        let glance = Timespec { tv_sec: 0, tv_nsec: GLANCE.subsec_nanos().into() };
        let ready = {
            let mut descriptors = [PollFd::new(&reader, PollFlags::IN)];
            poll(&mut descriptors, Some(&glance))
        };
        match ready {
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Ok(_) => {}
            Err(_) => return,
        }
        let Ok(length) = reader.read(&mut bytes) else { return };
        let kind = u32::from_ne_bytes(bytes[..4].try_into().expect("four bytes"));
        let answered = match kind {
            kind::OUTPUT => report_of(&bytes[..length]).map_or(Ok(()), |report| {
                // A key that was taken out hears nothing.
                let _ = key.send(&report);
                Ok(())
            }),
            kind::GET_REPORT => write_event(answers, &no_answer(kind::GET_REPORT_REPLY, &bytes[4..8], 4)),
            kind::SET_REPORT => write_event(answers, &no_answer(kind::SET_REPORT_REPLY, &bytes[4..8], 2)),
            _ => Ok(()),
        };
        if answered.is_err() {
            return;
        }
    }
}

fn carry_from_key(key: &Opened, kernel: &Mutex<File>, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        let Ok(report) = key.receive(GLANCE) else { return };
        let Some(report) = report else { continue };
        let size = u16::try_from(REPORT).expect("small").to_ne_bytes();
        if write_event(kernel, &event(kind::INPUT2, &[size.as_slice(), &report].concat())).is_err() {
            return;
        }
    }
}

/// The report in an output event: `data[4096]`, its size, its type. The first byte is the number of the report, zero.
fn report_of(bytes: &[u8]) -> Option<[u8; REPORT]> {
    const DATA: usize = 4;
    const SIZE: usize = DATA + 4096;
    let size = usize::from(u16::from_ne_bytes(bytes.get(SIZE..SIZE + 2)?.try_into().ok()?));
    let data = bytes.get(DATA..DATA + size)?;
    let data = if size == REPORT + 1 { &data[1..] } else { data };
    data.try_into().ok()
}

fn creation(name: &str) -> Vec<u8> {
    let mut request = Vec::with_capacity(EVENT);
    let text = |text: &str, size: usize| {
        let mut field: Vec<u8> = text.bytes().take(size - 1).collect();
        field.resize(size, 0);
        field
    };
    request.extend(text(name, 128));
    request.extend(text("portlatch-virtual-key", 64));
    request.extend(text("", 64));
    request.extend(u16::try_from(REPORT_DESCRIPTOR.len()).expect("small").to_ne_bytes());
    request.extend(BUS_USB.to_ne_bytes());
    for number in [VENDOR, PRODUCT, 1, 0] {
        request.extend(number.to_ne_bytes());
    }
    request.extend(REPORT_DESCRIPTOR);
    event(kind::CREATE2, &request)
}

/// Requests are answered in any case: the kernel holds whoever asked for five seconds otherwise.
fn no_answer(kind: u32, id: &[u8], padding: usize) -> Vec<u8> {
    event(kind, &[id, &NO_ANSWER.to_ne_bytes(), &vec![0; padding]].concat())
}

fn event(kind: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = [kind.to_ne_bytes().as_slice(), body].concat();
    bytes.resize(EVENT, 0);
    bytes
}

fn write_event(file: &Mutex<File>, event: &[u8]) -> io::Result<()> {
    let mut file = file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    file.write_all(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_event_holds_the_report_behind_its_number() {
        let mut bytes = event(kind::OUTPUT, &[]);
        bytes[5..69].fill(7);
        bytes[4 + 4096..4 + 4098].copy_from_slice(&65_u16.to_ne_bytes());
        assert_eq!(report_of(&bytes), Some([7; REPORT]));
        bytes[4 + 4096..4 + 4098].copy_from_slice(&3_u16.to_ne_bytes());
        assert_eq!(report_of(&bytes), None);
    }

    #[test]
    fn events_are_as_long_as_the_kernel_has_them() {
        assert_eq!(creation("a key").len(), EVENT);
    }
}
