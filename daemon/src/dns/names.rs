//! Which names are ours: the zones that root listed, what the attached logins' catalogues list in them, and what was
//! mapped within the last day.
//!
//! DNS queries have no identity (the system's resolver asks for everybody), so one table serves all logins; whether a
//! login may reach a name is decided when it connects.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use portlatch_clock::TimeOfDay;
use portlatch_protocol::names::{HostPattern, Hostname, Id};
use portlatch_protocol::resource::Zone;

use super::arpa::{IsV6, Prefix, apex_labels};
use crate::addresses::{AddressPair, Addresses, Slot};

/// How many names one login may have (design section 9).
pub const MAX_NAMES_PER_LOGIN: usize = 4096;
/// How many zones a cluster may announce below those that root listed; each is looked at for every query.
pub const MAX_ZONES: usize = 64;
/// How many hosts of control and proxies a login may name.
pub const MAX_OUTSIDE: usize = 256;
/// Listed names count as seen this often, so that their addresses are never taken for unused ones.
const REFRESH_EVERY: Duration = Duration::from_hours(1);

/// What the server asks about names.
pub trait Names {
    /// What a host's name is to us.
    fn lookup(&mut self, name: &Hostname, now: TimeOfDay) -> NameAnswer;

    /// The same for a name that no host may have, somewhere below `below`.
    fn lookup_no_host(&mut self, below: &Hostname) -> NameAnswer;

    /// What an address, or the beginning of one, is to us.
    fn reverse(&mut self, prefix: Prefix) -> ReverseAnswer;
}

/// What a name is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameAnswer {
    /// It has these addresses.
    Ours {
        /// The addresses.
        addresses: AddressPair,
        /// How many labels its zone has.
        apex_labels: usize,
    },
    /// It is there and has no address: an exclusive zone itself, or a name above one of ours.
    Exists {
        /// How many labels its zone has.
        apex_labels: usize,
    },
    /// It may be another of the company's names: the other resolvers know.
    NotOurs,
    /// There is no such name in this exclusive zone.
    DoesNotExist {
        /// How many labels the zone has.
        apex_labels: usize,
    },
    /// No catalogue of its cluster was seen yet.
    Unknown,
    /// It lies in none of our zones.
    OutsideZones,
}

/// What an address is to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReverseAnswer {
    /// It stands for this name; for a wildcard, for the name above those that it stands for.
    Ours {
        /// The name.
        name: Hostname,
        /// How many labels the reverse zone has.
        apex_labels: usize,
    },
    /// The beginning of addresses of ours.
    Exists {
        /// How many labels the reverse zone has.
        apex_labels: usize,
    },
    /// An address of our range that stands for nothing.
    DoesNotExist {
        /// How many labels the reverse zone has.
        apex_labels: usize,
    },
    /// Not an address of ours.
    OutsideRange,
}

/// A zone that root listed, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedZone {
    /// The cluster's public host.
    pub cluster: Hostname,
    /// The DNS suffix.
    pub suffix: Hostname,
}

/// What a login's catalogue says of names.
#[derive(Debug, Clone, Copy)]
pub struct CatalogueNames<'a> {
    /// Its cluster.
    pub cluster: &'a Hostname,
    /// The names of its resources.
    pub patterns: &'a [HostPattern],
    /// The cluster's zones.
    pub zones: &'a [Zone],
    /// Hosts of control and proxies.
    pub outside: &'a [Hostname],
}

/// How many of a catalogue's names were taken, and how many were not, by cause.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taken {
    /// Names that have an address now.
    pub mapped: usize,
    /// Names outside the cluster's zones.
    pub outside_zones: usize,
    /// Names over the login's limit.
    pub over_limit: usize,
    /// Names for which the machine has no address left.
    pub without_address: usize,
}

/// The names of this machine.
#[derive(Debug)]
pub struct NameTable {
    addresses: Addresses,
    trusted: Vec<TrustedZone>,
    /// By cluster, from its newest catalogue; kept when its logins go.
    announced: HashMap<Hostname, Vec<Zone>>,
    logins: HashMap<Id, LoginNames>,
    /// How many logins list the name.
    listed: HashMap<Slot, u32>,
    /// The names above listed ones.
    above: HashSet<Hostname>,
    /// The hosts of control and proxies.
    outside: HashSet<Hostname>,
    refreshed: TimeOfDay,
}

#[derive(Debug, Default)]
struct LoginNames {
    slots: Vec<Slot>,
    outside: Vec<Hostname>,
}

/// The zone that a name lies in.
#[derive(Debug, Clone, Copy)]
struct FoundZone<'a> {
    trusted: &'a TrustedZone,
    apex: &'a Hostname,
    kind: ZoneKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ZoneKind {
    /// No catalogue of the cluster was seen yet.
    Unknown,
    Shared,
    Exclusive,
}

impl NameTable {
    /// The table of these zones, with what is mapped already.
    pub fn new(addresses: Addresses, trusted: Vec<TrustedZone>, now: TimeOfDay) -> Self {
        let mut table = Self {
            addresses,
            trusted: Vec::new(),
            announced: HashMap::new(),
            logins: HashMap::new(),
            listed: HashMap::new(),
            above: HashSet::new(),
            outside: HashSet::new(),
            refreshed: now,
        };
        table.set_trusted(trusted);
        table
    }

    /// Puts these zones in place of those that root listed before. A zone that is listed twice belongs to the cluster
    /// that is named first.
    pub fn set_trusted(&mut self, trusted: Vec<TrustedZone>) {
        self.trusted.clear();
        for zone in trusted {
            if !self.trusted.iter().any(|known| known.suffix == zone.suffix) {
                self.trusted.push(zone);
            }
        }
        self.collect_outside();
    }

    /// The map of names and addresses.
    pub const fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Puts a login's names in place of those it had. All of them have durable addresses when this returns.
    pub fn set_catalogue(&mut self, login: &Id, names: CatalogueNames<'_>, now: TimeOfDay) -> Taken {
        let zones = names.zones.iter().filter(|zone| self.is_acceptable(zone, names.cluster)).take(MAX_ZONES);
        let zones = zones.cloned().collect();
        self.announced.insert(names.cluster.clone(), zones);
        // Before an unused address is looked for, those in use are told apart from it.
        self.refresh(now);
        let mut taken = Taken::default();
        let mut slots = HashSet::new();
        for pattern in names.patterns {
            let zone = self.zone_of(&pattern.anchor());
            if zone.is_none_or(|zone| zone.trusted.cluster != *names.cluster) {
                taken.outside_zones += 1;
            } else if slots.len() >= MAX_NAMES_PER_LOGIN {
                taken.over_limit += 1;
            } else {
                match self.addresses.map(pattern, now) {
                    Ok(slot) => _ = slots.insert(slot),
                    Err(_) => taken.without_address += 1,
                }
            }
        }
        taken.mapped = slots.len();
        self.addresses.commit();
        let outside = names.outside.iter().take(MAX_OUTSIDE).cloned().collect();
        self.replace(login, Some(LoginNames { slots: slots.into_iter().collect(), outside }));
        taken
    }

    /// Forgets a login's names. Their addresses and the cluster's zones stay.
    pub fn remove_login(&mut self, login: &Id) {
        self.replace(login, None);
    }

    /// The name, or the wildcard, that `address` stands for.
    pub fn name_of(&self, address: IpAddr) -> Option<&HostPattern> {
        self.addresses.name_of(address)
    }

    fn replace(&mut self, login: &Id, names: Option<LoginNames>) {
        for slot in names.iter().flat_map(|names| &names.slots) {
            *self.listed.entry(*slot).or_default() += 1;
        }
        let former = match names {
            Some(names) => self.logins.insert(login.clone(), names),
            None => self.logins.remove(login),
        };
        for slot in former.iter().flat_map(|names| &names.slots) {
            if let Some(count) = self.listed.get_mut(slot) {
                *count -= 1;
            }
        }
        self.listed.retain(|_, count| *count > 0);
        self.collect_outside();
        self.collect_above();
    }

    fn collect_outside(&mut self) {
        let of_logins = self.logins.values().flat_map(|names| names.outside.iter().cloned());
        self.outside = of_logins.chain(self.trusted.iter().map(|zone| zone.cluster.clone())).collect();
    }

    fn collect_above(&mut self) {
        let mut above = HashSet::new();
        for pattern in self.listed.keys().filter_map(|slot| self.addresses.pattern(*slot)) {
            let mut next = pattern.parent().or_else(|| parent(&pattern.anchor()));
            while let Some(name) = next {
                next = parent(&name);
                if !above.insert(name) {
                    break;
                }
            }
        }
        self.above = above;
    }

    /// A zone that a catalogue announces says how names are answered, never which: it must touch what root listed.
    fn is_acceptable(&self, zone: &Zone, cluster: &Hostname) -> bool {
        let own = self.trusted.iter().filter(|trusted| trusted.cluster == *cluster);
        own.into_iter()
            .any(|trusted| zone.suffix.is_within(&trusted.suffix) || trusted.suffix.is_within(&zone.suffix))
    }

    fn zone_of(&self, name: &Hostname) -> Option<FoundZone<'_>> {
        let around = self.trusted.iter().filter(|zone| name.is_within(&zone.suffix));
        let trusted = around.max_by_key(|zone| zone.suffix.as_str().len())?;
        let Some(announced) = self.announced.get(&trusted.cluster) else {
            return Some(FoundZone { trusted, apex: &trusted.suffix, kind: ZoneKind::Unknown });
        };
        let around = announced.iter().filter(|zone| name.is_within(&zone.suffix));
        let Some(zone) = around.max_by_key(|zone| zone.suffix.as_str().len()) else {
            return Some(FoundZone { trusted, apex: &trusted.suffix, kind: ZoneKind::Shared });
        };
        let apex = match zone.suffix.is_within(&trusted.suffix) {
            true => &zone.suffix,
            false => &trusted.suffix,
        };
        let kind = if zone.exclusive { ZoneKind::Exclusive } else { ZoneKind::Shared };
        Some(FoundZone { trusted, apex, kind })
    }

    /// The most special name that matches: the host itself, then the wildcards above it, within the zone.
    fn slot_of(&self, name: &Hostname, zone: &Hostname, now: TimeOfDay) -> Option<Slot> {
        let is_answered =
            |slot: &Slot| self.listed.contains_key(slot) || self.addresses.is_recent(*slot, now);
        if let Some(slot) = self.addresses.slot_of_host(name.as_str()).filter(is_answered) {
            return Some(slot);
        }
        let mut rest = name.as_str();
        while rest.len() > zone.as_str().len() {
            rest = rest.split_once('.')?.1;
            if let Some(slot) = self.addresses.slot_of_wildcard(rest).filter(is_answered) {
                return Some(slot);
            }
        }
        None
    }

    /// Notes that all listed names are in use.
    fn refresh(&mut self, now: TimeOfDay) {
        for slot in self.listed.keys() {
            self.addresses.see(*slot, now);
        }
        self.addresses.commit();
        self.refreshed = now;
    }
}

impl Names for NameTable {
    fn lookup(&mut self, name: &Hostname, now: TimeOfDay) -> NameAnswer {
        if now < self.refreshed || now >= self.refreshed.after(REFRESH_EVERY) {
            self.refresh(now);
        }
        let Some(zone) = self.zone_of(name) else { return NameAnswer::OutsideZones };
        if self.outside.contains(name) {
            return NameAnswer::NotOurs;
        }
        let apex_labels = zone.apex.labels();
        if let Some(slot) = self.slot_of(name, &zone.trusted.suffix, now) {
            self.addresses.see(slot, now);
            return NameAnswer::Ours { addresses: self.addresses.pair(slot), apex_labels };
        }
        match zone.kind {
            ZoneKind::Unknown => NameAnswer::Unknown,
            ZoneKind::Shared => NameAnswer::NotOurs,
            ZoneKind::Exclusive if name == zone.apex || self.above.contains(name) => {
                NameAnswer::Exists { apex_labels }
            }
            ZoneKind::Exclusive => NameAnswer::DoesNotExist { apex_labels },
        }
    }

    fn lookup_no_host(&mut self, below: &Hostname) -> NameAnswer {
        let Some(zone) = self.zone_of(below) else { return NameAnswer::OutsideZones };
        match zone.kind {
            ZoneKind::Unknown => NameAnswer::Unknown,
            ZoneKind::Shared => NameAnswer::NotOurs,
            ZoneKind::Exclusive => NameAnswer::DoesNotExist { apex_labels: zone.apex.labels() },
        }
    }

    fn reverse(&mut self, prefix: Prefix) -> ReverseAnswer {
        let ranges = self.addresses.ranges();
        let (is_v6, range_length) = match (prefix.address, ranges.v6()) {
            (IpAddr::V4(_), _) => (IsV6::No, ranges.v4().1),
            (IpAddr::V6(_), Some((_, length))) => (IsV6::Yes, length),
            (IpAddr::V6(_), None) => return ReverseAnswer::OutsideRange,
        };
        let apex_labels = apex_labels(is_v6, range_length);
        if prefix.length < range_length || !ranges.contains(prefix.address) {
            return ReverseAnswer::OutsideRange;
        }
        let whole = match is_v6 {
            IsV6::Yes => 128,
            IsV6::No => 32,
        };
        if prefix.length < whole {
            return ReverseAnswer::Exists { apex_labels };
        }
        match self.addresses.name_of(prefix.address) {
            Some(pattern) => ReverseAnswer::Ours { name: pattern.anchor(), apex_labels },
            None => ReverseAnswer::DoesNotExist { apex_labels },
        }
    }
}

fn parent(name: &Hostname) -> Option<Hostname> {
    name.as_str().split_once('.')?.1.parse().ok()
}

#[cfg(test)]
mod tests;
