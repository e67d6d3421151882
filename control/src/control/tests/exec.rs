//! One tap for one command on several resources.

use std::time::Duration;

use portlatch_protocol::api::AccessAnswer;
use portlatch_protocol::api::ceremony::{
    CeremonyOutcome, CeremonyPurpose, ExecTarget, MAX_EXEC_RESOURCES, PresenceProof,
};
use serde_json::json;

use super::super::*;
use super::scene::{Scene, claims, granted, is_tap_needed};
use super::soft_key::{USER_PRESENT, USER_VERIFIED};

const BOTH: [(&str, u16); 2] = [("db/wide", 1000), ("db/billing", 5432)];

#[tokio::test]
async fn one_tap_opens_what_was_listed_and_nothing_else() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let exec = person.exec(&BOTH);
    let outcome = scene.prove(&mut person, &exec).await.unwrap();
    let CeremonyOutcome::Remembered { expires_in, amr } = outcome else { panic!("{outcome:?}") };
    assert_eq!((expires_in, amr), (300, vec!["hwk".to_owned(), "user".to_owned()]));
    assert!(scene.audit("grant").is_empty(), "grants are signed as they are asked for");
    for (resource, port) in BOTH {
        let grant = granted(scene.ask(&person, resource, port).await);
        let claims = claims(&scene, &grant);
        assert_eq!((claims.resource.to_string(), claims.port), (resource.to_owned(), port));
        assert_eq!(claims.exp, claims.auth_time.unwrap() + 300);
    }
    // Neither another port of a listed resource, however wide its own scope is, nor another resource.
    for (resource, port) in [("db/billing", 5433), ("db/wide", 1001), ("app/brief", 80)] {
        assert!(is_tap_needed(&scene.ask(&person, resource, port).await), "{resource}:{port}");
    }
    let ok = scene.audit("mfa.ok").pop().unwrap();
    assert_eq!(ok["detail"], "exec of 2: db/billing:5432 db/wide:1000");
    assert_eq!(ok["program"], "psql -c 'select 1'");
    scene.pass(Duration::from_secs(301));
    assert!(is_tap_needed(&scene.ask(&person, "db/billing", 5432).await));
}

#[tokio::test]
async fn the_shortest_interval_of_those_listed_counts_for_all() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let exec = person.exec(&[("db/billing", 5432), ("app/brief", 80)]);
    let outcome = scene.prove(&mut person, &exec).await.unwrap();
    assert!(matches!(outcome, CeremonyOutcome::Remembered { expires_in: 60, .. }));
    scene.pass(Duration::from_secs(61));
    assert!(is_tap_needed(&scene.ask(&person, "db/billing", 5432).await));
}

#[tokio::test]
async fn what_policy_refuses_fails_the_whole_with_its_names_and_tells_no_more() {
    let scene = Scene::new().await;
    let person = scene.person("jerry").await;
    let targets = [("db/billing", 5432), ("app/secret", 80), ("app/nothing", 80)];
    let refused = scene.begin(&person, &person.exec(&targets)).await.unwrap_err();
    assert_eq!(
        refused,
        Denial::Refused(
            "app/nothing:80: no role of yours allows it; app/secret:80: no role of yours allows it"
                .to_owned()
        )
    );
    assert_eq!(scene.audit("access.denied").len(), 2);
    assert!(scene.control.ceremonies.is_empty());
}

// A 9: a resource that goes, or is locked, between challenge and answer.
#[tokio::test]
async fn what_policy_refuses_by_the_time_of_the_answer_fails_the_whole() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let exec = person.exec(&BOTH);
    let ceremony = scene.begin(&person, &exec).await.unwrap();
    let target = crate::admin::LockedBy::Resource("db/wide".parse().unwrap());
    scene.control.lock(target, None, None, "root").await.unwrap();
    let (proof, mark) = (person.tap_for(&ceremony, &exec), scene.mark());
    let refused = scene.finish(&person, &ceremony, proof).await.unwrap_err();
    assert!(matches!(&refused, Denial::Refused(names) if names.starts_with("db/wide:1000: ")), "{refused}");
    scene.refused_since(&mark, "access.denied", "locked");
    scene.nothing_proved_since(&mark);
    assert!(is_tap_needed(&scene.ask(&person, "db/billing", 5432).await), "nothing of it is remembered");
}

#[tokio::test]
async fn each_grant_is_decided_on_when_it_is_asked_for() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let exec = person.exec(&BOTH);
    scene.prove(&mut person, &exec).await.unwrap();
    scene.apply("kind: user\nmetadata: {name: jerry}\nspec: {roles: [open]}").await;
    assert!(matches!(scene.ask(&person, "db/billing", 5432).await, AccessAnswer::Refused { .. }));
}

#[tokio::test]
async fn one_resource_that_asks_for_a_pin_asks_it_for_all() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let exec = person.exec(&[("db/billing", 5432), ("db/vault", 5432)]);
    let ceremony = scene.begin(&person, &exec).await.unwrap();
    assert_eq!(ceremony.options["publicKey"]["userVerification"], "required");
    let (proof, mark) = (person.tap_for(&ceremony, &exec), scene.mark());
    assert_eq!(scene.finish(&person, &ceremony, proof).await.unwrap_err(), Denial::BadAssertion);
    scene.refused_since(&mark, "mfa.fail", "user_not_verified");
    let ceremony = scene.begin(&person, &exec).await.unwrap();
    let context = json!(exec.context(&person.granted.login));
    let mut answer = person.key.answer(&ceremony.options, Some(context));
    answer.flags = USER_PRESENT | USER_VERIFIED;
    let proof = PresenceProof::Key { credential: person.key.sign(&answer) };
    assert!(scene.finish(&person, &ceremony, proof).await.is_ok());
    assert_eq!(granted(scene.ask(&person, "db/vault", 5432).await).amr, ["hwk", "user", "pin"]);
}

// A 2: what the person saw is what the key signs: not one name more, less, or other.
#[tokio::test]
async fn a_list_that_differs_from_the_one_that_was_shown_is_refused() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let exec = person.exec(&BOTH);
    let shown = [
        person.exec(&[("db/billing", 5432)]),
        person.exec(&[("db/billing", 5432), ("db/wide", 1000), ("app/brief", 80)]),
        person.exec(&[("db/billing", 5432), ("db/wide", 1001)]),
        person.opening("db/billing", 5432),
    ];
    for shown in shown {
        let ceremony = scene.begin(&person, &exec).await.unwrap();
        let (proof, mark) = (person.tap_for(&ceremony, &shown), scene.mark());
        assert_eq!(scene.finish(&person, &ceremony, proof).await.unwrap_err(), Denial::BadAssertion);
        scene.refused_since(&mark, "mfa.fail", "context");
        scene.nothing_proved_since(&mark);
        scene.pass(Duration::from_secs(6));
    }
    // In any order it is the same list.
    let reversed = person.exec(&[BOTH[1], BOTH[0]]);
    let ceremony = scene.begin(&person, &exec).await.unwrap();
    let proof = person.tap_for(&ceremony, &reversed);
    assert!(scene.finish(&person, &ceremony, proof).await.is_ok());
}

#[tokio::test]
async fn a_tap_serves_the_tunnel_key_that_it_was_made_for() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let exec = person.exec(&BOTH);
    scene.prove(&mut person, &exec).await.unwrap();
    let attached_again = scene.with_tunnel(person.key, person.granted).await;
    assert!(is_tap_needed(&scene.ask(&attached_again, "db/billing", 5432).await));
}

#[tokio::test]
async fn lists_that_nobody_reads_are_no_lists() {
    let scene = Scene::new().await;
    let (person, elaine) = (scene.person("jerry").await, scene.person("elaine").await);
    let too_many: Vec<(String, u16)> = (0..=MAX_EXEC_RESOURCES).map(|n| (format!("db/x{n}"), 1)).collect();
    let too_many: Vec<(&str, u16)> = too_many.iter().map(|(name, port)| (name.as_str(), *port)).collect();
    for targets in [&[][..], &too_many, &[("db/billing", 5432), ("db/billing", 5433)]] {
        let refused = scene.begin(&person, &person.exec(targets)).await;
        assert!(matches!(refused, Err(Denial::BadRequest(_))), "{}", targets.len());
    }
    let CeremonyPurpose::Exec(mut foreign) = person.exec(&BOTH) else { panic!("an exec is one") };
    foreign.tunnel_key = elaine.tunnel_key.clone();
    let refused = scene.begin(&person, &CeremonyPurpose::Exec(foreign)).await;
    assert!(matches!(refused, Err(Denial::BadRequest(_))), "another login's tunnel key");
    assert!(scene.control.ceremonies.is_empty());
}

#[tokio::test]
async fn sixty_four_resources_fit_all_limits_on_the_way() {
    let scene = Scene::new().await;
    let name = |n: usize| format!("{}-{n:02}", "x".repeat(61));
    let documents: Vec<String> = (0..MAX_EXEC_RESOURCES)
        .map(|n| {
            let name = name(n);
            format!(
                "kind: db\nmetadata: {{name: {name}, labels: {{mfa: tap}}}}\nspec: {{uri: 'tcp://10.1.0.1:{}', \
                 public_addr: n{n}.corp.internal}}",
                n + 1
            )
        })
        .collect();
    scene.apply(&documents.join("\n---\n")).await;
    let mut person = scene.person("jerry").await;
    let targets: Vec<ExecTarget> = (0..MAX_EXEC_RESOURCES)
        .map(|n| ExecTarget {
            resource: format!("db/{}", name(n)).parse().unwrap(),
            port: u16::try_from(n + 1).unwrap(),
        })
        .collect();
    let CeremonyPurpose::Exec(mut exec) = person.exec(&[]) else { panic!("an exec is one") };
    exec.targets = targets;
    let exec = CeremonyPurpose::Exec(exec);
    let ceremony = scene.begin(&person, &exec).await.unwrap();
    let proof = person.tap_for(&ceremony, &exec);
    assert!(serde_json::to_vec(&proof).unwrap().len() < portlatch_protocol::api::MAX_BODY);
    assert!(scene.finish(&person, &ceremony, proof).await.is_ok());
    granted(scene.ask(&person, &format!("db/{}", name(63)), 64).await);
}
