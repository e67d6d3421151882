//! Logins without a password, and without a key.

use std::net::Ipv4Addr;
use std::time::Duration;

use portlatch_protocol::api::ceremony::{CeremonyOutcome, CeremonyPurpose, DeviceChange};
use portlatch_protocol::api::{
    FirstFactor, KeyTask, LoginAnswer, LoginChallenge, LoginGranted, LoginProof, Secret,
};
use rcgen::KeyPair;
use serde_json::Value;

use super::super::*;
use super::scene::{ADDRESS, PASSWORD, Person, Scene, csr, login_request, password};
use super::soft_key::{SoftKey, USER_PRESENT, USER_VERIFIED};

async fn begin(scene: &Scene, user: &str, factor: FirstFactor) -> Result<LoginChallenge, Denial> {
    scene.control.begin_login(&login_request(user, factor), ADDRESS).await
}

fn options(challenge: &LoginChallenge) -> &Value {
    let KeyTask::Assert { options } = &challenge.task else { panic!("a tap is asked for") };
    options
}

async fn finish(
    scene: &Scene,
    challenge: &LoginChallenge,
    proof: LoginProof,
) -> Result<LoginGranted, Denial> {
    let answer = LoginAnswer { proof, csr: csr(&KeyPair::generate().unwrap()) };
    scene.control.finish_login(&challenge.ceremony, &answer, ADDRESS).await
}

fn answer(key: &mut SoftKey, options: &Value, flags: u8) -> LoginProof {
    let mut answer = key.answer(options, None);
    answer.flags = flags;
    LoginProof::Key { credential: key.sign(&answer) }
}

fn recovery(code: &str) -> LoginProof {
    LoginProof::RecoveryCode { code: Secret(code.to_owned()) }
}

async fn recovery_codes(scene: &Scene, person: &mut Person) -> Vec<String> {
    let change = CeremonyPurpose::ManageDevices(DeviceChange::RecoveryCodes);
    let outcome = scene.prove(person, &change).await.unwrap();
    let CeremonyOutcome::RecoveryCodes { codes } = outcome else { panic!("{outcome:?}") };
    codes.into_iter().map(|code| code.0).collect()
}

#[tokio::test]
async fn a_key_that_verifies_its_user_logs_in_alone() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let challenge = begin(&scene, "jerry", FirstFactor::Passkey).await.unwrap();
    assert_eq!(options(&challenge)["publicKey"]["userVerification"], "required");
    let proof = answer(&mut person.key, options(&challenge), USER_PRESENT | USER_VERIFIED);
    assert!(finish(&scene, &challenge, proof).await.is_ok());
    let login = scene.audit("login").pop().unwrap();
    assert_eq!(login["amr"], serde_json::json!(["hwk", "user", "pin"]));
}

#[tokio::test]
async fn a_bare_tap_is_half_a_login() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let challenge = begin(&scene, "jerry", FirstFactor::Passkey).await.unwrap();
    let proof = answer(&mut person.key, options(&challenge), USER_PRESENT);
    assert_eq!(finish(&scene, &challenge, proof).await.unwrap_err(), Denial::BadLogin);
    assert_eq!(scene.last_reason("mfa.fail"), "user_not_verified");
    let challenge = begin(&scene, "jerry", FirstFactor::Passkey).await.unwrap();
    let proof = answer(&mut SoftKey::new(), options(&challenge), USER_PRESENT | USER_VERIFIED);
    assert_eq!(finish(&scene, &challenge, proof).await.unwrap_err(), Denial::BadLogin);
}

#[tokio::test]
async fn nobody_can_tell_by_a_challenge_who_exists() {
    let scene = Scene::new().await;
    scene.person("jerry").await;
    scene.token_for("invited").await;
    let shape = |value: &Value| {
        let public_key = value["publicKey"].as_object().unwrap();
        let mut members: Vec<String> = public_key.keys().cloned().collect();
        members.sort();
        let allowed = value["publicKey"]["allowCredentials"][0].as_object().unwrap();
        let allowed: Vec<String> = allowed.keys().cloned().collect();
        let challenge = value["publicKey"]["challenge"].as_str().unwrap().len();
        let same = ["timeout", "rpId", "hints", "userVerification"].map(|it| value["publicKey"][it].clone());
        (members, allowed, challenge, same)
    };
    let real = begin(&scene, "jerry", FirstFactor::Passkey).await.unwrap();
    for nobody in ["newman", "invited"] {
        let decoy = begin(&scene, nobody, FirstFactor::Passkey).await.unwrap();
        assert_eq!(shape(options(&decoy)), shape(options(&real)), "{nobody}");
        assert_eq!(decoy.expires_in, real.expires_in);
        let again = begin(&scene, nobody, FirstFactor::Passkey).await.unwrap();
        let names = |it: &LoginChallenge| options(it)["publicKey"]["allowCredentials"].clone();
        assert_eq!(names(&decoy), names(&again), "a user's keys stay the same");
        assert_ne!(options(&decoy)["publicKey"]["challenge"], options(&again)["publicKey"]["challenge"]);
        let proof = answer(&mut SoftKey::new(), options(&decoy), USER_PRESENT | USER_VERIFIED);
        assert_eq!(finish(&scene, &decoy, proof).await.unwrap_err(), Denial::BadLogin, "{nobody}");
    }
}

#[tokio::test]
async fn whoever_shows_nothing_displaces_nobody_who_logs_in() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let honest = begin(&scene, "jerry", password(PASSWORD)).await.unwrap();
    let passkey = begin(&scene, "jerry", FirstFactor::Passkey).await.unwrap();
    for last in 0..9_u8 {
        let address = Ipv4Addr::new(203, 0, 113, last).into();
        let request = login_request("jerry", FirstFactor::Passkey);
        let _ = scene.control.begin_login(&request, address).await;
    }
    let proof = LoginProof::Key { credential: person.key.tap(options(&honest), None) };
    assert!(finish(&scene, &honest, proof).await.is_ok());
    let proof = answer(&mut person.key, options(&passkey), USER_PRESENT | USER_VERIFIED);
    assert!(finish(&scene, &passkey, proof).await.is_ok());
}

#[tokio::test]
async fn a_recovery_code_stands_in_for_the_key_once() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let codes = recovery_codes(&scene, &mut person).await;
    assert_eq!(codes.len(), 10);
    let left = async || scene.control.mfa_devices(&person.granted.user).await.unwrap().recovery_codes;
    assert_eq!(left().await, 10);
    let challenge = begin(&scene, "jerry", password(PASSWORD)).await.unwrap();
    let typed = codes[3].to_uppercase().replace('-', " ");
    let granted = finish(&scene, &challenge, recovery(&typed)).await.unwrap();
    assert!(scene.control.store.login(&granted.login).await.unwrap().is_some());
    assert_eq!(left().await, 9);
    assert_eq!(scene.audit("mfa.ok").pop().unwrap()["detail"], "recovery code; 9 left");
    assert_eq!(scene.audit("login").pop().unwrap()["amr"], serde_json::json!(["otp"]));
    let challenge = begin(&scene, "jerry", password(PASSWORD)).await.unwrap();
    assert_eq!(finish(&scene, &challenge, recovery(&codes[3])).await.unwrap_err(), Denial::BadLogin);
    assert_eq!(scene.last_reason("mfa.fail"), "recovery_code");
}

#[tokio::test]
async fn a_recovery_code_replaces_neither_password_nor_enrolment_nor_the_tap_at_a_port() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let codes = recovery_codes(&scene, &mut person).await;
    let challenge = begin(&scene, "jerry", FirstFactor::Passkey).await.unwrap();
    assert_eq!(finish(&scene, &challenge, recovery(&codes[0])).await.unwrap_err(), Denial::BadLogin);
    assert_eq!(scene.last_reason("mfa.fail"), "recovery_code_not_allowed");
    let token = scene.token_for("elaine").await;
    let challenge = begin(&scene, "elaine", super::scene::enrolment(&token)).await.unwrap();
    assert_eq!(finish(&scene, &challenge, recovery(&codes[0])).await.unwrap_err(), Denial::BadLogin);
    let open = person.opening("db/billing", 5432);
    assert_eq!(scene.type_code(&person, &open, &codes[0]).await.unwrap_err(), Denial::BadCode);
    let challenge = begin(&scene, "jerry", password(PASSWORD)).await.unwrap();
    assert!(
        finish(&scene, &challenge, recovery(&codes[0])).await.is_ok(),
        "it was not used up by any of that"
    );
}

#[tokio::test]
async fn another_user_s_code_and_old_ones_are_worthless() {
    let scene = Scene::new().await;
    let (mut person, mut elaine) = (scene.person("jerry").await, scene.person("elaine").await);
    let elaines = recovery_codes(&scene, &mut elaine).await;
    let old = recovery_codes(&scene, &mut person).await;
    let new = recovery_codes(&scene, &mut person).await;
    for wrong in [&elaines[0], &old[0]] {
        let challenge = begin(&scene, "jerry", password(PASSWORD)).await.unwrap();
        assert_eq!(finish(&scene, &challenge, recovery(wrong)).await.unwrap_err(), Denial::BadLogin);
    }
    let challenge = begin(&scene, "jerry", password(PASSWORD)).await.unwrap();
    assert!(finish(&scene, &challenge, recovery(&new[0])).await.is_ok());
    // A user who is reset has none left.
    scene.control.reset_user(&"elaine".parse().unwrap(), "root").await.unwrap();
    assert_eq!(scene.control.store.recovery_codes_left(&"elaine".parse().unwrap()).await.unwrap(), 0);
}

#[tokio::test]
async fn recovery_codes_are_tried_slowly() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let codes = recovery_codes(&scene, &mut person).await;
    for _ in 0..5 {
        let challenge = begin(&scene, "jerry", password(PASSWORD)).await.unwrap();
        let wrong = finish(&scene, &challenge, recovery("0000-0000-0000-0000")).await;
        assert_eq!(wrong.unwrap_err(), Denial::BadLogin);
    }
    let challenge = begin(&scene, "jerry", password(PASSWORD)).await.unwrap();
    assert_eq!(finish(&scene, &challenge, recovery(&codes[0])).await.unwrap_err(), Denial::RateLimited);
    assert_eq!(scene.last_reason("mfa.fail"), "rate_limited");
    scene.pass(Duration::from_secs(60));
    let challenge = begin(&scene, "jerry", password(PASSWORD)).await.unwrap();
    assert!(finish(&scene, &challenge, recovery(&codes[0])).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_recovery_code_presented_at_once_by_many_logs_in_once() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let code = recovery_codes(&scene, &mut person).await.remove(0);
    let hash = crate::codes::recovery::hash(&scene.control.keys, &person.granted.user, &code).unwrap();
    let attempts: Vec<_> = (0..20)
        .map(|_| {
            let (store, login, now) =
                (scene.control.store.clone(), person.login.clone(), scene.clock.time_of_day());
            tokio::spawn(async move {
                let (id, expires) = (random_id(), now.after(Duration::from_secs(60)));
                let login = crate::store::logins::NewLogin {
                    id: &id,
                    user: &login.login.user,
                    device: &login.login.device,
                    spki: &[],
                    address: ADDRESS,
                    expires,
                };
                store.add_login_by_recovery(&login, &hash, now).await.unwrap().is_some()
            })
        })
        .collect();
    let mut logins = 0;
    for attempt in attempts {
        logins += usize::from(attempt.await.unwrap());
    }
    assert_eq!(logins, 1);
}

#[tokio::test]
async fn no_recovery_code_stands_anywhere() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let codes = recovery_codes(&scene, &mut person).await;
    let challenge = begin(&scene, "jerry", password(PASSWORD)).await.unwrap();
    finish(&scene, &challenge, recovery(&codes[0])).await.unwrap();
    scene.control.store.close().await;
    for entry in super::logging_in::walk(scene.dir.path()) {
        let bytes = std::fs::read(&entry).unwrap();
        for code in &codes {
            for form in [code.clone(), code.replace('-', "")] {
                let needle = form.as_bytes();
                assert!(!bytes.windows(needle.len()).any(|it| it == needle), "{}", entry.display());
            }
        }
    }
}
