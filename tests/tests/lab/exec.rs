//! `portlatch exec`: one tap, then an unchanged program for each resource.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use portlatch_tests::lab::program::Program;
use portlatch_tests::lab::{Account::Jerry, Host, Lab, LabOptions, PATIENCE, Taps, start, wait_for};
use serde_json::Value;

/// Another database of the same server, and one whose server is not there.
const MORE: &str = "
kind: db
metadata: {name: orders-db, labels: {env: prod, tier: new}}
spec: {protocol: postgres, uri: 'tcp://10.0.0.5:5432'}
---
kind: db
metadata: {name: lost-db, labels: {env: prod, tier: new}}
spec: {protocol: postgres, uri: 'tcp://10.0.0.9:5432', public_addr: lost.corp.internal}
---
kind: db
metadata: {name: billing-db, labels: {env: prod, tier: old}}
spec: {protocol: postgres, uri: 'tcp://10.0.0.5', tcp_ports: [{port: 5432}, {port: 6432, end_port: 6439}]}
---
kind: db
metadata: {name: archive-db, labels: {env: prod, tier: old}}
spec: {protocol: postgres, uri: 'tcp://10.0.0.5:5432'}
";

/// Starts an exec, whose output goes into this directory of jerry's.
fn exec(lab: &Lab, logs: &str, choice: &[&str], command: &[&str]) -> Program {
    let start = ["portlatch", "exec", "--yes", "--output-dir", logs];
    lab.spawn(Host::User, Jerry, &[&start[..], choice, &["--"], command].concat())
}

/// A directory of jerry's, as root sees it.
fn directory(lab: &Lab, name: &str) -> PathBuf {
    let holder = fs::read_to_string(lab.directory().join("pid/host-user")).unwrap();
    PathBuf::from(format!("/proc/{}/root/home/jerry/{name}", holder.trim()))
}

fn tap_for_all(lab: &Lab) {
    wait_for("the prompt", PATIENCE, || (lab.prompts(Jerry).len() == 1).then_some(()));
    lab.tap(Jerry);
}

fn sessions(lab: &Lab) -> Vec<Value> {
    lab.audit().into_iter().filter(|record| record["event"] == "session.start").collect()
}

/// What the first exec leaves: a summary and a file of each, for their owner alone.
fn assert_kept_for_owner(logs: &Path) {
    assert_eq!(fs::metadata(logs).unwrap().permissions().mode() & 0o777, 0o700);
    let summary: Value =
        serde_json::from_str(&fs::read_to_string(logs.join("summary.json")).unwrap()).unwrap();
    assert_eq!((&summary["total"], &summary["succeeded"]), (&2.into(), &2.into()), "{summary}");
    for (result, name) in summary["results"].as_array().unwrap().iter().zip(["archive-db", "billing-db"]) {
        assert_eq!(result["name"], name);
        assert_eq!(result["status"], "succeeded");
        let log = logs.join(format!("{name}.log"));
        assert_eq!(fs::read_to_string(&log).unwrap(), format!("{name} has 3 at 5432\n"));
        assert_eq!(fs::metadata(&log).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn one_tap_runs_psql_on_each_database_and_ssh_on_each_node() {
    let Some(lab) = start(LabOptions { taps: Taps::Enter, ..LabOptions::default() }) else { return };
    lab.apply(MORE).expect_success();
    wait_for("the new names", PATIENCE, || {
        lab.portlatch(Jerry, &["ls"]).stdout.contains("archive-db").then_some(())
    });
    let challenges = lab.count("mfa.challenge");
    let sql = "select '{name} has ' || count(*) || ' at {port}' from invoices";
    // The host and the port come from the environment.
    let psql = ["psql", "-AtX", "-U", "jerry", "-d", "billing", "-c", sql];
    let old = ["--kind", "db", "--labels", "env=prod,tier=old", "--port", "5432"];
    let run = exec(&lab, "logs", &old, &psql);
    tap_for_all(&lab);
    let outcome = run.finish(PATIENCE).expect_success();
    assert_eq!(outcome.stdout.lines().last(), Some("Summary: 2 of 2 succeeded."), "{outcome}");
    assert_eq!(lab.count("mfa.challenge"), challenges + 1, "one tap for both");
    assert_kept_for_owner(&directory(&lab, "logs"));
    let reached: Vec<Value> = sessions(&lab).iter().map(|record| record["resource"].clone()).collect();
    assert!(reached.contains(&"db/archive-db".into()) && reached.contains(&"db/billing-db".into()));
    assert_eq!(reached.len(), 2, "{reached:?}");
    let grants: Vec<Value> = lab.audit().into_iter().filter(|record| record["event"] == "grant").collect();
    assert!(grants.iter().all(|grant| grant["port"] == 5432), "one port each: {grants:?}");

    // One that fails makes the whole fail, and is named.
    let new = ["--kind", "db", "--labels", "env=prod,tier=new"];
    let shown = "echo $PORTLATCH_NAME $PORTLATCH_HOST $PORTLATCH_PORT $PGHOST $PGPORT
        exec psql -AtX -U jerry -d billing -c 'select 7'";
    let run = exec(&lab, "more", &new, &["sh", "-c", shown]);
    tap_for_all(&lab);
    let outcome = run.finish(PATIENCE).expect_failure();
    assert_eq!(outcome.status.code(), Some(1), "{outcome}");
    assert_eq!(outcome.stdout.lines().last(), Some("Summary: 1 of 2 succeeded."), "{outcome}");
    assert!(outcome.stdout.contains("lost-db: failed with exit code 2"), "{outcome}");
    let read = |name: &str| fs::read_to_string(directory(&lab, "more").join(name)).unwrap();
    let orders = "orders-db orders-db.corp.internal 5432 orders-db.corp.internal 5432\n7\n";
    assert_eq!(read("orders-db.log"), orders);
    let lost = read("lost-db.log");
    assert!(lost.starts_with("lost-db lost.corp.internal 5432 lost.corp.internal 5432\n"), "{lost}");
    assert!(lost.contains("Connection refused"), "{lost}");

    let nodes = ["--kind", "node", "--labels", "env=prod"];
    let run = exec(&lab, "nodes", &nodes, &["ssh", "-o", "BatchMode=yes", "{host}", "hostname"]);
    tap_for_all(&lab);
    let outcome = run.finish(PATIENCE).expect_success();
    assert_eq!(outcome.stdout.lines().last(), Some("Summary: 1 of 1 succeeded."), "{outcome}");
    assert_eq!(fs::read_to_string(directory(&lab, "nodes").join("ssh.log")).unwrap(), "company\n");

    // Denied: nothing runs, and nothing is reached.
    let (before, dials) = (sessions(&lab).len(), lab.dials());
    let again = ["--kind", "node", "--labels", "env=*"];
    let run = exec(&lab, "none", &again, &["sh", "-c", "touch /home/jerry/was-run"]);
    wait_for("the prompt", PATIENCE, || (lab.prompts(Jerry).len() == 1).then_some(()));
    lab.deny(Jerry);
    let outcome = run.finish(PATIENCE).expect_failure();
    assert_eq!(outcome.status.code(), Some(3), "{outcome}");
    assert!(!directory(&lab, "was-run").exists());
    assert_eq!((sessions(&lab).len(), lab.dials()), (before, dials));
    lab.assert_audit_verifies();
}
