//! `portlatch watch` on a real terminal: what stands on the screen, what is never on it, and how it is left.

use crate::support::Machine;
use crate::support::tty::Tty;
use portlatch_protocol::refusal::RefusalReason;

const CODE: &str = "314159";
const HEADING: &str = "Watching for prompts.";

#[tokio::test]
async fn a_code_is_masked_while_it_is_typed_and_never_on_the_screen() {
    let (machine, _person, mut agent) = Machine::attached("never").await;
    machine.control.takes_code(CODE);
    let mut watch = Tty::start(&machine, &["watch"], 120);
    watch.shows(HEADING).await;
    agent.prompts(1, 5432, 0).await;
    watch.shows("Tap your security key, or enter a code: billing-db").await;
    watch.types("3141").await;
    watch.shows("> ••••").await;
    watch.types("\u{7f}\u{7f}4159\r").await;
    agent.granted(1).await;
    watch.shows("Granted: billing-db").await;
    // Only what is typed behind the heading: the log's times have digits of their own.
    let everything = watch.everything();
    let (_, drawn) = everything.split_once(HEADING).unwrap();
    assert!(!drawn.contains("> 3") && !drawn.contains("314") && !drawn.contains("59\r"), "echoed: {drawn:?}");
    assert!(!watch.screen().join("\n").contains('•'), "{:?}", watch.screen());
}

#[tokio::test]
async fn the_open_prompt_stands_below_all_that_happens_and_is_gone_when_it_is_decided() {
    let (machine, _person, mut agent) = Machine::attached("never").await;
    let mut watch = Tty::start(&machine, &["watch"], 200);
    watch.shows(HEADING).await;
    agent.prompts(1, 5432, 0).await;
    watch.shows("for an unknown program - ").await;
    // A few seconds of countdown, drawn in place.
    watch.counts_down_to(58).await;
    watch.types("l\r").await;
    watch.shows("Nothing rests, and nothing is blocked.").await;
    let screen = watch.screen();
    assert_eq!(screen.iter().filter(|row| row.contains("Tap your security key:")).count(), 1, "{screen:?}");
    assert!(screen.last().unwrap().contains(" s left"), "{screen:?}");
    watch.types("d\r").await;
    assert_eq!(agent.refused(1).await, RefusalReason::Denied);
    watch.shows("rests for 30 s (lift 1)").await;
    assert!(!watch.screen().join("\n").contains(" s left"), "{:?}", watch.screen());
}

#[tokio::test]
async fn a_prompt_that_is_longer_than_the_terminal_is_wide_is_drawn_over_whole() {
    let (machine, _person, mut agent) = Machine::attached("never").await;
    let mut watch = Tty::start(&machine, &["watch"], 40);
    watch.shows("resume.").await;
    agent.prompts(1, 5432, 0).await;
    watch.counts_down_to(57).await;
    let screen = watch.screen();
    let firsts = screen.iter().filter(|row| row.contains("Tap your")).count();
    // One is the help's.
    assert_eq!(firsts, 2, "{screen:?}");
    assert_eq!(screen.iter().filter(|row| row.contains(" s left")).count(), 1, "{screen:?}");
}

#[tokio::test]
async fn however_it_ends_the_terminal_is_left_as_it_was() {
    let (machine, _person, mut agent) = Machine::attached("never").await;
    for signal in [None, Some(rustix::process::Signal::TERM), Some(rustix::process::Signal::HUP)] {
        let mut watch = Tty::start(&machine, &["watch"], 80);
        watch.shows("resume.").await;
        assert!(!watch.echoes());
        match signal {
            None => watch.types("\u{3}").await,
            Some(signal) => watch.signal(signal),
        }
        watch.ends().await;
        assert!(watch.echoes(), "after {signal:?}");
    }
    // With a prompt open as well.
    agent.prompts(1, 5432, 0).await;
    let mut tap = Tty::start(&machine, &["tap", "billing-db:6432"], 80);
    tap.shows_nothing_yet().await;
    tap.types("\u{3}").await;
    tap.ends().await;
    assert!(tap.echoes());
}

#[tokio::test]
async fn the_agent_s_own_terminal_takes_codes_as_well_and_is_seen() {
    let machine = Machine::logged_in().await;
    machine.control.takes_code(CODE);
    let mut terminal = Tty::start(&machine, &["agent", "--mfa-mode", "otp"], 120);
    let mut agent = machine.daemon.accept().await;
    agent.attach(&machine.control).await;
    terminal.shows("Attached").await;
    agent.prompts(1, 5432, 0).await;
    terminal.shows("Enter a code of your authenticator app: billing-db").await;
    terminal.types(&format!("{CODE}\r")).await;
    agent.granted(1).await;
    assert!(!terminal.everything().contains("Nobody can see prompts"));
    terminal.types("\u{3}").await;
    terminal.ends().await;
    assert!(terminal.echoes());
}
