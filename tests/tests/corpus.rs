//! Every committed input goes through its fuzz target: what a fuzzer once found stays found.

use std::fs;
use std::path::Path;

use portlatch_tests::fuzz_targets::TARGETS;

/// Places at which an input is cut, at most; and places in a target's whole corpus, so that a large one takes no longer.
const MOST_CUTS: usize = 16;
const CUTS_IN_ALL: usize = 500;

/// The inputs that are committed for a target.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    entries
        .map(|entry| {
            let path = entry.expect("an entry of the corpus").path();
            (path.display().to_string(), fs::read(&path).expect("a readable input"))
        })
        .collect()
}

#[test]
fn every_committed_input_keeps_every_promise() {
    for (name, target) in TARGETS {
        let inputs = corpus(name);
        assert!(inputs.len() >= 8, "the corpus of {name} has {} inputs", inputs.len());
        for (path, bytes) in inputs {
            println!("{path}");
            target(&bytes);
        }
    }
}

#[test]
fn inputs_cut_short_and_with_a_bit_turned_keep_them_too() {
    for (name, target) in TARGETS {
        let inputs = corpus(name);
        let cuts = (CUTS_IN_ALL / inputs.len()).clamp(1, MOST_CUTS);
        for (number, (path, bytes)) in inputs.into_iter().enumerate() {
            println!("{path}");
            let step = 1 + bytes.len() / cuts;
            // Not all of them at their beginning.
            for end in (number % step..bytes.len()).step_by(step) {
                target(&bytes[..end]);
                let mut turned = bytes.clone();
                turned[end] ^= 1 << (end % 8);
                target(&turned);
            }
        }
    }
}
