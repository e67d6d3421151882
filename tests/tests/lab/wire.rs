//! Transfers over a bad network between the daemon and the proxy: each with the same bytes at both ends, or a reset where
//! one was made.
//!
//! 8 seeds, or 2,000 with PORTLATCH_NIGHTLY=1; PORTLATCH_SEED=N runs one alone.

use std::time::Duration;

use portlatch_tests::lab::{Account::*, Host, LabOptions, Way, start};
use portlatch_tests::wire::{between, seeds};

/// A seed's transfers have ended by then, one way or the other.
const A_SEED: Duration = Duration::from_secs(90);
/// Connections of one seed.
const CONNECTIONS: &str = "12";

#[test]
fn every_transfer_over_a_bad_way_to_the_proxy_ends_with_the_same_bytes_or_a_reset() {
    let Some(lab) = start(LabOptions { way: Way::Wire, ..LabOptions::default() }) else { return };
    let mut faults = Vec::new();
    for seed in seeds(8, 2000) {
        lab.order(&format!("seed {seed}"));
        let (program, number) = ("/opt/portlatch/lab/transfers.py", seed.to_string());
        let arguments = ["python3", "-I", program, "peer.corp.internal", &number, CONNECTIONS];
        let told = lab.spawn(Host::User, Jerry, &arguments).finish(A_SEED).expect_success().json();
        if told["faults"] != serde_json::json!([]) {
            faults.push(format!("seed {seed}: {} in {:?}", told["faults"], between::story_of(seed)));
        }
    }
    lab.order("clear");
    assert!(faults.is_empty(), "PORTLATCH_SEED=N runs one of them alone\n{}", faults.join("\n"));
    lab.assert_audit_verifies();
}
