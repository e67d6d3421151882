//! What policy, locks and keys allow at a moment, and what ends when they change.

use super::model::{Given, Play};
use super::people::user_of;
use super::{LISTED, Locked, Policy, Target, VAULT, WIKI};

impl Play {
    pub(super) async fn change(&mut self, policy: Policy) {
        let text = match policy {
            Policy::Tap => {
                "{options: {require_session_mfa: true, cross_device: true}, allow: {db_labels: {mfa: tap}}}"
            }
            Policy::TapOfAMinute => {
                "{options: {require_session_mfa: true, cross_device: true, mfa_verification_interval: 1m}, allow: {db_labels: {mfa: tap}}}"
            }
            Policy::NoTap => "{options: {cross_device: true}, allow: {db_labels: {mfa: tap}}}",
            Policy::Nothing => "{allow: {app_labels: {mfa: tap}}}",
        };
        self.scene().apply(&format!("kind: role\nmetadata: {{name: tap}}\nspec: {text}")).await;
        self.policy = policy;
        let wants_tap = matches!(policy, Policy::Tap | Policy::TapOfAMinute);
        self.end_grants(|given| {
            let is_unproved = wants_tap && (!given.is_tap || given.place == VAULT);
            let is_otherwise = is_brief(given.policy) != is_brief(policy);
            given.place != WIKI && (policy == Policy::Nothing || is_unproved || is_otherwise)
        });
    }

    pub(super) async fn lock(&mut self, locked: Locked) {
        let target = match locked {
            Locked::Jerry => "user: jerry",
            Locked::Laptops => "device: laptop",
            Locked::Billing => "resource: db/billing",
        };
        let name = lock_name(locked);
        let text = format!("kind: lock\nmetadata: {{name: {name}}}\nspec: {{target: {{{target}}}}}");
        self.scene().apply(&text).await;
        self.locks.insert(locked);
        self.end_grants(|given| concerns(locked, given.person, given.place));
    }

    pub(super) async fn key_gone(&mut self, user: usize) {
        let name = &self.people.logins[2 * user].granted.user;
        let keys = self.control().store.credentials(name).await.unwrap();
        for key in keys {
            assert!(self.control().store.remove_credential(&key.id, name).await.unwrap());
        }
        self.control().settle().await;
        self.gone_keys.insert(user);
        self.verified.retain(|verified| user_of(verified.person) != user);
        self.end_grants(|given| user_of(given.person) == user && given.is_tap);
    }

    /// What these grants rested on is gone; those that have ended by themselves concern nobody.
    pub(super) fn end_grants(&mut self, is_over: impl Fn(&Given) -> bool) {
        let now = self.control().clock.time_of_day().seconds();
        let live = self.given.iter_mut().filter(|given| given.expires > now);
        live.filter(|given| is_over(given)).for_each(|given| given.is_dead = true);
    }

    /// Policy and locks say no.
    pub(super) fn is_refused(&self, person: usize, target: Target) -> bool {
        let is_locked = |place: usize| self.locks.iter().any(|locked| concerns(*locked, person, place));
        let places = listed(target);
        places.iter().any(|place| is_locked(*place) || (*place != WIKI && self.policy == Policy::Nothing))
    }

    /// Whether a good tap brings what is wanted.
    pub(super) fn is_verifying(&self, person: usize, target: Target) -> bool {
        let has_ground = !self.gone_logins.contains(&person) && !self.gone_keys.contains(&user_of(person));
        // The keys here never verify their users.
        let is_enough = target != Target::One(VAULT) || self.policy == Policy::NoTap;
        has_ground && is_enough && !self.is_refused(person, target)
    }

    pub(super) fn needs_tap(&self, place: usize) -> bool {
        place != WIKI && matches!(self.policy, Policy::Tap | Policy::TapOfAMinute)
    }

    pub(super) fn interval(&self, place: usize) -> i64 {
        if self.policy == Policy::TapOfAMinute && place != WIKI { 60 } else { 300 }
    }
}

fn listed(target: Target) -> Vec<usize> {
    match target {
        Target::One(place) => vec![place],
        Target::Exec => LISTED.to_vec(),
    }
}

/// What a tap for this opens: `wide` by every port of it.
pub(super) fn opened_by(target: Target) -> Vec<usize> {
    match target {
        Target::One(2 | 3) => vec![2, 3],
        Target::One(place) => vec![place],
        Target::Exec => LISTED.to_vec(),
    }
}

pub(super) fn touches_db(target: Target) -> bool {
    target != Target::One(WIKI)
}

fn is_brief(policy: Policy) -> bool {
    policy == Policy::TapOfAMinute
}

fn concerns(locked: Locked, person: usize, place: usize) -> bool {
    match locked {
        Locked::Jerry => user_of(person) == 0,
        Locked::Laptops => person != 1,
        Locked::Billing => place < 2,
    }
}

pub(super) fn lock_name(locked: Locked) -> &'static str {
    match locked {
        Locked::Jerry => "jerry",
        Locked::Laptops => "laptops",
        Locked::Billing => "billing",
    }
}
