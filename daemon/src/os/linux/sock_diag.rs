//! Whose socket a SYN came from, and the end of sockets that a crash left hanging: sock_diag (linux/inet_diag.h).
//!
//! The look-up is exact: address family, both addresses, both ports, the TUN's number. The kernel finds the socket in
//! its hash table, so that the cost does not depend on how many sockets there are. The uid is the *effective uid of the
//! process at socket()*: `sudo psql` is uid 0. A container's or another machine's SYN has no socket here: `None`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::netlink::{ACK, Client, DUMP, Message, REQUEST};
use crate::os::Findings;

const NETLINK_SOCK_DIAG: isize = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const TCP: u8 = 6;
const ALL_STATES: u32 = u32::MAX;
/// "Whatever its cookie": the socket is named by its addresses.
const NO_COOKIE: [u8; 8] = [0xff; 8];
/// Length of `struct inet_diag_sockid`, and where it stands in an answer.
const SOCKET_ID: usize = 48;
const ID_AT: usize = 4;

/// The state of a TCP socket (linux/tcp_states.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpState(u8);

impl TcpState {
    /// A SYN was sent, no answer came yet.
    pub const SYN_SENT: Self = Self(2);
    /// It waits for connections.
    pub const LISTEN: Self = Self(10);
    const TIME_WAIT: Self = Self(6);
}

/// Who owns a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketOwner {
    /// The effective uid of the process when it made the socket.
    pub uid: u32,
    /// The socket's inode: `/proc/PID/fd` shows it as `socket:[INODE]`. 0 once no process has it open any more.
    pub inode: u32,
    /// Its state at the time of the look-up.
    pub state: TcpState,
}

/// Looks up owners, synchronously: a few microseconds each. Needs no privilege.
#[derive(Debug)]
pub struct SocketOwners {
    client: Client,
}

impl SocketOwners {
    /// Opens the way to the kernel, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// If the kernel has no sock_diag.
    pub fn open() -> io::Result<Self> {
        Ok(Self { client: Client::open(NETLINK_SOCK_DIAG)? })
    }

    /// The owner of the local TCP socket from `source` to `destination`, both as the packet has them. `ifindex` is the
    /// TUN's: with 0 a socket that is bound to a device is not found.
    ///
    /// # Errors
    /// If the kernel cannot be asked; that is never "nobody's".
    pub fn owner(
        &mut self,
        source: SocketAddr,
        destination: SocketAddr,
        ifindex: u32,
    ) -> io::Result<Option<SocketOwner>> {
        let Some(id) = socket_id(source, destination, ifindex) else {
            return Ok(None);
        };
        match self.client.ask(request(SOCK_DIAG_BY_FAMILY, REQUEST, family_of(source.ip()), &id)) {
            Ok(body) => Ok(parse(body).filter(|socket| socket.joins(source, destination)).map(|s| s.owner)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// As [`owner`](Self::owner), but only where the socket still waits for the answer to its SYN and a process has
    /// it: the only owner that gives a flow an identity.
    ///
    /// # Errors
    /// As for [`owner`](Self::owner).
    pub fn owner_of_syn(
        &mut self,
        source: SocketAddr,
        destination: SocketAddr,
        ifindex: u32,
    ) -> io::Result<Option<SocketOwner>> {
        let owner = self.owner(source, destination, ifindex)?;
        Ok(owner.filter(|owner| owner.state == TcpState::SYN_SENT && owner.inode != 0))
    }
}

/// Ends every local TCP connection that has one of these as its own address: a program that only reads would wait for
/// ever after a crash, and hears ECONNABORTED instead. Gives how many there were.
///
/// # Errors
/// If the sockets cannot be listed or ended. Where the kernel was built without SOCK_DESTROY that is a finding, not an
/// error.
pub fn destroy_sockets(addresses: &[IpAddr], findings: &mut Findings) -> io::Result<usize> {
    let mut client = Client::open(NETLINK_SOCK_DIAG)?;
    let mut found = Vec::new();
    // IPv4 connections of IPv6 sockets are listed among the IPv6 ones.
    for family in [libc::AF_INET, libc::AF_INET6] {
        let family = u8::try_from(family).expect("address families are small");
        client.dump(request(SOCK_DIAG_BY_FAMILY, REQUEST | DUMP, family, &[0; SOCKET_ID]), |body| {
            let Some(socket) = parse(body) else { return };
            let is_connection = ![TcpState::LISTEN, TcpState::TIME_WAIT].contains(&socket.owner.state);
            if is_connection && addresses.contains(&socket.source.ip()) {
                found.push((family, socket.id));
            }
        })?;
    }
    let mut destroyed = 0;
    for (family, id) in found {
        match client.transact(vec![request(SOCK_DESTROY, REQUEST | ACK, family, &id)]) {
            Ok(()) => destroyed += 1,
            // It ended by itself in the meantime.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                findings.add(
                    "sock_destroy",
                    "this kernel cannot end sockets (CONFIG_INET_DIAG_DESTROY): after a crash of the daemon a program \
                     that only reads may wait for ever",
                    "restart such programs, or use a kernel that has it",
                );
                return Ok(destroyed);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(destroyed)
}

/// `struct inet_diag_req_v2`.
fn request(kind: u16, flags: u16, family: u8, id: &[u8; SOCKET_ID]) -> Message {
    let mut body = [0; 8 + SOCKET_ID];
    body[0] = family;
    body[1] = TCP;
    body[4..8].copy_from_slice(&ALL_STATES.to_ne_bytes());
    body[8..].copy_from_slice(id);
    Message::new(kind, flags, &body)
}

/// `struct inet_diag_sockid`; `None` if the two addresses are not of one family.
fn socket_id(source: SocketAddr, destination: SocketAddr, ifindex: u32) -> Option<[u8; SOCKET_ID]> {
    let mut id = [0; SOCKET_ID];
    id[0..2].copy_from_slice(&source.port().to_be_bytes());
    id[2..4].copy_from_slice(&destination.port().to_be_bytes());
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            id[4..8].copy_from_slice(&source.octets());
            id[20..24].copy_from_slice(&destination.octets());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            id[4..20].copy_from_slice(&source.octets());
            id[20..36].copy_from_slice(&destination.octets());
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
    }
    id[36..40].copy_from_slice(&ifindex.to_ne_bytes());
    id[40..48].copy_from_slice(&NO_COOKIE);
    Some(id)
}

fn family_of(address: IpAddr) -> u8 {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    u8::try_from(family).expect("address families are small")
}

/// A socket as the kernel describes it.
struct Described {
    source: SocketAddr,
    destination: SocketAddr,
    id: [u8; SOCKET_ID],
    owner: SocketOwner,
}

impl Described {
    /// A look-up that finds no connection may find a listener; that is not the sender of a SYN.
    fn joins(&self, source: SocketAddr, destination: SocketAddr) -> bool {
        self.source == source && self.destination == destination
    }
}

/// `struct inet_diag_msg`.
fn parse(body: &[u8]) -> Option<Described> {
    let (family, state) = (*body.first()?, *body.get(1)?);
    let id = *body.get(ID_AT..)?.first_chunk::<SOCKET_ID>()?;
    let word = |at: usize| Some(u32::from_ne_bytes(*body.get(at..)?.first_chunk::<4>()?));
    let address = |at: usize| -> Option<IpAddr> {
        let bytes = &id[at..at + 16];
        if i32::from(family) == libc::AF_INET {
            return Some(Ipv4Addr::from(*bytes.first_chunk::<4>()?).into());
        }
        // A connection over IPv4 is the same connection whichever family its socket was made with.
        Some(Ipv6Addr::from(*bytes.first_chunk::<16>()?).to_canonical())
    };
    let port = |at: usize| u16::from_be_bytes([id[at], id[at + 1]]);
    Some(Described {
        source: SocketAddr::new(address(4)?, port(0)),
        destination: SocketAddr::new(address(20)?, port(2)),
        id,
        owner: SocketOwner { uid: word(64)?, inode: word(68)?, state: TcpState(state) },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_found_with_the_uid_that_made_its_socket() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut owners = SocketOwners::open().unwrap();
        let (source, destination) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
        let owner = owners.owner(source, destination, 0).unwrap().unwrap();
        assert_eq!(owner.uid, rustix::process::geteuid().as_raw());
        assert_ne!(owner.inode, 0);
        assert_eq!(owners.owner_of_syn(source, destination, 0).unwrap(), None, "it is past its SYN");
    }

    #[test]
    fn a_listener_is_not_the_owner_of_a_connection_to_it() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let elsewhere: SocketAddr = "127.0.0.9:9".parse().unwrap();
        let mut owners = SocketOwners::open().unwrap();
        assert_eq!(owners.owner(listener.local_addr().unwrap(), elsewhere, 0).unwrap(), None);
    }

    #[test]
    fn addresses_of_two_families_have_no_owner() {
        let (v4, v6) = ("127.0.0.1:1".parse().unwrap(), "[::1]:1".parse().unwrap());
        assert_eq!(SocketOwners::open().unwrap().owner(v4, v6, 0).unwrap(), None);
    }

    #[test]
    fn a_mapped_address_reads_as_ipv4_and_a_cut_answer_as_nothing() {
        let mut body = [0; 72];
        body[0] = 10;
        body[1] = 2;
        body[ID_AT + 4..ID_AT + 20].copy_from_slice(&Ipv4Addr::new(198, 18, 0, 1).to_ipv6_mapped().octets());
        body[64..68].copy_from_slice(&5u32.to_ne_bytes());
        let socket = parse(&body).unwrap();
        assert_eq!(socket.source.ip(), IpAddr::from([198, 18, 0, 1]));
        assert_eq!((socket.owner.uid, socket.owner.state), (5, TcpState::SYN_SENT));
        assert!((0..72).all(|length| parse(&body[..length]).is_none()));
    }
}
