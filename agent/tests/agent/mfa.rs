//! `portlatch mfa`: the user's own keys and apps.

use crate::support::control::Verdicts;
use crate::support::tty::Tty;
use crate::support::{Machine, complaint};
use serde_json::{Value, json};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

async fn listed(machine: &Machine) -> Vec<Value> {
    let list = machine.run(&["mfa", "ls", "--json"]).await;
    let list: Value = serde_json::from_slice(&list.stdout).unwrap();
    list["devices"].as_array().unwrap().clone()
}

#[tokio::test]
async fn keys_and_apps_are_listed() {
    let machine = Machine::logged_in().await;
    machine.control.has_device("0a", "blue\u{1b}[31m");
    assert_eq!(
        listed(&machine).await,
        [
            json!({"id": "0a", "kind": "security_key", "name": "blue", "added": "2023-11-14T22:13:20Z", "last_used": null})
        ]
    );
    let list = text(&machine.run(&["mfa", "ls"]).await.stdout);
    assert!(list.starts_with("NAME  KIND          ADDED"), "{list}");
    assert!(list.contains("blue  security key  2023-11-14T22:13:20Z  never      0a\n"), "{list}");
    assert!(list.contains("You have no recovery codes"), "{list}");
}

#[tokio::test]
async fn a_key_is_added_with_one_that_is_there_already() {
    let (machine, mut person, _agent) = Machine::attached("auto").await;
    let mut add = machine.start(&["mfa", "add", "key", "blue", "--software-key", "auto"]);
    add.sees("First show that it is you").await;
    let prompt = add.sees("Tap your security key: ").await;
    assert!(prompt.contains(r#"add the security key "blue", for portlatch mfa, pid "#), "{prompt}");
    person.sees(r#"Approved: add the security key "blue""#).await;
    add.sees("Tap your security key, to enrol it.").await;
    add.sees("Added blue.").await;
    assert!(add.ends().await.status.success());
    assert_eq!(listed(&machine).await[0]["name"], json!("blue"));
}

#[tokio::test]
async fn an_app_is_added_by_its_first_code_which_is_not_echoed() {
    let (machine, _person, _agent) = Machine::attached("auto").await;
    machine.control.takes_code("314159");
    let mut add = Tty::start(&machine, &["mfa", "add", "app", "phone"], 120);
    add.shows("Or enter this key there, time-based: JBSW Y3DP EHPK 3PXP").await;
    assert!(add.everything().contains("█ ▄▄▄▄▄ "), "a QR code has its corners");
    add.shows("The code that it shows").await;
    // Whole from its first digit, although the keyboard was read for the tap until now.
    add.types("000000\r").await;
    add.shows("That code was not accepted").await;
    // What is typed before the question is thrown away with the echo.
    add.shows_nothing_yet().await;
    add.types("12x\r").await;
    add.shows("That is no code").await;
    add.shows_nothing_yet().await;
    add.types("314159\r").await;
    add.shows("Added phone.").await;
    add.ends().await;
    assert!(!add.everything().contains("314159"));
    assert!(add.echoes());
    assert_eq!(listed(&machine).await[0]["kind"], json!("app"));
}

#[tokio::test]
async fn an_app_s_key_is_written_into_no_file() {
    let (machine, person, _agent) = Machine::attached("auto").await;
    let add = machine.run(&["mfa", "add", "app", "phone"]).await;
    assert_eq!(add.status.code(), Some(1));
    assert!(complaint(&add).contains("shown on a terminal and nowhere else"), "{}", complaint(&add));
    let written = format!("{}{}", text(&add.stdout), text(&person.ends_now().await.stdout));
    assert!(!written.contains("JBSW") && !written.contains("add the authenticator app"), "{written}");
}

/// Its code could not be entered.
#[tokio::test]
async fn without_a_keyboard_nobody_is_asked_to_tap_for_an_app() {
    let (machine, person, _agent) = Machine::attached("auto").await;
    let mut add = Tty::start_without_keyboard(&machine, &["mfa", "add", "app", "phone"], 120);
    add.shows("run it without redirecting its input").await;
    add.ends().await;
    assert!(!add.everything().contains("First show that it is you"), "{}", add.everything());
    assert!(!text(&person.ends_now().await.stdout).contains("add the authenticator app"));
}

#[tokio::test]
async fn on_a_narrow_terminal_the_app_s_key_is_shown_without_a_qr_code() {
    let (machine, _person, _agent) = Machine::attached("auto").await;
    let mut add = Tty::start(&machine, &["mfa", "add", "app", "phone"], 30);
    add.shows("The code that it shows").await;
    let written = add.everything();
    assert!(written.contains("a QR code is shown on a terminal that is wide enough"), "{written}");
    assert!(!written.contains('█') && written.contains("JBSW Y3DP EHPK 3PXP"), "{written}");
    add.signal(rustix::process::Signal::INT);
    add.ends().await;
}

#[tokio::test]
async fn a_key_is_removed_after_a_tap_and_stays_after_a_denial() {
    let (machine, _person, _agent) = Machine::attached("enter").await;
    machine.control.has_device("0a", "blue");
    let mut rm = machine.start(&["mfa", "rm", "blue"]);
    let prompt = rm.sees("Tap your security key: ").await;
    assert!(prompt.contains(r#"remove the security key "blue""#), "{prompt}");
    rm.types("d").await;
    assert_eq!(rm.ends().await.status.code(), Some(3));
    assert_eq!(listed(&machine).await.len(), 1);
    let resting = machine.run(&["mfa", "rm", "blue"]).await;
    assert_eq!(resting.status.code(), Some(3));
    let complaint = complaint(&resting);
    assert!(complaint.contains(" s, or run `portlatch watch` and lift it"), "{complaint}");
    let mut watch = machine.start(&["watch"]);
    watch.sees("a change of your keys for portlatch mfa rests").await;
    watch.types("lift 1").await;
    watch.sees("Lifted").await;
    let mut rm = machine.start(&["mfa", "rm", "0a"]);
    rm.sees("Press Enter").await;
    rm.types("").await;
    rm.sees("Removed blue.").await;
    assert!(listed(&machine).await.is_empty());
}

#[tokio::test]
async fn a_key_gets_another_name() {
    let (machine, _person, _agent) = Machine::attached("auto").await;
    machine.control.has_device("0a", "blue");
    let rename = machine.run(&["mfa", "rename", "blue", "red"]).await;
    assert!(text(&rename.stdout).ends_with("blue is now called red.\n"), "{}", text(&rename.stdout));
    assert_eq!(listed(&machine).await[0]["name"], json!("red"));
}

#[tokio::test]
async fn recovery_codes_are_shown_once_and_log_in_without_a_key() {
    let (machine, person, _agent) = Machine::attached("auto").await;
    let made = machine.run(&["mfa", "recovery-codes"]).await;
    let shown = text(&made.stdout);
    let codes: Vec<&str> = shown.lines().filter_map(|line| line.strip_prefix("  ")).collect();
    assert_eq!(codes.len(), 10, "{shown}");
    assert!(!text(&person.ends_now().await.stdout).contains(codes[0]), "others who watch do not see them");
    let login = machine.login_with("correct horse\nwrong\n", &["--without-pin", "--recovery-code"]).await;
    assert_eq!(login.status.code(), Some(1));
    for (input, place) in [
        ("\n", "the password goes on the first one"),
        ("correct horse\n\n", "the recovery code goes on the second one"),
    ] {
        let login = machine.login_with(input, &["--without-pin", "--recovery-code"]).await;
        assert_eq!(complaint(&login), format!("portlatch: a line of standard input is empty: {place}"));
    }
    let input = format!("correct horse\n{}\n", codes[0]);
    let login = machine.login_with(&input, &["--without-pin", "--recovery-code"]).await;
    assert!(login.status.success(), "{}", text(&login.stderr));
}

/// The tap has reached control; the prompt is closed before control's answer has come.
#[tokio::test]
async fn what_control_has_changed_is_told_though_its_prompt_was_closed_meanwhile() {
    let (machine, mut person, _agent) = Machine::attached("enter").await;
    machine.control.has_device("0a", "blue");
    for (proofs, command, told) in [
        (
            1,
            &["mfa", "rm", "blue"][..],
            "The change of your keys was made all the same: see `portlatch mfa ls`.",
        ),
        (2, &["mfa", "recovery-codes"], "New recovery codes were made all the same, which nobody can see"),
    ] {
        machine.control.gives(Verdicts::Held);
        let mut asking = machine.start(command);
        asking.sees("Press Enter").await;
        asking.types("").await;
        machine.control.is_proven(proofs).await;
        // Whoever asked has gone.
        asking.signal(rustix::process::Signal::INT);
        asking.ends().await;
        person.sees("Closed: ").await;
        machine.control.gives(Verdicts::Told);
        person.sees(told).await;
    }
    assert!(listed(&machine).await.is_empty());
}

#[tokio::test]
async fn without_agent_or_login_it_says_what_to_do() {
    let machine = Machine::new().await;
    let list = machine.run(&["mfa", "ls"]).await;
    assert_eq!(list.status.code(), Some(1));
    assert!(text(&list.stderr).contains("nobody is logged in: run `portlatch login`"));
    let machine = Machine::logged_in().await;
    machine.control.has_device("0a", "blue");
    let rm = machine.run(&["mfa", "rm", "blue"]).await;
    assert_eq!(rm.status.code(), Some(1));
    assert!(text(&rm.stderr).contains("no agent is running: start `portlatch agent`"));
}
