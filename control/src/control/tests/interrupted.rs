//! Requests that end in the middle, and what must be on the record nevertheless.

use std::net::SocketAddr;
use std::time::Duration;

use portlatch_protocol::api::ceremony::PresenceProof;
use portlatch_protocol::api::{KeyTask, LoginAnswer, LoginProof};
use portlatch_protocol::identity::{Identity, Subject};
use rcgen::KeyPair;

use super::super::*;
use super::scene::{ADDRESS, PASSWORD, Person, Scene, csr, enrolment, file, login_request, password};
use super::soft_key::SoftKey;
use crate::api::Peer;
use crate::store::logins::NewLogin;

fn peer(scene: &Scene, person: &Person) -> Peer {
    use base64::Engine as _;
    let certificate = base64::engine::general_purpose::STANDARD.decode(&person.granted.certificate).unwrap();
    let identity = Identity {
        cluster: scene.control.cluster().clone(),
        subject: Subject::Login(person.login.login.clone()),
    };
    Peer {
        identity: Some(identity),
        certificate: Some(certificate),
        address: SocketAddr::new(ADDRESS, 40_000),
    }
}

async fn eventually(mut holds: impl FnMut() -> bool) -> bool {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !holds() {
        if tokio::time::Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    true
}

#[tokio::test]
async fn a_change_that_its_asker_does_not_wait_for_is_finished() {
    let scene = Scene::new().await;
    let revision = scene.control.hub.now().revision;
    let turn = scene.control.turn().await.unwrap();
    let text = "kind: app\nmetadata: {name: new}\nspec: {uri: 'tcp://10.0.0.20:80'}";
    let control = scene.control.clone();
    let applying = async move { control.apply(&file(text), "root").await.is_ok() };
    let late = crate::admin_server::finish_within(Duration::from_millis(50), applying).await;
    let late = late.unwrap_err().expect("it waits for its turn");
    drop(turn);
    assert!(late.await.unwrap());
    assert!(scene.control.hub.now().revision > revision, "the change is in force");
}

#[tokio::test]
async fn a_logout_whose_asker_has_gone_is_told_to_the_proxies() {
    use hyper::service::Service as _;
    let scene = Scene::new().await;
    let person = scene.person("jerry").await;
    let router = hyper_util::service::TowerToHyperService::new(scene.control.router());
    let mut request = axum::extract::Request::post("/v1/logout").body(axum::body::Body::empty()).unwrap();
    request.extensions_mut().insert(peer(&scene, &person));
    let mut answering = Box::pin(router.call(request));
    // One look at it, as an executor takes, and then the connection is gone.
    std::future::poll_fn(|context| {
        let _ = answering.as_mut().poll(context);
        std::task::Poll::Ready(())
    })
    .await;
    drop(answering);
    let login = person.granted.login.clone();
    assert!(eventually(|| scene.control.hub.now().ended_logins.contains_key(&login)).await);
    assert!(eventually(|| !scene.audit("logout").is_empty()).await);
}

#[tokio::test]
async fn a_login_is_not_kept_for_a_key_that_went_in_between() {
    let scene = Scene::new().await;
    let person = scene.person("jerry").await;
    let user = person.login.login.user.clone();
    let key = scene.control.store.credentials(&user).await.unwrap().remove(0).id;
    scene.control.reset_user(&user, "root").await.unwrap();
    let (id, now) = (random_id(), scene.clock.time_of_day());
    let device = "laptop".parse().unwrap();
    let expires = now.after(Duration::from_secs(3600));
    let login = NewLogin { id: &id, user: &user, device: &device, spki: &[], address: ADDRESS, expires };
    assert!(!scene.control.store.add_login(&login, &key, now).await.unwrap());
    assert!(scene.control.store.login(&id).await.unwrap().is_none());
}

#[tokio::test]
async fn a_challenge_that_is_used_up_by_a_bad_request_is_on_the_record() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let begun =
        scene.control.begin_login(&login_request("jerry", password(PASSWORD)), ADDRESS).await.unwrap();
    let KeyTask::Assert { options } = &begun.task else { panic!("a tap was asked for") };
    let answer = LoginAnswer {
        proof: LoginProof::Key { credential: person.key.tap(options, None) },
        csr: "AAAA".to_owned(),
    };
    let finished = scene.control.finish_login(&begun.ceremony, &answer, ADDRESS).await;
    assert!(matches!(finished, Err(Denial::BadRequest(_))), "{finished:?}");
    assert_eq!(scene.last_reason("mfa.fail"), "certificate_request");
}

#[tokio::test]
async fn a_challenge_that_makes_room_is_on_the_record() {
    let scene = Scene::new().await;
    let person = scene.person("jerry").await;
    for _ in 0..=crate::ceremony::MAX_PER_OWNER {
        let request = person.open("db/billing", 5432);
        scene.control.begin_ceremony(person.asker(), &request).await.unwrap();
    }
    assert_eq!(scene.audit("mfa.fail").len(), 1);
    assert_eq!(scene.last_reason("mfa.fail"), "displaced");
    scene.control.reset_user(&person.login.login.user, "root").await.unwrap();
    assert_eq!(scene.audit("mfa.fail").len(), 1 + crate::ceremony::MAX_PER_OWNER);
    assert_eq!(scene.last_reason("mfa.fail"), "reset");
}

// A 4: after the login was revoked.
#[tokio::test]
async fn an_answer_of_a_login_that_ended_meanwhile_is_on_the_record() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let request = person.open("db/billing", 5432);
    let ceremony = scene.control.begin_ceremony(person.asker(), &request).await.unwrap();
    let context = person.context("db/billing", 5432);
    let answer = PresenceProof::Key { credential: person.key.tap(&ceremony.options, Some(context)) };
    scene.control.logout(&person.login).await.unwrap();
    let mark = scene.mark();
    let finished = scene.control.finish_ceremony(person.asker(), &ceremony.ceremony, &answer).await;
    assert_eq!(finished.unwrap_err(), Denial::LoginEnded);
    scene.refused_since(&mark, "access.denied", "login_ended");
}

#[tokio::test]
async fn a_request_of_an_ended_or_locked_login_is_on_the_record_and_floods_it_not() {
    let scene = Scene::new().await;
    let (jerry, elaine) = (scene.person("jerry").await, scene.person("elaine").await);
    scene.control.logout(&jerry.login).await.unwrap();
    let target = crate::admin::LockedBy::User("elaine".parse().unwrap());
    scene.control.lock(target, None, None, "root").await.unwrap();
    for (person, reason) in [(&jerry, "login_ended"), (&elaine, "locked")] {
        for _ in 0..50 {
            assert!(scene.control.authenticate(&peer(&scene, person)).await.is_err());
        }
        let records = scene.audit("access.denied");
        let own: Vec<_> = records.iter().filter(|it| it["reason"] == reason).collect();
        assert!((1..=10).contains(&own.len()), "{reason}: {} records", own.len());
        assert_eq!(own[0]["client_addr"], ADDRESS.to_string());
    }
}

#[tokio::test]
async fn large_documents_do_not_hold_the_executor() {
    let scene = Scene::new().await;
    let mut text: String = (0..2000)
        .map(|n| {
            format!("kind: app\nmetadata: {{name: many-{n}}}\nspec: {{uri: 'tcp://10.0.1.1:80'}}\n---\n")
        })
        .collect();
    text.push_str("kind: nothing\n");
    let turns = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counting = tokio::spawn({
        let turns = turns.clone();
        async move {
            loop {
                turns.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        }
    });
    scene.control.apply(&file(&text), "root").await.unwrap_err();
    counting.abort();
    assert!(turns.load(Ordering::Relaxed) > 10, "nothing else ran while the documents were read");
}

#[tokio::test]
async fn addresses_of_one_network_are_limited_together() {
    let scene = Scene::new().await;
    let mut denials = Vec::new();
    for n in 0..61_u16 {
        let request = login_request(&format!("user-{n}"), enrolment("0123456789abcdef"));
        let address = std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, n).into();
        denials.push(scene.control.begin_login(&request, address).await.unwrap_err());
    }
    assert_eq!(denials.pop(), Some(Denial::RateLimited));
    assert!(denials.iter().all(|denial| *denial == Denial::BadLogin));
}

#[tokio::test]
async fn nothing_secret_is_printed_for_debugging() {
    let scene = Scene::new().await;
    let issued = scene.control.add_user(&"jerry".parse().unwrap(), Vec::new(), "root").await.unwrap();
    let request = login_request("jerry", enrolment(&issued.token));
    let challenge = scene.control.begin_login(&request, ADDRESS).await.unwrap();
    let KeyTask::Enrol { options } = &challenge.task else { panic!("an enrolment was asked for") };
    let credential = SoftKey::new().enrol(options);
    let answer = LoginAnswer {
        proof: LoginProof::Key { credential: credential.clone() },
        csr: csr(&KeyPair::generate().unwrap()),
    };
    let signed = credential["response"]["clientDataJSON"].as_str().unwrap();
    let printed = format!("{issued:?} {:?} {answer:?}", scene.control.ceremonies);
    assert!(!printed.contains(&issued.token), "the token");
    assert!(!printed.contains("argon2"), "the password's hash");
    assert!(!printed.contains(signed), "the key's answer");
}
