//! Random stories of packets, commands and time against the reference model of flows: `fuzz_targets/sequences`.

use portlatch_tests::fuzz_targets::fuzz_sequences;
use portlatch_tests::wire::is_nightly;
use proptest::prelude::*;
use proptest::test_runner::Config;

/// How many stories are played: forty times as many with `PORTLATCH_NIGHTLY=1`.
fn cases() -> Config {
    let times = if is_nightly() { 40 } else { 1 };
    Config { cases: 1_500 * times, failure_persistence: None, ..Config::default() }
}

/// The beginning of most stories: a ring size, a SYN on some lane, its answer, and the handshake's last segment.
fn opened(ring: u8, lane: u8, number: u8, options: u8) -> Vec<u8> {
    let step = |what: u8| what << 2 | lane & 3;
    vec![ring, step(0), number, options, step(34), step(5)]
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn the_stack_keeps_to_the_model_whatever_happens(
        (ring, lane, number, options) in any::<(u8, u8, u8, u8)>(),
        rest in proptest::collection::vec(any::<u8>(), 0..1_500),
    ) {
        let mut story = opened(ring, lane, number, options);
        story.extend(rest);
        fuzz_sequences(&story);
    }

    #[test]
    fn a_single_lane_keeps_to_the_model_whatever_happens(
        (ring, lane, number, options) in any::<(u8, u8, u8, u8)>(),
        steps in proptest::collection::vec((any::<u8>(), proptest::collection::vec(any::<u8>(), 0..4)), 0..300),
    ) {
        let mut story = opened(ring, lane, number, options);
        for (what, arguments) in steps {
            story.push(what & 0xfc | lane & 3);
            story.extend(arguments);
        }
        fuzz_sequences(&story);
    }
}
