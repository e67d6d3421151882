//! What is known from outside, and what each step may therefore bring.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use portlatch_clock::BootTime;
use portlatch_protocol::api::ceremony::{CeremonyOutcome, CeremonyPurpose, CeremonyRequest};
use portlatch_protocol::api::{AccessAnswer, Ceremony, IssuedGrant};
use portlatch_protocol::refusal::RefusalReason;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::super::super::*;
use super::super::scene::{Scene, claims};
use super::ground::{lock_name, opened_by, touches_db};
use super::pages::{self, Approved};
use super::people::People;
use super::records::Records;
use super::{Answer, Locked, PLACES, Policy, Step, Target};
use crate::ceremony::{LIFETIME, MAX_PER_OWNER};
use crate::grants::failures::PERIOD;
use crate::proving::Shown;

pub(super) type Outcome = Result<(), TestCaseError>;

/// A challenge that was made.
pub(super) struct Made {
    pub(super) owner: usize,
    pub(super) target: Target,
    pub(super) purpose: CeremonyPurpose,
    pub(super) ceremony: Ceremony,
    /// Between these two it ends.
    pub(super) ends: (BootTime, BootTime),
    /// Answered, cancelled, displaced or forgotten.
    pub(super) is_over: bool,
    pub(super) approved: Option<Approved>,
}

/// A challenge that was verified: between these two seconds, for these places.
pub(super) struct Verified {
    pub(super) person: usize,
    pub(super) seconds: std::ops::RangeInclusive<i64>,
    pub(super) places: Vec<usize>,
    pub(super) lifetime: i64,
}

/// A grant that was handed out.
pub(super) struct Given {
    pub(super) id: Id,
    pub(super) person: usize,
    pub(super) place: usize,
    pub(super) is_tap: bool,
    pub(super) policy: Policy,
    pub(super) expires: i64,
    /// What it rested on is gone.
    pub(super) is_dead: bool,
}

pub(super) struct Play {
    pub(super) scene: Option<Scene>,
    pub(super) people: People,
    pub(super) records: Records,
    pub(super) made: Vec<Made>,
    pub(super) verified: Vec<Verified>,
    pub(super) given: Vec<Given>,
    pub(super) policy: Policy,
    pub(super) locks: HashSet<Locked>,
    pub(super) gone_logins: HashSet<usize>,
    pub(super) gone_keys: HashSet<usize>,
    pub(super) paused_until: HashMap<usize, BootTime>,
    pub(super) revoked: HashSet<String>,
    pub(super) successes: usize,
}

impl Play {
    pub(super) async fn new() -> Self {
        let scene = Scene::in_memory().await;
        let people = People::new(&scene).await;
        let mut play = Self {
            scene: Some(scene),
            people,
            records: Records::default(),
            made: Vec::new(),
            verified: Vec::new(),
            given: Vec::new(),
            policy: Policy::Tap,
            locks: HashSet::new(),
            gone_logins: HashSet::new(),
            gone_keys: HashSet::new(),
            paused_until: HashMap::new(),
            revoked: HashSet::new(),
            successes: 0,
        };
        play.change(Policy::Tap).await;
        play.read();
        play
    }

    pub(super) fn scene(&self) -> &Scene {
        self.scene.as_ref().expect("a scene is there between steps")
    }

    pub(super) fn control(&self) -> &Control {
        &self.scene().control
    }

    pub(super) fn pass(&self, time: Duration) {
        self.scene().pass(time);
    }

    pub(super) fn read(&mut self) {
        let scene = self.scene.as_ref().expect("a scene is there between steps");
        self.records.read(scene);
    }

    pub(super) async fn step(&mut self, step: &Step) -> Outcome {
        match step {
            Step::Begin(person, target) => self.begin(*person, *target).await?,
            // The newest is number 0.
            Step::Finish { ceremony, by, answer } => {
                if let Some(number) = self.made.len().checked_sub(ceremony + 1) {
                    self.finish(number, *by, *answer).await?;
                }
            }
            Step::Cancel { ceremony, by } => {
                if let Some(number) = self.made.len().checked_sub(ceremony + 1) {
                    self.cancel(number, *by).await?;
                }
            }
            Step::Approve { ceremony, place } => {
                if let Some(number) = self.made.len().checked_sub(ceremony + 1) {
                    self.approve(number, place).await;
                }
            }
            Step::Redeem { ceremony, by } => {
                if let Some(number) = self.made.len().checked_sub(ceremony + 1) {
                    self.redeem(number, *by).await?;
                }
            }
            Step::Ask(person, place) => self.ask(*person, *place).await?,
            Step::Pass(seconds) => self.pass(Duration::from_secs(*seconds)),
            Step::Sweep => self.sweep().await?,
            Step::ScreenLocked(person) => {
                self.control().forget_presence(self.people.logins[*person].asker()).await.unwrap();
                self.verified.retain(|verified| verified.person != *person);
                self.end_grants(|given| given.person == *person && given.is_tap);
            }
            Step::Logout(person) => {
                self.control().logout(&self.people.logins[*person].login).await.unwrap();
                self.gone_logins.insert(*person);
                self.end_grants(|given| given.person == *person);
            }
            Step::Policy(policy) => self.change(*policy).await,
            Step::Lock(locked) => self.lock(*locked).await,
            Step::Unlock(locked) => {
                if self.locks.remove(locked) {
                    self.control().delete("lock", lock_name(*locked), "root").await.unwrap();
                }
            }
            Step::KeyGone(user) => self.key_gone(*user).await,
            Step::Restart => {
                let scene = self.scene.take().expect("a scene is there between steps");
                self.scene = Some(scene.restart().await);
                self.made.iter_mut().for_each(|made| made.is_over = true);
                self.paused_until.clear();
            }
        }
        self.read_and_check()
    }

    async fn begin(&mut self, person: usize, target: Target) -> Outcome {
        let purpose = self.people.purpose(person, target);
        let before = self.control().clock.boot_time();
        let login = &self.people.logins[person];
        let request = CeremonyRequest { purpose: purpose.clone(), browser: Some(pages::announced()) };
        let begun = self.control().begin_ceremony(login.asker(), &request).await;
        let after = self.control().clock.boot_time();
        self.read();
        match begun {
            Ok(ceremony) => {
                prop_assert!(!self.is_refused(person, target), "begun: {person} {target:?}");
                prop_assert_eq!(self.records.count("mfa.challenge"), 1);
                let ends = (before + LIFETIME, after + LIFETIME);
                self.make_room(person)?;
                self.made.push(Made {
                    owner: person,
                    target,
                    purpose,
                    ceremony,
                    ends,
                    is_over: false,
                    approved: None,
                });
            }
            Err(Denial::RateLimited | Denial::Paused(_)) => {}
            Err(denial) => prop_assert!(self.records.refusals() > 0, "{denial} is not on the record"),
        }
        Ok(())
    }

    /// The oldest of an owner's challenges gives way; one that lapsed lies there until it is swept.
    fn make_room(&mut self, owner: usize) -> Outcome {
        let mut open = self.made.iter_mut().filter(|made| made.owner == owner && !made.is_over);
        let displaced = self.records.of("mfa.fail").iter().filter(|it| it["reason"] == "displaced").count();
        prop_assert!(displaced <= 1);
        if displaced == 1 {
            open.next().expect("there is one to displace").is_over = true;
        }
        let open = self.made.iter().filter(|made| made.owner == owner && !made.is_over).count();
        prop_assert!(open < MAX_PER_OWNER, "{open} are open beside the new one");
        Ok(())
    }

    async fn finish(&mut self, number: usize, by: usize, answer: Answer) -> Outcome {
        let made = &self.made[number];
        let proof = self.people.tap(made.owner, &made.ceremony, &made.purpose, answer);
        let (begin, from) = (self.control().clock.boot_time(), self.control().clock.time_of_day().seconds());
        let finished = self.scene().finish(&self.people.logins[by], &self.made[number].ceremony, proof).await;
        let (end, to) = (self.control().clock.boot_time(), self.control().clock.time_of_day().seconds());
        self.read();
        let made = &self.made[number];
        let (owner, target) = (made.owner, made.target);
        let was_open = !made.is_over && begin < made.ends.1 && owner == by;
        let was_surely_open = !made.is_over && end < made.ends.0 && owner == by;
        self.made[number].is_over |= owner == by;
        match finished {
            Err(denial) => {
                let is_limited = matches!(denial, Denial::Paused(_));
                prop_assert!(is_limited || self.records.refusals() > 0, "{denial} is not on the record");
                prop_assert!(was_open || denial == Denial::CeremonyEnded, "{denial} of one that was over");
                prop_assert_eq!(self.records.count("mfa.ok") * self.records.count("grant"), 0);
                let is_good = answer == Answer::Right && self.is_verifying(by, target);
                let is_paused = self.paused_until.get(&by).is_some_and(|until| begin < *until);
                prop_assert!(!was_surely_open || !is_good || is_paused, "refused: {denial}");
            }
            Ok(outcome) => {
                prop_assert!(was_open, "a challenge left twice, or was another's");
                prop_assert_eq!(answer, Answer::Right);
                let times_and_places = (from..=to, opened_by(target));
                self.verified_by(by, target, times_and_places, (outcome, Shown::ByAgent))?;
            }
        }
        Ok(())
    }

    /// A ceremony was verified: what it brought, and what it opens from now on.
    pub(super) fn verified_by(
        &mut self,
        person: usize,
        target: Target,
        (seconds, places): (std::ops::RangeInclusive<i64>, Vec<usize>),
        (outcome, shown): (CeremonyOutcome, Shown),
    ) -> Outcome {
        prop_assert!(self.is_verifying(person, target), "verified: {person} {target:?}");
        // That of a page is on the record from when it was made there.
        let proofs = ["mfa.ok", "mfa.redeem"].map(|kind| self.records.count(kind));
        prop_assert_eq!(proofs, if shown == Shown::ByAgent { [1, 0] } else { [0, 1] });
        self.successes += 1;
        let lifetime = if self.policy == Policy::TapOfAMinute && touches_db(target) { 60 } else { 300 };
        self.verified.push(Verified { person, seconds, places, lifetime });
        match (outcome, target) {
            (CeremonyOutcome::Granted(grant), Target::One(place)) => self.granted(person, place, &grant),
            (CeremonyOutcome::Remembered { amr, .. }, Target::Exec) => {
                prop_assert!(!amr.is_empty());
                Ok(())
            }
            (outcome, target) => Err(TestCaseError::fail(format!("{target:?} ended in {outcome:?}"))),
        }
    }

    async fn cancel(&mut self, number: usize, by: usize) -> Outcome {
        let begin = self.control().clock.boot_time();
        let ceremony = &self.made[number].ceremony.ceremony;
        self.control().cancel_ceremony(self.people.logins[by].asker(), ceremony).await;
        let end = self.control().clock.boot_time();
        self.read();
        let made = &mut self.made[number];
        let is_owners = !made.is_over && made.owner == by;
        let cancelled = self.records.of("mfa.fail").iter().filter(|it| it["reason"] == "cancelled").count();
        prop_assert!(cancelled == 0 || (is_owners && begin < made.ends.1));
        prop_assert!(cancelled == 1 || !is_owners || end >= made.ends.0);
        made.is_over |= made.owner == by;
        Ok(())
    }

    async fn ask(&mut self, person: usize, place: usize) -> Outcome {
        let login = &self.people.logins[person];
        let request = login.request(PLACES[place].0, PLACES[place].1);
        let answered = self.control().ask(login.asker(), &request).await;
        self.read();
        let (denied, grants) = (self.records.count("access.denied"), self.records.count("grant"));
        let is_refused = self.is_refused(person, Target::One(place));
        match answered {
            Ok(AccessAnswer::Granted(grant)) => {
                prop_assert!(!is_refused && !self.gone_logins.contains(&person));
                self.granted(person, place, &grant)?;
            }
            Ok(AccessAnswer::Refused { reason: RefusalReason::Limit, .. }) => {}
            Ok(AccessAnswer::Refused { .. }) => {
                prop_assert!(is_refused, "refused: {person} {place}");
                prop_assert_eq!((denied, grants), (1, 0));
            }
            Ok(AccessAnswer::TapNeeded { .. }) => {
                prop_assert!(!is_refused && self.needs_tap(place));
                prop_assert_eq!((denied, grants), (0, 0));
            }
            Err(denial) => {
                prop_assert!(self.gone_logins.contains(&person), "{denial}");
                prop_assert_eq!((denied, grants), (1, 0));
            }
        }
        Ok(())
    }

    /// A grant was handed out: it says what it is for, rests on a tap that says so or on none, and is on the record.
    fn granted(&mut self, person: usize, place: usize, grant: &IssuedGrant) -> Outcome {
        let (claims, login) = (claims(self.scene(), grant), &self.people.logins[person]);
        prop_assert_eq!(&claims.login, &login.granted.login);
        prop_assert_eq!(&claims.cnf.jkt, &login.tunnel_key);
        let resource = claims.resource.to_string();
        prop_assert_eq!((resource.as_str(), claims.port), PLACES[place]);
        prop_assert!(claims.exp <= claims.iat + 300);
        prop_assert!(!self.is_refused(person, Target::One(place)) && !self.gone_logins.contains(&person));
        let is_tap = !claims.amr.is_empty();
        match claims.auth_time {
            Some(tapped) => {
                let rests_on = |it: &&Verified| {
                    it.person == person && it.places.contains(&place) && it.seconds.contains(&tapped)
                };
                let taps: Vec<&Verified> = self.verified.iter().filter(rests_on).collect();
                prop_assert_eq!(taps.len(), 1, "a grant rests on one tap, at {}", tapped);
                prop_assert!(claims.exp <= tapped + taps[0].lifetime.min(self.interval(place)));
                prop_assert!(is_tap && claims.key_id.is_some());
            }
            None => prop_assert!(!is_tap && claims.key_id.is_none() && !self.needs_tap(place)),
        }
        let records = self.records.of("grant");
        prop_assert_eq!(records.len(), 1);
        prop_assert_eq!(&records[0]["grant"], &grant.id.to_string());
        prop_assert_eq!(&records[0]["port"], claims.port);
        prop_assert_eq!(records[0]["key_id"].as_str(), claims.key_id.as_ref().map(Id::as_str));
        let (id, policy, expires) = (grant.id.clone(), self.policy, claims.exp);
        self.given.push(Given { id, person, place, is_tap, policy, expires, is_dead: false });
        Ok(())
    }

    async fn sweep(&mut self) -> Outcome {
        let begin = self.control().clock.boot_time();
        let lapsed = self.control().ceremonies.take_expired(begin);
        let count = lapsed.len();
        self.control().note_ended(lapsed, "timed_out").await;
        self.read();
        prop_assert_eq!(self.records.count("mfa.fail"), count);
        self.made.iter_mut().filter(|made| made.ends.0 <= begin).for_each(|made| made.is_over = true);
        Ok(())
    }

    /// Who is paused, and what is revoked: those grants, and only those, whose ground is gone.
    fn read_and_check(&mut self) -> Outcome {
        self.note_pauses();
        self.read();
        self.note_pauses();
        let standing = self.control().hub.now();
        let now = self.control().clock.time_of_day().seconds();
        for given in self.given.iter().filter(|given| given.expires > now) {
            let is_revoked = standing.revoked.contains_key(&given.id);
            prop_assert_eq!(is_revoked, given.is_dead, "a grant of {} for {}", given.person, given.place);
        }
        for revoked in self.records.of("grant.revoke") {
            let id = revoked["grant"].as_str().unwrap_or_default();
            let is_known = self.given.iter().any(|given| given.id.as_str() == id);
            prop_assert!(is_known && self.revoked.insert(id.to_owned()), "{} was revoked twice", id);
        }
        Ok(())
    }

    fn note_pauses(&mut self) {
        let now = self.control().clock.boot_time();
        for paused in self.records.of("mfa.lock") {
            let is_theirs =
                |login: &super::super::scene::Person| paused["login"] == login.granted.login.as_str();
            let Some(person) = self.people.logins.iter().position(is_theirs) else { continue };
            self.paused_until.insert(person, now + PERIOD);
            self.made.iter_mut().filter(|made| made.owner == person).for_each(|made| made.is_over = true);
        }
    }

    pub(super) async fn end(mut self) -> Result<usize, TestCaseError> {
        self.pass(LIFETIME);
        self.sweep().await?;
        prop_assert!(self.control().ceremonies.is_empty());
        self.control().audit.sign_head(&self.control().keys).await.unwrap();
        let verified = portlatch_audit::verify(&self.scene().dir.path().join(AUDIT_FOLDER));
        prop_assert!(verified.is_ok(), "{verified:?}");
        Ok(self.successes)
    }
}
