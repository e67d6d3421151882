//! How an agent's login comes to serve this machine: root has listed the cluster, the CA is the one with the pin, and
//! control has certified a tunnel key that was made here and never leaves.

use std::time::Duration;

use portlatch_protocol::attach::{Attach, AttachRefusal, CataloguePart, CertificateBytes, ToAgent, ToDaemon};
use portlatch_protocol::names::Hostname;
use portlatch_protocol::resource::Resource;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::frames::{Hangup, Incoming, Outgoing};
use super::{Desk, Peer};
use crate::trust::{Trust, TrustFile};
use crate::tunnel::credentials::{TunnelKey, pinned_authority};
use crate::worker::command::{AlreadyAttached, AttachKey, AttachedLogin, Catalogue, Command};

/// The agent asks control over the network for the certificate.
const CERTIFICATE_DEADLINE: Duration = Duration::from_secs(20);
/// Messages to an agent that it has not read yet; one that falls further behind is let go. Room for a question and its end
/// at as many ports as are asked about at once, and for each program that comes to an open prompt and goes (1,024 wait at
/// most).
const MAX_UNREAD: usize = 4096;
/// Names of one login (design section 9).
const MAX_RESOURCES: usize = 4096;
/// Longest attach: certificates live as long as the login, and `max_session_ttl` is a day or so.
const LONGEST_LOGIN: Duration = Duration::from_secs(30 * 24 * 3600);

/// A login that is attached, and the way from the worker to its agent.
pub(super) struct Attached {
    pub(super) key: AttachKey,
    pub(super) from_worker: mpsc::Receiver<ToAgent>,
    pub(super) cancelled: CancellationToken,
    pub(super) catalogue: CatalogueParts,
    /// Whether the agent has heard `Attached`: with its first whole catalogue.
    pub(super) is_told: bool,
}

/// Attaches the login that is offered. `None`: refused, and the agent has been told why.
pub(super) async fn attach(
    offer: Attach,
    incoming: &mut Incoming,
    outgoing: &mut Outgoing,
    peer: Peer,
    desk: &Desk,
) -> Result<Option<Attached>, Hangup> {
    match try_attach(&offer, incoming, outgoing, peer, desk).await? {
        Ok(attached) => Ok(Some(attached)),
        Err((refusal, advice)) => {
            // A user may try for ever; the agent says why, and the log must not fill.
            tracing::debug!(uid = peer.uid, ?refusal, "attach refused");
            outgoing.send(&ToAgent::AttachRefused(refusal, advice)).await?;
            Ok(None)
        }
    }
}

type Refused = (AttachRefusal, String);

async fn try_attach(
    offer: &Attach,
    incoming: &mut Incoming,
    outgoing: &mut Outgoing,
    peer: Peer,
    desk: &Desk,
) -> Result<Result<Attached, Refused>, Hangup> {
    let trust = match TrustFile::read(&desk.state) {
        Ok(trust) => trust,
        Err(error) => {
            tracing::error!(%error, "the list of trusted clusters cannot be read");
            Trust::default()
        }
    };
    let listed = trust.cluster(&offer.cluster);
    let authority = listed.and_then(|it| pinned_authority(it.host.clone(), &offer.ca.0, it.pin));
    let (Some(listed), Some(authority)) = (listed, authority) else {
        return Ok(Err(untrusted(&offer.cluster)));
    };
    let Ok(key) = TunnelKey::generate() else { return Err(Hangup::OutOfTime) };
    let Ok(request) = key.request() else { return Err(Hangup::OutOfTime) };
    outgoing.send(&ToAgent::CertifyTunnel(CertificateBytes(request))).await?;
    let ToDaemon::TunnelCertificate(chain) = incoming.next_within(CERTIFICATE_DEADLINE).await? else {
        return Err(Hangup::OutOfTurn);
    };
    let leaf = chain.into_iter().next().map(|leaf| leaf.0).unwrap_or_default();
    let certified = key.certified(leaf, authority, (&offer.user, &offer.login), desk.clock.clone());
    let (credentials, identity) = match certified {
        Ok(certified) => certified,
        Err(error) => return Ok(Err((AttachRefusal::BadCertificate, format!("{error}: log in again")))),
    };
    let key = AttachKey { uid: peer.uid, serial: desk.next_serial() };
    let (to_agent, from_worker) = mpsc::channel(MAX_UNREAD);
    let cancelled = CancellationToken::new();
    let expires_at = desk.clock.boot_time() + offer.expires_in.min(LONGEST_LOGIN);
    let login = AttachedLogin {
        key,
        agent_pid: peer.pid,
        identity,
        expires_at,
        credentials,
        to_agent,
        cancelled: cancelled.clone(),
    };
    let (reply, answer) = oneshot::channel();
    let _ = desk.commands.send(Command::Attach(Box::new(login), reply)).await;
    match answer.await.map_err(|_| Hangup::Closed)? {
        Ok(()) => {
            desk.handle_trust(&trust).await;
            let catalogue = CatalogueParts::new(listed.host.clone(), listed.zones.clone());
            Ok(Ok(Attached { key, from_worker, cancelled, catalogue, is_told: false }))
        }
        Err(AlreadyAttached { pid }) => {
            let advice = format!("an agent of this user is already running, with pid {pid}");
            Ok(Err((AttachRefusal::AlreadyAttached, advice)))
        }
    }
}

fn untrusted(cluster: &Hostname) -> Refused {
    let advice = format!(
        "this machine does not serve {cluster}: as root, run \
         `portlatchd trust https://{cluster} --ca-pin PIN --zone ZONE` with the pin that \
         `portlatch-proxy init` printed"
    );
    (AttachRefusal::UntrustedCluster, advice)
}

/// A catalogue, as its parts arrive.
pub(super) struct CatalogueParts {
    cluster: Hostname,
    trusted_zones: Vec<Hostname>,
    resources: Vec<Resource>,
}

impl CatalogueParts {
    fn new(cluster: Hostname, trusted_zones: Vec<Hostname>) -> Self {
        Self { cluster, trusted_zones, resources: Vec::new() }
    }

    /// The whole, with its last part. Names outside the zones that root listed are left out (design section 10).
    pub(super) fn handle_part(&mut self, part: CataloguePart) -> Result<Option<Catalogue>, Hangup> {
        let CataloguePart { resources, zones, proxies, outside, is_last } = part;
        self.resources.extend(resources);
        if self.resources.len() > MAX_RESOURCES {
            return Err(Hangup::OutOfTurn);
        }
        if !is_last {
            return Ok(None);
        }
        let is_trusted = |name: &Hostname| self.trusted_zones.iter().any(|zone| name.is_within(zone));
        let mut resources = std::mem::take(&mut self.resources);
        resources.retain(|resource| is_trusted(&resource.host.anchor()));
        let zones = zones.into_iter().filter(|zone| is_trusted(&zone.suffix)).collect();
        Ok(Some(Catalogue { cluster: self.cluster.clone(), resources, zones, proxies, outside }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portlatch_protocol::resource::{Hold, MfaNeed, Zone};

    fn resource(host: &str) -> Resource {
        Resource {
            id: "app/web".parse().unwrap(),
            host: host.parse().unwrap(),
            ports: vec![],
            hold: Hold::Hybrid,
            mfa: MfaNeed::None,
            labels: Default::default(),
            description: String::new(),
            proxies: vec![],
            protocol: None,
            refusal: Default::default(),
        }
    }

    fn last_part(hosts: &[&str], zones: &[&str]) -> CataloguePart {
        let zone = |suffix: &&str| Zone { suffix: suffix.parse().unwrap(), exclusive: false };
        CataloguePart {
            resources: hosts.iter().map(|host| resource(host)).collect(),
            zones: zones.iter().map(zone).collect(),
            proxies: vec![],
            outside: vec![],
            is_last: true,
        }
    }

    #[test]
    fn names_and_zones_that_root_did_not_list_are_left_out() {
        let mut parts =
            CatalogueParts::new("proxy.example.com".parse().unwrap(), vec!["corp.internal".parse().unwrap()]);
        let first =
            CataloguePart { is_last: false, ..last_part(&["web.corp.internal", "www.bank.example"], &[]) };
        assert!(parts.handle_part(first).unwrap().is_none());
        let last = last_part(&["*.dev.corp.internal"], &["corp.internal", "com"]);
        let catalogue = parts.handle_part(last).unwrap().unwrap();
        let hosts: Vec<_> = catalogue.resources.iter().map(|resource| resource.host.as_str()).collect();
        assert_eq!(hosts, ["web.corp.internal", "*.dev.corp.internal"]);
        assert_eq!(catalogue.zones.len(), 1);
    }

    #[test]
    fn a_catalogue_beyond_the_limit_ends_the_conversation() {
        let mut parts = CatalogueParts::new("proxy.example.com".parse().unwrap(), vec![]);
        let too_many = vec!["web.corp.internal"; MAX_RESOURCES + 1];
        assert!(parts.handle_part(last_part(&too_many, &[])).is_err());
    }
}
