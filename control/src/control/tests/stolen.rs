//! What somebody gets who has a login's key and certificate but not its security key; whose daemon lies; or who has a
//! proxy. (That the proxies of others take nothing of theirs is tried at the proxies.)

use std::net::Ipv4Addr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portlatch_protocol::api::ceremony::{
    BrowserProof, BrowserReturn, CeremonyOutcome, CeremonyRequest, PresenceProof,
};
use portlatch_protocol::api::{Ceremony, Secret, TunnelRequest};
use rcgen::KeyPair;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::super::*;
use super::scene::{Person, Scene, claims, csr, grant_of, granted, is_tap_needed};
use crate::admin::LockedBy;
use crate::browser::approval::Place;
use crate::devices::Holder;
use crate::grants::Asker;
use crate::presence::Presence;
use crate::store::credentials::CredentialKind;
use crate::store::devices::Ground;
use crate::store::web_sessions::NewWebSession;
use crate::webauthn::VerifiedTap;

const SECRET: &str = "the agent's";

/// `far` and the desktop `win` share their taps; a browser on another machine may answer where the role says so.
const OFFICE: &str = "
kind: role
metadata: {name: tap}
spec:
  options: {require_session_mfa: true, cross_device: true}
  allow: {db_labels: {mfa: tap}, desktop_labels: {'*': '*'}}
---
kind: db
metadata: {name: far, labels: {mfa: tap}}
spec: {uri: 'tcp://10.0.0.50:5432', mfa: {scope: 'group:office'}}
---
kind: desktop
metadata: {name: win}
spec: {uri: 'tcp://10.0.0.51:3389', mfa: {scope: 'group:office'}}
";

async fn begin_with_page(scene: &Scene, person: &Person, resource: &str, port: u16) -> Ceremony {
    let secret_hash = URL_SAFE_NO_PAD.encode(Sha256::digest(SECRET));
    let browser = Some(BrowserReturn { port: 40_000, secret_hash });
    let request = CeremonyRequest { purpose: person.opening(resource, port), browser };
    scene.control.begin_ceremony(person.asker(), &request).await.unwrap()
}

/// Approves as the page does once it has verified a tap; gives what the agent needs to take it.
async fn approve(scene: &Scene, person: &Person, ceremony: &Ceremony, place: Place) -> PresenceProof {
    let user = &person.granted.user;
    let key_id = scene.control.store.credentials(user).await.unwrap().remove(0).id;
    let presence = Presence::Tap(VerifiedTap { key_id, is_user_verified: false });
    let now = scene.clock.boot_time();
    let approved = scene.control.ceremonies.page(&ceremony.ceremony, user, now, |proof, _, _| {
        proof.browser.as_mut().and_then(|approval| approval.approve(presence, &place, now))
    });
    let code = approved.flatten().expect("it is approved once").map(|redirect| redirect.code);
    PresenceProof::Browser(BrowserProof { code, secret: Secret(SECRET.to_owned()) })
}

// A 7: five minutes from the tap, and not from when a thief comes with it.
#[tokio::test]
async fn what_a_page_approved_and_the_agent_kept_back_counts_from_the_tap() {
    let scene = Scene::new().await;
    let person = scene.person("jerry").await;
    let ceremony = begin_with_page(&scene, &person, "db/billing", 5432).await;
    let proof = approve(&scene, &person, &ceremony, Place::Here).await;
    let tapped = scene.clock.time_of_day().seconds();
    scene.pass(Duration::from_secs(50));
    let grant = grant_of(scene.finish(&person, &ceremony, proof).await.unwrap());
    let claims = claims(&scene, &grant);
    assert!((tapped - 1..=tapped + 10).contains(&claims.auth_time.unwrap()), "{:?}", claims.auth_time);
    assert_eq!(claims.exp, claims.auth_time.unwrap() + 300);
    scene.pass(Duration::from_secs(255));
    assert!(is_tap_needed(&scene.ask(&person, "db/billing", 5432).await));
}

#[tokio::test]
async fn an_answer_of_another_machine_opens_its_port_and_no_desktop_beside_it() {
    let scene = Scene::new().await;
    scene.apply(OFFICE).await;
    let mut person = scene.person("jerry").await;
    let ceremony = begin_with_page(&scene, &person, "db/far", 5432).await;
    let proof = approve(&scene, &person, &ceremony, Place::Elsewhere).await;
    grant_of(scene.finish(&person, &ceremony, proof).await.unwrap());
    granted(scene.ask(&person, "db/far", 5432).await);
    assert!(is_tap_needed(&scene.ask(&person, "desktop/win", 3389).await), "no key was tapped here");
    // A tap on the machine itself opens the group, as the document says.
    scene.tap(&mut person, "db/far", 5432).await.unwrap();
    granted(scene.ask(&person, "desktop/win", 3389).await);
}

// A 9.
#[tokio::test]
async fn an_answer_of_another_machine_from_before_that_was_forbidden_is_refused() {
    let scene = Scene::new().await;
    scene.apply(OFFICE).await;
    let person = scene.person("jerry").await;
    let ceremony = begin_with_page(&scene, &person, "db/far", 5432).await;
    let proof = approve(&scene, &person, &ceremony, Place::Elsewhere).await;
    scene.apply(&OFFICE.replace("cross_device: true", "cross_device: false")).await;
    let finished = scene.finish(&person, &ceremony, proof).await;
    assert!(matches!(finished, Err(Denial::Refused(_))), "{finished:?}");
    assert_eq!(scene.last_reason("mfa.fail"), "cross_device");
    assert!(scene.audit("grant").is_empty());
    assert!(is_tap_needed(&scene.ask(&person, "db/far", 5432).await));
}

// A 1, F: what was approved is taken once, by whoever has the secret and the code of the redirect.
#[tokio::test]
async fn what_a_page_approved_is_taken_once_and_by_its_agent_alone() {
    let scene = Scene::new().await;
    let (jerry, elaine) = (scene.person("jerry").await, scene.person("elaine").await);
    let ceremony = begin_with_page(&scene, &jerry, "db/billing", 5432).await;
    let proof = approve(&scene, &jerry, &ceremony, Place::Here).await;
    let PresenceProof::Browser(whole) = &proof else { panic!("a page's") };
    let without_code = BrowserProof { code: None, secret: whole.secret.clone() };
    let without_secret = BrowserProof { code: whole.code.clone(), secret: Secret("a guess".to_owned()) };
    for stolen in [without_code, without_secret] {
        let finished = scene.finish(&jerry, &ceremony, PresenceProof::Browser(stolen)).await;
        assert_eq!(finished.unwrap_err(), Denial::CeremonyEnded);
    }
    assert_eq!(scene.finish(&elaine, &ceremony, proof.clone()).await.unwrap_err(), Denial::CeremonyEnded);
    assert_eq!(scene.last_reason("mfa.fail"), "page_not_approved");
    assert!(scene.finish(&jerry, &ceremony, proof.clone()).await.is_ok());
    assert_eq!(scene.finish(&jerry, &ceremony, proof).await.unwrap_err(), Denial::CeremonyEnded);
    assert_eq!(scene.audit("grant").len(), 1);
}

// A 3: the thief's own tunnel key is certified, as any attach's is, and opens nothing that asks for a tap.
#[tokio::test]
async fn a_stolen_login_rides_on_no_tap_of_its_user() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    scene.tap(&mut person, "db/billing", 5432).await.unwrap();
    let exec = person.exec(&[("db/billing", 5433), ("db/wide", 1000)]);
    assert!(matches!(scene.prove(&mut person, &exec).await, Ok(CeremonyOutcome::Remembered { .. })));
    let request = TunnelRequest { csr: csr(&KeyPair::generate().unwrap()) };
    let thief = scene.control.certify_tunnel(person.asker(), &request).await.unwrap();
    for (resource, port) in [("db/billing", 5432), ("db/billing", 5433), ("db/wide", 1000)] {
        granted(scene.ask(&person, resource, port).await);
        let mut stolen = person.request(resource, port);
        stolen.tunnel_key = thief.thumbprint.clone();
        let answer = scene.control.ask(person.asker(), &stolen).await.unwrap();
        assert!(is_tap_needed(&answer), "{resource}:{port}");
    }
}

// A 3: it asks for as much as it likes, and answers wrongly as often; from another network than its user's.
#[tokio::test]
async fn a_stolen_login_keeps_its_user_from_nothing_elsewhere() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let (control, open) = (&scene.control, person.opening("db/billing", 5432));
    let ceremony = scene.begin(&person, &open).await.unwrap();
    let login = person.login.clone();
    let thief = Asker { login: &login, address: Ipv4Addr::new(203, 0, 113, 9).into() };
    let request = CeremonyRequest { purpose: open.clone(), browser: None };
    let (mut begun, wrong) = (0, PresenceProof::Key { credential: json!({}) });
    while let Ok(own) = control.begin_ceremony(thief, &request).await {
        begun += 1;
        assert!(control.finish_ceremony(thief, &own.ceremony, &wrong).await.is_err());
    }
    assert_eq!(begun, 10);
    assert_eq!(scene.audit("mfa.lock").len(), 1);
    let questions = async |asker: Asker<'_>| {
        let answer = control.ask(asker, &person.request("db/billing", 5432)).await.unwrap();
        is_tap_needed(&answer)
    };
    while questions(thief).await {}
    let tunnel = || TunnelRequest { csr: csr(&KeyPair::generate().unwrap()) };
    while control.certify_tunnel(thief, &tunnel()).await.is_ok() {}
    while control.take_other(thief).await.is_ok() {}

    assert!(questions(person.asker()).await);
    assert!(control.take_other(person.asker()).await.is_ok());
    assert!(control.certify_tunnel(person.asker(), &tunnel()).await.is_ok());
    let proof = person.tap_for(&ceremony, &open);
    grant_of(scene.finish(&person, &ceremony, proof).await.unwrap());
    assert!(scene.begin(&person, &open).await.is_ok());
}

// A 3: a request that proves somebody else's key, seen on its way and presented again.
#[tokio::test]
async fn a_certificate_request_that_was_seen_takes_nobody_s_tunnel_key_away() {
    let scene = Scene::new().await;
    let (mut jerry, elaine) = (scene.person("jerry").await, scene.person("elaine").await);
    let request = TunnelRequest { csr: csr(&KeyPair::generate().unwrap()) };
    jerry.tunnel_key = scene.control.certify_tunnel(jerry.asker(), &request).await.unwrap().thumbprint;
    let seen = scene.control.certify_tunnel(elaine.asker(), &request).await.unwrap();
    assert_eq!(seen.thumbprint, jerry.tunnel_key);
    scene.tap(&mut jerry, "db/billing", 5432).await.unwrap();
    // Elaine may name that key, whose secret half she has not; but Jerry's tap is not hers.
    let mut request = elaine.request("db/billing", 5432);
    request.tunnel_key = seen.thumbprint;
    assert!(is_tap_needed(&scene.control.ask(elaine.asker(), &request).await.unwrap()));
    granted(scene.ask(&jerry, "db/billing", 5432).await);
}

// A 4, A 9: a thief's key, app and recovery codes, a moment after the user was reset because of the thief.
#[tokio::test]
async fn a_reset_that_comes_first_leaves_no_device_of_whoever_it_keeps_out() {
    let scene = Scene::new().await;
    let person = scene.person("jerry").await;
    let (control, user) = (&scene.control, &person.granted.user);
    let key = scene.made_key(user);
    // Let in as long as the login stood.
    let holder = Holder::from(person.asker());
    control.reset_user(user, "root").await.unwrap();
    let kept = control.keep_key(&holder, ("thief's", CredentialKind::SecurityKey), &key).await;
    assert_eq!(kept.unwrap_err(), Denial::LoginEnded);
    let kept = control.keep_app(&holder, "thief's", &Zeroizing::new(vec![1; 20]), 1).await;
    assert_eq!(kept.unwrap_err(), Denial::LoginEnded);
    assert_eq!(scene.last_reason("device.add"), "login_ended");
    assert_eq!(control.new_recovery_codes(&holder).await.unwrap_err(), Denial::LoginEnded);
    assert_eq!(scene.last_reason("device.codes"), "login_ended");
    let devices = control.mfa_devices(user).await.unwrap();
    assert!(devices.devices.is_empty() && devices.recovery_codes == 0, "{devices:?}");
}

// A 4: and of its own devices none is removed or renamed by a login that is over, or by a session of the pages.
#[tokio::test]
async fn whoever_was_signed_out_removes_and_renames_nothing() {
    let scene = Scene::new().await;
    let person = scene.person("jerry").await;
    let (control, user) = (&scene.control, &person.granted.user);
    let key = control.mfa_devices(user).await.unwrap().devices.remove(0);
    let login = Holder::from(person.asker());
    let session = Holder { ground: Ground::Session([9; 32]), ..login.clone() };
    control.logout(&person.login).await.unwrap();
    for holder in [login, session] {
        assert_eq!(control.remove_device(&holder, &key.id).await.unwrap_err(), Denial::LoginEnded);
        assert_eq!(scene.last_reason("device.remove"), "login_ended");
        let renamed = control.rename_device(&holder, &key.id, "thief's").await;
        assert_eq!(renamed.unwrap_err(), Denial::LoginEnded);
        assert_eq!(scene.last_reason("device.rename"), "login_ended");
    }
    assert_eq!(control.mfa_devices(user).await.unwrap().devices, [key]);
}

// A 4: a lock ends no login, and keeps out whoever was let in a moment before it was set.
#[tokio::test]
async fn a_lock_that_comes_first_leaves_the_devices_as_they_are() {
    let locks: [fn(&Person) -> LockedBy; 3] = [
        |person| LockedBy::User(person.granted.user.clone()),
        |person| LockedBy::Device(person.login.login.device.clone()),
        |person| LockedBy::Login(person.granted.login.clone()),
    ];
    for lock in locks {
        let scene = Scene::new().await;
        let person = scene.person("jerry").await;
        let (control, user) = (&scene.control, &person.granted.user);
        let key = scene.made_key(user);
        let holder = Holder::from(person.asker());
        let before = control.mfa_devices(user).await.unwrap();
        control.lock(lock(&person), None, Some("stolen".to_owned()), "root").await.unwrap();
        let (locked, own) = (Denial::Locked(Some("stolen".to_owned())), &before.devices[0].id);
        let kept = control.keep_key(&holder, ("thief's", CredentialKind::SecurityKey), &key).await;
        assert_eq!(kept.unwrap_err(), locked);
        let kept = control.keep_app(&holder, "thief's", &Zeroizing::new(vec![1; 20]), 1).await;
        assert_eq!(kept.unwrap_err(), locked);
        assert_eq!(control.new_recovery_codes(&holder).await.unwrap_err(), locked);
        assert_eq!(control.remove_device(&holder, own).await.unwrap_err(), locked);
        assert_eq!(control.rename_device(&holder, own, "thief's").await.unwrap_err(), locked);
        for kind in ["device.add", "device.codes", "device.remove", "device.rename"] {
            assert_eq!(scene.last_reason(kind), "locked", "{kind}");
        }
        assert_eq!(control.mfa_devices(user).await.unwrap(), before);
    }
}

// The same of somebody whose session at the pages has ended.
#[tokio::test]
async fn a_session_of_the_pages_that_is_over_enrols_nothing() {
    let scene = Scene::new().await;
    let person = scene.person("jerry").await;
    let (control, user) = (&scene.control, &person.granted.user);
    let key = scene.made_key(user);
    let holder = Holder { ground: Ground::Session([9; 32]), ..Holder::from(person.asker()) };
    let keep = || control.keep_key(&holder, ("page's", CredentialKind::SecurityKey), &key);
    assert_eq!(keep().await.unwrap_err(), Denial::LoginEnded);
    let now = scene.clock.time_of_day();
    let expires = now.after(Duration::from_secs(60));
    let session = NewWebSession { hash: &[9; 32], user, key_id: None, expires };
    assert!(control.store.add_web_session(&session, now).await.unwrap());
    assert_eq!(keep().await.unwrap().name, "page's");
    scene.pass(Duration::from_secs(61));
    assert_eq!(keep().await.unwrap_err(), Denial::LoginEnded);
}

// A 10: whatever a daemon says of its program, the record stays one line and short.
#[tokio::test]
async fn a_program_s_name_that_lies_is_kept_short_and_plain() {
    let scene = Scene::new().await;
    let person = scene.person("jerry").await;
    let mut request = person.request("app/wiki", 80);
    let name = "psql\n\u{202e}{\"event\":\"lock\"}\u{1b}]0;\u{7}".repeat(2000);
    request.program = Some(name);
    let answer = scene.control.ask(person.asker(), &request).await.unwrap();
    granted(answer);
    let program = scene.audit("grant").pop().unwrap()["program"].as_str().unwrap().to_owned();
    assert!(
        program.chars().count() <= 64 && !program.contains(['\n', '\u{202e}', '\u{1b}', '\u{7}']),
        "{program:?}"
    );
    assert!(scene.audit("lock").is_empty());
}
