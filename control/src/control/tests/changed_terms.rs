//! What was given on terms that do not hold any more: taps of another scope or interval, grants of longer sessions, and
//! times that a clock set back makes future.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portlatch_protocol::api::ceremony::{BrowserProof, BrowserReturn, CeremonyRequest, PresenceProof};
use portlatch_protocol::api::{AccessAnswer, Ceremony, Secret};
use sha2::{Digest as _, Sha256};

use super::super::*;
use super::scene::{ADDRESS, Person, Scene, claims, file, granted};
use crate::browser::approval::{Claimed, Redirect};
use crate::browser::{Task, Visit};

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

const VISIT: Visit = Visit { owner: [7; 32], address: ADDRESS };
const AGENTS_SECRET: &str = "the agent's";

/// The role of `billing`, with or without browsers on other machines.
async fn set_cross_device(scene: &Scene, cross_device: &str) {
    let role = "kind: role\nmetadata: {name: tap}\nspec: {options: {require_session_mfa: true, cross_device: WORD}, allow: {db_labels: {mfa: tap}}}";
    apply(scene, &role.replace("WORD", cross_device)).await;
}

/// A ceremony with a page, and the challenge for its approval on another machine.
async fn approving_elsewhere(scene: &Scene, person: &Person) -> (Ceremony, Task) {
    let secret_hash = URL_SAFE_NO_PAD.encode(Sha256::digest(AGENTS_SECRET));
    let browser = Some(BrowserReturn { port: 40_000, secret_hash });
    let request = CeremonyRequest { purpose: person.opening("db/billing", 5432), browser };
    let ceremony = scene.control.begin_ceremony(person.asker(), &request).await.unwrap();
    let code = ceremony.browser.as_ref().unwrap().code.clone().unwrap();
    let (user, claimed) = (&person.granted.user, Claimed::Elsewhere(Secret(code)));
    let task = scene.control.begin_approval(VISIT, user, &ceremony.ceremony, &claimed).await.unwrap();
    (ceremony, task)
}

async fn approve(scene: &Scene, person: &mut Person, task: &Task) -> Result<Option<Redirect>, Denial> {
    let mut answer = person.key.answer(&task.options, None);
    answer.origin = "https://proxy.example.com".to_owned();
    let credential = person.key.sign(&answer);
    scene.control.finish_approval(VISIT, &person.granted.user, &task.challenge, &credential).await
}

fn with_the_secret_alone() -> PresenceProof {
    PresenceProof::Browser(BrowserProof { code: None, secret: Secret(AGENTS_SECRET.to_owned()) })
}

// A 9.
#[tokio::test]
async fn another_machine_approves_while_the_role_lets_it_and_not_after() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    set_cross_device(&scene, "true").await;
    let (ceremony, task) = approving_elsewhere(&scene, &person).await;
    assert_eq!(approve(&scene, &mut person, &task).await.unwrap(), None);
    assert!(scene.finish(&person, &ceremony, with_the_secret_alone()).await.is_ok());

    // Between the code and the tap.
    let (_, task) = approving_elsewhere(&scene, &person).await;
    set_cross_device(&scene, "false").await;
    let oks = scene.audit("mfa.ok").len();
    let approved = approve(&scene, &mut person, &task).await;
    assert!(matches!(approved, Err(Denial::Refused(_))), "{approved:?}");
    assert_eq!(scene.last_reason("mfa.fail"), "cross_device");
    assert_eq!(scene.audit("mfa.ok").len(), oks);

    // Between the tap and the agent.
    set_cross_device(&scene, "true").await;
    let (ceremony, task) = approving_elsewhere(&scene, &person).await;
    approve(&scene, &mut person, &task).await.unwrap();
    set_cross_device(&scene, "false").await;
    let (grants, fails) = (scene.audit("grant").len(), scene.audit("mfa.fail").len());
    let finished = scene.finish(&person, &ceremony, with_the_secret_alone()).await;
    assert!(matches!(finished, Err(Denial::Refused(_))), "{finished:?}");
    assert_eq!((scene.audit("grant").len(), scene.audit("mfa.fail").len()), (grants, fails + 1));
}
