//! Every rule's words, at the line and column of what breaks it.

use super::faults;

#[test]
fn every_fault_of_a_file_is_told_at_once_with_its_place() {
    let yaml = "kind: role
metadata: {name: acess prod}
spec:
  options:
    require_sesion_mfa: true
    max_session: 8
    mfa_verification_interval: 10m
    device_trust_mode: required
  allow:
    db_label: {env: prod}
    ports: [{port: 70000}, {port: 9, end_port: 8}]
  deny:
    logins: [root]
    db_labels: {env: 'prod-*'}
---
kind: dbb
metadata: {name: x}
spec: {}
---
kind: db
metadata: {name: y, labels: {env: [a]}}
spec: {uri: 'http://web', public_adr: x}
";
    assert_eq!(
        faults(yaml),
        [
            "a.yaml:2:18: metadata.name `acess prod`: ' ' is not allowed in a role's name",
            "a.yaml:5:5: unknown field `require_sesion_mfa` in spec.options: did you mean `require_session_mfa`?",
            "a.yaml:6:18: spec.options.max_session: `8` is no duration: write it as 12h, 30m or 90s",
            "a.yaml:7:32: spec.options.mfa_verification_interval is 10s to 5m: a tap opens a port for at most five minutes",
            "a.yaml:8:5: spec.options.device_trust_mode would restrict access and cannot be enforced here: remove it",
            "a.yaml:10:5: unknown field `db_label` in spec.allow: did you mean `db_labels`?",
            "a.yaml:11:20: an entry of ports.port is a port from 1 to 65535, not `70000`",
            "a.yaml:11:28: end_port 8 is below port 9",
            "a.yaml:13:5: spec.deny.logins would restrict access and cannot be enforced here: remove it",
            "a.yaml:14:22: `prod-*` looks like a pattern: labels are taken literally, or are `*`",
            "a.yaml:16:7: unknown kind `dbb`: did you mean `db`?",
            "a.yaml:21:35: the label `env` has one value, not a list",
            "a.yaml:22:13: spec.uri: `http` is not understood: everything is reached as tcp://HOST:PORT",
            "a.yaml:22:27: unknown field `public_adr` in spec: did you mean `public_addr`?",
        ]
    );
}

#[test]
fn scopes_and_options_of_proofs_are_read_strictly() {
    assert_spec_faults(&[
        (
            "db",
            "{uri: 'tcp://h:1', mfa: {scope: ports}}",
            "3:39: spec.mfa.scope `ports`: is one of port, resource, group:NAME",
        ),
        (
            "db",
            "{uri: 'tcp://h:1', mfa: {scope: 'group:'}}",
            "3:39: spec.mfa.scope `group:`: a name must not be empty",
        ),
        (
            "db",
            "{uri: 'tcp://h:1', mfa: {scope: 'group:a b'}}",
            "3:39: spec.mfa.scope `group:a b`: ' ' is not allowed in a group's name",
        ),
        (
            "db",
            "{uri: 'tcp://h:1', mfa: {scope: Group:a}}",
            "3:39: spec.mfa.scope `Group:a`: is one of port, resource, group:NAME",
        ),
        (
            "role",
            "{options: {pin_source_ip: maybe}}",
            "3:33: spec.options.pin_source_ip is `true` or `false`, not `maybe`",
        ),
        (
            "role",
            "{options: {cross_device: [yes]}}",
            "3:32: spec.options.cross_device is `true` or `false`, not a list",
        ),
    ]);
}

/// What is wrong with `spec` of a document of this kind.
fn spec_faults(kind: &str, spec: &str) -> Vec<String> {
    faults(&format!("kind: {kind}\nmetadata: {{name: x}}\nspec: {spec}\n"))
}

fn assert_spec_faults(cases: &[(&str, &str, &str)]) {
    for (kind, spec, fault) in cases {
        assert_eq!(spec_faults(kind, spec), [format!("a.yaml:{fault}")], "{kind} {spec}");
    }
}

#[test]
fn each_rule_of_resources_has_its_words() {
    let cases = [
        ("db", "{}", "3:7: spec needs the field `uri`"),
        ("db", "[]", "3:7: spec is a mapping, not a list"),
        ("db", "{uri: db}", "3:13: no port: write it in spec.uri as tcp://HOST:PORT, or list spec.tcp_ports"),
        (
            "db",
            "{uri: 'db:1', tcp_ports: [{port: 2}]}",
            "3:13: spec.uri names port 1, and spec.tcp_ports does not: leave one of them out",
        ),
        (
            "db",
            "{uri: db, tcp_ports: []}",
            "3:28: an empty tcp_ports opens nothing: leave it out, or name ports",
        ),
        (
            "db",
            "{uri: 'db:1', mfa: {hold: maybe}}",
            "3:33: spec.mfa.hold is one of hybrid, syn, data, not `maybe`",
        ),
        (
            "db",
            "{uri: 'db:1', public_addr: proxy.example.com}",
            "3:34: spec.public_addr proxy.example.com takes the cluster's own host proxy.example.com",
        ),
        (
            "db",
            "{uri: 'db:1', public_addr: '*.example.com'}",
            "3:34: spec.public_addr *.example.com takes the cluster's own host proxy.example.com",
        ),
        (
            "db",
            "{uri: 'db:1', public_addr: billing}",
            "3:34: spec.public_addr billing lies in no zone: write NAME.ZONE",
        ),
        (
            "db",
            "{uri: 'db:1', allow_local_target: maybe}",
            "3:41: spec.allow_local_target is `true` or `false`, not `maybe`",
        ),
    ];
    assert_spec_faults(&cases);
}

#[test]
fn each_rule_of_roles_has_its_words() {
    let cases = [
        (
            "role",
            "{allow: {db_labels: {env: []}}}",
            "3:33: `env` with no value never matches: name one, or `*`",
        ),
        ("role", "{allow: {db_labels: {'*': prod}}}", "3:33: the key `*` takes the value `*` alone"),
        (
            "role",
            "{deny: {ports: [{port: 1}]}}",
            "3:14: spec.deny.ports without labels denies nothing: add labels, as `app_labels: {'*': '*'}`",
        ),
        (
            "role",
            "{allow: {desktop_labels: {a: b}, windows_desktop_labels: {a: b}}}",
            "3:64: windows_desktop_labels says the same as desktop_labels: keep one of the two",
        ),
        (
            "role",
            "{options: {max_connections: 0}}",
            "3:35: spec.options.max_connections is a whole number from 1 to 4294967295, not `0`",
        ),
        (
            "role",
            "{options: {max_session: 0s}}",
            "3:31: spec.options.max_session must be longer than nothing",
        ),
        (
            "role",
            "{options: {ssh_file_copy: false}}",
            "3:18: spec.options.ssh_file_copy would restrict access and cannot be enforced here: remove it",
        ),
        (
            "role",
            "{options: {require_session_mfa: hardware_key_touch}}",
            "3:39: `hardware_key_touch` cannot be required here: write `true` for a tap, and ask for a PIN by a \
             resource's mfa.user_verification",
        ),
    ];
    assert_spec_faults(&cases);
}

#[test]
fn each_rule_of_users_and_locks_has_its_words() {
    let cases = [
        ("user", "{roles: admin}", "3:15: spec.roles is a list, not `admin`"),
        (
            "user",
            "{expires: 2027-01-01T00:00:00Z}",
            "3:8: spec.expires would restrict access and cannot be enforced here: remove it",
        ),
        ("lock", "{target: {}}", "3:16: spec.target names one of user, device, login, resource, proxy"),
        (
            "lock",
            "{target: {user: a, device: b}}",
            "3:16: spec.target names one of user, device, login, resource, proxy",
        ),
        (
            "lock",
            "{target: {resource: billing}}",
            "3:27: spec.target.resource `billing`: a resource is written KIND/NAME",
        ),
        (
            "lock",
            "{target: {user: a}, expires: tomorrow}",
            "3:36: spec.expires is a time as 2027-01-01T00:00:00Z, not `tomorrow`",
        ),
    ];
    assert_spec_faults(&cases);
}

#[test]
fn cluster_wide_documents_have_their_rules() {
    let cases = [
        (
            "cluster_auth_preference",
            "{webauthn: {rp_id: other.example.com}}",
            "2:26: spec.webauthn.rp_id is the cluster's public host proxy.example.com for ever, not `other.example.com`",
        ),
        ("cluster_auth_preference", "{type: saml}", "2:14: spec.type is one of local, not `saml`"),
        (
            "cluster_auth_preference",
            "{second_factors: [otp]}",
            "2:24: spec.second_factors needs webauthn: every login has a security key",
        ),
        (
            "cluster_auth_preference",
            "{second_factor: off}",
            "2:23: spec.second_factor is one of on, optional, otp, webauthn, not `off`",
        ),
        (
            "cluster_auth_preference",
            "{local_auth: false}",
            "2:20: spec.local_auth cannot be turned off: there is no other way to log in",
        ),
        (
            "vnet_config",
            "{custom_dns_zones: [{suffix: internal}]}",
            "2:36: the zone internal is a whole top-level domain: write at least corp.internal",
        ),
        (
            "vnet_config",
            "{custom_dns_zones: [{suffix: a.b}, {suffix: A.b.}]}",
            "2:42: the zone a.b stands here twice: remove one",
        ),
    ];
    for (kind, spec, fault) in cases {
        assert_eq!(
            faults(&format!("kind: {kind}\nspec: {spec}\n")),
            [format!("a.yaml:{fault}")],
            "{kind} {spec}"
        );
    }
    let named = "kind: vnet_config\nmetadata: {name: other}\nspec: {}\n";
    assert_eq!(
        faults(named),
        ["a.yaml:2:18: there is one vnet_config and its name is vnet-config, not `other`"]
    );
}

#[test]
fn labels_are_limited_in_bytes_so_that_a_catalogue_travels() {
    let label = |text: &str| {
        format!(
            "kind: app\nmetadata: {{name: a, labels: {{x: {text}}}}}\nspec: {{uri: 'tcp://10.0.0.1:80'}}\n"
        )
    };
    assert!(super::parse("a.yaml", &label(&"x".repeat(128)), &super::context()).is_ok());
    let long = faults(&label(&"ä".repeat(65)));
    assert!(long.len() == 1 && long[0].ends_with("is longer than 128 bytes"), "{long:?}");
}

#[test]
fn a_refusal_in_words_needs_a_protocol_that_has_them() {
    let known = "spec.mfa.refusal: protocol needs spec.protocol to be one of postgres, mysql, ssh, http";
    assert_spec_faults(&[
        ("db", "{uri: 'tcp://10.0.0.5:5432', mfa: {refusal: protocol}}", &format!("3:51: {known}")),
        (
            "db",
            "{protocol: redis, uri: 'tcp://10.0.0.5:1', mfa: {refusal: protocol}}",
            &format!("3:65: {known}"),
        ),
    ]);
    let spoken = "{protocol: postgres, uri: 'tcp://10.0.0.5:5432', mfa: {refusal: protocol}}";
    assert_eq!(spec_faults("db", spoken), [""; 0]);
}
