//! What the stack has done, as numbers: for metrics, `doctor` and tests of behaviour that leaves no other trace.

/// Counts since the stack was made.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// Packets handed in.
    pub packets_in: u64,
    /// Packets handed out.
    pub packets_out: u64,
    /// Dropped: a header or checksum that is wrong.
    pub malformed: u64,
    /// Dropped: a fragment; the TUN's MTU makes them needless.
    pub fragments: u64,
    /// Dropped: a source that is not one of the TUN's own addresses.
    pub foreign_source: u64,
    /// Dropped: a destination that is not ours.
    pub outside_range: u64,
    /// Dropped: neither TCP, UDP nor an echo request.
    pub unsupported: u64,
    /// Dropped: the SYN of a held 4-tuple, sent again.
    pub repeated_syns: u64,
    /// Refused at once: more SYNs than are held.
    pub held_overflow: u64,
    /// Segments of no flow, answered with RST.
    pub stray_segments: u64,
    /// SYNs that were answered.
    pub accepted: u64,
    /// SYNs that were refused on command or because memory was out.
    pub refused: u64,
    /// RSTs for a flow that its program's kernel cannot have sent, and that ended nothing.
    pub doubtful_resets: u64,
    /// Flows that ended by a reset of the program or because it answered no more.
    pub lost: u64,
    /// Datagrams or replies that found their queue full.
    pub queue_full: u64,
    /// ICMP errors that were not sent because there were many of late.
    pub throttled: u64,
    /// Flows that ended because what handled them panicked.
    pub panics: u64,
    /// Ring memory given back while idle.
    pub reclaimed: u64,
    /// How often a flow was looked at, for whatever reason: grows with packets, never with the number of flows.
    pub flow_visits: u64,
}
