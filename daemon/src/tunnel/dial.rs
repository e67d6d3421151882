//! The race to a proxy: candidates, and the addresses of each, are dialled 300 ms apart and again for each second without
//! an answer; the first that answers wins, all is over after 5 s.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use portlatch_protocol::resource::ProxyAddress;
use quinn::{ClientConfig, Connection, Endpoint};

use super::Tunnel;
use super::credentials::TunnelCredentials;

/// The head start of each candidate (design section 11).
const STAGGER: Duration = Duration::from_millis(300);
/// When the race is over (design section 4: no proxy reachable within 5 s).
const RACE: Duration = Duration::from_secs(5);
/// Addresses of one host that are tried.
const MAX_ADDRESSES: usize = 4;
/// When an address that has not answered yet is dialled once more, beside the dials before. QUIC waits for 0.3, 0.6, 1.2
/// and 2.4 s where packets of one handshake are lost: over a way that loses one in ten some dials alone took over 5 s.
const AGAIN: Duration = Duration::from_secs(1);
/// Dials of one address at most.
const MAX_DIALS: usize = 4;

/// The tunnel to the candidate that answered first.
pub(super) async fn race(
    endpoint: &Endpoint,
    credentials: &TunnelCredentials,
    candidates: Vec<ProxyAddress>,
) -> Option<Tunnel> {
    let starts = (0_u32..).map(|n| STAGGER * n);
    let mut runners: FuturesUnordered<_> = candidates
        .into_iter()
        .zip(starts)
        .map(|(candidate, start)| async move {
            tokio::time::sleep(start).await;
            dial(endpoint, credentials, candidate).await
        })
        .collect();
    let first = async {
        while let Some(outcome) = runners.next().await {
            if outcome.is_some() {
                return outcome;
            }
        }
        None
    };
    tokio::time::timeout(RACE, first).await.ok().flatten()
}

async fn dial(
    endpoint: &Endpoint,
    credentials: &TunnelCredentials,
    candidate: ProxyAddress,
) -> Option<Tunnel> {
    let config = match credentials.client_config(&candidate.name) {
        Ok(config) => config,
        Err(error) => {
            tracing::warn!(%error, proxy = %candidate.name, "cannot dial");
            return None;
        }
    };
    let host = candidate.host.trim_matches(['[', ']']).to_owned();
    let addresses = tokio::net::lookup_host((host.as_str(), candidate.port)).await.ok()?;
    let connection = connect_to_any(endpoint, &config, addresses, &host).await?;
    Some(Tunnel::new(candidate.name, connection))
}

/// The connection to the address that answered first.
pub(super) async fn connect_to_any(
    endpoint: &Endpoint,
    config: &ClientConfig,
    addresses: impl Iterator<Item = SocketAddr>,
    host: &str,
) -> Option<Connection> {
    let starts = (0_u32..).map(|n| STAGGER * n);
    let mut dials: FuturesUnordered<_> = addresses
        .take(MAX_ADDRESSES)
        .zip(starts)
        .map(|(address, start)| async move {
            tokio::time::sleep(start).await;
            connect(endpoint, config, reachable_form(endpoint, address), host).await
        })
        .collect();
    while let Some(outcome) = dials.next().await {
        if outcome.is_some() {
            return outcome;
        }
    }
    None
}

/// The first of a few dials of one address to be answered. Whoever has said no says no again.
async fn connect(
    endpoint: &Endpoint,
    config: &ClientConfig,
    address: SocketAddr,
    host: &str,
) -> Option<Connection> {
    let mut dials = FuturesUnordered::new();
    let mut again = tokio::time::interval(AGAIN);
    let mut begun = 0;
    loop {
        let outcome = tokio::select! {
            _ = again.tick(), if begun < MAX_DIALS => {
                begun += 1;
                match endpoint.connect_with(config.clone(), address, host) {
                    Ok(connecting) => dials.push(connecting),
                    Err(error) => {
                        tracing::debug!(%error, %address, "cannot dial");
                        return None;
                    }
                }
                continue;
            }
            Some(outcome) = dials.next() => outcome,
        };
        return outcome.inspect_err(|error| tracing::debug!(%error, %address, "dial failed")).ok();
    }
}

/// An IPv4 address as a dual-stack socket wants it.
fn reachable_form(endpoint: &Endpoint, address: SocketAddr) -> SocketAddr {
    let is_dual_stack = endpoint.local_addr().is_ok_and(|local| local.is_ipv6());
    match address {
        SocketAddr::V4(v4) if is_dual_stack => SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port())),
        SocketAddr::V4(_) | SocketAddr::V6(_) => address,
    }
}
