//! `portlatch exec`: one tap, then a command for each resource that matches.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::support::daemon::Agent;
use crate::support::{Machine, Person, complaint, text};
use portlatch_protocol::attach::{ToAgent, ToDaemon};
use portlatch_protocol::refusal::RefusalReason;
use rustix::process::Signal;
use serde_json::{Value, json};

const CHOICE: [&str; 6] = ["exec", "--kind", "db", "--labels", "env=prod", "--port"];

/// A machine with so many databases, attached, and the directory for output.
async fn machine(databases: usize, mode: &str) -> (Machine, Person, Agent, PathBuf) {
    let machine = Machine::logged_in().await;
    machine.control.add_resources(databases - 1);
    let (person, agent) = machine.attach(mode).await;
    let logs = machine.directory.path().join("logs");
    (machine, person, agent, logs)
}

fn arguments<'a>(logs: &'a Path, more: &[&'a str], command: &[&'a str]) -> Vec<&'a str> {
    let output = ["5432", "--output-dir", logs.to_str().unwrap()];
    [&CHOICE[..], &output, more, &["--"], command].concat()
}

fn summary(logs: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(logs.join("summary.json")).unwrap()).unwrap()
}

fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[tokio::test]
async fn one_tap_runs_a_command_for_each_resource() {
    let (machine, _person, mut agent, logs) = machine(3, "enter").await;
    let script = "echo $PORTLATCH_NAME $PORTLATCH_HOST $PORTLATCH_PORT $PGHOST $PGPORT $MYSQL_HOST $MYSQL_TCP_PORT $1; echo wrong >&2";
    let command = ["sh", "-c", script, "sh", "{name}@{host}:{port}"];
    let mut exec = machine.start(&arguments(&logs, &["--yes"], &command));
    exec.sees("runs on:").await;
    for name in ["billing-db", "db-0", "db-1"] {
        exec.sees(&format!("  {name} ({name}.corp.internal:5432)")).await;
    }
    agent.tunnel_for_command().await;
    let prompt = exec.sees("Tap your security key").await;
    assert!(prompt.contains("Tap your security key: portlatch exec sh, pid "), "{prompt}");
    assert!(prompt.contains(" on 3 resources: billing-db, db-0, db-1 - "), "{prompt}");
    exec.sees("Press Enter").await;
    exec.types("").await;
    exec.sees("Summary: 3 of 3 succeeded.").await;
    assert!(exec.ends().await.status.success());
    assert_eq!(machine.control.challenges(), 1);
    for name in ["billing-db", "db-0", "db-1"] {
        let file = logs.join(format!("{name}.log"));
        let host = format!("{name}.corp.internal");
        let expected = format!("{name} {host} 5432 {host} 5432 {host} 5432 {name}@{host}:5432\nwrong\n");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), expected);
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(std::fs::read_dir(&logs).unwrap().count(), 4, "nothing half written is left");
    let summary = summary(&logs);
    assert_eq!((&summary["total"], &summary["succeeded"]), (&json!(3), &json!(3)));
    assert_eq!(summary["results"][0]["status"], json!("succeeded"));
    // The programs' connections are granted without another prompt, and no other port's.
    agent.wants(1, 5432, 0).await;
    assert_eq!(agent.granted(1).await.amr, ["hwk", "user"]);
    agent.wants(2, 6432, 0).await;
    assert_eq!(agent.next().await, ToDaemon::TapNeeded(2));
}

#[tokio::test]
async fn one_that_fails_makes_the_whole_fail_and_is_named() {
    let (machine, _person, mut agent, logs) = machine(3, "auto").await;
    let script = "case {name} in db-0) exit 7;; db-1) kill -9 $$;; esac";
    let exec = machine.start(&arguments(&logs, &["--yes"], &["sh", "-c", script]));
    agent.tunnel_for_command().await;
    let output = exec.ends().await;
    assert_eq!(output.status.code(), Some(1));
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    for line in ["db-0: failed with exit code 7 (", "db-1: ended by signal 9 (", "billing-db: succeeded ("] {
        assert!(shown.contains(line), "{shown}");
    }
    assert_eq!(shown.lines().last(), Some("Summary: 1 of 3 succeeded."));
    let summary = summary(&logs);
    assert_eq!(summary["results"][1]["exit_code"], json!(7));
    assert_eq!(summary["results"][2]["signal"], json!(9));
}

#[tokio::test]
async fn a_denied_tap_runs_nothing() {
    let (machine, mut person, mut agent, logs) = machine(2, "never").await;
    let mut exec = machine.start(&arguments(&logs, &["--yes"], &["touch", "{name}"]));
    agent.tunnel_for_command().await;
    exec.sees("Tap your security key").await;
    person.sees("Tap your security key").await;
    person.types("d").await;
    assert_eq!(exec.ends().await.status.code(), Some(3));
    assert!(!logs.exists());
}

#[tokio::test]
async fn what_cannot_be_run_is_told_before_anybody_taps() {
    let (machine, _person, _agent, logs) = machine(1, "auto").await;
    let nothing = machine.run(&["exec", "--kind", "db", "--labels", "env=dev", "--yes", "--", "true"]).await;
    assert_eq!(nothing.status.code(), Some(1));
    let complaint = String::from_utf8_lossy(&nothing.stderr).into_owned();
    assert!(complaint.contains("nothing of kind db with the labels env=dev can be run on"), "{complaint}");
    let missing = machine.run(&arguments(&logs, &["--yes"], &["no-such-program"])).await;
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("there is no program no-such-program"));
    let unasked = machine.run(&arguments(&logs, &[], &["true"])).await;
    assert_eq!(unasked.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unasked.stderr).contains("add --yes"));
    let file = machine.directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    for taken in [file.clone(), file.join("logs")] {
        let unkept = machine.run(&arguments(&taken, &["--yes"], &["true"])).await;
        assert_eq!(unkept.status.code(), Some(1));
        let complaint = String::from_utf8_lossy(&unkept.stderr).into_owned();
        assert!(complaint.contains(&format!("{} cannot be written: ", taken.display())), "{complaint}");
    }
    let code = machine.run(&arguments(&logs, &["--yes", "--mfa-mode", "otp"], &["true"])).await;
    assert_eq!(code.status.code(), Some(2));
    assert_eq!(machine.control.challenges(), 0);
}

#[tokio::test]
async fn ten_run_at_a_time() {
    let (machine, _person, mut agent, logs) = machine(25, "auto").await;
    let count = machine.directory.path().join("count");
    // Each says that it runs, waits until ten do or all have begun, and says that it ends.
    let script = format!(
        "f={}; echo + >>$f; until [ $(grep -c + $f) -ge 10 ]; do sleep 0.02; done; echo - >>$f",
        count.display()
    );
    let exec = machine.start(&arguments(&logs, &["--yes"], &["sh", "-c", &script]));
    agent.tunnel_for_command().await;
    assert!(exec.ends().await.status.success());
    let (mut now, mut most) = (0, 0);
    for line in std::fs::read_to_string(count).unwrap().lines() {
        now += if line == "+" { 1 } else { -1 };
        most = most.max(now);
    }
    assert_eq!((now, most), (0, 10));
}

#[tokio::test]
async fn interrupting_ends_all_that_runs_and_the_summary_says_so() {
    let (machine, _person, mut agent, logs) = machine(12, "auto").await;
    let pids = machine.directory.path().join("pids");
    // The command, and one that it started and that does not listen.
    let script = format!("sh -c 'trap \"\" TERM; sleep 1000' & echo $! $$ >>{}; wait", pids.display());
    let exec = machine.start(&arguments(&logs, &["--yes"], &["sh", "-c", &script]));
    agent.tunnel_for_command().await;
    let running = async {
        while std::fs::read_to_string(&pids).unwrap_or_default().lines().count() < 10 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, running).await.expect("ten run");
    exec.signal(Signal::INT);
    let output = exec.ends().await;
    assert_eq!(output.status.code(), Some(130));
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(shown.lines().last(), Some("Summary: 0 of 12 succeeded, 10 stopped, 2 not started."));
    let pids = std::fs::read_to_string(&pids).unwrap();
    for pid in pids.split_whitespace() {
        assert!(!is_alive(pid), "{pid} lives on");
    }
    assert_eq!(summary(&logs)["results"].as_array().unwrap().len(), 12);
}

/// As in `portlatch exec ... | head`.
#[tokio::test]
async fn where_nobody_reads_any_more_all_that_runs_is_ended_and_summed_up() {
    let (machine, _person, mut agent, logs) = machine(2, "auto").await;
    let (pids, gate) = (machine.directory.path().join("pids"), machine.directory.path().join("gate"));
    // One ends, which nobody can be told; the other has started a command that does not listen.
    let script = format!(
        "if [ {{name}} = db-0 ]; then until [ -e {} ]; do sleep 0.02; done; exit; fi; \
         sh -c 'trap \"\" TERM; sleep 1000' & echo $! $$ >>{}; wait",
        gate.display(),
        pids.display()
    );
    let exec = machine.start(&arguments(&logs, &["--yes"], &["sh", "-c", &script]));
    agent.tunnel_for_command().await;
    let running = async {
        while !std::fs::read_to_string(&pids).unwrap_or_default().ends_with('\n') {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, running).await.expect("one runs");
    // Its output is closed first.
    let (output, ()) = tokio::join!(exec.unread(), async { std::fs::write(&gate, "").unwrap() });
    assert!(!output.status.success());
    let pids = std::fs::read_to_string(&pids).unwrap();
    let ended = async {
        while pids.split_whitespace().any(is_alive) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, ended).await.expect("what it started is ended");
    let summary = summary(&logs);
    let statuses: Vec<&Value> =
        summary["results"].as_array().unwrap().iter().map(|result| &result["status"]).collect();
    assert_eq!(statuses, ["stopped", "succeeded"]);
}

#[tokio::test]
async fn for_programs_there_is_json_and_nothing_else_on_standard_output() {
    let (machine, _person, mut agent, _) = machine(2, "auto").await;
    let more = ["5432", "--yes", "--json", "--", "sh", "-c", "printf 'one\ntwo'"];
    let exec = machine.start(&[&CHOICE[..], &more].concat());
    agent.tunnel_for_command().await;
    let output = exec.ends().await;
    assert!(output.status.success());
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(summary["succeeded"], json!(2));
    assert_eq!(summary["results"][0]["output"], json!(null));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    for line in ["billing-db: one", "billing-db: two", "db-0: two", "Tap your security key"] {
        assert!(told.contains(line), "{told}");
    }
}

/// As `ssh` does with ControlPersist, and `sh -c 'x &'`.
#[tokio::test]
async fn what_a_command_leaves_behind_with_its_output_is_not_waited_for() {
    let (machine, _person, mut agent, _) = machine(1, "auto").await;
    let left = machine.directory.path().join("pid");
    // One that is silent, one that now and then has something to say, and one that writes without end.
    let script = "echo one; echo two >&2; sleep 60 & echo $! >>LEFT; while sleep 0.2; do echo more; done & echo $! >>LEFT; \
        yes \"$(printf %4000s x)\" >&2 & echo $! >>LEFT";
    let script = script.replace("LEFT", left.to_str().unwrap());
    let more = ["5432", "--yes", "--json", "--", "sh", "-c", &script];
    let exec = machine.start(&[&CHOICE[..], &more].concat());
    agent.tunnel_for_command().await;
    let output = exec.ends().await;
    for left in std::fs::read_to_string(left).unwrap().lines() {
        // Whoever writes where nobody reads has ended by itself.
        let left = rustix::process::Pid::from_raw(left.parse().unwrap()).unwrap();
        let _ = rustix::process::kill_process(left, Signal::KILL);
    }
    assert!(output.status.success());
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    for line in ["billing-db: one", "billing-db: two"] {
        assert!(told.contains(line), "{told}");
    }
}

#[tokio::test]
async fn where_the_first_resource_s_proxy_is_down_the_others_are_reached() {
    let (machine, _person, mut agent, logs) = machine(3, "auto").await;
    let exec = machine.start(&arguments(&logs, &["--yes"], &["true"]));
    for down in ["db/billing-db", "db/db-0"] {
        let ToDaemon::TunnelWanted(request, resource) = agent.next().await else {
            panic!("no tunnel wanted")
        };
        assert_eq!(resource.to_string(), down);
        agent.send(ToAgent::Cancel(request, RefusalReason::NoProxy)).await;
    }
    agent.tunnel_for_command().await;
    assert!(exec.ends().await.status.success());
    let exec = machine.start(&arguments(&logs, &["--yes"], &["true"]));
    for _ in 0..3 {
        let ToDaemon::TunnelWanted(request, _) = agent.next().await else { panic!("no tunnel wanted") };
        agent.send(ToAgent::Cancel(request, RefusalReason::NoProxy)).await;
    }
    let output = exec.ends().await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        complaint(&output).contains("no proxy of this resource can be reached"),
        "{}",
        complaint(&output)
    );
}

#[tokio::test]
async fn a_person_says_yes_at_the_terminal_and_a_command_does_not_get_it() {
    use crate::support::tty::Tty;
    let (machine, _person, mut agent, logs) = machine(2, "auto").await;
    let mut terminal = Tty::start(&machine, &arguments(&logs, &[], &["true"]), 100);
    terminal.shows("Proceed with 2 resources? Type y and Enter.").await;
    terminal.types("n\r").await;
    terminal.shows("nothing was run").await;
    terminal.ends().await;
    let script = "read line </dev/tty";
    let mut terminal = Tty::start(&machine, &arguments(&logs, &[], &["sh", "-c", script]), 100);
    terminal.shows("Proceed with 2 resources?").await;
    terminal.types("y\r").await;
    agent.tunnel_for_command().await;
    terminal.shows("billing-db: failed: it wanted to read from the terminal").await;
    terminal.shows("Summary: 0 of 2 succeeded.").await;
    terminal.ends().await;
    assert!(terminal.echoes());
}

/// C: ten kilobytes of argv with ANSI, bidi, newline and `<b>`: what a command is called in a prompt is short, whatever it
/// says to its resource; that may be a password, and goes nowhere.
#[tokio::test]
async fn a_prompt_shows_the_program_short_and_safe_and_nothing_of_its_arguments() {
    let (machine, mut person, mut agent, _) = machine(1, "never").await;
    let evil = format!("<b>\u{1b}[31m\u{202e}x\n{}", "y".repeat(200));
    let program = machine.directory.path().join(&evil);
    std::fs::write(&program, "").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let secret = format!("--password=hunter2{}", "z".repeat(10_000));
    let program = program.to_str().unwrap();
    let exec = machine.start(&[&CHOICE[..], &["5432", "--yes", "--", program, &secret]].concat());
    agent.tunnel_for_command().await;
    let prompt = person.sees("Tap your security key").await;
    let command =
        prompt.trim_start_matches("Tap your security key: ").split(", pid").next().unwrap().to_owned();
    assert_eq!(command.chars().count(), 64, "{command:?}");
    assert!(command.starts_with("portlatch exec /"), "{command:?}");
    assert!(!command.contains(|c: char| c.is_control() || c == '\u{202e}'), "{command:?}");
    let status = tokio::select! {
        status = machine.status() => status,
        () = agent.idle() => unreachable!(),
    };
    assert!(!status.to_string().contains("hunter2"), "{status}");
    assert_eq!(status["prompts"][0]["program"], json!(command));
    person.types("d").await;
    assert_eq!(exec.ends().await.status.code(), Some(3));
    assert!(!text(&person.ends_now().await.stdout).contains("hunter2"));
}

/// A command that says that it has begun, and ends once there is this file.
#[cfg(feature = "test-clock")]
fn waiting_for(gate: &Path, begun: &Path) -> String {
    format!("echo >>{}; until [ -e {} ]; do sleep 0.02; done", begun.display(), gate.display())
}

/// Waits until as many of them run as may at once.
#[cfg(feature = "test-clock")]
async fn ten_run(begun: &Path) {
    let running = async {
        while std::fs::read_to_string(begun).unwrap_or_default().lines().count() < 10 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, running).await.expect("ten run");
}

#[cfg(feature = "test-clock")]
#[tokio::test]
async fn what_begins_after_the_tap_s_five_minutes_needs_another_one() {
    let (machine, _person, mut agent, logs) = machine(11, "auto").await;
    let gate = machine.directory.path().join("gate");
    let begun = machine.directory.path().join("begun");
    let script = waiting_for(&gate, &begun);
    let mut exec = machine.start(&arguments(&logs, &["--yes"], &["sh", "-c", &script]));
    agent.tunnel_for_command().await;
    ten_run(&begun).await;
    machine.move_clock(&exec, 296);
    exec.sees("The tap serves no more: the rest needs another one").await;
    std::fs::write(gate, "").unwrap();
    agent.tunnel_for_command().await;
    exec.sees("db-9 - ").await;
    exec.sees("Summary: 11 of 11 succeeded.").await;
    assert_eq!(machine.control.challenges(), 2);
}

/// Whoever has had enough while the second tap is asked for is heard at once.
#[cfg(feature = "test-clock")]
#[tokio::test]
async fn interrupting_the_second_tap_ends_it_all() {
    let (machine, mut person, mut agent, logs) = machine(11, "enter").await;
    let gate = machine.directory.path().join("gate");
    let begun = machine.directory.path().join("begun");
    let script = waiting_for(&gate, &begun);
    let mut exec = machine.start(&arguments(&logs, &["--yes"], &["sh", "-c", &script]));
    agent.tunnel_for_command().await;
    exec.sees("Press Enter").await;
    exec.types("").await;
    person.sees("Granted: portlatch exec").await;
    // The person is told first. The tap's time counts from when exec hears of it, and so must not have passed before.
    ten_run(&begun).await;
    machine.move_clock(&exec, 296);
    exec.sees("The tap serves no more").await;
    std::fs::write(gate, "").unwrap();
    agent.tunnel_for_command().await;
    exec.sees("Press Enter").await;
    exec.signal(Signal::INT);
    let output = exec.ends().await;
    assert_eq!(output.status.code(), Some(130));
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(shown.lines().last(), Some("Summary: 10 of 11 succeeded, 1 not started."));
}
