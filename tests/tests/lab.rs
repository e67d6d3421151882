//! End to end, with the real binaries, a real TUN, real servers and unchanged clients. One lab for each test; without
//! root a test says that it is skipped.

#![expect(clippy::unwrap_used, reason = "what stands beside a test is a test's too")]

mod lab {
    mod bad_input;
    mod bulk;
    mod crashes;
    mod crowds;
    mod edges;
    mod exec;
    mod explaining;
    mod holding;
    mod locked_screen;
    mod modified_clients;
    mod names;
    mod pid_reuse;
    mod programs;
    mod prompting;
    mod real_clients;
    mod refusals;
    mod resilience;
    mod revocation;
    mod roles;
    mod secrets;
    mod taps;
    mod trust;
    mod wire;
}
