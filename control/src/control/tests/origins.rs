//! Pages and agents have origins of their own, and neither takes an answer that was made for another one (A 5, A 6). The
//! WebAuthn library knows them all as the cluster's, so that each path looks for itself.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portlatch_protocol::api::Secret;
use portlatch_protocol::api::ceremony::{BrowserReturn, CeremonyRequest};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::super::*;
use super::scene::{ADDRESS, PASSWORD, Person, Scene};
use super::soft_key::{
    AGENT_ORIGIN, Answer, BACKUP_ELIGIBLE, PAGE_ORIGIN, SoftKey, USER_PRESENT, USER_VERIFIED,
};
use crate::browser::approval::Claimed;
use crate::browser::enrolment::NewUser;
use crate::browser::sign_in::{SignInProof, SignInTarget};
use crate::browser::{Task, Visit};
use crate::store::credentials::CredentialKind;

const VISIT: Visit = Visit { owner: [7; 32], address: ADDRESS };
/// What is no page of the cluster, however much it looks like one.
const NO_PAGES: [&str; 6] = [
    AGENT_ORIGIN,
    "https://proxy.example.com:8443",
    "http://proxy.example.com",
    "https://proxy.example.com.evil",
    "https://evil.proxy.example.com",
    "https://proxy.example.com/",
];

/// What the key answers to a page, for this origin.
fn answer_at(person: &mut Person, task: &Task, origin: &str, context: Option<Value>) -> Value {
    let mut answer = person.key.answer(&task.options, context);
    origin.clone_into(&mut answer.origin);
    person.key.sign(&answer)
}

/// Each spoilt answer, with the reason that the audit names.
fn spoilt(person: &Person) -> Vec<(&'static str, Option<Value>, &'static str)> {
    let context = person.context("db/billing", 5432);
    let origins = NO_PAGES.map(|origin| (origin, None, "origin"));
    origins.into_iter().chain([(PAGE_ORIGIN, Some(context), "context")]).collect()
}

#[tokio::test]
async fn an_approval_takes_an_answer_of_the_page_alone() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let user = person.granted.user.clone();
    let secret_hash = URL_SAFE_NO_PAD.encode(Sha256::digest("the agent's"));
    let browser = Some(BrowserReturn { port: 40_000, secret_hash });
    let request = CeremonyRequest { purpose: person.opening("db/billing", 5432), browser };
    let ceremony = scene.control.begin_ceremony(person.asker(), &request).await.unwrap().ceremony;
    let begin = async || scene.control.begin_approval(VISIT, &user, &ceremony, &Claimed::Here).await.unwrap();
    let finish = async |task: &Task, answer: Value| {
        scene.control.finish_approval(VISIT, &user, &task.challenge, &answer).await
    };
    for (origin, context, reason) in spoilt(&person) {
        let task = begin().await;
        let mark = scene.mark();
        let answer = answer_at(&mut person, &task, origin, context);
        assert_eq!(finish(&task, answer).await.unwrap_err(), Denial::BadAssertion, "{origin}");
        scene.refused_since(&mark, "mfa.fail", reason);
        scene.nothing_proved_since(&mark);
        // The challenge was used up; the program's request waits on.
        let mark = scene.mark();
        let honest = answer_at(&mut person, &task, PAGE_ORIGIN, None);
        assert_eq!(finish(&task, honest).await.unwrap_err(), Denial::CeremonyEnded, "{origin}");
        scene.refused_since(&mark, "mfa.fail", "ceremony_ended");
    }
    let task = begin().await;
    let honest = answer_at(&mut person, &task, PAGE_ORIGIN, None);
    assert!(finish(&task, honest).await.unwrap().is_some(), "the honest answer passes");
}

#[tokio::test]
async fn a_sign_in_takes_an_answer_of_the_page_alone() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let user = person.granted.user.clone();
    let begin = async || {
        let proof = SignInProof::Password { user: user.clone(), password: Secret(PASSWORD.to_owned()) };
        scene.control.begin_sign_in(VISIT, SignInTarget::Pages, proof).await.unwrap()
    };
    let finish = async |task: &Task, answer: Value| {
        scene.control.finish_sign_in(VISIT, &task.challenge, &answer).await
    };
    for (origin, context, reason) in spoilt(&person) {
        let task = begin().await;
        let mark = scene.mark();
        let answer = answer_at(&mut person, &task, origin, context);
        assert_eq!(finish(&task, answer).await.unwrap_err(), Denial::BadLogin, "{origin}");
        scene.refused_since(&mark, "mfa.fail", reason);
        let honest = answer_at(&mut person, &task, PAGE_ORIGIN, None);
        assert_eq!(finish(&task, honest).await.unwrap_err(), Denial::CeremonyEnded, "{origin}");
        scene.nothing_proved_since(&mark);
    }
    let task = begin().await;
    let honest = answer_at(&mut person, &task, PAGE_ORIGIN, None);
    assert!(finish(&task, honest).await.is_ok());
}

#[tokio::test]
async fn an_enrolment_at_the_page_takes_an_answer_of_the_page_alone() {
    let scene = Scene::new().await;
    let token = scene.token_for("elaine").await;
    let key = SoftKey::new();
    let begin = async || {
        let new = NewUser {
            user: "elaine".parse().unwrap(),
            token: Secret(token.clone()),
            password: Secret(PASSWORD.to_owned()),
            name: "first key".to_owned(),
            kind: CredentialKind::SecurityKey,
        };
        scene.control.begin_web_enrolment(VISIT, new).await.unwrap()
    };
    let finish = async |task: &Task, origin: &str| {
        let answer = key.enrol_at(&task.options, origin);
        scene.control.finish_web_enrolment(VISIT, &task.challenge, &answer).await
    };
    for origin in NO_PAGES {
        let task = begin().await;
        let mark = scene.mark();
        assert_eq!(finish(&task, origin).await.unwrap_err(), Denial::BadLogin, "{origin}");
        scene.refused_since(&mark, "mfa.fail", "origin");
        assert_eq!(finish(&task, PAGE_ORIGIN).await.unwrap_err(), Denial::CeremonyEnded, "{origin}");
        scene.nothing_proved_since(&mark);
    }
    assert!(finish(&begin().await, PAGE_ORIGIN).await.is_ok(), "the token was not used up");
}

// A 6, of a sign-in with a passkey, whose owner only the answer names.
#[tokio::test]
async fn a_passkey_s_answer_with_one_wrong_part_signs_nobody_in() {
    let scene = Scene::new().await;
    let (mut person, elaine) = (scene.person("jerry").await, scene.person("elaine").await);
    let handle = async |of: &Person| {
        scene.control.store.user_secrets(&of.granted.user).await.unwrap().unwrap().handle.to_vec()
    };
    let (own, elaines, elaines_key) = (handle(&person).await, handle(&elaine).await, elaine.key.id.clone());
    let context = person.context("db/billing", 5432);
    let begin = async || {
        let proof = SignInProof::Passkey { user: None };
        scene.control.begin_sign_in(VISIT, SignInTarget::Pages, proof).await.unwrap()
    };
    let finish = async |task: &Task, answer: Value| {
        scene.control.finish_sign_in(VISIT, &task.challenge, &answer).await
    };
    // The second time the counter has grown, and an older one is stale.
    person.key.counter = 40;
    let task = begin().await;
    let honest = passkey(&mut person, &task, &own);
    assert!(finish(&task, person.key.sign(&honest)).await.is_ok());
    let spoils: Vec<(&str, Spoil)> = vec![
        ("user_handle", Box::new(move |it| it.user_handle = Some(elaines))),
        ("unknown_key", Box::new(|it| it.id = vec![7; 32])),
        ("user_handle", Box::new(move |it| it.id = elaines_key)),
        ("origin", Box::new(|it| it.origin = AGENT_ORIGIN.to_owned())),
        ("origin", Box::new(|it| it.origin = "https://proxy.example.com:8443".to_owned())),
        ("context", Box::new(move |it| it.context = Some(context))),
        ("extension", Box::new(|it| it.extensions = json!({"appid": true}))),
        ("cross_origin", Box::new(|it| it.cross_origin = Some(true))),
        ("counter", Box::new(|it| it.counter = 41)),
        ("counter", Box::new(|it| it.counter = 0)),
        ("user_not_verified", Box::new(|it| it.flags = USER_PRESENT)),
        ("user_not_present", Box::new(|it| it.flags = USER_VERIFIED)),
        ("signature", Box::new(|it| it.signs = vec![0])),
        ("rp_id", Box::new(|it| it.rp_id = "evil.example.com".to_owned())),
        ("type", Box::new(|it| it.kind = "webauthn.create")),
        ("backup_flags", Box::new(|it| it.flags |= BACKUP_ELIGIBLE)),
        ("challenge", Box::new(|it| it.challenge = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_owned())),
    ];
    for (reason, spoil) in spoils {
        let task = begin().await;
        let mark = scene.mark();
        let mut answer = passkey(&mut person, &task, &own);
        spoil(&mut answer);
        assert_eq!(finish(&task, person.key.sign(&answer)).await.unwrap_err(), Denial::BadLogin, "{reason}");
        scene.refused_since(&mark, "mfa.fail", reason);
        let honest = passkey(&mut person, &task, &own);
        assert_eq!(finish(&task, person.key.sign(&honest)).await.unwrap_err(), Denial::CeremonyEnded);
        scene.nothing_proved_since(&mark);
    }
    let task = begin().await;
    let honest = passkey(&mut person, &task, &own);
    assert!(finish(&task, person.key.sign(&honest)).await.is_ok());
}

type Spoil = Box<dyn FnOnce(&mut Answer)>;

/// An honest answer of a passkey to a page.
fn passkey(person: &mut Person, task: &Task, handle: &[u8]) -> Answer {
    let answer = person.key.answer(&task.options, None);
    let flags = USER_PRESENT | USER_VERIFIED;
    Answer { origin: PAGE_ORIGIN.to_owned(), flags, user_handle: Some(handle.to_vec()), ..answer }
}
