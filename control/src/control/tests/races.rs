//! What two do at once and one may: a thousand rounds, ten thousand with PORTLATCH_NIGHTLY=1.

use std::time::Duration;

use portlatch_protocol::api::Secret;
use portlatch_protocol::api::ceremony::{CeremonyOutcome, PresenceProof};

use super::super::*;
use super::scene::{ADDRESS, App, Person, Scene};
use crate::grants::Asker;

mod enrolling;
mod locking;

/// Rounds that one login lives through, at a minute each.
const ROUNDS_OF_A_LOGIN: usize = 1000;

fn logins() -> usize {
    let is_nightly = std::env::var_os("PORTLATCH_NIGHTLY").is_some_and(|value| value == "1");
    if is_nightly { 10 } else { 1 }
}

/// Submits one proof to one ceremony each by two tasks at once; how many were granted.
async fn granted(scene: &Scene, person: &Person, answers: [(Id, PresenceProof); 2]) -> usize {
    let submit = |(ceremony, proof): (Id, PresenceProof)| {
        let (control, login) = (scene.control.clone(), person.login.clone());
        tokio::spawn(async move {
            let asker = Asker { login: &login, address: ADDRESS };
            let finished = control.finish_ceremony(asker, &ceremony, &proof).await;
            usize::from(matches!(finished, Ok(CeremonyOutcome::Granted(_))))
        })
    };
    let (first, second) = tokio::join!(submit(answers[0].clone()), submit(answers[1].clone()));
    first.unwrap() + second.unwrap()
}

// A 1: twice at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_assertion_submitted_twice_at_once_gives_one_grant() {
    for _ in 0..logins() {
        let scene = Scene::in_memory().await;
        let mut person = scene.person("jerry").await;
        let open = person.opening("db/billing", 5432);
        for round in 0..ROUNDS_OF_A_LOGIN {
            // The limit on challenges is another matter.
            scene.pass(Duration::from_secs(6));
            let ceremony = scene.begin(&person, &open).await.unwrap();
            let proof = person.tap_for(&ceremony, &open);
            let answer = (ceremony.ceremony, proof);
            assert_eq!(granted(&scene, &person, [answer.clone(), answer]).await, 1, "round {round}");
        }
        assert_eq!(scene.audit("grant").len(), ROUNDS_OF_A_LOGIN);
        let ended = scene.audit("mfa.fail").len();
        assert_eq!(ended, ROUNDS_OF_A_LOGIN, "each second one is on the record");
    }
}

async fn with_app(scene: &Scene) -> (Person, App) {
    scene
        .apply(
            "kind: cluster_auth_preference\nspec: {second_factors: [webauthn, otp]}\n---\nkind: role\n\
             metadata: {name: tap}\nspec: {options: {require_session_mfa: true, max_session_ttl: 30h}, \
             allow: {db_labels: {mfa: tap}}}",
        )
        .await;
    let mut person = scene.person("jerry").await;
    let app = scene.add_app(&mut person).await;
    (person, app)
}

// B: one code for two ceremonies at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_code_typed_twice_at_once_gives_one_grant() {
    for _ in 0..logins() {
        let scene = Scene::in_memory().await;
        let (person, app) = with_app(&scene).await;
        let ports = [5432, 5433].map(|port| person.opening("db/billing", port));
        for round in 0..ROUNDS_OF_A_LOGIN {
            // The next code; and ten wrong answers in ten minutes are another matter.
            scene.pass(Duration::from_secs(70));
            let mut answers = Vec::new();
            for open in &ports {
                let ceremony = scene.begin(&person, open).await.unwrap();
                let proof = PresenceProof::Code { code: Secret(app.code(&scene.clock)) };
                answers.push((ceremony.ceremony, proof));
            }
            let answers = answers.try_into().expect("there are two ports");
            assert_eq!(granted(&scene, &person, answers).await, 1, "round {round}");
        }
        assert_eq!(scene.audit("grant").len(), ROUNDS_OF_A_LOGIN);
    }
}
