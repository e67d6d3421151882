//! Keeps a [`NetworkPlan`] in place: other programs that manage the network (networkd, when it restarts) take away rules
//! and routes that they do not know.

use std::time::Duration;

use futures_util::StreamExt as _;
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::network::{NetworkError, connection_failed};
use crate::os::{Findings, NetworkPlan};

/// What others take away they take away in one go: wait for the end of it. Also the least between two repairs.
const SETTLE: Duration = Duration::from_millis(300);

impl NetworkPlan {
    /// Applies the plan, now and whenever a rule, route or address was taken away on this machine, until `stop`. What is
    /// still as it should be is not touched.
    ///
    /// # Errors
    /// A [`NetworkError`] if the kernel does not say what changes.
    pub async fn keep(&self, stop: CancellationToken) -> Result<(), NetworkError> {
        let groups = [
            MulticastGroup::Ipv4Rule,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Rule,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Ipv6Ifaddr,
        ];
        let (driver, _handle, mut messages) =
            rtnetlink::new_multicast_connection(&groups).map_err(connection_failed)?;
        let _driver = AbortOnDropHandle::new(tokio::spawn(driver));
        loop {
            // The first time for what was lost before anybody listened.
            if let Err(error) = self.apply(&mut Findings::default()).await {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(
                    error,
                    "what another program took of the range's network could not be put back"
                );
            }
            let lost = async {
                loop {
                    let (message, _) = messages.next().await?;
                    if is_loss(&message.payload) {
                        tokio::time::sleep(SETTLE).await;
                        return Some(());
                    }
                }
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                // The kernel says nothing any more.
                lost = lost => if lost.is_none() { return Ok(()) },
            }
            while messages.try_recv().is_ok() {}
        }
    }
}

fn is_loss(payload: &NetlinkPayload<RouteNetlinkMessage>) -> bool {
    matches!(
        payload,
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::DelRule(_)
                | RouteNetlinkMessage::DelRoute(_)
                | RouteNetlinkMessage::DelAddress(_)
        )
    )
}
