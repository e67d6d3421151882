//! `portlatchd cleanup`: takes away what a killed daemon left, and the range's rules.

use std::net::IpAddr;

use rtnetlink::IpVersion;

use super::network::{Connection, NetworkError};
use super::{nftables, resolv_conf_file, rules, sock_diag};
use crate::os::{AlreadyRunning, Findings, StateDir, StateError};

/// Why not everything could be taken away.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// A daemon runs.
    #[error("portlatchd is already running with pid {pid}: stop it first")]
    Running {
        /// Its pid.
        pid: u32,
    },
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// Rules.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// `/etc/resolv.conf`.
    #[error("/etc/resolv.conf could not be restored")]
    ResolvConf(#[source] std::io::Error),
}

/// Undoes everything that may be left on this machine, in the network namespace of the calling thread. Says what it
/// did, a line for each thing; twice equals once.
///
/// # Errors
/// A [`CleanupError`]; what came before it is done.
pub async fn cleanup(state: &StateDir) -> Result<Vec<String>, CleanupError> {
    let _lock = state.lock().map_err(|error| match error {
        AlreadyRunning::Running { pid } => CleanupError::Running { pid },
        AlreadyRunning::State(error) => CleanupError::State(error),
    })?;
    let mut done = Vec::new();
    let file = resolv_conf_file::ResolvConfFile::system(state);
    if file.restore().map_err(CleanupError::ResolvConf)? == resolv_conf_file::Restored::Original {
        done.push("restored /etc/resolv.conf".to_owned());
    }

    let connection = Connection::open()?;
    let mut networks = Vec::new();
    for version in [IpVersion::V4, IpVersion::V6] {
        let is_ipv6 = version == IpVersion::V6;
        let present = match rules::ours(&connection.handle, version).await {
            // A machine without IPv6 has no IPv6 rules.
            Err(_) if is_ipv6 => Vec::new(),
            present => present?,
        };
        for rule in present {
            rules::remove(&connection.handle, &rule).await?;
            done.push(format!("removed a routing rule for {}", rule.network));
            networks.push(rule.network);
        }
    }
    networks.dedup();
    let own_addresses: Vec<IpAddr> = networks.into_iter().map(own_address).collect();
    let mut findings = Findings::default();
    match sock_diag::destroy_sockets(&own_addresses, &mut findings) {
        Ok(0) => {}
        Ok(ended) => done.push(format!("ended {ended} connections that had lost their daemon")),
        Err(error) => tracing::warn!(%error, "connections that lost their daemon may hang"),
    }
    if let Err(error) = nftables::remove_leftover() {
        tracing::debug!(%error, "no nftables here");
    }
    Ok(done)
}

/// The TUN's address in the range of this network.
fn own_address(network: IpAddr) -> IpAddr {
    match network {
        IpAddr::V4(network) => std::net::Ipv4Addr::from_bits(network.to_bits() | 1).into(),
        IpAddr::V6(network) => std::net::Ipv6Addr::from_bits(network.to_bits() | 1).into(),
    }
}
