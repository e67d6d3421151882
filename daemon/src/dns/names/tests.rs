//! The rules of design section 9, one by one.

use super::*;
use crate::addresses::{REUSE_AFTER, Ranges};

const NOON: TimeOfDay = TimeOfDay(1_790_000_000_000);

#[test]
fn a_listed_name_has_an_address_and_keeps_it() {
    let (_dir, mut table) = table(&["corp.internal"]);
    set(&mut table, "login1", &["billing-db.corp.internal"], &[shared("corp.internal")]);
    let first = ours(&mut table, "billing-db.corp.internal", NOON);
    assert_eq!(ours(&mut table, "Billing-DB.corp.internal.", NOON.after(REUSE_AFTER * 3)), first);
    assert_eq!(table.name_of(first.v4.into()), Some(&"billing-db.corp.internal".parse().unwrap()));
}

#[test]
fn all_names_below_a_wildcard_have_one_address_and_its_parent_has_none() {
    let (_dir, mut table) = table(&["corp.internal"]);
    set(
        &mut table,
        "login1",
        &["*.dev.corp.internal", "db.dev.corp.internal"],
        &[exclusive("corp.internal")],
    );
    let a = ours(&mut table, "a.dev.corp.internal", NOON);
    assert_eq!(ours(&mut table, "c.b.dev.corp.internal", NOON), a);
    assert_ne!(ours(&mut table, "db.dev.corp.internal", NOON), a);
    assert_eq!(look(&mut table, "dev.corp.internal", NOON), NameAnswer::Exists { apex_labels: 2 });
}

#[test]
fn a_name_that_nobody_lists_is_left_to_the_other_resolvers() {
    let (_dir, mut table) = table(&["corp.internal"]);
    set(&mut table, "login1", &["db.corp.internal"], &[shared("corp.internal")]);
    assert_eq!(look(&mut table, "wiki.corp.internal", NOON), NameAnswer::NotOurs);
    assert_eq!(look(&mut table, "corp.internal", NOON), NameAnswer::NotOurs);
    assert_eq!(table.lookup_no_host(&"corp.internal".parse().unwrap()), NameAnswer::NotOurs);
}

#[test]
fn in_an_exclusive_zone_a_name_that_nobody_lists_does_not_exist() {
    let (_dir, mut table) = table(&["corp.internal", "prod.internal"]);
    let zones = [shared("corp.internal"), exclusive("prod.internal"), exclusive("secret.corp.internal")];
    set(&mut table, "login1", &["a.eu.prod.internal"], &zones);
    let missing = |apex_labels| NameAnswer::DoesNotExist { apex_labels };
    assert_eq!(look(&mut table, "b.prod.internal", NOON), missing(2));
    assert_eq!(look(&mut table, "x.secret.corp.internal", NOON), missing(3));
    assert_eq!(look(&mut table, "x.corp.internal", NOON), NameAnswer::NotOurs);
    assert_eq!(look(&mut table, "eu.prod.internal", NOON), NameAnswer::Exists { apex_labels: 2 });
    assert_eq!(look(&mut table, "prod.internal", NOON), NameAnswer::Exists { apex_labels: 2 });
    assert_eq!(table.lookup_no_host(&"prod.internal".parse().unwrap()), missing(2));
}

#[test]
fn names_outside_all_zones_are_nobodys() {
    let (_dir, mut table) = table(&["corp.internal"]);
    for name in ["example.com", "internal", "evilcorp.internal"] {
        assert_eq!(look(&mut table, name, NOON), NameAnswer::OutsideZones, "{name}");
    }
}

#[test]
fn before_any_catalogue_only_mapped_names_are_known() {
    let dir = tempfile::tempdir().unwrap();
    let mut table = table_in(&dir, &["corp.internal"], NOON);
    assert_eq!(look(&mut table, "db.corp.internal", NOON), NameAnswer::Unknown);
    set(&mut table, "login1", &["db.corp.internal"], &[shared("corp.internal")]);
    let before = ours(&mut table, "db.corp.internal", NOON);
    drop(table);

    let mut table = table_in(&dir, &["corp.internal"], NOON.after(Duration::from_hours(1)));
    assert_eq!(ours(&mut table, "db.corp.internal", NOON.after(Duration::from_hours(1))), before);
    assert_eq!(look(&mut table, "wiki.corp.internal", NOON), NameAnswer::Unknown);
}

#[test]
fn a_name_that_left_all_catalogues_is_answered_for_a_day() {
    let (_dir, mut table) = table(&["corp.internal"]);
    set(&mut table, "login1", &["db.corp.internal", "*.dev.corp.internal"], &[shared("corp.internal")]);
    let before = ours(&mut table, "db.corp.internal", NOON);
    set(&mut table, "login1", &[], &[shared("corp.internal")]);
    let almost = TimeOfDay(NOON.after(REUSE_AFTER).0 - 1);
    assert_eq!(ours(&mut table, "db.corp.internal", almost), before);
    // Asking counts as seeing: another day begins.
    let later = almost.after(REUSE_AFTER);
    assert_eq!(look(&mut table, "x.dev.corp.internal", later), NameAnswer::NotOurs);
    assert_eq!(look(&mut table, "db.corp.internal", later), NameAnswer::NotOurs);
}

#[test]
fn zones_and_what_is_known_of_them_stay_when_a_login_goes() {
    let (_dir, mut table) = table(&["corp.internal"]);
    set(&mut table, "login1", &["db.corp.internal"], &[exclusive("corp.internal")]);
    table.remove_login(&"login1".parse().unwrap());
    ours(&mut table, "db.corp.internal", NOON);
    assert_eq!(look(&mut table, "x.corp.internal", NOON), NameAnswer::DoesNotExist { apex_labels: 2 });
}

#[test]
fn a_name_stays_listed_until_its_last_login_goes() {
    let (_dir, mut table) = table(&["corp.internal"]);
    for login in ["login1", "login2"] {
        set(&mut table, login, &["db.corp.internal"], &[shared("corp.internal")]);
    }
    table.remove_login(&"login1".parse().unwrap());
    let next_week = NOON.after(REUSE_AFTER * 7);
    ours(&mut table, "db.corp.internal", next_week);
    table.remove_login(&"login2".parse().unwrap());
    assert_eq!(look(&mut table, "db.corp.internal", next_week.after(REUSE_AFTER)), NameAnswer::NotOurs);
}

#[test]
fn hosts_of_control_and_proxies_are_never_ours() {
    let (_dir, mut table) = table(&["corp.internal"]);
    assert_eq!(look(&mut table, CLUSTER, NOON), NameAnswer::NotOurs, "known before any catalogue");
    let names = CatalogueNames {
        cluster: &CLUSTER.parse().unwrap(),
        patterns: &[pattern("*.corp.internal"), pattern("berlin.corp.internal")],
        zones: &[exclusive("corp.internal")],
        outside: &["berlin.corp.internal".parse().unwrap()],
    };
    table.set_catalogue(&"login1".parse().unwrap(), names, NOON);
    for host in [CLUSTER, "berlin.corp.internal"] {
        assert_eq!(look(&mut table, host, NOON), NameAnswer::NotOurs, "{host}");
    }
    ours(&mut table, "munich.corp.internal", NOON);
}

#[test]
fn a_catalogue_cannot_take_names_outside_its_clusters_zones() {
    let (_dir, mut table) = table(&["corp.internal"]);
    table.set_trusted(vec![
        trusted(CLUSTER, "corp.internal"),
        trusted("other.example", "lab.corp.internal"),
        trusted("other.example", "corp.internal"),
    ]);
    let patterns = ["db.corp.internal", "*.example.com", "x.lab.corp.internal", "*.corp.internal"];
    let taken = set(&mut table, "login1", &patterns, &[exclusive("com"), exclusive("lab.corp.internal")]);
    assert_eq!(taken, Taken { mapped: 2, outside_zones: 2, ..Taken::default() });
    assert_eq!(look(&mut table, "a.example.com", NOON), NameAnswer::OutsideZones);
    // The other cluster's zone is not touched by this one's wildcard, nor by what it says of the zone.
    assert_eq!(look(&mut table, "x.lab.corp.internal", NOON), NameAnswer::Unknown);
}

#[test]
fn a_login_has_at_most_its_limit_of_names() {
    let (_dir, mut table) = table(&["corp.internal"]);
    let patterns: Vec<_> = (0..MAX_NAMES_PER_LOGIN + 5).map(|n| format!("n{n}.corp.internal")).collect();
    let patterns: Vec<_> = patterns.iter().map(String::as_str).collect();
    let taken = set(&mut table, "login1", &patterns, &[shared("corp.internal")]);
    assert_eq!(taken, Taken { mapped: MAX_NAMES_PER_LOGIN, over_limit: 5, ..Taken::default() });
    assert_eq!(look(&mut table, patterns[MAX_NAMES_PER_LOGIN], NOON), NameAnswer::NotOurs);
}

#[test]
fn listed_names_keep_their_addresses_when_the_range_is_used_up() {
    let dir = tempfile::tempdir().unwrap();
    let ranges = Ranges::new(("198.18.0.0".parse().unwrap(), 28), None).unwrap();
    let addresses = Addresses::open(dir.path().join("addresses"), ranges, NOON).unwrap();
    let mut table = NameTable::new(addresses, vec![trusted(CLUSTER, "corp.internal")], NOON);
    let names: Vec<_> = (0..12).map(|n| format!("n{n}.corp.internal")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    set(&mut table, "login1", &names, &[shared("corp.internal")]);
    let before: Vec<_> = names.iter().map(|name| ours(&mut table, name, NOON)).collect();
    // The machine slept for a week: nobody asked for anything, and all of it is still listed.
    let next_week = NOON.after(REUSE_AFTER * 7);
    let more = CatalogueNames {
        cluster: &CLUSTER.parse().unwrap(),
        patterns: &[pattern("new.corp.internal")],
        zones: &[shared("corp.internal")],
        outside: &[],
    };
    let taken = table.set_catalogue(&"login2".parse().unwrap(), more, next_week);
    assert_eq!(taken, Taken { without_address: 1, ..Taken::default() });
    let after: Vec<_> = names.iter().map(|name| ours(&mut table, name, next_week)).collect();
    assert_eq!(before, after);
}

#[test]
fn addresses_read_back_as_names() {
    let (_dir, mut table) = table(&["corp.internal"]);
    set(&mut table, "login1", &["db.corp.internal", "*.dev.corp.internal"], &[shared("corp.internal")]);
    let mut reverse = |address: IpAddr, length| table.reverse(Prefix { address, length });
    let v4 = |last| IpAddr::from([198, 18, 0, last]);
    let name = |name: &str, apex_labels| ReverseAnswer::Ours { name: name.parse().unwrap(), apex_labels };
    assert_eq!(reverse(v4(3), 32), name("db.corp.internal", 4));
    assert_eq!(reverse(v4(4), 32), name("dev.corp.internal", 4));
    assert_eq!(reverse("fd12::3".parse().unwrap(), 128), name("db.corp.internal", 18));
    assert_eq!(reverse(v4(5), 32), ReverseAnswer::DoesNotExist { apex_labels: 4 });
    assert_eq!(reverse(v4(0), 24), ReverseAnswer::Exists { apex_labels: 4 });
    assert_eq!(reverse([198, 0, 0, 0].into(), 8), ReverseAnswer::OutsideRange);
    assert_eq!(reverse([10, 0, 0, 3].into(), 32), ReverseAnswer::OutsideRange);
}

const CLUSTER: &str = "portlatch.corp.internal";

fn table(zones: &[&str]) -> (tempfile::TempDir, NameTable) {
    let dir = tempfile::tempdir().unwrap();
    let table = table_in(&dir, zones, NOON);
    (dir, table)
}

fn table_in(dir: &tempfile::TempDir, zones: &[&str], now: TimeOfDay) -> NameTable {
    let v6 = ("fd12::".parse().unwrap(), 64);
    let ranges = Ranges::new(("198.18.0.0".parse().unwrap(), 16), Some(v6)).unwrap();
    let addresses = Addresses::open(dir.path().join("addresses"), ranges, now).unwrap();
    NameTable::new(addresses, zones.iter().map(|zone| trusted(CLUSTER, zone)).collect(), now)
}

fn set(table: &mut NameTable, login: &str, patterns: &[&str], zones: &[Zone]) -> Taken {
    let patterns: Vec<_> = patterns.iter().map(|text| pattern(text)).collect();
    let cluster = CLUSTER.parse().unwrap();
    let names = CatalogueNames { cluster: &cluster, patterns: &patterns, zones, outside: &[] };
    table.set_catalogue(&login.parse().unwrap(), names, NOON)
}

fn look(table: &mut NameTable, name: &str, now: TimeOfDay) -> NameAnswer {
    table.lookup(&name.parse().unwrap(), now)
}

#[track_caller]
fn ours(table: &mut NameTable, name: &str, now: TimeOfDay) -> AddressPair {
    let answer = look(table, name, now);
    let NameAnswer::Ours { addresses, .. } = answer else { panic!("{name} is {answer:?}") };
    addresses
}

fn pattern(text: &str) -> HostPattern {
    text.parse().unwrap()
}

fn trusted(cluster: &str, suffix: &str) -> TrustedZone {
    TrustedZone { cluster: cluster.parse().unwrap(), suffix: suffix.parse().unwrap() }
}

fn shared(suffix: &str) -> Zone {
    Zone { suffix: suffix.parse().unwrap(), exclusive: false }
}

fn exclusive(suffix: &str) -> Zone {
    Zone { suffix: suffix.parse().unwrap(), exclusive: true }
}
