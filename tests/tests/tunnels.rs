//! Random orders of events on tunnels against the reference model of both ends: `fuzz_targets/tunnels`.
//!
//! G: no byte before a verified grant. A session begins, at the proxy, where the model knows of a grant that is good for
//! it at that moment, and nowhere else; and it goes on for as long as nothing that control says stands against it.

use portlatch_tests::fuzz_targets::fuzz_tunnels;
use portlatch_tests::wire::is_nightly;
use proptest::prelude::*;
use proptest::test_runner::Config;

/// How many stories are played: forty times as many with `PORTLATCH_NIGHTLY=1`.
fn cases() -> Config {
    let times = if is_nightly() { 40 } else { 1 };
    Config { cases: 200 * times, failure_persistence: None, ..Config::default() }
}

/// What may happen at the proxy: streams with any grant, with an altered one and with a good one, that begin, end and are
/// killed, a tunnel that is lost, control's word, and time. Good grants and beginnings come most often: without them
/// nothing can be ended.
const AT_THE_PROXY: [u8; 20] =
    [19, 20, 21, 21, 22, 22, 23, 23, 21, 22, 24, 24, 25, 25, 26, 27, 29, 30, 34, 36];

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn flows_and_sessions_keep_to_the_model_in_any_order(
        is_heard in any::<u8>(),
        steps in proptest::collection::vec(any::<[u8; 3]>(), 0..250),
    ) {
        let mut story = vec![is_heard];
        story.extend(steps.as_flattened());
        fuzz_tunnels(&story);
    }

    #[test]
    fn no_session_begins_or_goes_on_without_a_verified_grant(
        is_heard in any::<u8>(),
        steps in proptest::collection::vec(
            (proptest::sample::select(&AT_THE_PROXY[..]), any::<u8>(), any::<u8>()),
            0..500,
        ),
    ) {
        let mut story = vec![is_heard];
        story.extend(steps.into_iter().flat_map(|(what, number, how)| [what, number, how]));
        fuzz_tunnels(&story);
    }
}
