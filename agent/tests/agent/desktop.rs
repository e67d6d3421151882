//! Prompts on the desktop: notifications, and what a locked screen and a machine's sleep mean.

use crate::support::bus::{Desktop, Logind, LogindSession};
use crate::support::control::Memory;
use crate::support::{Machine, Program};
use portlatch_protocol::attach::{ToAgent, ToDaemon};
use portlatch_protocol::refusal::RefusalReason;

const ALL: &[&str] = &["actions", "body", "body-markup", "persistence"];

#[tokio::test]
async fn a_prompt_is_a_notification_and_can_be_denied_there() {
    let machine = Machine::logged_in().await.with_bus().await;
    let mut desktop = Desktop::start(machine.bus(), ALL).await;
    let (mut person, mut agent) = machine.attach("never").await;
    agent.prompts(1, 5432, 0).await;
    let shown = desktop.notified().await;
    assert_eq!((shown.summary.as_str(), shown.urgency, shown.replaces), ("Tap your security key", 2, 0));
    assert_eq!(shown.body, "billing-db (billing-db.corp.internal:5432) for an unknown program");
    assert_eq!(shown.actions, ["deny", "Deny", "block", "Deny and block the program"]);
    desktop.press(shown.id, "deny").await;
    assert_eq!(agent.refused(1).await, RefusalReason::Denied);
    assert_eq!(desktop.closed().await, shown.id);
    person.sees("you denied it").await;
    assert!(desktop.is_quiet());
}

#[tokio::test]
async fn a_program_is_blocked_on_the_desktop_and_let_go_in_a_terminal() {
    let machine = Machine::logged_in().await.with_bus().await;
    let mut desktop = Desktop::start(machine.bus(), ALL).await;
    let (mut person, mut agent) = machine.attach("never").await;
    let miner = Program::start(&machine, "miner");
    agent.prompts(1, 5432, miner.inode()).await;
    let shown = desktop.notified().await;
    assert!(shown.body.ends_with(&format!("for miner, pid {}", miner.pid())), "{}", shown.body);
    desktop.press(shown.id, "block").await;
    assert_eq!(agent.refused(1).await, RefusalReason::Denied);
    agent.wants(2, 22, miner.inode()).await;
    assert_eq!(agent.refused(2).await, RefusalReason::Denied);
    let why = format!("Refused: billing-db.corp.internal:22 for miner, pid {}: you blocked", miner.pid());
    person.sees(&why).await;
    let mut watch = machine.start(&["watch"]);
    watch.sees("miner is blocked (lift 2)").await;
    watch.types("lift 2").await;
    watch.sees("Lifted: miner is blocked").await;
    watch.types("lift 1").await;
    watch.sees("Lifted: billing-db for miner rests").await;
    agent.wants(3, 5432, miner.inode()).await;
    agent.proceeds(3).await;
    agent.opens(3).await;
}

/// C: what a program calls itself is shown as text and nothing else.
#[tokio::test]
async fn names_of_programs_are_no_markup_and_no_escape_sequences() {
    let machine = Machine::logged_in().await.with_bus().await;
    let mut desktop = Desktop::start(machine.bus(), ALL).await;
    let (mut person, mut agent) = machine.attach("never").await;
    let mut watch = machine.start(&["watch"]);
    watch.sees("Watching").await;
    let evil = format!("<b>x\u{202e}\u{1b}[2J\n&\u{7}{}", "y".repeat(150));
    let program = Program::start(&machine, &evil);
    agent.prompts(1, 5432, program.inode()).await;
    // 64 characters: what is left of the name, and that it was cut.
    let safe = format!("<b>x&{}…", "y".repeat(58));
    let line = format!("for {safe}, pid {} - ", program.pid());
    for terminal in [&mut person, &mut watch] {
        let seen = terminal.sees("Tap your security key").await;
        assert!(seen.contains(&line), "{seen:?}");
        assert!(!seen.chars().any(|c| c.is_control() || c == '\u{202e}'), "{seen:?}");
    }
    let shown = desktop.notified().await;
    let escaped = safe.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    assert!(shown.body.ends_with(&format!("for {escaped}, pid {}", program.pid())), "{}", shown.body);
}

/// C: two front-ends answer at once; one decision counts, and the other one's prompt closes.
#[tokio::test]
async fn the_first_decision_closes_every_front_end() {
    let machine = Machine::logged_in().await.with_bus().await;
    let mut desktop = Desktop::start(machine.bus(), ALL).await;
    let (mut person, mut agent) = machine.attach("enter").await;
    for request in 1..=20 {
        let mut watch = machine.start(&["watch"]);
        watch.sees("Watching").await;
        let program = Program::start(&machine, &format!("program-{request}"));
        agent.prompts(request, 5432, program.inode()).await;
        let shown = desktop.notified().await;
        watch.sees("Press Enter").await;
        // A denial and a tap, as close together as can be.
        tokio::join!(desktop.press(shown.id, "deny"), watch.types(""));
        let (is_granted, end) = match agent.next().await {
            ToDaemon::Granted(id, _) => (true, id),
            ToDaemon::Refused(id, reason) => {
                assert_eq!(reason, RefusalReason::Denied);
                (false, id)
            }
            other => panic!("no end but {other:?}"),
        };
        assert_eq!(end, request);
        assert_eq!(desktop.closed().await, shown.id);
        let closing = if is_granted { "Granted: billing-db" } else { "Not granted: billing-db" };
        watch.sees(closing).await;
        person.sees(closing).await;
        if !is_granted {
            // So that six denials do not end in a pause.
            watch.types("resume").await;
            watch.sees("There was no pause").await;
        }
        assert!(agent.is_quiet_for(std::time::Duration::from_millis(20)).await, "there is one decision");
    }
}

#[tokio::test]
async fn a_server_without_actions_is_offered_none() {
    let machine = Machine::logged_in().await.with_bus().await;
    let mut desktop = Desktop::start(machine.bus(), &["body"]).await;
    let (_person, mut agent) = machine.attach("never").await;
    agent.prompts(1, 5432, 0).await;
    let shown = desktop.notified().await;
    assert!(shown.actions.is_empty());
    assert!(shown.body.contains("billing-db.corp.internal:5432"));
}

#[tokio::test]
async fn where_nobody_can_see_prompts_the_agent_says_so_and_the_tap_still_counts() {
    let machine = Machine::logged_in().await.with_bus().await;
    let (mut person, mut agent) = machine.attach("enter").await;
    agent.prompts(1, 5432, 0).await;
    person.sees("Nobody can see prompts: run `portlatch watch` in a terminal.").await;
    let mut watch = machine.start(&["watch"]);
    watch.sees("Press Enter").await;
    watch.types("").await;
    agent.granted(1).await;
}

#[tokio::test]
async fn a_notification_server_that_ends_leaves_the_prompt_to_others() {
    let machine = Machine::logged_in().await.with_bus().await;
    let mut desktop = Desktop::start(machine.bus(), ALL).await;
    let (mut person, mut agent) = machine.attach("enter").await;
    agent.prompts(1, 5432, 0).await;
    desktop.notified().await;
    desktop.end().await;
    person.sees("Press Enter").await;
    person.types("").await;
    agent.granted(1).await;
    agent.prompts(2, 6432, 0).await;
    person.sees("Nobody can see prompts").await;
}

#[tokio::test]
async fn without_a_login_whoever_connects_is_asked_to_sign_in() {
    let machine = Machine::new().await.with_bus().await;
    let mut desktop = Desktop::start(machine.bus(), ALL).await;
    let mut person = machine.start(&["agent", "--software-key", "never"]);
    let mut watch = machine.start_once_agent_runs(&mut person, &["watch"]).await;
    let mut agent = machine.daemon.accept().await;
    let now = i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_secs()).unwrap();
    agent.refusals = vec![portlatch_protocol::attach::Refusal {
        time: now,
        resource: None,
        host: "billing-db.corp.internal".into(),
        port: 5432,
        inode: 0,
        reason: RefusalReason::NoLogin,
    }];
    let idle = agent.idle();
    tokio::select! {
        () = idle => unreachable!(),
        () = async {
            let text = "Sign in again: run `portlatch login` (a program was refused billing-db.corp.internal:5432).";
            for terminal in [&mut person, &mut watch] {
                assert_eq!(terminal.sees("Sign in again").await, text);
            }
            let shown = desktop.notified().await;
            assert_eq!((shown.summary.as_str(), shown.urgency), ("Sign in again", 1));
            assert_eq!(shown.body, text);
        } => {}
    }
}

/// The next requests until the agent refuses one because the screen is locked; the last request's number.
#[cfg(feature = "test-clock")]
async fn until_locked(agent: &mut crate::support::daemon::Agent, first: u64) -> u64 {
    for request in first.. {
        agent.wants(request, 7000, 0).await;
        match agent.next().await {
            ToDaemon::TapNeeded(_) => agent.send(ToAgent::Cancel(request, RefusalReason::NoProxy)).await,
            ToDaemon::Refused(_, RefusalReason::TimedOut) => return request,
            other => panic!("neither asked nor refused but {other:?}"),
        }
    }
    unreachable!()
}

/// The next requests until the agent would prompt again.
#[cfg(feature = "test-clock")]
async fn until_unlocked(agent: &mut crate::support::daemon::Agent, first: u64) {
    for request in first.. {
        agent.wants(request, 7000, 0).await;
        match agent.next().await {
            ToDaemon::Refused(_, RefusalReason::TimedOut) => {}
            ToDaemon::TapNeeded(_) => {
                agent.send(ToAgent::Cancel(request, RefusalReason::NoProxy)).await;
                // What is answered after it shows that it was heard.
                agent.wants(request + 500, 80, 0).await;
                agent.granted(request + 500).await;
                return;
            }
            other => panic!("neither asked nor refused but {other:?}"),
        }
    }
}

/// C: while the screen is locked nobody is prompted; a minute later what was tapped for is forgotten, here and at control.
#[cfg(feature = "test-clock")]
#[tokio::test]
async fn a_locked_screen_ends_taps_after_a_minute() {
    let machine = Machine::logged_in().await.with_bus().await;
    let other = LogindSession { uid: 12345, ..LogindSession::own("c3") };
    let manager = LogindSession { class: "manager", ..LogindSession::own("c4") };
    let logind = Logind::start(machine.bus(), vec![LogindSession::own("c2"), other, manager]).await;
    let (mut person, mut agent) = machine.attach("never").await;
    agent.prompts(1, 5432, 0).await;
    logind.lock("c3").await;
    assert!(agent.is_quiet().await, "that is another user's");
    logind.lock("c2").await;
    // Whoever passes by could tap for it.
    assert_eq!(agent.refused(1).await, RefusalReason::TimedOut);
    person.sees("Not granted: billing-db").await;
    let last = until_locked(&mut agent, 2).await;
    person.sees("Refused: billing-db.corp.internal:7000: your screen is locked").await;
    let status = tokio::select! {
        status = machine.run(&["status"]) => status,
        () = agent.idle() => unreachable!(),
    };
    assert!(
        String::from_utf8_lossy(&status.stdout).contains("Your screen is locked, so that nobody can tap")
    );
    let tap = machine.run(&["tap", "billing-db:5432"]).await;
    assert_eq!(tap.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&tap.stderr).contains("your screen is locked"));
    assert_eq!(machine.control.taps_forgotten(), 0);
    machine.move_clock(&person, 59);
    assert!(agent.is_quiet().await);
    machine.move_clock(&person, 61);
    assert_eq!(agent.next().await, ToDaemon::ForgetGrants);
    person.sees("must be tapped for again").await;
    machine.control.forgets_taps(1).await;
    logind.unlock("c2").await;
    until_unlocked(&mut agent, last + 1).await;
    machine.move_clock(&person, 1000);
    assert!(agent.is_quiet().await, "taps are forgotten once");
}

/// swaylock, i3lock and sessions without a screen say neither that they are locked nor that they are not.
#[cfg(feature = "test-clock")]
#[tokio::test]
async fn a_screen_that_never_says_whether_it_is_locked_keeps_nobody_away() {
    let machine = Machine::logged_in().await.with_bus().await;
    let logind = Logind::start(machine.bus(), vec![LogindSession::own("c2")]).await;
    let (mut person, mut agent) = machine.attach("never").await;
    // A session that says what it does, so that the agent is known to have heard of it.
    logind.lock("c2").await;
    let last = until_locked(&mut agent, 1).await;
    logind.unlock("c2").await;
    until_unlocked(&mut agent, last + 1).await;
    logind.tell_to_lock("c2").await;
    agent.prompts(2000, 5432, 0).await;
    assert!(agent.is_quiet().await, "the prompt stays");
    machine.move_clock(&person, 30);
    assert_eq!(machine.control.taps_forgotten(), 0);
    machine.move_clock(&person, 61);
    assert_eq!(agent.next().await, ToDaemon::ForgetGrants);
    assert_eq!(agent.refused(2000).await, RefusalReason::TimedOut);
    machine.control.forgets_taps(1).await;
    person.sees("must be tapped for again").await;
    until_unlocked(&mut agent, 2001).await;
}

#[cfg(feature = "test-clock")]
#[tokio::test]
async fn whoever_unlocks_within_the_minute_keeps_the_taps_and_a_wake_ends_them_all_the_same() {
    let machine = Machine::logged_in().await.with_bus().await;
    let logind = Logind::start(machine.bus(), vec![LogindSession::own("c2")]).await;
    let (mut person, mut agent) = machine.attach("never").await;
    logind.lock("c2").await;
    let last = until_locked(&mut agent, 1).await;
    logind.unlock_by_hint("c2").await;
    until_unlocked(&mut agent, last + 1).await;
    machine.move_clock(&person, 120);
    assert!(agent.is_quiet().await);
    assert_eq!(machine.control.taps_forgotten(), 0);
    logind.sleep_and_wake().await;
    // The signal is heard before the one that follows it.
    logind.lock("c2").await;
    let last = until_locked(&mut agent, last + 1000).await;
    logind.unlock("c2").await;
    until_unlocked(&mut agent, last + 1).await;
    machine.move_clock(&person, 181);
    assert_eq!(agent.next().await, ToDaemon::ForgetGrants);
    person.sees("must be tapped for again").await;
    machine.control.forgets_taps(1).await;
}

/// No window: until control has forgotten the taps, it is not asked for grants.
#[cfg(feature = "test-clock")]
#[tokio::test]
async fn control_grants_nothing_before_it_has_forgotten_the_taps() {
    let machine = Machine::logged_in().await.with_bus().await;
    let logind = Logind::start(machine.bus(), vec![LogindSession::own("c2")]).await;
    let (person, mut agent) = machine.attach("never").await;
    logind.lock("c2").await;
    let last = until_locked(&mut agent, 1).await;
    machine.control.remembers_taps(Memory::Stubborn);
    machine.move_clock(&person, 61);
    assert_eq!(agent.next().await, ToDaemon::ForgetGrants);
    let asked = machine.control.programs().len();
    agent.wants(last + 1, 80, 0).await;
    assert_eq!(agent.refused(last + 1).await, RefusalReason::NoProxy);
    assert_eq!(machine.control.programs().len(), asked, "control was asked for a grant");
    machine.control.remembers_taps(Memory::Obedient);
    machine.control.forgets_taps(1).await;
    // Whichever of the two came first: from now on grants are given again.
    agent.wants(last + 2, 80, 0).await;
    agent.granted(last + 2).await;
}
