//! What people are told of refusals without a prompt: why it was, where a word of the daemon's does not say it, and once.

use crate::support::Machine;
use crate::support::daemon::Agent;
use portlatch_protocol::attach::{Refusal, ToAgent};
use portlatch_protocol::refusal::RefusalReason;

/// As the daemon tells of what it has refused.
async fn is_told(agent: &mut Agent, port: u16, reason: RefusalReason) {
    let (resource, host) = (Some("db/billing-db".parse().unwrap()), "billing-db.corp.internal".into());
    agent.send(ToAgent::Refusal(Refusal { time: 0, resource, host, port, inode: 0, reason })).await;
}

#[tokio::test]
async fn a_pause_that_waiting_does_not_end_is_told_as_what_it_is_and_once() {
    let (_machine, mut person, mut agent) = Machine::attached("never").await;
    person.sees("Attached").await;
    // Each denial rests the program for longer than the test takes: each is lifted.
    for request in 1..=6 {
        agent.prompts(request, 5432, 0).await;
        person.sees("Tap your security key").await;
        person.types("d").await;
        assert_eq!(agent.refused(request).await, RefusalReason::Denied);
        person.sees("rests for").await;
        person.types(&format!("lift {request}")).await;
        person.sees("Lifted").await;
    }
    agent.wants(7, 5432, 0).await;
    agent.proceeds(7).await;
    assert_eq!(agent.refused(7).await, RefusalReason::CoolDown);
    person.sees("There are no prompts, because too many were not answered (resume)").await;
    for request in [8, 9] {
        agent.wants(request, 6432, 0).await;
        assert_eq!(agent.refused(request).await, RefusalReason::CoolDown);
        is_told(&mut agent, 6432, RefusalReason::CoolDown).await;
    }
    is_told(&mut agent, 22, RefusalReason::TargetRefused).await;
    let pause = "Refused: billing-db.corp.internal:6432: there are no prompts, because too many were not answered: run `portlatch watch` and type resume";
    assert_eq!(person.line().await, pause);
    let next = person.line().await;
    assert!(next.starts_with("Refused: billing-db.corp.internal:22: the server refused"), "{next}");
}

#[tokio::test]
async fn what_control_says_of_its_refusal_is_told() {
    let (_machine, mut person, mut agent) = Machine::attached("never").await;
    agent.wants(1, 403, 0).await;
    assert_eq!(agent.refused(1).await, RefusalReason::Policy);
    person.sees("Refused: billing-db.corp.internal:403: not for you").await;
}
