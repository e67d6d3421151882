//! Memory for the flows' rings: one region of address space, in which only pages that were written to are real memory,
//! and from which they can be given back while the rings stay where they are. A connected flow that moves no data costs
//! no ring memory at all.

#![expect(unsafe_code, reason = "mapping memory and lending it out is what this file is for")]

use std::io;
use std::ptr::NonNull;

use libc::{MADV_DONTDUMP, MADV_DONTNEED, MADV_NOHUGEPAGE, c_int, c_void};
use portlatch_netstack::{Ring, RingMemory, Vacant};

/// Where a machine promises no memory that it does not have (vm.overcommit_memory = 2) the whole region counts at
/// once. Below this many slots the daemon would be of little use.
const FEWEST_SLOTS: usize = 64;

/// A region of `slots` pairs of rings. It is never unmapped: the rings are lent for as long as the process may need them.
#[derive(Debug)]
pub struct RingSlab {
    base: NonNull<u8>,
    ring_size: usize,
    lent: Vec<bool>,
}

// SAFETY: the slab owns its region; the pointer is no more tied to a thread than a Box's.
unsafe impl Send for RingSlab {}

impl RingSlab {
    /// Reserves address space for up to `slots` pairs of rings of at least `ring_size` bytes each (whole pages). Fewer
    /// slots where the machine does not promise that much: see [`slots`](Self::slots).
    ///
    /// # Errors
    /// If not even a small region is to be had.
    pub fn new(slots: usize, ring_size: usize) -> io::Result<Self> {
        let ring_size = ring_size.max(1).next_multiple_of(page_size());
        let mut slots = slots.max(1);
        loop {
            let length = slots.checked_mul(2 * ring_size).ok_or(io::ErrorKind::OutOfMemory)?;
            match map(length) {
                Ok(base) => {
                    // Hints; a kernel without them only uses more memory, or writes a larger core dump.
                    let _ = advise(base, length, MADV_NOHUGEPAGE);
                    let _ = advise(base, length, MADV_DONTDUMP);
                    return Ok(Self { base, ring_size, lent: vec![false; slots] });
                }
                Err(error) if slots <= FEWEST_SLOTS => return Err(error),
                Err(_) => slots = (slots / 2).max(FEWEST_SLOTS.min(slots)),
            }
        }
    }

    /// How many pairs of rings there are.
    pub fn slots(&self) -> usize {
        self.lent.len()
    }

    /// The bytes of each ring.
    pub fn ring_size(&self) -> usize {
        self.ring_size
    }

    /// The two rings of a slot; `None` if there is no such slot or they are lent.
    pub fn rings(&mut self, slot: usize) -> Option<(&'static mut [u8], &'static mut [u8])> {
        let lent = self.lent.get_mut(slot)?;
        if std::mem::replace(lent, true) {
            return None;
        }
        let start = self.start_of(slot);
        // SAFETY: the slot's bytes lie in the region, which is mapped readable and writable for ever; the
        // flag above makes this the only reference to them.
        let pair = unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), 2 * self.ring_size) };
        Some(pair.split_at_mut(self.ring_size))
    }

    /// The slot's rings may be lent again.
    ///
    /// # Safety
    /// Nothing may refer any more to those that were lent.
    unsafe fn end_loan(&mut self, slot: usize) {
        if let Some(lent) = self.lent.get_mut(slot) {
            *lent = false;
        }
    }

    /// Gives the slot's pages back to the system. The rings stay lent and read as zeroes from here on, so nothing in
    /// them may matter any more: the caller says that both are empty.
    pub fn reclaim(&mut self, slot: usize) {
        if self.lent.get(slot).copied().unwrap_or(false) {
            // Cannot fail for a range of our own mapping; if it did, the pages would only stay in use.
            let _ = advise(self.start_of(slot), 2 * self.ring_size, MADV_DONTNEED);
        }
    }

    fn start_of(&self, slot: usize) -> NonNull<u8> {
        // SAFETY: callers have checked that `slot` is one of ours, so the offset lies within the mapping.
        unsafe { self.base.add(slot * 2 * self.ring_size) }
    }
}

impl RingMemory for RingSlab {
    fn rings(&mut self, slot: usize) -> Option<(Ring, Ring)> {
        Self::rings(self, slot).map(|(receive, send)| (receive.into(), send.into()))
    }

    fn reclaim(&mut self, slot: usize) {
        Self::reclaim(self, slot);
    }

    fn take_back(&mut self, vacant: Vacant) {
        // SAFETY: the stack makes a `Vacant` only by dropping the socket that owned the slot's rings, which it alone was
        // given, and hands it to the memory that they came from: each stack has one, and no other way to it.
        unsafe { self.end_loan(vacant.slot()) }
    }
}

fn page_size() -> usize {
    // SAFETY: sysconf only reads a number.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).ok().filter(|size| size.is_power_of_two()).unwrap_or(4096)
}

fn map(length: usize) -> io::Result<NonNull<u8>> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new anonymous mapping at an address of the kernel's choosing; no existing memory is touched.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, -1, 0) };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(address.cast()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

fn advise(start: NonNull<u8>, length: usize, advice: c_int) -> io::Result<()> {
    // SAFETY: the range lies within our mapping, and every byte value is valid for the `u8`s that are lent from it.
    let answer = unsafe { libc::madvise(start.as_ptr().cast::<c_void>(), length, advice) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kilobytes of real memory behind the mapping that begins at `address`.
    fn resident(address: usize) -> usize {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = maps.lines().skip_while(|line| {
            let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
            let bounds = range.and_then(|(from, to)| {
                Some((usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?))
            });
            !bounds.is_some_and(|(from, to)| (from..to).contains(&address))
        });
        let line = lines.find(|line| line.starts_with("Rss:")).unwrap();
        line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
    }

    #[test]
    fn a_slot_is_lent_once() {
        let mut slab = RingSlab::new(2, 5000).unwrap();
        assert!(slab.rings(0).is_some() && slab.rings(1).is_some());
        assert!(slab.rings(0).is_none() && slab.rings(2).is_none());
        assert_eq!((slab.slots(), slab.ring_size() % 4096), (2, 0));
    }

    #[test]
    fn a_slot_whose_loan_has_ended_is_lent_again_and_reads_zero() {
        let mut slab = RingSlab::new(2, 4096).unwrap();
        let (receive, send) = slab.rings(0).unwrap();
        receive.fill(1);
        send.fill(2);
        slab.reclaim(0);
        // SAFETY: neither ring is used below this line.
        unsafe { slab.end_loan(0) };
        let (receive, send) = slab.rings(0).unwrap();
        assert!(receive.iter().chain(send.iter()).all(|byte| *byte == 0));
        assert!(slab.rings(0).is_none());
        // SAFETY: there is no such slot.
        unsafe { slab.end_loan(99) };
        assert!(slab.rings(99).is_none());
    }

    #[test]
    fn rings_of_different_slots_do_not_overlap() {
        let mut slab = RingSlab::new(3, 4096).unwrap();
        let rings: Vec<_> = (0..3).filter_map(|slot| slab.rings(slot)).collect();
        let mut rings: Vec<&mut [u8]> = rings.into_iter().flat_map(|(a, b)| [a, b]).collect();
        for (number, ring) in (0u8..).zip(&mut rings) {
            ring.fill(number);
        }
        for (number, ring) in (0u8..).zip(&rings) {
            assert!(ring.iter().all(|byte| *byte == number));
        }
    }

    #[test]
    fn only_written_pages_are_memory_and_reclaiming_gives_them_back() {
        let mut slab = RingSlab::new(64, 256 * 1024).unwrap();
        let (receive, send) = slab.rings(7).unwrap();
        let region = slab.base.as_ptr().addr();
        assert_eq!(resident(region), 0);
        receive.fill(1);
        send.fill(2);
        assert!(resident(region) >= 512, "{}", resident(region));
        slab.reclaim(7);
        assert_eq!(resident(region), 0);
        assert!(receive.iter().chain(send.iter()).all(|byte| *byte == 0));
    }
}
