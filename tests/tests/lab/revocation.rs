//! What an administrator takes away is gone within two seconds.

use std::time::{Duration, Instant};

use portlatch_tests::lab::{Account::*, Host, Lab, LabOptions, PATIENCE, start, wait_for};

/// Design section 5: changes are in force, and for locks sessions are cut, within this time.
const IN_FORCE: Duration = Duration::from_secs(2);
/// What a machine may be late that has other things to do.
const SLACK: Duration = Duration::from_secs(3);
const TALK: [&str; 3] = ["talk", "peer.corp.internal", "6432"];

fn address(lab: &Lab) -> String {
    let outcome = lab.run(Host::User, Jerry, &["getent", "ahostsv4", "peer.corp.internal"]).expect_success();
    outcome.stdout.split_whitespace().next().expect("an address").to_owned()
}

/// Waits until a new connection is refused; it must begin within two seconds of now.
fn assert_closes(lab: &Lab, address: &str) {
    let begin = Instant::now();
    let took = wait_for("new connections to be refused", PATIENCE, || {
        let began = begin.elapsed();
        let seen = lab.program(Jerry, &["connect", address, "6432"]).finish(PATIENCE).json();
        (seen[0]["result"] == "refused").then_some(began)
    });
    assert!(took < IN_FORCE + SLACK, "it took {took:?}");
    let seen = lab.program(Jerry, &["connect", address, "6432", "20"]).finish(PATIENCE).json();
    assert!(seen.as_array().unwrap().iter().all(|one| one["result"] == "refused"), "{seen}");
}

#[test]
fn a_role_that_is_taken_away_stops_new_streams_and_lets_old_ones_be() {
    let Some(lab) = start(LabOptions::default()) else { return };
    let address = address(&lab);
    let mut old = lab.program(Jerry, &TALK);
    assert_eq!(old.read_line(PATIENCE), "connected");
    assert!(
        lab.apply("kind: user\nmetadata: {name: jerry}\nspec: {roles: [access-prod]}\n").status.success()
    );
    assert_closes(&lab, &address);
    old.write_line("policy changes stop new streams only");
    assert_eq!(old.read_line(PATIENCE), "policy changes stop new streams only");
}

#[test]
fn a_resource_that_is_deleted_is_cut() {
    let Some(lab) = start(LabOptions::default()) else { return };
    let address = address(&lab);
    let mut old = lab.program(Jerry, &["listen", "peer.corp.internal", "6439"]);
    assert_eq!(old.read_line(PATIENCE), "connected");
    lab.administer(&["delete", "app/peer"]);
    let end = old.read_line(IN_FORCE + SLACK);
    assert!(end.starts_with("reset "), "{end}");
    assert_closes(&lab, &address);
}

#[test]
fn a_locked_user_is_cut_and_stays_out() {
    let Some(lab) = start(LabOptions { logins: &[Jerry, Tom], ..LabOptions::default() }) else { return };
    let address = address(&lab);
    let mut old = lab.program(Jerry, &["listen", "peer.corp.internal", "6439"]);
    let mut other = lab.program(Tom, &TALK);
    assert_eq!(old.read_line(PATIENCE), "connected");
    assert_eq!(other.read_line(PATIENCE), "connected");
    lab.administer(&["lock", "--user", "jerry"]);
    let end = old.read_line(IN_FORCE + SLACK);
    assert!(end.starts_with("reset "), "{end}");
    assert_closes(&lab, &address);
    other.write_line("one user's lock is not another's");
    assert_eq!(other.read_line(PATIENCE), "one user's lock is not another's");
    assert_eq!(lab.count("lock"), 1);
    lab.assert_audit_verifies();
}

// A 7: closed by revocation.
#[test]
fn a_session_that_an_administrator_kills_ends_alone() {
    let Some(lab) = start(LabOptions::default()) else { return };
    let mut victim = lab.program(Jerry, &["listen", "peer.corp.internal", "6439"]);
    let mut neighbour = lab.program(Jerry, &TALK);
    assert_eq!(victim.read_line(PATIENCE), "connected");
    assert_eq!(neighbour.read_line(PATIENCE), "connected");
    let sessions = lab.administer(&["sessions"]).stdout;
    let id =
        sessions.lines().find(|line| line.contains("6439")).and_then(|line| line.split_whitespace().next());
    lab.administer(&["sessions", "kill", id.expect("the session is listed")]);
    let end = victim.read_line(IN_FORCE + SLACK);
    assert!(end.starts_with("reset "), "{end}");
    lab.wait_for_record("the end of the killed session", |record| {
        record["event"] == "session.end" && record["reason"] == "killed" && record["port"] == 6439
    });
    neighbour.write_line("still here");
    assert_eq!(neighbour.read_line(PATIENCE), "still here");
}

// A 8: grants die with the login.
#[test]
fn after_logout_nothing_is_reached() {
    let Some(lab) = start(LabOptions::default()) else { return };
    let address = address(&lab);
    let mut old = lab.program(Jerry, &["listen", "peer.corp.internal", "6439"]);
    assert_eq!(old.read_line(PATIENCE), "connected");
    lab.portlatch(Jerry, &["logout"]).expect_success();
    let end = old.read_line(IN_FORCE + SLACK);
    assert!(end.starts_with("reset "), "{end}");
    assert_closes(&lab, &address);
    assert!(lab.status(Jerry)["user"].is_null());
}
