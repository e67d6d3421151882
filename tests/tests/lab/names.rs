//! What names resolve to on the user's machine.

use portlatch_tests::lab::{Account::*, Host, Lab, LabOptions, PATIENCE, Resolver, start, wait_for};

fn resolve(lab: &Lab, database: &str, host: &str) -> Option<String> {
    let outcome = lab.run(Host::User, Jerry, &["getent", database, host]);
    outcome.stdout.split_whitespace().next().map(str::to_owned)
}

fn assert_names_resolve(lab: &Lab) {
    let ours = resolve(lab, "ahostsv4", "billing-db.corp.internal").expect("a name of a resource");
    assert!(ours.starts_with("198.18."), "{ours}");
    assert_eq!(
        resolve(lab, "ahostsv4", "BILLING-DB.Corp.Internal"),
        Some(ours.clone()),
        "case has no meaning"
    );
    // The company's other names of the zone, and names of others, as without us.
    assert_eq!(resolve(lab, "ahostsv4", "wiki.corp.internal").as_deref(), Some("10.0.0.80"));
    assert_eq!(resolve(lab, "ahostsv4", "www.example.com").as_deref(), Some("192.0.2.80"));
    assert_eq!(resolve(lab, "ahostsv4", "proxy.example.com").as_deref(), Some("192.0.2.1"));
    assert_eq!(resolve(lab, "ahostsv4", "no-such-name.corp.internal"), None);
    assert_eq!(
        resolve(lab, "ahostsv4", "inside-the-range.corp.internal"),
        None,
        "answers inside our range are stripped"
    );
    let reverse = lab.run(Host::User, Jerry, &["getent", "hosts", &ours]).expect_success().stdout;
    assert!(reverse.contains("billing-db.corp.internal"), "{reverse}");
}

#[test]
fn our_names_and_all_others_resolve_by_resolv_conf() {
    let Some(lab) = start(LabOptions::default()) else { return };
    assert_names_resolve(&lab);
    // Nothing of the zone's resources was asked outside; what is not ours was.
    let asked = lab.log("dns-user");
    assert!(asked.contains("wiki.corp.internal"));
    assert!(!asked.contains("billing-db"), "{asked}");
}

#[test]
fn our_names_and_all_others_resolve_by_systemd_resolved() {
    let Some(lab) = start(LabOptions { resolver: Resolver::Resolved, ..LabOptions::default() }) else {
        return;
    };
    assert_names_resolve(&lab);
    let link = lab.run(Host::User, Root, &["resolvectl", "status"]).expect_success().stdout;
    assert!(link.contains("~corp.internal"), "{link}");
    let page = lab.run(Host::User, Jerry, &["curl", "-sS", "http://web-dev.corp.internal/"]).expect_success();
    assert_eq!(page.stdout, "The wiki of the company");
}

/// What an address tells of itself: to a ping, and to a datagram.
fn told(lab: &Lab, address: &str) -> [String; 2] {
    let ping = lab.program(Root, &["ping", address]).finish(PATIENCE);
    let datagram = lab.program(Jerry, &["datagram", address, "443"]).finish(PATIENCE);
    [ping.stdout, datagram.stdout]
}

#[test]
fn an_address_that_no_name_has_is_refused_and_one_that_has_a_name_answers_pings() {
    let Some(lab) = start(LabOptions::default()) else { return };
    let dials = lab.dials();
    let seen = lab.program(Jerry, &["connect", "198.18.200.200", "80"]).finish(PATIENCE).json();
    assert_eq!(seen[0]["result"], "refused", "{seen}");
    lab.wait_for_refusal(Jerry, 80, "unknown_port");
    assert_eq!(told(&lab, "198.18.200.200"), ["host unreachable", "host unreachable"]);
    let ours = resolve(&lab, "ahostsv4", "billing-db.corp.internal").expect("a name of a resource");
    assert_eq!(told(&lab, &ours), ["answered", "refused"]);
    assert_eq!(lab.dials(), dials, "the service itself says so");
}

#[test]
fn every_name_below_a_wildcard_is_reached_and_the_name_above_them_is_not_ours() {
    let Some(lab) = start(LabOptions::default()) else { return };
    let document = "
kind: app
metadata: {name: previews, labels: {env: dev}}
spec: {public_addr: '*.preview.corp.internal', uri: 'tcp://10.0.0.7:80'}
";
    assert!(lab.apply(document).status.success());
    let expected =
        lab.run(Host::User, Jerry, &["curl", "-sS", "http://web-dev.corp.internal/"]).expect_success().stdout;
    for host in ["one.preview.corp.internal", "deep.below.Preview.corp.internal"] {
        wait_for("the name", PATIENCE, || resolve(&lab, "ahostsv4", host));
        let url = format!("http://{host}/");
        let page = lab.run(Host::User, Jerry, &["curl", "-sS", &url]).expect_success();
        assert_eq!(page.stdout, expected);
    }
    assert_eq!(resolve(&lab, "ahostsv4", "preview.corp.internal"), None);
}
