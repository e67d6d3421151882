//! Whether the proxies of the catalogue answer over UDP, which tunnels need; and where one does not, whether it is there at
//! all.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::{join_all, select_ok};
use portlatch_protocol::api::Catalogue;
use portlatch_protocol::names::ProxyName;
use portlatch_protocol::resource::{ProxyAddress, Resource};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::finding::{Finding, State, untried};
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
    told(catalogue, findings)
}

/// What the looks at the first proxies mean for all that there is.
fn told(catalogue: &Catalogue, mut findings: Vec<Finding>) -> Vec<Finding> {
    let looks = catalogue.proxies.iter().zip(&findings);
    let silent: BTreeSet<&ProxyName> =
        looks.filter(|(_, finding)| finding.state != State::Ok).map(|(proxy, _)| &proxy.name).collect();
    let is_cut_off = |resource: &Resource| {
        !resource.proxies.is_empty() && resource.proxies.iter().all(|proxy| silent.contains(proxy))
    };
    // What each resource has another proxy for keeps nobody from it.
    let one_answers = findings.iter().any(|finding| finding.state == State::Ok);
    if one_answers && !catalogue.resources.iter().any(is_cut_off) {
        findings = findings.into_iter().map(Finding::softened).collect();
    }
    findings.extend(untried("proxy", catalogue.proxies.len().saturating_sub(MAX_PROXIES)));
    findings
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::tests::of;

    /// Databases, each behind these proxies; and so many proxies.
    fn catalogue(databases: &[&[&str]], proxies: usize) -> Catalogue {
        let mut catalogue = of(&vec![("db/db", "db.corp.internal"); databases.len()]);
        for (resource, proxies) in catalogue.resources.iter_mut().zip(databases) {
            resource.proxies = proxies.iter().map(|name| name.parse().unwrap()).collect();
        }
        let proxy = |n| ProxyAddress {
            name: format!("p{n}").parse().unwrap(),
            host: "proxy.example.com".to_owned(),
            port: 443,
        };
        catalogue.proxies = (0..proxies).map(proxy).collect();
        catalogue
    }

    fn states(catalogue: &Catalogue, answers: &[State]) -> Vec<State> {
        let look = |state: &State| match state {
            State::Ok => Finding::ok("proxy", "answers"),
            State::Warn | State::Fail => Finding::fail("proxy", "silent", "wait"),
        };
        told(catalogue, answers.iter().map(look).collect()).iter().map(|finding| finding.state).collect()
    }

    #[test]
    fn a_silent_proxy_is_a_failure_where_a_resource_has_no_other_one() {
        let answers = [State::Ok, State::Fail];
        let both = catalogue(&[&["p0", "p1"], &["p0"]], 2);
        assert_eq!(states(&both, &answers), [State::Ok, State::Warn]);
        let one_alone = catalogue(&[&["p0", "p1"], &["p1"]], 2);
        assert_eq!(states(&one_alone, &answers), [State::Ok, State::Fail]);
        assert_eq!(states(&both, &[State::Fail, State::Fail]), [State::Fail, State::Fail]);
    }

    #[test]
    fn how_many_were_not_tried_is_told() {
        let many = catalogue(&[&["p0"], &["p9"]], MAX_PROXIES + 2);
        let tried: Vec<Finding> = (0..MAX_PROXIES).map(|_| Finding::ok("proxy", "answers")).collect();
        let told = told(&many, tried);
        assert_eq!(told.len(), MAX_PROXIES + 1);
        assert_eq!(told[MAX_PROXIES].text, "and 2 more were not tried");
    }
}
