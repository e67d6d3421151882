//! Many who want something at once, and programs that go while they are asked about.

use crate::support::bus::Desktop;
use crate::support::daemon::Agent;
use crate::support::{Machine, Program, complaint};
use portlatch_protocol::attach::{AccessWanted, ToAgent, ToDaemon};
use portlatch_protocol::refusal::RefusalReason;

/// Requests of a crowd.
const CROWD: u64 = 200;
/// One prompt is open, and four wait behind it (design section 4).
const AT_ONCE: u64 = 5;

/// A program of this inode wants this database.
async fn wants(agent: &mut Agent, request: u64, database: &str, inode: u64) {
    let wanted = AccessWanted {
        request,
        resource: format!("db/{database}").parse().unwrap(),
        host: format!("{database}.corp.internal").parse().unwrap(),
        port: 5432,
        inode,
    };
    agent.send(ToAgent::AccessWanted(wanted)).await;
}

/// C: 200 at once for one port are one prompt and one challenge. The daemon asks once for all of a port's connections; an
/// agent that is asked each time all the same prompts once, keeps four, and refuses the rest.
#[tokio::test]
async fn a_crowd_at_one_port_is_one_prompt() {
    let (machine, mut person, mut agent) = Machine::attached("enter").await;
    let mut refused = 0;
    for request in 1..=CROWD {
        agent.wants(request, 5432, 0).await;
        if request <= AT_ONCE {
            agent.proceeds(request).await;
        }
        if request == 1 {
            agent.opens(1).await;
        }
        if request > AT_ONCE {
            assert_eq!(agent.refused(request).await, RefusalReason::QueueFull);
            refused += 1;
        }
    }
    assert_eq!(refused, CROWD - AT_ONCE);
    person.sees("Press Enter").await;
    person.types("").await;
    let mut granted = 0;
    // The first by its tap, those that waited by the same one, each with a grant of its own.
    while granted < AT_ONCE {
        match agent.next().await {
            ToDaemon::Granted(..) => granted += 1,
            other => panic!("no grant but {other:?}"),
        }
    }
    assert_eq!(machine.control.challenges(), 1);
}

/// C: five apps queue: one prompt after the other, in the order in which they asked, each with a challenge of its own.
#[tokio::test]
async fn five_apps_are_asked_about_one_after_the_other() {
    let (machine, mut person, mut agent) = Machine::attached("enter").await;
    machine.control.add_resources(4);
    agent.catalogue().await;
    let databases = ["billing-db", "db-0", "db-1", "db-2", "db-3"];
    let programs: Vec<Program> =
        databases.iter().map(|database| Program::start(&machine, &format!("of-{database}"))).collect();
    for (request, (database, program)) in (1..).zip(databases.iter().zip(&programs)) {
        wants(&mut agent, request, database, program.inode()).await;
        agent.proceeds(request).await;
        if request == 1 {
            agent.opens(1).await;
        }
    }
    for (request, database) in (1..).zip(databases) {
        let prompt = person.sees("Tap your security key").await;
        assert!(
            prompt.contains(&format!("{database} ({database}.corp.internal:5432) for of-{database}, pid")),
            "{prompt}"
        );
        assert_eq!(machine.control.challenges(), usize::try_from(request).unwrap());
        person.sees("Press Enter").await;
        person.types("").await;
        agent.granted(request).await;
        if request < 5 {
            agent.opens(request + 1).await;
        }
    }
}

/// C: the program exits while it is asked about: the prompt says so, stays a little, and goes from every front-end.
#[cfg(feature = "test-clock")]
#[tokio::test]
async fn a_prompt_goes_some_time_after_its_program() {
    let machine = Machine::logged_in().await.with_bus().await;
    let mut desktop = Desktop::start(machine.bus(), &["actions", "body"]).await;
    let (mut person, mut agent) = machine.attach("never").await;
    agent.prompts(1, 5432, 0).await;
    let shown = desktop.notified().await;
    agent.send(ToAgent::Waiting(1, 0, None)).await;
    person.sees("gave up: tap, then run it again").await;
    machine.move_clock(&person, 16);
    assert_eq!(agent.refused(1).await, RefusalReason::TimedOut);
    person.sees("Not granted: billing-db").await;
    // The notification may have been replaced by one that says that the program gave up.
    let mut closed = desktop.closed().await;
    while closed != shown.id {
        closed = desktop.closed().await;
    }
    machine.control.has_no_open_challenge().await;
}

/// A daemon that begins anew counts its requests from the beginning: an answer to the request of that number before is not
/// taken for one to the next.
#[tokio::test]
async fn an_answer_that_comes_late_is_none_of_the_next_daemon_s() {
    let (machine, mut person, mut agent) = Machine::attached("never").await;
    person.sees("Attached").await;
    machine.control.decides_later(&[80, 403]);
    agent.wants(1, 80, 0).await;
    machine.control.is_asked(1).await;
    drop(agent);
    let mut agent = machine.daemon.accept().await;
    agent.attach(&machine.control).await;
    agent.wants(1, 403, 0).await;
    machine.control.is_asked(2).await;
    // Granted, as port 80 is; port 403 is not.
    machine.control.decides_later(&[403]);
    assert!(agent.is_quiet().await);
    machine.control.decides_later(&[]);
    assert_eq!(agent.refused(1).await, RefusalReason::Policy);
}

/// The same with a tap: a command that waits for its prompt is refused with the daemon that it was for.
#[tokio::test]
async fn a_prompt_of_a_daemon_that_is_gone_is_gone() {
    let (machine, mut person, mut agent) = Machine::attached("enter").await;
    let mut tap = machine.start(&["tap", "billing-db:5432"]);
    agent.tunnel_for_command().await;
    tap.sees("Press Enter").await;
    drop(agent);
    let output = tap.ends().await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        complaint(&output).contains("the Portlatch service has ended the connection"),
        "{}",
        complaint(&output)
    );
    person.sees("Closed: billing-db").await;
    machine.control.has_no_open_challenge().await;
    let mut agent = machine.daemon.accept().await;
    agent.attach(&machine.control).await;
    agent.prompts(1, 5432, 0).await;
    person.sees("Press Enter").await;
    person.types("").await;
    agent.granted(1).await;
    assert_eq!(machine.control.proofs(), ["key"]);
}
