//! The broker in any order of events at all.

use proptest::prelude::*;

use super::super::rests::StandingKind;
use super::super::*;
use super::{at, exec, wish};

/// One of everything that can happen.
#[derive(Debug, Clone)]
enum Step {
    Request(u16, u16, bool),
    Exec,
    Grant(usize),
    Deny(usize),
    Block(usize),
    Refuse(usize),
    Abandon(usize),
    Rejoin(usize),
    NobodyThere,
    Lift(u64),
    Resume,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let id = || 0_usize..60;
    prop_oneof![
        8 => (1_u16..6, 1_u16..3, any::<bool>()).prop_map(|(resource, port, program)| Step::Request(resource, port, program)),
        1 => Just(Step::Exec),
        2 => id().prop_map(Step::Grant),
        2 => id().prop_map(Step::Deny),
        1 => id().prop_map(Step::Block),
        2 => id().prop_map(Step::Refuse),
        2 => id().prop_map(Step::Abandon),
        2 => id().prop_map(Step::Rejoin),
        1 => Just(Step::NobodyThere),
        1 => (1_u64..10).prop_map(Step::Lift),
        1 => Just(Step::Resume),
        4 => (0_u64..90).prop_map(Step::Wait),
    ]
}

/// What has been seen of the broker: which is open, which have ended, which opened when and never saw a tap.
#[derive(Default)]
struct Witness {
    asked: u64,
    open: Option<RequestId>,
    ended: std::collections::HashSet<RequestId>,
    unanswered: Vec<u64>,
}

impl Witness {
    fn check(&mut self, broker: &mut Broker, now: u64) {
        for command in std::iter::from_fn(|| broker.poll_command()).collect::<Vec<_>>() {
            match command {
                Command::Open(id) => {
                    assert_eq!(self.open.replace(id), None, "two prompts are open");
                    assert!(!self.ended.contains(&id), "{id:?} opened after its end");
                    let recent = self.unanswered.iter().filter(|at| **at + 600 > now).count();
                    assert!(recent < 6, "{recent} prompts were not answered, and one more opens");
                }
                Command::End(id, ending) => {
                    assert!(self.ended.insert(id), "{id:?} ended twice");
                    let was_open = self.open.take_if(|open| *open == id).is_some();
                    if was_open && matches!(ending, Ending::Refused(RefusalReason::Denied)) {
                        self.unanswered.push(now);
                    }
                }
                Command::Announce(standing) => assert!(!standing.line().is_empty()),
            }
        }
        assert_eq!(broker.open_prompt(at(0)).map(|(id, _)| id), self.open);
        assert!(broker.queue.len() <= QUEUE_DEPTH);
        assert!(self.open.is_some() || broker.queue.is_empty(), "somebody waits for nothing");
    }
}

proptest! {
    /// G: in any order of events each request ends exactly once, one prompt is open at most, and all is bounded.
    #[test]
    fn each_request_ends_exactly_once_and_one_prompt_is_open(steps in proptest::collection::vec(step(), 0..200)) {
        let (mut broker, mut witness, mut now) = (Broker::default(), Witness::default(), 0);
        for step in steps {
            let id = |n: usize| RequestId(u64::try_from(n).unwrap());
            match step {
                Step::Request(resource, port, is_psql) => {
                    let program = if is_psql { "psql" } else { "miner" };
                    let wish = wish(&format!("db-{resource}"), port, program);
                    broker.handle_request(RequestId(witness.asked), wish, at(now));
                    witness.asked += 1;
                }
                Step::Exec => {
                    broker.handle_request(RequestId(witness.asked), exec("db-1"), at(now));
                    witness.asked += 1;
                }
                Step::Grant(n) => broker.handle_granted(id(n), at(now)),
                Step::Deny(n) => broker.handle_denied(id(n), Denial::Once, at(now)),
                Step::Block(n) => broker.handle_denied(id(n), Denial::Block, at(now)),
                Step::Refuse(n) => broker.handle_refused(id(n), RefusalReason::NoProxy, at(now)),
                Step::Abandon(n) => broker.handle_abandoned(id(n), at(now)),
                Step::Rejoin(n) => broker.handle_rejoined(id(n)),
                Step::NobodyThere => broker.handle_nobody_there(RefusalReason::TimedOut),
                Step::Lift(number) => {
                    // A pause that is lifted by its number begins the count anew, as resuming does.
                    if broker.lift(number, at(now)).is_some_and(|lifted| lifted.kind == StandingKind::Pause) {
                        witness.unanswered.clear();
                    }
                }
                Step::Resume => {
                    broker.resume();
                    witness.unanswered.clear();
                }
                Step::Wait(seconds) => {
                    now += seconds;
                    broker.handle_timeout(at(now));
                }
            }
            witness.check(&mut broker, now);
        }
        // Left alone, everything ends by its deadlines.
        while let Some(deadline) = broker.poll_timeout() {
            broker.handle_timeout(deadline);
            let now = deadline.saturating_since(at(0)).as_secs();
            witness.check(&mut broker, now);
        }
        prop_assert_eq!(u64::try_from(witness.ended.len()).unwrap(), witness.asked);
        prop_assert!(broker.rests.standings(at(now)).len() <= 20);
    }
}
