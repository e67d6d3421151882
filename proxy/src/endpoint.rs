//! The UDP port: QUIC with the certificates of tunnels and nothing else.
//!
//! The loop that takes connections never waits for one: each handshake is a task of its own with a deadline, so a peer
//! that withholds its certificate keeps nobody waiting but itself.

mod connection_id;
pub(crate) mod transport;

use std::net::SocketAddr;
use std::sync::Arc;

use portlatch_carrier::port::Port;
use portlatch_protocol::identity::IdentityKind;
use portlatch_protocol::stream::{ALPN, close};
use portlatch_protocol::tls::{Authority, OneKindOfClient};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{ConnectionError, Endpoint, EndpointConfig, Incoming, ServerConfig};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::cipher_suite;
use rustls::server::NoServerSessionStorage;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::admission::{HANDSHAKE_DEADLINE, Place, Places};
use crate::certificate::ServerCertificate;
use crate::proxy::Proxy;
use crate::tunnel;
use crate::watch::View;

use self::connection_id::RandomIds;

/// Tunnels at once, all users together.
const MAX_TUNNELS: usize = 16_384;
/// Connection attempts that wait to be looked at. The loop looks at once.
const MAX_WAITING: usize = 4096;
/// Bytes that one such attempt may send before it is taken: there is no 0-RTT.
const WAITING_BYTES: u64 = 64 * 1024;
/// The same, all attempts together.
const WAITING_BYTES_IN_ALL: u64 = 32 * 1024 * 1024;
/// Socket buffers: a burst of every tunnel's datagrams while the executor is busy.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;
/// How long peers have to hear that the endpoint has closed.
const GOODBYE: std::time::Duration = std::time::Duration::from_secs(1);

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

/// Opens the UDP port. Must be called inside a tokio runtime.
///
/// # Errors
/// [`EndpointError`].
pub fn open(settings: EndpointSettings, view: Arc<View>) -> Result<Endpoint, EndpointError> {
    let address = settings.address;
    let socket = socket(address).map_err(|source| EndpointError::Socket { address, source })?;
    let tls = tls_config(settings.authority, settings.certificate, view)?;
    let reset_key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &settings.reset_secret);
    let mut endpoint = EndpointConfig::new(Arc::new(reset_key));
    endpoint.cid_generator(|| Box::new(RandomIds));
    let config = server_config(tls)?;
    Port::new(socket)
        .and_then(|port| {
            Endpoint::new_with_abstract_socket(endpoint, Some(config), port, Arc::new(quinn::TokioRuntime))
        })
        .map_err(|source| EndpointError::Socket { address, source })
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

fn socket(address: SocketAddr) -> std::io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // The system may grant less; it works then, only with more losses.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    socket.bind(&address.into())?;
    Ok(socket.into())
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

/// Serves tunnels until the proxy has ended.
pub async fn serve(proxy: Arc<Proxy>, endpoint: Endpoint) {
    let handshakes = Places::for_handshakes();
    let mut tunnels = JoinSet::new();
    loop {
        tokio::select! {
            incoming = endpoint.accept() => match incoming {
                // Whoever comes now hears at once that there is nobody.
                Some(incoming) if proxy.stop.is_draining() => incoming.refuse(),
                Some(incoming) => take(&proxy, &endpoint, incoming, &handshakes, &mut tunnels),
                None => break,
            },
            Some(ended) = tunnels.join_next() => if let Err(error) = ended {
                tracing::error!(%error, "a tunnel broke");
            },
            () = proxy.stop.ended.cancelled() => break,
        }
    }
    while tunnels.join_next().await.is_some() {}
    endpoint.close(close::STOPPED.into(), b"stopped");
    // Nobody to say goodbye to must not keep the process.
    let _ = timeout(GOODBYE, endpoint.wait_idle()).await;
}

/// Sorts a connection attempt: taken, asked to show its address, or refused. Waits for nothing.
fn take(
    proxy: &Arc<Proxy>,
    endpoint: &Endpoint,
    incoming: Incoming,
    handshakes: &Places,
    tunnels: &mut JoinSet<()>,
) {
    if handshakes.are_many() && !incoming.remote_address_validated() {
        // It may retry exactly because it is not validated.
        let _ = incoming.retry();
        return;
    }
    if endpoint.open_connections() >= MAX_TUNNELS {
        return incoming.refuse();
    }
    match handshakes.admit(incoming.remote_address().ip()) {
        Some(underway) => drop(tunnels.spawn(handshake(Arc::clone(proxy), incoming, underway))),
        None => incoming.refuse(),
    }
}

async fn handshake(proxy: Arc<Proxy>, incoming: Incoming, underway: Place) {
    let address = incoming.remote_address();
    let Ok(connecting) = incoming.accept() else { return };
    let handshake = tokio::select! {
        handshake = timeout(HANDSHAKE_DEADLINE, connecting) => handshake,
        () = proxy.stop.ended.cancelled() => return,
    };
    drop(underway);
    match handshake {
        Ok(Ok(connection)) => tunnel::serve(proxy, connection).await,
        Ok(Err(error)) => {
            tracing::debug!(%error, %address, "no tunnel");
            if is_about_the_certificate(&error) {
                tunnel::turned_away(&proxy, address, None, "certificate").await;
            }
        }
        Err(_) => tracing::debug!(%address, "no tunnel: the handshake took too long"),
    }
}

/// Whether we ended the handshake because the peer's certificate is none of a tunnel: by RFC 9001 section 4.8 a TLS alert
/// is an error code of its own.
fn is_about_the_certificate(error: &ConnectionError) -> bool {
    let ConnectionError::TransportError(error) = error else { return false };
    CERTIFICATE_ALERTS.contains(&(u64::from(error.code)))
}

/// The alerts of RFC 8446 section 6.2 from bad_certificate (42) to certificate_unknown (46), unknown_ca (48), access_denied (49) and certificate_required (116), each as a QUIC error.
const CERTIFICATE_ALERTS: [u64; 8] = [0x12a, 0x12b, 0x12c, 0x12d, 0x12e, 0x130, 0x131, 0x174];

#[cfg(test)]
mod tests {
    use portlatch_clock::Clock;
    use portlatch_protocol::identity::Subject;

    use super::*;
    use crate::proxy::fixture::ca::TestCa;
    use crate::proxy::fixture::login;
    use crate::proxy::fixture::network::{PATIENCE, connect, new_proxy, open_endpoint};

    #[tokio::test]
    async fn peers_of_a_killed_proxy_learn_it_from_the_next_one() {
        let (clock, _) = Clock::movable();
        let (ca, directory) = (TestCa::new(), tempfile::tempdir().unwrap());
        let proxy = new_proxy(directory.path(), &clock, u64::MAX);
        // On an executor of its own, which ends as a killed process does: without a word to anybody.
        let doomed =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let address = {
            let _inside = doomed.enter();
            let endpoint = open_endpoint("127.0.0.1:0".parse().unwrap(), &ca, &proxy);
            let address = endpoint.local_addr().unwrap();
            doomed.spawn(serve(Arc::clone(&proxy), endpoint));
            address
        };
        let leaf = ca.leaf(Subject::Tunnel(login()));
        let (_client, connection) = connect(&ca, &leaf, address).await.unwrap();
        tokio::task::spawn_blocking(move || doomed.shutdown_timeout(PATIENCE)).await.unwrap();
        let _next = open_endpoint(address, &ca, &proxy);
        let (mut send, _receive) = connection.open_bi().await.unwrap();
        send.write_all(b"anybody there?").await.unwrap();
        let error = timeout(PATIENCE, connection.closed()).await.expect("the peer learns of it");
        assert_eq!(error, ConnectionError::Reset);
    }
}
