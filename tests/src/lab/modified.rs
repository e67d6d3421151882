//! A modified client: the test stands in for `portlatchd` behind a user's real agent. It holds what the daemon holds, a
//! tunnel key that control has certified and the grants for it, and does with them what the daemon never would.
//!
//! Its own network is the user's machine's: sockets are made on a thread that has gone there.

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;

use portlatch_protocol::attach::{
    AccessWanted, CertificateBytes, Grant, Hello, Status, ToAgent, ToDaemon, VERSION,
};
use portlatch_protocol::frame::{self, FrameDecoder, LENGTH_BYTES, MAX_LOCAL_FRAME, MAX_STREAM_FRAME};
use portlatch_protocol::names::Hostname;
use portlatch_protocol::resource::ProxyAddress;
use portlatch_protocol::stream::{ALPN, Answer, Open};
use portlatch_protocol::tls::{Authority, OneServer, ServerMeant};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, Endpoint, EndpointConfig, RecvStream, SendStream, TokioRuntime};
use rcgen::{CertificateParams, KeyPair};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::runtime::Runtime;

use super::program::Program;
use super::{Account, Host, Lab, PATIENCE, Part, wait_for};

/// A daemon that the test plays, and the agent that is attached to it.
#[derive(Debug)]
pub struct ModifiedDaemon {
    _agent: Program,
    listener: UnixListener,
    conversation: Conversation,
    /// What the attach has brought.
    pub tunnel: TunnelKey,
    requests: u64,
}

/// What a daemon has to be a tunnel's client with: certificates, leaf first, and their key.
#[derive(Debug, Clone)]
pub struct TunnelKey {
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
    cluster: Hostname,
    ca: CertificateDer<'static>,
    proxy: ProxyAddress,
}

#[derive(Debug)]
struct Conversation {
    stream: UnixStream,
    decoder: FrameDecoder,
    pid: u32,
}

/// A tunnel of a modified client.
#[derive(Debug)]
pub struct ModifiedTunnel {
    connection: Connection,
    _endpoint: Endpoint,
    runtime: Runtime,
}

/// A stream on it.
#[derive(Debug)]
pub struct ModifiedStream<'t> {
    tunnel: &'t ModifiedTunnel,
    send: SendStream,
    receive: RecvStream,
}

impl Lab {
    /// Runs `body` on a thread in a host's network: a socket that it makes belongs there.
    ///
    /// # Panics
    /// If `body` does.
    pub fn in_network<T: Send>(&self, host: Host, body: impl FnOnce() -> T + Send) -> T {
        let holder = self.pid(&format!("host-{}", host.name()));
        let namespace =
            File::open(format!("/proc/{}/ns/net", holder.as_raw_nonzero())).expect("the host has a network");
        std::thread::scope(|scope| {
            let there = scope.spawn(|| {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("root goes into a network");
                body()
            });
            there.join().expect("what runs in a host's network does not panic")
        })
    }

    /// Has a user's agent, which taps by itself, attach to a daemon that the test plays.
    ///
    /// # Panics
    /// If it does not attach.
    pub fn modified_daemon(&self, account: Account) -> ModifiedDaemon {
        let socket = self.directory.join("user").join(format!("{}.modified", account.name()));
        let listener = UnixListener::bind(&socket).expect("a socket in the lab");
        // As the daemon's own is: every user may connect.
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).expect("it is ours");
        if !self.has_ended(Part::Agent(account)) {
            self.kill(Part::Agent(account));
        }
        let variable = format!("PORTLATCH_SOCKET={}", socket.display());
        let line = ["env", &variable, "portlatch", "agent", "--software-key", "auto"];
        let agent = self.spawn(Host::User, account, &line);
        // Its clock is moved with the others'.
        let pid_file = self.directory.join("pid").join(Part::Agent(account).process());
        fs::write(pid_file, agent.pid().to_string()).expect("the lab's pid files are root's");
        let (conversation, tunnel) = attach(&listener);
        ModifiedDaemon { _agent: agent, listener, conversation, tunnel, requests: 0 }
    }
}

/// The next agent that connects, as far as the attach goes.
fn attach(listener: &UnixListener) -> (Conversation, TunnelKey) {
    listener.set_nonblocking(true).expect("looking without waiting");
    let stream = wait_for("an agent", PATIENCE, || match listener.accept() {
        Ok((stream, _)) => Some(stream),
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(error) => panic!("{error}"),
    });
    stream.set_nonblocking(false).expect("waiting again");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time that is not 0");
    let mut agent = Conversation { stream, decoder: FrameDecoder::new(MAX_LOCAL_FRAME), pid: 0 };
    let ToDaemon::Hello(hello) = agent.next() else { panic!("the first message is no hello") };
    agent.pid = hello.pid;
    agent.send(&ToAgent::Welcome(Hello { version: VERSION, pid: std::process::id() }));
    let ToDaemon::Attach(offer) = agent.next() else { panic!("no login is offered") };
    let key = KeyPair::generate().expect("a key");
    let request = CertificateParams::default().serialize_request(&key).expect("a request");
    agent.send(&ToAgent::CertifyTunnel(CertificateBytes(request.der().to_vec())));
    let ToDaemon::TunnelCertificate(chain) = agent.next() else { panic!("no tunnel certificate") };
    let proxy = loop {
        let ToDaemon::Catalogue(part) = agent.next() else { panic!("no catalogue") };
        if part.is_last {
            break part.proxies.into_iter().next().expect("the lab has a proxy");
        }
    };
    agent.send(&ToAgent::Attached);
    let tunnel = TunnelKey {
        chain: chain.into_iter().map(|certificate| certificate.0.into()).collect(),
        key: key.serialize_der(),
        cluster: offer.cluster,
        ca: offer.ca.0.into(),
        proxy,
    };
    (agent, tunnel)
}

impl Conversation {
    fn send(&mut self, message: &ToAgent) {
        let frame = frame::encode(message, MAX_LOCAL_FRAME).expect("a short message");
        self.stream.write_all(&frame).expect("the agent reads");
    }

    /// The agent's next message. What it asks for status is answered on the way.
    fn next(&mut self) -> ToDaemon {
        loop {
            while let Some(message) = self.decoder.poll_message().expect("the agent speaks well") {
                if message != ToDaemon::StatusWanted {
                    return message;
                }
                let (grants, refusals, tunnels) = (vec![], vec![], vec![]);
                self.send(&ToAgent::Status(Status {
                    agent: Some(self.pid),
                    grants,
                    refusals,
                    tunnels,
                    flows: 0,
                }));
            }
            let mut bytes = [0; 4096];
            let length = self.stream.read(&mut bytes).expect("the agent speaks");
            assert!(length > 0, "the agent left");
            self.decoder.handle_bytes(&bytes[..length]);
        }
    }
}

impl ModifiedDaemon {
    /// A grant, with whatever tap it takes.
    ///
    /// # Panics
    /// If it is refused.
    pub fn grant(&mut self, resource: &str, host: &str, port: u16) -> Grant {
        self.requests += 1;
        let request = self.requests;
        let wanted = AccessWanted {
            request,
            resource: resource.parse().expect("a resource"),
            host: host.parse().expect("a host"),
            port,
            inode: 0,
        };
        self.conversation.send(&ToAgent::AccessWanted(wanted));
        loop {
            let message = self.conversation.next();
            if let ToDaemon::TapNeeded(asked) = message {
                self.conversation.send(&ToAgent::Proceed(asked));
                continue;
            }
            if let ToDaemon::Granted(granted, grant) = &message
                && *granted == request
            {
                return grant.clone();
            }
            let is_news = matches!(message, ToDaemon::PromptOpened(..) | ToDaemon::Catalogue(_));
            assert!(is_news, "no grant but {message:?}");
        }
    }

    /// Lets the agent go and takes it in again: another attach, with a tunnel key of its own.
    pub fn attach_again(&mut self) {
        self.conversation.stream.shutdown(std::net::Shutdown::Both).expect("the agent was there");
        (self.conversation, self.tunnel) = attach(&self.listener);
    }
}

impl TunnelKey {
    /// The same, with another certificate and its key (PKCS #8) in place of the tunnel's own.
    #[must_use]
    pub fn with(&self, leaf: CertificateDer<'static>, key: Vec<u8>) -> Self {
        let mut chain = self.chain.clone();
        chain[0] = leaf;
        Self { chain, key, ..self.clone() }
    }

    /// A tunnel to the cluster's proxy with this key. A client's certificate is looked at after the client believes that
    /// it is connected: what a proxy thinks of it shows at the first stream.
    ///
    /// # Errors
    /// What the client sees.
    ///
    /// # Panics
    /// If the lab's user has no network.
    pub fn connect(&self, lab: &Lab) -> Result<ModifiedTunnel, String> {
        let authority =
            Authority::new(self.cluster.clone(), std::slice::from_ref(&self.ca)).expect("the cluster's CA");
        let key: PrivateKeyDer<'static> = PrivatePkcs8KeyDer::from(self.key.clone()).into();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(OneServer::new(
                authority,
                ServerMeant::Proxy(self.proxy.name.clone()),
            ))
            .with_client_auth_cert(self.chain.clone(), key)
            .map_err(|error| error.to_string())?;
        tls.alpn_protocols = vec![ALPN.to_vec()];
        let crypto = QuicClientConfig::try_from(tls).expect("the suite that QUIC begins with");
        let config = quinn::ClientConfig::new(Arc::new(crypto));
        let socket = lab.in_network(Host::User, || UdpSocket::bind("0.0.0.0:0").expect("a port"));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let address = SocketAddr::new(PROXY.into(), self.proxy.port);
        let (endpoint, connection) = runtime.block_on(async {
            let endpoint = Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(TokioRuntime))
                .expect("an endpoint");
            let connecting = endpoint.connect_with(config, address, "proxy").expect("a valid configuration");
            let connected = tokio::time::timeout(PATIENCE, connecting).await.expect("the proxy answers");
            connected.map(|connection| (endpoint, connection)).map_err(|error| error.to_string())
        })?;
        Ok(ModifiedTunnel { connection, _endpoint: endpoint, runtime })
    }
}

/// The proxy's address in the lab.
const PROXY: [u8; 4] = [192, 0, 2, 1];

impl ModifiedTunnel {
    /// Opens a stream with this header; the proxy's answer, or how the tunnel ended instead.
    ///
    /// # Errors
    /// How the stream or the tunnel ended.
    pub fn open(&self, open: &Open) -> Result<(Answer, ModifiedStream<'_>), String> {
        let frame = frame::encode(open, MAX_STREAM_FRAME).expect("a short header");
        self.send(&frame)
    }

    /// Opens a stream that begins with these bytes.
    ///
    /// # Errors
    /// How the stream or the tunnel ended.
    pub fn send(&self, bytes: &[u8]) -> Result<(Answer, ModifiedStream<'_>), String> {
        self.wait(async {
            let (mut send, mut receive) =
                self.connection.open_bi().await.map_err(|error| error.to_string())?;
            send.write_all(bytes).await.map_err(|error| error.to_string())?;
            let answer = read_answer(&mut receive).await?;
            Ok((answer, ModifiedStream { tunnel: self, send, receive }))
        })
    }

    /// How the proxy ended the tunnel.
    pub fn end(&self) -> String {
        self.wait(async { self.connection.closed().await.to_string() })
    }

    fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await.expect("an answer") })
    }
}

async fn read_answer(receive: &mut RecvStream) -> Result<Answer, String> {
    let mut prefix = [0; LENGTH_BYTES];
    receive.read_exact(&mut prefix).await.map_err(|error| error.to_string())?;
    let length = frame::content_length(prefix, MAX_STREAM_FRAME).map_err(|error| error.to_string())?;
    let mut content = vec![0; length];
    receive.read_exact(&mut content).await.map_err(|error| error.to_string())?;
    frame::decode(&content).map_err(|error| error.to_string())
}

impl ModifiedStream<'_> {
    /// Says a word to a server that echoes.
    ///
    /// # Panics
    /// If it does not come back.
    #[track_caller]
    pub fn assert_echoes(&mut self, word: &str) {
        let (send, receive) = (&mut self.send, &mut self.receive);
        let mut back = vec![0; word.len()];
        let answered = self.tunnel.wait(async {
            send.write_all(word.as_bytes()).await.map_err(|error| error.to_string())?;
            receive.read_exact(&mut back).await.map_err(|error| error.to_string())
        });
        assert_eq!(answered, Ok(()), "{word}");
        assert_eq!(back, word.as_bytes());
    }

    /// The code of the reset that ends it.
    ///
    /// # Panics
    /// If it ends in another way.
    pub fn reset_code(&mut self) -> u64 {
        let receive = &mut self.receive;
        let end = self.tunnel.wait(async { receive.read_chunk(1, true).await });
        match end {
            Err(quinn::ReadError::Reset(code)) => code.into_inner(),
            Err(quinn::ReadError::ConnectionLost(lost)) => panic!("the tunnel ended: {lost}"),
            other => panic!("no reset but {other:?}"),
        }
    }
}
