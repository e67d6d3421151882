//! How long programs wait for a tap, by the limits of real clients (the attack list's E: the network's edge).

use portlatch_tests::lab::{Account::Jerry, Host, Lab, LabOptions, PATIENCE, Taps, start, wait_for};
use std::time::Duration;

fn by_hand() -> Option<Lab> {
    start(LabOptions { taps: Taps::Enter, ..LabOptions::default() })
}

/// E: held for 4 s with psql. libpq's `connect_timeout` runs until the session is up, so it gives up whatever we answer.
#[test]
fn psql_that_gives_up_after_four_seconds_passes_without_another_tap_when_it_is_run_again() {
    let Some(lab) = by_hand() else { return };
    let challenges = lab.count("mfa.challenge");
    let limited = "host=billing-db.corp.internal dbname=billing user=jerry connect_timeout=4";
    let query = ["psql", "-AtX", "-c", "select 42", limited];
    let mut watch = lab.spawn(Host::User, Jerry, &["portlatch", "watch"]);
    watch.read_line(PATIENCE);
    let first = lab.spawn(Host::User, Jerry, &query);
    lab.wait_for_prompt(Jerry, "billing-db", 5432);
    let gave_up = first.finish(PATIENCE).expect_failure();
    assert!(gave_up.stderr.contains("timeout expired"), "{gave_up}");
    wait_for("the prompt to say so", PATIENCE, || {
        watch.read_line(PATIENCE).contains("psql gave up: tap, then run it again").then_some(())
    });
    lab.tap(Jerry);
    wait_for("the grant", PATIENCE, || {
        (!lab.status(Jerry)["grants"].as_array().unwrap().is_empty()).then_some(())
    });
    assert_eq!(lab.run(Host::User, Jerry, &query).expect_success().stdout, "42");
    assert_eq!(lab.count("mfa.challenge"), challenges + 1);
}

/// E: held for 9 s with a client that allows the TCP handshake 10 s (pgjdbc) and one that allows it 16 s (FreeRDP), with
/// OpenSSH and with curl. Each retransmits its SYN meanwhile, and each port is prompted for once.
#[test]
fn clients_with_limits_of_ten_and_sixteen_seconds_ssh_and_curl_wait_for_the_tap() {
    let Some(lab) = by_hand() else { return };
    let (challenges, taps) = (lab.count("mfa.challenge"), lab.count("mfa.ok"));
    let limit = |seconds: &str, port: &str| {
        lab.program(Jerry, &["talk-within", "billing-db.corp.internal", port, seconds])
    };
    let (mut jdbc, mut rdp) = (limit("10", "6432"), limit("16", "6439"));
    let ssh = lab.spawn(Host::User, Jerry, &["ssh", "-o", "BatchMode=yes", "ssh.corp.internal", "hostname"]);
    let curl = lab.spawn(Host::User, Jerry, &["curl", "-sS", "http://web.corp.internal/"]);
    // Held until the handshake is completed, 8 s after the SYN; nobody has tapped.
    assert_eq!(jdbc.read_line(PATIENCE), "connected");
    assert_eq!(rdp.read_line(PATIENCE), "connected");
    assert_eq!(lab.count("session.start"), 0, "nothing reached a target yet");
    assert_eq!(lab.count("mfa.challenge"), challenges + 1, "the others wait for their turn");
    for tap in 1..=4 {
        wait_for("the next prompt", PATIENCE, || (!lab.prompts(Jerry).is_empty()).then_some(()));
        lab.tap(Jerry);
        wait_for("the tap", PATIENCE, || (lab.count("mfa.ok") == taps + tap).then_some(()));
    }
    jdbc.write_line("late, and welcome");
    assert_eq!(jdbc.read_line(PATIENCE), "late, and welcome");
    assert!(rdp.is_running(), "its connection lives");
    assert_eq!(ssh.finish(PATIENCE).expect_success().stdout, "company");
    assert_eq!(curl.finish(PATIENCE).expect_success().stdout, "The wiki of the company");
    assert_eq!(lab.count("mfa.challenge"), challenges + 4);
}

/// E: first data at once, more than is held, and a half-close: all of it arrives, in order, and the answer comes back.
#[test]
fn what_was_sent_and_shut_before_the_tap_arrives_whole() {
    let Some(lab) = by_hand() else { return };
    let eager = "
kind: app
metadata: {name: eager, labels: {env: prod}}
spec: {uri: 'tcp://10.0.0.9', tcp_ports: [{port: 6433}], mfa: {hold: data}}
";
    lab.apply(eager).expect_success();
    wait_for("the name", PATIENCE, || {
        let resolved = lab.run(Host::User, Jerry, &["getent", "ahostsv4", "eager.corp.internal"]);
        resolved.status.success().then_some(())
    });
    for (round, bytes) in ["1000", "65536", "5000000"].into_iter().enumerate() {
        // Each time the grant of the last one is over.
        lab.move_clock(Duration::from_secs(301) * u32::try_from(round).unwrap());
        let program = lab.program(Jerry, &["half-close", "eager.corp.internal", "6433", bytes]);
        lab.wait_for_prompt(Jerry, "eager", 6433);
        lab.tap(Jerry);
        assert_eq!(program.finish(PATIENCE).expect_success().json()["same"], true, "{bytes} bytes");
    }
}
