//! A bad network: delay, jitter, loss, reordering, duplication, packets too large for the way, and cuts.
//!
//! The [`Wire`] is pure: packets and time in, packets and the next deadline out. What it does to a packet is written in a
//! [`Story`] that follows from a seed alone: the same seed is the same story, whatever the time and whatever goes the
//! other way, but that a pause ends a burst of losses. So a run that fails names its seed, and can be run again alone.
//! (What the packets are is the programs' and the kernel's doing, and differs a little from run to run.)
//!
//! Two shells put it between things that know nothing of it: [`stack_side`] between the kernel's TCP and our netstack, in
//! one process, and [`between`] between two hosts of the lab, as a process of its own (`src/bin/wire.rs`).

pub mod between;
pub mod dice;
pub mod program;
pub mod schedule;
pub mod server;
pub mod stack_side;
pub mod story;
pub mod transfer;

pub use dice::Dice;
pub use schedule::Wire;
pub use story::{Direction, Story, Weather};

/// Which seeds a test runs: so many, or more with `PORTLATCH_NIGHTLY=1`; with `PORTLATCH_SEED=N` that one alone, with
/// `PORTLATCH_SEED=N..M` those from N to before M.
///
/// # Panics
/// If `PORTLATCH_SEED` is none of it.
pub fn seeds(usual: u64, nightly: u64) -> Vec<u64> {
    let number = |text: &str| text.parse::<u64>().expect("PORTLATCH_SEED is N or N..M");
    match std::env::var("PORTLATCH_SEED") {
        Ok(seed) => match seed.split_once("..") {
            Some((first, end)) => (number(first)..number(end)).collect(),
            None => vec![number(&seed)],
        },
        Err(_) => (0..if is_nightly() { nightly } else { usual }).collect(),
    }
}

/// Whether the long modes are wanted.
pub fn is_nightly() -> bool {
    std::env::var_os("PORTLATCH_NIGHTLY").is_some_and(|value| value == "1")
}
