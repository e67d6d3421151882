//! Which address stands for which name: the same one for the same name, for every user of the machine, across restarts.
//!
//! A map and its journal. It does not know logins or catalogues (`dns::names` does) and reads no clock. A mapping is
//! made durable before anyone hears of it, and an address is not given to another name until its old name has been
//! unseen for a day, so that what a program remembers never leads to another resource.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use portlatch_clock::TimeOfDay;
use portlatch_protocol::names::{HostPattern, Hostname};

mod journal;
mod range;

pub use journal::OpenError;
pub use range::{RangeError, Ranges};

use journal::{Journal, Record};

/// How many names a machine maps at most (design section 9); half of a /16, and 4 MB of memory at the worst.
pub const MAX_NAMES: usize = 32_768;
/// How long an address stays with a name that nobody asks for any more (design section 9).
pub const REUSE_AFTER: Duration = Duration::from_hours(24);
/// How far the time in the journal may lag behind the last query for a name: 4,096 names cost 16 KB an hour.
const SEEN_LAG: Duration = Duration::from_hours(6);
/// How long what the journal was told may wait for the next commit, which a kill then loses.
const COMMIT_LAG: Duration = Duration::from_hours(1);

/// The addresses of one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AddressPair {
    /// The IPv4 address; every name has one.
    pub v4: Ipv4Addr,
    /// The IPv6 address, where IPv6 works on this machine.
    pub v6: Option<Ipv6Addr>,
}

/// There is no address left that may be given out; the oldest becomes free at the earliest at the given time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("all of this machine's addresses are in use")]
pub struct Full {
    /// When to try again.
    pub until: TimeOfDay,
}

/// A name's place in the map; stays valid while its name is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(u32);

/// The map of names and addresses.
pub struct Addresses {
    ranges: Ranges,
    /// By offset in the range.
    mappings: Vec<Option<Mapping>>,
    hosts: HashMap<Hostname, Slot>,
    /// By the wildcard's parent.
    wildcards: HashMap<Hostname, Slot>,
    /// Mappings that were reusable when last looked for, the one unseen longest at the end.
    reusable: Vec<(TimeOfDay, Slot)>,
    /// Before this there is nothing to reuse.
    full_until: Option<TimeOfDay>,
    journal: Journal,
}

#[derive(Debug)]
struct Mapping {
    pattern: HostPattern,
    last_seen: TimeOfDay,
    /// The last time seen that the journal has.
    recorded: TimeOfDay,
}

impl Addresses {
    /// The map that `path` holds, or an empty one if there is none or it is of another IPv4 range.
    ///
    /// # Errors
    /// [`OpenError`] if the file is there and cannot be read, or cannot be made.
    pub fn open(path: impl Into<PathBuf>, ranges: Ranges, now: TimeOfDay) -> Result<Self, OpenError> {
        let (journal, records) = Journal::open(path.into(), &ranges)?;
        let mut addresses = Self {
            ranges,
            mappings: Vec::new(),
            hosts: HashMap::new(),
            wildcards: HashMap::new(),
            reusable: Vec::new(),
            full_until: None,
            journal,
        };
        for record in records {
            addresses.restore(record, now);
        }
        if addresses.journal.wants_rewrite(addresses.len()) {
            addresses.rewrite()?;
        }
        Ok(addresses)
    }

    fn restore(&mut self, record: Record, now: TimeOfDay) {
        let (index, seen, pattern) = match record {
            Record::Mapped { index, seen, pattern } => (index, seen, Some(pattern)),
            Record::Seen { index, seen } => (index, seen, None),
        };
        if index < Ranges::FIRST_INDEX || index > self.ranges.last_index() {
            return;
        }
        // A time in the future comes from a clock that was wrong: believed, it would hold the address for ever.
        let (recorded, last_seen) = (seen.min(now), seen.after(SEEN_LAG + COMMIT_LAG).min(now));
        match pattern {
            Some(pattern) => self.put(Slot(index), Mapping { pattern, last_seen, recorded }),
            None => {
                if let Some(mapping) = self.mapping_mut(Slot(index)) {
                    (mapping.last_seen, mapping.recorded) = (last_seen, recorded);
                }
            }
        }
    }

    /// How many names are mapped.
    pub fn len(&self) -> usize {
        self.hosts.len() + self.wildcards.len()
    }

    /// Whether no name is mapped.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The ranges that the addresses are taken from.
    pub const fn ranges(&self) -> &Ranges {
        &self.ranges
    }

    /// The name's addresses: those it has, or new ones. They are durable when this returns, unless the disk fails:
    /// then the mapping is in memory alone and written at the next chance.
    ///
    /// # Errors
    /// [`Full`] if no address may be given out.
    pub fn assign(&mut self, pattern: &HostPattern, now: TimeOfDay) -> Result<AddressPair, Full> {
        let slot = self.map(pattern, now)?;
        self.commit();
        Ok(self.pair(slot))
    }

    /// As [`Self::assign`], but durable only after [`Self::commit`]: for many names at once.
    ///
    /// # Errors
    /// [`Full`] if no address may be given out.
    pub fn map(&mut self, pattern: &HostPattern, now: TimeOfDay) -> Result<Slot, Full> {
        if let Some(slot) = self.slot_of(pattern) {
            self.see(slot, now);
            return Ok(slot);
        }
        let slot = self.unused_slot(now)?;
        self.put(slot, Mapping { pattern: pattern.clone(), last_seen: now, recorded: now });
        self.journal.note_mapped(slot.0, now, pattern);
        Ok(slot)
    }

    /// Makes all mappings durable. A failure is logged and made good at the next call.
    pub fn commit(&mut self) {
        let written = match self.journal.wants_rewrite(self.len()) {
            true => self.rewrite(),
            false => self.journal.commit().map_err(OpenError::Write),
        };
        if let Err(error) = written {
            tracing::warn!(%error, "the address map could not be written; addresses may change at the next start");
        }
    }

    /// The addresses of a mapped name.
    pub const fn pair(&self, slot: Slot) -> AddressPair {
        self.ranges.pair(slot.0)
    }

    /// The place of a host's own mapping.
    pub fn slot_of_host(&self, host: &str) -> Option<Slot> {
        self.hosts.get(host).copied()
    }

    /// The place of the wildcard with this parent.
    pub fn slot_of_wildcard(&self, parent: &str) -> Option<Slot> {
        self.wildcards.get(parent).copied()
    }

    fn slot_of(&self, pattern: &HostPattern) -> Option<Slot> {
        match wildcard_parent(pattern) {
            Some(parent) => self.slot_of_wildcard(parent),
            None => self.slot_of_host(pattern.as_str()),
        }
    }

    /// The addresses of all mapped names, asked for lately or not.
    pub fn pairs(&self) -> impl Iterator<Item = AddressPair> {
        (0..)
            .zip(&self.mappings)
            .filter(|(_, mapping)| mapping.is_some())
            .map(|(index, _)| self.ranges.pair(index))
    }

    /// The name, or the wildcard, that `address` stands for.
    pub fn name_of(&self, address: IpAddr) -> Option<&HostPattern> {
        let index = usize::try_from(self.ranges.index_of(address)?).ok()?;
        Some(&self.mappings.get(index)?.as_ref()?.pattern)
    }

    /// The name in this place.
    pub fn pattern(&self, slot: Slot) -> Option<&HostPattern> {
        self.mapping(slot).map(|mapping| &mapping.pattern)
    }

    /// Whether the name was mapped or asked for within the last day.
    pub fn is_recent(&self, slot: Slot, now: TimeOfDay) -> bool {
        self.mapping(slot).is_some_and(|mapping| now < mapping.last_seen.after(REUSE_AFTER))
    }

    /// Notes that the name is in use.
    pub fn see(&mut self, slot: Slot, now: TimeOfDay) {
        let Some(mapping) = self.mapping_mut(slot) else { return };
        mapping.last_seen = now;
        if now >= mapping.recorded && now < mapping.recorded.after(SEEN_LAG) {
            return;
        }
        mapping.recorded = now;
        self.journal.note_seen(slot.0, now);
    }

    fn unused_slot(&mut self, now: TimeOfDay) -> Result<Slot, Full> {
        let fresh = u32::try_from(self.mappings.len()).unwrap_or(u32::MAX).max(Ranges::FIRST_INDEX);
        if self.len() < MAX_NAMES && fresh <= self.ranges.last_index() {
            return Ok(Slot(fresh));
        }
        if let Some(until) = self.full_until.filter(|until| now < *until) {
            return Err(Full { until });
        }
        loop {
            if self.reusable.is_empty() {
                self.find_reusable(now)?;
            }
            let Some((seen, slot)) = self.reusable.pop() else { continue };
            // It may have been asked for since the list was made.
            if self.mapping(slot).is_some_and(|mapping| mapping.last_seen == seen) {
                return Ok(slot);
            }
        }
    }

    fn find_reusable(&mut self, now: TimeOfDay) -> Result<(), Full> {
        let mut oldest = now;
        for (index, mapping) in (0..).zip(&self.mappings) {
            let Some(mapping) = mapping else { continue };
            oldest = oldest.min(mapping.last_seen);
            if mapping.last_seen.after(REUSE_AFTER) <= now {
                self.reusable.push((mapping.last_seen, Slot(index)));
            }
        }
        self.reusable.sort_unstable_by(|a, b| b.cmp(a));
        if self.reusable.is_empty() {
            let until = oldest.after(REUSE_AFTER);
            self.full_until = Some(until);
            return Err(Full { until });
        }
        self.full_until = None;
        Ok(())
    }

    fn put(&mut self, slot: Slot, mapping: Mapping) {
        let index = slot.0 as usize;
        if self.mappings.len() <= index {
            self.mappings.resize_with(index + 1, || None);
        }
        // A name that moved (two records of a damaged journal) leaves its old place, so that no place lies.
        if let Some(former) = self.slot_of(&mapping.pattern).filter(|former| *former != slot) {
            self.mappings[former.0 as usize] = None;
        }
        if let Some(replaced) = self.mappings[index].take() {
            match wildcard_parent(&replaced.pattern) {
                Some(parent) => self.wildcards.remove(parent),
                None => self.hosts.remove(replaced.pattern.as_str()),
            };
        }
        match mapping.pattern.parent() {
            Some(parent) => self.wildcards.insert(parent, slot),
            None => self.hosts.insert(mapping.pattern.anchor(), slot),
        };
        self.mappings[index] = Some(mapping);
    }

    fn mapping(&self, slot: Slot) -> Option<&Mapping> {
        self.mappings.get(slot.0 as usize)?.as_ref()
    }

    fn mapping_mut(&mut self, slot: Slot) -> Option<&mut Mapping> {
        self.mappings.get_mut(slot.0 as usize)?.as_mut()
    }

    fn rewrite(&mut self) -> Result<(), OpenError> {
        let mappings = (0_u32..).zip(&self.mappings);
        let records = mappings.filter_map(|(index, mapping)| {
            mapping.as_ref().map(|mapping| (index, mapping.recorded, &mapping.pattern))
        });
        self.journal.rewrite(&self.ranges, records).map_err(OpenError::Write)
    }
}

/// Names are what users reach: only their number is shown.
impl fmt::Debug for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Addresses")
            .field("names", &self.len())
            .field("ranges", &self.ranges)
            .finish_non_exhaustive()
    }
}

fn wildcard_parent(pattern: &HostPattern) -> Option<&str> {
    pattern.as_str().strip_prefix("*.")
}

#[cfg(test)]
mod tests;
