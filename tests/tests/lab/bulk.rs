//! Much data: all of it arrives, and who reads slowly holds the sender back instead of filling memory.

use std::time::Duration;

use portlatch_tests::lab::{Account::Jerry, Lab, LabOptions, PATIENCE, Part, start};

const GIB: &str = "1073741824";
/// Long enough for a GiB on a slow machine; a rate is not what is tried here.
const TRANSFER: Duration = Duration::from_secs(120);
/// Rings, windows and buffers of one flow, in any part, with room to spare.
const ONE_FLOW: u64 = 64 * 1024 * 1024;
/// What rings, windows and socket buffers between both ends may take in, before the sender waits for the reader.
const ON_THE_WAY: u64 = 64 * 1024 * 1024;

#[test]
fn a_gib_up_is_the_same_gib() {
    let Some(lab) = start(LabOptions::default()) else { return };
    let outcome = lab.program(Jerry, &["half-close", "peer.corp.internal", "6433", GIB]).finish(TRANSFER);
    assert_eq!(outcome.expect_success().json()["same"], true);
}

#[test]
fn a_gib_down_is_the_same_gib() {
    let Some(lab) = start(LabOptions::default()) else { return };
    let outcome = lab.program(Jerry, &["download", "peer.corp.internal", "6434", GIB]).finish(TRANSFER);
    assert_eq!(outcome.expect_success().json(), serde_json::json!({"same": true, "bytes": 1_073_741_824}));
}

#[test]
fn a_program_that_reads_slowly_holds_the_server_back() {
    let Some(lab) = start(LabOptions::default()) else { return };
    let before = memory(&lab);
    let slow = lab.program(Jerry, &["slow-download", "peer.corp.internal", "6434", "10"]);
    let outcome = slow.finish(PATIENCE).expect_success();
    let got = outcome.json()["bytes"].as_u64().unwrap();
    assert!((500_000..800_000).contains(&got), "64 KiB/s for 10 s were {got} bytes");
    assert_bounded(&lab, before);
}

#[test]
fn a_server_that_reads_slowly_holds_the_program_back() {
    let Some(lab) = start(LabOptions::default()) else { return };
    let before = memory(&lab);
    let flood = lab.program(Jerry, &["flood", "peer.corp.internal", "6436", "10"]);
    let outcome = flood.finish(PATIENCE).expect_success();
    let sent = outcome.json()["bytes"].as_u64().unwrap();
    assert!(sent < ON_THE_WAY, "{sent} bytes were taken for a reader of 64 KiB/s");
    assert_bounded(&lab, before);
}

fn memory(lab: &Lab) -> [u64; 2] {
    [lab.memory(Part::Daemon), lab.memory(Part::Proxy)]
}

fn assert_bounded(lab: &Lab, before: [u64; 2]) {
    let after = memory(lab);
    for (part, (before, after)) in ["portlatchd", "portlatch-proxy"].iter().zip(before.into_iter().zip(after))
    {
        assert!(after < before + ONE_FLOW, "{part} grew from {before} to {after} bytes");
    }
}
