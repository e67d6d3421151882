//! An nftables table that the kernel deletes when this process ends. It keeps out what the routing rules let through:
//! packets from outside that pretend to belong to a flow, and packets that others would have us forward.
//!
//! ```text
//! table inet portlatch {            # flags owner
//!   chain prerouting {              # hook prerouting, priority raw: before connection tracking
//!     iifname "lo" accept
//!     iifname "portlatch0" accept
//!     ip  daddr OWN4   drop         # a neighbour injecting into a flow (weak host model, CVE-2019-14899)
//!     ip  saddr RANGE4 drop         # nobody outside has such an address
//!     ip6 daddr OWN6   drop
//!     ip6 saddr RANGE6 drop
//!   }
//!   chain forward {                 # hook forward, priority filter
//!     oifname "portlatch0" drop
//!     iifname "portlatch0" drop
//!     ip  daddr RANGE4 drop
//!     ip6 daddr RANGE6 drop
//!   }
//! }
//! ```
//!
//! Other packets for the range are left to the routing rules, which answer them with "unreachable" rather than silence.
//! Messages by hand: linux/netfilter/nf_tables.h; the kernel's numbers in them are in network byte order.

use std::io;
use std::net::IpAddr;

use super::netlink::{ACK, APPEND, CREATE, Client, Message, REQUEST};
use crate::os::{Findings, NetworkPlan};

const NETLINK_NETFILTER: isize = 12;
const TABLE: &[u8] = b"portlatch\0";
const PREROUTING: Chain = Chain { name: b"prerouting\0", hook: 0, priority: -300 };
const FORWARD: Chain = Chain { name: b"forward\0", hook: 2, priority: 0 };

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NFTABLES: u16 = 10;
const NEW_TABLE: u16 = NFTABLES << 8;
const DELETE_TABLE: u16 = NFTABLES << 8 | 2;
const NEW_CHAIN: u16 = NFTABLES << 8 | 3;
const NEW_RULE: u16 = NFTABLES << 8 | 6;

const FAMILY_UNSPEC: u8 = 0;
const FAMILY_INET: u8 = 1;
/// The table belongs to the socket that made it.
const TABLE_FLAG_OWNER: u32 = 2;
const VERDICT_DROP: u32 = 0;
const VERDICT_ACCEPT: u32 = 1;
const REGISTER_VERDICT: u32 = 0;
const REGISTER: u32 = 1;

/// Keeps the table; with its drop the table is gone.
#[derive(Debug)]
pub struct PacketGuard {
    client: Client,
    ownership: Ownership,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ownership {
    /// The kernel deletes the table with our socket.
    Kernel,
    /// Kernels before 5.12 know no owner: we delete it, and the next start does after a crash.
    Ours,
}

struct Chain {
    name: &'static [u8],
    hook: u32,
    priority: i32,
}

impl PacketGuard {
    /// Puts the table in place, for the plan's interface and ranges. Where the kernel cannot, that is a finding and
    /// there is no guard: identity is still the SYN look-up's alone, but a neighbour could inject into flows where
    /// rp_filter is not strict.
    pub fn raise(plan: &NetworkPlan, findings: &mut Findings) -> Option<Self> {
        match Self::try_raise(plan) {
            Ok(guard) => {
                if guard.ownership == Ownership::Ours {
                    findings.add(
                        "nftables",
                        "this kernel knows no table owners, so that the table portlatch outlives a crash of the daemon",
                        "`portlatchd cleanup` removes it; kernels since 5.12 do so by themselves",
                    );
                }
                Some(guard)
            }
            Err(error) => {
                findings.add(
                    "nftables",
                    format!("packets that pretend to come from a resource are not filtered out ({error})"),
                    "load the kernel module nf_tables, or set net.ipv4.conf.all.rp_filter to 1",
                );
                None
            }
        }
    }

    /// As [`raise`](Self::raise), with the reason where it fails.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn try_raise(plan: &NetworkPlan) -> io::Result<Self> {
        let mut client = Client::open(NETLINK_NETFILTER)?;
        // What a daemon on an old kernel left. Another process's table cannot be deleted, and the next step says so.
        let _ = client.transact(batch(vec![delete_table()]));
        match client.transact(batch(table(plan, TABLE_FLAG_OWNER))) {
            Ok(()) => Ok(Self { client, ownership: Ownership::Kernel }),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL)) => {
                client.transact(batch(table(plan, 0)))?;
                Ok(Self { client, ownership: Ownership::Ours })
            }
            Err(error) => Err(error),
        }
    }
}

impl Drop for PacketGuard {
    fn drop(&mut self) {
        // Where it fails the kernel deletes the table with the socket, or the next start does.
        let _ = self.client.transact(batch(vec![delete_table()]));
    }
}

/// Removes a table that nobody owns, left by a daemon on an old kernel.
pub(super) fn remove_leftover() -> io::Result<()> {
    match Client::open(NETLINK_NETFILTER)?.transact(batch(vec![delete_table()])) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The table, its chains and their rules.
fn table(plan: &NetworkPlan, flags: u32) -> Vec<Message> {
    let (ours, lo) = (plan.interface.as_str(), "lo");
    let range4 = (IpAddr::V4(plan.range4.network()), plan.range4.prefix_length());
    let mut messages = vec![
        Message::new(NEW_TABLE, REQUEST | CREATE | ACK, &header(FAMILY_INET, 0))
            .attribute(1, TABLE)
            .attribute(2, &flags.to_be_bytes()),
        chain(&PREROUTING),
        chain(&FORWARD),
        rule(&PREROUTING, |m| accept(interface(m, Direction::In, lo))),
        rule(&PREROUTING, |m| accept(interface(m, Direction::In, ours))),
        rule(&PREROUTING, |m| drop_it(address(m, Side::Destination, plan.range4.own_address().into(), 32))),
        rule(&PREROUTING, |m| drop_it(address(m, Side::Source, range4.0, range4.1))),
        rule(&FORWARD, |m| drop_it(interface(m, Direction::Out, ours))),
        rule(&FORWARD, |m| drop_it(interface(m, Direction::In, ours))),
        rule(&FORWARD, |m| drop_it(address(m, Side::Destination, range4.0, range4.1))),
    ];
    if let Some(range6) = plan.range6 {
        let (network, length) = (IpAddr::V6(range6.network()), range6.prefix_length());
        messages.extend([
            rule(&PREROUTING, |m| drop_it(address(m, Side::Destination, range6.own_address().into(), 128))),
            rule(&PREROUTING, |m| drop_it(address(m, Side::Source, network, length))),
            rule(&FORWARD, |m| drop_it(address(m, Side::Destination, network, length))),
        ]);
    }
    messages
}

/// All or nothing.
fn batch(messages: Vec<Message>) -> Vec<Message> {
    let border = |kind: u16| Message::new(kind, REQUEST, &header(FAMILY_UNSPEC, NFTABLES));
    let mut batch = vec![border(BATCH_BEGIN)];
    batch.extend(messages);
    batch.push(border(BATCH_END));
    batch
}

/// `struct nfgenmsg`.
fn header(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

fn delete_table() -> Message {
    Message::new(DELETE_TABLE, REQUEST | ACK, &header(FAMILY_INET, 0)).attribute(1, TABLE)
}

fn chain(chain: &Chain) -> Message {
    Message::new(NEW_CHAIN, REQUEST | CREATE | ACK, &header(FAMILY_INET, 0))
        .attribute(1, TABLE)
        .attribute(3, chain.name)
        .nested(4, |m| m.attribute(1, &chain.hook.to_be_bytes()).attribute(2, &chain.priority.to_be_bytes()))
        .attribute(7, b"filter\0")
}

fn rule(chain: &Chain, expressions: impl FnOnce(Message) -> Message) -> Message {
    Message::new(NEW_RULE, REQUEST | CREATE | APPEND | ACK, &header(FAMILY_INET, 0))
        .attribute(1, TABLE)
        .attribute(2, chain.name)
        .nested(4, expressions)
}

enum Direction {
    In,
    Out,
}

enum Side {
    Source,
    Destination,
}

/// `iifname NAME` or `oifname NAME`.
fn interface(message: Message, direction: Direction, name: &str) -> Message {
    let key: u32 = match direction {
        Direction::In => 6,
        Direction::Out => 7,
    };
    let mut padded = [0; libc::IFNAMSIZ];
    for (slot, byte) in padded.iter_mut().zip(name.bytes()) {
        *slot = byte;
    }
    equals(meta(message, key), &padded)
}

/// `ip saddr NETWORK/LENGTH` and the like, behind the check of the family that the table `inet` needs.
fn address(message: Message, side: Side, network: IpAddr, length: u8) -> Message {
    const NFPROTO: u32 = 15;
    // Where source and destination stand in the network header.
    let (family, octets, source): (i32, Vec<u8>, u32) = match network {
        IpAddr::V4(network) => (libc::NFPROTO_IPV4, network.octets().to_vec(), 12),
        IpAddr::V6(network) => (libc::NFPROTO_IPV6, network.octets().to_vec(), 8),
    };
    let family = u8::try_from(family).expect("families are small");
    let size = u32::try_from(octets.len()).expect("addresses are short");
    let offset = match side {
        Side::Source => source,
        Side::Destination => source + size,
    };
    let message = equals(meta(message, NFPROTO), &[family]);
    let message = expression(message, b"payload\0", |m| {
        const NETWORK_HEADER: u32 = 1;
        m.attribute(1, &REGISTER.to_be_bytes())
            .attribute(2, &NETWORK_HEADER.to_be_bytes())
            .attribute(3, &offset.to_be_bytes())
            .attribute(4, &size.to_be_bytes())
    });
    let mask = mask(octets.len(), length);
    let message = expression(message, b"bitwise\0", |m| {
        m.attribute(1, &REGISTER.to_be_bytes())
            .attribute(2, &REGISTER.to_be_bytes())
            .attribute(3, &size.to_be_bytes())
            .nested(4, |m| m.attribute(1, &mask))
            .nested(5, |m| m.attribute(1, &vec![0; mask.len()]))
    });
    equals(message, &octets)
}

/// The first `length` bits of `size` bytes.
fn mask(size: usize, length: u8) -> Vec<u8> {
    let mut left = usize::from(length);
    (0..size)
        .map(|_| {
            let bits = left.min(8);
            left -= bits;
            if bits == 0 { 0 } else { 0xff << (8 - bits) }
        })
        .collect()
}

fn meta(message: Message, key: u32) -> Message {
    expression(message, b"meta\0", |m| {
        m.attribute(2, &key.to_be_bytes()).attribute(1, &REGISTER.to_be_bytes())
    })
}

fn equals(message: Message, value: &[u8]) -> Message {
    const EQUAL: u32 = 0;
    expression(message, b"cmp\0", |m| {
        m.attribute(1, &REGISTER.to_be_bytes())
            .attribute(2, &EQUAL.to_be_bytes())
            .nested(3, |m| m.attribute(1, value))
    })
}

fn drop_it(message: Message) -> Message {
    verdict(message, VERDICT_DROP)
}

fn accept(message: Message) -> Message {
    verdict(message, VERDICT_ACCEPT)
}

fn verdict(message: Message, code: u32) -> Message {
    expression(message, b"immediate\0", |m| {
        m.attribute(1, &REGISTER_VERDICT.to_be_bytes())
            .nested(2, |m| m.nested(2, |m| m.attribute(1, &code.to_be_bytes())))
    })
}

fn expression(message: Message, name: &[u8], fill: impl FnOnce(Message) -> Message) -> Message {
    message.nested(1, |m| m.attribute(1, name).nested(2, fill))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_have_their_leading_bits_set() {
        assert_eq!(mask(4, 16), [255, 255, 0, 0]);
        assert_eq!(mask(4, 20), [255, 255, 0xf0, 0]);
        assert_eq!(mask(4, 32), [255; 4]);
        assert_eq!(mask(16, 64), [[255; 8], [0; 8]].concat());
    }
}
