//! One enrolment token in many hands at once: whole enrolments, each begun and finished by control's own operations. Only
//! the password's hash has less work than it should: with its own, fifty at once take half a second.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use portlatch_protocol::api::{FirstFactor, KeyTask, LoginAnswer, LoginProof, Secret};
use portlatch_protocol::names::UserName;
use rcgen::KeyPair;
use serde_json::Value;
use tokio::task::JoinSet;

use super::super::super::*;
use super::super::scene::{Scene, csr, login_request};
use super::super::soft_key::SoftKey;
use super::{ROUNDS_OF_A_LOGIN, logins};
use crate::browser::Visit;
use crate::browser::enrolment::NewUser;
use crate::ceremony::MAX_PER_OWNER;
use crate::store::credentials::CredentialKind;

const HANDS: usize = 50;
const USER: &str = "jerry";
const PAGES: &str = "https://proxy.example.com";

/// Somebody who has the token, at an address of their own. As many of them have an agent as challenges can be open for
/// one user who logs in: of more, the oldest would only make room. The others have a browser each.
struct Hand {
    number: usize,
    visit: Visit,
    key: SoftKey,
    csr: String,
}

/// An enrolment that its key has still to be shown to.
enum Begun {
    ByAgent(Id, Value),
    AtPage(Id, Value),
}

impl Hand {
    fn new(number: usize) -> Self {
        let last = u8::try_from(number).unwrap();
        let address = IpAddr::from(Ipv4Addr::new(10, 1, 1, last));
        let visit = Visit { owner: [last; 32], address };
        Self { number, visit, key: SoftKey::new(), csr: csr(&KeyPair::generate().unwrap()) }
    }

    fn password(&self) -> Secret {
        Secret(format!("password {}", self.number))
    }

    async fn begin(&self, control: &Control, token: Secret) -> Begun {
        let password = self.password();
        if self.number < MAX_PER_OWNER {
            let request = login_request(USER, FirstFactor::Enrolment { token, new_password: password });
            let begun = control.begin_login(&request, self.visit.address).await.unwrap();
            let KeyTask::Enrol { options } = begun.task else { panic!("an enrolment was asked for") };
            return Begun::ByAgent(begun.ceremony, options);
        }
        let (user, name) = (USER.parse().unwrap(), "key".to_owned());
        let new = NewUser { user, token, password, name, kind: CredentialKind::SecurityKey };
        let task = control.begin_web_enrolment(self.visit, new).await.unwrap();
        Begun::AtPage(task.challenge, task.options)
    }

    /// Whether it ended in an enrolment; if not, the token was not good any more.
    async fn finish(&self, control: &Control, begun: Begun) -> bool {
        let finished = match begun {
            Begun::ByAgent(ceremony, options) => {
                let proof = LoginProof::Key { credential: self.key.enrol(&options) };
                let answer = LoginAnswer { proof, csr: self.csr.clone() };
                control.finish_login(&ceremony, &answer, self.visit.address).await.map(drop)
            }
            Begun::AtPage(challenge, options) => {
                let credential = self.key.enrol_at(&options, PAGES);
                control.finish_web_enrolment(self.visit, &challenge, &credential).await.map(drop)
            }
        };
        assert!(matches!(finished, Ok(()) | Err(Denial::BadLogin)), "{finished:?}");
        finished.is_ok()
    }
}

/// All of them with one token: all begin at once, and then all finish at once. Who got in.
async fn enrolled(scene: &Scene, hands: &[Arc<Hand>], token: &str) -> Vec<usize> {
    let mut beginning = JoinSet::new();
    for hand in hands {
        let (control, hand, token) = (scene.control.clone(), hand.clone(), Secret(token.to_owned()));
        beginning.spawn(async move {
            let begun = hand.begin(&control, token).await;
            (hand, begun)
        });
    }
    let mut finishing = JoinSet::new();
    for (hand, begun) in beginning.join_all().await {
        let control = scene.control.clone();
        finishing.spawn(async move { hand.finish(&control, begun).await.then_some(hand.number) });
    }
    finishing.join_all().await.into_iter().flatten().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_token_presented_fifty_times_at_once_enrols_once() {
    let hands: Vec<_> = (0..HANDS).map(|number| Arc::new(Hand::new(number))).collect();
    let user: UserName = USER.parse().unwrap();
    for _ in 0..logins() {
        let scene = Scene::in_memory().await.with_quick_passwords();
        scene.token_for(USER).await;
        for round in 0..ROUNDS_OF_A_LOGIN {
            // The limit on logins is another matter.
            scene.pass(Duration::from_secs(60));
            let token = scene.control.reset_user(&user, "root").await.unwrap().token;
            let winners = enrolled(&scene, &hands, &token).await;
            assert_eq!(winners.len(), 1, "round {round}");
            let (winner, store) = (&hands[winners[0]], &scene.control.store);
            let keys = store.credentials(&user).await.unwrap();
            assert_eq!(keys.len(), 1, "round {round}");
            assert_eq!(keys[0].security_key.cred_id().as_slice(), winner.key.id, "round {round}");
            let hash = store.user_secrets(&user).await.unwrap().unwrap().password_hash;
            let verified = scene.control.passwords.verify(&winner.password(), hash.as_deref()).await;
            assert_eq!(verified, Ok(true), "round {round}");
        }
        let each = ROUNDS_OF_A_LOGIN;
        assert_eq!(recorded(&scene), (each, each * (HANDS - 1)), "each of the others is on the record");
    }
}

/// How many keys were added, and how many were too late with the token: read once, since it is long.
fn recorded(scene: &Scene) -> (usize, usize) {
    let mut reader = portlatch_audit::Reader::open(&scene.dir.path().join(AUDIT_FOLDER)).unwrap();
    let (mut added, mut late) = (0, 0);
    while let Some(record) = reader.next_record().unwrap() {
        added += usize::from(record.event == "device.add");
        late += usize::from(record.event == "login" && record.line.contains(r#""reason":"token""#));
    }
    (added, late)
}
