//! How often a login may, and what happens to changes that cannot be recorded.

use std::sync::Arc;
use std::time::Duration;

use portlatch_protocol::api::browser::BrowserLoginRequest;
use portlatch_protocol::api::ceremony::BrowserReturn;
use portlatch_protocol::api::{AccessAnswer, Secret};
use portlatch_protocol::names::UserName;
use portlatch_protocol::refusal::RefusalReason;

use rcgen::KeyPair;
use zeroize::Zeroizing;

use super::super::*;
use super::scene::{ADDRESS, PASSWORD, Scene, csr, file, login_request, password};
use crate::browser::Visit;
use crate::browser::challenges::{NewAppPurpose, PageChallenge, PagePurpose};
use crate::browser::sign_in::{SignInProof, SignInTarget};
use crate::ceremony::{Challenge, LIFETIME, MAX_OPEN, NewDevice, NewDevicePurpose, Owner, Purpose};
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
async fn a_user_s_devices_share_the_ten_ceremonies_a_minute() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let second = scene.log_in_again(&mut person, "desktop").await;
    for asking in [&person, &second].repeat(5) {
        scene.begin(asking, &asking.opening("db/billing", 5432)).await.unwrap();
    }
    for asking in [&person, &second] {
        let begun = scene.begin(asking, &asking.opening("db/billing", 5432)).await;
        assert_eq!(begun.unwrap_err(), Denial::RateLimited);
    }
    let other = scene.person("elaine").await;
    assert!(scene.begin(&other, &other.opening("db/billing", 5432)).await.is_ok());
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
    let (now, spool) = (scene.clock.time_of_day(), small_spool(scene, 600));
    while spool.append(&Event::new(EventKind::Grant), now).is_ok() {}
    write_into(scene, spool);
}

/// The scene, with an audit that has room for this many bytes.
fn leave_room(scene: &mut Scene, bytes: usize) {
    drop(small_spool(scene, u64::MAX));
    // Each opening is a record of the same length.
    let opened = length(&scene.audit("audit.open").pop().unwrap());
    let spool = small_spool(scene, u64::try_from(2 * opened + bytes).unwrap());
    write_into(scene, spool);
}

fn small_spool(scene: &Scene, max_bytes: u64) -> Spool {
    let config = SpoolConfig {
        directory: scene.dir.path().join(AUDIT_FOLDER),
        source: "small".to_owned(),
        cluster: scene.control.cluster().clone(),
        durability: Durability::Os,
        max_bytes,
    };
    Spool::open(config, scene.clock.time_of_day()).unwrap()
}

fn write_into(scene: &mut Scene, spool: Spool) {
    let audit = AuditLog::new(spool, scene.clock.clone());
    Arc::get_mut(&mut scene.control).expect("the test holds control alone").audit = audit;
}

/// Bytes of a record's line, its newline with it.
fn length(record: &serde_json::Value) -> usize {
    record.to_string().len() + 1
}

/// The reasons of the records of this kind that are about this document or user.
fn reasons(scene: &Scene, kind: &str, detail: &str) -> Vec<String> {
    let about = |record: &serde_json::Value| record["detail"] == detail || record["user"] == detail;
    let records = scene.audit(kind).into_iter().filter(about);
    records.map(|record| record["reason"].as_str().unwrap_or("").to_owned()).collect()
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

#[tokio::test]
async fn of_a_change_that_was_recorded_in_part_the_record_says_that_it_was_not_made() {
    let mut scene = Scene::new().await;
    let document =
        |name: &str| format!("kind: app\nmetadata: {{name: {name}}}\nspec: {{uri: 'tcp://10.0.0.20:80'}}");
    scene.apply(&document("x")).await;
    let record = length(&scene.audit("resource.create").pop().unwrap());
    // For `y` and the word that it was not done, but not for `y` and a long name.
    leave_room(&mut scene, 2 * record + 40);
    let (revision, long) = (scene.control.hub.now().revision, "z".repeat(60));
    let both = format!("{}\n---\n{}", document("y"), document(&long));
    let applied = scene.control.apply(&file(&both), "root").await;
    assert!(matches!(applied, Err(ChangeError::NotRecorded(_))), "{applied:?}");
    assert_eq!(scene.control.hub.now().revision, revision);
    assert_eq!(reasons(&scene, "resource.create", "app/y"), ["", "not_done"]);
    assert!(reasons(&scene, "resource.create", &format!("app/{long}")).is_empty());
}

#[tokio::test]
async fn a_reset_that_is_recorded_and_not_done_is_recorded_as_such_with_its_token() {
    let scene = Scene::new().await;
    let person = scene.person("jerry").await;
    scene.control.store.close().await;
    assert!(scene.control.reset_user(&person.granted.user, "root").await.is_err());
    assert_eq!(reasons(&scene, "user.reset", "jerry"), ["", "not_done"]);
    assert_eq!(reasons(&scene, "token.create", "jerry"), ["", "", "not_done"]);
}

#[tokio::test]
async fn no_user_is_made_whose_token_cannot_be_recorded() {
    let mut scene = Scene::new().await;
    scene.token_for("jerry").await;
    let record = length(&scene.audit("user.create").pop().unwrap());
    leave_room(&mut scene, record + 50);
    let user: UserName = "elaine".parse().unwrap();
    let added = scene.control.add_user(&user, Vec::new(), "root").await;
    assert!(matches!(added, Err(ChangeError::NotRecorded(_))), "{added:?}");
    assert_eq!(reasons(&scene, "user.create", "elaine").len(), 1, "there was room for it");
    assert!(!scene.control.hub.now().has_user(&user));
}

#[tokio::test]
async fn a_user_who_was_made_without_a_token_is_told_of_as_such() {
    let scene = Scene::new().await;
    scene.control.store.refuse_inserts("enrolments").await;
    let user: UserName = "elaine".parse().unwrap();
    let added = scene.control.add_user(&user, Vec::new(), "root").await;
    let Err(error @ ChangeError::NoToken(_)) = added else { panic!("{added:?}") };
    assert_eq!(error.lines(), ["the user elaine was made, but no token: `users reset elaine` makes one"]);
    assert!(scene.control.hub.now().has_user(&user));
    assert_eq!(reasons(&scene, "user.create", "elaine"), [""]);
    assert_eq!(reasons(&scene, "token.create", "elaine"), ["", "not_done"]);
}

const VISIT: Visit = Visit { owner: [7; 32], address: ADDRESS };

fn with_password(user: &UserName) -> SignInProof {
    SignInProof::Password { user: user.clone(), password: Secret(PASSWORD.to_owned()) }
}

fn login_at_a_page() -> BrowserLoginRequest {
    // SHA-256 is 43 characters of this alphabet.
    let browser = BrowserReturn { port: 40_000, secret_hash: "A".repeat(43) };
    let csr = csr(&KeyPair::generate().unwrap());
    BrowserLoginRequest { user: None, device: "laptop".parse().unwrap(), csr, browser }
}

// G: what is made ends on the record, and what is refused leaves none.
#[tokio::test]
async fn a_challenge_that_finds_no_room_is_not_on_the_record() {
    let scene = Scene::new().await;
    let person = scene.person("jerry").await;
    let (user, now) = (person.granted.user.clone(), scene.clock.boot_time());
    let made = scene.audit("mfa.challenge").len();
    for number in 0..MAX_OPEN {
        let device = NewDevice::App { secret: Zeroizing::new(vec![1]), tries: 1 };
        let login = person.login.login.clone();
        let purpose = NewDevicePurpose { login, name: "phone".to_owned(), device };
        let challenge = Challenge {
            owner: Owner::Login(Id::from_random(u128::try_from(number).unwrap().to_be_bytes())),
            purpose: Purpose::NewDevice(Box::new(purpose)),
            address: ADDRESS,
            expires: now + LIFETIME,
        };
        scene.control.ceremonies.insert(random_id(), challenge, now).unwrap();
    }
    let open = person.opening("db/billing", 5432);
    assert_eq!(scene.begin(&person, &open).await.unwrap_err(), Denial::RateLimited);
    let login = login_request("jerry", password(PASSWORD));
    assert_eq!(scene.control.begin_login(&login, ADDRESS).await.unwrap_err(), Denial::RateLimited);
    // At the pages: an office's worth of people who have signed in.
    for number in 0..=u8::MAX {
        let secret = Zeroizing::new(vec![1]);
        let new = NewAppPurpose { user: user.clone(), name: "phone".to_owned(), secret, tries: 1 };
        let (purpose, expires) = (PagePurpose::NewApp(Box::new(new)), now + LIFETIME);
        let challenge = PageChallenge { owner: [number; 32], purpose, address: ADDRESS, expires };
        let is_full = scene.control.browsers.challenges.insert(random_id(), challenge, now).is_err();
        assert!(!is_full, "{number}");
    }
    let begun = scene.control.begin_sign_in(VISIT, SignInTarget::Pages, with_password(&user)).await;
    assert_eq!(begun.unwrap_err(), Denial::RateLimited);
    assert_eq!(scene.audit("mfa.challenge").len(), made);
}

#[tokio::test]
async fn a_device_s_login_that_finds_no_room_is_not_on_the_record() {
    let scene = Scene::new().await;
    let request = login_at_a_page();
    let mut made = 0;
    // One a second is let in; they wait for five minutes.
    for _ in 0..150 {
        made += usize::from(scene.control.begin_browser_login(&request, ADDRESS).await.is_ok());
        scene.pass(Duration::from_secs(1));
    }
    assert!(made < 150, "there is room for all");
    assert_eq!(scene.audit("mfa.challenge").len(), made);
}

#[tokio::test]
async fn a_challenge_that_cannot_be_recorded_is_not_made() {
    let mut scene = Scene::new().await;
    let person = scene.person("jerry").await;
    fill_audit(&mut scene);
    let (user, now) = (person.granted.user.clone(), scene.clock.boot_time());
    let open = person.opening("db/billing", 5432);
    assert_eq!(scene.begin(&person, &open).await.unwrap_err(), Denial::Unavailable);
    let login = login_request("jerry", password(PASSWORD));
    assert_eq!(scene.control.begin_login(&login, ADDRESS).await.unwrap_err(), Denial::Unavailable);
    assert!(scene.control.ceremonies.is_empty());
    let begun = scene.control.begin_sign_in(VISIT, SignInTarget::Pages, with_password(&user)).await;
    assert_eq!(begun.unwrap_err(), Denial::Unavailable);
    let begun = scene.control.begin_browser_login(&login_at_a_page(), ADDRESS).await;
    assert_eq!(begun.unwrap_err(), Denial::Unavailable);
    let late = now + Duration::from_secs(3600);
    assert!(scene.control.browsers.challenges.take_expired(late).is_empty());
    assert!(scene.control.browsers.logins.take_expired(late).is_empty());
}
