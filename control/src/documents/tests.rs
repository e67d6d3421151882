//! Whole documents: those of the guides as they stand, every fault in its words and at its place, and what the store
//! keeps.

use std::time::Duration;

use portlatch_protocol::ports::PortRange;
use portlatch_protocol::resource::Hold;
use serde_json::json;

use super::resource::MfaScope;
use super::*;

mod anything;
mod faults;
mod handbook;

fn context() -> ParseContext {
    ParseContext { public_host: "proxy.example.com".parse().unwrap() }
}

fn parsed(yaml: &str) -> Parsed {
    parse("a.yaml", yaml, &context()).unwrap_or_else(|faults| panic!("{}", lines(&faults).join("\n")))
}

fn one(yaml: &str) -> Document {
    let mut documents = parsed(yaml).documents;
    assert_eq!(documents.len(), 1);
    documents.remove(0)
}

fn lines<T: ToString>(items: &[T]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

fn faults(yaml: &str) -> Vec<String> {
    lines(&parse("a.yaml", yaml, &context()).err().unwrap_or_default())
}

fn warnings(yaml: &str) -> Vec<String> {
    lines(&parsed(yaml).warnings)
}

/// The example of the design, word for word.
const DESIGN: &str = r#"kind: cluster_auth_preference
metadata: {name: cluster-auth-preference}
spec: {require_session_mfa: false, second_factors: [webauthn, otp]}
---
kind: vnet_config
metadata: {name: vnet-config}
spec: {custom_dns_zones: [{suffix: corp.internal}, {suffix: prod.internal, exclusive: true}]}
---
kind: role
version: v7
metadata: {name: access-prod}
spec:
  options: {require_session_mfa: true, max_session_ttl: 12h, max_session: 8h, client_idle_timeout: 30m,
            max_connections: 1024, max_connection_rate: 500, mfa_verification_interval: 5m}
  allow:
    db_labels: {env: prod}
    app_labels: {env: [prod, staging]}
    ports: [{port: 5432}, {port: 8000, end_port: 8099}]     # none given: every port of the resource
    logins: [jerry]
  deny: {db_labels: {tier: secret}}
---
kind: db                      # app | db | node | kube_cluster | desktop
metadata: {name: billing-db, description: Billing, labels: {env: prod}}
spec:
  public_addr: billing-db.corp.internal      # default: NAME.ZONE; a leading *. takes every name below it
  protocol: postgres                         # tcp by default; used for refusals and the tables
  uri: tcp://10.0.0.5:5432                   # with tcp_ports, the uri has no port
  tcp_ports: [{port: 5432}, {port: 6432, end_port: 6439}]
  proxies: {site: berlin}                    # labels of the proxies that may dial it; none: any
  mfa: {user_verification: false, hold: hybrid, scope: port, refusal: reset}
---
kind: user
metadata: {name: jerry}
spec: {roles: [access-dev, access-prod]}
---
kind: lock
spec: {target: {user: jerry}, message: "laptop stolen", expires: 2027-01-01T00:00:00Z}
"#;

/// The documents of Teleport's guide to per-session MFA.
const GUIDE: &str = r#"kind: cluster_auth_preference
version: v2
metadata:
  name: cluster-auth-preference
spec:
  type: local
  # To make webauthn the only form of second factor allowed, set this field to ["webauthn"].
  second_factors: ["webauthn"]
  webauthn:
    rp_id: proxy.example.com
  # require per-session MFA cluster-wide
  require_session_mfa: yes
---
kind: role
version: v7
metadata:
  name: access-dev
spec:
  allow:
    node_labels:
      env: dev
    logins:
      - jerry
---
kind: role
version: v7
metadata:
  name: access-prod
spec:
  options:
    # require per-session MFA for this role
    require_session_mfa: true
  allow:
    node_labels:
      env: prod
    logins:
      - jerry
  deny: {}
"#;

#[test]
fn the_design_s_example_is_read_whole() {
    let documents = parsed(DESIGN).documents;
    let names: Vec<String> = lines(&documents);
    assert_eq!(
        names,
        [
            "cluster_auth_preference/cluster-auth-preference",
            "vnet_config/vnet-config",
            "role/access-prod",
            "db/billing-db",
            "user/jerry",
            "lock/user-jerry",
        ]
    );
    let Document::Role(role) = &documents[2] else { panic!("{}", documents[2]) };
    assert_eq!(role.options.max_session, Some(Duration::from_secs(8 * 3600)));
    assert_eq!(role.allow.ports, [PortRange::single(5432).unwrap(), PortRange::new(8000, 8099).unwrap()]);
    assert!(role.deny.covers(ResourceKind::Db, &[("tier".to_owned(), "secret".to_owned())].into()));
    let Document::Resource(db) = &documents[3] else { panic!("{}", documents[3]) };
    assert_eq!((db.target.as_str(), db.ports.ranges().len()), ("10.0.0.5", 2));
    assert_eq!((db.mfa.hold, &db.mfa.scope), (Some(Hold::Hybrid), &MfaScope::Port));
    let place = documents[3].place().unwrap();
    assert_eq!((place.line, place.column), (22, 1));
}

#[test]
fn the_guide_s_documents_are_accepted_as_they_stand() {
    let parsed = parsed(GUIDE);
    let Document::AuthPreference(preference) = &parsed.documents[0] else { panic!() };
    assert!(preference.require_session_mfa && !preference.allows_otp);
    let Document::Role(prod) = &parsed.documents[2] else { panic!() };
    assert!(prod.options.require_session_mfa);
    assert!(prod.allow.covers(ResourceKind::Node, &[("env".to_owned(), "prod".to_owned())].into()));
    assert_eq!(
        lines(&parsed.warnings),
        [
            "a.yaml:22:5: spec.allow.logins is kept but not enforced: SSH is not opened",
            "a.yaml:36:5: spec.allow.logins is kept but not enforced: SSH is not opened",
        ]
    );
}

#[test]
fn an_unknown_field_that_is_like_no_other_lists_what_there_is() {
    assert_eq!(
        faults("kind: vnet_config\nspec: {colour: red}\n"),
        ["a.yaml:2:8: unknown field `colour` in spec: there are custom_dns_zones"]
    );
}

#[test]
fn older_and_fuller_documents_of_teleport_s_are_understood() {
    let factors = |second_factor: &str| {
        let yaml = format!("kind: cluster_auth_preference\nspec: {{second_factor: {second_factor}}}\n");
        let Document::AuthPreference(preference) = one(&yaml) else { panic!() };
        preference.allows_otp
    };
    assert_eq!([factors("on"), factors("webauthn")], [true, false]);
    let role = one(
        "kind: role\nversion: v7\nmetadata: {name: access, id: 12}\nspec:\n  allow: {app_labels: {'*': '*'}, \
                    kubernetes_groups: [x]}\n  deny: {logins: null}\n  options: {max_session_ttl: 30h0m0s, pin_source_ip: false, \
                    port_forwarding: true, ssh_file_copy: true, require_session_mfa: 'no', client_idle_timeout: never}\n",
    );
    let Document::Role(role) = role else { panic!() };
    assert_eq!(role.options.max_session_ttl, Some(Duration::from_secs(30 * 3600)));
    assert!(!role.options.require_session_mfa);
    assert!(role.allow.covers(ResourceKind::App, &Default::default()));
}

#[test]
fn what_a_role_says_of_proofs_survives_its_written_form() {
    let written =
        "kind: role\nmetadata: {name: r}\nspec: {options: {pin_source_ip: true, cross_device: false}}\n";
    let role = one(written);
    let Document::Role(RoleDocument { options, .. }) = &role else { panic!("{role}") };
    assert_eq!((options.pin_source_ip, options.cross_device), (true, Some(false)));
    assert_eq!(Document::from_json(&role.to_json()).unwrap(), role);
    let grouped =
        one("kind: db\nmetadata: {name: b}\nspec: {uri: 'tcp://h:1', mfa: {scope: 'group:prod'}}\n");
    let Document::Resource(resource) = &grouped else { panic!("{grouped}") };
    assert_eq!(resource.mfa.scope, MfaScope::Group("prod".parse().unwrap()));
    assert_eq!(grouped.to_json()["spec"]["mfa"]["scope"], "group:prod");
    assert_eq!(Document::from_json(&grouped.to_json()).unwrap(), grouped);
}

#[test]
fn text_that_is_no_yaml_is_a_fault_and_what_stood_before_it_is_checked_too() {
    let found = faults("kind: dbb\nspec: {}\n---\nkind: [db\nspec: }\n");
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("a.yaml:1:7: unknown kind"), "{found:?}");
    assert!(found[1].starts_with("a.yaml:5:") && found[1].contains("this is no YAML"), "{found:?}");
}

#[test]
fn what_makes_yaml_say_more_than_it_shows_is_refused() {
    let alias = faults("kind: user\nmetadata: &m {name: x}\nspec: {roles: *m}\n");
    assert!(alias[0].starts_with("a.yaml:3:15: aliases (`*name`) are not accepted"), "{alias:?}");
    let twice = faults("kind: role\nmetadata: {name: x}\nspec:\n  deny: {db_labels: {a: b}}\n  deny: {}\n");
    assert_eq!(twice, ["a.yaml:5:3: `deny` stands here twice: remove one"]);
    let tag = faults("kind: !!str role\nmetadata: {name: x}\nspec: {}\n");
    assert_eq!(tag, ["a.yaml:1:7: tags (`!...`) have no meaning here: remove it"]);
}

#[test]
fn bombs_end_early() {
    let deep = format!("kind: role\nspec: {}{}\n", "[".repeat(100_000), "]".repeat(100_000));
    assert!(!faults(&deep).is_empty());
    let big = format!("# {}\n", "x".repeat(node::MAX_FILE));
    assert_eq!(faults(&big), ["a.yaml:1:1: a file has at most 4 MiB: split it"]);
    let many = "a: b\n---\n".repeat(20_000);
    let found = faults(&many);
    assert!(found.len() < 250, "{}", found.len());
    assert!(found.last().unwrap().ends_with("more faults in a.yaml"), "{found:?}");
}

#[test]
fn an_empty_file_has_no_documents() {
    for yaml in ["", "---\n", "# nothing\n", "---\n---\n...\n", "\u{feff}"] {
        assert_eq!(parsed(yaml).documents.len(), 0, "{yaml:?}");
    }
}

#[test]
fn a_lock_without_a_name_is_named_after_its_target() {
    let name = |target: &str| one(&format!("kind: lock\nspec: {{target: {{{target}}}}}\n")).name().to_owned();
    assert_eq!(name("user: jerry"), "user-jerry");
    assert_eq!(name("resource: db/billing"), "resource-db-billing");
    let hashed = name("user: jerry@example.com");
    assert_eq!((hashed.len(), &hashed), (32, &name("user: jerry@example.com")));
    assert_ne!(hashed, name("user: kim@example.com"));
}

#[test]
fn a_local_target_without_leave_is_warned_of() {
    let yaml =
        |rest: &str| format!("kind: app\nmetadata: {{name: x}}\nspec: {{uri: 'tcp://127.0.0.1:80'{rest}}}\n");
    assert_eq!(warnings(&yaml("")).len(), 1);
    assert_eq!(warnings(&yaml(", allow_local_target: true")), [""; 0]);
}

#[test]
fn a_desktop_that_prompts_before_its_first_request_is_warned_of() {
    let yaml = |kind: &str, hold: &str| {
        format!(
            "kind: {kind}\nmetadata: {{name: x}}\nspec: {{uri: 'tcp://win:3389', mfa: {{hold: {hold}}}}}\n"
        )
    };
    for hold in ["hybrid", "syn"] {
        let warned = warnings(&yaml("desktop", hold));
        assert!(warned.len() == 1 && warned[0].contains("a port scan's too"), "{hold}: {warned:?}");
        assert_eq!(warnings(&yaml("app", hold)), [""; 0]);
    }
    assert_eq!(warnings(&yaml("desktop", "data")), [""; 0]);
}

#[test]
fn a_port_of_the_uri_that_is_listed_too_is_warned_of() {
    let yaml =
        "kind: app\nmetadata: {name: x}\nspec: {uri: 'tcp://web:80', tcp_ports: [{port: 80}, {port: 443}]}\n";
    assert_eq!(
        warnings(yaml),
        [
            "a.yaml:3:13: the port in spec.uri has no effect beside spec.tcp_ports: every port is dialled as itself"
        ]
    );
    let Document::Resource(app) = one(yaml) else { panic!() };
    assert_eq!(app.ports.ranges().len(), 2);
}

#[test]
fn the_written_shape_keeps_foreign_fields_and_leaves_defaults_out() {
    let document = one("kind: role\nversion: v7\nmetadata: {name: dev, revision: 9f-1, labels: {team: x}}\n\
                        spec: {options: {client_idle_timeout: never, max_session: 90m, forward_agent: true}, \
                        allow: {logins: [jerry, root], kubernetes_labels: {'*': '*'}}, deny: {logins: []}}\n");
    assert_eq!(
        document.to_json(),
        json!({
            "kind": "role",
            "version": "v7",
            "metadata": {"name": "dev", "revision": "9f-1", "labels": {"team": "x"}},
            "spec": {
                "options": {"max_session": "1h30m", "forward_agent": true},
                "allow": {"logins": ["jerry", "root"], "kube_cluster_labels": {"*": "*"}},
            },
        })
    );
}

#[test]
fn what_the_store_keeps_reads_back_as_the_same_document() {
    for yaml in [DESIGN, GUIDE] {
        for document in parsed(yaml).documents {
            let json = document.to_json();
            let again = Document::from_json(&json).unwrap_or_else(|faults| panic!("{document}: {faults:?}"));
            assert_eq!(again, document);
            assert_eq!(again.to_json(), json);
            let yaml = to_yaml(&json);
            assert_eq!(one(&yaml).to_json(), json, "{yaml}");
        }
    }
}

#[test]
fn people_get_the_fields_in_the_order_in_which_they_write_them() {
    let document =
        one("kind: db\nmetadata: {name: x, labels: {env: 'yes', 'a b': '1'}, description: 'Say \"hi\"'}\n\
                        spec: {uri: db, tcp_ports: [{port: 1, end_port: 2}], public_addr: '*.x.corp'}\n");
    assert_eq!(
        to_yaml(&document.to_json()),
        "kind: db
metadata:
  name: x
  description: \"Say \\\"hi\\\"\"
  labels:
    \"a b\": \"1\"
    env: \"yes\"
spec:
  public_addr: \"*.x.corp\"
  tcp_ports:
  - port: 1
    end_port: 2
  uri: tcp://db
"
    );
}

#[test]
fn the_store_s_json_is_checked_as_strictly() {
    let found =
        Document::from_json(&json!({"kind": "user", "metadata": {"name": "a b"}, "spec": {}})).unwrap_err();
    assert_eq!(lines(&found), ["metadata.name `a b`: ' ' is not allowed in a user's name"]);
    assert!(Document::from_json(&json!(["x"])).is_err());
}

#[test]
fn documents_of_a_set_must_agree() {
    let yaml = "kind: vnet_config\nspec: {custom_dns_zones: [{suffix: corp.internal}]}
---
{kind: user, metadata: {name: jerry}, spec: {roles: [access-prd]}}
---
{kind: role, metadata: {name: access-prod}, spec: {}}
---
{kind: db, metadata: {name: one}, spec: {uri: 'a', tcp_ports: [{port: 10, end_port: 20}, {port: 30}], public_addr: db.corp.internal}}
---
{kind: app, metadata: {name: two}, spec: {uri: 'b:15', public_addr: DB.corp.internal}}
---
{kind: app, metadata: {name: three}, spec: {uri: 'b:21', public_addr: db.corp.internal}}
---
{kind: app, metadata: {name: outside}, spec: {uri: 'b:1', public_addr: x.example.org}}
---
{kind: user, metadata: {name: jerry}, spec: {roles: []}}
---
{kind: lock, spec: {target: {user: kim}}}
";
    let documents = parsed(yaml).documents;
    let found = lines(&check_set(&documents, &context()).unwrap_err());
    assert_eq!(
        found,
        [
            "a.yaml:4:1: user/jerry: there is no role `access-prd`: did you mean `access-prod`?",
            "a.yaml:10:1: app/two: db/one has port 15 of db.corp.internal already",
            "a.yaml:16:1: user/jerry: stands here twice (first at a.yaml:4:1): remove one",
        ]
    );
    let sound: Vec<Document> =
        documents.into_iter().filter(|document| !["jerry", "two"].contains(&document.name())).collect();
    assert_eq!(
        lines(&check_set(&sound, &context()).unwrap()),
        [
            "a.yaml:14:1: app/outside: x.example.org lies in no zone of the vnet_config: nobody will be able to resolve it",
            "a.yaml:18:1: lock/user-kim: what it locks does not exist (yet)",
        ]
    );
}

#[test]
fn a_resource_cannot_get_the_cluster_s_own_host_by_its_zone() {
    let yaml = "kind: vnet_config\nspec: {custom_dns_zones: [{suffix: example.com}]}\n---\n\
                {kind: app, metadata: {name: proxy}, spec: {uri: 'b:15'}}\n";
    let found = lines(&check_set(&parsed(yaml).documents, &context()).unwrap_err());
    assert_eq!(
        found,
        [
            "a.yaml:4:1: app/proxy: proxy.example.com takes the cluster's own host: give it another public_addr"
        ]
    );
}
