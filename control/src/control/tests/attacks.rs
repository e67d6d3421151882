//! Attacks on a ceremony, by the letters and numbers of their list; those on one answer are in `refusals`, on codes in
//! `codes`, and what races is in `races`. Each is refused, grants nothing, and stands in the audit with its reason.

use portlatch_protocol::api::ceremony::{CeremonyOutcome, CeremonyPurpose, PresenceProof};
use serde_json::json;

use super::super::*;
use super::scene::{Person, Scene, file};

/// The proof is refused in this way, for this reason, and nothing is granted.
async fn refused(
    scene: &Scene,
    person: &Person,
    ceremony: &portlatch_protocol::api::Ceremony,
    proof: PresenceProof,
    (denial, event, reason): (Denial, &str, &str),
) {
    let mark = scene.mark();
    assert_eq!(scene.finish(person, ceremony, proof).await.unwrap_err(), denial);
    scene.refused_since(&mark, event, reason);
    scene.nothing_proved_since(&mark);
}

// A 1.
#[tokio::test]
async fn an_assertion_is_accepted_once() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let open = person.opening("db/billing", 5432);
    let ceremony = scene.begin(&person, &open).await.unwrap();
    let proof = person.tap_for(&ceremony, &open);
    assert!(matches!(scene.finish(&person, &ceremony, proof.clone()).await, Ok(CeremonyOutcome::Granted(_))));
    refused(&scene, &person, &ceremony, proof, (Denial::CeremonyEnded, "mfa.fail", "ceremony_ended")).await;
}

// A 2: app A's for app B, port 5432's for 5433, exec's for open.
#[tokio::test]
async fn an_assertion_serves_its_own_ceremony_alone() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let billing = person.opening("db/billing", 5432);
    let others: [CeremonyPurpose; 3] = [
        person.opening("db/wide", 1000),
        person.opening("db/billing", 5433),
        person.exec(&[("db/billing", 5432)]),
    ];
    for other in others {
        let (wanted, own) =
            (scene.begin(&person, &billing).await.unwrap(), scene.begin(&person, &other).await.unwrap());
        // The other ceremony's assertion as it is; then its challenge with this one's context.
        let foreign = person.tap_for(&own, &other);
        refused(&scene, &person, &wanted, foreign, (Denial::BadAssertion, "mfa.fail", "context")).await;
        let wanted = scene.begin(&person, &billing).await.unwrap();
        let foreign = person.tap_for(&own, &billing);
        refused(&scene, &person, &wanted, foreign, (Denial::BadAssertion, "mfa.fail", "challenge")).await;
        scene.pass(Duration::from_secs(130));
    }
}

// A 3: another user's key; another device of the same user.
#[tokio::test]
async fn an_assertion_serves_its_own_login_alone() {
    let scene = Scene::new().await;
    let (mut jerry, mut elaine) = (scene.person("jerry").await, scene.person("elaine").await);
    let open = elaine.opening("db/billing", 5432);
    let ceremony = scene.begin(&elaine, &open).await.unwrap();
    let context = json!(open.context(&elaine.granted.login));
    let by_jerry = PresenceProof::Key { credential: jerry.key.tap(&ceremony.options, Some(context)) };
    refused(&scene, &elaine, &ceremony, by_jerry, (Denial::BadAssertion, "mfa.fail", "unknown_key")).await;

    let desk = scene.log_in_again(&mut jerry, "desk").await;
    let (here, there) = (jerry.opening("db/billing", 5432), desk.opening("db/billing", 5432));
    let (on_laptop, on_desk) =
        (scene.begin(&jerry, &here).await.unwrap(), scene.begin(&desk, &there).await.unwrap());
    let proof = jerry.tap_for(&on_laptop, &here);
    refused(&scene, &desk, &on_laptop, proof.clone(), (Denial::CeremonyEnded, "mfa.fail", "ceremony_ended"))
        .await;
    refused(&scene, &desk, &on_desk, proof.clone(), (Denial::BadAssertion, "mfa.fail", "context")).await;
    // Whoever failed with it has not spoilt it.
    assert!(scene.finish(&jerry, &on_laptop, proof).await.is_ok());
    assert!(scene.tap(&mut elaine, "db/billing", 5432).await.is_ok());
}

// A 9: removed, locked, asked for more: between challenge and answer.
#[tokio::test]
async fn what_changed_while_the_person_reached_for_the_key_counts() {
    let changes = [
        ("kind: user\nmetadata: {name: jerry}\nspec: {roles: [open]}", "access.denied", "policy"),
        ("kind: lock\nmetadata: {name: l}\nspec: {target: {user: jerry}}", "access.denied", "locked"),
        ("kind: lock\nmetadata: {name: l}\nspec: {target: {device: laptop}}", "access.denied", "locked"),
        (
            "kind: lock\nmetadata: {name: l}\nspec: {target: {resource: db/billing}}",
            "access.denied",
            "locked",
        ),
        (
            "kind: db\nmetadata: {name: billing, labels: {mfa: tap}}\nspec: {uri: 'tcp://10.0.0.5:5433'}",
            "access.denied",
            "unknown_port",
        ),
        (
            "kind: db\nmetadata: {name: billing, labels: {mfa: tap}}\n\
             spec: {uri: 'tcp://10.0.0.5:5432', mfa: {user_verification: true}}",
            "mfa.fail",
            "user_not_verified",
        ),
    ];
    for (change, event, reason) in changes {
        let scene = Scene::new().await;
        let mut person = scene.person("jerry").await;
        let open = person.opening("db/billing", 5432);
        let ceremony = scene.begin(&person, &open).await.unwrap();
        let proof = person.tap_for(&ceremony, &open);
        scene.control.apply(&file(change), "root").await.unwrap();
        let mark = scene.mark();
        assert!(scene.finish(&person, &ceremony, proof).await.is_err(), "{change}");
        scene.refused_since(&mark, event, reason);
        scene.nothing_proved_since(&mark);
        let user = &person.login.login.login;
        assert!(
            scene
                .control
                .store
                .grants_with_presence(user, scene.clock.time_of_day())
                .await
                .unwrap()
                .is_empty()
        );
    }
}

// A 9: the resource, or the user, is gone.
#[tokio::test]
async fn what_is_gone_by_the_time_of_the_answer_is_not_opened() {
    let gone = [
        ("db", "billing", Denial::NotFound, "access.denied", "unknown_port"),
        // The challenge went with its user.
        ("user", "jerry", Denial::CeremonyEnded, "mfa.fail", "ceremony_ended"),
    ];
    for (kind, name, denial, event, reason) in gone {
        let scene = Scene::new().await;
        let mut person = scene.person("jerry").await;
        let open = person.opening("db/billing", 5432);
        let ceremony = scene.begin(&person, &open).await.unwrap();
        let proof = person.tap_for(&ceremony, &open);
        scene.control.delete(kind, name, "root").await.unwrap();
        refused(&scene, &person, &ceremony, proof, (denial, event, reason)).await;
    }
}

#[tokio::test]
async fn a_browser_s_proof_is_none_where_no_browser_was_asked() {
    let scene = Scene::new().await;
    let person = scene.person("jerry").await;
    let open = person.opening("db/billing", 5432);
    let ceremony = scene.begin(&person, &open).await.unwrap();
    let secret = || portlatch_protocol::api::Secret("made up".to_owned());
    let proof = portlatch_protocol::api::ceremony::BrowserProof { code: Some(secret()), secret: secret() };
    let expected = (Denial::CeremonyEnded, "mfa.fail", "page_not_approved");
    refused(&scene, &person, &ceremony, PresenceProof::Browser(proof), expected).await;
}
