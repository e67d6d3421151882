//! Who takes part: Jerry at two machines, with one key, and Elaine.

use portlatch_protocol::api::Ceremony;
use portlatch_protocol::api::ceremony::{CeremonyPurpose, PresenceProof};
use serde_json::json;

use super::super::scene::{Person, Scene};
use super::super::soft_key::SoftKey;
use super::{Answer, LISTED, PLACES, Target};

pub(super) struct People {
    pub(super) logins: Vec<Person>,
    keys: [SoftKey; 2],
}

/// Whose login this is, by their key.
pub(super) fn user_of(person: usize) -> usize {
    usize::from(person == 2)
}

impl People {
    pub(super) async fn new(scene: &Scene) -> Self {
        let mut laptop = scene.person("jerry").await;
        let desk = scene.log_in_again(&mut laptop, "desk").await;
        let mut elaine = scene.person("elaine").await;
        let keys =
            [&mut laptop, &mut elaine].map(|person| std::mem::replace(&mut person.key, SoftKey::new()));
        Self { logins: vec![laptop, desk, elaine], keys }
    }

    pub(super) fn purpose(&self, person: usize, target: Target) -> CeremonyPurpose {
        let login = &self.logins[person];
        match target {
            Target::One(place) => login.opening(PLACES[place].0, PLACES[place].1),
            Target::Exec => login.exec(&LISTED.map(|place| PLACES[place])),
        }
    }

    /// What the key of the ceremony's owner answers.
    pub(super) fn tap(
        &mut self,
        owner: usize,
        ceremony: &Ceremony,
        purpose: &CeremonyPurpose,
        answer: Answer,
    ) -> PresenceProof {
        let mut context = json!(purpose.context(&self.logins[owner].granted.login));
        let key = &mut self.keys[user_of(owner)];
        if answer == Answer::OtherPort {
            context["port"] = 1.into();
            context["targets"] = "db/other:1".into();
        }
        let mut made = key.answer(&ceremony.options, Some(context));
        match answer {
            Answer::Right | Answer::OtherPort => {}
            Answer::OtherOrigin => made.origin = "https://proxy.example.com".to_owned(),
            Answer::Unsigned => made.signs = vec![1],
        }
        PresenceProof::Key { credential: key.sign(&made) }
    }
}
