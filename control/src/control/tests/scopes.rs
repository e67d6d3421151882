//! What one tap opens: a port, a resource, a group; and who may use it from where.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use portlatch_protocol::api::AccessAnswer;
use portlatch_protocol::refusal::RefusalReason;

use super::super::*;
use super::scene::{Scene, claims, granted, is_tap_needed};
use crate::grants::Asker;

fn db(name: &str, scope: &str) -> String {
    format!(
        "kind: db\nmetadata: {{name: {name}, labels: {{mfa: tap}}}}\nspec: {{uri: 'tcp://10.2.0.1', \
         tcp_ports: [{{port: 100}}, {{port: 200}}], mfa: {{scope: {scope}}}}}"
    )
}

/// `a` and `b` are of the group `prod`, `c` of another, `d` of none.
async fn grouped() -> Scene {
    let scene = Scene::new().await;
    let documents =
        [db("a", "'group:prod'"), db("b", "'group:prod'"), db("c", "'group:dev'"), db("d", "resource")];
    scene.apply(&documents.join("\n---\n")).await;
    scene
}

#[tokio::test]
async fn a_tap_of_a_group_opens_every_port_of_its_resources_and_no_other() {
    let scene = grouped().await;
    let mut person = scene.person("jerry").await;
    let first = scene.tap(&mut person, "db/a", 100).await.unwrap();
    for (resource, port) in [("db/a", 200), ("db/b", 100), ("db/b", 200)] {
        let grant = granted(scene.ask(&person, resource, port).await);
        let claims_of = claims(&scene, &grant);
        assert_eq!((claims_of.resource.to_string(), claims_of.port), (resource.to_owned(), port));
        assert_eq!(claims_of.auth_time, claims(&scene, &first).auth_time, "one tap");
    }
    for resource in ["db/c", "db/d"] {
        assert!(is_tap_needed(&scene.ask(&person, resource, 100).await), "{resource}");
    }
    scene.pass(Duration::from_secs(301));
    assert!(is_tap_needed(&scene.ask(&person, "db/b", 100).await));
}

#[tokio::test]
async fn a_tap_serves_only_as_widely_as_the_resource_still_says() {
    let scene = grouped().await;
    let mut person = scene.person("jerry").await;
    scene.tap(&mut person, "db/a", 100).await.unwrap();
    let silent = granted(scene.ask(&person, "db/b", 100).await);
    scene.apply(&db("b", "'group:dev'")).await;
    assert!(is_tap_needed(&scene.ask(&person, "db/b", 100).await), "it left the group");
    assert!(scene.control.hub.now().revoked.contains_key(&silent.id));
    granted(scene.ask(&person, "db/a", 200).await);
    scene.apply(&db("a", "port")).await;
    assert!(is_tap_needed(&scene.ask(&person, "db/a", 200).await), "each port asks for its own now");
}

#[tokio::test]
async fn a_tap_is_no_wider_than_what_was_said_when_it_was_made() {
    let scene = grouped().await;
    scene.apply(&db("a", "port")).await;
    let mut person = scene.person("jerry").await;
    scene.tap(&mut person, "db/a", 100).await.unwrap();
    scene.apply(&db("a", "'group:prod'")).await;
    granted(scene.ask(&person, "db/a", 100).await);
    for (resource, port) in [("db/a", 200), ("db/b", 100)] {
        assert!(is_tap_needed(&scene.ask(&person, resource, port).await), "{resource}:{port}");
    }
}

#[tokio::test]
async fn a_group_s_tap_opens_nothing_that_asks_for_more() {
    let scene = grouped().await;
    scene.apply("kind: cluster_auth_preference\nspec: {second_factors: [webauthn, otp]}").await;
    scene.apply(&db("b", "'group:prod', user_verification: true")).await;
    let mut person = scene.person("jerry").await;
    let app = scene.add_app(&mut person).await;
    scene.tap(&mut person, "db/a", 100).await.unwrap();
    assert!(is_tap_needed(&scene.ask(&person, "db/b", 100).await), "a PIN");
    scene.apply(&db("b", "'group:prod'")).await;
    let desktop = "kind: role\nmetadata: {name: tap}\nspec: {options: {require_session_mfa: true}, \
        allow: {db_labels: {mfa: tap}, desktop_labels: {'*': '*'}}}\n---\nkind: desktop\nmetadata: {name: win}\n\
        spec: {uri: 'tcp://10.2.0.3:3389', mfa: {scope: 'group:prod'}}";
    scene.apply(desktop).await;
    let other = scene.log_in_again(&mut person, "desk").await;
    scene.pass(Duration::from_secs(30));
    let open = other.opening("db/a", 100);
    scene.type_code(&other, &open, &app.code(&scene.clock)).await.unwrap();
    granted(scene.ask(&other, "db/b", 100).await);
    assert!(is_tap_needed(&scene.ask(&other, "desktop/win", 3389).await), "a code");
    granted(scene.ask(&person, "desktop/win", 3389).await);
}

#[tokio::test]
async fn nobody_else_s_tap_opens_anything() {
    let scene = grouped().await;
    let mut person = scene.person("jerry").await;
    let elaine = scene.person("elaine").await;
    scene.tap(&mut person, "db/a", 100).await.unwrap();
    let other_device = scene.log_in_again(&mut person, "desk").await;
    for other in [&elaine, &other_device] {
        assert!(is_tap_needed(&scene.ask(other, "db/b", 100).await));
    }
}

// A 3: from another address, where a role pins it.
#[tokio::test]
async fn a_pinned_login_is_used_from_its_own_address_alone() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let elsewhere = Asker { address: IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9)), ..person.asker() };
    let wiki = person.request("app/wiki", 80);
    let free = scene.control.ask(elsewhere, &wiki).await.unwrap();
    assert!(matches!(free, AccessAnswer::Granted(_)), "nobody pins it yet");
    scene
        .apply(
            "kind: role\nmetadata: {name: open}\nspec: {options: {max_session: 1h, pin_source_ip: true}, \
             allow: {app_labels: {mfa: none}}}\n---\nkind: role\nmetadata: {name: tap}\nspec: {options: \
             {require_session_mfa: true, pin_source_ip: true}, allow: {db_labels: {mfa: tap}}}",
        )
        .await;
    let open = person.open("db/billing", 5432);
    let ceremony = scene.control.begin_ceremony(person.asker(), &open).await.unwrap();
    let purpose = person.opening("db/billing", 5432);
    let proof = person.tap_for(&ceremony, &purpose);
    let elsewhere = Asker { address: IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9)), ..person.asker() };
    let asked = scene.control.ask(elsewhere, &wiki).await.unwrap();
    let AccessAnswer::Refused { reason, message } = asked else { panic!("{asked:?}") };
    assert_eq!(reason, RefusalReason::Policy);
    assert!(message.contains("address that you logged in from"), "{message}");
    let began = scene.control.begin_ceremony(elsewhere, &open).await;
    assert_eq!(began.unwrap_err(), Denial::SourceAddress);
    let finished = scene.control.finish_ceremony(elsewhere, &ceremony.ceremony, &proof).await;
    assert_eq!(finished.unwrap_err(), Denial::SourceAddress);
    assert_eq!(scene.last_reason("access.denied"), "source_address");
    assert_eq!(scene.audit("grant").len(), 1, "the one from before");
    granted(scene.ask(&person, "app/wiki", 80).await);
    assert!(scene.tap(&mut person, "db/billing", 5432).await.is_ok());
    // A host changes its address within its own /64, and IPv4 may come mapped.
    let mapped = Asker { address: Ipv4Addr::new(192, 0, 2, 7).to_ipv6_mapped().into(), ..person.asker() };
    assert!(matches!(scene.control.ask(mapped, &wiki).await.unwrap(), AccessAnswer::Granted(_)));
    let v6 = Asker { address: Ipv6Addr::LOCALHOST.into(), ..person.asker() };
    assert!(matches!(scene.control.ask(v6, &wiki).await.unwrap(), AccessAnswer::Refused { .. }));
}
