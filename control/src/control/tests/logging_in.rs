//! Enrolment, password and tap, and what ends a login.

use std::net::Ipv4Addr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portlatch_protocol::api::{KeyTask, LoginAnswer, LoginGranted, LoginProof};
use portlatch_protocol::identity::{Identity, Subject};
use rcgen::KeyPair;

use super::super::*;
use super::scene::{ADDRESS, PASSWORD, Scene, csr, enrolment, login_request, password};
use super::soft_key::SoftKey;

async fn log_in(scene: &Scene, user: &str, secret: &str, key: &mut SoftKey) -> Result<LoginGranted, Denial> {
    let challenge = scene.control.begin_login(&login_request(user, password(secret)), ADDRESS).await?;
    let KeyTask::Assert { options } = &challenge.task else { panic!("a tap was asked for") };
    let answer = LoginAnswer {
        proof: LoginProof::Key { credential: key.tap(options, None) },
        csr: csr(&KeyPair::generate().unwrap()),
    };
    scene.control.finish_login(&challenge.ceremony, &answer, ADDRESS).await
}

#[tokio::test]
async fn an_enrolment_sets_password_and_key_and_ends_in_a_login() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let certificate = STANDARD.decode(&person.granted.certificate).unwrap();
    let Subject::Login(login) = Identity::from_certificate(&certificate).unwrap().subject else {
        panic!("it is a login's certificate")
    };
    assert_eq!((login.user.as_str(), login.device.as_str()), ("jerry", "laptop"));
    assert_eq!(person.granted.expires_in, 12 * 3600);
    let second = log_in(&scene, "jerry", PASSWORD, &mut person.key).await.unwrap();
    assert_ne!(second.login, person.granted.login);
    assert_eq!(scene.audit("login").len(), 2);
    assert_eq!(scene.audit("device.add").len(), 1);
}

#[tokio::test]
async fn what_is_wrong_in_a_login_is_not_told() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let token = scene.token_for("elaine").await;
    let mut seen = Vec::new();
    for (user, proof) in [
        ("jerry", password("wrong password")),
        ("nobody", password(PASSWORD)),
        ("elaine", password(PASSWORD)),
        ("jerry", enrolment(&token)),
        ("nobody", enrolment(&token)),
        ("elaine", enrolment("0123456789abcdef0123456789abcdef")),
    ] {
        let begun = scene.control.begin_login(&login_request(user, proof), ADDRESS).await;
        seen.push(begun.unwrap_err());
    }
    person.key.key = KeyPair::generate().unwrap();
    seen.push(log_in(&scene, "jerry", PASSWORD, &mut person.key).await.unwrap_err());
    assert!(seen.iter().all(|denial| *denial == Denial::BadLogin), "{seen:?}");
    let reasons: Vec<_> =
        scene.audit("login").iter().filter_map(|event| event["reason"].as_str().map(str::to_owned)).collect();
    assert_eq!(reasons, ["password", "password", "password", "token", "token", "token"]);
    assert_eq!(scene.last_reason("mfa.fail"), "signature");
}

// A 2: purposes.
#[tokio::test]
async fn an_answer_for_access_does_not_log_in_and_the_other_way_round() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let challenge =
        scene.control.begin_login(&login_request("jerry", password(PASSWORD)), ADDRESS).await.unwrap();
    let KeyTask::Assert { options } = &challenge.task else { panic!("a tap was asked for") };
    let context = person.context("db/billing", 5432);
    let credential = person.key.tap(options, Some(context));
    let answer =
        LoginAnswer { proof: LoginProof::Key { credential }, csr: csr(&KeyPair::generate().unwrap()) };
    let finished = scene.control.finish_login(&challenge.ceremony, &answer, ADDRESS).await;
    assert_eq!(finished.unwrap_err(), Denial::BadLogin);
    assert_eq!(scene.last_reason("mfa.fail"), "context");
    let request = person.open("db/billing", 5432);
    let open = scene.control.begin_ceremony(person.asker(), &request).await.unwrap();
    let finished = scene.control.finish_login(&open.ceremony, &answer, ADDRESS).await;
    assert_eq!(finished.unwrap_err(), Denial::CeremonyEnded);
    assert!(scene.tap(&mut person, "db/billing", 5432).await.is_ok());
}

// A 5.
#[tokio::test]
async fn a_browsers_origin_does_not_enrol_for_an_agent() {
    let scene = Scene::new().await;
    let token = scene.token_for("jerry").await;
    let request = login_request("jerry", enrolment(&token));
    let challenge = scene.control.begin_login(&request, ADDRESS).await.unwrap();
    let KeyTask::Enrol { options } = &challenge.task else { panic!("an enrolment was asked for") };
    let credential = SoftKey::new().enrol_at(options, "https://proxy.example.com");
    let answer =
        LoginAnswer { proof: LoginProof::Key { credential }, csr: csr(&KeyPair::generate().unwrap()) };
    let finished = scene.control.finish_login(&challenge.ceremony, &answer, ADDRESS).await;
    assert_eq!(finished.unwrap_err(), Denial::BadLogin);
    assert_eq!(scene.last_reason("mfa.fail"), "origin");
    assert!(
        scene.enrol("jerry", &token, &SoftKey::new(), ADDRESS).await.is_ok(),
        "the token was not used up"
    );
}

#[tokio::test]
async fn security_keys_are_enrolled_for_a_bare_tap() {
    let scene = Scene::new().await;
    let token = scene.token_for("jerry").await;
    let request = login_request("jerry", enrolment(&token));
    let challenge = scene.control.begin_login(&request, ADDRESS).await.unwrap();
    let KeyTask::Enrol { options } = &challenge.task else { panic!("an enrolment was asked for") };
    let options = &options["publicKey"];
    assert_eq!(options["rp"]["id"], "proxy.example.com");
    assert_eq!(options["authenticatorSelection"]["userVerification"], "discouraged");
    assert!(options["extensions"].get("credentialProtectionPolicy").is_none(), "{options}");
}

#[tokio::test]
async fn an_enrolment_token_ends_after_a_day_and_serves_once() {
    let scene = Scene::new().await;
    let token = scene.token_for("jerry").await;
    assert!(scene.enrol("jerry", &token, &SoftKey::new(), ADDRESS).await.is_ok());
    let again = scene.enrol("jerry", &token, &SoftKey::new(), ADDRESS).await;
    assert_eq!(again.unwrap_err(), Denial::BadLogin);
    let late = scene.token_for("elaine").await;
    scene.pass(Duration::from_secs(24 * 3600 + 1));
    assert_eq!(scene.enrol("elaine", &late, &SoftKey::new(), ADDRESS).await.unwrap_err(), Denial::BadLogin);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whole_enrolments_with_one_token_at_once_end_in_one_login() {
    let scene = Arc::new(Scene::new().await);
    let token = scene.token_for("jerry").await;
    let attempts: Vec<_> = (0..50_u8)
        .map(|last| {
            let (scene, token) = (scene.clone(), token.clone());
            let address = Ipv4Addr::new(198, 51, 100, last).into();
            tokio::spawn(async move { scene.enrol("jerry", &token, &SoftKey::new(), address).await.is_ok() })
        })
        .collect();
    let mut logins = 0;
    for attempt in attempts {
        logins += usize::from(attempt.await.unwrap());
    }
    assert_eq!(logins, 1);
    assert_eq!(scene.audit("device.add").len(), 1);
}

#[tokio::test]
async fn guessing_is_slowed_down_for_user_and_address() {
    let scene = Scene::new().await;
    scene.person("jerry").await;
    let guess = async |address| {
        scene
            .control
            .begin_login(&login_request("jerry", password("guess guess")), address)
            .await
            .unwrap_err()
    };
    let mut denials = Vec::new();
    for _ in 0..11 {
        denials.push(guess(ADDRESS).await);
    }
    assert_eq!(denials.pop(), Some(Denial::RateLimited));
    assert!(denials.iter().all(|denial| *denial == Denial::BadLogin));
    scene.pass(Duration::from_secs(10));
    assert_eq!(guess(ADDRESS).await, Denial::BadLogin, "one more after ten seconds");
}

#[tokio::test]
async fn a_stranger_who_guesses_keeps_nobody_from_logging_in() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let stranger = Ipv4Addr::new(203, 0, 113, 9).into();
    for proof in [password("guess guess"), portlatch_protocol::api::FirstFactor::Passkey] {
        for _ in 0..20 {
            let _ = scene.control.begin_login(&login_request("jerry", proof.clone()), stranger).await;
        }
    }
    assert!(log_in(&scene, "jerry", PASSWORD, &mut person.key).await.is_ok());
}

#[tokio::test]
async fn a_locked_user_cannot_log_in() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let target = crate::admin::LockedBy::User("jerry".parse().unwrap());
    scene.control.lock(target, Some(Duration::from_secs(60)), None, "root").await.unwrap();
    assert_eq!(log_in(&scene, "jerry", PASSWORD, &mut person.key).await.unwrap_err(), Denial::Locked(None));
    scene.pass(Duration::from_secs(61));
    assert!(log_in(&scene, "jerry", PASSWORD, &mut person.key).await.is_ok());
}

#[tokio::test]
async fn resetting_a_user_ends_logins_and_forgets_password_and_keys() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let grant = scene.tap(&mut person, "db/billing", 5432).await.unwrap();
    let token = scene.control.reset_user(&"jerry".parse().unwrap(), "root").await.unwrap().token;
    let standing = scene.control.hub.now();
    assert!(standing.ended_logins.contains_key(&person.granted.login));
    assert!(standing.revoked.contains_key(&grant.id));
    assert_eq!(log_in(&scene, "jerry", PASSWORD, &mut person.key).await.unwrap_err(), Denial::BadLogin);
    let late = scene.control.ask(person.asker(), &person.request("app/wiki", 80)).await;
    assert_eq!(late.unwrap_err(), Denial::LoginEnded);
    assert!(scene.enrol("jerry", &token, &SoftKey::new(), ADDRESS).await.is_ok());
}

#[tokio::test]
async fn a_deleted_user_is_gone_with_logins_keys_and_tokens() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let token = scene.token_for("elaine").await;
    for user in ["jerry", "elaine"] {
        scene.control.delete("user", user, "root").await.unwrap();
    }
    assert!(scene.control.hub.now().ended_logins.contains_key(&person.granted.login));
    assert_eq!(log_in(&scene, "jerry", PASSWORD, &mut person.key).await.unwrap_err(), Denial::BadLogin);
    assert!(scene.enrol("elaine", &token, &SoftKey::new(), ADDRESS).await.is_err());
    // A new user of the old name begins with nothing.
    scene.token_for("jerry").await;
    assert_eq!(log_in(&scene, "jerry", PASSWORD, &mut person.key).await.unwrap_err(), Denial::BadLogin);
}

#[tokio::test]
async fn no_secret_stands_in_database_or_audit() {
    let scene = Scene::new().await;
    let token = scene.token_for("jerry").await;
    scene.enrol("jerry", &token, &SoftKey::new(), ADDRESS).await.unwrap();
    scene.control.store.close().await;
    for entry in walk(scene.dir.path()) {
        let bytes = std::fs::read(&entry).unwrap();
        for secret in [token.as_bytes(), PASSWORD.as_bytes()] {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret), "{}", entry.display());
        }
    }
}

pub(super) fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files
}

/// How long it takes until this user's wrong password is refused, at the least: whatever else the machine does only adds to
/// that.
async fn time_to_refuse(scene: &Scene, users: [&str; 2]) -> [Duration; 2] {
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..31 {
        for (user, times) in users.iter().zip(&mut times) {
            // The limit on guesses is another matter.
            scene.pass(Duration::from_secs(60));
            let request = login_request(user, password("wrong horse"));
            let begun = std::time::Instant::now();
            assert_eq!(scene.control.begin_login(&request, ADDRESS).await.unwrap_err(), Denial::BadLogin);
            times.push(begun.elapsed());
        }
    }
    times.map(|times| times.into_iter().min().expect("it was tried"))
}

// B: timing of unknown user: whoever looked the name up first would save nearly all of it.
#[tokio::test]
async fn an_unknown_user_is_refused_after_the_same_work() {
    let scene = Scene::new().await;
    scene.person("jerry").await;
    let [known, unknown] = time_to_refuse(&scene, ["jerry", "newman"]).await;
    assert!(unknown * 8 > known && known * 8 > unknown, "known {known:?}, unknown {unknown:?}");
}
