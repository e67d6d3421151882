//! Unchanged programs do what they do without us: psql, ssh, curl, and any that shuts one side or resets.

use std::time::Duration;

use portlatch_tests::lab::{Account::*, Host, Lab, LabOptions, PATIENCE, start, wait_for};

const SQL: &str = "select string_agg(customer, ',' order by id) || ' ' || \
                   (select ssl from pg_stat_ssl where pid = pg_backend_pid()) from invoices";

fn psql(lab: &Lab, connection: &str) -> String {
    let outcome = lab.run(Host::User, Jerry, &["psql", "-AtX", "-c", SQL, connection]);
    outcome.expect_success().stdout
}

#[test]
fn psql_gets_rows_over_tls_and_plain() {
    let Some(lab) = start(LabOptions::default()) else { return };
    let certificate = lab.directory().join("user/billing-db.crt");
    let verified = format!(
        "host=billing-db.corp.internal dbname=billing user=jerry sslmode=verify-full sslrootcert={}",
        certificate.display()
    );
    assert_eq!(psql(&lab, &verified), "Ada,Grace,Hedy true");
    let plain = "host=billing-db.corp.internal dbname=billing user=jerry sslmode=disable";
    assert_eq!(psql(&lab, plain), "Ada,Grace,Hedy false");
    let session = lab.wait_for_record("the session's end", |record| record["event"] == "session.end");
    assert_eq!(session["user"], "jerry");
    assert_eq!(session["port"], 5432);
    assert!(
        session["bytes_in"].as_u64().unwrap() > 0 && session["bytes_out"].as_u64().unwrap() > 0,
        "{session}"
    );
    lab.assert_audit_verifies();
}

#[test]
fn ssh_runs_a_command_and_forwards_a_port() {
    let Some(lab) = start(LabOptions::default()) else { return };
    let outcome =
        lab.run(Host::User, Jerry, &["ssh", "-o", "BatchMode=yes", "ssh.corp.internal", "hostname; id -un"]);
    assert_eq!(outcome.expect_success().stdout, "company\njerry");

    // The forwarded port ends at the company's web server, beyond any name of ours.
    let forward = "127.0.0.1:18080:10.0.0.7:80";
    let options = ["-o", "BatchMode=yes", "-o", "ExitOnForwardFailure=yes", "-N", "-L", forward];
    let mut line = vec!["ssh"];
    line.extend(options);
    line.push("ssh.corp.internal");
    let mut tunnel = lab.spawn(Host::User, Jerry, &line);
    let page = wait_for("the forwarded port", PATIENCE, || {
        let outcome = lab.run(Host::User, Jerry, &["curl", "-sS", "http://127.0.0.1:18080/"]);
        outcome.status.success().then_some(outcome.stdout)
    });
    assert_eq!(page, "The wiki of the company");
    assert!(tunnel.is_running());
}

#[test]
fn curl_downloads_and_uploads_the_same_bytes() {
    let Some(lab) = start(LabOptions::default()) else { return };
    let page = lab.run(Host::User, Jerry, &["curl", "-sS", "http://web.corp.internal/"]).expect_success();
    assert_eq!(page.stdout, "The wiki of the company");
    let script = "set -e
        curl -sS http://web.corp.internal:8080/bytes/50000001 -o file
        curl -sS -T file http://web.corp.internal:8080/file -o answer
        printf '%s %s\n' \"$(sha256sum <file | cut -d' ' -f1)\" \"$(cat answer)\"";
    let outcome = lab.run(Host::User, Jerry, &["bash", "-c", script]).expect_success();
    let (sent, answer) = outcome.stdout.split_once(' ').unwrap();
    let answer: serde_json::Value = serde_json::from_str(answer).unwrap();
    assert_eq!(answer, serde_json::json!({"sha256": sent, "bytes": 50_000_001}));
}

#[test]
fn a_program_shuts_its_sending_side_and_then_reads_all() {
    let Some(lab) = start(LabOptions::default()) else { return };
    let outcome =
        lab.program(Jerry, &["half-close", "peer.corp.internal", "6433", "3000000"]).finish(PATIENCE);
    assert_eq!(outcome.expect_success().json()["same"], true);
}

#[test]
fn a_server_shuts_its_sending_side_and_then_reads_all() {
    let Some(lab) = start(LabOptions::default()) else { return };
    let outcome = lab.program(Jerry, &["download", "peer.corp.internal", "6434", "3000000"]).finish(PATIENCE);
    assert_eq!(outcome.expect_success().json(), serde_json::json!({"same": true, "bytes": 3_000_000}));
    let end = lab.wait_for_record("the session's end", |record| {
        record["event"] == "session.end" && record["port"] == 6434
    });
    // "3000000\n" before the pattern, "thanks" after its end.
    assert_eq!(end["bytes_in"], 14, "{end}");
    assert_eq!(end["bytes_out"], 3_000_000, "{end}");
}

#[test]
fn a_reset_travels_as_a_reset_both_ways() {
    let Some(lab) = start(LabOptions::default()) else { return };
    let outcome = lab.program(Jerry, &["provoke", "peer.corp.internal", "6435"]).finish(PATIENCE);
    assert_eq!(outcome.stdout, "reset");

    let aborted = lab.program(Jerry, &["abort", "peer.corp.internal", "6437"]).finish(PATIENCE);
    assert_eq!(aborted.stdout, "aborted");
    let testimony = wait_for("the server to see it", Duration::from_secs(10), || {
        let line = "exec 3<>/dev/tcp/10.0.0.9/6440; cat <&3";
        let told = lab.run(Host::Company, Jerry, &["bash", "-c", line]).stdout;
        (!told.is_empty()).then_some(told)
    });
    assert_eq!(testimony, "reset 3");
}

#[test]
fn without_options_a_role_allows_1024_connections() {
    let Some(lab) = start(LabOptions { logins: &[Tom], ..LabOptions::default() }) else { return };
    let role = "
kind: role
version: v7
metadata: {name: access-dev}
spec: {allow: {app_labels: {env: dev}, db_labels: {env: dev}, node_labels: {env: dev}}}
";
    assert!(lab.apply(role).status.success());
    let all = lab.program(Tom, &["at-once", "peer.corp.internal", "6432", "1100"]).finish(PATIENCE);
    let seen = all.expect_success().json();
    assert_eq!(seen, serde_json::json!({"connected": 1024, "refused": 76}));
    lab.wait_for_refusal(Tom, 6432, "limit");
}

#[test]
fn more_connections_live_at_once_than_syns_may_be_held() {
    let Some(lab) = start(LabOptions::default()) else { return };
    let outcome = lab.program(Jerry, &["at-once", "peer.corp.internal", "6432", "2500"]).finish(PATIENCE);
    assert_eq!(outcome.expect_success().json(), serde_json::json!({"connected": 2500}));
}
