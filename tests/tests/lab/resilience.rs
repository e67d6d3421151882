//! Cut or lost, and the end of a proxy that is told to stop: what becomes of flows, with the real binaries.

use std::time::{Duration, Instant};

use portlatch_tests::lab::program::{Outcome, Program};
use portlatch_tests::lab::{Account::*, Host, Lab, LabOptions, PATIENCE, Part, Taps, Way, start, wait_for};
use rustix::process::Signal;

/// Within so long a lost proxy's flows are reset (design section 11).
const LOST: Duration = Duration::from_secs(5);
/// What a machine may be late that has other things to do.
const SLACK: Duration = Duration::from_secs(3);
/// A cut that keeps every flow (design section 11).
const CUT: Duration = Duration::from_secs(20);
/// What is refused because nobody can serve is refused at once.
const AT_ONCE: Duration = Duration::from_secs(1);
/// No proxy reachable within this time is no proxy (design section 4).
const REACH: Duration = Duration::from_secs(5);
/// What running flows have when a proxy is told to stop (design section 11).
const DRAIN: Duration = Duration::from_secs(300);
/// Large enough to be under way for a while, and to have an end.
const BULK: &str = "400000000";
/// What a bulk transfer takes on a busy machine, with a cut in it after which QUIC tries again as late as the cut was
/// long.
const TRANSFER: Duration = Duration::from_secs(180);

/// A program that talks with the echo server, connected.
fn talker(lab: &Lab) -> Program {
    let mut program = lab.program(Jerry, &["talk", "peer.corp.internal", "6432"]);
    assert_eq!(program.read_line(PATIENCE), "connected");
    assert_talks(&mut program, "hello");
    program
}

fn assert_talks(program: &mut Program, word: &str) {
    program.write_line(word);
    assert_eq!(program.read_line(Duration::from_secs(45)), word);
}

/// A program that only reads, connected.
fn reader(lab: &Lab) -> Program {
    let mut program = lab.program(Jerry, &["listen", "peer.corp.internal", "6439"]);
    assert_eq!(program.read_line(PATIENCE), "connected");
    program
}

/// Bulk both ways, under way.
fn bulk(lab: &Lab) -> [Program; 2] {
    let programs = [
        lab.program(Jerry, &["half-close", "peer.corp.internal", "6433", BULK]),
        lab.program(Jerry, &["download", "peer.corp.internal", "6434", BULK]),
    ];
    let are_under_way = |session: &&serde_json::Value| session["port"] == 6433 || session["port"] == 6434;
    wait_for("bytes under way", PATIENCE, || {
        (sessions(lab).iter().filter(are_under_way).count() == 2).then_some(())
    });
    programs
}

/// The sessions that the proxy has now.
fn sessions(lab: &Lab) -> Vec<serde_json::Value> {
    let listed = lab.administer(&["sessions", "--json"]).json();
    listed.as_array().expect("sessions are a list").clone()
}

/// Tells the proxy to stop, and waits until it has heard.
fn stop(lab: &Lab) {
    let said = || lab.log("portlatch-proxy").matches("stopping: no new sessions").count();
    let before = said();
    lab.signal(Part::Proxy, Signal::TERM);
    wait_for("the proxy to drain", PATIENCE, || (said() > before).then_some(()));
}

fn assert_ends(lab: &Lab) {
    wait_for("the proxy's end", PATIENCE, || lab.has_ended(Part::Proxy).then_some(()));
}

/// The user's machine has another address from now on, as after a walk to another network.
fn renumber(lab: &Lab, old: &str, new: &str) {
    let commands = format!(
        "ip address del {old}/24 dev eth0; ip address add {new}/24 dev eth0
         ip route replace default via 192.0.2.1"
    );
    lab.run(Host::User, Root, &["sh", "-euc", &commands]).expect_success();
}

fn assert_whole(programs: [Program; 2]) {
    for program in programs {
        let outcome = program.finish(TRANSFER).expect_success();
        assert_eq!(outcome.json()["same"], true, "{outcome}");
    }
}

/// A new connection's fate, and how long it took to be known.
fn connect(lab: &Lab) -> (String, Duration) {
    let outcome: Outcome = lab.program(Jerry, &["connect", "peer.corp.internal", "6432"]).finish(PATIENCE);
    let seen = outcome.json();
    let millis = seen[0]["ms"].as_f64().expect("a time");
    (seen[0]["result"].as_str().expect("a word").to_owned(), Duration::from_secs_f64(millis / 1000.0))
}

fn assert_refused_at_once(lab: &Lab) {
    let (result, took) = connect(lab);
    assert!(result == "host unreachable" && took < AT_ONCE + SLACK, "{result} after {took:?}");
}

fn assert_served(lab: &Lab) {
    wait_for("the way to be open", PATIENCE, || (connect(lab).0 == "connected").then_some(()));
}

#[test]
fn a_killed_proxy_resets_all_its_flows_within_five_seconds_and_one_started_again_serves_at_once() {
    let Some(lab) = start(LabOptions::default()) else { return };
    let (mut talks, mut reads) = (talker(&lab), reader(&lab));
    // Whatever a new tunnel says by itself has been said.
    std::thread::sleep(Duration::from_secs(2));
    let begin = Instant::now();
    lab.kill(Part::Proxy);
    talks.write_line("anybody there?");
    for (program, what) in [(&mut talks, "talks"), (&mut reads, "only reads")] {
        let end = program.read_line(LOST + SLACK);
        assert!(end.starts_with("reset"), "the one that {what}: {end}");
        assert!(begin.elapsed() < LOST + SLACK, "the one that {what}: {:?}", begin.elapsed());
    }

    lab.restart(Part::Proxy, Taps::Auto);
    assert_served(&lab);
    // Killed and started again before anybody could be refused: the new process itself resets what it does not know.
    let mut reads = reader(&lab);
    std::thread::sleep(Duration::from_secs(2));
    lab.kill(Part::Proxy);
    let begin = Instant::now();
    lab.restart(Part::Proxy, Taps::Auto);
    let end = reads.read_line(LOST + SLACK);
    assert!(end.starts_with("reset") && begin.elapsed() < LOST + SLACK, "{end} after {:?}", begin.elapsed());
    assert_served(&lab);
}

#[test]
fn a_cut_of_twenty_seconds_keeps_every_flow_and_refuses_new_ones_in_five() {
    let Some(lab) = start(LabOptions { way: Way::Wire, ..LabOptions::default() }) else { return };
    let (mut talks, mut reads) = (talker(&lab), reader(&lab));
    let bulk = bulk(&lab);
    lab.order("cut");
    let begin = Instant::now();
    talks.write_line("into the cut");
    let (result, took) = connect(&lab);
    assert!(result == "host unreachable" && took < REACH + SLACK, "{result} after {took:?}");
    std::thread::sleep(CUT.saturating_sub(begin.elapsed()));
    assert!(talks.is_running() && reads.is_running());
    lab.order("mend");
    assert_served(&lab);
    assert_eq!(talks.read_line(CUT), "into the cut");
    assert_talks(&mut talks, "after the cut");
    assert_whole(bulk);
    assert!(reads.is_running());
    lab.program(Jerry, &["provoke", "peer.corp.internal", "6435"]).finish(PATIENCE).expect_success();
}

/// At the proxy's host: counts packets that a narrow way would not carry.
const COUNT_LARGE: &str = "
    nft add table inet path
    nft add chain inet path in '{ type filter hook input priority 0; }'
    nft add rule inet path in udp dport 443 meta length gt 1280 counter";

/// No probes any more, but the transfer.
const MANY: u64 = 1000;

/// How many of those have come.
fn large(lab: &Lab) -> u64 {
    let list = ["nft", "--json", "list", "table", "inet", "path"];
    let told = lab.run(Host::Proxy, Root, &list).expect_success().json();
    let objects = told["nftables"].as_array().expect("nft lists objects");
    let rule = objects.iter().find_map(|object| object["rule"]["expr"].as_array()).expect("the rule");
    rule.iter().find_map(|part| part["counter"]["packets"].as_u64()).expect("the rule counts")
}

#[test]
fn a_way_that_gets_narrow_without_a_word_keeps_every_flow() {
    let Some(lab) = start(LabOptions { way: Way::Wire, ..LabOptions::default() }) else { return };
    lab.run(Host::Proxy, Root, &["sh", "-euc", COUNT_LARGE]).expect_success();
    let mut talks = talker(&lab);
    let bulk = bulk(&lab);
    // The user's end has found out that the way takes more.
    wait_for("large packets", PATIENCE, || (large(&lab) > MANY).then_some(()));
    lab.order("largest 1280");
    assert_eq!(sessions(&lab).len(), 3, "all are under way");
    assert_talks(&mut talks, "through the narrow");
    assert_whole(bulk);
    assert_talks(&mut talks, "still here");
    assert_served(&lab);
}

#[test]
fn a_change_of_the_clients_address_keeps_every_flow() {
    let Some(lab) = start(LabOptions::default()) else { return };
    let (mut talks, mut reads) = (talker(&lab), reader(&lab));
    let bulk = bulk(&lab);
    for (old, new) in [("192.0.2.10", "192.0.2.11"), ("192.0.2.11", "192.0.2.12")] {
        renumber(&lab, old, new);
        let begin = Instant::now();
        assert_talks(&mut talks, new);
        assert!(begin.elapsed() < LOST + SLACK, "silent for {:?} at {new}", begin.elapsed());
        assert_eq!(connect(&lab).0, "connected");
    }
    assert_whole(bulk);
    assert!(reads.is_running());
}

#[test]
fn a_proxy_that_is_told_to_stop_ends_no_flow_before_its_deadline_and_takes_no_new_one() {
    let Some(lab) = start(LabOptions::default()) else { return };
    let mut talks = talker(&lab);
    let bulk = bulk(&lab);
    stop(&lab);
    assert_refused_at_once(&lab);
    assert_whole(bulk);
    assert_talks(&mut talks, "still here");
    assert!(!lab.has_ended(Part::Proxy), "it ended under a flow");
    // With the last flow the process ends, long before the deadline.
    drop(talks);
    assert_ends(&lab);
    lab.restart(Part::Proxy, Taps::Auto);
    assert_served(&lab);
}

/// Talks until the reset: what was on its way before the proxy heard of its end still comes back.
fn assert_reset(talks: &mut Program, text: &str) {
    let deadline = Instant::now() + LOST + SLACK;
    loop {
        talks.write_line(text);
        match talks.read_line(LOST + SLACK).as_str() {
            "reset" => return,
            answer => assert_eq!(answer, text),
        }
        assert!(Instant::now() < deadline, "no reset");
    }
}

#[test]
fn a_stopping_proxy_ends_its_flows_at_its_deadline_or_when_it_is_told_twice() {
    let Some(lab) = start(LabOptions::default()) else { return };
    let mut talks = talker(&lab);
    stop(&lab);
    assert_talks(&mut talks, "told once");
    lab.signal(Part::Proxy, Signal::TERM);
    assert_reset(&mut talks, "told twice");
    assert_ends(&lab);

    lab.restart(Part::Proxy, Taps::Auto);
    assert_served(&lab);
    let mut talks = talker(&lab);
    stop(&lab);
    lab.move_clock(DRAIN.saturating_sub(Duration::from_secs(20)));
    assert_talks(&mut talks, "at the last moment");
    lab.move_clock(DRAIN);
    assert_reset(&mut talks, "after it");
    assert_ends(&lab);

    lab.restart(Part::Proxy, Taps::Auto);
    let stopped = lab.audit().into_iter().filter(|record| record["reason"] == "proxy_stopped").count();
    assert_eq!(stopped, 2);
    lab.assert_audit_verifies();
}
