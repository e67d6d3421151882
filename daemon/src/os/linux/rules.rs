//! The two routing rules of each range (`ip rule`), which survive stop, crash and restart:
//!
//! ```text
//! 5200: from all to RANGE iif lo lookup 5200 proto 80
//! 5201: from all to RANGE unreachable proto 80
//! ```
//!
//! `iif lo` means "sent by this machine"; the reverse-path check asks as such too. Forwarded packets for the range meet
//! the second rule alone. Ours are known by their protocol number, so that a rule for a range of before is found.

use std::net::IpAddr;

use futures_util::TryStreamExt as _;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::RouteProtocol;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{Handle, IpVersion};

use super::network::{NetworkError, refused};
use crate::os::NetworkPlan;

/// Marks what is ours: "P". The kernel gives it no meaning (linux/rtnetlink.h: values above 4 are users' own).
const PROTOCOL: RouteProtocol = RouteProtocol::Other(80);

/// One rule, as far as it matters to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    priority: u32,
    /// The network that it is for.
    pub(super) network: IpAddr,
    prefix_length: u8,
    sender: Sender,
    outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sender {
    ThisMachine,
    Anybody,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Lookup(u32),
    Unreachable,
}

/// The rules of a plan for the range of this network. The one that refuses comes first, so that there is no moment
/// with the other alone.
pub(super) fn wanted(plan: &NetworkPlan, network: IpAddr) -> Vec<Rule> {
    let prefix_length = match network {
        IpAddr::V4(_) => plan.range4.prefix_length(),
        IpAddr::V6(_) => 64,
    };
    let unreachable = Rule {
        priority: plan.priority + 1,
        network,
        prefix_length,
        sender: Sender::Anybody,
        outcome: Outcome::Unreachable,
    };
    let lookup = Rule {
        priority: plan.priority,
        sender: Sender::ThisMachine,
        outcome: Outcome::Lookup(plan.table),
        ..unreachable
    };
    vec![unreachable, lookup]
}

/// Adds what is missing of the wanted rules, then removes those of ours that are not wanted.
pub(super) async fn reconcile(
    handle: &Handle,
    version: IpVersion,
    wanted: &[Rule],
) -> Result<(), NetworkError> {
    let present = ours(handle, version).await?;
    for rule in wanted.iter().filter(|rule| !present.contains(rule)) {
        let mut request = handle.rule().add();
        *request.message_mut() = message(rule);
        request.execute().await.map_err(refused("add a routing rule for the range"))?;
    }
    for (number, rule) in present.iter().enumerate() {
        // The kernel lets the same rule stand twice.
        if !wanted.contains(rule) || present[..number].contains(rule) {
            remove(handle, rule).await?;
        }
    }
    Ok(())
}

/// Our rules of one family.
pub(super) async fn ours(handle: &Handle, version: IpVersion) -> Result<Vec<Rule>, NetworkError> {
    let all: Vec<RuleMessage> = handle
        .rule()
        .get(version)
        .execute()
        .try_collect()
        .await
        .map_err(refused("list its routing rules"))?;
    let is_ours = |rule: &&RuleMessage| rule.attributes.contains(&RuleAttribute::Protocol(PROTOCOL));
    Ok(all.iter().filter(is_ours).filter_map(read).collect())
}

/// Removes one rule.
pub(super) async fn remove(handle: &Handle, rule: &Rule) -> Result<(), NetworkError> {
    handle.rule().del(message(rule)).execute().await.map_err(refused("remove a routing rule of the range"))
}

fn message(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = match rule.network {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.dst_len = rule.prefix_length;
    message.attributes = vec![
        RuleAttribute::Priority(rule.priority),
        RuleAttribute::Destination(rule.network),
        RuleAttribute::Protocol(PROTOCOL),
    ];
    if rule.sender == Sender::ThisMachine {
        message.attributes.push(RuleAttribute::Iifname("lo".to_owned()));
    }
    match rule.outcome {
        Outcome::Lookup(table) => {
            message.header.action = RuleAction::ToTable;
            message.attributes.push(RuleAttribute::Table(table));
        }
        Outcome::Unreachable => message.header.action = RuleAction::Unreachable,
    }
    message
}

/// `None` for a rule that is not of our making, whatever its mark says.
fn read(message: &RuleMessage) -> Option<Rule> {
    let (mut priority, mut network, mut table, mut sender) = (0, None, 0, Sender::Anybody);
    for attribute in &message.attributes {
        if let RuleAttribute::Priority(value) = attribute {
            priority = *value;
        } else if let RuleAttribute::Destination(value) = attribute {
            network = Some(*value);
        } else if let RuleAttribute::Table(value) = attribute {
            table = *value;
        } else if let RuleAttribute::Iifname(name) = attribute {
            (name == "lo").then_some(())?;
            sender = Sender::ThisMachine;
        }
    }
    let outcome = if message.header.action == RuleAction::ToTable {
        Outcome::Lookup(table)
    } else if message.header.action == RuleAction::Unreachable {
        Outcome::Unreachable
    } else {
        return None;
    };
    Some(Rule { priority, network: network?, prefix_length: message.header.dst_len, sender, outcome })
}
