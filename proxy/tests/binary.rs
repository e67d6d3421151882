//! The real binary, as an administrator starts, doubles and stops it.

#![expect(clippy::unwrap_used, reason = "support functions of a test may panic as the test itself may")]

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Nothing here takes longer where it works.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_second_one_says_who_is_running_and_the_first_stops_when_told() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path().join("proxy");
    make_cluster(&dir);
    let mut first = start(&dir);
    let second = portlatch_proxy(&dir, &["run"]).output().unwrap();
    let message = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(message.contains("already running") && message.contains(&first.id().to_string()), "{message}");
    signal(&first, Signal::TERM);
    assert_eq!(first.wait().unwrap().code(), Some(0));
    let audit = portlatch_proxy(&dir, &["audit", "verify"]).output().unwrap();
    assert!(audit.status.success(), "{audit:?}");
}

#[test]
fn what_was_killed_starts_again_and_its_audit_is_whole() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path().join("proxy");
    make_cluster(&dir);
    let mut first = start(&dir);
    signal(&first, Signal::KILL);
    first.wait().unwrap();
    std::fs::remove_file(dir.join("admin.sock")).unwrap();
    let mut next = start(&dir);
    signal(&next, Signal::INT);
    assert_eq!(next.wait().unwrap().code(), Some(0));
    let tail = portlatch_proxy(&dir, &["audit", "tail"]).output().unwrap();
    let records = String::from_utf8(tail.stdout).unwrap();
    assert_eq!(records.matches("\"proxy.start\"").count(), 2, "{records}");
    assert_eq!(records.matches("\"proxy.stop\"").count(), 1, "{records}");
    assert!(portlatch_proxy(&dir, &["audit", "verify"]).status().unwrap().success());
}

#[test]
fn a_directory_that_is_none_is_told_in_one_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let Output { status, stderr, .. } = portlatch_proxy(directory.path(), &["run"]).output().unwrap();
    let message = String::from_utf8(stderr).unwrap();
    assert_eq!((status.code(), message.lines().count()), (Some(1), 1), "{message}");
    assert!(message.contains("portlatch-proxy init"), "{message}");
}

#[test]
fn a_port_that_is_taken_is_told_once() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path().join("proxy");
    make_cluster(&dir);
    let holder = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = format!("listen = \"{}\"", holder.local_addr().unwrap());
    let file = dir.join("proxy.toml");
    let config = std::fs::read_to_string(&file).unwrap().replace("listen = \"127.0.0.1:0\"", &taken);
    std::fs::write(&file, config).unwrap();
    let Output { status, stderr, .. } = portlatch_proxy(&dir, &["run"]).output().unwrap();
    let message = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1));
    assert_eq!(message.matches("Address already in use").count(), 1, "{message}");
}

fn make_cluster(dir: &Path) {
    let made =
        portlatch_proxy(dir, &["init", "--public-host", "proxy.example.com", "--json"]).output().unwrap();
    let made: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
    assert!(made["ca_pin"].as_str().unwrap().starts_with("sha256:"));
    let file = dir.join("proxy.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("listen = \"127.0.0.1:0\"\n{config}")).unwrap();
}

/// Starts it and waits until it answers.
fn start(dir: &Path) -> Child {
    let mut child = portlatch_proxy(dir, &["run"]).spawn().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !portlatch_proxy(dir, &["sessions"]).stderr(Stdio::null()).status().unwrap().success() {
        assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none(), "it does not serve");
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

fn portlatch_proxy(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portlatch-proxy"));
    command.arg("--dir").arg(dir).args(arguments).stdout(Stdio::piped());
    command
}
