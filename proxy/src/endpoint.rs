//! The UDP port: QUIC with the certificates of tunnels and nothing else.
//!
//! Each lane (`lane`) is a thread that serves its share of the tunnels alone: packets, streams and sessions cross no
//! other thread. Which lane a datagram belongs to, its connection ID says (`steering`).

mod connection_id;
mod lane;
mod steering;
pub(crate) mod transport;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use portlatch_protocol::identity::IdentityKind;
use portlatch_protocol::stream::ALPN;
use portlatch_protocol::tls::{Authority, OneKindOfClient};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{EndpointConfig, ServerConfig};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::cipher_suite;
use rustls::server::NoServerSessionStorage;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::task::JoinSet;

use crate::admission::Handshakes;
use crate::certificate::ServerCertificate;
use crate::proxy::Proxy;
use crate::watch::View;

use self::connection_id::LaneIds;
use self::lane::Lane;

/// Threads that serve tunnels, at most: one saturates several Gbit/s, and each has buffers of 3 MB.
const MAX_LANES: usize = 16;
/// Connection attempts that wait to be looked at. The loop looks at once.
const MAX_WAITING: usize = 4096;
/// Bytes that one such attempt may send before it is taken: there is no 0-RTT.
const WAITING_BYTES: u64 = 64 * 1024;
/// The same, all attempts together.
const WAITING_BYTES_IN_ALL: u64 = 32 * 1024 * 1024;
/// Socket buffers: a burst of every tunnel's datagrams while the executor is busy.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;

/// Why there is no endpoint.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The UDP port cannot be had.
    #[error("UDP port {address} cannot be opened: {source}")]
    Socket {
        /// The address and port.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// TLS does not accept our configuration.
    #[error("the QUIC endpoint cannot be configured: {0}")]
    Tls(#[from] rustls::Error),
}

/// What an endpoint needs.
#[derive(Debug)]
pub struct EndpointSettings {
    /// Address and port; an unspecified IPv6 address takes IPv4 as well.
    pub address: SocketAddr,
    /// Whose tunnels are let in.
    pub authority: Authority,
    /// What it shows.
    pub certificate: Arc<ServerCertificate>,
    /// The same at every start: peers of a killed process learn from the next one that it is gone (RFC 9000 section
    /// 10.3).
    pub reset_secret: [u8; 32],
}

/// The UDP port, open and not yet served.
#[derive(Debug)]
pub struct UdpPort {
    address: SocketAddr,
    lanes: Vec<Lane>,
}

/// Opens the UDP port, with a lane for each core.
///
/// # Errors
/// [`EndpointError`].
pub fn open(settings: EndpointSettings, view: Arc<View>) -> Result<UdpPort, EndpointError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    open_with_lanes(cores.min(MAX_LANES), settings, view)
}

fn open_with_lanes(
    lanes: usize,
    settings: EndpointSettings,
    view: Arc<View>,
) -> Result<UdpPort, EndpointError> {
    let address = settings.address;
    let (address, sockets) =
        sockets(address, lanes).map_err(|source| EndpointError::Socket { address, source })?;
    let server = server_config(tls_config(settings.authority, settings.certificate, view)?)?;
    let reset_key = Arc::new(aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &settings.reset_secret));
    let all = sockets.len();
    let lane = |(number, socket)| {
        let mut endpoint = EndpointConfig::new(Arc::<aws_lc_rs::hmac::Key>::clone(&reset_key));
        endpoint.cid_generator(move || Box::new(LaneIds { lane: number, lanes: all }));
        Lane { number, socket, endpoint, server: server.clone() }
    };
    let lanes = sockets.into_iter().enumerate().map(lane).collect();
    Ok(UdpPort { address, lanes })
}

impl UdpPort {
    /// Its address.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Serves tunnels until the proxy has ended, or until a lane breaks.
pub async fn serve(proxy: Arc<Proxy>, port: UdpPort) {
    let handshakes = Handshakes::default();
    let mut lanes = JoinSet::new();
    let most_tunnels = lane::MAX_TUNNELS / port.lanes.len();
    for lane in port.lanes {
        lanes.spawn(lane.start(Arc::clone(&proxy), handshakes.clone(), most_tunnels));
    }
    let ended = async {
        while lanes.join_next().await.is_some() {
            if !proxy.stop.ended.is_cancelled() {
                // Half a port would take tunnels and lose them.
                return tracing::error!("a lane broke");
            }
        }
    };
    tokio::select! {
        () = ended => {}
        () = proxy.deadlines.keep(&proxy.clock) => {}
    }
}

fn server_config(tls: rustls::ServerConfig) -> Result<ServerConfig, EndpointError> {
    let crypto = QuicServerConfig::try_from(tls)
        .map_err(|_| rustls::Error::General("QUIC's initial cipher suite is missing".into()))?;
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    config
        .transport_config(Arc::new(transport::config()))
        .migration(true)
        .max_incoming(MAX_WAITING)
        .incoming_buffer_size(WAITING_BYTES)
        .incoming_buffer_size_total(WAITING_BYTES_IN_ALL);
    Ok(config)
}

/// A socket for each lane, all of the same address: one, where the kernel cannot tell lanes apart.
fn sockets(address: SocketAddr, lanes: usize) -> std::io::Result<(SocketAddr, Vec<UdpSocket>)> {
    // Sockets that share a port would join those of another process.
    let alone = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    bind(&alone, address)?;
    drop(alone);
    let first = shared_socket(address)?;
    let address = first.local_addr()?;
    let mut sockets = vec![first];
    if lanes > 1 {
        match steering::by_connection_id(&sockets[0], lanes) {
            Ok(()) => {
                for _ in 1..lanes {
                    sockets.push(shared_socket(address)?);
                }
            }
            Err(error) => tracing::warn!(%error, "one thread serves all tunnels"),
        }
    }
    Ok((address, sockets))
}

fn shared_socket(address: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(true)?;
    // The system may grant less; it works then, only with more losses.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    bind(&socket, address)?;
    Ok(socket.into())
}

fn bind(socket: &Socket, address: SocketAddr) -> std::io::Result<()> {
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())
}

/// TLS 1.3 with a tunnel's certificate. No ticket of any kind: a resumed connection would bring its old identity without
/// a look at dates and locks.
fn tls_config(
    authority: Authority,
    certificate: Arc<ServerCertificate>,
    view: Arc<View>,
) -> Result<rustls::ServerConfig, EndpointError> {
    let provider = CryptoProvider {
        // AES-128 first: the fastest where there is AES in hardware, which is everywhere that proxies run.
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..rustls::crypto::aws_lc_rs::default_provider()
    };
    let mut config = rustls::ServerConfig::builder_with_details(Arc::new(provider), view)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(OneKindOfClient::required(authority, IdentityKind::Tunnel))
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.ignore_client_order = true;
    Ok(config)
}

#[cfg(test)]
mod tests;
