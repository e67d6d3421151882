//! Which roles let whom in, and which of them want a tap.

use portlatch_tests::lab::{Account, Account::*, Host, Lab, LabOptions, PATIENCE, Taps, start, wait_for};

/// Codes count too; and what tom may reach, of kinds that take them and of kinds that do not.
const CODES: &str = "
kind: cluster_auth_preference
metadata: {name: cluster-auth-preference}
spec: {require_session_mfa: true, second_factors: [webauthn, otp]}
---
kind: role
version: v7
metadata: {name: access-dev}
spec: {allow: {db_labels: {env: dev}, kube_cluster_labels: {env: dev}, desktop_labels: {env: dev}}}
---
kind: kube_cluster
metadata: {name: kube, labels: {env: dev}}
spec: {uri: 'tcp://10.0.0.5:6443'}
---
kind: desktop
metadata: {name: desk1, labels: {env: dev}}
spec: {uri: 'tcp://10.0.0.5:3389'}
";

fn both() -> LabOptions {
    LabOptions { taps: Taps::Enter, logins: &[Jerry, Tom], ..LabOptions::default() }
}

fn connect(lab: &Lab, account: Account, host: &str, port: &str) -> String {
    let outcome = lab.program(account, &["connect", host, port]).finish(PATIENCE).expect_success();
    outcome.json()[0]["result"].as_str().unwrap().to_owned()
}

/// The names that a user's `ls` shows.
fn listed(lab: &Lab, account: Account) -> Vec<(String, String)> {
    let list = lab.portlatch(account, &["ls", "--json"]).expect_success().json();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    list.as_array().unwrap().iter().map(|entry| (text(&entry["name"]), text(&entry["mfa"]))).collect()
}

#[test]
fn two_roles_give_dev_without_a_tap_and_prod_with_one() {
    let Some(lab) = start(both()) else { return };
    // Nobody taps here: dev is reached all the same, by both.
    assert_eq!(connect(&lab, Jerry, "web-dev.corp.internal", "80"), "connected");
    assert_eq!(connect(&lab, Tom, "web-dev.corp.internal", "80"), "connected");
    assert!(lab.prompts(Jerry).is_empty() && lab.prompts(Tom).is_empty());

    let prod = lab.program(Jerry, &["connect", "web.corp.internal", "80"]);
    lab.wait_for_prompt(Jerry, "web", 80);
    assert!(lab.prompts(Tom).is_empty(), "another user's prompt is nobody's business");
    lab.tap(Jerry);
    assert_eq!(prod.finish(PATIENCE).json()[0]["result"], "connected");

    // tom has access-dev alone: prod is neither listed nor reached.
    let tom = listed(&lab, Tom);
    assert!(tom.contains(&("web-dev".into(), "none".into())), "{tom:?}");
    assert!(tom.iter().all(|(name, _)| name != "web" && name != "billing-db"), "{tom:?}");
    let jerry = listed(&lab, Jerry);
    assert!(jerry.contains(&("web".into(), "tap".into())), "{jerry:?}");
    assert!(jerry.iter().all(|(name, _)| name != "secret-db"), "{jerry:?}");
}

#[test]
fn the_cluster_wide_preference_makes_every_connection_want_a_tap() {
    let Some(lab) = start(both()) else { return };
    let preference = "
kind: cluster_auth_preference
metadata: {name: cluster-auth-preference}
spec: {require_session_mfa: true, second_factors: [webauthn]}
";
    assert!(lab.apply(preference).status.success());
    wait_for("the change", PATIENCE, || {
        listed(&lab, Tom).contains(&("web-dev".into(), "tap".into())).then_some(())
    });
    let program = lab.program(Tom, &["connect", "web-dev.corp.internal", "80"]);
    lab.wait_for_prompt(Tom, "web-dev", 80);
    lab.tap(Tom);
    assert_eq!(program.finish(PATIENCE).json()[0]["result"], "connected");

    // Where codes count as well they do not for what is worth a key: clusters and desktops.
    assert!(lab.apply(CODES).status.success());
    let expected = [("dev-db", "tap_or_code"), ("kube", "tap"), ("desk1", "tap")];
    wait_for("the change", PATIENCE, || {
        let list = listed(&lab, Tom);
        let is_told = |(name, mfa): &(&str, &str)| list.contains(&((*name).into(), (*mfa).into()));
        expected.iter().all(is_told).then_some(())
    });
}

#[test]
fn a_role_with_ports_opens_those_alone() {
    let Some(lab) = start(LabOptions { logins: &[Tom], ..LabOptions::default() }) else { return };
    let narrow = "
kind: role
version: v7
metadata: {name: access-dev}
spec: {allow: {app_labels: {env: dev}, ports: [{port: 8000, end_port: 8099}]}}
";
    let address =
        lab.run(Host::User, Tom, &["getent", "ahostsv4", "web-dev.corp.internal"]).expect_success().stdout;
    let address = address.split_whitespace().next().unwrap().to_owned();
    assert!(lab.apply(narrow).status.success());
    wait_for("the change", PATIENCE, || {
        let list = lab.portlatch(Tom, &["ls", "--json"]).json();
        let entry = list.as_array()?.iter().find(|entry| entry["name"] == "web-dev")?.clone();
        (entry["ports"].as_array()?.len() == 1).then_some(())
    });
    assert_eq!(connect(&lab, Tom, &address, "8080"), "connected");
    assert_eq!(connect(&lab, Tom, &address, "80"), "refused");
}
