//! Ceremonies that their page answers: approved there, here or on another machine, and taken by the agent a while later.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portlatch_clock::BootTime;
use portlatch_protocol::api::Secret;
use portlatch_protocol::api::ceremony::{BrowserProof, BrowserReturn, PresenceProof};
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

use super::super::super::*;
use super::ground::opened_by;
use super::model::{Outcome, Play};
use super::{Target, WIKI};
use crate::browser::approval::{Place, TAKEN_WITHIN};
use crate::presence::Presence;
use crate::proving::Shown;
use crate::webauthn::VerifiedTap;

const SECRET: &str = "every agent's";

/// What became of a ceremony at its page.
pub(super) struct Approved {
    place: Place,
    code: Option<Secret>,
    at: BootTime,
    second: i64,
}

/// What every agent announces.
pub(super) fn announced() -> BrowserReturn {
    BrowserReturn { port: 40_000, secret_hash: URL_SAFE_NO_PAD.encode(Sha256::digest(SECRET)) }
}

impl Play {
    /// As the page does once it has verified a tap of the owner's key.
    pub(super) async fn approve(&mut self, number: usize, place: &Place) {
        let made = &self.made[number];
        let user = self.people.logins[made.owner].granted.user.clone();
        let control = self.control();
        let keys = control.store.credentials(&user).await.unwrap();
        let Some(key) = keys.into_iter().next() else { return };
        let presence = Presence::Tap(VerifiedTap { key_id: key.id, is_user_verified: false });
        let (at, second) = (control.clock.boot_time(), control.clock.time_of_day().seconds());
        let approved = control.ceremonies.page(&made.ceremony.ceremony, &user, at, |proof, _, _| {
            proof.browser.as_mut().and_then(|approval| approval.approve(presence, place, at))
        });
        let Some(redirect) = approved.flatten() else { return };
        assert!(!made.is_over && made.approved.is_none(), "approved twice, or when it was over");
        let code = redirect.map(|redirect| redirect.code);
        self.made[number].approved = Some(Approved { place: place.clone(), code, at, second });
    }

    pub(super) async fn redeem(&mut self, number: usize, by: usize) -> Outcome {
        let made = &self.made[number];
        let code = made.approved.as_ref().and_then(|approved| approved.code.clone());
        let proof = PresenceProof::Browser(BrowserProof { code, secret: Secret(SECRET.to_owned()) });
        let now = self.control().clock.boot_time();
        let finished = self.scene().finish(&self.people.logins[by], &made.ceremony, proof).await;
        self.read();
        let made = &mut self.made[number];
        let (owner, target) = (made.owner, made.target);
        let is_theirs = !made.is_over && owner == by && now < made.ends.0;
        let approved = made.approved.take_if(|approved| is_theirs && now < approved.at + TAKEN_WITHIN);
        let Some(Approved { place, at, second, .. }) = approved else {
            prop_assert_eq!(finished.unwrap_err(), Denial::CeremonyEnded);
            prop_assert!(self.records.refusals() > 0);
            return Ok(());
        };
        made.is_over = true;
        let takes_place = place == Place::Here || !matches!(target, Target::Exec | Target::One(WIKI));
        let is_good = takes_place && self.is_verifying(by, target);
        match finished {
            Ok(outcome) => {
                prop_assert!(is_good, "{by} {target:?} {place:?}");
                let places = match (target, place) {
                    (Target::One(only), Place::Elsewhere) => vec![only],
                    (target, Place::Here | Place::Elsewhere) => opened_by(target),
                };
                self.verified_by(by, target, (second..=second, places), (outcome, Shown::AtPage))
            }
            Err(denial) => {
                let is_paused = matches!(denial, Denial::Paused(_));
                // A tap that serves for a minute may be over.
                let is_old = now.saturating_since(at) >= Duration::from_secs(59);
                prop_assert!(!is_good || is_paused || is_old, "refused: {denial}");
                prop_assert!(is_paused || self.records.refusals() > 0, "{denial} is not on the record");
                Ok(())
            }
        }
    }
}
