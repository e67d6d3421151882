//! Tables of who may do what, from documents as administrators write them.

use proptest::prelude::*;

use super::*;
use crate::documents::{ParseContext, parse};

const NOW: TimeOfDay = TimeOfDay(1_800_000_000_000);

fn world(yaml: &str) -> World {
    let context = ParseContext { public_host: "proxy.example.com".parse().unwrap() };
    World::new(parse("test.yaml", yaml, &context).unwrap().documents)
}

fn user(name: &str) -> UserName {
    name.parse().unwrap()
}

fn id(text: &str) -> ResourceId {
    text.parse().unwrap()
}

fn allowed(world: &World, name: &str, resource: &str, port: u16) -> Terms {
    match world.evaluate(&user(name), &id(resource), port) {
        Decision::Allowed(terms) => terms,
        Decision::Refused { reason, rule } => panic!("{name} {resource}:{port} was refused: {reason} {rule}"),
    }
}

fn refusal(world: &World, name: &str, resource: &str, port: u16) -> RefusalReason {
    match world.evaluate(&user(name), &id(resource), port) {
        Decision::Allowed(terms) => panic!("{name} {resource}:{port} was allowed: {terms:?}"),
        Decision::Refused { reason, .. } => reason,
    }
}

const RESOURCES: &str = "
kind: vnet_config
spec: {custom_dns_zones: [{suffix: corp.internal}]}
---
kind: db
metadata: {name: billing, labels: {env: prod}}
spec: {uri: 'tcp://10.0.0.5', tcp_ports: [{port: 5432}, {port: 6432, end_port: 6439}]}
---
kind: db
metadata: {name: sandbox, labels: {env: dev}}
spec: {uri: 'tcp://10.0.0.6:5432'}
---
kind: app
metadata: {name: shared, labels: {env: dev, tier: gold}}
spec: {uri: 'tcp://10.0.0.7:80', proxies: {site: berlin}}
---
kind: desktop
metadata: {name: win, labels: {env: prod}}
spec: {uri: 'tcp://10.0.0.8:3389'}
---
";

/// Two roles as in the guide to per-session MFA: development without a tap, production with one.
fn two_roles() -> World {
    world(&format!(
        "{RESOURCES}
kind: role
version: v7
metadata: {{name: access-dev}}
spec: {{allow: {{db_labels: {{env: dev}}, app_labels: {{env: dev}}}}}}
---
kind: role
version: v7
metadata: {{name: access-prod}}
spec:
  options: {{require_session_mfa: true}}
  allow: {{db_labels: {{env: prod}}, desktop_labels: {{env: prod}}}}
---
kind: user
metadata: {{name: dev}}
spec: {{roles: [access-dev]}}
---
kind: user
metadata: {{name: prod}}
spec: {{roles: [access-prod]}}
---
kind: user
metadata: {{name: both}}
spec: {{roles: [access-dev, access-prod]}}
"
    ))
}

#[test]
fn of_two_roles_each_asks_for_the_tap_of_its_own_resources() {
    let world = two_roles();
    assert_eq!(allowed(&world, "both", "db/sandbox", 5432).mfa, MfaNeed::None);
    assert_eq!(allowed(&world, "both", "db/billing", 5432).mfa, MfaNeed::Tap);
    assert_eq!(allowed(&world, "dev", "db/sandbox", 5432).mfa, MfaNeed::None);
    assert_eq!(allowed(&world, "prod", "db/billing", 6435).mfa, MfaNeed::Tap);
    assert_eq!(refusal(&world, "dev", "db/billing", 5432), RefusalReason::Policy);
    assert_eq!(refusal(&world, "prod", "db/sandbox", 5432), RefusalReason::Policy);
}

#[test]
fn the_rule_names_the_roles_that_decide() {
    let world = two_roles();
    let rule = allowed(&world, "both", "db/billing", 5432).rule;
    assert_eq!(rule, "allowed by access-prod; a tap for access-prod");
    assert_eq!(allowed(&world, "both", "db/sandbox", 5432).rule, "allowed by access-dev");
}

#[test]
fn a_cluster_preference_makes_the_tap_mandatory_everywhere() {
    let roles = "kind: role\nmetadata: {name: all}\nspec: {allow: {db_labels: {'*': '*'}, desktop_labels: {'*': '*'}}}\n\
                 ---\nkind: user\nmetadata: {name: kim}\nspec: {roles: [all]}\n---\n";
    let preference =
        |spec: &str| world(&format!("{RESOURCES}{roles}kind: cluster_auth_preference\nspec: {spec}\n"));
    let tap = preference("{require_session_mfa: yes}");
    assert_eq!(allowed(&tap, "kim", "db/sandbox", 5432).mfa, MfaNeed::Tap);
    let code = preference("{require_session_mfa: true, second_factors: [webauthn, otp]}");
    assert_eq!(allowed(&code, "kim", "db/sandbox", 5432).mfa, MfaNeed::TapOrCode);
    assert_eq!(allowed(&code, "kim", "desktop/win", 3389).mfa, MfaNeed::Tap, "desktops take no codes");
    let none = preference("{require_session_mfa: false, second_factors: [webauthn, otp]}");
    assert_eq!(allowed(&none, "kim", "desktop/win", 3389).mfa, MfaNeed::None);
}

#[test]
fn what_does_not_exist_is_an_unknown_port_and_what_is_not_allowed_is_policy() {
    let world = two_roles();
    for (resource, port) in
        [("db/billing", 5433), ("db/billing", 6440), ("db/gone", 5432), ("app/billing", 5432)]
    {
        assert_eq!(refusal(&world, "both", resource, port), RefusalReason::UnknownPort, "{resource}:{port}");
    }
    assert_eq!(refusal(&world, "nobody", "db/billing", 5432), RefusalReason::Policy);
}

#[test]
fn desktops_hold_the_data_unless_their_document_says_otherwise() {
    let world = two_roles();
    assert_eq!(allowed(&world, "prod", "desktop/win", 3389).hold, Hold::Data);
    assert_eq!(allowed(&world, "prod", "db/billing", 5432).hold, Hold::Hybrid);
}

#[test]
fn a_role_with_ports_opens_no_others() {
    let world = world(&format!(
        "{RESOURCES}kind: role\nmetadata: {{name: narrow}}\nspec: {{allow: {{db_labels: {{env: prod}}, \
         ports: [{{port: 6400, end_port: 6433}}]}}}}\n---\nkind: user\nmetadata: {{name: kim}}\nspec: {{roles: [narrow]}}\n"
    ));
    assert_eq!(allowed(&world, "kim", "db/billing", 6433).mfa, MfaNeed::None);
    assert_eq!(refusal(&world, "kim", "db/billing", 6434), RefusalReason::Policy);
    assert_eq!(refusal(&world, "kim", "db/billing", 5432), RefusalReason::Policy);
    let listed = world.catalogue(&user("kim"), &[]);
    let ports: Vec<String> = listed[0].ports.iter().map(ToString::to_string).collect();
    assert_eq!(ports, ["6432-6433"]);
}

#[test]
fn deny_wins_over_every_role_and_can_take_single_ports() {
    let roles = "kind: role\nmetadata: {name: all}\nspec: {allow: {db_labels: {'*': '*'}, app_labels: {'*': '*'}}}\n---\n\
                 kind: role\nmetadata: {name: no-gold}\nspec: {deny: {app_labels: {tier: gold}, db_labels: {env: dev}}}\n---\n\
                 kind: role\nmetadata: {name: no-pool}\nspec: {deny: {db_labels: {'*': '*'}, ports: [{port: 6433, end_port: 65535}]}}\n---\n\
                 kind: user\nmetadata: {name: kim}\nspec: {roles: [all, no-gold, no-pool]}\n---\n\
                 kind: user\nmetadata: {name: lee}\nspec: {roles: [all]}\n";
    let world = world(&format!("{RESOURCES}{roles}"));
    assert_eq!(refusal(&world, "kim", "app/shared", 80), RefusalReason::Policy);
    assert_eq!(refusal(&world, "kim", "db/sandbox", 5432), RefusalReason::Policy);
    assert_eq!(refusal(&world, "kim", "db/billing", 6433), RefusalReason::Policy);
    assert_eq!(allowed(&world, "kim", "db/billing", 6432).mfa, MfaNeed::None);
    let names: Vec<String> = world.catalogue(&user("kim"), &[]).iter().map(|r| r.id.to_string()).collect();
    assert_eq!(names, ["db/billing"]);
    assert_eq!(world.catalogue(&user("lee"), &[]).len(), 3);
}

#[test]
fn the_strictest_of_the_granting_roles_sets_the_terms() {
    let role = |name: &str, env: &str, options: &str| {
        format!(
            "kind: role\nmetadata: {{name: {name}}}\nspec: {{options: {options}, allow: {{db_labels: {{env: {env}}}}}}}\n---\n"
        )
    };
    let roles = [
        role(
            "a",
            "prod",
            "{max_session: 8h, client_idle_timeout: 30m, mfa_verification_interval: 2m, max_connections: 50}",
        ),
        role("b", "prod", "{max_session: 2h, max_session_ttl: 10h, max_connection_rate: 20}"),
        // Gives nothing of production: its session options are no matter there, the user's own limits are.
        role(
            "c",
            "dev",
            "{max_session: 1m, client_idle_timeout: 1m, max_session_ttl: 4h, max_connections: 10}",
        ),
    ]
    .concat();
    let user_doc = "kind: user\nmetadata: {name: kim}\nspec: {roles: [a, b, c]}\n";
    let world = world(&format!("{RESOURCES}{roles}{user_doc}"));
    let terms = allowed(&world, "kim", "db/billing", 5432);
    assert_eq!(terms.session.max_session, Some(Duration::from_secs(2 * 3600)));
    assert_eq!(terms.session.idle, Some(Duration::from_secs(30 * 60)));
    assert_eq!(terms.mfa_interval, Duration::from_secs(120));
    assert_eq!(terms.limits, ConnectionLimits { connections: 10, rate: 20, burst: 80 });
    assert_eq!(world.login_ttl(&user("kim")), Some(Duration::from_secs(4 * 3600)));
    assert_eq!(world.login_ttl(&user("nobody")), None);
}

#[test]
fn one_role_that_pins_the_address_pins_it_and_one_that_forbids_another_machine_forbids_it() {
    let role = |name: &str, env: &str, options: &str| {
        let labels = format!("db_labels: {{env: {env}}}, desktop_labels: {{env: {env}}}");
        format!(
            "kind: role\nmetadata: {{name: {name}}}\nspec: {{options: {options}, allow: {{{labels}}}}}\n---\n"
        )
    };
    let roles = [
        role("silent", "prod", "{}"),
        role("yes", "prod", "{cross_device: true}"),
        role("no", "prod", "{cross_device: false}"),
        role("pins", "prod", "{pin_source_ip: true}"),
        role("elsewhere", "dev", "{cross_device: false, pin_source_ip: true}"),
    ]
    .concat();
    let terms = |roles_of: &str, resource: &str, port| {
        let user = format!("kind: user\nmetadata: {{name: kim}}\nspec: {{roles: [{roles_of}]}}\n");
        let terms = allowed(&world(&format!("{RESOURCES}{roles}{user}")), "kim", resource, port);
        (terms.cross_device, terms.pin_source_ip)
    };
    assert_eq!(terms("silent", "db/billing", 5432), (false, false), "off by default");
    assert_eq!(terms("silent, yes", "db/billing", 5432), (true, false));
    assert_eq!(terms("yes, no", "db/billing", 5432), (false, false), "a no stands against every yes");
    assert_eq!(terms("silent, pins", "db/billing", 5432), (false, true));
    assert_eq!(terms("yes, elsewhere", "db/billing", 5432), (true, false), "of roles that give nothing here");
    assert_eq!(terms("yes", "desktop/win", 3389), (false, false), "never for a desktop");
}

#[test]
fn every_scope_binds_a_grant_differently() {
    let binding = |scope: &str| {
        let billing = format!(
            "kind: db\nmetadata: {{name: b, labels: {{env: prod}}}}\nspec: {{uri: 'tcp://h:1', public_addr: b.x, mfa: {{scope: '{scope}'}}}}\n---\n"
        );
        let role = "kind: role\nmetadata: {name: r}\nspec: {allow: {db_labels: {env: prod}}}\n---\nkind: user\nmetadata: {name: kim}\nspec: {roles: [r]}\n";
        allowed(&world(&format!("{billing}{role}")), "kim", "db/b", 1).binding()
    };
    let bindings = ["port", "resource", "group:a", "group:b"].map(binding);
    for (n, one) in bindings.iter().enumerate() {
        assert!(bindings.iter().skip(n + 1).all(|other| other != one), "{one}");
    }
}

#[test]
fn without_options_the_defaults_of_the_design_stand() {
    let world = two_roles();
    let terms = allowed(&world, "prod", "db/billing", 5432);
    assert_eq!(terms.limits, ConnectionLimits::default());
    assert_eq!(terms.session, SessionLimits::default());
    assert_eq!(terms.mfa_interval, Duration::from_secs(300));
    assert_eq!(world.login_ttl(&user("prod")), Some(Duration::from_secs(12 * 3600)));
}

#[test]
fn proxies_dial_what_their_labels_match() {
    let world = two_roles();
    let labels = |site: &str| Labels::from([("site".to_owned(), site.to_owned())]);
    let ids = |labels: &Labels| -> Vec<String> {
        world.proxy_resources(labels).iter().map(|resource| resource.id.to_string()).collect()
    };
    assert_eq!(ids(&labels("berlin")), ["app/shared", "db/billing", "db/sandbox", "desktop/win"]);
    assert_eq!(ids(&labels("paris")), ["db/billing", "db/sandbox", "desktop/win"]);
    assert!(!world.may_dial(&id("app/shared"), &Labels::new()));
    let live =
        ["berlin", "paris"].map(|site| LiveProxy { name: site.parse().unwrap(), labels: labels(site) });
    let listed = world.catalogue(&user("dev"), &live);
    let proxies = |name: &str| listed.iter().find(|r| r.id == id(name)).unwrap().proxies.len();
    assert_eq!((proxies("app/shared"), proxies("db/sandbox")), (1, 2));
}

#[test]
fn names_are_completed_with_the_first_zone() {
    let world = two_roles();
    let host =
        world.catalogue(&user("dev"), &[]).into_iter().find(|r| r.id == id("db/sandbox")).unwrap().host;
    assert_eq!(host.as_str(), "sandbox.corp.internal");
}

#[test]
fn locks_stand_until_they_end() {
    let lock = |spec: &str| format!("kind: lock\nspec: {spec}\n---\n");
    let yaml = [
        lock("{target: {user: jerry}, message: laptop stolen}"),
        lock("{target: {resource: db/billing}, expires: '2027-01-15T08:00:01Z'}"),
        lock("{target: {login: 0af3}, expires: '2027-01-15T08:00:00Z'}"),
    ]
    .concat();
    // 1_800_000_000 is 2027-01-15T08:00:00Z.
    let world = world(&yaml);
    assert_eq!(world.locks(NOW).len(), 2);
    assert_eq!(world.locks(TimeOfDay(NOW.0 + 1000)).len(), 1);
    let (jerry, kim, login, billing) =
        (user("jerry"), user("kim"), "0af3".parse().unwrap(), id("db/billing"));
    let concerned = |user, resource| Concerned { user, login: Some(&login), device: None, resource };
    assert_eq!(world.lock_against(concerned(&jerry, None), NOW).unwrap().message, "laptop stolen");
    assert!(world.lock_against(concerned(&kim, None), NOW).is_none());
    assert!(world.lock_against(concerned(&kim, Some(&billing)), NOW).is_some());
}

/// Roles over three environments and a few ports, some with a tap, some denying.
fn any_role(name: String) -> impl Strategy<Value = RoleDocument> {
    let env = prop::sample::select(vec!["prod", "dev", "*"]);
    let ports =
        prop::sample::select(vec!["", ", ports: [{port: 5432}]", ", ports: [{port: 6000, end_port: 6435}]"]);
    let rule = prop_oneof![
        Just(String::new()),
        (env, ports).prop_map(|(env, ports)| format!("db_labels: {{env: '{env}'}}{ports}"))
    ];
    (rule.clone(), rule, any::<bool>()).prop_map(move |(allow, deny, tap)| {
        let yaml = format!(
            "kind: role\nmetadata: {{name: {name}}}\nspec: {{options: {{require_session_mfa: {tap}}}, allow: {{{allow}}}, deny: {{{deny}}}}}\n"
        );
        let context = ParseContext { public_host: "proxy.example.com".parse().unwrap() };
        let document = parse("", &yaml, &context).unwrap().documents.remove(0);
        let Document::Role(role) = document else { panic!("{document} is no role") };
        role
    })
}

fn with_roles(roles: &[RoleDocument]) -> World {
    let mut world = world(RESOURCES);
    world.users.insert(user("kim"), roles.iter().map(|role| role.name.clone()).collect());
    world.roles = roles.iter().map(|role| (role.name.clone(), role.clone())).collect();
    world
}

const PROBES: [(&str, u16); 5] = [
    ("db/billing", 5432),
    ("db/billing", 6432),
    ("db/billing", 6439),
    ("db/sandbox", 5432),
    ("app/shared", 80),
];

proptest! {
    #[test]
    fn what_is_explained_is_what_is_decided(
        roles in prop::collection::vec(any_role("x".to_owned()), 0..4),
        required in any::<bool>(),
        lock in prop::sample::select(vec![None, Some("user: kim"), Some("resource: db/billing"), Some("user: lee")]),
    ) {
        let mut roles: Vec<RoleDocument> = roles;
        for (number, role) in roles.iter_mut().enumerate() {
            role.name = format!("role-{number}").parse().unwrap();
        }
        let mut site = with_roles(&roles);
        site.preference.require_session_mfa = required;
        if let Some(target) = lock {
            let locked = world(&format!("kind: lock\nspec: {{target: {{{target}}}, message: m}}\n"));
            site.locks = locked.locks;
        }
        for (resource, port) in PROBES.into_iter().chain([("db/billing", 1), ("db/none", 1)]) {
            let (kim, resource) = (user("kim"), id(resource));
            let concerned = Concerned { user: &kim, login: None, device: None, resource: Some(&resource) };
            let is_locked = site.lock_against(concerned, NOW).is_some();
            let decision = site.evaluate(&kim, &resource, port);
            for reader in [explain::Reader::Administrator, explain::Reader::User] {
                let story = site.explain(concerned, port, reader, NOW);
                let told = story.outcome.ok();
                let decided = match &decision {
                    Decision::Allowed(terms) if !is_locked => Some(terms.clone()),
                    Decision::Allowed(_) | Decision::Refused { .. } => None,
                };
                prop_assert_eq!(told, decided, "{}:{} {:?}", resource, port, reader);
                let text = story.steps.join("\n");
                let shows_labels = text.contains("the labels");
                let is_hidden = matches!(decision, Decision::Refused { .. });
                prop_assert!(reader == explain::Reader::Administrator || !is_hidden || !shows_labels, "{}", text);
            }
        }
    }

    #[test]
    fn another_role_never_takes_a_tap_away(
        roles in prop::collection::vec(any_role("x".to_owned()), 1..4),
        added in any_role("added".to_owned()),
    ) {
        let mut roles: Vec<RoleDocument> = roles;
        for (number, role) in roles.iter_mut().enumerate() {
            role.name = format!("role-{number}").parse().unwrap();
        }
        let before = with_roles(&roles);
        roles.push(added);
        let after = with_roles(&roles);
        for (resource, port) in PROBES {
            let decisions = [&before, &after].map(|world| world.evaluate(&user("kim"), &id(resource), port));
            if let [Decision::Allowed(before), Decision::Allowed(after)] = decisions {
                prop_assert!(before.mfa == MfaNeed::None || after.mfa != MfaNeed::None, "{resource}:{port}");
            }
        }
    }

    #[test]
    fn a_deny_rule_never_opens_anything(
        roles in prop::collection::vec(any_role("x".to_owned()), 1..4),
        mut added in any_role("added".to_owned()),
    ) {
        let mut roles: Vec<RoleDocument> = roles;
        for (number, role) in roles.iter_mut().enumerate() {
            role.name = format!("role-{number}").parse().unwrap();
        }
        added.allow = Default::default();
        let before = with_roles(&roles);
        roles.push(added.clone());
        let after = with_roles(&roles);
        for (resource, port) in PROBES {
            let [was, is] = [&before, &after]
                .map(|world| matches!(world.evaluate(&user("kim"), &id(resource), port), Decision::Allowed(_)));
            prop_assert!(was || !is, "{resource}:{port} was opened by a denial");
            let labels = &after.resources[&id(resource)].document.header.labels;
            let denied = added.deny.covers(id(resource).kind, labels) && added.deny.has_port(port);
            prop_assert!(!(denied && is), "{resource}:{port} is open though denied");
        }
    }

    #[test]
    fn the_catalogue_lists_exactly_the_ports_that_would_be_allowed(
        roles in prop::collection::vec(any_role("x".to_owned()), 1..4),
    ) {
        let mut roles: Vec<RoleDocument> = roles;
        for (number, role) in roles.iter_mut().enumerate() {
            role.name = format!("role-{number}").parse().unwrap();
        }
        let world = with_roles(&roles);
        let catalogue = world.catalogue(&user("kim"), &[]);
        for (resource, port) in PROBES {
            let listed = catalogue.iter().any(|listed| listed.id == id(resource) && listed.has_port(port));
            let allowed = matches!(world.evaluate(&user("kim"), &id(resource), port), Decision::Allowed(_));
            prop_assert_eq!(listed, allowed, "{}:{}", resource, port);
        }
    }
}
