//! What was given on terms that do not hold any more: taps of another scope or interval, grants of longer sessions, and
//! times that a clock set back makes future.

use std::time::Duration;

use portlatch_protocol::api::AccessAnswer;

use super::super::*;
use super::scene::{Scene, claims, file, granted};

fn is_tap_needed(answer: &AccessAnswer) -> bool {
    matches!(answer, AccessAnswer::TapNeeded { .. })
}

async fn apply(scene: &Scene, text: &str) {
    scene.control.apply(&file(text), "root").await.unwrap();
}

fn is_revoked(scene: &Scene, grant: &Id) -> bool {
    scene.control.hub.now().revoked.contains_key(grant)
}

#[tokio::test]
async fn a_shorter_interval_ends_the_grants_of_older_taps() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let long = scene.tap(&mut person, "db/billing", 5432).await.unwrap();
    let role = "kind: role\nmetadata: {name: tap}\nspec: {options: {require_session_mfa: true, mfa_verification_interval: 1m}, allow: {db_labels: {mfa: tap}}}";
    apply(&scene, role).await;
    assert!(is_revoked(&scene, &long.id), "it would have served for five minutes");
    let short = granted(scene.ask(&person, "db/billing", 5432).await);
    let short = claims(&scene, &short);
    assert_eq!(short.exp, short.auth_time.unwrap() + 60, "the tap still serves for its minute");
    scene.pass(Duration::from_secs(61));
    assert!(is_tap_needed(&scene.ask(&person, "db/billing", 5432).await));
}

#[tokio::test]
async fn a_narrower_scope_ends_what_one_tap_opened_beside_its_port() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    scene.tap(&mut person, "db/wide", 1000).await.unwrap();
    let beside = granted(scene.ask(&person, "db/wide", 1009).await);
    let narrow = "kind: db\nmetadata: {name: wide, labels: {mfa: tap}}\nspec: {uri: 'tcp://10.0.0.9', tcp_ports: [{port: 1000, end_port: 1009}]}";
    apply(&scene, narrow).await;
    assert!(is_revoked(&scene, &beside.id));
    assert!(is_tap_needed(&scene.ask(&person, "db/wide", 1009).await), "nobody tapped for this port");
}

#[tokio::test]
async fn shorter_sessions_end_the_grants_of_longer_ones() {
    let scene = Scene::new().await;
    let person = scene.person("jerry").await;
    let hour = granted(scene.ask(&person, "app/wiki", 80).await);
    apply(&scene, "kind: role\nmetadata: {name: open}\nspec: {options: {max_session: 10m}, allow: {app_labels: {mfa: none}}}").await;
    assert!(is_revoked(&scene, &hour.id));
    let minutes = claims(&scene, &granted(scene.ask(&person, "app/wiki", 80).await));
    assert_eq!(minutes.session_end - minutes.iat, 600);
}

#[tokio::test]
async fn what_does_not_concern_a_grant_leaves_it_alone() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let (wiki, billing) = (
        granted(scene.ask(&person, "app/wiki", 80).await),
        scene.tap(&mut person, "db/billing", 5432).await.unwrap(),
    );
    apply(&scene, "kind: app\nmetadata: {name: new, labels: {mfa: none}}\nspec: {uri: 'tcp://10.0.0.20:80'}")
        .await;
    apply(&scene, "kind: app\nmetadata: {name: wiki, description: Wiki, labels: {mfa: none}}\nspec: {uri: 'tcp://10.0.0.7:80'}").await;
    assert!(!is_revoked(&scene, &wiki.id) && !is_revoked(&scene, &billing.id));
}

#[tokio::test]
async fn a_grant_is_revoked_as_long_as_a_proxy_may_take_it() {
    let scene = Scene::new().await;
    let person = scene.person("jerry").await;
    let grant = granted(scene.ask(&person, "app/wiki", 80).await);
    // Proxies give an expiry five seconds more.
    scene.pass(Duration::from_secs(302));
    apply(&scene, "kind: user\nmetadata: {name: jerry}\nspec: {roles: [tap]}").await;
    assert!(is_revoked(&scene, &grant.id));
    scene.pass(Duration::from_secs(10));
    apply(&scene, "kind: user\nmetadata: {name: jerry}\nspec: {roles: [open]}").await;
    assert!(!is_revoked(&scene, &grant.id), "it is forgotten when no proxy takes it");
}

#[tokio::test]
async fn a_tap_of_the_future_opens_nothing() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    scene.pass(Duration::from_secs(3600));
    scene.tap(&mut person, "db/billing", 5432).await.unwrap();
    scene.set_back(Duration::from_secs(3600));
    assert!(is_tap_needed(&scene.ask(&person, "db/billing", 5432).await));
    // Nor when that future has come: it is an hour old then.
    scene.control.store.sweep(scene.clock.time_of_day()).await.unwrap();
    scene.pass(Duration::from_secs(3610));
    assert!(is_tap_needed(&scene.ask(&person, "db/billing", 5432).await));
}

#[tokio::test]
async fn two_roles_need_a_tap_where_the_one_that_grants_asks_for_it() {
    let scene = Scene::new().await;
    let text = "kind: role\nmetadata: {name: dev}\nspec: {allow: {db_labels: {env: dev}}}\n---\n\
        kind: role\nmetadata: {name: prod}\nspec: {options: {require_session_mfa: true}, allow: {db_labels: {env: prod}}}\n---\n\
        kind: db\nmetadata: {name: dev, labels: {env: dev}}\nspec: {uri: 'tcp://10.0.3.1:5432'}\n---\n\
        kind: db\nmetadata: {name: prod, labels: {env: prod}}\nspec: {uri: 'tcp://10.0.3.2:5432'}";
    apply(&scene, text).await;
    let mut person = scene.person("jerry").await;
    apply(&scene, "kind: user\nmetadata: {name: jerry}\nspec: {roles: [dev, prod]}").await;
    assert!(granted(scene.ask(&person, "db/dev", 5432).await).amr.is_empty());
    assert!(is_tap_needed(&scene.ask(&person, "db/prod", 5432).await));
    assert!(!scene.tap(&mut person, "db/prod", 5432).await.unwrap().amr.is_empty());
    apply(&scene, "kind: cluster_auth_preference\nspec: {require_session_mfa: true}").await;
    assert!(is_tap_needed(&scene.ask(&person, "db/dev", 5432).await));
}
