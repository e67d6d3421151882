//! The pages in a real Chromium, with virtual security keys, on a real `portlatch-proxy`. Without Chromium a test says that
//! it is skipped. Pictures of every page are kept in `TARGET/browser-artefacts`.
//!
//! Letters and numbers in comments are cases of the list in the notes on MFA, section 8.

#![expect(clippy::unwrap_used, reason = "what stands beside a test is a test's too")]

mod browser {
    mod approving;
    mod device_login;
    mod enrolling;
    mod guarding;
    mod keys;
    mod people;
    mod reading;
}
