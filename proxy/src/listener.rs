//! The TCP port beside the UDP one: the agent's API and the pages, told apart by ALPN in the ClientHello, each with its
//! own policy of certificates.
//!
//! | ALPN | policy |
//! |---|---|
//! | `portlatch-api/1` | TLS 1.3, a login's certificate or none, HTTP/1.1 to control's API |
//! | `http/1.1` or none | no certificate asked, control's pages |
//! | `portlatch/1` and all else | refused with the alert "no application protocol" |

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use portlatch_protocol::identity::{Identity, IdentityKind};
use portlatch_protocol::tls::{Authority, OneKindOfClient};
use rustls::server::{Acceptor, NoServerSessionStorage};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::admission::{HANDSHAKE_DEADLINE, Handshakes, Place, Places, Underway};
use crate::certificate::ServerCertificate;
use crate::stop::Stop;
use crate::watch::View;

/// The agent's API.
pub const API_ALPN: &[u8] = b"portlatch-api/1";
const HTTP_ALPN: &[u8] = b"http/1.1";
/// A peer that takes none of an answer for so long is gone, or means to hold its place.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);
/// See [`Deadlines`].
const HEAD_DEADLINE: Duration = Duration::from_secs(30);
/// See [`Deadlines`].
const REQUEST_DEADLINE: Duration = Duration::from_secs(60);
/// Largest head of a request.
const MAX_HEAD: usize = 64 * 1024;
/// How long the loop rests when the system has no socket left for it: what is missing comes back only with time.
const ACCEPT_REST: Duration = Duration::from_millis(200);
/// Connections that the system holds for us.
const BACKLOG: i32 = 1024;

/// Who is at the other end of a request.
#[derive(Debug, Clone)]
pub struct ApiPeer {
    /// By its verified certificate, if it showed one.
    pub identity: Option<Identity>,
    /// The certificate's public key, as DER of the whole certificate.
    pub certificate: Option<Bytes>,
    /// From where.
    pub address: SocketAddr,
}

/// Who makes the requests of a connection, by the policy that it came under.
#[derive(Debug, Clone)]
pub enum Caller {
    /// An agent, at the API.
    Agent(ApiPeer),
    /// A browser at this address, at the pages.
    Browser(SocketAddr),
}

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    /// The TCP port cannot be had.
    #[error("TCP port {address} cannot be opened: {source}")]
    Socket {
        /// The address and port.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// TLS does not accept our configuration.
    #[error("the TLS port cannot be configured: {0}")]
    Tls(#[from] rustls::Error),
}

/// What the port shows.
#[derive(Debug, Clone)]
pub struct Certificates {
    /// To agents: control's, of the cluster's CA.
    pub api: Arc<ServerCertificate>,
    /// To browsers.
    pub pages: Arc<ServerCertificate>,
}

/// What peers have for what they owe.
#[derive(Debug, Clone, Copy)]
struct Deadlines {
    /// The TLS handshake.
    handshake: Duration,
    /// A request's head; also how long a connection may stay without a request.
    head: Duration,
    /// A request, from its head to the end of its answer's head.
    request: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { handshake: HANDSHAKE_DEADLINE, head: HEAD_DEADLINE, request: REQUEST_DEADLINE }
    }
}

/// The TLS port, bound and not yet serving.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    api: Arc<rustls::ServerConfig>,
    pages: Arc<rustls::ServerConfig>,
    deadlines: Deadlines,
}

impl Listener {
    /// Opens the TCP port. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`ListenerError`].
    pub fn open(
        address: SocketAddr,
        authority: Authority,
        certificates: Certificates,
        view: &Arc<View>,
    ) -> Result<Self, ListenerError> {
        let socket = socket(address).map_err(|source| ListenerError::Socket { address, source })?;
        let verifier = OneKindOfClient::optional(authority, IdentityKind::Login);
        let versions = [&rustls::version::TLS13];
        let api = builder(view).with_protocol_versions(&versions)?.with_client_cert_verifier(verifier);
        let pages = builder(view).with_safe_default_protocol_versions()?.with_no_client_auth();
        let mut api = api.with_cert_resolver(certificates.api);
        let mut pages = pages.with_cert_resolver(certificates.pages);
        for (config, alpn) in [(&mut api, API_ALPN), (&mut pages, HTTP_ALPN)] {
            config.alpn_protocols = vec![alpn.to_vec()];
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok(Self { socket, api: Arc::new(api), pages: Arc::new(pages), deadlines: Deadlines::default() })
    }

    /// The port that was bound.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Serves until everything ends; `service` makes the service of one connection. While draining it serves on: agents
    /// ask where else to go.
    pub async fn serve<F, S, B>(self, stop: Stop, service: F)
    where
        F: Fn(Caller) -> S + Clone + Send + 'static,
        S: Service<Request<Incoming>, Response = Response<B>> + Send + 'static,
        S::Future: Send,
        S::Error: std::error::Error + Send + Sync + 'static,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (handshakes, places) = (Handshakes::default(), Places::default());
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.accept() => accepted,
                Some(ended) = connections.join_next() => {
                    log_broken(ended);
                    continue;
                }
                () = stop.ended.cancelled() => return,
            };
            let Some((stream, address)) = accepted else { continue };
            let Some(place) = places.admit(address.ip()) else { continue };
            let underway = handshakes.begin(address.ip());
            let connection = Connection {
                address,
                api_config: Arc::clone(&self.api),
                pages_config: Arc::clone(&self.pages),
                deadlines: self.deadlines,
                _place: place,
            };
            connections.spawn(connection.serve(stream, underway, service.clone()));
        }
    }

    /// The next connection; `None` after a failure that is not ours to end for.
    async fn accept(&self) -> Option<(TcpStream, SocketAddr)> {
        match self.socket.accept().await {
            Ok((stream, address)) => {
                let address = SocketAddr::new(address.ip().to_canonical(), address.port());
                Some((stream, address))
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be taken");
                tokio::time::sleep(ACCEPT_REST).await;
                None
            }
        }
    }
}

fn log_broken(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection broke");
    }
}

fn builder(view: &Arc<View>) -> rustls::ConfigBuilder<rustls::ServerConfig, rustls::WantsVersions> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    rustls::ServerConfig::builder_with_details(provider, Arc::clone(view) as _)
}

fn socket(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Connections of the process before must not keep the next one from starting.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

/// One TCP connection.
struct Connection {
    address: SocketAddr,
    api_config: Arc<rustls::ServerConfig>,
    pages_config: Arc<rustls::ServerConfig>,
    deadlines: Deadlines,
    _place: Place,
}

/// What a ClientHello asked for.
enum Asked {
    Api,
    Pages,
}

impl Connection {
    async fn serve<F, S, B>(self, stream: TcpStream, underway: Underway, service: F)
    where
        F: Fn(Caller) -> S,
        S: Service<Request<Incoming>, Response = Response<B>>,
        S::Error: std::error::Error + Send + Sync + 'static,
        B: Body + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let handshake = tokio::select! {
            handshake = timeout(self.deadlines.handshake, self.handshake(stream)) => handshake,
            () = underway.gives_way() => return,
        };
        drop(underway);
        let (stream, asked) = match handshake {
            Ok(Ok(done)) => done,
            Ok(Err(error)) => return tracing::debug!(%error, address = %self.address, "no TLS"),
            Err(_) => return tracing::debug!(address = %self.address, "no TLS in time"),
        };
        let address = self.address;
        let caller = match asked {
            Asked::Api => match peer_of(&stream, address) {
                Some(peer) => Caller::Agent(peer),
                None => return,
            },
            Asked::Pages => Caller::Browser(address),
        };
        if let Err(error) = serve_http(stream, service(caller), self.deadlines).await {
            tracing::debug!(%error, %address, "a connection ended badly");
        }
    }

    async fn handshake(&self, stream: TcpStream) -> io::Result<(TlsStream<TcpStream>, Asked)> {
        stream.set_nodelay(true)?;
        SockRef::from(&stream).set_tcp_user_timeout(Some(ANSWER_DEADLINE))?;
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let asked = {
            let hello = start.client_hello();
            let is_api = hello.alpn().is_some_and(|mut alpn| alpn.any(|protocol| protocol == API_ALPN));
            if is_api { Asked::Api } else { Asked::Pages }
        };
        let config = match asked {
            Asked::Api => &self.api_config,
            Asked::Pages => &self.pages_config,
        };
        Ok((start.into_stream(Arc::clone(config)).await?, asked))
    }
}

/// Who is there. The verifier let only logins pass; a certificate that names nobody ends the connection.
fn peer_of(stream: &TlsStream<TcpStream>, address: SocketAddr) -> Option<ApiPeer> {
    let (_, session) = stream.get_ref();
    let Some(leaf) = session.peer_certificates().and_then(<[_]>::first) else {
        return Some(ApiPeer { identity: None, certificate: None, address });
    };
    let identity = Identity::from_certificate(leaf).ok()?;
    Some(ApiPeer { identity: Some(identity), certificate: Some(Bytes::copy_from_slice(leaf)), address })
}

async fn serve_http<S, B>(stream: TlsStream<TcpStream>, service: S, deadlines: Deadlines) -> hyper::Result<()>
where
    S: Service<Request<Incoming>, Response = Response<B>>,
    S::Error: std::error::Error + Send + Sync + 'static,
    B: Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let service = WithDeadline { service, deadline: deadlines.request };
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(deadlines.head)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

/// A service whose requests have a deadline: over it, the connection is closed.
struct WithDeadline<S> {
    service: S,
    deadline: Duration,
}

/// Why a request had no answer.
#[derive(Debug, thiserror::Error)]
enum RequestError<E: std::error::Error> {
    #[error("the request took too long")]
    TooLong,
    #[error(transparent)]
    Service(E),
}

impl<S, R> Service<R> for WithDeadline<S>
where
    S: Service<R>,
    S::Error: std::error::Error,
{
    type Response = S::Response;
    type Error = RequestError<S::Error>;
    type Future = Deadline<S::Future>;

    fn call(&self, request: R) -> Self::Future {
        Deadline(Box::pin(timeout(self.deadline, self.service.call(request))))
    }
}

/// A request under its deadline.
struct Deadline<F>(std::pin::Pin<Box<tokio::time::Timeout<F>>>);

impl<F, T, E> Future for Deadline<F>
where
    F: Future<Output = Result<T, E>>,
    E: std::error::Error,
{
    type Output = Result<T, RequestError<E>>;

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Self::Output> {
        self.0.as_mut().poll(context).map(|result| match result {
            Ok(result) => result.map_err(RequestError::Service),
            Err(_) => Err(RequestError::TooLong),
        })
    }
}

#[cfg(test)]
mod tests;
