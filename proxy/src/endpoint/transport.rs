//! QUIC's parameters. Its defaults are for peers that trust each other and for one stream at a time.

use std::time::Duration;

use portlatch_carrier::turns::Turns;
use quinn::{IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};

use crate::tunnel::{FIRST_STREAMS, USUAL_STREAMS};

/// A tunnel without a sign of life for so long is lost (design section 11).
const IDLE: Duration = Duration::from_secs(60);
/// How often a quiet tunnel is kept alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// What a program may send ahead of its target: a stalled session holds this much here, and no session holds more. It
/// is 600 Mbit/s at 20 ms.
pub(crate) const STREAM_WINDOW: u32 = 1536 * 1024;
/// The same for all streams of a tunnel: every one of them may be stalled and leave the others their speed.
const CONNECTION_WINDOW: u64 = STREAM_WINDOW as u64 * USUAL_STREAMS as u64;
/// Sent and not yet acknowledged, where the path carries as much: 1 Gbit/s at 100 ms. A stalled program holds none of it,
/// since its stream's credit is used up first.
pub(crate) const SEND_WINDOW: u64 = 12 * 1024 * 1024;
/// The first guess of the round trip: half a second to the first retransmission would be felt.
const INITIAL_RTT: Duration = Duration::from_millis(100);
/// Largest UDP payload that is tried: Ethernet's, less IPv6 and UDP headers.
const LARGEST_MTU: u16 = 1452;

pub(super) fn config() -> TransportConfig {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(LARGEST_MTU);
    let mut config = TransportConfig::default();
    config
        .max_idle_timeout(Some(IdleTimeout::try_from(IDLE).expect("a minute fits")))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_concurrent_bidi_streams(VarInt::from_u32(FIRST_STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u64(CONNECTION_WINDOW).unwrap_or(VarInt::MAX))
        .send_window(Turns::FIRST_WINDOW)
        .initial_rtt(INITIAL_RTT)
        .mtu_discovery_config(Some(discovery));
    config
}
