//! Every committed input goes through its fuzz target: what a fuzzer once found stays found.

use std::fs;
use std::path::Path;

use portlatch_tests::fuzz_targets::TARGETS;

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
        for (path, bytes) in corpus(name) {
            println!("{path}");
            for end in (0..bytes.len()).step_by(1 + bytes.len() / 16) {
                target(&bytes[..end]);
                let mut turned = bytes.clone();
                turned[end] ^= 1 << (end % 8);
                target(&turned);
            }
        }
    }
}
