//! kill -9 of each part: the others live, programs get an error in bounded time, a restart brings all back with the
//! same addresses, and nothing that hurts is left on the machine.

use std::time::Duration;

use portlatch_tests::lab::{Account::*, Host, Lab, LabOptions, PATIENCE, Part, Taps, start, wait_for};

/// A program that only reads sees the end of its connection within this time of the restart, or of the loss.
const BOUNDED: Duration = Duration::from_secs(15);

fn address(lab: &Lab, host: &str) -> String {
    let outcome = lab.run(Host::User, Jerry, &["getent", "ahostsv4", host]).expect_success();
    outcome.stdout.split_whitespace().next().expect("an address").to_owned()
}

fn assert_served(lab: &Lab) {
    wait_for("the way to be open again", PATIENCE, || {
        let outcome =
            lab.run(Host::User, Jerry, &["curl", "-sS", "--max-time", "10", "http://web-dev.corp.internal/"]);
        (outcome.stdout == "The wiki of the company").then_some(())
    });
}

/// A proxy that is gone is asked for signs of life, and its flows hear of it within this time (design section 11).
const NOTICED: Duration = Duration::from_secs(5);
/// What a machine may be late that has other things to do.
const SLACK: Duration = Duration::from_secs(3);

/// A reader's connection, established.
fn reader(lab: &Lab) -> portlatch_tests::lab::program::Program {
    let mut program = lab.program(Jerry, &["listen", "peer.corp.internal", "6439"]);
    assert_eq!(program.read_line(PATIENCE), "connected");
    program
}

#[test]
fn a_killed_daemon_leaves_nothing_that_hurts_and_comes_back_with_the_same_addresses() {
    let Some(lab) = start(LabOptions::default()) else { return };
    let before = [address(&lab, "peer.corp.internal"), address(&lab, "billing-db.corp.internal")];
    let mut old = reader(&lab);
    lab.kill(Part::Daemon);

    // A SYN for the range goes nowhere, least of all to the default gateway.
    let seen = lab.program(Jerry, &["connect", &before[0], "6432"]).finish(PATIENCE).json();
    assert_eq!(seen[0]["result"], "network unreachable", "{seen}");
    let rules = lab.run(Host::User, Root, &["ip", "rule"]).stdout;
    assert_eq!(rules.lines().filter(|line| line.contains("198.18.0.0/16")).count(), 2, "{rules}");
    let left = lab.run(Host::User, Root, &["sh", "-c", "nft list tables; ip -br link; ip route"]).stdout;
    assert!(!left.contains("portlatch") && !left.contains("198.18"), "{left}");

    lab.restart(Part::Daemon, Taps::Auto);
    let end = old.read_line(BOUNDED);
    assert!(end.starts_with("aborted ") || end.starts_with("reset "), "{end}");
    assert_served(&lab);
    assert_eq!([address(&lab, "peer.corp.internal"), address(&lab, "billing-db.corp.internal")], before);
    lab.assert_audit_verifies();
}

#[test]
fn after_a_killed_daemon_other_names_resolve_again_at_the_latest_after_the_restart() {
    let Some(lab) = start(LabOptions::default()) else { return };
    lab.kill(Part::Daemon);
    lab.restart(Part::Daemon, Taps::Auto);
    assert_served(&lab);
    assert_eq!(address(&lab, "www.example.com"), "192.0.2.80");
    assert_eq!(address(&lab, "wiki.corp.internal"), "10.0.0.80");
}

#[test]
fn cleanup_leaves_the_machine_as_it_was() {
    let Some(lab) = start(LabOptions::default()) else { return };
    lab.kill(Part::Daemon);
    lab.run(Host::User, Root, &["portlatchd", "cleanup"]).expect_success();
    let left = lab.run(
        Host::User,
        Root,
        &["sh", "-c", "ip rule; nft list ruleset; ip -br link; cat /etc/resolv.conf"],
    );
    assert!(!left.stdout.contains("198.18") && !left.stdout.contains("portlatch"), "{left}");
    assert_eq!(address(&lab, "www.example.com"), "192.0.2.80");
}

#[test]
fn a_killed_agent_ends_its_users_flows_and_no_others() {
    let Some(lab) = start(LabOptions { logins: &[Jerry, Tom], ..LabOptions::default() }) else { return };
    let mut old = reader(&lab);
    let mut other = lab.program(Tom, &["talk", "peer.corp.internal", "6432"]);
    assert_eq!(other.read_line(PATIENCE), "connected");
    lab.kill(Part::Agent(Jerry));
    let end = old.read_line(BOUNDED);
    assert!(end.starts_with("reset "), "{end}");
    other.write_line("not my agent");
    assert_eq!(other.read_line(PATIENCE), "not my agent");
    lab.restart(Part::Agent(Jerry), Taps::Auto);
    assert_served(&lab);
}

#[test]
fn a_killed_proxy_resets_what_it_carried_and_audit_verifies() {
    let Some(lab) = start(LabOptions::default()) else { return };
    let mut old = reader(&lab);
    lab.kill(Part::Proxy);
    let end = old.read_line(NOTICED + SLACK);
    assert!(end.starts_with("reset "), "{end}");
    lab.restart(Part::Proxy, Taps::Auto);
    assert_served(&lab);
    let audit = lab.audit();
    let lost = audit.iter().find(|record| record["event"] == "session.lost");
    assert_eq!(lost.expect("the session that the crash ended is audited")["port"], 6439);
    lab.assert_audit_verifies();
}
