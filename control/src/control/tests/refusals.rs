//! Answers of a key that must not open anything: each is refused, named in the audit, and has used up its challenge.

use std::time::Duration;

use portlatch_protocol::api::ceremony::{CeremonyOutcome, PresenceProof};
use serde_json::json;

use super::super::*;
use super::scene::{ADDRESS, Person, Scene};
use super::soft_key::{Answer, BACKED_UP, BACKUP_ELIGIBLE, SoftKey, USER_PRESENT, USER_VERIFIED};

type Spoil = Box<dyn FnOnce(&mut Answer)>;

const PLACE: (&str, u16) = ("db/billing", 5432);

/// Answers one ceremony with what `spoil` makes of an honest answer.
async fn refused_as(
    scene: &Scene,
    person: &mut Person,
    place: (&str, u16),
    spoil: impl FnOnce(&mut Answer),
) -> String {
    let request = person.open(place.0, place.1);
    let ceremony = scene.control.begin_ceremony(person.asker(), &request).await.unwrap();
    let context = person.context(place.0, place.1);
    let mut answer = person.key.answer(&ceremony.options, Some(context));
    spoil(&mut answer);
    let credential = person.key.sign(&answer);
    refused(scene, person, &ceremony.ceremony, credential).await
}

async fn refused(scene: &Scene, person: &Person, ceremony: &Id, credential: serde_json::Value) -> String {
    // More than a minute for each failure: the limit on wrong answers is another test's.
    scene.pass(Duration::from_secs(70));
    let (grants, oks) = (scene.audit("grant").len(), scene.audit("mfa.ok").len());
    let mark = scene.mark();
    let answer = PresenceProof::Key { credential };
    let denied = scene.control.finish_ceremony(person.asker(), ceremony, &answer).await;
    assert_eq!(denied.unwrap_err(), Denial::BadAssertion);
    assert_eq!((scene.audit("grant").len(), scene.audit("mfa.ok").len()), (grants, oks));
    let reason = scene.last_reason("mfa.fail");
    scene.refused_since(&mark, "mfa.fail", &reason);
    let again = scene.control.finish_ceremony(person.asker(), ceremony, &answer).await;
    assert_eq!(again.unwrap_err(), Denial::CeremonyEnded, "the challenge was used up");
    reason
}

// A 5, A 6.
#[tokio::test]
async fn an_answer_with_one_wrong_part_is_refused() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let other = scene.person("elaine").await;
    let elaines_handle =
        scene.control.store.user_secrets(&other.login.login.user).await.unwrap().unwrap().handle;
    let elaines_key = other.key.id.clone();
    let spoils: Vec<(&str, Spoil)> = vec![
        ("challenge", Box::new(|it| it.challenge = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_owned())),
        ("type", Box::new(|it| it.kind = "webauthn.create")),
        ("origin", Box::new(|it| it.origin = "https://proxy.example.com".to_owned())),
        ("origin", Box::new(|it| it.origin = "portlatch-agent://evil.example.com".to_owned())),
        ("origin", Box::new(|it| it.origin = "portlatch-agent://proxy.example.com/".to_owned())),
        ("origin", Box::new(|it| it.origin = "portlatch-agent://proxy.example.com:8443".to_owned())),
        ("origin", Box::new(|it| it.origin = "portlatch-agents://proxy.example.com".to_owned())),
        ("origin", Box::new(|it| it.origin = "http://proxy.example.com".to_owned())),
        ("origin", Box::new(|it| it.origin = "https://proxy.example.com:8443".to_owned())),
        ("origin", Box::new(|it| it.origin = "https://proxy.example.com.evil.example".to_owned())),
        ("rp_id", Box::new(|it| it.rp_id = "evil.example.com".to_owned())),
        ("user_not_present", Box::new(|it| it.flags = 0)),
        ("signature", Box::new(|it| it.signs = vec![0])),
        ("unknown_key", Box::new(|it| it.id = vec![7; 32])),
        ("unknown_key", Box::new(move |it| it.id = elaines_key)),
        ("extension", Box::new(|it| it.extensions = json!({"appid": true}))),
        ("extension", Box::new(|it| it.extensions = json!({"largeBlob": {"blob": "AA"}}))),
        ("user_handle", Box::new(move |it| it.user_handle = Some(elaines_handle.to_vec()))),
        ("cross_origin", Box::new(|it| it.cross_origin = Some(true))),
        ("backup_flags", Box::new(|it| it.flags |= BACKUP_ELIGIBLE)),
        ("backup_flags", Box::new(|it| it.flags |= BACKUP_ELIGIBLE | BACKED_UP)),
        ("context", Box::new(|it| it.context = None)),
        ("context", Box::new(|it| it.context.as_mut().unwrap()["resource"] = json!("db/vault"))),
        ("context", Box::new(|it| it.context.as_mut().unwrap()["port"] = json!(5433))),
        ("context", Box::new(|it| it.context.as_mut().unwrap()["login"] = json!("0af3"))),
        ("context", Box::new(|it| it.context = Some(json!("db/billing")))),
    ];
    for (expected, spoil) in spoils {
        assert_eq!(refused_as(&scene, &mut person, PLACE, spoil).await, expected);
    }
    assert!(scene.tap(&mut person, PLACE.0, PLACE.1).await.is_ok(), "the honest answer passes");
}

// A 6: BE.
#[tokio::test]
async fn a_key_that_could_be_backed_up_and_now_cannot_is_refused() {
    let scene = Scene::new().await;
    let token = scene.token_for("jerry").await;
    let key = SoftKey { backup: BACKUP_ELIGIBLE | BACKED_UP, ..SoftKey::new() };
    let granted = scene.enrol("jerry", &token, &key, ADDRESS).await.unwrap();
    let mut person = scene.with_tunnel(key, granted).await;
    for flags in [USER_PRESENT, USER_PRESENT | BACKED_UP] {
        let reason = refused_as(&scene, &mut person, PLACE, |it| it.flags = flags).await;
        assert!(["backup_flags", "malformed"].contains(&reason.as_str()), "{flags}: {reason}");
    }
    assert!(scene.tap(&mut person, PLACE.0, PLACE.1).await.is_ok());
}

// A 6: signature.
#[tokio::test]
async fn the_signature_of_another_key_is_refused() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let request = person.open(PLACE.0, PLACE.1);
    let ceremony = scene.control.begin_ceremony(person.asker(), &request).await.unwrap();
    let context = person.context(PLACE.0, PLACE.1);
    let answer = person.key.answer(&ceremony.options, Some(context));
    let forged = SoftKey::new().sign(&answer);
    assert_eq!(refused(&scene, &person, &ceremony.ceremony, forged).await, "signature");
}

// A 6: counter.
#[tokio::test]
async fn a_counter_that_has_not_grown_is_refused() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    person.key.counter = 40;
    scene.tap(&mut person, PLACE.0, PLACE.1).await.unwrap();
    for counter in [41, 40, 1, 0] {
        assert_eq!(refused_as(&scene, &mut person, PLACE, |it| it.counter = counter).await, "counter");
    }
    person.key.counter = 41;
    assert!(scene.tap(&mut person, PLACE.0, PLACE.1).await.is_ok());
}

#[tokio::test]
async fn a_counter_that_was_overtaken_between_challenge_and_answer_is_refused() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let request = person.open(PLACE.0, PLACE.1);
    let early = scene.control.begin_ceremony(person.asker(), &request).await.unwrap();
    let context = person.context(PLACE.0, PLACE.1);
    let early_answer = person.key.tap(&early.options, Some(context));
    scene.tap(&mut person, PLACE.0, 5433).await.unwrap();
    assert_eq!(refused(&scene, &person, &early.ceremony, early_answer).await, "counter");
}

#[tokio::test]
async fn a_key_that_never_counts_passes() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    for _ in 0..3 {
        let request = person.open(PLACE.0, PLACE.1);
        let ceremony = scene.control.begin_ceremony(person.asker(), &request).await.unwrap();
        let context = person.context(PLACE.0, PLACE.1);
        let mut answer = person.key.answer(&ceremony.options, Some(context));
        answer.counter = 0;
        let answer = PresenceProof::Key { credential: person.key.sign(&answer) };
        scene.control.finish_ceremony(person.asker(), &ceremony.ceremony, &answer).await.unwrap();
    }
}

// A 6: UV.
#[tokio::test]
async fn a_bare_tap_does_not_open_what_asks_for_a_pin() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let vault = ("db/vault", 5432);
    assert_eq!(refused_as(&scene, &mut person, vault, |_| {}).await, "user_not_verified");
    let request = person.open(vault.0, vault.1);
    let ceremony = scene.control.begin_ceremony(person.asker(), &request).await.unwrap();
    assert_eq!(ceremony.options["publicKey"]["userVerification"], "required");
    let context = person.context(vault.0, vault.1);
    let mut answer = person.key.answer(&ceremony.options, Some(context));
    answer.flags = USER_PRESENT | USER_VERIFIED;
    let answer = PresenceProof::Key { credential: person.key.sign(&answer) };
    let grant = scene.control.finish_ceremony(person.asker(), &ceremony.ceremony, &answer).await.unwrap();
    let CeremonyOutcome::Granted(grant) = grant else { panic!("{grant:?}") };
    assert_eq!(grant.amr, ["hwk", "user", "pin"]);
}

// A 6: deleted between challenge and answer.
#[tokio::test]
async fn a_key_that_was_removed_between_challenge_and_answer_is_refused() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let request = person.open(PLACE.0, PLACE.1);
    let ceremony = scene.control.begin_ceremony(person.asker(), &request).await.unwrap();
    let context = person.context(PLACE.0, PLACE.1);
    let answer = person.key.tap(&ceremony.options, Some(context));
    let user = &person.login.login.user;
    let key = scene.control.store.credentials(user).await.unwrap().remove(0).id;
    assert!(scene.control.store.remove_credential(&key, user).await.unwrap());
    assert_eq!(refused(&scene, &person, &ceremony.ceremony, answer).await, "unknown_key");
}

// A 3.
#[tokio::test]
async fn somebody_else_can_neither_answer_nor_spoil_a_ceremony() {
    let scene = Scene::new().await;
    let mut jerry = scene.person("jerry").await;
    let elaine = scene.person("elaine").await;
    let ceremony = scene.control.begin_ceremony(jerry.asker(), &jerry.open(PLACE.0, PLACE.1)).await.unwrap();
    let context = jerry.context(PLACE.0, PLACE.1);
    let answer = PresenceProof::Key { credential: jerry.key.tap(&ceremony.options, Some(context)) };
    let foreign = scene.control.finish_ceremony(elaine.asker(), &ceremony.ceremony, &answer).await;
    assert_eq!(foreign.unwrap_err(), Denial::CeremonyEnded);
    scene.control.cancel_ceremony(elaine.asker(), &ceremony.ceremony).await;
    assert!(scene.control.finish_ceremony(jerry.asker(), &ceremony.ceremony, &answer).await.is_ok());
}

#[tokio::test]
async fn ten_wrong_answers_pause_the_login() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let request = person.open(PLACE.0, PLACE.1);
    let mut open = None;
    for _ in 0..10 {
        scene.pass(Duration::from_secs(6));
        let ceremony = scene.control.begin_ceremony(person.asker(), &request).await.unwrap();
        let answer = PresenceProof::Key { credential: person.key.tap(&ceremony.options, None) };
        open = Some(scene.control.begin_ceremony(person.asker(), &request).await.unwrap());
        let finished = scene.control.finish_ceremony(person.asker(), &ceremony.ceremony, &answer).await;
        assert_eq!(finished.unwrap_err(), Denial::BadAssertion);
        scene.pass(Duration::from_secs(6));
    }
    assert_eq!(scene.audit("mfa.lock").len(), 1);
    // Neither a new challenge nor one that was open before, and the person hears for how long.
    let refused = scene.control.begin_ceremony(person.asker(), &request).await.unwrap_err();
    assert!(matches!(&refused, Denial::Paused(_)) && refused.to_string().ends_with("10 min"), "{refused}");
    let context = person.context(PLACE.0, PLACE.1);
    let open = open.unwrap();
    let answer = PresenceProof::Key { credential: person.key.tap(&open.options, Some(context)) };
    assert!(scene.control.finish_ceremony(person.asker(), &open.ceremony, &answer).await.is_err());
    assert!(scene.audit("grant").is_empty());
    scene.pass(Duration::from_secs(600));
    assert!(scene.tap(&mut person, PLACE.0, PLACE.1).await.is_ok());
}
