//! One real client of each kind of resource, each with its kind's rule; and what a real client shows when it is refused
//! in its own protocol's words.

use std::time::Duration;

use portlatch_tests::lab::program::Outcome;
use portlatch_tests::lab::record::names;
use portlatch_tests::lab::{Account::Jerry, Host, Lab, LabOptions, PATIENCE, Taps, start, wait_for};
use serde_json::Value;

/// The kinds that the other tests have no server for, and a role for them.
const RESOURCES: &str = "\
kind: role
version: v7
metadata: {name: access-more}
spec:
  options: {require_session_mfa: true}
  allow: {kube_cluster_labels: {env: prod}, desktop_labels: {env: prod}, db_labels: {env: more}}
---
kind: user
metadata: {name: jerry}
spec: {roles: [access-dev, access-prod, access-more]}
---
kind: kube_cluster
metadata: {name: kube, labels: {env: prod}}
spec: {uri: 'tcp://10.0.0.5:6443'}
---
kind: desktop
metadata: {name: desk1, labels: {env: prod}}
spec: {uri: 'tcp://10.0.0.5:3389'}
---
kind: db
metadata: {name: orders, labels: {env: more}}
spec: {protocol: mysql, uri: 'tcp://10.0.0.5:3306', mfa: {refusal: protocol}}
---
kind: db
metadata: {name: billing-told, labels: {env: prod}}
spec: {protocol: postgres, uri: 'tcp://10.0.0.5:5432', mfa: {refusal: protocol}}
---
kind: node
metadata: {name: ssh-told, labels: {env: prod}}
spec: {protocol: ssh, uri: 'tcp://10.0.0.6:22', mfa: {refusal: protocol}}
---
kind: app
metadata: {name: web-told, labels: {env: prod}}
spec: {protocol: http, uri: 'tcp://10.0.0.7:80', mfa: {refusal: protocol}}
";

const MARIADB: [&str; 9] = [
    "mariadb",
    "--no-defaults",
    "--skip-ssl",
    "--host=orders.corp.internal",
    "--user=jerry",
    "--batch",
    "--skip-column-names",
    "--execute=select group_concat(customer order by id) from invoices",
    "billing",
];

fn lab(taps: Taps) -> Option<Lab> {
    let lab = start(LabOptions { taps, ..LabOptions::default() })?;
    lab.apply(RESOURCES).expect_success();
    wait_for("the new names", PATIENCE, || {
        let answer = lab.run(Host::User, Jerry, &["getent", "ahostsv4", "web-told.corp.internal"]);
        answer.status.success().then_some(())
    });
    Some(lab)
}

/// What a client says whose prompt was denied.
fn denied(lab: &Lab, name: &str, port: u16, command: &[&str]) -> Outcome {
    let sessions = lab.count("session.start");
    let denials = || {
        let is_denial = |record: &&Value| {
            let is_refusal = record["event"] == "mfa.fail" && record["reason"] == "cancelled";
            is_refusal && record["user"] == "jerry" && names(record, name, port)
        };
        lab.audit().iter().filter(is_denial).count()
    };
    let before = denials();
    let program = lab.spawn(Host::User, Jerry, command);
    lab.wait_for_prompt(Jerry, name, port);
    lab.deny(Jerry);
    let outcome = program.finish(PATIENCE).expect_failure();
    wait_for("the denial's record", PATIENCE, || (denials() > before).then_some(()));
    assert_eq!(denials(), before + 1, "one prompt was denied");
    assert_eq!(lab.count("session.start"), sessions, "a target was reached");
    outcome
}

const WORDS: &str = "Portlatch refused this connection: you denied it";

#[test]
fn mariadb_runs_a_query_and_shows_why_it_was_refused() {
    let Some(lab) = lab(Taps::Enter) else { return };
    lab.serve("mysql");
    let told = denied(&lab, "orders", 3306, &MARIADB);
    assert!(told.stderr.contains("ERROR 1045") && told.stderr.contains(WORDS), "{told}");
    lab.move_clock(Duration::from_secs(31));
    let query = lab.spawn(Host::User, Jerry, &MARIADB);
    lab.wait_for_prompt(Jerry, "orders", 3306);
    lab.tap(Jerry);
    assert_eq!(query.finish(PATIENCE).expect_success().stdout, "Ada,Grace,Hedy");
}

#[test]
fn kubectl_says_that_it_was_refused_and_lists_pods_after_a_tap() {
    let Some(lab) = lab(Taps::Enter) else { return };
    lab.serve("kube");
    let get = ["kubectl", "get", "pods", "-o", "name"];
    let told = denied(&lab, "kube", 6443, &get);
    assert!(told.stderr.contains("kube.corp.internal:6443 was refused"), "{told}");
    lab.move_clock(Duration::from_secs(31));
    let pods = lab.spawn(Host::User, Jerry, &get);
    lab.wait_for_prompt(Jerry, "kube", 6443);
    lab.tap(Jerry);
    assert_eq!(pods.finish(PATIENCE).expect_success().stdout, "pod/billing-0");
    let granted = lab.wait_for_record("the grant", |record| record["event"] == "grant");
    assert_eq!(granted["resource"], "kube_cluster/kube");
}

#[test]
fn psql_shows_why_it_was_refused() {
    let Some(lab) = lab(Taps::Enter) else { return };
    let connection = "host=billing-told.corp.internal dbname=billing user=jerry";
    let told = denied(&lab, "billing-told", 5432, &["psql", "-X", "-c", "select 1", connection]);
    assert!(told.stderr.contains(&format!("FATAL:  {WORDS}")), "{told}");
    assert!(told.stderr.contains("HINT:  `portlatch status`"), "{told}");
    // While it rests the words are the ones for that, at once.
    let again = lab.run(Host::User, Jerry, &["psql", "-X", "-c", "select 1", connection]).expect_failure();
    assert!(again.stderr.contains("denied a moment ago"), "{again}");
}

#[test]
fn ssh_and_curl_show_why_they_were_refused() {
    let Some(lab) = lab(Taps::Enter) else { return };
    let ssh = ["ssh", "-o", "BatchMode=yes", "ssh-told.corp.internal", "true"];
    let told = denied(&lab, "ssh-told", 22, &ssh);
    assert!(told.stderr.contains(WORDS), "{told}");
    let told =
        denied(&lab, "web-told", 80, &["curl", "-sS", "--fail-with-body", "http://web-told.corp.internal/"]);
    assert!(told.stdout.contains(WORDS) && told.stderr.contains("403"), "{told}");
}

#[test]
fn an_rdp_client_is_refused_or_waits_for_the_tap_and_a_scan_of_the_desktop_prompts_nobody() {
    let Some(lab) = lab(Taps::Enter) else { return };
    lab.serve("desktop");
    let challenges = lab.count("mfa.challenge");
    // A scan: connects, sends nothing, goes; and a browser, which is no RDP client.
    let scan = lab.program(Jerry, &["connect", "desk1.corp.internal", "3389", "5"]);
    assert_eq!(scan.finish(PATIENCE).expect_success().json()[4]["result"], "connected");
    lab.run(Host::User, Jerry, &["curl", "-sS", "http://desk1.corp.internal:3389/"]).expect_failure();
    assert_eq!(lab.count("mfa.challenge"), challenges);
    assert!(lab.prompts(Jerry).is_empty());

    let xfreerdp = [
        "env",
        "DISPLAY=:97",
        "xfreerdp",
        "/v:desk1.corp.internal",
        "/u:alice",
        "/p:Corp-Pass-1",
        "/sec:nla",
        "/cert:ignore",
        "/size:640x480",
        "/t:desk1-window",
        "/log-level:WARN",
    ];
    // Connected by then, since a desktop's clients speak first: it hears of the refusal as a reset.
    let told = denied(&lab, "desk1", 3389, &xfreerdp);
    let said = format!("{}{}", told.stdout, told.stderr);
    assert!(said.contains("ERRCONNECT"), "{told}");
    lab.move_clock(Duration::from_secs(31));
    let client = lab.spawn(Host::User, Jerry, &xfreerdp);
    lab.wait_for_prompt(Jerry, "desk1", 3389);
    lab.tap(Jerry);
    wait_for("the desktop's window", PATIENCE, || {
        let tree = lab.run(Host::User, Jerry, &["env", "DISPLAY=:97", "xwininfo", "-root", "-tree"]);
        tree.stdout.contains("desk1-window").then_some(())
    });
    drop(client);
    let session = lab.wait_for_record("the session", |record| record["event"] == "session.start");
    assert_eq!(session["resource"], "desktop/desk1");
}
