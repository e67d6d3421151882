//! Codes of an authenticator app at the prompt.

use std::time::Duration;

use crate::support::Machine;
use portlatch_protocol::refusal::RefusalReason;

const CODE: &str = "314159";

#[tokio::test]
async fn where_a_code_is_allowed_it_opens_the_port() {
    let (machine, _person, mut agent) = Machine::attached("never").await;
    machine.control.takes_code(CODE);
    let mut watch = machine.start(&["watch"]);
    watch.sees("Watching").await;
    agent.prompts(1, 5432, 0).await;
    watch.sees("Tap your security key, or enter a code: billing-db (billing-db.corp.internal:5432)").await;
    watch.types(CODE).await;
    assert_eq!(agent.granted(1).await.amr, ["otp"]);
    watch.sees("Granted: billing-db").await;
}

#[tokio::test]
async fn a_tap_does_as_well_where_a_code_is_allowed() {
    let (machine, mut person, mut agent) = Machine::attached("enter").await;
    machine.control.takes_code(CODE);
    agent.prompts(1, 5432, 0).await;
    person.sees("Press Enter").await;
    person.types("").await;
    assert_eq!(agent.granted(1).await.amr, ["hwk", "user"]);
}

#[tokio::test]
async fn a_wrong_code_is_told_and_the_prompt_stays_with_a_new_challenge() {
    let (machine, mut person, mut agent) = Machine::attached("enter").await;
    machine.control.takes_code(CODE);
    agent.prompts(1, 5432, 0).await;
    person.sees("Press Enter").await;
    person.types("code 000000").await;
    person.sees("That code was not accepted, 2 tries left").await;
    // The key waits again as well.
    person.sees("Press Enter").await;
    assert_eq!(machine.control.challenges(), 2);
    person.types(CODE).await;
    agent.granted(1).await;
    assert_eq!(machine.control.challenges(), 2);
}

#[tokio::test]
async fn after_three_wrong_codes_it_is_refused() {
    let (machine, mut person, mut agent) = Machine::attached("never").await;
    machine.control.takes_code(CODE);
    agent.prompts(1, 5432, 0).await;
    person.sees("Tap your security key, or enter a code: billing-db").await;
    for left in ["2 tries left", "1 try left"] {
        person.types("000000").await;
        person.sees(left).await;
    }
    person.types("000000").await;
    assert_eq!(agent.refused(1).await, RefusalReason::Denied);
    assert_eq!(machine.control.challenges(), 3);
}

#[tokio::test]
async fn where_codes_pause_meanwhile_the_prompt_stays_for_the_key() {
    let machine = Machine::logged_in().await;
    machine.control.takes_code(CODE);
    let mut person = machine.start(&["agent", "--software-key", "enter", "--mfa-mode", "otp"]);
    let mut agent = machine.daemon.accept().await;
    agent.attach(&machine.control).await;
    let mut watch = machine.start(&["watch"]);
    watch.sees("Watching").await;
    agent.prompts(1, 5432, 0).await;
    watch.sees("Enter a code of your authenticator app: billing-db").await;
    machine.control.pauses_codes();
    watch.types(CODE).await;
    watch.sees("The problem is codes_paused.").await;
    person.sees("Press Enter").await;
    person.types("").await;
    assert_eq!(agent.granted(1).await.amr, ["hwk", "user"]);
    assert_eq!(machine.control.proofs(), ["code", "key"]);
}

#[tokio::test]
async fn a_code_that_the_policy_does_not_take_never_leaves_the_terminal() {
    let (machine, mut person, mut agent) = Machine::attached("never").await;
    agent.prompts(1, 5432, 0).await;
    person.sees("Tap your security key: billing-db").await;
    person.types(CODE).await;
    person.sees("A code is not enough for this prompt.").await;
    assert!(agent.is_quiet().await);
    assert!(machine.control.proofs().is_empty());
}

#[tokio::test]
async fn in_otp_mode_the_key_is_left_alone_where_a_code_is_taken() {
    let machine = Machine::logged_in().await;
    machine.control.takes_code(CODE);
    let mut person = machine.start(&["agent", "--software-key", "auto", "--mfa-mode", "otp"]);
    let mut agent = machine.daemon.accept().await;
    agent.attach(&machine.control).await;
    let mut watch = machine.start(&["watch"]);
    watch.sees("Watching").await;
    agent.prompts(1, 5432, 0).await;
    person.sees("Enter a code of your authenticator app: billing-db").await;
    assert!(agent.is_quiet().await, "the key, which taps by itself, was not asked");
    watch.sees("Enter a code of your authenticator app: billing-db").await;
    watch.types(CODE).await;
    agent.granted(1).await;
    assert_eq!(machine.control.proofs(), ["code"]);
}

#[tokio::test]
async fn in_otp_mode_the_key_is_asked_where_no_code_is_taken() {
    let machine = Machine::logged_in().await;
    let login = machine.login(&["--without-pin", "--software-key", "auto", "--mfa-mode", "otp"]).await;
    assert!(login.status.success());
    let (mut person, mut agent) = machine.attach("auto").await;
    agent.prompts(1, 5432, 0).await;
    person.sees("Tap your security key: billing-db").await;
    agent.granted(1).await;
}

/// The mode is kept with the login, and another one for one tap.
#[tokio::test]
async fn the_mode_of_the_login_holds_until_a_command_says_otherwise() {
    let machine = Machine::logged_in().await;
    machine.control.takes_code(CODE);
    let login = machine.login(&["--without-pin", "--software-key", "auto", "--mfa-mode", "otp"]).await;
    assert!(login.status.success());
    let (_person, mut agent) = machine.attach("auto").await;
    let mut tap = machine.start(&["tap", "billing-db:5432"]);
    agent.tunnel_for_command().await;
    tap.sees("Enter a code of your authenticator app").await;
    tap.types(CODE).await;
    agent.offered_grant().await;
    assert!(tap.ends().await.status.success());
    let tap = machine.start(&["tap", "--mfa-mode", "webauthn", "billing-db:6432"]);
    agent.tunnel_for_command().await;
    agent.offered_grant().await;
    assert!(tap.ends().await.status.success());
    assert_eq!(machine.control.proofs(), ["code", "key"]);
}

/// With nobody to enter it there is nothing to wait for.
#[tokio::test]
async fn a_code_that_nobody_can_enter_is_not_waited_for() {
    let machine = Machine::logged_in().await;
    machine.control.takes_code(CODE);
    let mut person = machine.start(&["agent", "--software-key", "auto", "--mfa-mode", "otp"]);
    let mut agent = machine.daemon.accept().await;
    agent.attach(&machine.control).await;
    agent.prompts(1, 5432, 0).await;
    assert_eq!(agent.refused(1).await, RefusalReason::TimedOut);
    person.sees("Nobody can see prompts: run `portlatch watch` in a terminal.").await;
    let status = tokio::select! {
        status = machine.run(&["status"]) => status,
        () = agent.idle() => unreachable!(),
    };
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.contains("Nobody can see prompts"), "{status}");
}

/// G: a code is in no log at any level, in no argument and no environment of a process.
#[tokio::test]
async fn a_code_is_in_no_log_and_no_process_list() {
    let machine = Machine::logged_in().await;
    machine.control.takes_code(CODE);
    let (agent_log, watch_log) =
        (machine.directory.path().join("a.log"), machine.directory.path().join("w.log"));
    let mut person = machine.start_logged(&["agent", "--software-key", "enter"], &agent_log);
    let mut agent = machine.daemon.accept().await;
    agent.attach(&machine.control).await;
    person.sees("Attached").await;
    let mut watch = machine.start_logged(&["watch"], &watch_log);
    watch.sees("Watching").await;
    for (request, code) in [(1, "271828"), (2, CODE)] {
        agent.prompts(request, 5000 + u16::try_from(request).unwrap(), 0).await;
        watch.sees("or enter a code").await;
        watch.types(code).await;
        if code == CODE {
            agent.granted(request).await;
        } else {
            watch.sees("That code was not accepted").await;
            watch.types("d").await;
            agent.refused(request).await;
            watch.sees("rests for").await;
            watch.types("lift 1").await;
            watch.sees("Lifted").await;
        }
    }
    for pid in [person.pid(), watch.pid()] {
        for file in ["cmdline", "environ"] {
            let shown = std::fs::read(format!("/proc/{pid}/{file}")).unwrap();
            assert_no_code(&String::from_utf8_lossy(&shown), file);
        }
    }
    drop((person, watch));
    let [agent_log, watch_log] = [agent_log, watch_log].map(|log| std::fs::read_to_string(log).unwrap());
    assert!(agent_log.contains("DEBUG"), "low levels are logged as well");
    assert_no_code(&agent_log, "the agent's log");
    assert_no_code(&watch_log, "the watch's log");
}

fn assert_no_code(text: &str, place: &str) {
    for code in [CODE, "271828"] {
        assert!(!text.contains(code), "{code} is in {place}");
    }
}

#[cfg(feature = "test-clock")]
#[tokio::test]
async fn a_code_after_the_prompt_s_minute_opens_nothing() {
    let (machine, mut person, mut agent) = Machine::attached("never").await;
    machine.control.takes_code(CODE);
    agent.prompts(1, 5432, 0).await;
    person.sees("or enter a code").await;
    machine.move_clock(&person, 61);
    assert_eq!(agent.refused(1).await, RefusalReason::TimedOut);
    person.sees("Not granted").await;
    person.types(CODE).await;
    person.sees("No prompt is open.").await;
    assert!(agent.is_quiet_for(Duration::from_millis(100)).await);
    assert!(machine.control.proofs().is_empty());
}
