use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::*;
use crate::keys::pin_entry::PinAfter;

/// A pinentry that writes down what it hears and answers GETPIN and CONFIRM as told.
fn stand_in(directory: &Path, pin: &str, confirm: &str) -> Pinentry {
    let script = format!(
        r#"#!/bin/sh
echo 'OK Pleased to meet you'
while read -r line; do
    printf '%s\n' "$line" >>'{heard}'
    case $line in
    GETPIN) printf '{pin}\n' ;;
    CONFIRM) printf '{confirm}\n' ;;
    'OPTION lc-ctype='*) echo 'ERR 83886254 Unknown option <Pinentry>' ;;
    *) echo OK ;;
    esac
done
"#,
        heard = directory.join("heard").display(),
    );
    let program = directory.join("pinentry");
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    Pinentry { program: Some(program.to_str().unwrap().to_owned()) }
}

fn question(retries_left: u8, after: PinAfter) -> PinQuestion {
    PinQuestion { purpose: "to open 100%-db, port 1".to_owned(), retries_left, after }
}

fn heard(directory: &Path) -> String {
    std::fs::read_to_string(directory.join("heard")).unwrap()
}

#[tokio::test]
async fn the_pin_comes_back_as_it_was_typed() {
    let directory = tempfile::tempdir().unwrap();
    let pinentry = stand_in(directory.path(), "# a remark\\nD 12%%25 4%%C3%%A4\\nOK", "OK");
    let pin = pinentry.ask(question(8, PinAfter::Nothing)).await.unwrap();
    assert_eq!(pin.text(), "12% 4ä");
    let heard = heard(directory.path());
    assert!(
        heard.contains("SETDESC The PIN of your security key, to open 100%25-db, port 1 (8 tries left)\n")
    );
    assert!(!heard.contains("CONFIRM") && !heard.contains("SETERROR"), "{heard}");
}

// D: PIN wrong once -> retries shown
#[tokio::test]
async fn a_wrong_pin_is_said_with_the_tries_that_are_left() {
    let directory = tempfile::tempdir().unwrap();
    let pinentry = stand_in(directory.path(), "D 1234\\nOK", "OK");
    pinentry.ask(question(7, PinAfter::Wrong)).await.unwrap();
    let heard = heard(directory.path());
    assert!(
        heard.contains("(7 tries left)") && heard.contains("SETERROR That was the wrong PIN."),
        "{heard}"
    );
}

#[tokio::test]
async fn with_few_tries_left_nothing_is_asked_without_a_yes() {
    let directory = tempfile::tempdir().unwrap();
    let pinentry = stand_in(directory.path(), "D 1234\\nOK", "ERR 83886194 Not confirmed <Pinentry>");
    assert_eq!(pinentry.ask(question(2, PinAfter::Wrong)).await.unwrap_err(), NoPin::Cancelled);
    assert!(!heard(directory.path()).contains("GETPIN"));
}

#[tokio::test]
async fn a_cancelled_question_is_a_no_and_a_broken_pinentry_is_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let cancelled = stand_in(directory.path(), "ERR 83886179 Operation cancelled <Pinentry>", "OK");
    assert_eq!(cancelled.ask(question(8, PinAfter::Nothing)).await.unwrap_err(), NoPin::Cancelled);
    let broken = stand_in(directory.path(), "ERR 83886340 No keyboard <Pinentry>", "OK");
    assert_eq!(broken.ask(question(8, PinAfter::Nothing)).await.unwrap_err(), NoPin::Nobody);
    let absent = Pinentry { program: Some("/nonexistent/pinentry".to_owned()) };
    assert_eq!(absent.ask(question(8, PinAfter::Nothing)).await.unwrap_err(), NoPin::Nobody);
    let silent = Pinentry { program: Some("/bin/true".to_owned()) };
    assert_eq!(silent.ask(question(8, PinAfter::Nothing)).await.unwrap_err(), NoPin::Nobody);
}

#[tokio::test]
async fn a_withdrawn_question_ends_its_program() {
    let directory = tempfile::tempdir().unwrap();
    let pinentry = stand_in(directory.path(), "", "OK");
    let pid = directory.path().join("pid");
    let script = std::fs::read_to_string(directory.path().join("pinentry")).unwrap();
    let script =
        script.replace("GETPIN) printf '\\n'", &format!("GETPIN) echo $$ >'{}'; sleep 100", pid.display()));
    std::fs::write(directory.path().join("pinentry"), script).unwrap();
    let asked = pinentry.ask(question(8, PinAfter::Nothing));
    let begun = async {
        while !pid.exists() || std::fs::read_to_string(&pid).unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        answered = asked => panic!("{answered:?}"),
        () = begun => {}
    }
    let process = format!("/proc/{}/stat", std::fs::read_to_string(&pid).unwrap().trim());
    let is_over = || std::fs::read_to_string(&process).map_or(true, |stat| stat.contains(") Z "));
    for _ in 0..4000 {
        if is_over() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("pinentry goes on");
}

#[tokio::test]
async fn a_withdrawn_question_lets_its_program_put_the_terminal_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let pinentry = stand_in(directory.path(), "", "OK");
    let in_order = directory.path().join("in-order");
    let question_stands = directory.path().join("stands");
    let script = std::fs::read_to_string(directory.path().join("pinentry")).unwrap();
    let traps = format!(
        "GETPIN) sleep 100 & trap \"kill $!; echo yes >'{}'; exit\" ALRM; echo yes >'{}'; wait",
        in_order.display(),
        question_stands.display()
    );
    std::fs::write(directory.path().join("pinentry"), script.replace("GETPIN) printf '\\n'", &traps))
        .unwrap();
    tokio::select! {
        answered = pinentry.ask(question(8, PinAfter::Nothing)) => panic!("{answered:?}"),
        () = comes(&question_stands) => {}
    }
    comes(&in_order).await;
}

async fn comes(file: &Path) {
    let there = async {
        while !file.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), there).await.unwrap();
}
