//! What a user is told of it all: why a port opens or not, and what is wrong.

use std::time::Duration;

use portlatch_tests::lab::program::Outcome;
use portlatch_tests::lab::{Account::Jerry, Lab, LabOptions, PATIENCE, Part, Taps, start, wait_for};
use serde_json::Value;

/// The doctor has deadlines for all that it asks; what the machine may be late.
const DOCTOR: Duration = Duration::from_secs(40);

fn doctor(lab: &Lab) -> (Outcome, Value) {
    let outcome = lab.portlatch(Jerry, &["doctor", "--json"]);
    assert!(outcome.took < DOCTOR, "{outcome}");
    let report = outcome.json();
    (outcome, report)
}

/// The states of this check's lines.
fn states<'r>(report: &'r Value, check: &str) -> Vec<&'r str> {
    let lines = report["checks"].as_array().unwrap().iter();
    lines.filter(|line| line["check"] == check).map(|line| line["state"].as_str().unwrap()).collect()
}

/// Against the real thing: systemd's absence, no desktop and no key are warnings, and all that carries a connection is well.
#[test]
fn the_doctor_finds_nothing_where_all_is_well_and_each_part_that_is_gone() {
    let Some(lab) = start(LabOptions { taps: Taps::Never, ..LabOptions::default() }) else { return };
    let (outcome, report) = doctor(&lab);
    for check in ["login", "agent", "service", "attach", "names", "route", "control", "clock", "proxy"] {
        assert_eq!(states(&report, check), ["ok"], "{check}: {outcome}");
    }
    assert_eq!((&report["ok"], outcome.status.code()), (&Value::Bool(true), Some(0)), "{outcome}");

    lab.kill(Part::Proxy);
    let (outcome, report) = doctor(&lab);
    assert_eq!(
        (states(&report, "control"), states(&report, "service")),
        (vec!["fail"], vec!["ok"]),
        "{outcome}"
    );
    // The agent has the catalogue still.
    assert_eq!((states(&report, "names"), states(&report, "proxy")), (vec!["ok"], vec!["fail"]), "{outcome}");
    assert_eq!(outcome.status.code(), Some(1));

    lab.kill(Part::Daemon);
    let (outcome, report) = doctor(&lab);
    assert_eq!((states(&report, "service"), outcome.status.code()), (vec!["fail"], Some(1)), "{outcome}");
}

#[test]
fn why_tells_a_user_the_rule_the_last_refusal_and_the_grant() {
    let Some(lab) = start(LabOptions::default()) else { return };
    let why = |place: &str| lab.portlatch(Jerry, &["why", place, "--json"]);
    let open = why("billing-db.corp.internal:6432").expect_success().json();
    assert_eq!((&open["resource"], &open["mfa"]), (&"db/billing-db".into(), &"tap".into()), "{open}");
    let steps = open["steps"].to_string();
    assert!(steps.contains("require_session_mfa") && steps.contains("no lock stands against it"), "{open}");
    assert_eq!(open["open_for_seconds"], Value::Null);

    let connected = lab.program(Jerry, &["connect", "billing-db.corp.internal", "6432"]).finish(PATIENCE);
    assert_eq!(connected.expect_success().json()[0]["result"], "connected");
    let held = why("billing-db.corp.internal:6432").expect_success().json();
    assert!((1..=300).contains(&held["open_for_seconds"].as_u64().unwrap()), "{held}");
    assert!(held["steps"].to_string().contains("allowed: a tap of"), "{held}");

    // A port that the resource does not have is refused, and why knows of it.
    let seen = lab.program(Jerry, &["connect", "billing-db.corp.internal", "1"]).finish(PATIENCE).json();
    assert_eq!(seen[0]["result"], "refused");
    lab.wait_for_refusal(Jerry, 1, "unknown_port");
    let refused = why("billing-db.corp.internal:1");
    assert_eq!(refused.status.code(), Some(3), "{refused}");
    assert_eq!(refused.json()["last_refusal"]["reason"], "unknown_port");
    assert_eq!(why("nobody.corp.internal:1").status.code(), Some(3));

    lab.administer(&["lock", "--user", "jerry", "--ttl", "1h"]);
    wait_for("the lock to be told", PATIENCE, || {
        let locked = why("billing-db.corp.internal:6432");
        (locked.status.code() != Some(0)).then_some(())
    });
}
