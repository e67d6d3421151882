//! What foreign bytes meet, as plain functions: `scripts/fuzz` drives them with cargo-fuzz, and an ordinary test
//! (`tests/corpus.rs`) feeds them every committed input of `fuzz/corpus`. A target panics where a promise is broken.

use portlatch_control::documents::{Document, ParseContext, parse};

mod frames;
mod packets;
mod sequences;
mod tunnels;

pub use frames::fuzz_frames;
pub use packets::fuzz_packets;
pub use sequences::fuzz_sequences;
pub use tunnels::fuzz_tunnels;

/// A target: what it is called in `fuzz/`, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 6] = [
    ("packets", fuzz_packets),
    ("sequences", fuzz_sequences),
    ("tunnels", fuzz_tunnels),
    ("dns", fuzz_dns),
    ("frames", fuzz_frames),
    ("documents", fuzz_documents),
];

/// DNS queries and answers, over UDP and TCP.
///
/// # Panics
/// Where a promise is broken.
pub fn fuzz_dns(bytes: &[u8]) {
    portlatchd::dns::fuzzing::fuzz_dns(bytes);
}

/// Resource documents: read or refused with places that exist, and what was read is kept and read again as the same.
///
/// # Panics
/// Where a promise is broken.
pub fn fuzz_documents(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let context = ParseContext { public_host: "proxy.example.com".parse().expect("a host name") };
    match parse("input.yaml", text, &context) {
        Ok(parsed) => {
            for document in parsed.documents {
                let kept = document.to_json();
                let again = Document::from_json(&kept).expect("what was kept is read again");
                assert_eq!(again.to_json(), kept);
            }
        }
        Err(faults) => {
            assert!(!faults.is_empty(), "refused without a fault");
            for fault in faults {
                assert!(!fault.to_string().is_empty());
            }
        }
    }
}
