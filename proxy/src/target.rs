//! Where a session goes: a resource's target becomes addresses, the addresses are checked, and one of the very addresses
//! that were checked is dialled.
//!
//! A name that an outsider can make resolve to the proxy's own machine or to a cloud's metadata service must not lead
//! there (design section 14), in none of the ways in which IPv6 can write an IPv4 address.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use portlatch_protocol::stream::OpenRefusal;
use portlatch_protocol::watch::ProxyResource;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout, timeout_at};

/// What a target has to answer, all of its addresses together (design section 11).
const DIAL_DEADLINE: Duration = Duration::from_secs(5);
/// What the resolver has to answer.
const RESOLVE_DEADLINE: Duration = Duration::from_secs(5);
/// Addresses of one target that are looked at: a record set of any sane service, not of an attacker's making.
const MAX_ADDRESSES: usize = 8;
/// Quiet time after which a connection to a target is probed (design section 11).
const KEEP_ALIVE_AFTER: Duration = Duration::from_secs(60);
/// Time between two probes.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(15);
/// Unanswered probes that make a target dead.
const KEEP_ALIVE_PROBES: u32 = 4;
/// How long sent data may stay unacknowledged.
const USER_TIMEOUT: Duration = Duration::from_secs(120);

/// Why there is no connection to the target.
#[derive(Debug, thiserror::Error)]
pub enum TargetFault {
    /// Its name has no address, or the resolver does not answer.
    #[error("the target's name cannot be resolved")]
    Unresolved(#[source] Option<io::Error>),
    /// All its addresses are ones that proxies do not dial.
    #[error("the target's address {0} is not one that proxies dial")]
    Forbidden(IpAddr),
    /// It refused.
    #[error("the target refused")]
    Refused,
    /// It cannot be reached, or does not answer.
    #[error("the target is unreachable")]
    Unreachable(#[source] Option<io::Error>),
    /// This machine has no socket, port or memory left.
    #[error("this machine cannot open another connection")]
    OutOfResources(#[source] io::Error),
}

impl TargetFault {
    /// What the peer hears.
    pub const fn refusal(&self) -> OpenRefusal {
        match self {
            Self::Unresolved(_) | Self::Unreachable(_) => OpenRefusal::TargetUnreachable,
            Self::Forbidden(_) => OpenRefusal::ForbiddenTarget,
            Self::Refused => OpenRefusal::TargetRefused,
            Self::OutOfResources(_) => OpenRefusal::Unavailable,
        }
    }
}

/// Addresses that have been checked: at least one.
#[derive(Debug, Clone)]
pub struct Target(Vec<SocketAddr>);

impl Target {
    /// Resolves a resource's target for the port that the program asked for, and checks what comes out.
    ///
    /// # Errors
    /// [`TargetFault::Unresolved`] or [`TargetFault::Forbidden`].
    pub async fn resolve(resource: &ProxyResource, port: u16) -> Result<Self, TargetFault> {
        let port = resource.target.port.unwrap_or(port);
        let host = resource.target.host.trim_start_matches('[').trim_end_matches(']');
        let found = match host.parse::<IpAddr>() {
            Ok(address) => vec![SocketAddr::new(address, port)],
            Err(_) => resolve_name(host, port).await?,
        };
        let first = found.first().ok_or(TargetFault::Unresolved(None))?.ip();
        let allowed: Vec<_> = match resource.allow_local_target {
            true => found,
            false => found.into_iter().filter(|address| !is_forbidden(address.ip())).collect(),
        };
        match allowed.is_empty() {
            true => Err(TargetFault::Forbidden(first)),
            false => Ok(Self(allowed)),
        }
    }

    /// The address that is dialled first, for the audit.
    pub fn first(&self) -> SocketAddr {
        self.0[0]
    }

    /// Dials the addresses in turn and gives each a fair part of the time that is left.
    ///
    /// # Errors
    /// [`TargetFault::Refused`], [`TargetFault::Unreachable`] or [`TargetFault::OutOfResources`].
    pub async fn dial(&self) -> Result<TcpStream, TargetFault> {
        let deadline = Instant::now() + DIAL_DEADLINE;
        let mut fault = TargetFault::Unreachable(None);
        for (index, address) in self.0.iter().enumerate() {
            let now = Instant::now();
            let shares = u32::try_from(self.0.len() - index).unwrap_or(u32::MAX);
            let share = now + deadline.saturating_duration_since(now) / shares;
            fault = match timeout_at(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    set_options(&stream).map_err(TargetFault::OutOfResources)?;
                    return Ok(stream);
                }
                Ok(Err(error)) => dial_fault(error),
                Err(_) => TargetFault::Unreachable(None),
            };
        }
        Err(fault)
    }
}

async fn resolve_name(host: &str, port: u16) -> Result<Vec<SocketAddr>, TargetFault> {
    match timeout(RESOLVE_DEADLINE, lookup_host((host, port))).await {
        Ok(Ok(addresses)) => Ok(addresses.take(MAX_ADDRESSES).collect()),
        Ok(Err(error)) => Err(TargetFault::Unresolved(Some(error))),
        Err(_) => Err(TargetFault::Unresolved(None)),
    }
}

fn dial_fault(error: io::Error) -> TargetFault {
    use io::ErrorKind::{AddrNotAvailable, ConnectionRefused, OutOfMemory};
    use rustix::io::Errno;
    let is_full = [Errno::MFILE, Errno::NFILE].map(|errno| Some(errno.raw_os_error()));
    if is_full.contains(&error.raw_os_error()) || matches!(error.kind(), AddrNotAvailable | OutOfMemory) {
        return TargetFault::OutOfResources(error);
    }
    if error.kind() == ConnectionRefused {
        return TargetFault::Refused;
    }
    TargetFault::Unreachable(Some(error))
}

/// A dead target becomes a reset, and small requests do not wait for acknowledgements.
fn set_options(stream: &TcpStream) -> io::Result<()> {
    let keep_alive = TcpKeepalive::new()
        .with_time(KEEP_ALIVE_AFTER)
        .with_interval(KEEP_ALIVE_EVERY)
        .with_retries(KEEP_ALIVE_PROBES);
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&keep_alive)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    stream.set_nodelay(true)
}

/// Whether proxies do not dial this address unless the resource says so.
pub fn is_forbidden(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_forbidden_v4(address),
        IpAddr::V6(address) => is_forbidden_v6(address),
    }
}

fn is_forbidden_v4(address: Ipv4Addr) -> bool {
    /// Metadata services that clouds put outside link-local: Azure's, Oracle's, Alibaba's.
    const METADATA: [Ipv4Addr; 3] =
        [Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(192, 0, 0, 192), Ipv4Addr::new(100, 100, 100, 200)];
    // "This network" (RFC 1122) reaches the machine itself on Linux, in all of 0.0.0.0/8's first address at least.
    let is_this_network = address.octets()[0] == 0;
    let is_reserved = address.octets()[0] >= 240;
    is_this_network
        || is_reserved
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || METADATA.contains(&address)
}

fn is_forbidden_v6(address: Ipv6Addr) -> bool {
    /// Metadata services with unique local addresses: Amazon's, Google's.
    const METADATA: [Ipv6Addr; 2] = [
        Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
        Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    ];
    address.is_loopback()
        || address.is_unspecified()
        || address.is_unicast_link_local()
        || address.is_multicast()
        || METADATA.contains(&address)
        || embedded_v4(address).is_some_and(is_forbidden_v4)
}

/// The IPv4 address that an IPv6 address stands for: mapped (RFC 4291 section 2.5.5.2), compatible (2.5.5.1), NAT64
/// (RFC 6052, RFC 8215), 6to4 (RFC 3056), ISATAP (RFC 5214).
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let join = |high: u16, low: u16| Some(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    match address.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] => join(high, low),
        // RFC 2765's translated form, ::ffff:0:a.b.c.d.
        [0, 0, 0, 0, 0xffff, 0, high, low] => join(high, low),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => join(high, low),
        // The local-use prefix is /48; translators use a /96 of it.
        [0x64, 0xff9b, 1, _, _, _, high, low] => join(high, low),
        [0x2002, high, low, _, _, _, _, _] => join(high, low),
        [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => join(high, low),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use portlatch_protocol::ports::PortRange;

    use super::*;

    #[test]
    fn local_addresses_are_forbidden_in_every_spelling() {
        for text in [
            "127.0.0.1",
            "127.255.255.254",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.0.1",
            "169.254.169.254",
            "168.63.129.16",
            "100.100.100.200",
            "192.0.0.192",
            "224.0.0.1",
            "239.255.255.255",
            "255.255.255.255",
            "240.0.0.1",
            "::",
            "::1",
            "fe80::1",
            "febf::1",
            "ff02::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "::ffff:0:127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::7f00:1",
            "64:ff9b:1:ffff::a9fe:a9fe",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "2001:db8::5efe:127.0.0.1",
        ] {
            assert!(is_forbidden(text.parse().unwrap()), "{text} was allowed");
        }
    }

    #[test]
    fn addresses_of_networks_are_allowed() {
        for text in [
            "10.0.0.5",
            "172.16.1.1",
            "192.168.1.1",
            "8.8.8.8",
            "100.64.0.1",
            "169.253.255.255",
            "2001:db8::1",
            "fd12:3456::1",
            "::ffff:10.0.0.5",
            "64:ff9b::a00:5",
            "2002:a00:5::",
        ] {
            assert!(!is_forbidden(text.parse().unwrap()), "{text} was forbidden");
        }
    }

    #[tokio::test]
    async fn names_are_checked_by_what_they_resolve_to() {
        for host in ["localhost", "127.0.0.1", "[::1]", "::ffff:127.0.0.1"] {
            let forbidden = Target::resolve(&resource(host), 80).await;
            assert!(matches!(forbidden, Err(TargetFault::Forbidden(_))), "{host}: {forbidden:?}");
            let local = ProxyResource { allow_local_target: true, ..resource(host) };
            assert_eq!(Target::resolve(&local, 80).await.unwrap().first().port(), 80);
        }
    }

    #[tokio::test]
    async fn a_name_that_does_not_exist_is_unreachable() {
        let fault = Target::resolve(&resource("does-not-exist.invalid"), 80).await.unwrap_err();
        assert_eq!(fault.refusal(), OpenRefusal::TargetUnreachable);
    }

    #[tokio::test]
    async fn the_targets_own_port_comes_before_the_programs() {
        let mut resource = resource("10.0.0.5");
        resource.target.port = Some(5433);
        assert_eq!(Target::resolve(&resource, 5432).await.unwrap().first(), "10.0.0.5:5433".parse().unwrap());
    }

    #[tokio::test]
    async fn a_dialled_connection_is_watched_by_keep_alive() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target(vec![listener.local_addr().unwrap()]);
        let stream = target.dial().await.unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap() && stream.nodelay().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEP_ALIVE_AFTER);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(USER_TIMEOUT));
    }

    #[tokio::test]
    async fn the_next_address_is_tried_where_one_refuses() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = {
            let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            closed.local_addr().unwrap()
        };
        assert!(matches!(Target(vec![closed]).dial().await, Err(TargetFault::Refused)));
        let both = Target(vec![closed, listener.local_addr().unwrap()]);
        assert!(both.dial().await.is_ok());
    }

    fn resource(host: &str) -> ProxyResource {
        ProxyResource {
            id: "app/x".parse().unwrap(),
            host: "x.corp.internal".parse().unwrap(),
            target: portlatch_protocol::watch::Target { host: host.into(), port: None },
            ports: vec![PortRange::single(80).unwrap()],
            allow_local_target: false,
        }
    }
}
