//! A user's own keys, apps and recovery codes: what changes them, and what a change takes along.

use std::time::Duration;

use portlatch_protocol::api::Secret;
use portlatch_protocol::api::ceremony::{
    CeremonyOutcome, CeremonyPurpose, DeviceChange, DeviceProof, MfaDevice, MfaDeviceKind, PresenceProof,
};
use serde_json::json;

use super::super::*;
use super::scene::{ADDRESS, Person, Scene, is_tap_needed};
use super::soft_key::SoftKey;
use crate::devices::Holder;

const fn manage(change: DeviceChange) -> CeremonyPurpose {
    CeremonyPurpose::ManageDevices(change)
}

fn add_key(name: &str) -> CeremonyPurpose {
    manage(DeviceChange::AddKey { name: name.to_owned() })
}

/// One more key of the user's, enrolled.
async fn second_key(scene: &Scene, person: &mut Person) -> (SoftKey, MfaDevice) {
    // Devices are listed by when they were enrolled.
    scene.pass(Duration::from_secs(1));
    let outcome = scene.prove(person, &add_key("spare")).await.unwrap();
    let CeremonyOutcome::EnrolKey { ceremony, options, .. } = outcome else { panic!("{outcome:?}") };
    let key = SoftKey::new();
    let proof = DeviceProof::Key { credential: key.enrol(&options) };
    let device = scene.control.finish_enrolment(person.asker(), &ceremony, &proof).await.unwrap();
    (key, device)
}

async fn listed(scene: &Scene, person: &Person) -> Vec<MfaDevice> {
    scene.control.mfa_devices(&person.granted.user).await.unwrap().devices
}

#[tokio::test]
async fn a_key_is_added_after_a_tap_and_then_taps_by_itself() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let (key, device) = second_key(&scene, &mut person).await;
    assert_eq!((device.name.as_str(), device.kind), ("spare", MfaDeviceKind::SecurityKey));
    let names: Vec<String> = listed(&scene, &person).await.into_iter().map(|it| it.name).collect();
    assert_eq!(names, ["first key", "spare"]);
    let record = scene.audit("device.add").pop().unwrap();
    assert_eq!((&record["key_id"], &record["detail"]), (&json!(device.id), &json!("spare")));
    person.key = key;
    let grant = scene.tap(&mut person, "db/billing", 5432).await.unwrap();
    assert_eq!(super::scene::claims(&scene, &grant).key_id, Some(device.id));
}

// A 2: the purpose is in the challenge and in what the key signs.
#[tokio::test]
async fn a_tap_for_a_port_changes_no_devices_and_the_other_way_round() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let open = person.opening("db/billing", 5432);
    let add = add_key("mine");
    for (wanted, signed) in [(&open, &add), (&add, &open)] {
        let ceremony = scene.begin(&person, wanted).await.unwrap();
        let context = json!(signed.context(&person.granted.login));
        let credential = person.key.tap(&ceremony.options, Some(context));
        let mark = scene.mark();
        let finished = scene.finish(&person, &ceremony, PresenceProof::Key { credential }).await;
        assert_eq!(finished.unwrap_err(), Denial::BadAssertion);
        scene.refused_since(&mark, "mfa.fail", "context");
        scene.nothing_proved_since(&mark);
    }
    // Another name than the one that was shown.
    let ceremony = scene.begin(&person, &add).await.unwrap();
    let context = json!(add_key("another").context(&person.granted.login));
    let credential = person.key.tap(&ceremony.options, Some(context));
    assert!(scene.finish(&person, &ceremony, PresenceProof::Key { credential }).await.is_err());
    assert!(scene.audit("grant").is_empty() && listed(&scene, &person).await.len() == 1);
}

#[tokio::test]
async fn what_a_new_key_answers_serves_its_own_enrolment_once() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let elaine = scene.person("elaine").await;
    let outcome = scene.prove(&mut person, &add_key("spare")).await.unwrap();
    let CeremonyOutcome::EnrolKey { ceremony, options, .. } = outcome else { panic!("{outcome:?}") };
    let proof = DeviceProof::Key { credential: SoftKey::new().enrol(&options) };
    let foreign = scene.control.finish_enrolment(elaine.asker(), &ceremony, &proof).await;
    assert_eq!(foreign.unwrap_err(), Denial::CeremonyEnded, "another user's login");
    let open = PresenceProof::Key { credential: json!({}) };
    let elsewhere = scene.control.finish_ceremony(person.asker(), &ceremony, &open).await;
    assert_eq!(elsewhere.unwrap_err(), Denial::CeremonyEnded, "it is no proof of presence");
    assert!(scene.control.finish_enrolment(person.asker(), &ceremony, &proof).await.is_ok());
    let again = scene.control.finish_enrolment(person.asker(), &ceremony, &proof).await;
    assert_eq!(again.unwrap_err(), Denial::CeremonyEnded);
    assert_eq!(listed(&scene, &person).await.len(), 2);
}

#[tokio::test]
async fn a_key_that_somebody_has_enrolled_already_is_refused() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let elaine = scene.person("elaine").await;
    for key in [&elaine.key.id, &person.key.id.clone()] {
        let outcome = scene.prove(&mut person, &add_key("copy")).await.unwrap();
        let CeremonyOutcome::EnrolKey { ceremony, options, .. } = outcome else { panic!("{outcome:?}") };
        let mut copy = SoftKey::new();
        copy.id.clone_from(key);
        let proof = DeviceProof::Key { credential: copy.enrol(&options) };
        let added = scene.control.finish_enrolment(person.asker(), &ceremony, &proof).await;
        assert_eq!(added.unwrap_err(), Denial::BadAssertion);
    }
    assert_eq!(listed(&scene, &person).await.len(), 1);
}

#[tokio::test]
async fn the_last_key_stays_even_if_two_are_removed_at_once() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let first = listed(&scene, &person).await.remove(0).id;
    let alone = scene.begin(&person, &manage(DeviceChange::Remove { device: first.clone() })).await;
    assert!(matches!(alone, Err(Denial::BadRequest(message)) if message.contains("last key")));
    let (_, second) = second_key(&scene, &mut person).await;
    let mut challenges = Vec::new();
    for device in [first, second.id] {
        let purpose = manage(DeviceChange::Remove { device });
        challenges.push((scene.begin(&person, &purpose).await.unwrap(), purpose));
    }
    let mut removed = 0;
    for (ceremony, purpose) in challenges {
        let proof = person.tap_for(&ceremony, &purpose);
        removed += usize::from(scene.finish(&person, &ceremony, proof).await.is_ok());
    }
    assert_eq!((removed, listed(&scene, &person).await.len()), (1, 1));
}

// A 6: a credential that was deleted between challenge and answer; and what it takes along.
#[tokio::test]
async fn removing_a_key_ends_its_grants_taps_and_challenges_at_once() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let (spare, device) = second_key(&scene, &mut person).await;
    let mut with_spare = scene.log_in_again(&mut person, "desk").await;
    with_spare.key = spare;
    let lost = scene.tap(&mut with_spare, "db/billing", 5432).await.unwrap();
    let kept = scene.tap(&mut person, "db/billing", 5432).await.unwrap();
    let open = with_spare.opening("db/billing", 5433);
    let ceremony = scene.begin(&with_spare, &open).await.unwrap();
    scene.prove(&mut person, &manage(DeviceChange::Remove { device: device.id.clone() })).await.unwrap();
    let standing = scene.control.hub.now();
    assert!(standing.revoked.contains_key(&lost.id) && !standing.revoked.contains_key(&kept.id));
    assert!(is_tap_needed(&scene.ask(&with_spare, "db/billing", 5432).await));
    let proof = with_spare.tap_for(&ceremony, &open);
    assert_eq!(scene.finish(&with_spare, &ceremony, proof).await.unwrap_err(), Denial::CeremonyEnded);
    let refused = scene.prove(&mut with_spare, &open).await.unwrap_err();
    assert_eq!(refused, Denial::BadAssertion);
    assert_eq!(scene.last_reason("mfa.fail"), "unknown_key");
    let record = scene.audit("device.remove").pop().unwrap();
    assert_eq!((&record["key_id"], &record["detail"]), (&json!(device.id), &json!("spare")));
    assert_eq!(scene.audit("grant.revoke").len(), 1);
}

#[tokio::test]
async fn removing_an_app_ends_the_grants_of_its_codes() {
    let scene = Scene::new().await;
    scene.apply("kind: cluster_auth_preference\nspec: {second_factors: [webauthn, otp]}").await;
    let mut person = scene.person("jerry").await;
    let app = scene.add_app(&mut person).await;
    scene.pass(Duration::from_secs(30));
    let open = person.opening("db/billing", 5432);
    let outcome = scene.type_code(&person, &open, &app.code(&scene.clock)).await.unwrap();
    let grant = super::scene::grant_of(outcome);
    scene.prove(&mut person, &manage(DeviceChange::Remove { device: app.id.clone() })).await.unwrap();
    assert!(scene.control.hub.now().revoked.contains_key(&grant.id));
    assert!(is_tap_needed(&scene.ask(&person, "db/billing", 5432).await));
    assert!(!scene.begin(&person, &open).await.unwrap().code_allowed);
}

#[tokio::test]
async fn an_app_is_enrolled_by_its_first_code_and_mistyping_is_forgiven_four_times() {
    let scene = Scene::new().await;
    scene.apply("kind: cluster_auth_preference\nspec: {second_factors: [webauthn, otp]}").await;
    let mut person = scene.person("jerry").await;
    for is_patient in [true, false] {
        let add = manage(DeviceChange::AddApp { name: "phone".to_owned() });
        let outcome = scene.prove(&mut person, &add).await.unwrap();
        let CeremonyOutcome::EnrolApp { ceremony, uri, .. } = outcome else { panic!("{outcome:?}") };
        let totp = totp_rs::Totp::from_url(&uri.0).unwrap();
        for _ in 0..if is_patient { 4 } else { 5 } {
            let wrong = DeviceProof::Code { code: Secret("12345".to_owned()) };
            let refused = scene.control.finish_enrolment(person.asker(), &ceremony, &wrong).await;
            assert_eq!(refused.unwrap_err(), Denial::BadCode);
        }
        let now = u64::try_from(scene.clock.time_of_day().seconds()).unwrap();
        let right = DeviceProof::Code { code: Secret(totp.generate(now).to_string()) };
        let enrolled = scene.control.finish_enrolment(person.asker(), &ceremony, &right).await;
        match is_patient {
            true => assert_eq!(enrolled.unwrap().kind, MfaDeviceKind::App),
            false => assert_eq!(enrolled.unwrap_err(), Denial::CeremonyEnded),
        }
    }
    assert_eq!(listed(&scene, &person).await.len(), 2);
}

#[tokio::test]
async fn where_codes_do_not_count_no_app_is_added() {
    let scene = Scene::new().await;
    let person = scene.person("jerry").await;
    let add = manage(DeviceChange::AddApp { name: "phone".to_owned() });
    assert!(matches!(scene.begin(&person, &add).await, Err(Denial::BadRequest(_))));
}

#[tokio::test]
async fn devices_have_names_that_can_be_shown() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let long = "x".repeat(65);
    for name in ["", "   ", "a\u{1b}[2Jb", "a\nb", "\u{202e}abc", &long] {
        assert!(matches!(scene.begin(&person, &add_key(name)).await, Err(Denial::BadRequest(_))), "{name:?}");
    }
    let device = listed(&scene, &person).await.remove(0).id;
    let rename = manage(DeviceChange::Rename { device: device.clone(), name: "blue one".to_owned() });
    assert!(matches!(scene.prove(&mut person, &rename).await, Ok(CeremonyOutcome::Done)));
    assert_eq!(listed(&scene, &person).await[0].name, "blue one");
    assert_eq!(scene.audit("device.rename")[0]["detail"], "blue one");
}

#[tokio::test]
async fn a_change_that_came_too_late_is_recorded_as_such() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let (control, holder) = (&scene.control, Holder::from(person.asker()));
    let (_, spare) = second_key(&scene, &mut person).await;
    let (one, other) =
        tokio::join!(control.remove_device(&holder, &spare.id), control.remove_device(&holder, &spare.id));
    assert_eq!([one.is_ok(), other.is_ok()].into_iter().filter(|is_ok| *is_ok).count(), 1);
    // Whoever was too late either found that out before anything was recorded, or left a second record.
    let removed = scene.audit("device.remove");
    let not_done = removed.iter().filter(|record| record["reason"] == "not_done").count();
    assert_eq!(removed.len(), 1 + 2 * not_done, "{removed:?}");
    assert_eq!(control.rename_device(&holder, &spare.id, "gone").await.unwrap_err(), Denial::NotFound);
    assert_eq!(scene.last_reason("device.rename"), "not_done");
}

#[tokio::test]
async fn nobody_changes_another_user_s_devices() {
    let scene = Scene::new().await;
    let person = scene.person("jerry").await;
    let mut elaine = scene.person("elaine").await;
    second_key(&scene, &mut elaine).await;
    let device = listed(&scene, &elaine).await.remove(1).id;
    for change in [
        DeviceChange::Remove { device: device.clone() },
        DeviceChange::Rename { device: device.clone(), name: "mine".to_owned() },
    ] {
        assert!(matches!(scene.begin(&person, &manage(change)).await, Err(Denial::BadRequest(_))));
    }
    assert_eq!(listed(&scene, &elaine).await[1].name, "spare");
}

#[tokio::test]
async fn a_change_asks_for_a_tap_of_its_own() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    scene.tap(&mut person, "db/billing", 5432).await.unwrap();
    let rename =
        |name: &str| manage(DeviceChange::Rename { device: "0a".parse().unwrap(), name: name.to_owned() });
    // What is remembered of the tap a moment ago changes nothing: there is no request that would use it.
    assert!(scene.begin(&person, &rename("x")).await.is_err());
    assert_eq!(scene.audit("mfa.ok").len(), 1);
    assert_eq!(scene.control.ceremonies.len(), 0);
    assert_eq!(person.asker().address, ADDRESS);
}
