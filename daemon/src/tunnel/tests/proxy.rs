//! A proxy as a tunnel sees it: a QUIC endpoint behind a wire that can be cut, a TCP port beside it, and sessions that
//! send back what they get. It lives on a thread of its own and can be killed: then it ends without a word.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use portlatch_clock::Clock;
use portlatch_protocol::frame::{self, LENGTH_BYTES, MAX_STREAM_FRAME};
use portlatch_protocol::identity::{Identity, IdentityKind, Login, Subject};
use portlatch_protocol::names::ProxyName;
use portlatch_protocol::resource::ProxyAddress;
use portlatch_protocol::stream::{ALPN, Answer, Open, OpenRefusal};
use portlatch_protocol::tls::{Authority, OneKindOfClient};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{
    ConnectionError, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, RecvStream, SendStream,
    ServerConfig, TokioRuntime, VarInt,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::{TcpListener, UdpSocket};
use tokio::runtime::Runtime;
use tokio::sync::Notify;

use super::super::credentials::{TunnelCredentials, TunnelKey};
use super::PATIENCE;

const CLUSTER: &str = "proxy.example.com";

/// A cluster's CA.
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    fn authority(&self) -> Authority {
        Authority::new(CLUSTER.parse().unwrap(), std::slice::from_ref(&self.certificate)).unwrap()
    }

    /// A login's tunnel key, certified.
    pub(crate) fn credentials(&self) -> TunnelCredentials {
        let login = Login {
            user: "jerry".parse().unwrap(),
            login: "0a".parse().unwrap(),
            device: "laptop".parse().unwrap(),
        };
        let key = TunnelKey::generate().unwrap();
        let request = key.request().unwrap().into();
        let mut request = CertificateSigningRequestParams::from_der(&request).unwrap();
        name(&mut request.params, Subject::Tunnel(login.clone()), ExtendedKeyUsagePurpose::ClientAuth);
        let certificate = request.signed_by(&self.issuer).unwrap().der().to_vec();
        let whose = (&login.user, &login.login);
        key.certified(certificate, self.authority(), whose, Clock::system()).unwrap().0
    }

    fn server_config(&self, proxy: &str) -> ServerConfig {
        let mut params = CertificateParams::default();
        let subject = Subject::Proxy(proxy.parse().unwrap());
        name(&mut params, subject, ExtendedKeyUsagePurpose::ServerAuth);
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let key: PrivateKeyDer<'static> = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(OneKindOfClient::required(self.authority(), IdentityKind::Tunnel))
            .with_single_cert(vec![leaf], key)
            .unwrap();
        tls.alpn_protocols = vec![ALPN.to_vec()];
        ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()))
    }
}

fn name(params: &mut CertificateParams, subject: Subject, usage: ExtendedKeyUsagePurpose) {
    let identity = Identity { cluster: CLUSTER.parse().unwrap(), subject };
    params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into().unwrap())];
    params.extended_key_usages = vec![usage];
}

/// What a stream of the proxy's does that is no answer to an `Open`.
#[derive(Debug, Clone)]
pub(crate) enum Instead {
    /// It says this and no more, and stays.
    Say(Vec<u8>),
    /// It says this a byte at a time, with these pauses, and stays.
    Drip(Vec<u8>, Duration),
    /// It says this and ends.
    Finish(Vec<u8>),
    /// It is reset, both ways.
    Reset,
}

#[derive(Default)]
struct Shared {
    is_cut: AtomicBool,
    loses_first_dial: AtomicBool,
    is_unavailable: AtomicBool,
    tcp_closes: Notify,
    sessions: AtomicUsize,
    finished: AtomicUsize,
    broken: AtomicUsize,
    instead: Mutex<Option<Instead>>,
    /// The codes with which tunnels were closed on it.
    closed: Mutex<Vec<u64>>,
}

pub(crate) struct Proxy {
    name: ProxyName,
    address: SocketAddr,
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

impl Proxy {
    pub(crate) fn start(ca: &Ca, name: &str) -> Self {
        Self::start_at(ca, name, 0)
    }

    pub(crate) fn start_at(ca: &Ca, name: &str, port: u16) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let shared = Arc::new(Shared::default());
        let config = ca.server_config(name);
        let (ready, address) = std::sync::mpsc::channel();
        let (for_tasks, for_tasks_of_tcp) = (Arc::clone(&shared), Arc::clone(&shared));
        runtime.spawn(async move {
            let (outside, listener) = both_ports(port).await;
            ready.send(outside.local_addr().unwrap()).unwrap();
            let endpoint = open(config);
            let inside = endpoint.local_addr().unwrap();
            tokio::join!(
                wire(outside, inside, Arc::clone(&for_tasks)),
                serve(endpoint, for_tasks),
                take_connections(listener, Arc::clone(&for_tasks_of_tcp))
            );
        });
        let address = address.recv_timeout(PATIENCE).unwrap();
        Self { name: name.parse().unwrap(), address, shared, runtime: Some(runtime) }
    }

    pub(crate) fn name(&self) -> ProxyName {
        self.name.clone()
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(crate) fn address(&self) -> ProxyAddress {
        let Self { name, address, .. } = self;
        ProxyAddress { name: name.clone(), host: address.ip().to_string(), port: address.port() }
    }

    /// Sessions that were opened so far.
    pub(crate) fn sessions(&self) -> usize {
        self.shared.sessions.load(Ordering::Relaxed)
    }

    /// Sessions that a program has ended in order, and those that were reset.
    pub(crate) fn ends(&self) -> (usize, usize) {
        (self.shared.finished.load(Ordering::Relaxed), self.shared.broken.load(Ordering::Relaxed))
    }

    /// From now on it refuses every `Open`, as one that is stopping.
    pub(crate) fn refuse_all(&self) {
        self.shared.is_unavailable.store(true, Ordering::Relaxed);
    }

    /// From now on it does this on every stream; with `None`, it serves again.
    pub(crate) fn answer_with(&self, instead: Option<Instead>) {
        *self.shared.instead.lock().unwrap() = instead;
    }

    /// The codes with which tunnels were closed on it so far.
    pub(crate) fn closed(&self) -> Vec<u64> {
        self.shared.closed.lock().unwrap().clone()
    }

    /// From now on its TCP port refuses, as behind a firewall that lets QUIC alone through.
    pub(crate) fn close_tcp(&self) {
        self.shared.tcp_closes.notify_one();
    }

    /// From now on no datagram passes either way.
    pub(crate) fn cut(&self) {
        self.shared.is_cut.store(true, Ordering::Relaxed);
    }

    /// From the first dial that comes from now on, no datagram arrives.
    pub(crate) fn lose_first_dial(&self) {
        self.shared.loses_first_dial.store(true, Ordering::Relaxed);
    }

    pub(crate) fn mend(&self) {
        self.shared.is_cut.store(false, Ordering::Relaxed);
    }

    /// Ends it as kill -9 does: its ports are closed, and nobody is told.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        // From another thread: a runtime may not be waited for inside of another.
        let ended = std::thread::spawn(move || runtime.shutdown_timeout(PATIENCE)).join();
        assert!(ended.is_ok());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.end();
    }
}

/// A UDP and a TCP port of one number.
async fn both_ports(port: u16) -> (UdpSocket, TcpListener) {
    for _ in 0..100 {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        if let Ok(socket) = UdpSocket::bind(listener.local_addr().unwrap()).await {
            return (socket, listener);
        }
    }
    panic!("no number is free for both");
}

fn open(config: ServerConfig) -> Endpoint {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    // The same secret at every start, as a real proxy keeps it: the next process resets what it does not know.
    let secret = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &[7; 32]);
    let mut endpoint = EndpointConfig::new(Arc::new(secret));
    endpoint.cid_generator(|| Box::new(RandomIds));
    Endpoint::new(endpoint, Some(config), socket, Arc::new(TokioRuntime)).unwrap()
}

/// Connection IDs that the next process takes for possible ones.
#[derive(Debug)]
struct RandomIds;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).unwrap();
        ConnectionId::new(&bytes)
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// What the datagrams of a dial that has no answer yet begin with: the version, and the connection ID that its client
/// has made up (RFC 9000 §17.2).
fn dial_of(datagram: &[u8]) -> Option<&[u8]> {
    let is_long = datagram.first()? & 0x80 != 0;
    let length = usize::from(*datagram.get(5)?);
    datagram.get(1..6 + length).filter(|_| is_long)
}

/// Carries datagrams between the one daemon outside and the endpoint, unless it is cut.
async fn wire(outside: UdpSocket, endpoint: SocketAddr, shared: Arc<Shared>) {
    let inside = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    inside.connect(endpoint).await.unwrap();
    let (mut going_in, mut going_out) = (vec![0; 65_536], vec![0; 65_536]);
    let (mut daemon, mut lost_dial) = (None, None);
    loop {
        let is_cut = || shared.is_cut.load(Ordering::Relaxed);
        // An error is the other end's port that was closed: what is sent to it is lost.
        tokio::select! {
            Ok((length, from)) = outside.recv_from(&mut going_in) => {
                daemon = Some(from);
                let dial = dial_of(&going_in[..length]);
                if shared.loses_first_dial.load(Ordering::Relaxed) && lost_dial.is_none() {
                    lost_dial = dial.map(<[u8]>::to_vec);
                }
                let is_lost = dial.is_some() && dial == lost_dial.as_deref();
                if !is_cut() && !is_lost {
                    let _ = inside.send(&going_in[..length]).await;
                }
            }
            Ok(length) = inside.recv(&mut going_out) => {
                if let Some(daemon) = daemon.filter(|_| !is_cut()) {
                    let _ = outside.send_to(&going_out[..length], daemon).await;
                }
            }
            else => {}
        }
    }
}

/// Until the port is closed: then whoever comes is refused.
async fn take_connections(listener: TcpListener, shared: Arc<Shared>) {
    let taken = async {
        loop {
            drop(listener.accept().await);
        }
    };
    tokio::select! {
        () = taken => {}
        () = shared.tcp_closes.notified() => {}
    }
}

async fn serve(endpoint: Endpoint, shared: Arc<Shared>) {
    while let Some(incoming) = endpoint.accept().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let Ok(connection) = incoming.await else { return };
            while let Ok((send, receive)) = connection.accept_bi().await {
                tokio::spawn(session(send, receive, Arc::clone(&shared)));
            }
            if let ConnectionError::ApplicationClosed(closed) = connection.closed().await {
                shared.closed.lock().unwrap().push(closed.error_code.into_inner());
            }
        });
    }
}

async fn session(mut send: SendStream, mut receive: RecvStream, shared: Arc<Shared>) {
    let Some(_open) = read_open(&mut receive).await else { return };
    let instead = shared.instead.lock().unwrap().clone();
    if let Some(instead) = instead {
        // The daemon may have had enough of it.
        let _ = say(instead, &mut send, &mut receive).await;
        return;
    }
    let answer = match shared.is_unavailable.load(Ordering::Relaxed) {
        true => Answer::Refused(OpenRefusal::Unavailable),
        false => Answer::Opened,
    };
    send.write_all(&frame::encode(&answer, MAX_STREAM_FRAME).unwrap()).await.unwrap();
    if answer != Answer::Opened {
        return;
    }
    shared.sessions.fetch_add(1, Ordering::Relaxed);
    let end = loop {
        match receive.read_chunk(65_536, true).await {
            Ok(Some(chunk)) => match send.write_chunk(chunk.bytes).await {
                Ok(()) => {}
                Err(_) => return,
            },
            Ok(None) => break &shared.finished,
            Err(_) => break &shared.broken,
        }
    };
    end.fetch_add(1, Ordering::Relaxed);
}

async fn say(
    instead: Instead,
    send: &mut SendStream,
    receive: &mut RecvStream,
) -> Result<(), quinn::WriteError> {
    match instead {
        Instead::Say(bytes) => send.write_all(&bytes).await?,
        Instead::Drip(bytes, pause) => {
            for byte in bytes {
                send.write_all(&[byte]).await?;
                tokio::time::sleep(pause).await;
            }
        }
        Instead::Finish(bytes) => return send.write_all(&bytes).await,
        Instead::Reset => {
            let _ = (send.reset(VarInt::from_u32(0)), receive.stop(VarInt::from_u32(0)));
            return Ok(());
        }
    }
    // Dropped, it would be finished.
    let _ = send.stopped().await;
    Ok(())
}

async fn read_open(receive: &mut RecvStream) -> Option<Open> {
    let mut prefix = [0; LENGTH_BYTES];
    receive.read_exact(&mut prefix).await.ok()?;
    let mut content = vec![0; frame::content_length(prefix, MAX_STREAM_FRAME).ok()?];
    receive.read_exact(&mut content).await.ok()?;
    frame::decode(&content).ok()
}
