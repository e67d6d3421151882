//! A pid that passes from a held program to another one (the attack list's C): the prompt, a no and the audit are about
//! whoever holds the socket that waits, whatever its pid was called before.

use std::time::Duration;

use portlatch_tests::lab::program::Program;
use portlatch_tests::lab::{Account::*, Host, Lab, LabOptions, PATIENCE, Part, Taps, start, wait_for};
use serde_json::Value;

/// High enough that nothing else has it, low enough for any namespace.
const PID: u64 = 20_000;
const PSQL: &str =
    "psql -AtX -c 'select 42' 'host=billing-db.corp.internal dbname=billing user=jerry sslmode=disable'";
const TALK: &str = "python3 -I /opt/portlatch/lab/program.py listen billing-db.corp.internal 5432";

/// Where jerry's agent and his programs live, with pids of their own.
struct Namespace(Program);

impl Namespace {
    fn make(lab: &Lab) -> Self {
        let unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
        let pids = ["python3", "-I", "/opt/portlatch/lab/pids.py", lab.directory().to_str().unwrap()];
        Self(lab.spawn(Host::User, Root, &[&unshare[..], &pids].concat()))
    }

    /// Starts a program, with this pid if it is not 0; its pid.
    fn start(&mut self, pid: u64, log: &str, command: &str) -> u64 {
        self.0.write_line(&format!("start {pid} {log} {command}"));
        let started = self.0.read_line(PATIENCE * 2).parse().unwrap();
        assert!(pid == 0 || started == pid, "{started}");
        started
    }

    fn end(&mut self, pid: u64) {
        self.0.write_line(&format!("end {pid}"));
        assert_eq!(self.0.read_line(PATIENCE), "ended");
    }
}

/// Waits for a prompt that names this program and pid.
fn prompt_for(lab: &Lab, program: &str, pid: u64) {
    wait_for(&format!("a prompt for {program}, pid {pid}"), PATIENCE, || {
        let is_it = |prompt: &Value| {
            prompt["program"].as_str().is_some_and(|name| name.starts_with(program)) && prompt["pid"] == pid
        };
        lab.prompts(Jerry).iter().any(is_it).then_some(())
    });
}

#[test]
fn the_pid_of_a_program_that_was_held_gives_another_one_neither_its_name_nor_its_answer() {
    let Some(lab) = start(LabOptions { taps: Taps::Enter, ..LabOptions::default() }) else { return };
    lab.kill(Part::Agent(Jerry));
    let mut namespace = Namespace::make(&lab);
    namespace.start(0, "agent", "portlatch agent --software-key enter");
    wait_for("the agent", PATIENCE, || {
        let status = lab.status(Jerry);
        (status["agent"] == true && status["user"] == "jerry").then_some(())
    });
    let mut watch = lab.spawn(Host::User, Jerry, &["portlatch", "watch"]);
    watch.read_line(PATIENCE);
    let dials = lab.dials();
    namespace.start(PID, "first", PSQL);
    prompt_for(&lab, "psql", PID);

    // It dies, and before anybody can notice another one has its pid and waits at the same port.
    namespace.end(PID);
    namespace.start(PID, "second", TALK);
    prompt_for(&lab, "python3", PID);
    wait_for("it at the watch", PATIENCE, || watch.read_line(PATIENCE).contains("for python3").then_some(()));
    watch.write_line("block");
    wait_for("the block", PATIENCE, || {
        watch.read_line(PATIENCE).contains(" is blocked (lift ").then_some(())
    });
    // A reset, if its SYN was held for long enough to be answered.
    wait_for("its end", PATIENCE, || {
        let seen = lab.log("second");
        (seen.contains("refused") || seen.contains("reset")).then_some(())
    });
    assert_eq!(lab.dials(), dials, "nothing reached the database");
    lab.wait_for_record("the no", |record| record["event"] == "mfa.fail");
    assert_eq!(lab.count("grant"), 0);

    // The block is the second one's, not that of whoever had the pid before it, nor of whoever has it next. The daemon's own
    // rest of a moment is over by then.
    namespace.end(PID);
    lab.move_clock(Duration::from_secs(2));
    namespace.start(PID, "third", PSQL);
    prompt_for(&lab, "psql", PID);
    watch.write_line("");
    wait_for("its row", PATIENCE, || (lab.log("third").trim() == "42").then_some(()));
    let session = lab.wait_for_record("the session", |record| record["event"] == "session.start");
    assert_eq!(session["program"], "psql", "{session}");
    lab.assert_audit_verifies();
}
