//! What is proved at a page and then fetched by an agent: one proof on the record, and who came for it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portlatch_protocol::api::Secret;
use portlatch_protocol::api::browser::BrowserLoginRequest;
use portlatch_protocol::api::ceremony::{
    BrowserProof, BrowserReturn, CeremonyPurpose, CeremonyRequest, DeviceChange, PresenceProof,
};
use rcgen::KeyPair;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::scene::{ADDRESS, PASSWORD, Person, Scene, csr};
use crate::browser::approval::{Claimed, Place};
use crate::browser::sign_in::{Leads, SignInProof, SignInTarget};
use crate::browser::{Task, Visit};

const VISIT: Visit = Visit { owner: [7; 32], address: ADDRESS };
const AGENTS_SECRET: &str = "the agent's";

fn announced() -> BrowserReturn {
    BrowserReturn { port: 40_000, secret_hash: URL_SAFE_NO_PAD.encode(Sha256::digest(AGENTS_SECRET)) }
}

/// What the key answers to a page.
fn answer(person: &mut Person, task: &Task) -> Value {
    let mut answer = person.key.answer(&task.options, None);
    answer.origin = "https://proxy.example.com".to_owned();
    person.key.sign(&answer)
}

fn brought(code: Secret) -> BrowserProof {
    BrowserProof { code: Some(code), secret: Secret(AGENTS_SECRET.to_owned()) }
}

/// How many proofs are on the record, and how many that an agent came for.
fn proofs(scene: &Scene) -> [usize; 2] {
    ["mfa.ok", "mfa.redeem"].map(|kind| scene.audit(kind).len())
}

#[tokio::test]
async fn a_tap_at_a_page_is_on_the_record_once() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let user = person.granted.user.clone();
    let codes = CeremonyPurpose::ManageDevices(DeviceChange::RecoveryCodes);
    let purposes = [person.opening("db/billing", 5432), person.exec(&[("db/billing", 5433)]), codes];
    for (purpose, number) in purposes.into_iter().zip(1..) {
        let request = CeremonyRequest { purpose, browser: Some(announced()) };
        let ceremony = scene.control.begin_ceremony(person.asker(), &request).await.unwrap();
        let begun = scene.control.begin_approval(VISIT, &user, &ceremony.ceremony, &Claimed::Here).await;
        let task = begun.unwrap();
        let credential = answer(&mut person, &task);
        let approved = scene.control.finish_approval(VISIT, &user, &task.challenge, &credential).await;
        assert_eq!(proofs(&scene), [number, number - 1], "the tap, and nobody came for it yet");
        let redirect = approved.unwrap().expect("back to the agent");
        scene.finish(&person, &ceremony, PresenceProof::Browser(brought(redirect.code))).await.unwrap();
        assert_eq!(proofs(&scene), [number, number], "{:?}", request.purpose);
        let (tap, fetched) = (scene.audit("mfa.ok").pop().unwrap(), scene.audit("mfa.redeem").pop().unwrap());
        for field in ["user", "login", "resource", "port", "key_id", "amr"] {
            assert_eq!(tap[field], fetched[field], "{field}");
        }
    }
}

#[tokio::test]
async fn a_login_at_a_page_is_one_tap_on_the_record() {
    let scene = Scene::new().await;
    let mut person = scene.person("jerry").await;
    let user = person.granted.user.clone();
    let csr = csr(&KeyPair::generate().unwrap());
    let device = "desk".parse().unwrap();
    let request = BrowserLoginRequest { user: Some(user.clone()), device, csr, browser: announced() };
    let begun = scene.control.begin_browser_login(&request, ADDRESS).await.unwrap();
    let target = SignInTarget::Device { login: begun.ceremony.clone(), place: Place::Here };
    let proof = SignInProof::Password { user, password: Secret(PASSWORD.to_owned()) };
    let task = scene.control.begin_sign_in(VISIT, target, proof).await.unwrap();
    let credential = answer(&mut person, &task);
    let signed_in = scene.control.finish_sign_in(VISIT, &task.challenge, &credential).await.unwrap();
    assert_eq!(proofs(&scene), [1, 0]);
    let Leads::Agent(redirect) = signed_in.leads else { panic!("{:?}", signed_in.leads) };
    let brought = brought(redirect.code);
    scene.control.finish_browser_login(&begun.ceremony, &brought, ADDRESS).await.unwrap();
    assert_eq!(proofs(&scene), [1, 1]);
    assert_eq!(scene.audit("mfa.redeem")[0]["device"], json!("desk"));
}
