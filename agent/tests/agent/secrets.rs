//! G: what nobody but its owner may read is in no log at any level, in no argument and no environment of a process, and in
//! no file that others may open.

use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::support::{Machine, Person, text};

const PASSWORD: &str = "correct horse";
const CODE: &str = "314159";
const WRONG_CODE: &str = "271828";
const PIN: &str = "pin-canary-4711";
const BROKEN: &str = "canary-of-a-broken-line";
/// What control hands out as a grant.
const TOKEN: &str = "header.claims.signature";

/// What must not be seen.
struct Canaries(Vec<String>);

impl Canaries {
    fn of(machine: &Machine, recovery_codes: &[String]) -> Self {
        let file = |name: &str| std::fs::read_to_string(machine.home().join(name)).unwrap();
        let mut canaries: Vec<String> =
            [PASSWORD, CODE, WRONG_CODE, PIN, BROKEN, TOKEN].map(str::to_owned).to_vec();
        canaries.extend(machine.control.all_challenges());
        canaries.extend(recovery_codes.iter().cloned());
        // The middle of the login key's PEM: its first line says of which kind it is.
        canaries.extend(
            file("login.key").lines().filter(|line| !line.starts_with('-')).skip(1).map(str::to_owned),
        );
        let software: serde_json::Value = serde_json::from_str(&file("software-key.json")).unwrap();
        let keys = private_parts(&software);
        assert!(!keys.is_empty(), "{software}");
        canaries.extend(keys);
        assert!(canaries.iter().all(|canary| canary.len() >= 6), "too short to be told from chance");
        Self(canaries)
    }

    fn are_not_in(&self, place: &str, content: &str) {
        for canary in &self.0 {
            assert!(!content.contains(canary), "{canary} is in {place}");
        }
    }

    fn are_not_shown_by(&self, process: &Person) {
        for file in ["cmdline", "environ"] {
            let shown = std::fs::read(format!("/proc/{}/{file}", process.pid())).unwrap();
            self.are_not_in(file, &text(&shown));
        }
    }
}

/// Every private key of the software key's file.
fn private_parts(document: &serde_json::Value) -> Vec<String> {
    let credentials = document["credentials"].as_array().unwrap();
    credentials.iter().map(|credential| credential["key"].as_str().unwrap().to_owned()).collect()
}

/// Nothing below is open to others. The agent lives there: what it has just put away or renamed is not there any more.
fn is_closed(path: &Path) {
    let file = match path.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => return,
        file => file.unwrap(),
    };
    assert_eq!(file.permissions().mode() & 0o077, 0, "{} is {:o}", path.display(), file.mode());
    if file.is_dir() {
        match std::fs::read_dir(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            entries => entries.unwrap().for_each(|entry| is_closed(&entry.unwrap().path())),
        }
    }
}

#[tokio::test]
async fn secrets_are_in_no_log_in_no_process_list_and_in_no_open_file() {
    let machine = Machine::logged_in().await;
    machine.control.takes_code(CODE);
    let log = |name: &str| -> PathBuf { machine.directory.path().join(format!("{name}.log")) };
    let address = machine.control.address();
    let arguments =
        ["login", "--proxy", &address, "--user", "jerry", "--password-stdin", "--software-key", "auto"];
    let mut login = machine.start_logged(&arguments, &log("login"));
    login.types(PASSWORD).await;
    assert!(login.ends().await.status.success());

    let mut person = machine.start_logged(&["agent", "--software-key", "enter"], &log("agent"));
    let mut agent = machine.daemon.accept().await;
    agent.attach(&machine.control).await;
    person.sees("Attached").await;
    let mut watch = machine.start_logged(&["watch"], &log("watch"));
    watch.sees("Watching").await;
    agent.prompts(1, 5432, 0).await;
    watch.sees("or enter a code").await;
    watch.types(WRONG_CODE).await;
    watch.sees("That code was not accepted").await;
    watch.types(CODE).await;
    agent.granted(1).await;
    watch.sees("Granted").await;
    agent.prompts(2, 6432, 0).await;
    watch.sees("Press Enter").await;
    watch.types("").await;
    agent.granted(2).await;
    let mut codes = machine.start_logged(&["mfa", "recovery-codes"], &log("mfa"));
    codes.sees("Press Enter").await;
    codes.types("").await;
    codes.sees("Your recovery codes").await;
    let mut recovery_codes = Vec::new();
    for _ in 0..10 {
        recovery_codes.push(codes.line().await.trim().to_owned());
    }

    // A PIN that no prompt asks for, and a line that is none.
    for line in [
        format!(r#"{{"want":"watch"}}{}{{"want":"say","say":"pin","id":9,"pin":"{PIN}"}}"#, "\n"),
        format!(r#"{{"want":"tap","host":"{BROKEN}"#),
    ] {
        let mut raw = std::os::unix::net::UnixStream::connect(machine.home().join("agent.sock")).unwrap();
        writeln!(raw, "{line}").unwrap();
        drop(raw);
    }
    // Whatever was said before this was heard.
    agent.wants(3, 80, 0).await;
    agent.granted(3).await;

    let canaries = Canaries::of(&machine, &recovery_codes);
    for process in [&person, &watch] {
        canaries.are_not_shown_by(process);
    }
    assert!(machine.home().is_dir());
    is_closed(&machine.home());
    drop((person, watch, codes));
    for name in ["login", "agent", "watch", "mfa"] {
        canaries.are_not_in(name, &std::fs::read_to_string(log(name)).unwrap());
    }
    assert!(
        std::fs::read_to_string(log("agent")).unwrap().contains("DEBUG"),
        "low levels are logged as well"
    );
}
