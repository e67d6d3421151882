//! See `fuzz_sequences`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| portlatch_tests::fuzz_targets::fuzz_sequences(bytes));
