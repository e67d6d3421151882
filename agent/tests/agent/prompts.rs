//! The agent and its prompts, as the daemon, control and a person at a terminal see them.

use std::time::Duration;

use crate::support::{Machine, Program, inode};
use portlatch_protocol::attach::{ToAgent, ToDaemon};
use portlatch_protocol::refusal::RefusalReason;

#[tokio::test]
async fn access_without_a_tap_is_granted_or_refused_at_once() {
    let (machine, _person, mut agent) = Machine::attached("never").await;
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    agent.wants(1, 80, inode(&socket)).await;
    let grant = agent.granted(1).await;
    assert_eq!((grant.expires_in, grant.amr.len()), (Duration::from_secs(300), 0));
    assert!(grant.program.is_some_and(|program| program.starts_with("agent-")), "the program is this test");
    agent.wants(2, 403, 0).await;
    assert_eq!(agent.refused(2).await, RefusalReason::Policy);
    assert_eq!(machine.control.programs()[1], None);
}

#[tokio::test]
async fn a_tap_opens_the_port() {
    let (machine, mut person, mut agent) = Machine::attached("auto").await;
    agent.wants(1, 5432, 0).await;
    agent.proceeds(1).await;
    let left = agent.opens(1).await;
    assert!(left > Duration::from_secs(50) && left <= Duration::from_secs(60), "{left:?}");
    assert_eq!(agent.granted(1).await.amr, ["hwk", "user"]);
    person
        .sees("Tap your security key: billing-db (billing-db.corp.internal:5432) for an unknown program - ")
        .await;
    person.sees("Granted: billing-db (billing-db.corp.internal:5432) for 5 min").await;
    assert_eq!(machine.control.challenges(), 1);
}

#[tokio::test]
async fn nobody_is_bothered_before_a_proxy_is_up() {
    let (machine, _person, mut agent) = Machine::attached("auto").await;
    agent.wants(1, 5432, 0).await;
    assert_eq!(agent.next().await, ToDaemon::TapNeeded(1));
    assert!(agent.is_quiet().await);
    agent.send(ToAgent::Cancel(1, RefusalReason::NoProxy)).await;
    assert!(agent.is_quiet().await);
    assert_eq!(machine.control.challenges(), 0);
}

#[tokio::test]
async fn two_ports_are_two_prompts_one_after_the_other() {
    let (machine, _person, mut agent) = Machine::attached("enter").await;
    let mut watch = machine.start(&["watch"]);
    watch.sees("Watching").await;
    agent.wants(1, 5432, 0).await;
    agent.proceeds(1).await;
    agent.opens(1).await;
    agent.wants(2, 6432, 0).await;
    agent.proceeds(2).await;
    assert!(agent.is_quiet().await, "the second prompt waits");
    assert_eq!(machine.control.challenges(), 1, "a challenge is made when its prompt opens");
    watch.sees("Press Enter").await;
    watch.types("").await;
    agent.granted(1).await;
    agent.opens(2).await;
    watch.sees(":6432) for").await;
    watch.sees("Press Enter").await;
    watch.types("").await;
    agent.granted(2).await;
}

#[tokio::test]
async fn a_program_that_gave_up_is_served_when_it_comes_back() {
    let (_machine, mut person, mut agent) = Machine::attached("enter").await;
    agent.wants(1, 5432, 0).await;
    agent.proceeds(1).await;
    agent.opens(1).await;
    person.sees("Press Enter").await;
    agent.send(ToAgent::Waiting(1, 2, None)).await;
    agent.send(ToAgent::Waiting(1, 0, None)).await;
    let line = person.sees("gave up: tap, then run it again").await;
    assert!(line.ends_with(" s left"), "{line}");
    person.types("").await;
    agent.granted(1).await;
    person.sees("run it again").await;
}

/// C: whoever comes when the program that asked has gone is named in its place, and a no is for it alone.
#[tokio::test]
async fn a_prompt_is_about_the_program_that_waits_and_not_about_the_one_that_gave_up() {
    let (machine, mut person, mut agent) = Machine::attached("never").await;
    let (psql, miner) = (Program::start(&machine, "psql"), Program::start(&machine, "miner"));
    agent.prompts(1, 5432, psql.inode()).await;
    person.sees(&format!("for psql, pid {} - ", psql.pid())).await;
    agent.send(ToAgent::Waiting(1, 0, None)).await;
    person.sees("psql gave up: tap, then run it again").await;
    agent.send(ToAgent::Waiting(1, 1, Some(miner.inode()))).await;
    person.sees(&format!("for miner, pid {} - ", miner.pid())).await;
    let mut watch = machine.start(&["watch"]);
    watch.sees(&format!("for miner, pid {} - ", miner.pid())).await;
    watch.types("block").await;
    assert_eq!(agent.refused(1).await, RefusalReason::Denied);
    watch.sees("miner is blocked").await;
    agent.prompts(2, 5432, psql.inode()).await;
    // Nor does a blocked program get an answer by coming after another one.
    agent.send(ToAgent::Waiting(2, 0, None)).await;
    agent.send(ToAgent::Waiting(2, 1, Some(miner.inode()))).await;
    assert_eq!(agent.refused(2).await, RefusalReason::Denied);
}

/// As in `while read host; do portlatch tap $host; done <hosts`: what comes next on the input is the loop's.
#[tokio::test]
async fn what_is_piped_to_a_command_is_no_answer_to_its_prompt() {
    let (machine, mut person, mut agent) = Machine::attached("never").await;
    person.sees("Attached").await;
    let mut tap = machine.start(&["tap", "billing-db:5432"]);
    agent.tunnel_for_command().await;
    tap.sees("Tap your security key").await;
    person.sees("Tap your security key").await;
    tap.types("d").await;
    assert!(agent.is_quiet().await);
    let status = tokio::select! {
        status = machine.status() => status,
        () = agent.idle() => unreachable!(),
    };
    assert_eq!(status["prompts"][0]["resource"], "billing-db");
    person.types("d").await;
    assert_eq!(tap.ends().await.status.code(), Some(3));
}

/// C: after a denial the same program at the same resource is refused without a prompt.
#[tokio::test]
async fn a_denial_refuses_and_rests_the_resource() {
    let (machine, _person, mut agent) = Machine::attached("enter").await;
    let mut watch = machine.start(&["watch"]);
    watch.sees("Watching").await;
    agent.wants(1, 5432, 0).await;
    agent.proceeds(1).await;
    agent.opens(1).await;
    watch.sees("Tap your security key").await;
    watch.types("d").await;
    assert_eq!(agent.refused(1).await, RefusalReason::Denied);
    watch.sees("you denied it").await;
    watch.sees("billing-db for an unknown program rests for 30 s (lift 1)").await;
    agent.wants(2, 6432, 0).await;
    assert_eq!(agent.refused(2).await, RefusalReason::CoolDown);
    assert_eq!(machine.control.challenges(), 1, "no prompt was made for it");
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    agent.wants(3, 6432, inode(&socket)).await;
    agent.proceeds(3).await;
    agent.opens(3).await;
}

#[tokio::test]
async fn an_answer_that_control_finds_wrong_is_asked_for_again_with_a_new_challenge() {
    let (machine, mut person, mut agent) = Machine::attached("auto").await;
    machine.control.reject_next(2);
    agent.wants(1, 5432, 0).await;
    agent.proceeds(1).await;
    agent.opens(1).await;
    person.sees("tap once more").await;
    agent.granted(1).await;
    assert_eq!(machine.control.challenges(), 3);
}

#[tokio::test]
async fn after_three_wrong_answers_it_is_refused() {
    let (machine, _person, mut agent) = Machine::attached("auto").await;
    machine.control.reject_next(3);
    agent.wants(1, 5432, 0).await;
    agent.proceeds(1).await;
    agent.opens(1).await;
    assert_eq!(agent.refused(1).await, RefusalReason::Denied);
    assert_eq!(machine.control.challenges(), 3);
}

#[tokio::test]
async fn more_than_four_waiting_prompts_are_refused() {
    let (_machine, _person, mut agent) = Machine::attached("never").await;
    for request in 1..=5 {
        agent.wants(request, 5000 + u16::try_from(request).unwrap(), 0).await;
        agent.proceeds(request).await;
        if request == 1 {
            agent.opens(1).await;
        }
    }
    agent.wants(6, 5006, 0).await;
    assert_eq!(agent.refused(6).await, RefusalReason::QueueFull);
}

#[cfg(feature = "test-clock")]
#[tokio::test]
async fn a_prompt_that_nobody_answers_ends_after_a_minute() {
    let (machine, mut person, mut agent) = Machine::attached("never").await;
    agent.wants(1, 5432, 0).await;
    agent.proceeds(1).await;
    agent.opens(1).await;
    machine.move_clock(&person, 61);
    assert_eq!(agent.refused(1).await, RefusalReason::TimedOut);
    person.sees("nobody tapped in time").await;
}
