//! What is refused, how fast, and what the user can read about it.

use std::time::Duration;

use portlatch_tests::lab::{Account, Account::*, Host, Lab, LabOptions, PATIENCE, Part, Taps, median, start};

/// Bound on a refusal that needs no question to anybody.
const AT_ONCE: f64 = 100.0;
const TRIES: &str = "20";

/// Asserts that 20 connections are each refused, in under 100 ms by the median, for this reason, and without a prompt.
fn assert_refused_at_once(lab: &Lab, account: Account, host: &str, port: u16, reason: &str) {
    let challenges = lab.count("mfa.challenge");
    let outcome = lab.program(account, &["connect", host, &port.to_string(), TRIES]).finish(PATIENCE);
    let seen = outcome.expect_success().json();
    let seen = seen.as_array().unwrap();
    assert!(seen.iter().all(|one| one["result"] == "refused"), "{seen:?}");
    let time = median(seen.iter().map(|one| one["ms"].as_f64().unwrap()).collect());
    assert!(time < AT_ONCE, "{host}:{port} was refused after {time} ms");
    lab.wait_for_refusal(account, port, reason);
    assert_eq!(lab.count("mfa.challenge"), challenges);
}

/// The address behind a name, as the user's machine resolves it.
fn address(lab: &Lab, host: &str) -> String {
    let outcome = lab.run(Host::User, Jerry, &["getent", "ahostsv4", host]).expect_success();
    outcome.stdout.split_whitespace().next().expect("an address").to_owned()
}

#[test]
fn what_may_not_be_is_refused_at_once_without_a_prompt() {
    let Some(lab) = start(LabOptions { logins: &[Jerry, Tom], ..LabOptions::default() }) else { return };
    let billing = address(&lab, "billing-db.corp.internal");
    // A port that the resource does not have.
    assert_refused_at_once(&lab, Jerry, "billing-db.corp.internal", 9999, "unknown_port");
    // A resource that the user's roles do not have, by the address that another user's name has.
    assert_refused_at_once(&lab, Tom, &billing, 5432, "policy");
    // Another uid of this machine, without a login.
    assert_refused_at_once(&lab, Root, &billing, 5432, "no_login");
    // A resource that is no more, by the address that its name had.
    lab.administer(&["delete", "db/billing-db"]);
    lab.wait_for_record("the deletion", |record| {
        record["event"] == "resource.deleted" || record["event"] == "resource.delete"
    });
    assert_refused_at_once(&lab, Jerry, &billing, 5432, "policy");
}

#[test]
fn a_deny_rule_wins_over_what_is_allowed() {
    let Some(lab) = start(LabOptions::default()) else { return };
    // Without the deny rule the name is there and the address is known; then the rule comes back.
    let allowed = ROLE.replace("DENY", "");
    assert!(lab.apply(&allowed).status.success());
    let secret = portlatch_tests::lab::wait_for("the name", PATIENCE, || {
        let outcome = lab.run(Host::User, Jerry, &["getent", "ahostsv4", "secret-db.corp.internal"]);
        outcome.stdout.split_whitespace().next().map(str::to_owned)
    });
    assert!(lab.apply(&ROLE.replace("DENY", "deny: {db_labels: {tier: secret}}")).status.success());
    portlatch_tests::lab::wait_for("the catalogue without it", PATIENCE, || {
        (!lab.portlatch(Jerry, &["ls"]).stdout.contains("secret-db")).then_some(())
    });
    assert_refused_at_once(&lab, Jerry, &secret, 5432, "policy");
}

const ROLE: &str = "
kind: role
version: v7
metadata: {name: access-prod}
spec:
  options: {require_session_mfa: true}
  allow: {app_labels: {env: prod}, db_labels: {env: prod}, node_labels: {env: prod}}
  DENY
";

#[test]
fn without_an_agent_nothing_is_reached() {
    let Some(lab) = start(LabOptions::default()) else { return };
    let billing = address(&lab, "billing-db.corp.internal");
    lab.kill(Part::Agent(Jerry));
    portlatch_tests::lab::wait_for("the daemon to see it", PATIENCE, || {
        (lab.status(Jerry)["agent"] == false).then_some(())
    });
    let challenges = lab.count("mfa.challenge");
    let seen = lab.program(Jerry, &["connect", &billing, "5432", TRIES]).finish(PATIENCE).json();
    let seen = seen.as_array().unwrap();
    assert!(seen.iter().all(|one| one["result"] == "refused"), "{seen:?}");
    assert!(median(seen.iter().map(|one| one["ms"].as_f64().unwrap()).collect()) < AT_ONCE);
    lab.wait_for_refusal(Jerry, 5432, "no_login");
    assert_eq!(lab.count("mfa.challenge"), challenges);
}

#[test]
fn a_user_who_never_logged_in_is_refused() {
    let Some(lab) = start(LabOptions::default()) else { return };
    let dev = address(&lab, "dev-db.corp.internal");
    let seen = lab.program(Tom, &["connect", &dev, "5432"]).finish(PATIENCE).json();
    assert_eq!(seen[0]["result"], "refused");
    lab.wait_for_refusal(Tom, 5432, "no_login");
    let status = lab.status(Tom);
    assert!(status["user"].is_null() && status["agent"] == false && status["daemon"] == true, "{status}");
}

// C: deny, and the cool-down after it.
#[test]
fn denied_while_the_syn_is_held_is_a_refusal() {
    let Some(lab) = start(LabOptions { taps: Taps::Enter, ..LabOptions::default() }) else { return };
    let program = lab.program(Jerry, &["connect", "billing-db.corp.internal", "6432"]);
    lab.wait_for_prompt(Jerry, "billing-db", 6432);
    lab.deny(Jerry);
    assert_eq!(program.finish(PATIENCE).json()[0]["result"], "refused");
    lab.wait_for_refusal(Jerry, 6432, "denied");
    // A moment later it is refused without another prompt.
    assert_refused_at_once(&lab, Jerry, "billing-db.corp.internal", 6432, "cool_down");
    assert!(lab.log("agent-jerry").contains("denied"), "the agent says why");
}

#[test]
fn denied_after_the_handshake_is_a_reset() {
    let Some(lab) = start(LabOptions { taps: Taps::Enter, ..LabOptions::default() }) else { return };
    let mut program = lab.program(Jerry, &["listen", "billing-db.corp.internal", "6432"]);
    lab.wait_for_prompt(Jerry, "billing-db", 6432);
    lab.move_clock(Duration::from_secs(9));
    assert_eq!(program.read_line(PATIENCE), "connected");
    lab.wait_for_prompt(Jerry, "billing-db", 6432);
    lab.deny(Jerry);
    let end = program.read_line(PATIENCE);
    assert!(end.starts_with("reset "), "{end}");
    lab.wait_for_refusal(Jerry, 6432, "denied");
}

// E: held for longer than a minute.
#[test]
fn a_prompt_that_nobody_answers_times_out() {
    let Some(lab) = start(LabOptions { taps: Taps::Never, ..LabOptions::default() }) else { return };
    let mut program = lab.program(Jerry, &["listen", "billing-db.corp.internal", "6432"]);
    lab.wait_for_prompt(Jerry, "billing-db", 6432);
    lab.move_clock(Duration::from_secs(9));
    assert_eq!(program.read_line(PATIENCE), "connected");
    lab.move_clock(Duration::from_secs(70));
    let end = program.read_line(PATIENCE);
    assert!(end.starts_with("reset "), "{end}");
    lab.wait_for_refusal(Jerry, 6432, "timed_out");
}

#[test]
fn where_the_syn_is_held_to_the_end_a_timeout_is_a_refusal() {
    let Some(lab) = start(LabOptions { taps: Taps::Never, ..LabOptions::default() }) else { return };
    let patient = "
kind: app
metadata: {name: patient, labels: {env: prod}}
spec: {uri: 'tcp://10.0.0.9', tcp_ports: [{port: 6432}], mfa: {hold: syn}}
";
    assert!(lab.apply(patient).status.success());
    portlatch_tests::lab::wait_for("the name", PATIENCE, || {
        lab.run(Host::User, Jerry, &["getent", "ahostsv4", "patient.corp.internal"])
            .status
            .success()
            .then_some(())
    });
    let mut program = lab.program(Jerry, &["connect", "patient.corp.internal", "6432"]);
    lab.wait_for_prompt(Jerry, "patient", 6432);
    lab.move_clock(Duration::from_secs(30));
    lab.wait_for_prompt(Jerry, "patient", 6432);
    assert!(program.is_running(), "the SYN is still held after 8 s");
    lab.move_clock(Duration::from_secs(70));
    assert_eq!(program.finish(PATIENCE).json()[0]["result"], "refused");
    lab.wait_for_refusal(Jerry, 6432, "timed_out");
}

#[test]
fn what_the_target_says_reaches_the_program() {
    let Some(lab) = start(LabOptions::default()) else { return };
    let tell = |host: &str, port: &str| {
        let outcome = lab.program(Jerry, &["connect", host, port]).finish(PATIENCE);
        outcome.json()[0]["result"].as_str().unwrap().to_owned()
    };
    assert_eq!(tell("peer.corp.internal", "6438"), "refused");
    lab.wait_for_refusal(Jerry, 6438, "target_refused");
    assert_eq!(tell("gone.corp.internal", "80"), "host unreachable");
    lab.wait_for_refusal(Jerry, 80, "target_unreachable");
    // This target's packets are swallowed: the proxy gives up after 5 s.
    assert_eq!(tell("mute.corp.internal", "80"), "host unreachable");
}

#[test]
fn without_a_proxy_the_host_is_unreachable_and_nobody_is_bothered() {
    let Some(lab) = start(LabOptions { taps: Taps::Enter, ..LabOptions::default() }) else { return };
    let dev = address(&lab, "dev-db.corp.internal");
    lab.kill(Part::Proxy);
    let seen = lab.program(Jerry, &["connect", &dev, "5432"]).finish(PATIENCE).json();
    assert_eq!(seen[0]["result"], "host unreachable", "{seen}");
    lab.wait_for_refusal(Jerry, 5432, "no_proxy");
    assert!(lab.prompts(Jerry).is_empty());
}
