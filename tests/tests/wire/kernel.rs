//! Programs with the kernel's TCP, the daemon's TUN, the wire, the stack.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use portlatch_tests::own_network::{in_own_network, say, shell};
use portlatch_tests::wire::stack_side::{Ends, PROGRAM4, PROGRAM6, Scene, StackSide, address};
use portlatch_tests::wire::transfer::{End, Plan, Severity};
use portlatch_tests::wire::{Dice, Story, Weather, program, seeds};
use portlatchd::tun::{Tun, TunOptions};

/// Seeds beside each other: some hundreds of connections, and half a gigabyte of rings at most.
const AT_ONCE: usize = 100;
/// A connection that has not ended by then hangs. A lost packet costs a second or more at either end, doubled each time. On
/// a busy machine the kernel has come to believe in round trips of two to eight seconds: of 2,000 seeds two (752 and 1777)
/// took over 150 s then, and 15 s alone.
const PATIENCE: Duration = Duration::from_secs(600);

#[test]
fn every_transfer_over_a_bad_wire_ends_with_the_same_bytes_or_a_reset_at_both_ends() {
    let name =
        "wire::kernel::every_transfer_over_a_bad_wire_ends_with_the_same_bytes_or_a_reset_at_both_ends";
    in_own_network(name, || {
        // What a kernel does against a path that swallows large packets.
        shell("sysctl -qw net.ipv4.tcp_mtu_probing=1");
        let seeds: Vec<u64> = seeds(50, 2000);
        let faults: Vec<String> = seeds.chunks(AT_ONCE).flat_map(run).collect();
        assert!(faults.is_empty(), "PORTLATCH_SEED=N runs one of them alone\n{}", faults.join("\n"));
    });
}

fn open_tun() -> Tun {
    let tun = Tun::open(TunOptions::default()).unwrap();
    shell(&format!(
        "ip addr add {PROGRAM4}/32 dev portlatch0; ip -6 addr add {PROGRAM6}/128 dev portlatch0 nodad
         ip link set portlatch0 up
         ip route add 198.18.0.0/16 dev portlatch0 src {PROGRAM4}
         ip -6 route add fd00:1:2:3::/64 dev portlatch0 src {PROGRAM6}"
    ));
    tun
}

/// A seed's wire and connections.
fn scene(seed: u64) -> Scene {
    let weather = Weather::of_seed(seed);
    let mut dice = Dice::of(seed, 20, 0);
    let largest_up = dice.happens(100).then(|| dice.one_of(&[1500, 4000, 9000]));
    let cut = dice
        .happens(100)
        .then(|| (dice.duration(Duration::from_millis(300)), Duration::from_millis(dice.between(50, 1500))));
    Scene {
        seed,
        story: Story::new(seed, weather),
        largest_up,
        cut,
        plans: Plan::of_seed(seed, Severity::of(&weather)),
    }
}

/// Runs these seeds beside each other; what went wrong.
fn run(seeds: &[u64]) -> Vec<String> {
    let tun = open_tun();
    let begin = Instant::now();
    let scenes: Vec<_> = seeds.iter().map(|seed| scene(*seed)).collect();
    let (ends, is_over) = (Ends::default(), Arc::new(AtomicBool::new(false)));
    let stack_side = {
        let (scenes, ends, is_over) = (scenes.clone(), Arc::clone(&ends), Arc::clone(&is_over));
        std::thread::spawn(move || carry(&tun, scenes, &ends, &is_over))
    };
    let programs: Vec<_> = scenes
        .iter()
        .enumerate()
        .flat_map(|(place, scene)| scene.plans.iter().map(move |plan| (place, *plan)))
        .map(|(place, plan)| {
            let to = address(place, &plan);
            (plan, std::thread::spawn(move || program::run(&plan, to, begin + PATIENCE)))
        })
        .collect();
    let seen: Vec<(Plan, End)> =
        programs.into_iter().map(|(plan, program)| (plan, program.join().unwrap())).collect();
    let connections = seen.len();
    wait_for_servers(&seen, &ends, begin + PATIENCE);
    is_over.store(true, Ordering::Relaxed);
    let left = stack_side.join().unwrap();
    let ends = ends.lock().unwrap_or_else(PoisonError::into_inner);
    let mut faults: Vec<String> = seen.iter().filter_map(|(plan, end)| fault(plan, end, &ends)).collect();
    faults.extend(left.iter().map(|(seed, flows)| format!("seed {seed}: {flows} flows never end")));
    say(&format!("{} seeds, {connections} connections, {:?}", seeds.len(), begin.elapsed()));
    faults
}

/// The stack's thread; the flows that are left long after all is over.
fn carry(tun: &Tun, scenes: Vec<Scene>, ends: &Ends, is_over: &AtomicBool) -> Vec<(u64, usize)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut side = StackSide::new(scenes, ends, Instant::now());
        side.run(tun, |_| is_over.load(Ordering::Relaxed)).await.unwrap();
        let patience = Instant::now() + PATIENCE;
        side.run(tun, |side| side.flows_left().is_empty() || patience < Instant::now()).await.unwrap();
        say(&format!("the longest turn took {:?}", side.longest_turn()));
        side.flows_left()
    })
}

/// A server may hear of the end after its program.
fn wait_for_servers(seen: &[(Plan, End)], ends: &Ends, deadline: Instant) {
    let is_there = |plan: &Plan| {
        ends.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&(plan.seed, plan.number))
    };
    let waits = |plan: &Plan| plan.ends().1.is_some() && !is_there(plan);
    // Whoever is missing after it is told as a fault.
    while seen.iter().any(|(plan, _)| waits(plan)) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn fault(plan: &Plan, program: &End, ends: &HashMap<(u64, u64), End>) -> Option<String> {
    let server = ends.get(&(plan.seed, plan.number));
    let (of_program, of_server) = plan.ends();
    let is_right = *program == of_program && server == of_server.as_ref();
    (!is_right).then(|| {
        let weather = scene(plan.seed);
        format!(
            "seed {}: the program saw {program:?} and the server {server:?} of {plan:?}\n  in {:?}, {:?}, {:?}",
            plan.seed, weather.story, weather.largest_up, weather.cut
        )
    })
}
