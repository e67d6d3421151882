//! What an agent waits for, at its page: answered once, and by nobody any more when it is over (F).

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portlatch_protocol::api::ceremony::{BrowserReturn, CeremonyRequest};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::super::*;
use super::scene::{ADDRESS, Person, Scene};
use super::soft_key::PAGE_ORIGIN;
use crate::browser::approval::{Claimed, Redirect};
use crate::browser::{Task, Visit};

const VISIT: Visit = Visit { owner: [7; 32], address: ADDRESS };

/// A ceremony with a page.
async fn waiting(scene: &Scene, person: &Person) -> Id {
    let secret_hash = URL_SAFE_NO_PAD.encode(Sha256::digest("the agent's"));
    let browser = Some(BrowserReturn { port: 40_000, secret_hash });
    let request = CeremonyRequest { purpose: person.opening("db/billing", 5432), browser };
    scene.control.begin_ceremony(person.asker(), &request).await.unwrap().ceremony
}

/// Whoever is at the page is about to tap.
async fn reaching(scene: &Scene, person: &mut Person, ceremony: &Id) -> (Task, Value) {
    let user = &person.granted.user;
    let task = scene.control.begin_approval(VISIT, user, ceremony, &Claimed::Here).await.unwrap();
    let mut answer = person.key.answer(&task.options, None);
    PAGE_ORIGIN.clone_into(&mut answer.origin);
    let answer = person.key.sign(&answer);
    (task, answer)
}

async fn approve(
    scene: &Scene,
    person: &Person,
    (task, answer): (Task, Value),
) -> Result<Option<Redirect>, Denial> {
    scene.control.finish_approval(VISIT, &person.granted.user, &task.challenge, &answer).await
}

#[tokio::test]
async fn a_request_is_approved_once() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let ceremony = waiting(&scene, &person).await;
    let first = reaching(&scene, &mut person, &ceremony).await;
    let second = reaching(&scene, &mut person, &ceremony).await;
    assert!(approve(&scene, &person, first).await.is_ok());
    let mark = scene.mark();
    assert_eq!(approve(&scene, &person, second).await.unwrap_err(), Denial::NotFound);
    scene.refused_since(&mark, "mfa.fail", "ceremony_ended");
    scene.nothing_proved_since(&mark);
}

#[tokio::test]
async fn what_was_cancelled_denied_or_is_over_is_not_approved() {
    for case in ["cancelled", "denied_at_page", "timed_out"] {
        let scene = Scene::new().await;
        let mut person = scene.person("jerry").await;
        let ceremony = waiting(&scene, &person).await;
        // The last one is begun when the request is old already, so that the page's own challenge stands still.
        scene.pass(Duration::from_secs(60));
        let tapped = reaching(&scene, &mut person, &ceremony).await;
        match case {
            "cancelled" => scene.control.cancel_ceremony(person.asker(), &ceremony).await,
            "denied_at_page" => scene.control.deny_waiting(&person.granted.user, &ceremony).await.unwrap(),
            _ => scene.pass(Duration::from_secs(61)),
        }
        let mark = scene.mark();
        assert_eq!(approve(&scene, &person, tapped).await.unwrap_err(), Denial::NotFound, "{case}");
        scene.refused_since(&mark, "mfa.fail", "ceremony_ended");
        scene.nothing_proved_since(&mark);
    }
}

#[tokio::test]
async fn its_own_user_finds_what_waits_and_nobody_else() {
    let scene = Scene::new().await;
    let (mut jerry, elaine) = (scene.person("jerry").await, scene.person("elaine").await);
    // Whatever is answered with the key at the machine has no page.
    scene.begin(&jerry, &jerry.opening("db/wide", 1000)).await.unwrap();
    let first = waiting(&scene, &jerry).await;
    scene.pass(Duration::from_secs(10));
    let second = waiting(&scene, &jerry).await;
    let listed = |person: &Person| {
        let all = scene.control.all_waiting(&person.granted.user);
        all.into_iter().map(|(id, _)| id).collect::<Vec<_>>()
    };
    assert_eq!((listed(&jerry), listed(&elaine)), (vec![first.clone(), second.clone()], vec![]));
    let tapped = reaching(&scene, &mut jerry, &first).await;
    approve(&scene, &jerry, tapped).await.unwrap();
    assert_eq!(listed(&jerry), [second], "it is answered");
    scene.pass(Duration::from_secs(60));
    assert!(listed(&jerry).is_empty(), "the prompt is over");
}

#[tokio::test]
async fn the_page_counts_the_prompt_s_time_and_not_the_challenge_s() {
    let scene = Scene::new().await;
    let person = scene.person("jerry").await;
    let ceremony = waiting(&scene, &person).await;
    let left = || scene.control.waiting(&ceremony, &person.granted.user).unwrap().left;
    assert_eq!(left(), Duration::from_secs(60));
    scene.pass(Duration::from_secs(50));
    assert_eq!(left(), Duration::from_secs(10));
    scene.pass(Duration::from_secs(20));
    assert_eq!(left(), Duration::ZERO, "an answer that is on its way may still come");
}
