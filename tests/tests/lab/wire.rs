//! Transfers over a bad network between the daemon and the proxy: each with the same bytes at both ends, or a reset where
//! one was made.
//!
//! 50 seeds, or 2,000 with PORTLATCH_NIGHTLY=1; PORTLATCH_SEED=N runs one alone. Most of a seed's time is waiting for what
//! was lost: so there are several users' machines, each with a wire, a daemon and a tunnel of its own, and each takes the
//! next seed when it has done with one.

use std::cmp::Reverse;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use portlatch_tests::lab::{Account::*, Host, Lab, LabOptions, PATIENCE, Way, start, wait_for};
use portlatch_tests::wire::{between, seeds};
use serde_json::Value;

/// A seed's transfers have ended by then, one way or the other.
const A_SEED: Duration = Duration::from_secs(90);
/// Connections of one seed.
const CONNECTIONS: &str = "12";
/// Seeds beside each other. 50 of them take 10 s so (2 cores, debug build); the lab's start takes as long.
const MACHINES: usize = 6;
/// A grant stands for five minutes. Whether control answers in time over such a way, and whether a proxy is reached within
/// its five seconds, is not what is tried here: a machine gets its tunnel and its grants in fair weather, so often.
const GRANTED: Duration = Duration::from_secs(180);

#[test]
fn every_transfer_over_a_bad_way_to_the_proxy_ends_with_the_same_bytes_or_a_reset() {
    let mut seeds = seeds(50, 2000);
    // What takes longest comes first, so that nobody waits for it at the end.
    seeds.sort_by_key(|seed| Reverse(between::story_of(*seed).weather().loss));
    let machines = u8::try_from(MACHINES.min(seeds.len())).unwrap();
    let Some(lab) = start(LabOptions { way: Way::Wire, machines, ..LabOptions::default() }) else { return };
    let (seeds, results) = (Mutex::new(seeds.into_iter()), Mutex::new(Vec::new()));
    let next = || seeds.lock().unwrap().next();
    std::thread::scope(|scope| {
        for number in 1..=machines {
            let machine = if number == 1 { Host::User } else { Host::Further(number) };
            let (lab, next, results) = (&lab, &next, &results);
            scope.spawn(move || {
                let mut granted: Option<Instant> = None;
                while let Some(seed) = next() {
                    if granted.is_none_or(|granted| granted.elapsed() > GRANTED) {
                        granted = Some(Instant::now());
                        results.lock().unwrap().push(in_fair_weather(lab, machine));
                    }
                    results.lock().unwrap().push(run(lab, machine, seed));
                }
                lab.order_wire_of(machine, "clear");
            });
        }
    });
    let results = results.into_inner().unwrap();
    let faults: Vec<_> = results.iter().filter_map(|result| result.fault.as_deref()).collect();
    assert!(faults.is_empty(), "PORTLATCH_SEED=N runs one of them alone\n{}", faults.join("\n"));
    assert_servers_saw_resets(&lab, results.iter().map(|result| result.aborted).sum());
    wait_for("every session's end", PATIENCE, || {
        (lab.count("session.end") == lab.count("session.start")).then_some(())
    });
    lab.assert_audit_verifies();
}

/// What came of some connections.
struct Transfers {
    /// How many of them the program has reset.
    aborted: usize,
    fault: Option<String>,
}

/// One connection of each kind.
fn in_fair_weather(lab: &Lab, machine: Host) -> Transfers {
    lab.order_wire_of(machine, "clear");
    let told = transfers(lab, machine, "fair", "each");
    Transfers::of(&told, || format!("{machine:?} in fair weather"))
}

/// One seed's connections.
fn run(lab: &Lab, machine: Host, seed: u64) -> Transfers {
    lab.order_wire_of(machine, &format!("seed {seed}"));
    let told = transfers(lab, machine, &seed.to_string(), CONNECTIONS);
    Transfers::of(&told, || format!("seed {seed} on {machine:?} in {:?}", between::story_of(seed)))
}

/// Runs connections to their ends; what the program tells of them.
#[expect(clippy::print_stdout, reason = "what println prints is what a test's runner captures and shows")]
fn transfers(lab: &Lab, machine: Host, seed: &str, count: &str) -> Value {
    let program = "/opt/portlatch/lab/transfers.py";
    let arguments = ["python3", "-I", program, "peer.corp.internal", seed, count];
    let outcome = lab.spawn(machine, Jerry, &arguments).finish(A_SEED).expect_success();
    println!("seed {seed} on {machine:?}, {:?}: {}", outcome.took, outcome.stdout);
    outcome.json()
}

impl Transfers {
    fn of(told: &Value, which: impl FnOnce() -> String) -> Self {
        let faults = told["faults"].as_array().unwrap();
        let aborted = usize::try_from(told["aborted"].as_u64().unwrap()).unwrap();
        Self { aborted, fault: (!faults.is_empty()).then(|| format!("{}: {faults:?}", which())) }
    }
}

/// What a program aborted must not look whole to its server.
fn assert_servers_saw_resets(lab: &Lab, aborted: usize) {
    let line = "exec 3<>/dev/tcp/10.0.0.9/6440; cat <&3";
    let seen = wait_for("the servers to see every abort", PATIENCE, || {
        let testimony = lab.run(Host::Company, Root, &["bash", "-c", line]).expect_success().stdout;
        (testimony.lines().count() >= aborted).then_some(testimony)
    });
    assert!(seen.lines().all(|line| line.starts_with("reset ")), "{aborted} were aborted:\n{seen}");
    assert_eq!(seen.lines().count(), aborted, "{seen}");
}
