//! [`NetworkPlan`] over rtnetlink: addresses, the link, the private table's route and the range's rules.
//!
//! The rules come first and stay behind on purpose: from the first moment to after a crash a SYN for the range goes to
//! the TUN or nowhere, never to the default gateway. Everything else dies with the TUN.

use std::net::IpAddr;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{Handle, IpVersion, LinkUnspec};
use tokio_util::task::AbortOnDropHandle;

use super::rules;
use crate::os::network_plan::NUMBER;
use crate::os::ranges::Destination;
use crate::os::{Applied, Findings, Ipv6State, NetworkPlan};

/// A step that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("the kernel refused to {step}")]
pub struct NetworkError {
    /// What was tried.
    pub step: &'static str,
    /// Its answer.
    #[source]
    pub source: Box<rtnetlink::Error>,
}

/// An address works within milliseconds; where it does not by then, it never will.
const LONGEST_SETTLING: Duration = Duration::from_secs(2);

/// Names the step in an error.
pub(super) fn refused(step: &'static str) -> impl Fn(rtnetlink::Error) -> NetworkError {
    move |source| NetworkError { step, source: Box::new(source) }
}

/// There is no socket to talk over.
pub(super) fn connection_failed(error: std::io::Error) -> NetworkError {
    refused("talk about its network")(rtnetlink::Error::NamespaceError(error.to_string()))
}

/// A connection to rtnetlink in the network namespace of the calling thread.
pub(super) struct Connection {
    pub(super) handle: Handle,
    _driver: AbortOnDropHandle<()>,
}

impl Connection {
    pub(super) fn open() -> Result<Self, NetworkError> {
        let (driver, handle, _) = rtnetlink::new_connection().map_err(connection_failed)?;
        Ok(Self { handle, _driver: AbortOnDropHandle::new(tokio::spawn(driver)) })
    }
}

/// One family's part of a plan.
struct Family {
    version: IpVersion,
    family: AddressFamily,
    own_address: IpAddr,
    own_length: u8,
    network: IpAddr,
    prefix_length: u8,
}

impl NetworkPlan {
    fn ipv4(&self) -> Family {
        Family {
            version: IpVersion::V4,
            family: AddressFamily::Inet,
            own_address: self.range4.own_address().into(),
            own_length: 32,
            network: self.range4.network().into(),
            prefix_length: self.range4.prefix_length(),
        }
    }

    fn ipv6(&self) -> Option<Family> {
        self.range6.map(|range| Family {
            version: IpVersion::V6,
            family: AddressFamily::Inet6,
            own_address: range.own_address().into(),
            own_length: 128,
            network: range.network().into(),
            prefix_length: range.prefix_length(),
        })
    }

    /// Makes the machine's network look like this plan; ends with the link up. What an earlier plan or a killed daemon
    /// left and this one does not want goes away. Applying it again changes nothing.
    ///
    /// # Errors
    /// A [`NetworkError`] if IPv4 cannot be had. Without IPv6 we go on, and that is a finding.
    pub async fn apply(&self, findings: &mut Findings) -> Result<Applied, NetworkError> {
        let connection = Connection::open()?;
        let handle = &connection.handle;
        rules::reconcile(handle, IpVersion::V4, &rules::wanted(self, self.range4.network().into())).await?;
        let rules6 = self.apply_rules6(handle).await;

        self.set_up_link(handle).await?;
        self.apply_family(handle, &self.ipv4()).await?;
        let ipv6 = match (rules6, self.ipv6()) {
            (Ok(()), Some(family)) => self.apply_family(handle, &family).await.map(|()| Ipv6State::Works),
            (Err(error), Some(_)) => Err(error),
            // A machine without IPv6 has neither rules nor addresses of it.
            (_, None) => {
                self.clear_family(handle, AddressFamily::Inet6).await;
                Ok(Ipv6State::Off)
            }
        };
        let ipv6 = ipv6.unwrap_or_else(|error| {
            findings.add(
                "ipv6",
                format!("names get IPv4 addresses only ({error}: {})", error.source),
                "nothing needs to be done; set `range6 = \"off\"` to say so, or switch IPv6 on (net.ipv6.conf.*.disable_ipv6)",
            );
            Ipv6State::Off
        });
        Ok(Applied { ipv6 })
    }

    /// Takes addresses, route and link away. The range's two rules stay, so that a SYN for it goes nowhere. All of it
    /// may be gone already.
    ///
    /// # Errors
    /// A [`NetworkError`] if the kernel cannot be asked.
    pub async fn remove(&self) -> Result<(), NetworkError> {
        let connection = Connection::open()?;
        let handle = &connection.handle;
        self.clear_family(handle, AddressFamily::Inet).await;
        self.clear_family(handle, AddressFamily::Inet6).await;
        let down = LinkUnspec::new_with_index(self.ifindex).down().build();
        let _ = handle.link().set(down).execute().await;
        Ok(())
    }

    /// Takes routes and addresses of a family away. They may be gone with the link already.
    async fn clear_family(&self, handle: &Handle, family: AddressFamily) {
        let version = if family == AddressFamily::Inet { IpVersion::V4 } else { IpVersion::V6 };
        for route in table_routes(handle, &version, self.table).await.unwrap_or_default() {
            let _ = handle.route().del(route).execute().await;
        }
        for address in link_addresses(handle, self.ifindex).await.unwrap_or_default() {
            if address.header.family == family {
                let _ = handle.address().del(address).execute().await;
            }
        }
    }

    async fn apply_rules6(&self, handle: &Handle) -> Result<(), NetworkError> {
        let wanted = self.range6.map(|range| rules::wanted(self, range.network().into())).unwrap_or_default();
        rules::reconcile(handle, IpVersion::V6, &wanted).await
    }

    /// No multicast and no link-local address: nothing of the system's own chatter (LLMNR, mDNS, MLD) reaches the TUN.
    async fn set_up_link(&self, handle: &Handle) -> Result<(), NetworkError> {
        let quiet = LinkUnspec::new_with_index(self.ifindex).multicast(false).build();
        handle.link().set(quiet).execute().await.map_err(refused("switch multicast off on the interface"))?;
        let no_link_local = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
        let attribute = LinkAttribute::AfSpecUnspec(vec![no_link_local]);
        let message = LinkUnspec::new_with_index(self.ifindex).append_extra_attribute(attribute).build();
        // Refused where there is no IPv6: then there is no link-local address to keep away.
        let _ = handle.link().set(message).execute().await;
        let up = LinkUnspec::new_with_index(self.ifindex).up().build();
        handle.link().set(up).execute().await.map_err(refused("switch the interface on"))
    }

    async fn apply_family(&self, handle: &Handle, family: &Family) -> Result<(), NetworkError> {
        for address in link_addresses(handle, self.ifindex).await? {
            let is_foreign = address.header.family == family.family
                && !address.attributes.contains(&AddressAttribute::Address(family.own_address));
            if is_foreign {
                let removed = handle.address().del(address).execute().await;
                removed.map_err(refused("take an old address off the interface"))?;
            }
        }
        let mut request = handle.address().add(self.ifindex, family.own_address, family.own_length).replace();
        let message = request.message_mut();
        // Ours alone: no duplicate detection to wait for, and no route of the kernel's making in the main table.
        message.header.flags = AddressHeaderFlags::Nodad | AddressHeaderFlags::Permanent;
        message.header.scope = AddressScope::Universe;
        let flags = AddressFlags::Nodad | AddressFlags::Noprefixroute | AddressFlags::Permanent;
        message.attributes.push(AddressAttribute::Flags(flags));
        request.execute().await.map_err(refused("give the interface its address"))?;

        let wanted = self.route(family);
        let step = "route the range to the interface";
        handle.route().add(wanted).replace().execute().await.map_err(refused(step))?;
        for route in table_routes(handle, &family.version, self.table).await? {
            let is_wanted = destination_of(&route) == Some((family.network, family.prefix_length))
                && route.attributes.contains(&RouteAttribute::Oif(self.ifindex));
            if !is_wanted {
                handle
                    .route()
                    .del(route)
                    .execute()
                    .await
                    .map_err(refused("remove an old route of the range"))?;
            }
        }
        self.await_own_address(handle, family).await
    }

    /// Waits until packets for our own address are taken in: the kernel makes an IPv6 address's local route a moment
    /// after the address, in a work queue, and drops what comes before that.
    async fn await_own_address(&self, handle: &Handle, family: &Family) -> Result<(), NetworkError> {
        let deadline = tokio::time::Instant::now() + LONGEST_SETTLING;
        loop {
            let routes = dump_routes(handle, &family.version).await?;
            let is_taken_in = |route: &RouteMessage| {
                route.header.kind == RouteType::Local
                    && destination_of(route) == Some((family.own_address, family.own_length))
            };
            if routes.iter().any(is_taken_in) {
                return Ok(());
            }
            if tokio::time::Instant::now() > deadline {
                let step = "take in packets for the interface's address";
                return Err(refused(step)(rtnetlink::Error::RequestFailed));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn route(&self, family: &Family) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = family.family;
        message.header.destination_prefix_length = family.prefix_length;
        message.header.protocol = RouteProtocol::Static;
        message.header.kind = RouteType::Unicast;
        message.header.scope = match family.version {
            IpVersion::V4 => RouteScope::Link,
            IpVersion::V6 => RouteScope::Universe,
        };
        message.header.table = RouteHeader::RT_TABLE_UNSPEC;
        message.attributes = vec![
            RouteAttribute::Table(self.table),
            RouteAttribute::Destination(family.network.into()),
            RouteAttribute::PrefSource(family.own_address.into()),
            RouteAttribute::Oif(self.ifindex),
        ];
        message
    }
}

/// Where this machine's IPv4 routes lead, without our own: what a range must not overlap.
///
/// # Errors
/// A [`NetworkError`] if the kernel cannot be asked.
pub async fn routes() -> Result<Vec<Destination>, NetworkError> {
    let connection = Connection::open()?;
    let all = dump_routes(&connection.handle, &IpVersion::V4).await?;
    let ours: Vec<u32> =
        all.iter().filter(|route| table_of(route) == NUMBER).filter_map(interface_of).collect();
    let reaches_somebody = |route: &RouteMessage| {
        let is_refusal = matches!(
            route.header.kind,
            RouteType::Unreachable | RouteType::BlackHole | RouteType::Prohibit | RouteType::Throw
        );
        // The kernel's own entries for our address are on our interface.
        let is_ours =
            table_of(route) == NUMBER || interface_of(route).is_some_and(|index| ours.contains(&index));
        !is_refusal && !is_ours
    };
    let destination = |route: &RouteMessage| {
        destination_of(route).map(|(network, prefix_length)| Destination { network, prefix_length })
    };
    Ok(all.iter().filter(|route| reaches_somebody(route)).filter_map(destination).collect())
}

async fn dump_routes(handle: &Handle, version: &IpVersion) -> Result<Vec<RouteMessage>, NetworkError> {
    let mut question = RouteMessage::default();
    question.header.address_family = match version {
        IpVersion::V4 => AddressFamily::Inet,
        IpVersion::V6 => AddressFamily::Inet6,
    };
    handle.route().get(question).execute().try_collect().await.map_err(refused("list its routes"))
}

async fn table_routes(
    handle: &Handle,
    version: &IpVersion,
    table: u32,
) -> Result<Vec<RouteMessage>, NetworkError> {
    let mut routes = dump_routes(handle, version).await?;
    routes.retain(|route| table_of(route) == table);
    Ok(routes)
}

async fn link_addresses(handle: &Handle, ifindex: u32) -> Result<Vec<AddressMessage>, NetworkError> {
    let step = "list the interface's addresses";
    handle.address().get().set_link_index_filter(ifindex).execute().try_collect().await.map_err(refused(step))
}

fn table_of(route: &RouteMessage) -> u32 {
    let read = |attribute: &RouteAttribute| {
        if let RouteAttribute::Table(table) = attribute { Some(*table) } else { None }
    };
    route.attributes.iter().find_map(read).unwrap_or_else(|| route.header.table.into())
}

fn interface_of(route: &RouteMessage) -> Option<u32> {
    let read = |attribute: &RouteAttribute| {
        if let RouteAttribute::Oif(index) = attribute { Some(*index) } else { None }
    };
    route.attributes.iter().find_map(read)
}

fn destination_of(route: &RouteMessage) -> Option<(IpAddr, u8)> {
    let read = |attribute: &RouteAttribute| -> Option<IpAddr> {
        let RouteAttribute::Destination(address) = attribute else { return None };
        if let RouteAddress::Inet(address) = address {
            return Some((*address).into());
        }
        if let RouteAddress::Inet6(address) = address { Some((*address).into()) } else { None }
    };
    let network = route.attributes.iter().find_map(read)?;
    Some((network, route.header.destination_prefix_length))
}
