//! The UDP socket of all tunnels.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use portlatch_carrier::port::Port;
use quinn::{Endpoint, EndpointConfig, TokioRuntime};
use rustix::net::sockopt;
use socket2::{Domain, Protocol, Socket, Type};

/// Room for datagrams that wait for us or for the wire: 20 ms at 1.6 Gbit/s. With the system's usual 200 KB a burst is
/// lost, and QUIC takes it for congestion.
const BUFFER: usize = 4 * 1024 * 1024;

/// One socket, for both families where the machine has both.
pub(crate) fn open() -> io::Result<Endpoint> {
    let dual_stack = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    let only_v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let socket = socket(dual_stack).or_else(|_| socket(only_v4))?;
    let port = Port::new(socket)?;
    Endpoint::new_with_abstract_socket(EndpointConfig::default(), None, port, Arc::new(TokioRuntime))
}

fn socket(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Over the system's limit where we may, else up to it; with less it works, only with more losses.
    let _ = sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(&socket, BUFFER));
    let _ = socket.set_send_buffer_size(BUFFER);
    socket.bind(&address.into())?;
    Ok(socket.into())
}
