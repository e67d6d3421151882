//! See `fuzz_frames`. The source itself and not `portlatch-tests`: with its few crates this is built in a minute.
#![no_main]

#[path = "../../src/fuzz_targets"]
mod fuzz_targets {
    pub mod frames;
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz_targets::frames::fuzz_frames(bytes));
