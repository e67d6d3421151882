//! When a tap is asked for, and when not.

use std::time::Duration;

use portlatch_tests::lab::record::names;
use portlatch_tests::lab::{Account::Jerry, Host, LabOptions, PATIENCE, Taps, start, wait_for};

const ECHO: [&str; 3] = ["talk", "billing-db.corp.internal", "6432"];
/// A tap serves for five minutes; then it is over.
const MINUTES_5: Duration = Duration::from_secs(5 * 60 + 1);

fn by_hand() -> LabOptions {
    LabOptions { taps: Taps::Enter, ..LabOptions::default() }
}

// A 7: not extended by use; what is open stays.
#[test]
fn one_tap_serves_a_port_for_five_minutes_and_the_old_connection_lives_on() {
    let Some(lab) = start(by_hand()) else { return };
    let mut first = lab.program(Jerry, &ECHO);
    let prompt = lab.wait_for_prompt(Jerry, "billing-db", 6432);
    assert_eq!(prompt["host"], "billing-db.corp.internal");
    // The interpreter's file, whose name has its version.
    assert!(prompt["program"].as_str().unwrap().starts_with("python3"), "{prompt}");
    assert_eq!(prompt["pid"], first.pid());
    assert!((1..=60).contains(&prompt["seconds_left"].as_u64().unwrap()));
    lab.tap(Jerry);
    assert_eq!(first.read_line(PATIENCE), "connected");

    let taps = lab.count("mfa.ok");
    let mut second = lab.program(Jerry, &ECHO);
    assert_eq!(second.read_line(PATIENCE), "connected");
    assert_eq!(lab.count("mfa.ok"), taps);

    lab.move_clock(MINUTES_5);
    let mut third = lab.program(Jerry, &ECHO);
    lab.wait_for_prompt(Jerry, "billing-db", 6432);
    first.write_line("still here");
    assert_eq!(first.read_line(PATIENCE), "still here");
    lab.tap(Jerry);
    assert_eq!(third.read_line(PATIENCE), "connected");
    lab.assert_audit_verifies();
}

// A 8: absent for another port.
#[test]
fn another_port_of_the_resource_wants_a_tap_of_its_own() {
    let Some(lab) = start(by_hand()) else { return };
    for (port, taken) in [("5432", 5432), ("6432", 6432), ("6439", 6439)] {
        let waiting = lab.program(Jerry, &["connect", "billing-db.corp.internal", port]);
        lab.wait_for_prompt(Jerry, "billing-db", taken);
        lab.tap(Jerry);
        let seen = waiting.finish(PATIENCE).expect_success().json();
        assert_eq!(seen[0]["result"], "connected");
    }
    let grants = lab.status(Jerry)["grants"].as_array().unwrap().len();
    assert_eq!(grants, 3);
}

// C: 200 parallel connections to one port.
#[test]
fn two_hundred_connections_at_once_make_one_prompt() {
    let Some(lab) = start(by_hand()) else { return };
    let challenges = lab.count("mfa.challenge");
    let all = lab.program(Jerry, &["at-once", "billing-db.corp.internal", "6432", "200"]);
    lab.wait_for_prompt(Jerry, "billing-db", 6432);
    assert_eq!(lab.prompts(Jerry).len(), 1);
    lab.tap(Jerry);
    assert_eq!(all.finish(PATIENCE).expect_success().json(), serde_json::json!({"connected": 200}));
    assert_eq!(lab.count("mfa.challenge"), challenges + 1);
}

#[test]
fn two_ports_at_once_make_two_prompts_one_after_the_other() {
    let Some(lab) = start(by_hand()) else { return };
    let one = lab.program(Jerry, &["connect", "billing-db.corp.internal", "6432"]);
    lab.wait_for_prompt(Jerry, "billing-db", 6432);
    let two = lab.program(Jerry, &["connect", "billing-db.corp.internal", "6433"]);
    let challenges = lab.count("mfa.challenge");
    assert_eq!(lab.prompts(Jerry).len(), 1);
    lab.tap(Jerry);
    lab.wait_for_prompt(Jerry, "billing-db", 6433);
    assert_eq!(lab.count("mfa.challenge"), challenges + 1);
    lab.tap(Jerry);
    for program in [one, two] {
        assert_eq!(program.finish(PATIENCE).json()[0]["result"], "connected");
    }
}

#[test]
fn held_beyond_eight_seconds_a_program_is_connected_and_served_after_the_tap() {
    let Some(lab) = start(by_hand()) else { return };
    let mut program = lab.program(Jerry, &ECHO);
    lab.wait_for_prompt(Jerry, "billing-db", 6432);
    lab.move_clock(Duration::from_secs(9));
    assert_eq!(program.read_line(PATIENCE), "connected");
    program.write_line("sent before the tap");
    lab.wait_for_prompt(Jerry, "billing-db", 6432);
    lab.tap(Jerry);
    assert_eq!(program.read_line(PATIENCE), "sent before the tap");
}

#[test]
fn where_data_are_held_a_program_is_connected_at_once_and_served_after_the_tap() {
    let Some(lab) = start(by_hand()) else { return };
    let eager = "
kind: app
metadata: {name: eager, labels: {env: prod}}
spec: {uri: 'tcp://10.0.0.9', tcp_ports: [{port: 6432}], mfa: {hold: data}}
";
    assert!(lab.apply(eager).status.success());
    wait_for("the name", PATIENCE, || {
        let resolved = lab.run(Host::User, Jerry, &["getent", "ahostsv4", "eager.corp.internal"]);
        resolved.status.success().then_some(())
    });
    let mut program = lab.program(Jerry, &["talk", "eager.corp.internal", "6432"]);
    assert_eq!(program.read_line(PATIENCE), "connected");
    program.write_line("sent before the tap");
    lab.wait_for_prompt(Jerry, "eager", 6432);
    assert_eq!(lab.count("session.start"), 0, "nothing reached a target yet");
    lab.tap(Jerry);
    assert_eq!(program.read_line(PATIENCE), "sent before the tap");
}

#[test]
fn a_prompt_is_seen_and_answered_in_any_terminal_that_watches() {
    let Some(lab) = start(by_hand()) else { return };
    let mut watch = lab.spawn(Host::User, Jerry, &["portlatch", "watch"]);
    watch.read_line(PATIENCE);
    let mut program = lab.program(Jerry, &ECHO);
    let prompt = watch.read_line(PATIENCE);
    let named = format!("pid {}", program.pid());
    for part in
        ["Tap your security key: billing-db (billing-db.corp.internal:6432) for python3", &named, " s left"]
    {
        assert!(prompt.contains(part), "{part:?} is not in {prompt:?}");
    }
    watch.write_line("");
    assert_eq!(program.read_line(PATIENCE), "connected");
}

#[test]
fn a_prompt_outlives_its_program_for_a_while_and_the_retry_needs_no_other() {
    let Some(lab) = start(by_hand()) else { return };
    let program = lab.program(Jerry, &ECHO);
    lab.wait_for_prompt(Jerry, "billing-db", 6432);
    drop(program);
    wait_for("the agent to see it", PATIENCE, || lab.log("agent-jerry").contains("gave up").then_some(()));
    lab.wait_for_prompt(Jerry, "billing-db", 6432);
    lab.tap(Jerry);
    wait_for("the grant", PATIENCE, || {
        let status = lab.status(Jerry);
        status["grants"].as_array()?.iter().any(|grant| names(grant, "billing-db", 6432)).then_some(())
    });
    let challenges = lab.count("mfa.challenge");
    let mut retry = lab.program(Jerry, &ECHO);
    assert_eq!(retry.read_line(PATIENCE), "connected");
    assert_eq!(lab.count("mfa.challenge"), challenges);
}

#[test]
fn a_tap_beforehand_serves_the_connection() {
    let Some(lab) = start(LabOptions::default()) else { return };
    lab.portlatch(Jerry, &["tap", "billing-db.corp.internal:6432"]).expect_success();
    let taps = lab.count("mfa.ok");
    let seen = lab.program(Jerry, &["connect", "billing-db.corp.internal", "6432"]).finish(PATIENCE).json();
    assert_eq!(seen[0]["result"], "connected");
    assert_eq!(lab.count("mfa.ok"), taps);
}
