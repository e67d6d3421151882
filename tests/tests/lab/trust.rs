//! What the machine serves is root's to say.

use portlatch_tests::lab::{Account::*, Host, LabOptions, PATIENCE, Part, Taps, start, wait_for};

#[test]
fn another_clusters_attach_is_refused_with_advice() {
    let Some(lab) = start(LabOptions::default()) else { return };
    // Root now lists a cluster of the same name with another CA: to the daemon that is another cluster.
    lab.kill(Part::Daemon);
    lab.run(Host::User, Root, &["sh", "-c", "rm /var/lib/portlatch/trust.toml"]).expect_success();
    let pin = format!("sha256:{}", "ab".repeat(32));
    let trust =
        ["portlatchd", "trust", "https://proxy.example.com", "--ca-pin", &pin, "--zone", "corp.internal"];
    lab.run(Host::User, Root, &trust).expect_success();
    lab.restart(Part::Daemon, Taps::Auto);
    wait_for("the agent to say why", PATIENCE, || {
        lab.log("agent-jerry").contains("portlatchd trust").then_some(())
    });
    let seen = lab.program(Jerry, &["connect", "web-dev.corp.internal", "80"]).finish(PATIENCE);
    assert!(!seen.stdout.contains("connected"), "{seen}");
}

#[test]
fn a_zone_that_root_did_not_list_is_not_answered() {
    let Some(lab) = start(LabOptions::default()) else { return };
    let more = "
kind: vnet_config
metadata: {name: vnet-config}
spec: {custom_dns_zones: [{suffix: corp.internal}, {suffix: example.com}]}
---
kind: app
metadata: {name: www, labels: {env: dev}}
spec: {uri: 'tcp://10.0.0.8:80', public_addr: www.example.com}
---
kind: app
metadata: {name: fresh, labels: {env: dev}}
spec: {uri: 'tcp://10.0.0.8:80'}
";
    assert!(lab.apply(more).status.success());
    // The new name of the listed zone shows that the catalogue with both has arrived.
    wait_for("the new catalogue", PATIENCE, || {
        lab.run(Host::User, Jerry, &["getent", "ahostsv4", "fresh.corp.internal"])
            .status
            .success()
            .then_some(())
    });
    let outcome = lab.run(Host::User, Jerry, &["getent", "ahostsv4", "www.example.com"]).expect_success();
    assert!(outcome.stdout.starts_with("192.0.2.80 "), "{outcome}");
}

#[test]
fn only_root_says_what_the_machine_serves() {
    let Some(lab) = start(LabOptions { logins: &[], ..LabOptions::default() }) else { return };
    let pin = format!("sha256:{}", "ab".repeat(32));
    let trust =
        ["portlatchd", "trust", "https://evil.example.com", "--ca-pin", &pin, "--zone", "evil.internal"];
    lab.run(Host::User, Jerry, &trust).expect_failure();
    let trusted = lab.run(Host::User, Root, &["cat", "/var/lib/portlatch/trust.toml"]).expect_success();
    assert!(!trusted.stdout.contains("evil"), "{trusted}");
}
