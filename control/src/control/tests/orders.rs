//! Control as a whole under any order of events: people who begin, answer rightly and wrongly, cancel, ask, lock their
//! screen and leave; administrators who change the policy, lock and lift; time, and restarts in between. Each answer is
//! compared with what a model of a few tables says, and with what the audit says of it.

use std::cell::Cell;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use self::model::Play;
use crate::browser::approval::Place;

mod ground;
mod model;
mod pages;
mod people;
mod records;

/// Orders that are tried: some seconds; forty times as many with PORTLATCH_NIGHTLY=1.
const CASES: u32 = 24;

/// Where somebody wants to go, by its place in [`PLACES`], or to several of them with one command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    One(usize),
    Exec,
}

const PLACES: [(&str, u16); 6] = [
    ("db/billing", 5432),
    ("db/billing", 5433),
    ("db/wide", 1000),
    ("db/wide", 1005),
    ("db/vault", 5432),
    ("app/wiki", 80),
];
/// What a command names.
const LISTED: [usize; 2] = [1, 3];
const VAULT: usize = 4;
const WIKI: usize = 5;

/// What is wrong with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Right,
    OtherPort,
    OtherOrigin,
    Unsigned,
}

/// What the role that opens databases says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Policy {
    Tap,
    TapOfAMinute,
    NoTap,
    Nothing,
}

/// What a lock stands against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Locked {
    Jerry,
    Laptops,
    Billing,
}

#[derive(Debug, Clone)]
enum Step {
    Begin(usize, Target),
    Finish {
        ceremony: usize,
        by: usize,
        answer: Answer,
    },
    Cancel {
        ceremony: usize,
        by: usize,
    },
    /// Its page approves it, in a browser there.
    Approve {
        ceremony: usize,
        place: Place,
    },
    /// An agent comes with what the page gave it.
    Redeem {
        ceremony: usize,
        by: usize,
    },
    Ask(usize, usize),
    Pass(u64),
    Sweep,
    ScreenLocked(usize),
    Logout(usize),
    Policy(Policy),
    Lock(Locked),
    Unlock(Locked),
    KeyGone(usize),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let target = prop_oneof![4 => (0..PLACES.len()).prop_map(Target::One), 1 => Just(Target::Exec)];
    let answer = prop_oneof![
        6 => Just(Answer::Right),
        1 => Just(Answer::OtherPort),
        1 => Just(Answer::OtherOrigin),
        1 => Just(Answer::Unsigned),
    ];
    let policy = prop_oneof![
        3 => Just(Policy::Tap),
        1 => Just(Policy::TapOfAMinute),
        1 => Just(Policy::NoTap),
        1 => Just(Policy::Nothing),
    ];
    let locked = prop_oneof![Just(Locked::Jerry), Just(Locked::Laptops), Just(Locked::Billing)];
    // The newest ceremonies are answered more often than those of long ago.
    let ceremony = prop_oneof![3 => 0_usize..2, 1 => 0_usize..12];
    let place = prop_oneof![Just(Place::Here), Just(Place::Elsewhere)];
    // Jerry at two machines, and Elaine.
    let person = 0_usize..3;
    prop_oneof![
        8 => (person.clone(), target).prop_map(|(person, target)| Step::Begin(person, target)),
        8 => (ceremony.clone(), person.clone(), answer)
            .prop_map(|(ceremony, by, answer)| Step::Finish { ceremony, by, answer }),
        1 => (ceremony.clone(), person.clone()).prop_map(|(ceremony, by)| Step::Cancel { ceremony, by }),
        4 => (ceremony.clone(), place).prop_map(|(ceremony, place)| Step::Approve { ceremony, place }),
        5 => (ceremony, person.clone()).prop_map(|(ceremony, by)| Step::Redeem { ceremony, by }),
        8 => (person.clone(), 0..PLACES.len()).prop_map(|(person, place)| Step::Ask(person, place)),
        3 => prop_oneof![3 => 0_u64..30, 2 => 30_u64..400].prop_map(Step::Pass),
        1 => Just(Step::Sweep),
        1 => person.clone().prop_map(Step::ScreenLocked),
        1 => person.prop_map(Step::Logout),
        2 => policy.prop_map(Step::Policy),
        1 => locked.clone().prop_map(Step::Lock),
        2 => locked.prop_map(Step::Unlock),
        1 => (0_usize..2).prop_map(Step::KeyGone),
        1 => Just(Step::Restart),
    ]
}

fn cases() -> u32 {
    let is_nightly = std::env::var_os("PORTLATCH_NIGHTLY").is_some_and(|value| value == "1");
    if is_nightly { 40 * CASES } else { CASES }
}

/// Plays the steps; how many ceremonies were verified.
async fn play(steps: &[Step]) -> Result<usize, TestCaseError> {
    let mut play = Play::new().await;
    for step in steps {
        play.step(step).await?;
        // A second for each, so that every tap has a second of its own.
        play.pass(Duration::from_secs(1));
    }
    play.end().await
}

// G: a challenge leaves OPEN once, to whom it was made for, in its time; every grant with amr rests on exactly one verified
// challenge, for its port, its login and its minutes; what takes rights away takes exactly those grants that rested on
// them, across restarts; each answer has its record, and each record its answer; and the audit verifies at the end.
#[test]
fn in_any_order_every_grant_rests_on_one_tap_and_every_answer_is_on_the_record() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config =
        Config { cases: cases(), max_shrink_iters: 300, failure_persistence: None, ..Config::default() };
    let verified = Cell::new(0);
    let orders = proptest::collection::vec(step(), 30..90);
    let result = TestRunner::new(config).run(&orders, |steps| {
        verified.set(verified.get() + runtime.block_on(play(&steps))?);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    assert!(verified.get() > 0, "nobody ever got anywhere");
}
