//! systemd-resolved over D-Bus (org.freedesktop.resolve1(5)): our zones on our link, and nothing else.
//!
//! resolved takes these calls from uid 0 alone (or by polkit, which few machines have for it): CAP_NET_ADMIN is not
//! enough. So that the daemon can later run as its own user, every call that needs root is in this file and takes
//! nothing but the number of our link, addresses and zones; a `portlatchd dns-helper` of that one purpose can run it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::{SelectAll, select_all};
use serde::Serialize;
use zbus::message::Type;
use zbus::{Connection, DynamicType, MatchRule, MessageStream, OwnedVariant, fdo};

use super::name_service::NameServicePlan;
use crate::os::Findings;

const SERVICE: &str = "org.freedesktop.resolve1";
const PATH: &str = "/org/freedesktop/resolve1";
const MANAGER: &str = "org.freedesktop.resolve1.Manager";
/// resolved answers in milliseconds; starting it takes a second or two.
const LONGEST_CALL: Duration = Duration::from_secs(5);
const DNS_PORT: u16 = 53;

/// Why resolved did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum ResolvedError {
    /// A call failed.
    #[error("systemd-resolved refused {method}")]
    Refused {
        /// The call.
        method: &'static str,
        /// Its answer.
        #[source]
        source: Box<zbus::Error>,
    },
    /// No answer came.
    #[error("systemd-resolved did not answer {method} in {LONGEST_CALL:?}")]
    Silent {
        /// The call.
        method: &'static str,
    },
}

/// What was heard from the bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// resolved is another process now, or gone: it may know nothing of us.
    Restarted,
    /// Servers or zones of some link changed, perhaps by ourselves.
    Servers,
}

/// A connection to a running resolved.
pub(super) struct Resolved {
    connection: Connection,
    signals: SelectAll<MessageStream>,
}

impl Resolved {
    /// Finds resolved on the system bus, starting it where the bus can; `None` where there is none.
    pub(super) async fn find() -> Option<Self> {
        let found = tokio::time::timeout(LONGEST_CALL, Self::connect()).await;
        match found {
            Ok(Ok(resolved)) => Some(resolved),
            Ok(Err(error)) => {
                tracing::debug!(%error, "no systemd-resolved");
                None
            }
            Err(_) => {
                tracing::debug!("no systemd-resolved: the bus is silent");
                None
            }
        }
    }

    async fn connect() -> zbus::Result<Self> {
        let connection = zbus::connection::Builder::system().method_timeout(LONGEST_CALL).build().await?;
        // The question starts it where the bus can do that.
        connection.call_method(Some(SERVICE), PATH, Some("org.freedesktop.DBus.Peer"), "Ping", &()).await?;
        let restarts = MatchRule::builder()
            .msg_type(Type::Signal)
            .sender("org.freedesktop.DBus")
            .interface("org.freedesktop.DBus")
            .member("NameOwnerChanged")
            .arg(0, SERVICE)
            .build()?;
        let changes = MatchRule::builder()
            .msg_type(Type::Signal)
            .sender(SERVICE)
            .path(PATH)
            .interface("org.freedesktop.DBus.Properties")
            .member("PropertiesChanged")
            .build()?;
        let restarts = MessageStream::for_match_rule(restarts, &connection, None).await?;
        let changes = MessageStream::for_match_rule(changes, &connection, None).await?;
        Ok(Self { connection, signals: select_all([restarts, changes]) })
    }

    /// Sends the names of our zones, and only those, to our servers on our link. Doing it again changes nothing.
    pub(super) async fn set_link(
        &self,
        plan: &NameServicePlan,
        findings: &mut Findings,
    ) -> Result<(), ResolvedError> {
        let link = i32::try_from(plan.ifindex).unwrap_or(0);
        let servers: Vec<(i32, Vec<u8>)> = plan.dns.iter().copied().map(wire_address).collect();
        // A routing domain (`~zone`) sends a zone's names here; a search domain is tried behind short names as well.
        let routed = plan.zones.iter().chain(&plan.reverse).map(|zone| (zone.to_string(), true));
        let searched = plan.search.iter().map(|domain| (domain.to_string(), false));
        let domains: Vec<(String, bool)> = routed.chain(searched).collect();

        self.call("SetLinkDNS", &(link, servers)).await?;
        self.call("SetLinkDomains", &(link, domains)).await?;
        // Older ones do not know all of these.
        self.call_if_known("SetLinkDefaultRoute", &(link, false), findings).await?;
        self.call_if_known("SetLinkLLMNR", &(link, "no"), findings).await?;
        self.call_if_known("SetLinkMulticastDNS", &(link, "no"), findings).await?;
        self.call_if_known("SetLinkDNSSEC", &(link, "no"), findings).await?;
        self.call_if_known("SetLinkDNSOverTLS", &(link, "no"), findings).await?;
        self.call("FlushCaches", &()).await
    }

    /// Takes our link's settings away. They are gone with the link in any case.
    pub(super) async fn revert_link(&self, ifindex: u32) -> Result<(), ResolvedError> {
        self.call("RevertLink", &i32::try_from(ifindex).unwrap_or(0)).await
    }

    /// Forgets cached answers.
    pub(super) async fn flush(&self) -> Result<(), ResolvedError> {
        self.call("FlushCaches", &()).await
    }

    /// The servers of every link but ours, and the fall-back ones where there are none.
    pub(super) async fn upstreams(&self, ifindex: u32) -> Result<Vec<SocketAddr>, ResolvedError> {
        for property in ["DNS", "FallbackDNS"] {
            let servers: Vec<(i32, i32, Vec<u8>)> = self.property(property).await?;
            let foreign = servers.into_iter().filter(|(link, _, _)| u32::try_from(*link) != Ok(ifindex));
            let found: Vec<SocketAddr> =
                foreign.filter_map(|(link, _, bytes)| socket_address(link, &bytes)).collect();
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Ok(Vec::new())
    }

    /// Whether it still sends the plan's zones to the plan's servers.
    pub(super) async fn knows(&self, plan: &NameServicePlan) -> Result<bool, ResolvedError> {
        let link = i32::try_from(plan.ifindex).unwrap_or(0);
        let servers: Vec<(i32, i32, Vec<u8>)> = self.property("DNS").await?;
        let domains: Vec<(i32, String, bool)> = self.property("Domains").await?;
        let mut wanted = plan.dns.iter().copied().map(wire_address);
        let mut routed = plan.zones.iter().chain(&plan.reverse).map(|zone| (link, zone.to_string(), true));
        Ok(wanted.all(|(family, address)| servers.contains(&(link, family, address)))
            && routed.all(|zone| domains.contains(&zone)))
    }

    /// Waits until resolved was restarted or its servers changed. Cancel-safe.
    pub(super) async fn changed(&mut self) -> Change {
        let Some(Ok(signal)) = self.signals.next().await else {
            // The bus is gone: nothing more will be heard. The caller looks again from time to time.
            return std::future::pending().await;
        };
        match signal.header().member().map(|member| member.as_str()) {
            Some("NameOwnerChanged") => Change::Restarted,
            Some(_) | None => Change::Servers,
        }
    }

    /// Whether the connection to the bus still stands.
    pub(super) fn is_alive(&self) -> bool {
        !self.connection.is_closed()
    }

    async fn property<T>(&self, name: &'static str) -> Result<Vec<T>, ResolvedError>
    where
        Vec<T>: TryFrom<OwnedVariant, Error = zbus::Error>,
    {
        let interface = Some("org.freedesktop.DBus.Properties");
        let question = (MANAGER, name);
        let asked = self.connection.call_method(Some(SERVICE), PATH, interface, "Get", &question);
        let answer = tokio::time::timeout(LONGEST_CALL, asked)
            .await
            .map_err(|_| ResolvedError::Silent { method: name })?
            .and_then(|answer| {
                let value: OwnedVariant = answer.body().deserialize()?;
                value.try_into()
            });
        answer.map_err(|source| ResolvedError::Refused { method: name, source: Box::new(source) })
    }

    async fn call<B>(&self, method: &'static str, body: &B) -> Result<(), ResolvedError>
    where
        B: Serialize + DynamicType,
    {
        let called = self.connection.call_method(Some(SERVICE), PATH, Some(MANAGER), method, body);
        match tokio::time::timeout(LONGEST_CALL, called).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(source)) => Err(ResolvedError::Refused { method, source: Box::new(source) }),
            Err(_) => Err(ResolvedError::Silent { method }),
        }
    }

    async fn call_if_known<B>(
        &self,
        method: &'static str,
        body: &B,
        findings: &mut Findings,
    ) -> Result<(), ResolvedError>
    where
        B: Serialize + DynamicType,
    {
        match self.call(method, body).await {
            Err(ResolvedError::Refused { source, .. }) if is_unknown_method(&source) => {
                findings.add(
                    "resolved",
                    format!("this systemd-resolved knows no {method}"),
                    "nothing needs to be done; newer versions keep more of the system's own chatter away from the zones",
                );
                Ok(())
            }
            result => result,
        }
    }
}

fn is_unknown_method(error: &zbus::Error) -> bool {
    if let zbus::Error::MethodError(name, ..) = error {
        return name.as_str() == "org.freedesktop.DBus.Error.UnknownMethod";
    }
    matches!(error, zbus::Error::FDO(error) if matches!(**error, fdo::Error::UnknownMethod(_)))
}

/// Address family and bytes, as resolved wants them.
fn wire_address(address: IpAddr) -> (i32, Vec<u8>) {
    match address {
        IpAddr::V4(address) => (libc::AF_INET, address.octets().to_vec()),
        IpAddr::V6(address) => (libc::AF_INET6, address.octets().to_vec()),
    }
}

fn socket_address(link: i32, bytes: &[u8]) -> Option<SocketAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(SocketAddr::new(octets.into(), DNS_PORT));
    }
    let address = std::net::Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?);
    let scope = if address.is_unicast_link_local() { u32::try_from(link).ok()? } else { 0 };
    Some(std::net::SocketAddrV6::new(address, DNS_PORT, 0, scope).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_local_servers_keep_their_link() {
        let address = socket_address(7, &"fe80::1".parse::<std::net::Ipv6Addr>().unwrap().octets()).unwrap();
        assert_eq!(address, "[fe80::1%7]:53".parse().unwrap());
        assert_eq!(socket_address(7, &[192, 0, 2, 1]), Some("192.0.2.1:53".parse().unwrap()));
        assert_eq!(socket_address(7, &[1, 2, 3]), None);
    }
}
