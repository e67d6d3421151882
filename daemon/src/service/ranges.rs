//! Which addresses are ours on this machine: the same as last time where that is possible, since programs remember them.

use crate::config::{Config, Ipv6Choice};
use crate::os::ranges::{self, Range4};
use crate::os::{NetworkPlan, StateDir, routes};
use crate::tun::Tun;

/// Where the IPv4 range is remembered, in the state directory.
const FILE: &str = "range";

/// The plan with this machine's ranges.
pub(super) async fn choose(config: &Config, state: &StateDir, tun: &Tun) -> anyhow::Result<NetworkPlan> {
    let previous = state.read(FILE)?.and_then(|bytes| String::from_utf8(bytes).ok()?.trim().parse().ok());
    let range4: Range4 = ranges::choose(config.range, previous, &routes().await?)?;
    if previous != Some(range4) {
        state.write(FILE, format!("{range4}\n").as_bytes(), 0o644)?;
    }
    let range6 = match config.range6 {
        Ipv6Choice::Auto => Some(state.range6()?),
        Ipv6Choice::Pinned(range) => Some(range),
        Ipv6Choice::Off => None,
    };
    Ok(NetworkPlan::new(tun.name(), tun.ifindex(), range4, range6))
}
