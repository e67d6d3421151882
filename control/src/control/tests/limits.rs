//! How often a login may, and what happens to changes that cannot be recorded.

use std::sync::Arc;
use std::time::Duration;

use portlatch_protocol::api::AccessAnswer;
use portlatch_protocol::refusal::RefusalReason;

use super::super::*;
use super::scene::{Scene, file};
use crate::control::changes::ChangeError;

#[tokio::test]
async fn a_login_begins_ten_ceremonies_a_minute() {
    let scene = Scene::new().await;
    let person = scene.person("jerry").await;
    let open = person.opening("db/billing", 5432);
    for _ in 0..10 {
        scene.begin(&person, &open).await.unwrap();
    }
    assert_eq!(scene.begin(&person, &open).await.unwrap_err(), Denial::RateLimited);
    assert_eq!(scene.last_reason("access.denied"), "rate_limited");
    assert_eq!(scene.control.ceremonies.len(), crate::ceremony::MAX_PER_OWNER);
    scene.pass(Duration::from_secs(6));
    assert!(scene.begin(&person, &open).await.is_ok());
    assert!(scene.begin(&person, &open).await.is_err());
}

#[tokio::test]
async fn questions_beyond_the_limit_are_refused_and_a_few_of_them_recorded() {
    let scene = Scene::new().await;
    let person = scene.person("jerry").await;
    let mut limited = 0;
    for _ in 0..260 {
        if let AccessAnswer::Refused { reason: RefusalReason::Limit, .. } =
            scene.ask(&person, "db/billing", 5432).await
        {
            limited += 1;
        }
    }
    assert!(limited >= 10, "{limited}");
    let recorded = scene.audit("access.denied").len();
    assert!((1..=6).contains(&recorded), "{recorded}");
    assert_eq!(scene.last_reason("access.denied"), "rate_limited");
}

/// The scene, with an audit that is full.
fn fill_audit(scene: &mut Scene) {
    let config = SpoolConfig {
        directory: scene.dir.path().join("full"),
        source: "full".to_owned(),
        cluster: scene.control.cluster().clone(),
        durability: Durability::Os,
        max_bytes: 600,
    };
    let spool = Spool::open(config, scene.clock.time_of_day()).unwrap();
    let now = scene.clock.time_of_day();
    while spool.append(&Event::new(EventKind::Grant), now).is_ok() {}
    let full = AuditLog::new(spool, scene.clock.clone());
    Arc::get_mut(&mut scene.control).expect("the test holds control alone").audit = full;
}

#[tokio::test]
async fn a_change_that_cannot_be_recorded_is_not_made() {
    let mut scene = Scene::new().await;
    let person = scene.person("jerry").await;
    fill_audit(&mut scene);
    let revision = scene.control.hub.now().revision;
    let resource = "kind: app\nmetadata: {name: new}\nspec: {uri: 'tcp://10.0.0.20:80'}";
    let user = person.granted.user.clone();
    let is_refused = |error: ChangeError| matches!(error, ChangeError::NotRecorded(_));
    let control = &scene.control;
    assert!(is_refused(control.apply(&file(resource), "root").await.unwrap_err()));
    assert!(is_refused(control.delete("app", "wiki", "root").await.unwrap_err()));
    assert!(is_refused(control.add_user(&"elaine".parse().unwrap(), Vec::new(), "root").await.unwrap_err()));
    assert!(is_refused(control.reset_user(&user, "root").await.unwrap_err()));
    assert!(is_refused(control.add_join_token(&"p2".parse().unwrap(), "root").await.unwrap_err()));
    let standing = control.hub.now();
    assert_eq!(standing.revision, revision);
    assert!(standing.world.has_resource(&"app/wiki".parse().unwrap()));
    assert!(!standing.has_user(&"elaine".parse().unwrap()));
    assert!(control.store.login(&person.granted.login).await.unwrap().unwrap().ended.is_none());
}

#[tokio::test]
async fn a_lock_is_set_even_if_nothing_can_be_recorded() {
    let mut scene = Scene::new().await;
    let person = scene.person("jerry").await;
    fill_audit(&mut scene);
    let target = crate::admin::LockedBy::User(person.granted.user.clone());
    scene.control.lock(target, None, None, "root").await.unwrap();
    let asked = scene.ask(&person, "app/wiki", 80).await;
    assert!(matches!(asked, AccessAnswer::Refused { reason: RefusalReason::Locked, .. }));
    // To lift it is to give rights, and waits for the audit.
    assert!(scene.control.delete("lock", "user-jerry", "root").await.is_err());
}

#[tokio::test]
async fn a_change_that_was_recorded_and_could_not_be_stored_is_recorded_as_such() {
    let scene = Scene::new().await;
    scene.control.store.close().await;
    let added = scene.control.add_join_token(&"p2".parse().unwrap(), "root").await;
    assert!(matches!(added, Err(ChangeError::Unavailable(_))));
    let records = scene.audit("token.create");
    assert_eq!(records.len(), 2);
    assert_eq!(records[1]["reason"], "not_done");
}
