//! How connections are opened: by TCP, or as streams of one QUIC connection, which is what a tunnel is without Portlatch.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use quinn::{EndpointConfig, TokioRuntime};
use rustix::net::sockopt;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};

/// The name in the QUIC server's certificate.
const SERVER_NAME: &str = "bench";
/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// Streams at once: more than any load opens.
const STREAMS: u32 = 4096;
/// A stream's window: what a lab's wire and two busy cores hold, and more.
const WINDOW: u32 = 1024 * 1024;
/// The connection's windows, in windows of streams. Were they used up, quinn would give what becomes free to the first
/// stream that asks, and the others would starve: they have room for more streams than any bulk load has.
const WINDOWS: u32 = 256;

/// Room for datagrams that wait.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;

/// The receiving half.
pub type Reader = Box<dyn AsyncRead + Send + Unpin>;
/// The sending half.
pub type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// One connection of a load.
pub struct Connection {
    /// What comes.
    pub reader: Reader,
    /// What goes.
    pub writer: Writer,
}

impl From<TcpStream> for Connection {
    fn from(stream: TcpStream) -> Self {
        let (reader, writer) = stream.into_split();
        Self { reader: Box::new(reader), writer: Box::new(writer) }
    }
}

impl From<(quinn::SendStream, quinn::RecvStream)> for Connection {
    fn from((writer, reader): (quinn::SendStream, quinn::RecvStream)) -> Self {
        Self { reader: Box::new(reader), writer: Box::new(writer) }
    }
}

/// Opens connections to one server.
#[derive(Debug, Clone)]
pub enum Path {
    /// A TCP connection each; directly, or through Portlatch without knowing it.
    Tcp(SocketAddr),
    /// A stream each.
    Quic(quinn::Connection),
}

impl Path {
    /// To `target`, which is resolved once: name look-ups are not part of a load.
    ///
    /// # Errors
    /// If it does not resolve.
    pub async fn tcp(target: &str) -> Result<Self> {
        let addresses = lookup_host(target).await.with_context(|| format!("looking up {target}"))?;
        let mut addresses: Vec<_> = addresses.collect();
        addresses.sort_by_key(SocketAddr::is_ipv6);
        Ok(Self::Tcp(*addresses.first().with_context(|| format!("{target} has no address"))?))
    }

    /// To the QUIC server at `target`, which must have this certificate.
    ///
    /// # Errors
    /// If the connection cannot be made.
    pub async fn quic(target: SocketAddr, certificate: CertificateDer<'static>) -> Result<Self> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate).context("reading the server's certificate")?;
        let tls = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls)?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(transport());
        let mut endpoint = endpoint((Ipv4Addr::UNSPECIFIED, 0).into(), None)?;
        endpoint.set_default_client_config(config);
        let connecting = endpoint.connect(target, SERVER_NAME)?;
        let connection = tokio::time::timeout(CONNECT, connecting).await.context("connecting")??;
        Ok(Self::Quic(connection))
    }

    /// The server's.
    ///
    /// # Errors
    /// If it is reached by QUIC, where a load needs TCP.
    pub fn address(&self) -> Result<SocketAddr> {
        match self {
            Self::Tcp(address) => Ok(*address),
            Self::Quic(_) => bail!("this load is none for QUIC"),
        }
    }

    /// A new connection.
    ///
    /// # Errors
    /// If it is refused, or not there in time.
    pub async fn connect(&self) -> Result<Connection> {
        tokio::time::timeout(CONNECT, async {
            match self {
                Self::Tcp(address) => {
                    let stream = TcpStream::connect(address).await?;
                    stream.set_nodelay(true)?;
                    Ok(stream.into())
                }
                Self::Quic(connection) => Ok(connection.open_bi().await?.into()),
            }
        })
        .await
        .context("connecting")?
    }
}

/// A QUIC endpoint that accepts the load's connections, and its certificate.
///
/// # Errors
/// If the address cannot be used.
pub fn quic_endpoint(listen: SocketAddr) -> Result<(quinn::Endpoint, CertificateDer<'static>)> {
    let made = rcgen::generate_simple_self_signed([SERVER_NAME.to_owned()])?;
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
    let tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)?;
    let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(tls)?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(transport());
    Ok((endpoint(listen, Some(config))?, certificate))
}

/// With the buffers of a tunnel's socket: the path is to be the best that QUIC alone can do.
fn endpoint(listen: SocketAddr, config: Option<quinn::ServerConfig>) -> io::Result<quinn::Endpoint> {
    let socket = Socket::new(Domain::for_address(listen), Type::DGRAM, Some(Protocol::UDP))?;
    // Only root may have more than the system's limit; others have up to it.
    let _ = sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER));
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    socket.bind(&listen.into())?;
    quinn::Endpoint::new(EndpointConfig::default(), config, socket.into(), Arc::new(TokioRuntime))
}

/// AES-128-GCM first, as the tunnels have it.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider
        .cipher_suites
        .sort_by_key(|suite| suite.suite() != rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

fn transport() -> Arc<quinn::TransportConfig> {
    let mut transport = quinn::TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(STREAMS.into())
        .stream_receive_window(WINDOW.into())
        .receive_window((WINDOWS * WINDOW).into())
        .send_window(u64::from(WINDOWS * WINDOW));
    Arc::new(transport)
}
