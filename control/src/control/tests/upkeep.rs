//! What survives a restart, and what is cleaned up.

use std::time::Duration;

use portlatch_protocol::api::ceremony::PresenceProof;

use super::super::*;
use super::scene::{Scene, file, granted, open_as};

#[tokio::test]
async fn a_directory_serves_no_other_cluster_than_its_own() {
    let scene = Scene::new().await;
    let opened = open_as("other.example.com", scene.dir.path(), scene.clock.clone()).await;
    assert!(matches!(opened, Err(OpenError::OtherCluster { .. })));
}

#[tokio::test]
async fn a_restart_keeps_users_keys_logins_taps_and_revocations() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let other = scene.person("elaine").await;
    scene.tap(&mut person, "db/billing", 5432).await.unwrap();
    let revoked = granted(scene.ask(&other, "app/wiki", 80).await);
    scene.control.logout(&other.login).await.unwrap();
    let revision = scene.control.hub.now().revision;
    let scene = scene.restart().await;
    let standing = scene.control.hub.now();
    assert_eq!(standing.revision, revision);
    assert!(standing.revoked.contains_key(&revoked.id));
    assert!(standing.ended_logins.contains_key(&other.granted.login));
    granted(scene.ask(&person, "db/billing", 5432).await);
    person.key.counter += 1;
    scene.tap(&mut person, "db/billing", 5433).await.unwrap();
}

#[tokio::test]
async fn without_its_database_control_grants_nothing_and_says_so() {
    let scene = Scene::new().await;
    let person = scene.person("jerry").await;
    scene.control.store.close().await;
    let asked = scene.control.ask(person.asker(), &person.request("app/wiki", 80)).await;
    assert!(matches!(asked, Err(Denial::Unavailable)), "{asked:?}");
}

#[tokio::test]
async fn on_a_full_disk_nothing_is_granted_and_what_was_acknowledged_is_kept() {
    let scene = Scene::new().await;
    let person = scene.person("jerry").await;
    scene.control.store.allow_pages(1).await;
    let asked = scene.control.ask(person.asker(), &person.request("app/wiki", 80)).await;
    // SQLite may have room left in its last page, but not for ever.
    let mut last = asked.map(|_| ());
    for _ in 0..200 {
        last = scene.control.ask(person.asker(), &person.request("app/wiki", 80)).await.map(|_| ());
        scene.pass(Duration::from_secs(1));
        if last.is_err() {
            break;
        }
    }
    assert_eq!(last, Err(Denial::Unavailable));
    let scene = scene.restart().await;
    granted(scene.ask(&person, "app/wiki", 80).await);
}

// A 4: after a restart.
#[tokio::test]
async fn a_challenge_from_before_a_restart_cannot_be_answered() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let ceremony =
        scene.control.begin_ceremony(person.asker(), &person.open("db/billing", 5432)).await.unwrap();
    let context = person.context("db/billing", 5432);
    let answer = PresenceProof::Key { credential: person.key.tap(&ceremony.options, Some(context)) };
    let scene = scene.restart().await;
    let mark = scene.mark();
    let finished = scene.control.finish_ceremony(person.asker(), &ceremony.ceremony, &answer).await;
    assert_eq!(finished.unwrap_err(), Denial::CeremonyEnded);
    scene.refused_since(&mark, "mfa.fail", "ceremony_ended");
    scene.nothing_proved_since(&mark);
}

#[tokio::test]
async fn an_unanswered_challenge_is_recorded_when_it_lapses() {
    let scene = Scene::new().await;
    let person = scene.person("jerry").await;
    scene.control.begin_ceremony(person.asker(), &person.open("db/billing", 5432)).await.unwrap();
    let cancel = CancellationToken::new();
    let running = tokio::spawn({
        let (control, cancel) = (scene.control.clone(), cancel.clone());
        async move { control.run(cancel).await }
    });
    scene.pass(Duration::from_secs(121));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while scene.audit("mfa.fail").is_empty() && tokio::time::Instant::now() < deadline {
        scene.pass(Duration::from_secs(1));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(scene.last_reason("mfa.fail"), "timed_out");
    assert!(scene.control.ceremonies.is_empty());
    cancel.cancel();
    running.await.unwrap().unwrap();
    assert!(portlatch_audit::verify(&scene.dir.path().join(AUDIT_FOLDER)).is_ok());
}

#[tokio::test]
async fn what_ended_long_ago_is_swept_and_what_stands_is_kept() {
    let scene = Scene::new().await;
    let person = scene.person("jerry").await;
    granted(scene.ask(&person, "app/wiki", 80).await);
    let store = &scene.control.store;
    store.sweep(scene.clock.time_of_day()).await.unwrap();
    assert!(store.login(&person.granted.login).await.unwrap().is_some());
    scene.pass(Duration::from_secs(14 * 3600));
    store.sweep(scene.clock.time_of_day()).await.unwrap();
    assert!(store.login(&person.granted.login).await.unwrap().is_none());
    assert!(!store.has_tunnel_key(&person.granted.login, &person.tunnel_key).await.unwrap());
}

#[tokio::test]
async fn documents_with_a_fault_change_nothing() {
    let scene = Scene::new().await;
    let revision = scene.control.hub.now().revision;
    let text = "kind: app\nmetadata: {name: fine}\nspec: {uri: 'tcp://10.0.0.30:80'}\n---\nkind: user\nmetadata: {name: x}\nspec: {roles: [missing]}";
    let error = scene.control.apply(&file(text), "root").await.unwrap_err();
    assert!(error.lines()[0].contains("missing"));
    assert_eq!(scene.control.hub.now().revision, revision);
    assert!(scene.control.get("app", Some("fine")).await.is_err());
}

#[tokio::test]
async fn a_role_that_users_have_is_not_deleted_under_them() {
    let scene = Scene::new().await;
    scene.person("jerry").await;
    let error = scene.control.delete("role", "open", "root").await.unwrap_err();
    assert!(error.lines()[0].contains("jerry"));
    assert!(scene.control.get("role", Some("open")).await.is_ok());
}

#[tokio::test]
async fn applying_twice_is_applying_once() {
    let scene = Scene::new().await;
    let revision = scene.control.hub.now().revision;
    let again = scene.control.apply(&file(super::scene::DOCUMENTS), "root").await.unwrap();
    assert!(again.lines.iter().all(|line| line.ends_with("unchanged")), "{:?}", again.lines);
    assert_eq!(scene.control.hub.now().revision, revision);
}
