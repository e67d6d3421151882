//! What takes proofs of presence back, and that proxies hear of it.

use std::time::Duration;

use portlatch_protocol::api::ceremony::{CeremonyPurpose, DeviceChange};
use portlatch_protocol::watch::{Change, Hello, WatchMessage};

use super::super::*;
use super::scene::{Person, Scene, granted, is_tap_needed};

/// What must happen gets this long: the machine may be busy, and no test is about how fast it is.
const PATIENCE: Duration = Duration::from_secs(20);

async fn watch_of(scene: &Scene) -> Watch {
    let mut watch = scene.control.watch(Hello::OWN, "main".parse().unwrap(), Labels::new()).unwrap();
    let first = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap();
    assert!(matches!(first, Some(WatchMessage::Snapshot(_))));
    watch
}

/// The grants that the proxy hears to be revoked.
async fn told(watch: &mut Watch) -> Vec<Id> {
    let revoked = async {
        loop {
            if let Some(WatchMessage::Change(Change::Revoked(revoked), _)) = watch.next().await {
                return revoked.into_iter().map(|it| it.grant).collect();
            }
        }
    };
    tokio::time::timeout(PATIENCE, revoked).await.expect("it is told")
}

/// A grant with a tap, and one that needs none.
async fn two_grants(scene: &Scene, person: &mut Person) -> (Id, Id) {
    let tapped = scene.tap(person, "db/billing", 5432).await.unwrap();
    (tapped.id, granted(scene.ask(person, "app/wiki", 80).await).id)
}

#[tokio::test]
async fn a_locked_screen_takes_back_what_rests_on_a_tap_and_nothing_else() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let mut other = scene.log_in_again(&mut person, "desk").await;
    other.key = super::soft_key::SoftKey { counter: person.key.counter, ..super::soft_key::SoftKey::new() };
    let (tapped, free) = two_grants(&scene, &mut person).await;
    let mut watch = watch_of(&scene).await;
    scene.control.forget_presence(person.asker()).await.unwrap();
    assert_eq!(told(&mut watch).await, std::slice::from_ref(&tapped));
    assert!(!scene.control.hub.now().revoked.contains_key(&free));
    assert!(is_tap_needed(&scene.ask(&person, "db/billing", 5432).await));
    granted(scene.ask(&person, "app/wiki", 80).await);
    assert_eq!(scene.audit("mfa.forget").len(), 1);
    assert_eq!(scene.audit("grant.revoke")[0]["grant"], tapped.to_string());
    assert!(scene.tap(&mut person, "db/billing", 5432).await.is_ok());
}

#[tokio::test]
async fn another_login_of_the_same_user_keeps_its_taps() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let other = scene.log_in_again(&mut person, "desk").await;
    let tapped = scene.tap(&mut person, "db/billing", 5432).await.unwrap();
    scene.control.forget_presence(other.asker()).await.unwrap();
    assert!(!scene.control.hub.now().revoked.contains_key(&tapped.id));
    granted(scene.ask(&person, "db/billing", 5432).await);
}

#[tokio::test]
async fn logout_key_removal_and_reset_are_told_to_proxies() {
    for way in ["logout", "key", "reset", "lock"] {
        let scene = Scene::new().await;
        let mut person = scene.person("jerry").await;
        let spare = scene.log_in_again(&mut person, "desk").await;
        let (tapped, free) = two_grants(&scene, &mut person).await;
        let mut watch = watch_of(&scene).await;
        match way {
            "logout" => scene.control.logout(&person.login).await.unwrap(),
            "reset" => drop(scene.control.reset_user(&person.granted.user, "root").await.unwrap()),
            "lock" => {
                let target = crate::admin::LockedBy::Login(person.granted.login.clone());
                scene.control.lock(target, None, None, "root").await.unwrap();
            }
            _ => {
                let user = &person.granted.user;
                let key = scene.control.store.credentials(user).await.unwrap().remove(0).id;
                assert!(scene.control.store.remove_credential(&key, user).await.unwrap());
                scene.control.settle().await;
            }
        }
        let mut revoked = told(&mut watch).await;
        revoked.sort();
        let mut expected = if way == "key" { vec![tapped] } else { vec![tapped, free] };
        expected.sort();
        assert_eq!(revoked, expected, "{way}");
        drop(spare);
    }
}

#[tokio::test]
async fn a_device_s_removal_is_told_to_proxies() {
    let scene = Scene::new().await;
    scene.apply("kind: cluster_auth_preference\nspec: {second_factors: [webauthn, otp]}").await;
    let mut person = scene.person("jerry").await;
    let app = scene.add_app(&mut person).await;
    scene.pass(Duration::from_secs(30));
    let open = person.opening("db/billing", 5432);
    let outcome = scene.type_code(&person, &open, &app.code(&scene.clock)).await.unwrap();
    let grant = super::scene::grant_of(outcome);
    let mut watch = watch_of(&scene).await;
    let remove = CeremonyPurpose::ManageDevices(DeviceChange::Remove { device: app.id });
    scene.prove(&mut person, &remove).await.unwrap();
    assert_eq!(told(&mut watch).await, [grant.id]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_grant_escapes_a_screen_that_is_locked_at_the_same_time() {
    let scene = Scene::in_memory().await;
    let mut person = scene.person("jerry").await;
    let mut escaped = 0;
    for _ in 0..60 {
        scene.pass(Duration::from_secs(10));
        scene.tap(&mut person, "db/billing", 5432).await.unwrap();
        let asks: Vec<_> = (0..6)
            .map(|_| {
                let (control, login) = (scene.control.clone(), person.login.clone());
                let request = person.request("db/billing", 5432);
                tokio::spawn(async move {
                    let asker = crate::grants::Asker { login: &login, address: super::scene::ADDRESS };
                    control.ask(asker, &request).await.unwrap()
                })
            })
            .collect();
        scene.control.forget_presence(person.asker()).await.unwrap();
        for ask in asks {
            // One that was given before is revoked; one that comes after is asked for a tap, not for a login.
            if let portlatch_protocol::api::AccessAnswer::Granted(grant) = ask.await.unwrap() {
                escaped += usize::from(!scene.control.hub.now().revoked.contains_key(&grant.id));
            }
        }
    }
    assert_eq!(escaped, 0);
}

#[tokio::test]
async fn grants_of_a_future_that_was_taken_back_never_come_to_life() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    scene.pass(Duration::from_secs(3600));
    let grant = scene.tap(&mut person, "db/billing", 5432).await.unwrap();
    scene.set_back(Duration::from_secs(3600));
    scene.control.forget_the_future().await.unwrap();
    assert!(scene.control.hub.now().revoked.contains_key(&grant.id));
    scene.pass(Duration::from_secs(3590));
    scene.control.reconsider_grants().await.unwrap();
    assert!(scene.control.hub.now().revoked.contains_key(&grant.id), "as long as it would be taken");
}
