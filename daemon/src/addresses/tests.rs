//! The map as restarts, crashes and time see it.

use super::*;
use std::collections::HashSet;

const NOON: TimeOfDay = TimeOfDay(1_790_000_000_000);

#[test]
fn the_same_name_has_the_same_address_whatever_its_case() {
    let (_dir, mut addresses) = fresh("198.18.0.0", 16);
    let pair = addresses.assign(&pattern("Billing-DB.corp.internal"), NOON).unwrap();
    assert_eq!(addresses.assign(&pattern("billing-db.CORP.internal"), NOON), Ok(pair));
    assert_eq!(addresses.name_of(pair.v4.into()), Some(&pattern("billing-db.corp.internal")));
    assert_eq!(addresses.name_of(pair.v6.unwrap().into()), Some(&pattern("billing-db.corp.internal")));
}

#[test]
fn a_wildcard_and_its_parent_have_different_addresses() {
    let (_dir, mut addresses) = fresh("198.18.0.0", 16);
    let below = addresses.assign(&pattern("*.dev.corp.internal"), NOON).unwrap();
    let parent = addresses.assign(&pattern("dev.corp.internal"), NOON).unwrap();
    assert_ne!(below, parent);
    assert_eq!(addresses.name_of(below.v4.into()), Some(&pattern("*.dev.corp.internal")));
}

#[test]
fn reserved_addresses_are_never_given_out() {
    let (_dir, mut addresses) = fresh("198.18.0.16", 28);
    let mut given = HashSet::new();
    while let Ok(pair) = addresses.assign(&pattern(&format!("n{}.corp.internal", given.len())), NOON) {
        given.insert(pair.v4.octets()[3]);
    }
    assert_eq!(given, (19..=30).collect());
}

#[test]
fn addresses_are_the_same_over_a_hundred_reopenings() {
    let (dir, mut addresses) = fresh("198.18.0.0", 16);
    let before: Vec<_> =
        (0..100).map(|n| addresses.assign(&pattern(&format!("n{n}.corp.internal")), NOON).unwrap()).collect();
    for round in 0..100 {
        drop(addresses);
        addresses = reopen(&dir, "198.18.0.0", 16, NOON.after(Duration::from_hours(round)));
        addresses.assign(&pattern(&format!("later{round}.corp.internal")), NOON).unwrap();
    }
    for (n, pair) in before.iter().enumerate() {
        assert_eq!(addresses.assign(&pattern(&format!("n{n}.corp.internal")), NOON), Ok(*pair));
    }
    assert_eq!(addresses.len(), 200);
}

#[test]
fn an_address_is_reused_only_after_a_day_unseen() {
    let (_dir, mut addresses) = fresh("198.18.0.0", 28);
    for n in 0..12 {
        addresses.assign(&pattern(&format!("n{n}.corp.internal")), NOON).unwrap();
    }
    let used_later = addresses.slot_of_host("n0.corp.internal").unwrap();
    addresses.see(used_later, NOON.after(Duration::from_hours(1)));
    let almost = TimeOfDay(NOON.after(REUSE_AFTER).0 - 1);
    assert_eq!(
        addresses.assign(&pattern("new.corp.internal"), almost),
        Err(Full { until: NOON.after(REUSE_AFTER) })
    );
    let day_later = NOON.after(REUSE_AFTER);
    for n in 0..11 {
        addresses.assign(&pattern(&format!("new{n}.corp.internal")), day_later).unwrap();
    }
    assert!(addresses.assign(&pattern("one-too-many.corp.internal"), day_later).is_err());
    assert_eq!(addresses.slot_of_host("n0.corp.internal"), Some(used_later));
    assert_eq!(addresses.slot_of_host("n1.corp.internal"), None);
}

#[test]
fn a_restart_does_not_shorten_the_day() {
    let (dir, mut addresses) = fresh("198.18.0.0", 28);
    for n in 0..12 {
        addresses.assign(&pattern(&format!("n{n}.corp.internal")), NOON).unwrap();
    }
    // Seen later than the journal notes, which may lag.
    let seen = TimeOfDay(NOON.after(SEEN_LAG).0 - 1);
    addresses.see(addresses.slot_of_host("n0.corp.internal").unwrap(), seen);
    drop(addresses);
    let mut addresses = reopen(&dir, "198.18.0.0", 28, seen);
    let before_reuse = TimeOfDay(seen.after(REUSE_AFTER).0 - 1);
    assert!(addresses.assign(&pattern("new.corp.internal"), before_reuse).is_err());
}

#[test]
fn a_time_in_the_future_does_not_hold_an_address_for_ever() {
    let (dir, mut addresses) = fresh("198.18.0.0", 28);
    let next_year = NOON.after(Duration::from_hours(24 * 365));
    for n in 0..12 {
        addresses.assign(&pattern(&format!("n{n}.corp.internal")), next_year).unwrap();
    }
    drop(addresses);
    let mut addresses = reopen(&dir, "198.18.0.0", 28, NOON);
    assert!(addresses.assign(&pattern("new.corp.internal"), NOON.after(REUSE_AFTER)).is_ok());
}

#[test]
fn another_range_starts_anew() {
    let (dir, mut addresses) = fresh("198.18.0.0", 16);
    addresses.assign(&pattern("a.corp.internal"), NOON).unwrap();
    drop(addresses);
    let addresses = reopen(&dir, "198.19.0.0", 16, NOON);
    assert!(addresses.is_empty());
    assert_eq!(addresses.pairs().count(), 0);
}

#[test]
fn a_machine_maps_at_most_its_limit_of_names() {
    let (_dir, mut addresses) = fresh("198.18.0.0", 16);
    for n in 0..MAX_NAMES {
        addresses.map(&pattern(&format!("n{n}.corp.internal")), NOON).unwrap();
    }
    assert!(addresses.map(&pattern("one-too-many.corp.internal"), NOON).is_err());
    assert_eq!(addresses.len(), MAX_NAMES);
}

#[test]
fn a_journal_cut_at_any_byte_opens_and_keeps_what_was_whole() {
    let (dir, mut addresses) = fresh("198.18.0.0", 16);
    let pairs: Vec<_> =
        (0..4).map(|n| addresses.assign(&pattern(&format!("n{n}.corp.internal")), NOON).unwrap()).collect();
    drop(addresses);
    let file = dir.path().join("addresses");
    let whole = std::fs::read(&file).unwrap();
    for length in 0..whole.len() {
        std::fs::write(&file, &whole[..length]).unwrap();
        let lines = whole[..length].iter().filter(|byte| **byte == b'\n').count();
        let mut addresses = reopen(&dir, "198.18.0.0", 16, NOON);
        let kept: Vec<_> = addresses.pairs().collect();
        assert_eq!(kept, pairs[..lines.saturating_sub(1)], "cut at {length}");
        // What is written behind the cut is whole again.
        let later = addresses.assign(&pattern("later.corp.internal"), NOON).unwrap();
        drop(addresses);
        let addresses = reopen(&dir, "198.18.0.0", 16, NOON);
        for (n, pair) in pairs.iter().enumerate().take(lines.saturating_sub(1)) {
            assert_eq!(addresses.name_of(pair.v4.into()), Some(&pattern(&format!("n{n}.corp.internal"))));
        }
        assert_eq!(addresses.name_of(later.v4.into()), Some(&pattern("later.corp.internal")));
    }
}

#[test]
fn the_journal_does_not_grow_with_use() {
    let (dir, mut addresses) = fresh("198.18.0.0", 16);
    for hours in 0..3000 {
        let now = NOON.after(Duration::from_hours(hours * 7));
        addresses.map(&pattern("a.corp.internal"), now).unwrap();
        addresses.commit();
    }
    assert!(std::fs::metadata(dir.path().join("addresses")).unwrap().len() < 70_000);
}

#[test]
fn mappings_survive_a_time_in_which_nothing_could_be_written() {
    let (dir, mut addresses) = fresh("198.18.0.0", 16);
    let folder = dir.path().to_owned();
    addresses.journal.fail_writes();
    let pair = addresses.assign(&pattern("a.corp.internal"), NOON).unwrap();
    assert!(addresses.journal.wants_rewrite(1), "the failure is remembered");
    addresses.commit();
    drop(addresses);
    assert!(folder.join("addresses").exists());
    let addresses = reopen(&dir, "198.18.0.0", 16, NOON);
    assert_eq!(addresses.name_of(pair.v4.into()), Some(&pattern("a.corp.internal")));
}

fn pattern(text: &str) -> HostPattern {
    text.parse().unwrap()
}

fn fresh(network: &str, prefix: u8) -> (tempfile::TempDir, Addresses) {
    let dir = tempfile::tempdir().unwrap();
    let addresses = reopen(&dir, network, prefix, NOON);
    (dir, addresses)
}

fn reopen(dir: &tempfile::TempDir, network: &str, prefix: u8, now: TimeOfDay) -> Addresses {
    let v6 = ("fd12:3456:789a::".parse().unwrap(), 64);
    let ranges = Ranges::new((network.parse().unwrap(), prefix), Some(v6)).unwrap();
    Addresses::open(dir.path().join("addresses"), ranges, now).unwrap()
}
