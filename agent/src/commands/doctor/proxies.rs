//! Whether the proxies of the catalogue answer over UDP, which tunnels need; and where one does not, whether it is there at
//! all.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::{join_all, select_ok};
use portlatch_protocol::api::Catalogue;
use portlatch_protocol::resource::ProxyAddress;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::finding::{Finding, State};
use super::quic;
use crate::safe_text::{plain, safe};

/// Proxies that are looked at, and addresses of each.
const MAX_PROXIES: usize = 8;
const MAX_ADDRESSES: usize = 4;
/// How long a proxy's name has to resolve.
const RESOLVE_TIME: Duration = Duration::from_secs(4);
/// How long a TCP connection has to come up.
const CONNECT_TIME: Duration = Duration::from_secs(3);

/// Looks at each, all at once.
pub(super) async fn look(catalogue: Option<&Catalogue>) -> Vec<Finding> {
    let Some(catalogue) = catalogue else { return Vec::new() };
    if catalogue.proxies.is_empty() && !catalogue.resources.is_empty() {
        let none = "no proxy is up that serves your resources";
        return vec![Finding::fail("proxy", none, "tell an administrator")];
    }
    let findings = join_all(catalogue.proxies.iter().take(MAX_PROXIES).map(one)).await;
    // One that answers may do for all.
    match findings.iter().any(|finding| finding.state == State::Ok) {
        true => findings.into_iter().map(Finding::softened).collect(),
        false => findings,
    }
}

async fn one(proxy: &ProxyAddress) -> Finding {
    let ProxyAddress { name, host, port } = proxy;
    let place = format!("{name} ({}:{port})", safe(host));
    let addresses = match resolve(host, *port).await {
        Ok(addresses) => addresses,
        Err(error) => {
            let text = format!("{place}: its name does not resolve ({})", plain(&error));
            return Finding::fail("proxy", text, "check your network");
        }
    };
    if any(&addresses, quic::answers).await.is_ok() {
        return Finding::ok("proxy", format!("{place} answers over UDP"));
    }
    match any(&addresses, connects).await {
        Ok(()) => Finding::fail(
            "proxy",
            format!(
                "{place} is silent over UDP, though it answers over TCP: this network lets no UDP through"
            ),
            format!("have UDP to port {port} of {} allowed, or use another network", safe(host)),
        ),
        Err(error) => {
            let text = format!("{place} cannot be reached ({})", plain(&error));
            Finding::fail(
                "proxy",
                text,
                "check your network; if others cannot reach it either, tell an administrator",
            )
        }
    }
}

async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let looked = timeout(RESOLVE_TIME, lookup_host((host, port))).await;
    let addresses: Vec<SocketAddr> =
        looked.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??.take(MAX_ADDRESSES).collect();
    match addresses.is_empty() {
        true => Err(io::ErrorKind::NotFound.into()),
        false => Ok(addresses),
    }
}

/// Whether it goes well with any of the addresses.
async fn any<F: Future<Output = io::Result<()>>>(
    addresses: &[SocketAddr],
    attempt: impl Fn(SocketAddr) -> F,
) -> io::Result<()> {
    let attempts = addresses.iter().map(|address| Box::pin(attempt(*address)));
    select_ok(attempts).await.map(|_| ())
}

async fn connects(address: SocketAddr) -> io::Result<()> {
    let connected = timeout(CONNECT_TIME, TcpStream::connect(address)).await;
    connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?.map(|_| ())
}
