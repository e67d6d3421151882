//! The stack from outside: packets in, packets and events out, with time that the tests make.
//!
//! `lab` is the one stack and the wire; `program` is a second smoltcp as the local programs' kernel, where a whole
//! connection matters more than one packet.

#[cfg(test)]
mod again;
#[cfg(test)]
mod arbitrary;
#[cfg(test)]
mod closing;
#[cfg(test)]
mod floods;
#[cfg(test)]
mod handshake;
#[cfg(test)]
mod lab;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod options;
#[cfg(test)]
mod panics;
#[cfg(test)]
mod paths;
#[cfg(test)]
mod program;
#[cfg(test)]
mod raw;
#[cfg(test)]
mod replies;
#[cfg(test)]
mod sequence;
#[cfg(test)]
mod states;
#[cfg(test)]
mod transfer;
#[cfg(test)]
mod windows;

/// How many cases of a property are tried: forty times as many with `PORTLATCH_NIGHTLY=1`.
#[cfg(test)]
fn cases(cases: u32) -> proptest::test_runner::Config {
    let is_nightly = std::env::var_os("PORTLATCH_NIGHTLY").is_some_and(|value| value == "1");
    let times = if is_nightly { 40 } else { 1 };
    proptest::test_runner::Config { cases: cases * times, failure_persistence: None, ..Default::default() }
}
