//! The kernel as the other side: its TCP on one end, our netstack on the other, and a bad network between them. Every
//! transfer must end with the same bytes, or with a reset where one was made, at both ends; never with silence, and
//! never with other bytes.
//!
//! 50 seeds, or 2,000 with PORTLATCH_NIGHTLY=1. A seed that fails is named, and PORTLATCH_SEED=N runs it alone.

#![expect(clippy::unwrap_used, reason = "what stands beside a test is a test's too")]

mod wire {
    mod kernel;
}
