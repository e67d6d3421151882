//! What is left when a user goes: nothing. By logout, by somebody else's login, by the login's end, by the agent's own end.

use crate::support::bus::Desktop;
use crate::support::{Machine, complaint, inode, text};
use portlatch_protocol::attach::{Refusal, ToAgent, ToDaemon};
use portlatch_protocol::refusal::RefusalReason;
use rustix::process::Signal;
use serde_json::json;

/// The files of a machine on which nobody is logged in: which CA was trusted, and what is the agent's own.
const STAYS: [&str; 6] =
    ["agent.lock", "agent.sock", "ca.crt", "cluster.json", "software-key.json", "software-key.lock"];

fn files(machine: &Machine) -> Vec<String> {
    let entries = std::fs::read_dir(machine.home()).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn logout_ends_every_prompt_whoever_waits_and_what_proved_the_login() {
    let machine = Machine::logged_in().await.with_bus().await;
    let mut desktop = Desktop::start(machine.bus(), &["actions", "body"]).await;
    let (mut person, mut agent) = machine.attach("enter").await;
    let mut watch = machine.start(&["watch"]);
    watch.sees("Watching").await;
    agent.prompts(1, 5432, 0).await;
    let shown = desktop.notified().await;
    agent.wants(2, 6432, 0).await;
    agent.proceeds(2).await;
    let tap = machine.start(&["tap", "billing-db:7432"]);
    agent.tunnel_for_command().await;
    watch.sees("Press Enter").await;
    let logout = machine.run(&["logout"]).await;
    assert_eq!(text(&logout.stdout), "Logged out.\n");
    assert_eq!(agent.next().await, ToDaemon::Detach, "the daemon forgets key, grants and flows");
    assert!(agent.leaves().await);
    assert_eq!(desktop.closed().await, shown.id);
    watch.sees("Closed: billing-db (billing-db.corp.internal:5432)").await;
    person.sees("Closed: billing-db (billing-db.corp.internal:5432)").await;
    let tap = tap.ends().await;
    assert_eq!(
        (tap.status.code(), complaint(&tap)),
        (Some(1), "portlatch: the login has ended: run `portlatch login`".to_owned())
    );
    machine.control.has_no_open_challenge().await;
    let left: Vec<String> = files(&machine);
    assert!(left.iter().all(|name| STAYS.contains(&name.as_str())), "{left:?}");
    // The key is not waited for any more: a tap now is for nothing.
    watch.types("").await;
    watch.types("l").await;
    watch.sees("Nothing rests").await;
    assert!(machine.control.proofs().is_empty());
}

/// A change of keys needs no daemon, and its prompt ends all the same.
#[tokio::test]
async fn logout_ends_a_change_of_keys_without_a_daemon() {
    let machine = Machine::logged_in_without_daemon().await;
    let mut person = machine.start(&["agent", "--software-key", "never"]);
    person.sees("Logged in").await;
    let mut change = machine.start(&["mfa", "recovery-codes"]);
    change.sees("Tap your security key").await;
    // The daemon is looked for again and again, and that it is not there is nothing to this prompt.
    for _ in 0..10 {
        assert_eq!(machine.status().await["prompts"][0]["resource"], json!("your keys"));
    }
    let logout = machine.run(&["logout"]).await;
    assert!(logout.status.success(), "{}", text(&logout.stderr));
    let change = change.ends().await;
    assert_eq!(
        (change.status.code(), complaint(&change)),
        (Some(1), "portlatch: the login has ended: run `portlatch login`".to_owned())
    );
    machine.control.has_no_open_challenge().await;
}

#[tokio::test]
async fn whoever_signs_in_next_finds_nothing_of_the_one_before() {
    let (machine, mut person, mut agent) = Machine::attached("enter").await;
    person.sees("Attached").await;
    let mut watch = machine.start(&["watch"]);
    watch.sees("Watching").await;
    agent.prompts(1, 5432, 0).await;
    watch.sees("Press Enter").await;
    watch.types("d").await;
    assert_eq!(agent.refused(1).await, RefusalReason::Denied);
    watch.sees("rests for").await;
    let refusal = Refusal {
        time: 1_700_000_000,
        resource: None,
        host: "198.18.0.9".into(),
        port: 22,
        inode: 0,
        reason: RefusalReason::UnknownPort,
    };
    agent.send(ToAgent::Refusal(refusal.clone())).await;
    person.sees("Refused: 198.18.0.9:22").await;
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    agent.prompts(2, 6432, inode(&socket)).await;
    watch.sees(":6432)").await;
    let key = std::fs::read(machine.home().join("login.key")).unwrap();

    let login =
        machine.login_as("mary", "correct horse\n", &["--without-pin", "--software-key", "auto"]).await;
    assert!(login.status.success(), "{}", text(&login.stderr));
    assert_eq!(agent.next().await, ToDaemon::Detach);
    assert!(agent.leaves().await);
    watch.sees("Closed: billing-db (billing-db.corp.internal:6432)").await;
    assert_eq!(machine.control.logouts(), 1, "the cluster ends the login whose key is gone");
    assert_ne!(std::fs::read(machine.home().join("login.key")).unwrap(), key);
    let mut agent = machine.daemon.accept().await;
    agent.refusals = vec![refusal];
    let (attach, _) = agent.attach(&machine.control).await;
    assert_eq!(attach.user.as_str(), "mary");
    watch.sees("Attached").await;
    watch.types("l").await;
    watch.sees("Nothing rests, and nothing is blocked.").await;
    // What rested for the other one is asked about.
    agent.wants(1, 5432, 0).await;
    assert_eq!(agent.next().await, ToDaemon::TapNeeded(1));
    let status = tokio::select! {
        status = machine.status() => status,
        () = agent.idle() => unreachable!(),
    };
    assert_eq!((&status["user"], &status["refusals"]), (&json!("mary"), &json!([])));
    assert_eq!((&status["prompts"], &status["grants"]), (&json!([]), &json!([])));
}

/// The same user's next login is no reason to cut what the one before has open.
#[tokio::test]
async fn a_user_who_signs_in_again_ends_nothing_at_the_cluster() {
    let machine = Machine::logged_in().await;
    let again = machine.login(&["--without-pin", "--software-key", "auto"]).await;
    assert!(again.status.success(), "{}", text(&again.stderr));
    assert_eq!(machine.control.logouts(), 0);
}

#[tokio::test]
async fn an_agent_that_is_told_to_end_takes_its_prompts_and_its_socket_along() {
    let machine = Machine::logged_in().await.with_bus().await;
    let mut desktop = Desktop::start(machine.bus(), &["actions", "body"]).await;
    let (person, mut agent) = machine.attach("never").await;
    agent.prompts(1, 5432, 0).await;
    let shown = desktop.notified().await;
    let output = person.ends_now().await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(agent.leaves().await);
    assert_eq!(desktop.closed().await, shown.id);
    assert!(!machine.home().join("agent.sock").exists());
    assert!(machine.home().join("login.key").exists(), "the login is another matter");
}

/// C: the agent crashes while prompting. The daemon hears of it at once, and the next agent begins where it was.
#[tokio::test]
async fn an_agent_that_is_killed_stands_in_nobody_s_way() {
    let machine = Machine::logged_in().await;
    let (person, mut agent) = machine.attach("enter").await;
    agent.prompts(1, 5432, 0).await;
    let mut watch = machine.start(&["watch"]);
    watch.sees("Press Enter").await;
    person.signal(Signal::KILL);
    assert!(agent.leaves().await);
    assert_eq!(watch.ends().await.status.code(), Some(1));
    drop(person.ends().await);
    let tap = machine.run(&["tap", "billing-db:5432"]).await;
    assert_eq!(complaint(&tap), "portlatch: no agent is running: start `portlatch agent`");
    let (mut person, mut agent) = machine.attach("enter").await;
    assert!(agent.is_quiet().await, "nothing is prompted for that nobody waits for");
    agent.prompts(1, 5432, 0).await;
    person.sees("Press Enter").await;
    person.types("").await;
    agent.granted(1).await;
}

/// As after a battery ran empty, until the network says what time it is.
#[cfg(feature = "test-clock")]
#[tokio::test]
async fn a_clock_that_was_ahead_ends_no_login_for_good() {
    let machine = Machine::logged_in().await;
    let (mut person, mut agent) = machine.attach("enter").await;
    machine.move_clock(&person, 12 * 3600 + 1);
    assert_eq!(agent.next().await, ToDaemon::Detach);
    person.sees("Your login has ended: run `portlatch login`.").await;
    let mut agent = machine.daemon.accept().await;
    machine.move_clock(&person, 0);
    agent.attach(&machine.control).await;
    person.sees("Logged in to localhost as jerry.").await;
    agent.prompts(1, 5432, 0).await;
    person.sees("Press Enter").await;
    person.types("").await;
    agent.granted(1).await;
}

/// An expired login asks for a new one at the next connection, and nothing hangs.
#[cfg(feature = "test-clock")]
#[tokio::test]
async fn a_login_that_ends_ends_its_prompts_and_the_next_connection_asks_to_sign_in_again() {
    let machine = Machine::logged_in().await.with_bus().await;
    let mut desktop = Desktop::start(machine.bus(), &["actions", "body"]).await;
    let (mut person, mut agent) = machine.attach("enter").await;
    agent.prompts(1, 5432, 0).await;
    let shown = desktop.notified().await;
    let ended = 12 * 3600 + 1;
    machine.move_clock(&person, ended);
    // The prompt's own minute is over as well; either way it is closed, and the login is taken back.
    let mut told = agent.next().await;
    if told == ToDaemon::Refused(1, RefusalReason::TimedOut) {
        told = agent.next().await;
    }
    assert_eq!(told, ToDaemon::Detach);
    assert_eq!(desktop.closed().await, shown.id);
    person.sees("Your login has ended: run `portlatch login`.").await;
    let mut agent = machine.daemon.accept().await;
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() + ended;
    agent.refusals = vec![Refusal {
        time: i64::try_from(now).unwrap(),
        resource: None,
        host: "billing-db.corp.internal".into(),
        port: 5432,
        inode: 0,
        reason: RefusalReason::NoLogin,
    }];
    let text = "Sign in again: run `portlatch login` (a program was refused billing-db.corp.internal:5432).";
    tokio::select! {
        () = agent.idle() => unreachable!(),
        line = person.sees("Sign in again") => assert_eq!(line, text),
    }
    assert_eq!(desktop.notified().await.body, text);
}
