//! Grants: when they are given, for how long, and what takes them away.

use std::sync::Arc;
use std::time::Duration;

use portlatch_protocol::api::AccessAnswer;
use portlatch_protocol::api::ceremony::{CeremonyPurpose, CeremonyRequest, PresenceProof};
use portlatch_protocol::refusal::RefusalReason;

use super::super::*;
use super::scene::{Scene, claims, file, granted, is_tap_needed};
use crate::admin::LockedBy;
use crate::ceremony::MAX_PER_OWNER;

fn refusal(answer: AccessAnswer) -> RefusalReason {
    match answer {
        AccessAnswer::Refused { reason, .. } => reason,
        AccessAnswer::Granted(_) | AccessAnswer::TapNeeded { .. } => panic!("it was not refused"),
    }
}

#[tokio::test]
async fn without_a_tap_a_grant_lives_five_minutes_from_now() {
    let scene = Scene::new().await;
    let person = scene.person("jerry").await;
    let grant = granted(scene.ask(&person, "app/wiki", 80).await);
    let claims = claims(&scene, &grant);
    assert_eq!(claims.exp - claims.iat, 300);
    assert_eq!(grant.expires_in, 300);
    assert_eq!(claims.session_end - claims.iat, 3600, "the role's max_session");
    assert_eq!((claims.amr.len(), claims.auth_time, claims.key_id), (0, None, None));
    assert_eq!(claims.cnf.jkt, person.tunnel_key);
    assert_eq!((claims.sub, claims.login), (person.granted.user, person.granted.login));
    assert_eq!(scene.audit("grant").last().unwrap()["program"], "psql[2J");
}

// A 7, A 8.
#[tokio::test]
async fn a_tap_opens_one_port_for_five_minutes_from_the_tap() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    assert!(is_tap_needed(&scene.ask(&person, "db/billing", 5432).await));
    let grant = scene.tap(&mut person, "db/billing", 5432).await.unwrap();
    let first = claims(&scene, &grant);
    assert_eq!(first.exp, first.auth_time.unwrap() + 300);
    assert_eq!(grant.amr, ["hwk", "user"]);
    assert!(first.key_id.is_some());
    assert!(is_tap_needed(&scene.ask(&person, "db/billing", 5433).await), "another port");
    scene.pass(Duration::from_secs(200));
    let silent = claims(&scene, &granted(scene.ask(&person, "db/billing", 5432).await));
    assert_eq!((silent.exp, silent.auth_time), (first.exp, first.auth_time), "not extended by use");
    assert_ne!(silent.jti, first.jti);
    scene.pass(Duration::from_secs(101));
    assert!(is_tap_needed(&scene.ask(&person, "db/billing", 5432).await));
}

#[tokio::test]
async fn a_shorter_interval_of_a_role_shortens_the_tap() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let grant = scene.tap(&mut person, "app/brief", 80).await.unwrap();
    let claims = claims(&scene, &grant);
    assert_eq!(claims.exp, claims.auth_time.unwrap() + 60);
    scene.pass(Duration::from_secs(61));
    assert!(is_tap_needed(&scene.ask(&person, "app/brief", 80).await));
}

#[tokio::test]
async fn a_tap_of_a_wide_scope_opens_every_port_of_the_resource() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    scene.tap(&mut person, "db/wide", 1000).await.unwrap();
    let grant = granted(scene.ask(&person, "db/wide", 1009).await);
    assert_eq!(claims(&scene, &grant).port, 1009, "each grant names its one port");
    assert!(is_tap_needed(&scene.ask(&person, "db/billing", 5432).await));
}

// A 3, A 8: another attach.
#[tokio::test]
async fn a_tap_serves_its_own_tunnel_key_alone() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    scene.tap(&mut person, "db/billing", 5432).await.unwrap();
    let attached_again = scene.with_tunnel(person.key, person.granted).await;
    assert!(is_tap_needed(&scene.ask(&attached_again, "db/billing", 5432).await));
}

// A 3.
#[tokio::test]
async fn a_tunnel_key_that_was_not_certified_for_the_login_gets_nothing() {
    let scene = Scene::new().await;
    let (jerry, elaine) = (scene.person("jerry").await, scene.person("elaine").await);
    let mut request = jerry.request("app/wiki", 80);
    request.tunnel_key = elaine.tunnel_key;
    assert!(matches!(scene.control.ask(jerry.asker(), &request).await, Err(Denial::BadRequest(_))));
    let request = CeremonyRequest { purpose: CeremonyPurpose::Open(request), browser: None };
    assert!(matches!(
        scene.control.begin_ceremony(jerry.asker(), &request).await,
        Err(Denial::BadRequest(_))
    ));
    assert_eq!(scene.last_reason("access.denied"), "tunnel_key");
}

#[tokio::test]
async fn what_the_policy_does_not_allow_is_refused_by_its_reason() {
    let scene = Scene::new().await;
    let person = scene.person("jerry").await;
    assert_eq!(refusal(scene.ask(&person, "app/secret", 80).await), RefusalReason::Policy);
    assert_eq!(refusal(scene.ask(&person, "app/wiki", 81).await), RefusalReason::UnknownPort);
    assert_eq!(refusal(scene.ask(&person, "app/nothing", 80).await), RefusalReason::UnknownPort);
    assert_eq!(scene.audit("access.denied").len(), 3);
    assert!(
        scene.control.ceremonies.is_empty() && scene.audit("mfa.challenge").len() == 1,
        "the login's own"
    );
}

// A 4: after its time.
#[tokio::test]
async fn a_challenge_ends_after_two_minutes() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let mut mark = scene.mark();
    for (wait, is_answered) in [(119, true), (121, false)] {
        let ceremony =
            scene.control.begin_ceremony(person.asker(), &person.open("db/billing", 5432)).await.unwrap();
        let context = person.context("db/billing", 5432);
        let answer = PresenceProof::Key { credential: person.key.tap(&ceremony.options, Some(context)) };
        scene.pass(Duration::from_secs(wait));
        mark = scene.mark();
        let finished = scene.control.finish_ceremony(person.asker(), &ceremony.ceremony, &answer).await;
        assert_eq!(finished.is_ok(), is_answered, "after {wait} s: {finished:?}");
    }
    scene.refused_since(&mark, "mfa.fail", "ceremony_ended");
    scene.nothing_proved_since(&mark);
}

// A 4: after it was cancelled.
#[tokio::test]
async fn a_cancelled_challenge_cannot_be_answered() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let ceremony =
        scene.control.begin_ceremony(person.asker(), &person.open("db/billing", 5432)).await.unwrap();
    let context = person.context("db/billing", 5432);
    let answer = PresenceProof::Key { credential: person.key.tap(&ceremony.options, Some(context)) };
    let mark = scene.mark();
    scene.control.cancel_ceremony(person.asker(), &ceremony.ceremony).await;
    scene.refused_since(&mark, "mfa.fail", "cancelled");
    let mark = scene.mark();
    let finished = scene.control.finish_ceremony(person.asker(), &ceremony.ceremony, &answer).await;
    assert_eq!(finished.unwrap_err(), Denial::CeremonyEnded);
    scene.refused_since(&mark, "mfa.fail", "ceremony_ended");
    scene.nothing_proved_since(&mark);
}

#[tokio::test]
async fn a_login_has_few_challenges_at_once() {
    let scene = Scene::new().await;
    let person = scene.person("jerry").await;
    for _ in 0..10 {
        let request = person.open("db/billing", 5432);
        scene.control.begin_ceremony(person.asker(), &request).await.unwrap();
    }
    assert_eq!(scene.control.ceremonies.len(), MAX_PER_OWNER);
}

// A 9.
#[tokio::test]
async fn a_role_removed_between_challenge_and_answer_refuses_the_answer() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let ceremony =
        scene.control.begin_ceremony(person.asker(), &person.open("db/billing", 5432)).await.unwrap();
    let context = person.context("db/billing", 5432);
    let answer = PresenceProof::Key { credential: person.key.tap(&ceremony.options, Some(context)) };
    let without = "kind: user\nmetadata: {name: jerry}\nspec: {roles: [open]}";
    scene.control.apply(&file(without), "root").await.unwrap();
    let mark = scene.mark();
    let finished = scene.control.finish_ceremony(person.asker(), &ceremony.ceremony, &answer).await;
    assert_eq!(finished.unwrap_err(), Denial::Policy);
    scene.refused_since(&mark, "access.denied", "policy");
    scene.nothing_proved_since(&mark);
}

#[tokio::test]
async fn a_tap_that_became_mandatory_revokes_grants_without_one() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let (wiki, billing) = (
        granted(scene.ask(&person, "app/wiki", 80).await),
        scene.tap(&mut person, "db/billing", 5432).await.unwrap(),
    );
    let preference = "kind: cluster_auth_preference\nspec: {require_session_mfa: true}";
    scene.control.apply(&file(preference), "root").await.unwrap();
    let standing = scene.control.hub.now();
    assert!(standing.revoked.contains_key(&wiki.id) && !standing.revoked.contains_key(&billing.id));
    assert!(is_tap_needed(&scene.ask(&person, "app/wiki", 80).await));
}

#[tokio::test]
async fn locks_refuse_and_revoke_until_they_end() {
    let targets = [
        LockedBy::User("jerry".parse().unwrap()),
        LockedBy::Device("laptop".parse().unwrap()),
        LockedBy::Resource("app/wiki".parse().unwrap()),
    ];
    for target in targets {
        let scene = Scene::new().await;
        let person = scene.person("jerry").await;
        let grant = granted(scene.ask(&person, "app/wiki", 80).await);
        let ttl = Some(Duration::from_secs(3600));
        scene.control.lock(target.clone(), ttl, Some("laptop stolen".to_owned()), "root").await.unwrap();
        let answer = scene.ask(&person, "app/wiki", 80).await;
        let AccessAnswer::Refused { reason, message } = answer else { panic!("{target:?} did not lock") };
        assert_eq!((reason, message.as_str()), (RefusalReason::Locked, "laptop stolen"));
        assert!(scene.control.hub.now().revoked.contains_key(&grant.id));
        scene.pass(Duration::from_secs(3601));
        granted(scene.ask(&person, "app/wiki", 80).await);
    }
}

#[tokio::test]
async fn a_lock_on_a_login_leaves_the_users_other_login_alone() {
    let scene = Scene::new().await;
    let (jerry, elaine) = (scene.person("jerry").await, scene.person("elaine").await);
    let target = LockedBy::Login(jerry.granted.login.clone());
    scene.control.lock(target, None, None, "root").await.unwrap();
    assert_eq!(refusal(scene.ask(&jerry, "app/wiki", 80).await), RefusalReason::Locked);
    granted(scene.ask(&elaine, "app/wiki", 80).await);
}

// A 8: a grant ends with its login.
#[tokio::test]
async fn logout_revokes_what_the_login_was_granted() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let grant = scene.tap(&mut person, "db/billing", 5432).await.unwrap();
    scene.control.logout(&person.login).await.unwrap();
    let standing = scene.control.hub.now();
    assert!(standing.revoked.contains_key(&grant.id));
    assert!(standing.ended_logins.contains_key(&person.granted.login));
    // A request that was authenticated a moment before must not get through either.
    let late = scene.control.ask(person.asker(), &person.request("app/wiki", 80)).await;
    assert_eq!(late.unwrap_err(), Denial::LoginEnded);
    assert_eq!(scene.audit("logout").len(), 1);
}

#[tokio::test]
async fn a_key_that_is_removed_takes_its_grants_and_taps_along() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let grant = scene.tap(&mut person, "db/billing", 5432).await.unwrap();
    let user = &person.login.login.user;
    let key = scene.control.store.credentials(user).await.unwrap().remove(0).id;
    scene.control.store.remove_credential(&key, user).await.unwrap();
    scene.control.reconsider_grants().await.unwrap();
    assert!(scene.control.hub.now().revoked.contains_key(&grant.id));
    assert!(is_tap_needed(&scene.ask(&person, "db/billing", 5432).await));
}

#[tokio::test]
async fn without_the_audit_nothing_is_granted() {
    let mut scene = Scene::new().await;
    let person = scene.person("jerry").await;
    let config = SpoolConfig {
        directory: scene.dir.path().join("full"),
        source: "full".to_owned(),
        cluster: scene.control.cluster().clone(),
        durability: Durability::Os,
        max_bytes: 600,
    };
    let full = AuditLog::new(Spool::open(config, scene.clock.time_of_day()).unwrap(), scene.clock.clone());
    while full.write(Event::new(EventKind::Grant)).await.is_ok() {}
    Arc::get_mut(&mut scene.control).expect("the test holds control alone").audit = full;
    let asked = scene.control.ask(person.asker(), &person.request("app/wiki", 80)).await;
    assert_eq!(asked.unwrap_err(), Denial::Unavailable);
    let began = scene.control.begin_ceremony(person.asker(), &person.open("db/billing", 5432)).await;
    assert_eq!(began.unwrap_err(), Denial::Unavailable);
    let now = scene.clock.time_of_day();
    assert!(scene.control.store.live_grants(now).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_grant_escapes_a_change_that_comes_at_the_same_time() {
    let scene = Scene::new().await;
    let person = scene.person("jerry").await;
    let roles =
        |roles: &str| file(&format!("kind: user\nmetadata: {{name: jerry}}\nspec: {{roles: [{roles}]}}"));
    let mut given = 0;
    for _ in 0..30 {
        scene.control.apply(&roles("open"), "root").await.unwrap();
        scene.pass(Duration::from_secs(10));
        let asks: Vec<_> = (0..8)
            .map(|_| {
                let (control, login) = (scene.control.clone(), person.login.clone());
                let request = person.request("app/wiki", 80);
                tokio::spawn(async move {
                    let asker = crate::grants::Asker { login: &login, address: super::scene::ADDRESS };
                    matches!(control.ask(asker, &request).await, Ok(AccessAnswer::Granted(_)))
                })
            })
            .collect();
        scene.control.apply(&roles("tap"), "root").await.unwrap();
        for ask in asks {
            given += usize::from(ask.await.unwrap());
        }
        let live = scene.control.store.live_grants(scene.clock.time_of_day()).await.unwrap();
        assert!(live.is_empty(), "{} grants escaped", live.len());
    }
    assert!(given > 0, "no grant was given before its change: nothing was raced");
}
