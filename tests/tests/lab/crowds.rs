//! Many flows at once: what is stalled slows nobody, what is bulk shares, and what has gone is given back.
//!
//! With `PORTLATCH_NIGHTLY=1` each takes as long as it should, a minute. Else the stalled flows stand for a tenth of that,
//! and the two that take a machine for themselves are skipped.

use std::time::{Duration, Instant};

use portlatch_tests::lab::program::Program;
use portlatch_tests::lab::{
    Account::Jerry, Account::Root, Host, Lab, LabOptions, PATIENCE, Part, median, start, wait_for,
};
use portlatch_tests::wire::is_nightly;

/// A role without limits that anybody here meets; a user's limits are the strictest of all of his roles.
const CROWD: &str = "\
kind: role
version: v7
metadata: {name: access-crowd}
spec:
  options: {max_connections: 60000, max_connection_rate: 60000}
  allow: {app_labels: {env: crowd}}
---
kind: user
metadata: {name: jerry}
spec: {roles: [access-crowd]}
---
kind: app
metadata: {name: crowd, labels: {env: crowd}}
spec:
  uri: tcp://10.0.0.9
  tcp_ports: [{port: 6432, end_port: 6441}, {port: 7000}]
";

/// In which what was freed goes back to the system: the allocator keeps it for 10 s, a flow's pages stay for 5 s.
const SETTLED: Duration = Duration::from_secs(20);

/// Loads go to the servers of `bench`, which the lab does not have by itself.
struct Crowd {
    lab: Lab,
    bench: String,
    _server: Program,
}

impl Crowd {
    fn start() -> Option<Self> {
        let lab = start(LabOptions::default())?;
        lab.apply(CROWD).expect_success();
        let bench = lab.install("bench");
        let server = lab.spawn(Host::Company, Root, &[&bench, "server", "--listen", "10.0.0.9:7000"]);
        let crowd = Self { lab, bench, _server: server };
        wait_for("the servers", PATIENCE, || {
            crowd.load(0, &["probe"]).finish(PATIENCE).status.success().then_some(())
        });
        Some(crowd)
    }

    fn load(&self, seconds: u64, load: &[&str]) -> Program {
        let (target, seconds) = ("crowd.corp.internal:7000", seconds.to_string());
        let arguments = [&[&self.bench, "load", "--target", target, "--seconds", &seconds], load].concat();
        self.lab.spawn(Host::User, Jerry, &arguments)
    }

    /// A task that panics ends one flow and nothing else, so that only the log knows.
    fn assert_nothing_broke(&self) {
        for process in ["portlatchd", "portlatch-proxy"] {
            let log = self.lab.log(process);
            assert!(!log.contains("panicked"), "{process}: {log}");
        }
    }

    /// Memory while so many flows are held, beside which new ones come for so many seconds; they are gone afterwards.
    fn holds(&self, flows: usize, seconds: u64) -> [u64; 2] {
        let mut held = self.load(0, &["hold"]);
        held.write_line(&flows.to_string());
        held.read_line(PATIENCE * 4);
        if seconds > 0 {
            let new = self.load(seconds, &["crr", "--parallel", "16"]).finish(PATIENCE * 4).expect_success();
            let rate = new.json()["per_second"].as_f64().unwrap();
            told(&format!("{rate} new connections a second"));
            assert!(rate > 0.0, "{new}");
        }
        assert!(held.is_running());
        let full = self.memory();
        // Its input ends, and with it what it holds.
        held.finish(PATIENCE * 2).expect_success();
        full
    }

    fn memory(&self) -> [u64; 2] {
        [self.lab.memory(Part::Daemon), self.lab.memory(Part::Proxy)]
    }

    /// Memory once it is within a tenth of what it was, or after so long.
    fn memory_back_to(&self, before: [u64; 2], patience: Duration) -> [u64; 2] {
        let end = Instant::now() + patience;
        loop {
            let now = self.memory();
            let is_back = now.into_iter().zip(before).all(|(now, before)| now * 10 <= before * 11);
            if is_back || Instant::now() > end {
                return now;
            }
            std::thread::sleep(Duration::from_secs(1));
        }
    }
}

/// A minute, or a tenth of it.
fn minute() -> u64 {
    if is_nightly() { 60 } else { 6 }
}

/// A crowd that needs the whole machine.
fn large() -> Option<Crowd> {
    if is_nightly() {
        return Crowd::start();
    }
    told("skipped: a test for nights, PORTLATCH_NIGHTLY=1");
    None
}

#[expect(clippy::print_stdout, reason = "what println prints is what a test's runner captures and shows")]
fn told(text: &str) {
    println!("{text}");
}

#[test]
fn sixty_four_stalled_flows_leave_fifty_others_their_latency() {
    let Some(crowd) = Crowd::start() else { return };
    let p99 = || {
        let requests = ["requests", "crowd.corp.internal", "6432", "50", "2"];
        let told = crowd.lab.program(Jerry, &requests).finish(PATIENCE).expect_success().json();
        told["p99"].as_f64().unwrap()
    };
    let tries = usize::try_from(minute() / 2).unwrap();
    p99();
    let alone = median((0..tries).map(|_| p99()).collect());
    let mut stalled = crowd.lab.program(Jerry, &["stall", "crowd.corp.internal", "32"]);
    assert_eq!(stalled.read_line(PATIENCE * 2), "stalled");
    let beside = median((0..tries).map(|_| p99()).collect());
    assert!(stalled.is_running());
    // Where others use the machine too, single milliseconds say nothing; a flow that waits for a stalled one waits for
    // seconds.
    let noise = if is_nightly() { 0.0 } else { 20_000.0 };
    assert!(
        beside < (alone * 2.0).max(noise),
        "p99 is {alone} us alone and {beside} us beside stalled flows"
    );
}

#[test]
fn five_hundred_bulk_flows_share_what_there_is_and_all_end() {
    let Some(crowd) = large() else { return };
    for direction in ["up", "down"] {
        let bulk = crowd.load(minute(), &["bulk", "--direction", direction, "--flows", "512"]);
        let figures = bulk.finish(PATIENCE * 4).expect_success().json();
        told(&format!("512 flows {direction}: {figures}"));
        assert!(figures["fairness"].as_f64().unwrap() > 0.8, "{direction}: {figures}");
    }
    wait_for("every session's end", PATIENCE, || {
        (crowd.lab.count("session.end") == crowd.lab.count("session.start")).then_some(())
    });
    crowd.assert_nothing_broke();
}

#[test]
fn ten_thousand_flows_stay_beside_a_stream_of_new_ones_and_their_memory_comes_back() {
    let Some(crowd) = large() else { return };
    // The tunnel, what is kept for a few flows, and the caches of the audit's database, which know no crowds.
    crowd.holds(100, minute() / 4);
    std::thread::sleep(SETTLED);
    let before = crowd.memory();
    let full = crowd.holds(10_000, minute());
    let after = crowd.memory_back_to(before, Duration::from_secs(60));
    told(&format!("[daemon, proxy] held {before:?} bytes before, {full:?} with the flows, {after:?} after"));
    for (before, after) in before.into_iter().zip(after) {
        assert!(after * 10 <= before * 11, "{after} bytes are left of what were {before}");
    }
    crowd.assert_nothing_broke();
    assert!(full[0] < before[0] + 10_000 * 64 * 1024, "the daemon held {full:?} after {before:?}");
}
