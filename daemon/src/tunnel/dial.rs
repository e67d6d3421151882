//! The race to a proxy: candidates are dialled 300 ms apart, the first that answers wins, all is over after 5 s.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use portlatch_protocol::resource::ProxyAddress;

use super::Tunnel;
use super::credentials::TunnelCredentials;

/// The head start of each candidate (design section 11).
const STAGGER: Duration = Duration::from_millis(300);
/// When the race is over (design section 4: no proxy reachable within 5 s).
const RACE: Duration = Duration::from_secs(5);
/// Addresses of one host that are tried.
const MAX_ADDRESSES: usize = 4;

/// The tunnel to the candidate that answered first.
pub(super) async fn race(
    endpoint: &quinn::Endpoint,
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
    endpoint: &quinn::Endpoint,
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
    let addresses: Vec<SocketAddr> = addresses.take(MAX_ADDRESSES).collect();
    for address in addresses {
        let connecting = match endpoint.connect_with(config.clone(), reachable_form(endpoint, address), &host)
        {
            Ok(connecting) => connecting,
            Err(error) => {
                tracing::debug!(%error, proxy = %candidate.name, "cannot dial");
                continue;
            }
        };
        match connecting.await {
            Ok(connection) => return Some(Tunnel::new(candidate.name, connection)),
            Err(error) => tracing::debug!(%error, proxy = %candidate.name, "dial failed"),
        }
    }
    None
}

/// An IPv4 address as a dual-stack socket wants it.
fn reachable_form(endpoint: &quinn::Endpoint, address: SocketAddr) -> SocketAddr {
    let is_dual_stack = endpoint.local_addr().is_ok_and(|local| local.is_ipv6());
    match address {
        SocketAddr::V4(v4) if is_dual_stack => SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port())),
        SocketAddr::V4(_) | SocketAddr::V6(_) => address,
    }
}
