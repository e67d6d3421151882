//! The broker, driven by moving the time; and any order of events at all.

use super::*;
use proptest::prelude::*;

fn at(seconds: u64) -> BootTime {
    BootTime::since_boot(Duration::from_secs(1_000 + seconds))
}

fn subject(port: u16) -> Subject {
    Subject { resource: "db/billing-db".parse().unwrap(), port }
}

fn commands(broker: &mut Broker) -> Vec<Command> {
    std::iter::from_fn(|| broker.poll_command()).collect()
}

const fn refused(id: u64, reason: RefusalReason) -> Command {
    Command::End(RequestId(id), Ending::Refused(reason))
}

const fn opened(id: u64) -> Command {
    Command::Open(RequestId(id))
}

const fn granted(id: u64) -> Command {
    Command::End(RequestId(id), Ending::Granted)
}

#[test]
fn a_second_port_waits_for_the_first_prompt() {
    let mut broker = Broker::default();
    broker.handle_request(RequestId(1), subject(5432), at(0));
    broker.handle_request(RequestId(2), subject(6432), at(0));
    assert_eq!(commands(&mut broker), [opened(1)]);
    broker.handle_granted(RequestId(1), at(3));
    assert_eq!(commands(&mut broker), [granted(1), opened(2)]);
    assert_eq!(broker.open_prompt(at(4)), Some((RequestId(2), Duration::from_secs(59))));
}

#[test]
fn a_prompt_has_sixty_seconds_from_its_opening() {
    let mut broker = Broker::default();
    broker.handle_request(RequestId(1), subject(1), at(0));
    broker.handle_request(RequestId(2), subject(2), at(0));
    broker.handle_denied(RequestId(1), at(50));
    commands(&mut broker);
    assert_eq!(broker.poll_timeout(), Some(at(110)));
    broker.handle_timeout(at(109));
    assert_eq!(commands(&mut broker), []);
    broker.handle_timeout(at(110));
    assert_eq!(commands(&mut broker), [refused(2, RefusalReason::TimedOut)]);
}

#[test]
fn four_wait_and_the_next_is_refused() {
    let mut broker = Broker::default();
    for id in 1..=6 {
        broker.handle_request(RequestId(id), subject(u16::try_from(id).unwrap()), at(0));
    }
    assert_eq!(commands(&mut broker), [opened(1), refused(6, RefusalReason::QueueFull)]);
}

#[test]
fn nobody_waits_longer_than_two_minutes_for_a_turn() {
    let mut broker = Broker::default();
    for id in 1..=3 {
        broker.handle_request(RequestId(id), subject(u16::try_from(id).unwrap()), at(0));
    }
    broker.handle_timeout(at(60));
    broker.handle_timeout(at(120));
    assert_eq!(
        commands(&mut broker),
        [
            opened(1),
            refused(1, RefusalReason::TimedOut),
            opened(2),
            refused(2, RefusalReason::TimedOut),
            refused(3, RefusalReason::TimedOut),
        ]
    );
}

#[test]
fn a_denial_rests_longer_each_time() {
    let (mut broker, mut now) = (Broker::default(), 0);
    for rest in [30, 120, 600, 600] {
        broker.handle_request(RequestId(now), subject(1), at(now));
        broker.handle_denied(RequestId(now), at(now));
        broker.handle_request(RequestId(now + 1), subject(1), at(now + rest - 1));
        assert_eq!(
            commands(&mut broker),
            [opened(now), refused(now, RefusalReason::Denied), refused(now + 1, RefusalReason::CoolDown)]
        );
        now += rest;
    }
    broker.handle_request(RequestId(9), subject(2), at(now));
    assert_eq!(commands(&mut broker), [opened(9)], "another port does not rest");
}

#[test]
fn a_tap_ends_the_escalation() {
    let mut broker = Broker::default();
    broker.handle_request(RequestId(1), subject(1), at(0));
    broker.handle_denied(RequestId(1), at(0));
    broker.handle_request(RequestId(2), subject(1), at(30));
    broker.handle_granted(RequestId(2), at(31));
    broker.handle_request(RequestId(3), subject(1), at(400));
    broker.handle_denied(RequestId(3), at(400));
    assert_eq!(broker.objection(&subject(1), at(429)), Some(RefusalReason::CoolDown));
    assert_eq!(broker.objection(&subject(1), at(430)), None);
}

#[test]
fn a_prompt_stays_fifteen_seconds_for_a_program_that_gave_up() {
    let mut broker = Broker::default();
    broker.handle_request(RequestId(1), subject(1), at(0));
    broker.handle_abandoned(RequestId(1), at(10));
    broker.handle_timeout(at(24));
    assert_eq!(commands(&mut broker), [opened(1)]);
    broker.handle_timeout(at(25));
    assert_eq!(commands(&mut broker), [refused(1, RefusalReason::TimedOut)]);
}

#[test]
fn a_program_that_comes_back_gets_the_rest_of_the_minute() {
    let mut broker = Broker::default();
    broker.handle_request(RequestId(1), subject(1), at(0));
    broker.handle_abandoned(RequestId(1), at(10));
    broker.handle_rejoined(RequestId(1));
    assert_eq!(broker.poll_timeout(), Some(at(60)));
}

#[test]
fn one_tap_serves_everybody_who_waits_for_the_same() {
    let mut broker = Broker::default();
    broker.handle_request(RequestId(1), subject(1), at(0));
    broker.handle_request(RequestId(2), subject(2), at(0));
    broker.handle_request(RequestId(3), subject(1), at(0));
    broker.handle_granted(RequestId(1), at(1));
    assert_eq!(commands(&mut broker), [opened(1), granted(1), granted(3), opened(2)]);
}

#[test]
fn the_first_decision_wins() {
    let mut broker = Broker::default();
    broker.handle_request(RequestId(1), subject(1), at(0));
    broker.handle_denied(RequestId(1), at(1));
    broker.handle_granted(RequestId(1), at(1));
    broker.handle_refused(RequestId(1), RefusalReason::NoProxy, at(1));
    assert_eq!(commands(&mut broker), [opened(1), refused(1, RefusalReason::Denied)]);
}

/// One of everything that can happen.
#[derive(Debug, Clone)]
enum Step {
    Request(u16),
    Grant(usize),
    Deny(usize),
    Refuse(usize),
    Abandon(usize),
    Rejoin(usize),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1_u16..6).prop_map(Step::Request),
        1 => (0_usize..40).prop_map(Step::Grant),
        1 => (0_usize..40).prop_map(Step::Deny),
        1 => (0_usize..40).prop_map(Step::Refuse),
        1 => (0_usize..40).prop_map(Step::Abandon),
        1 => (0_usize..40).prop_map(Step::Rejoin),
        2 => (0_u64..90).prop_map(Step::Wait),
    ]
}

/// What has been seen of the broker: which is open, which have ended.
#[derive(Default)]
struct Witness {
    asked: u64,
    open: Option<RequestId>,
    ended: std::collections::HashSet<RequestId>,
}

impl Witness {
    fn check(&mut self, broker: &mut Broker) {
        for command in commands(broker) {
            match command {
                Command::Open(id) => {
                    assert_eq!(self.open.replace(id), None, "two prompts are open");
                    assert!(!self.ended.contains(&id), "{id:?} opened after its end");
                }
                Command::End(id, _) => {
                    assert!(self.ended.insert(id), "{id:?} ended twice");
                    self.open.take_if(|open| *open == id);
                }
            }
        }
        assert_eq!(broker.open_prompt(at(0)).map(|(id, _)| id), self.open);
        assert!(broker.queue.len() <= QUEUE_DEPTH);
    }
}

proptest! {
    #[test]
    fn each_request_ends_exactly_once_and_one_prompt_is_open(steps in proptest::collection::vec(step(), 0..200)) {
        let (mut broker, mut witness, mut now) = (Broker::default(), Witness::default(), 0);
        for step in steps {
            let id = |n: usize| RequestId(u64::try_from(n).unwrap());
            match step {
                Step::Request(port) => {
                    broker.handle_request(RequestId(witness.asked), subject(port), at(now));
                    witness.asked += 1;
                }
                Step::Grant(n) => broker.handle_granted(id(n), at(now)),
                Step::Deny(n) => broker.handle_denied(id(n), at(now)),
                Step::Refuse(n) => broker.handle_refused(id(n), RefusalReason::NoProxy, at(now)),
                Step::Abandon(n) => broker.handle_abandoned(id(n), at(now)),
                Step::Rejoin(n) => broker.handle_rejoined(id(n)),
                Step::Wait(seconds) => {
                    now += seconds;
                    broker.handle_timeout(at(now));
                }
            }
            witness.check(&mut broker);
        }
        // Left alone, everything ends by its deadlines.
        while let Some(deadline) = broker.poll_timeout() {
            broker.handle_timeout(deadline);
            witness.check(&mut broker);
        }
        prop_assert_eq!(u64::try_from(witness.ended.len()).unwrap(), witness.asked);
    }
}
