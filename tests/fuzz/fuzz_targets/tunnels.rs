//! See `fuzz_tunnels`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| portlatch_tests::fuzz_targets::fuzz_tunnels(bytes));
