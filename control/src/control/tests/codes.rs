//! Codes of authenticator apps: when they count, how often, and what they never open. The letters and numbers are those of
//! the list of attacks.

use std::time::Duration;

use portlatch_protocol::api::ceremony::{CeremonyPurpose, DeviceChange, PresenceProof};
use portlatch_protocol::api::{AccessAnswer, Secret};

use super::super::*;
use super::scene::{App, Person, Scene, claims, grant_of, is_tap_needed};
use crate::codes::PAUSE;

const STEP: Duration = Duration::from_secs(30);
const CODES_COUNT: &str = "kind: cluster_auth_preference\nspec: {second_factors: [webauthn, otp]}";

/// Somebody with a key and an app, where codes count; the app's next code is unused.
async fn scene_with_app() -> (Scene, Person, App) {
    let scene = Scene::new().await;
    scene.apply(CODES_COUNT).await;
    let mut person = scene.person("jerry").await;
    let app = scene.add_app(&mut person).await;
    scene.pass(STEP);
    (scene, person, app)
}

/// The code is refused as every other, nothing is granted, and the audit says why.
async fn refused(scene: &Scene, person: &Person, code: &str, reason: &str) {
    refused_for(scene, person, &person.opening("db/billing", 5432), (code, reason)).await;
}

async fn refused_for(
    scene: &Scene,
    person: &Person,
    purpose: &CeremonyPurpose,
    (code, reason): (&str, &str),
) {
    let mark = scene.mark();
    let refused = scene.type_code(person, purpose, code).await.unwrap_err();
    assert_eq!(refused, Denial::BadCode, "{code}");
    scene.refused_since(&mark, "mfa.fail", reason);
    scene.nothing_proved_since(&mark);
}

#[tokio::test]
async fn a_code_opens_a_port_and_says_so_in_grant_and_audit() {
    let (scene, person, app) = scene_with_app().await;
    let asked = scene.ask(&person, "db/billing", 5432).await;
    assert!(matches!(asked, AccessAnswer::TapNeeded { code_allowed: true }));
    let open = person.opening("db/billing", 5432);
    assert!(scene.begin(&person, &open).await.unwrap().code_allowed);
    let grant = grant_of(scene.type_code(&person, &open, &app.code(&scene.clock)).await.unwrap());
    assert_eq!(grant.amr, ["otp"]);
    let claims = claims(&scene, &grant);
    assert_eq!((claims.amr, claims.key_id), (vec!["otp".to_owned()], Some(app.id.clone())));
    let record = scene.audit("grant").pop().unwrap();
    assert_eq!((&record["amr"][0], &record["key_id"]), (&"otp".into(), &app.id.to_string().into()));
    assert!(record.get("up").is_none() && record.get("uv").is_none(), "{record}");
    // It is remembered as a tap is.
    assert!(matches!(scene.ask(&person, "db/billing", 5432).await, AccessAnswer::Granted(_)));
    assert!(is_tap_needed(&scene.ask(&person, "db/billing", 5433).await));
}

#[tokio::test]
async fn without_an_app_nobody_is_offered_a_code() {
    let scene = Scene::new().await;
    scene.apply(CODES_COUNT).await;
    let person = scene.person("jerry").await;
    let asked = scene.ask(&person, "db/billing", 5432).await;
    assert!(matches!(asked, AccessAnswer::TapNeeded { code_allowed: false }));
    // B: whoever has no app hears the same as whoever mistypes.
    refused(&scene, &person, "123456", "code_not_allowed").await;
}

// B: wrong.
#[tokio::test]
async fn a_wrong_code_is_refused() {
    let (scene, person, app) = scene_with_app().await;
    let right = app.code(&scene.clock);
    let wrong = if right == "000000" { "000001" } else { "000000" };
    refused(&scene, &person, wrong, "code_wrong").await;
}

// B: replayed: the same step, an earlier one, by way of a second login.
#[tokio::test]
async fn a_code_is_accepted_once_and_none_from_before_it_after_it() {
    let (scene, mut person, app) = scene_with_app().await;
    let other = scene.log_in_again(&mut person, "desk").await;
    scene.pass(STEP);
    let now = scene.clock.time_of_day().seconds();
    let (earlier, code) = (app.code_at(now - 30), app.code_at(now));
    let open = person.opening("db/billing", 5432);
    assert!(scene.type_code(&person, &open, &code).await.is_ok());
    refused(&scene, &person, &code, "code_replayed").await;
    refused(&scene, &other, &code, "code_replayed").await;
    refused(&scene, &person, &earlier, "code_replayed").await;
    scene.pass(STEP);
    assert!(scene.type_code(&person, &open, &app.code(&scene.clock)).await.is_ok());
}

// B: the first code of an app, which enrolled it, is used up.
#[tokio::test]
async fn the_code_that_enrolled_an_app_opens_nothing() {
    let scene = Scene::new().await;
    scene.apply(CODES_COUNT).await;
    let mut person = scene.person("jerry").await;
    let app = scene.add_app(&mut person).await;
    refused(&scene, &person, &app.code(&scene.clock), "code_replayed").await;
}

// B: a skew of one step passes, of two does not.
#[tokio::test]
async fn a_code_may_be_one_step_off() {
    let (scene, person, app) = scene_with_app().await;
    scene.pass(10 * STEP);
    let now = scene.clock.time_of_day().seconds();
    refused(&scene, &person, &app.code_at(now - 60), "code_wrong").await;
    refused(&scene, &person, &app.code_at(now + 60), "code_wrong").await;
    let open = person.opening("db/billing", 5432);
    assert!(scene.type_code(&person, &open, &app.code_at(now - 30)).await.is_ok());
    assert!(scene.type_code(&person, &open, &app.code_at(now + 30)).await.is_ok());
}

// B: five failures pause codes, also right ones, and never keys.
#[tokio::test]
async fn five_wrong_codes_pause_codes_for_a_quarter_of_an_hour_and_keys_never() {
    let (scene, mut person, app) = scene_with_app().await;
    for _ in 0..5 {
        refused(&scene, &person, "12345", "code_wrong").await;
        scene.pass(Duration::from_secs(6));
    }
    assert_eq!(scene.audit("mfa.lock")[0]["detail"], "codes");
    let open = person.opening("db/billing", 5432);
    let paused = scene.type_code(&person, &open, &app.code(&scene.clock)).await.unwrap_err();
    assert!(matches!(&paused, Denial::CodesPaused(_)) && paused.to_string().ends_with("15 min"), "{paused}");
    assert_eq!(scene.last_reason("mfa.fail"), "codes_paused");
    assert!(scene.audit("grant").is_empty());
    assert!(scene.prove(&mut person, &open).await.is_ok(), "the key");
    scene.pass(PAUSE);
    assert!(scene.type_code(&person, &open, &app.code(&scene.clock)).await.is_ok());
    // The count began anew.
    refused(&scene, &person, "12345", "code_wrong").await;
    scene.pass(STEP);
    assert!(scene.type_code(&person, &open, &app.code(&scene.clock)).await.is_ok());
}

// B: however many codes are wrong, or are typed while codes pause, keys go on.
#[tokio::test]
async fn no_number_of_wrong_codes_pauses_the_key() {
    let (scene, mut person, _) = scene_with_app().await;
    let (open, exec) = (person.opening("db/billing", 5432), person.exec(&[("db/billing", 5432)]));
    for number in 0..36 {
        // Of these three kinds: wrong, too late, and where none is taken.
        let purpose = if number < 24 { &open } else { &exec };
        let typed = scene.type_code(&person, purpose, "12345").await;
        assert!(matches!(typed, Err(Denial::BadCode | Denial::CodesPaused(_))), "number {number}: {typed:?}");
        assert_eq!(scene.audit("mfa.fail").len(), number + 1);
        scene.pass(Duration::from_secs(6));
    }
    let locks = scene.audit("mfa.lock");
    assert!(locks.iter().all(|lock| lock["detail"] == "codes") && locks.len() == 1, "{locks:?}");
    assert!(scene.audit("grant").is_empty());
    assert!(scene.prove(&mut person, &open).await.is_ok(), "the key");
}

#[tokio::test]
async fn while_codes_pause_nobody_is_offered_one() {
    let (scene, person, _) = scene_with_app().await;
    let open = person.opening("db/billing", 5432);
    let offered = async || {
        let asked = scene.ask(&person, "db/billing", 5432).await;
        let AccessAnswer::TapNeeded { code_allowed } = asked else { panic!("a tap is needed") };
        assert_eq!(scene.begin(&person, &open).await.unwrap().code_allowed, code_allowed);
        code_allowed
    };
    for _ in 0..5 {
        scene.pass(Duration::from_secs(12));
        assert!(offered().await);
        refused(&scene, &person, "12345", "code_wrong").await;
    }
    assert!(!offered().await);
    scene.pass(PAUSE - Duration::from_secs(1));
    assert!(!offered().await);
    scene.pass(Duration::from_secs(1));
    assert!(offered().await);
}

// B: of any number of attempts at once no more than five are looked at.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn codes_that_are_guessed_all_at_once_are_no_more_than_five() {
    let (scene, person, _) = scene_with_app().await;
    let user = person.granted.user.clone();
    let guesses: Vec<_> = (0..40)
        .map(|guess| {
            let (control, user) = (scene.control.clone(), user.clone());
            tokio::spawn(async move {
                let typed = Secret(format!("{guess:05}"));
                let (error, _) = control.verify_code(&user, &typed).await.unwrap_err();
                matches!(error, crate::codes::CodeError::Wrong)
            })
        })
        .collect();
    let mut looked_at = 0;
    for guess in guesses {
        looked_at += usize::from(guess.await.unwrap());
    }
    assert_eq!(looked_at, 5);
}

// B: a code for what takes none: a resource of a cluster without codes, a desktop, a kube_cluster, one that asks for a PIN.
#[tokio::test]
async fn what_takes_no_codes_is_not_opened_by_one() {
    let (scene, person, app) = scene_with_app().await;
    scene
        .apply(
            "kind: role\nmetadata: {name: tap}\nspec: {options: {require_session_mfa: true}, \
             allow: {db_labels: {mfa: tap}, desktop_labels: {'*': '*'}, kube_cluster_labels: {'*': '*'}}}\n---\n\
             kind: desktop\nmetadata: {name: win}\nspec: {uri: 'tcp://10.0.0.40:3389'}\n---\n\
             kind: kube_cluster\nmetadata: {name: kube}\nspec: {uri: 'tcp://10.0.0.41:6443'}",
        )
        .await;
    for (resource, port) in [("desktop/win", 3389), ("kube_cluster/kube", 6443), ("db/vault", 5432)] {
        assert!(
            matches!(
                scene.ask(&person, resource, port).await,
                AccessAnswer::TapNeeded { code_allowed: false }
            ),
            "{resource}"
        );
        let open = person.opening(resource, port);
        assert!(!scene.begin(&person, &open).await.unwrap().code_allowed, "{resource}");
        refused_for(&scene, &person, &open, (&app.code(&scene.clock), "code_not_allowed")).await;
        scene.pass(Duration::from_secs(60));
    }
    let exec = person.exec(&[("db/billing", 5432)]);
    let devices = CeremonyPurpose::ManageDevices(DeviceChange::RecoveryCodes);
    for purpose in [exec, devices] {
        assert!(!scene.begin(&person, &purpose).await.unwrap().code_allowed, "{purpose:?}");
        refused_for(&scene, &person, &purpose, (&app.code(&scene.clock), "code_not_allowed")).await;
        scene.pass(Duration::from_secs(60));
    }
    assert!(scene.audit("grant").is_empty());
}

// A 9: codes were taken when the prompt opened, and are not when the answer comes.
#[tokio::test]
async fn a_code_for_a_challenge_from_before_codes_were_abolished_is_refused() {
    let (scene, person, app) = scene_with_app().await;
    let open = person.opening("db/billing", 5432);
    let ceremony = scene.begin(&person, &open).await.unwrap();
    scene.apply("kind: cluster_auth_preference\nspec: {second_factors: [webauthn]}").await;
    let proof = PresenceProof::Code { code: Secret(app.code(&scene.clock)) };
    let finished = scene.finish(&person, &ceremony, proof).await;
    assert_eq!(finished.unwrap_err(), Denial::BadAssertion);
    assert_eq!(scene.last_reason("mfa.fail"), "code_not_allowed");
    assert!(scene.audit("grant").is_empty());
}

// A 9, between grant and open: the grant that rests on a code is revoked.
#[tokio::test]
async fn grants_that_rest_on_codes_end_when_codes_count_no_more() {
    let (scene, mut person, app) = scene_with_app().await;
    let open = person.opening("db/billing", 5432);
    let by_code = grant_of(scene.type_code(&person, &open, &app.code(&scene.clock)).await.unwrap());
    let by_key = scene.tap(&mut person, "db/billing", 5433).await.unwrap();
    scene.apply("kind: cluster_auth_preference\nspec: {second_factors: [webauthn]}").await;
    let revoked = scene.control.hub.now().revoked.clone();
    assert!(revoked.contains_key(&by_code.id) && !revoked.contains_key(&by_key.id));
    assert!(is_tap_needed(&scene.ask(&person, "db/billing", 5432).await), "nor is the code remembered");
}

// B: non-digits, long, Unicode digits: refused, and counted, as any other wrong code.
#[tokio::test]
async fn what_has_not_the_form_of_a_code_is_a_wrong_code() {
    let long = "1".repeat(10_000);
    for odd in ["", "12345", "1234567", "12345a", "１２３４５６", "٠٠٥٩٢٤", "-12345", &long] {
        let (scene, person, _) = scene_with_app().await;
        refused(&scene, &person, odd, "code_wrong").await;
        let left = scene.control.verify_code(&person.granted.user, &Secret("000".into())).await;
        assert!(matches!(left, Err((crate::codes::CodeError::Wrong, crate::codes::Next::Allowed))));
    }
}

#[tokio::test]
async fn an_app_s_secret_is_sealed_and_neither_it_nor_a_code_is_written_anywhere() {
    let (scene, person, app) = scene_with_app().await;
    let (uri, code) = (app.uri(), app.code(&scene.clock));
    let secret = totp_rs::Totp::from_url(&uri).unwrap().secret().as_bytes().to_vec();
    let base32 = totp_rs::Totp::from_url(&uri).unwrap().secret().to_base32();
    scene.type_code(&person, &person.opening("db/billing", 5432), &code).await.unwrap();
    scene.control.store.close().await;
    let mut files = 0;
    for entry in super::logging_in::walk(scene.dir.path()) {
        let bytes = std::fs::read(&entry).unwrap();
        files += 1;
        for needle in [secret.as_slice(), base32.as_bytes()] {
            assert!(!bytes.windows(needle.len()).any(|window| window == needle), "{}", entry.display());
        }
    }
    assert!(files > 3);
    let audit = std::fs::read_dir(scene.dir.path().join(AUDIT_FOLDER)).unwrap().count();
    assert!(audit > 0);
    for kind in ["mfa.ok", "mfa.challenge", "grant"] {
        assert!(scene.audit(kind).iter().all(|record| !record.to_string().contains(&code)), "{kind}");
    }
}
