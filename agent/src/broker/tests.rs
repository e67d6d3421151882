//! The broker, driven by moving the time.

use super::*;

mod orders;

fn at(seconds: u64) -> BootTime {
    BootTime::since_boot(Duration::from_secs(1_000 + seconds))
}

/// psql's wish for a resource of its own.
fn subject(number: u16) -> Wish {
    wish(&format!("db-{number}"), 5432, "psql")
}

fn wish(name: &str, port: u16, program: &str) -> Wish {
    let resource = format!("db/{name}").parse().unwrap();
    Wish { subject: Subject::Port { resource, port }, program: Some(program.to_owned()) }
}

fn exec(name: &str) -> Wish {
    let target = ExecTarget { resource: format!("db/{name}").parse().unwrap(), port: 5432 };
    Wish { subject: Subject::Exec(vec![target]), program: Some("portlatch exec".to_owned()) }
}

/// What the broker wants done, but for what it announces.
fn commands(broker: &mut Broker) -> Vec<Command> {
    let all = std::iter::from_fn(|| broker.poll_command());
    all.filter(|command| !matches!(command, Command::Announce(_))).collect()
}

/// What the broker announces.
fn announced(broker: &mut Broker) -> Vec<String> {
    let all = std::iter::from_fn(|| broker.poll_command());
    all.filter_map(|command| match command {
        Command::Announce(standing) => Some(standing.line()),
        Command::Open(_) | Command::End(..) => None,
    })
    .collect()
}

/// Opens a prompt and has it denied.
fn deny(broker: &mut Broker, id: u64, wish: Wish, now: u64) {
    broker.handle_request(RequestId(id), wish, at(now));
    broker.handle_denied(RequestId(id), Denial::Once, at(now));
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
fn who_takes_the_place_of_a_program_that_has_gone_gets_the_answer() {
    let mut broker = Broker::default();
    broker.handle_request(RequestId(1), wish("db", 5432, "psql"), at(0));
    broker.handle_abandoned(RequestId(1), at(1));
    broker.handle_rejoined(RequestId(1));
    broker.handle_newcomer(RequestId(1), Some("miner".to_owned()), at(2));
    broker.handle_denied(RequestId(1), Denial::Block, at(3));
    assert_eq!(commands(&mut broker), [opened(1), refused(1, RefusalReason::Denied)]);
    broker.handle_request(RequestId(2), wish("db", 5432, "psql"), at(4));
    assert_eq!(commands(&mut broker), [opened(2)], "psql was not denied");
    // Nor does a blocked program get a prompt by coming after another one.
    broker.handle_request(RequestId(3), wish("other", 5432, "psql"), at(5));
    for (id, program) in [(2, "psql"), (3, "miner"), (2, "miner")] {
        broker.handle_newcomer(RequestId(id), Some(program.to_owned()), at(6));
    }
    let denied = [3, 2].map(|id| refused(id, RefusalReason::Denied));
    assert_eq!(commands(&mut broker), denied);
}

#[test]
fn prompts_that_nobody_saw_end_in_no_pause() {
    let mut broker = Broker::default();
    for id in 1..=20 {
        broker.handle_request(RequestId(id), wish("db", 5432, "psql"), at(id));
        broker.handle_request(RequestId(100 + id), wish("other", 5432, "psql"), at(id));
        broker.handle_unseen(RequestId(id), at(id));
        let told = [opened(id), refused(id, RefusalReason::TimedOut), opened(100 + id)];
        assert_eq!(commands(&mut broker), told);
        broker.handle_granted(RequestId(100 + id), at(id));
        commands(&mut broker);
    }
    assert_eq!(broker.standings(at(30)), []);
}

#[test]
fn a_prompt_has_sixty_seconds_from_its_opening() {
    let mut broker = Broker::default();
    broker.handle_request(RequestId(1), subject(1), at(0));
    broker.handle_request(RequestId(2), subject(2), at(0));
    broker.handle_denied(RequestId(1), Denial::Once, at(50));
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
        broker.handle_denied(RequestId(now), Denial::Once, at(now));
        broker.handle_request(RequestId(now + 1), subject(1), at(now + rest - 1));
        assert_eq!(
            commands(&mut broker),
            [opened(now), refused(now, RefusalReason::Denied), refused(now + 1, RefusalReason::CoolDown)]
        );
        now += rest;
    }
}

#[test]
fn a_prompt_that_was_ignored_rests_as_well_and_longer_the_second_time() {
    let (mut broker, mut now) = (Broker::default(), 0);
    for rest in [15, 60, 60] {
        broker.handle_request(RequestId(now), subject(1), at(now));
        broker.handle_timeout(at(now + 60));
        broker.handle_request(RequestId(now + 1), subject(1), at(now + 60 + rest - 1));
        assert_eq!(
            commands(&mut broker),
            [opened(now), refused(now, RefusalReason::TimedOut), refused(now + 1, RefusalReason::CoolDown)]
        );
        now += 60 + rest;
    }
    broker.handle_request(RequestId(now), subject(1), at(now));
    assert_eq!(commands(&mut broker), [opened(now)]);
}

#[test]
fn a_rest_is_one_program_s_at_one_resource_whatever_the_port() {
    let mut broker = Broker::default();
    deny(&mut broker, 1, wish("billing-db", 5432, "psql"), 0);
    let resting = Some(Objection::Resting(Duration::from_secs(29)));
    assert_eq!(broker.objection(&wish("billing-db", 6432, "psql"), at(1)), resting);
    assert_eq!(broker.objection(&wish("users-db", 5432, "psql"), at(1)), None);
    assert_eq!(broker.objection(&wish("billing-db", 5432, "pg_dump"), at(1)), None);
}

#[test]
fn a_denial_reaches_what_the_program_waits_for_at_the_same_resource() {
    let mut broker = Broker::default();
    broker.handle_request(RequestId(1), wish("billing-db", 5432, "psql"), at(0));
    broker.handle_request(RequestId(2), wish("billing-db", 6432, "psql"), at(0));
    broker.handle_request(RequestId(3), wish("billing-db", 5432, "pg_dump"), at(0));
    broker.handle_request(RequestId(4), wish("billing-db", 6432, "pg_dump"), at(0));
    broker.handle_denied(RequestId(1), Denial::Once, at(1));
    let denied = |id| refused(id, RefusalReason::Denied);
    assert_eq!(commands(&mut broker), [opened(1), denied(1), denied(2), denied(3), opened(4)]);
}

#[test]
fn a_blocked_program_gets_no_prompt_anywhere_until_it_is_let_go() {
    let mut broker = Broker::default();
    broker.handle_request(RequestId(1), wish("billing-db", 5432, "miner"), at(0));
    broker.handle_request(RequestId(2), wish("users-db", 5432, "miner"), at(0));
    broker.handle_denied(RequestId(1), Denial::Block, at(0));
    assert_eq!(
        commands(&mut broker),
        [opened(1), refused(1, RefusalReason::Denied), refused(2, RefusalReason::Denied)]
    );
    assert_eq!(broker.objection(&wish("users-db", 5432, "miner"), at(100_000)), Some(Objection::Blocked));
    assert_eq!(broker.objection(&wish("billing-db", 5432, "psql"), at(0)), None);
    let lines: Vec<String> = broker.standings(at(100_000)).iter().map(Standing::line).collect();
    assert_eq!(lines, ["miner is blocked (lift 2)"]);
    assert!(broker.lift(2, at(100_000)).is_some());
    assert_eq!(broker.objection(&wish("users-db", 5432, "miner"), at(100_000)), None);
}

#[test]
fn programs_that_were_not_found_are_blocked_at_one_place_alone() {
    let mut broker = Broker::default();
    let unknown = |name| Wish { program: None, ..wish(name, 5432, "") };
    broker.handle_request(RequestId(1), unknown("billing-db"), at(0));
    broker.handle_denied(RequestId(1), Denial::Block, at(0));
    assert_eq!(broker.objection(&unknown("billing-db"), at(60)), Some(Objection::Blocked));
    assert_eq!(broker.objection(&unknown("users-db"), at(60)), None);
}

#[test]
fn what_rests_can_be_let_go() {
    let mut broker = Broker::default();
    deny(&mut broker, 1, subject(1), 0);
    assert_eq!(announced(&mut broker), ["db-1 for psql rests for 30 s (lift 1)"]);
    assert_eq!(broker.lift(7, at(1)), None);
    assert!(broker.lift(1, at(1)).is_some());
    assert_eq!(broker.objection(&subject(1), at(1)), None);
    assert_eq!(broker.lift(1, at(1)), None);
}

/// C: a storm of reconnects, ten a second for a minute, makes no more prompts than the limit.
#[test]
fn a_storm_of_reconnects_makes_few_prompts() {
    for programs in [1, 1000] {
        let (mut broker, mut prompts, mut refusals) = (Broker::default(), 0, 0);
        for tenth in 0..600_u64 {
            let now = BootTime::since_boot(Duration::from_millis(1_000_000 + tenth * 100));
            let id = RequestId(tenth);
            // A program may call itself differently each time.
            let name = format!("miner-{}", tenth % programs);
            broker.handle_request(id, wish("billing-db", 5432, &name), now);
            for command in commands(&mut broker) {
                match command {
                    Command::Open(id) => {
                        prompts += 1;
                        broker.handle_denied(id, Denial::Once, now);
                    }
                    Command::End(_, ending) => {
                        refusals += 1;
                        assert_ne!(ending, Ending::Granted);
                    }
                    Command::Announce(_) => {}
                }
            }
        }
        refusals += commands(&mut broker).len();
        assert!((1..=6).contains(&prompts), "{prompts} prompts for {programs} programs");
        assert_eq!(refusals, 600);
    }
}

#[test]
fn after_six_prompts_without_a_tap_there_are_none_until_the_user_resumes() {
    let mut broker = Broker::default();
    for id in 1..=6 {
        deny(&mut broker, id, subject(u16::try_from(id).unwrap()), id);
    }
    announced(&mut broker);
    broker.handle_request(RequestId(7), subject(7), at(8));
    assert_eq!(
        std::iter::from_fn(|| broker.poll_command())
            .map(|command| format!("{command:?}"))
            .collect::<Vec<_>>(),
        [
            "End(RequestId(7), Refused(CoolDown))".to_owned(),
            "Announce(Standing { number: 7, kind: Pause })".to_owned()
        ]
    );
    assert_eq!(
        broker.objection(&subject(8), at(100_000)),
        Some(Objection::Paused),
        "time alone ends no pause"
    );
    assert!(broker.resume());
    broker.handle_request(RequestId(8), subject(8), at(100_000));
    assert_eq!(commands(&mut broker), [opened(8)]);
    assert!(!broker.resume());
}

#[test]
fn taps_do_not_count_against_the_limit() {
    let mut broker = Broker::default();
    for id in 1..=20 {
        broker.handle_request(RequestId(id), subject(u16::try_from(id).unwrap()), at(id));
        broker.handle_granted(RequestId(id), at(id));
        assert_eq!(commands(&mut broker), [opened(id), granted(id)]);
    }
}

#[test]
fn prompts_of_ten_minutes_ago_do_not_count_any_more() {
    let mut broker = Broker::default();
    for id in 1..=6 {
        deny(&mut broker, id, subject(u16::try_from(id).unwrap()), id * 100);
    }
    commands(&mut broker);
    broker.handle_request(RequestId(7), subject(7), at(700));
    assert_eq!(commands(&mut broker), [opened(7)]);
}

#[test]
fn whoever_asks_and_leaves_again_and_again_is_counted() {
    let mut broker = Broker::default();
    for id in 1..=7 {
        broker.handle_request(RequestId(id), subject(u16::try_from(id).unwrap()), at(id));
        broker.handle_refused(RequestId(id), RefusalReason::TimedOut, at(id));
    }
    assert!(broker.is_paused());
}

#[test]
fn what_control_refuses_is_nobody_s_fault() {
    let mut broker = Broker::default();
    for id in 1..=20 {
        broker.handle_request(RequestId(id), subject(1), at(id));
        broker.handle_refused(RequestId(id), RefusalReason::NoProxy, at(id));
        assert_eq!(commands(&mut broker), [opened(id), refused(id, RefusalReason::NoProxy)]);
    }
}

#[test]
fn when_nobody_can_answer_all_ends_and_nobody_rests() {
    let mut broker = Broker::default();
    broker.handle_request(RequestId(1), subject(1), at(0));
    broker.handle_request(RequestId(2), subject(2), at(0));
    broker.handle_nobody_there(RefusalReason::TimedOut);
    let gone = |id| refused(id, RefusalReason::TimedOut);
    assert_eq!(commands(&mut broker), [opened(1), gone(1), gone(2)]);
    broker.handle_request(RequestId(3), subject(1), at(1));
    assert_eq!(commands(&mut broker), [opened(3)]);
}

#[test]
fn the_tap_of_one_exec_does_not_serve_another() {
    let mut broker = Broker::default();
    broker.handle_request(RequestId(1), exec("a"), at(0));
    broker.handle_request(RequestId(2), exec("a"), at(0));
    broker.handle_granted(RequestId(1), at(1));
    assert_eq!(commands(&mut broker), [opened(1), granted(1), opened(2)]);
}

#[test]
fn a_tap_ends_the_escalation() {
    let mut broker = Broker::default();
    broker.handle_request(RequestId(1), subject(1), at(0));
    broker.handle_denied(RequestId(1), Denial::Once, at(0));
    broker.handle_request(RequestId(2), subject(1), at(30));
    broker.handle_granted(RequestId(2), at(31));
    broker.handle_request(RequestId(3), subject(1), at(400));
    broker.handle_denied(RequestId(3), Denial::Once, at(400));
    assert_eq!(broker.objection(&subject(1), at(429)), Some(Objection::Resting(Duration::from_secs(1))));
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
    broker.handle_denied(RequestId(1), Denial::Once, at(1));
    broker.handle_granted(RequestId(1), at(1));
    broker.handle_refused(RequestId(1), RefusalReason::NoProxy, at(1));
    assert_eq!(commands(&mut broker), [opened(1), refused(1, RefusalReason::Denied)]);
}
