//! The TLS port as agents, browsers and tunnels meet it.

use std::convert::Infallible;

use http_body_util::{BodyExt as _, Full};
use portlatch_clock::Clock;
use portlatch_protocol::identity::{Login, Subject};
use portlatch_protocol::tls::{OneServer, ServerMeant};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream as ClientStream;

use super::*;
use crate::proxy::fixture::ca::{Leaf, TestCa};
use crate::proxy::fixture::{self, login};

/// What a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(20);
/// The one deadline of a test that is to pass; the others are far away.
const SOON: Duration = Duration::from_secs(2);
const FAR: Duration = Duration::from_secs(3600);
const ALL_FAR: Deadlines = Deadlines { handshake: FAR, head: FAR, request: FAR };

struct Port {
    ca: TestCa,
    address: SocketAddr,
    stop: Stop,
}

impl Port {
    fn open() -> Self {
        Self::open_with(Deadlines::default())
    }

    fn open_with(deadlines: Deadlines) -> Self {
        let (clock, _) = Clock::movable();
        let ca = TestCa::new();
        let leaf = ca.leaf(Subject::Control("main".parse().unwrap()));
        let certificate = ServerCertificate::new(leaf.chain.clone(), leaf.key()).unwrap();
        let certificates = Certificates { api: Arc::clone(&certificate), pages: certificate };
        let view = fixture::view(&clock);
        let any = "127.0.0.1:0".parse().unwrap();
        let mut listener = Listener::open(any, ca.authority(), certificates, &view).unwrap();
        listener.deadlines = deadlines;
        let (address, stop) = (listener.local_addr().unwrap(), Stop::default());
        let service = |caller: Caller| {
            hyper::service::service_fn(move |request: Request<Incoming>| {
                let who = match &caller {
                    Caller::Agent(peer) => {
                        peer.identity.as_ref().map_or("nobody".into(), ToString::to_string)
                    }
                    Caller::Browser(address) => format!("a browser at {}", address.ip()),
                };
                async move {
                    // A page that nobody posts to has no use for a body.
                    if request.uri().path() == "/takes-a-body" {
                        let _ = request.into_body().collect().await;
                    }
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(who))))
                }
            })
        };
        tokio::spawn(listener.serve(stop.clone(), service));
        Self { ca, address, stop }
    }

    fn client(&self, alpn: &[u8], leaf: Option<Leaf>) -> Arc<rustls::ClientConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(OneServer::new(self.ca.authority(), ServerMeant::Control));
        let mut config = match leaf {
            Some(leaf) => builder.with_client_auth_cert(leaf.chain.clone(), leaf.key()).unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        Arc::new(config)
    }

    async fn connect(&self, alpn: &[u8], leaf: Option<Leaf>) -> io::Result<ClientStream<TcpStream>> {
        let tcp = TcpStream::connect(self.address).await?;
        let name = "c.example".try_into().unwrap();
        TlsConnector::from(self.client(alpn, leaf)).connect(name, tcp).await
    }

    async fn get(&self, alpn: &[u8], leaf: Option<Leaf>) -> io::Result<String> {
        let mut stream = self.connect(alpn, leaf).await?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: c.example\r\nconnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    /// Others are served, and go on to be.
    async fn serves_others(&self) {
        for _ in 0..5 {
            let page = timeout(PATIENCE, self.get(HTTP_ALPN, None)).await;
            assert!(page.expect("others are served").unwrap().ends_with("a browser at 127.0.0.1"));
            tokio::time::sleep(SOON / 8).await;
        }
    }

    /// What a browser says first.
    fn hello(&self) -> Vec<u8> {
        let name = "c.example".try_into().unwrap();
        let mut session = rustls::ClientConnection::new(self.client(HTTP_ALPN, None), name).unwrap();
        let mut hello = Vec::new();
        session.write_tls(&mut hello).unwrap();
        hello
    }

    async fn after_hello(&self, said: &[u8], drip: &'static [u8]) {
        let begin = Instant::now();
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(said).await.unwrap();
        is_cut(stream, drip, begin).await;
    }

    async fn after_handshake(&self, said: &[u8], drip: &'static [u8]) {
        let begin = Instant::now();
        let mut stream = self.connect(HTTP_ALPN, None).await.unwrap();
        stream.write_all(said).await.unwrap();
        is_cut(stream, drip, begin).await;
    }
}

/// The server closes, at its deadline and not before, on a peer that goes on to say `drip`.
async fn is_cut(stream: impl AsyncRead + AsyncWrite, drip: &[u8], begin: Instant) {
    let heard = closed_beside(stream, drip).await;
    assert!(begin.elapsed() >= SOON, "before its time");
    assert!(!heard.starts_with(b"HTTP/1.1 2"), "an answer");
}

/// What a peer hears until the server closes, while it goes on to say `drip`, a byte at a time, or nothing.
async fn closed_beside(stream: impl AsyncRead + AsyncWrite, drip: &[u8]) -> Vec<u8> {
    let (mut receive, mut send) = tokio::io::split(stream);
    let closed = async {
        let mut heard = Vec::new();
        // What it had not read is a reset.
        let _ = timeout(PATIENCE, receive.read_to_end(&mut heard)).await.expect("the server closes");
        heard
    };
    let dripping = async {
        for byte in drip.iter().cycle() {
            // Once it is closed, nothing more can be said.
            let _ = async {
                send.write_all(&[*byte]).await?;
                send.flush().await
            }
            .await;
            tokio::time::sleep(SOON / 40).await;
        }
        std::future::pending().await
    };
    tokio::select! {
        heard = closed => heard,
        () = dripping => unreachable!("it goes on for ever"),
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.stop.ended.cancel();
    }
}

#[tokio::test]
async fn the_api_knows_who_asks_by_the_certificate() {
    let port = Port::open();
    let anonymous = port.get(API_ALPN, None).await.unwrap();
    assert!(anonymous.ends_with("nobody"), "{anonymous}");
    let Login { user, login: id, device } = login();
    let known = port.get(API_ALPN, Some(port.ca.leaf(Subject::Login(login())))).await.unwrap();
    assert!(known.ends_with(&format!("portlatch://c.example/login/{user}/{id}/{device}")), "{known}");
}

#[tokio::test]
async fn certificates_of_other_kinds_are_refused_at_the_api() {
    let port = Port::open();
    for leaf in [
        port.ca.leaf(Subject::Tunnel(login())),
        port.ca.leaf(Subject::Proxy("p1".parse().unwrap())),
        TestCa::new().leaf(Subject::Login(login())),
    ] {
        assert!(port.get(API_ALPN, Some(leaf)).await.is_err());
    }
}

#[tokio::test]
async fn a_browser_gets_a_page_and_is_asked_for_no_certificate() {
    let port = Port::open();
    let page = port.get(HTTP_ALPN, None).await.unwrap();
    assert!(page.starts_with("HTTP/1.1 200 OK") && page.ends_with("a browser at 127.0.0.1"), "{page}");
}

#[tokio::test]
async fn what_this_port_does_not_speak_is_refused_by_alert() {
    let port = Port::open();
    let leaf = port.ca.leaf(Subject::Tunnel(login()));
    for alpn in [&b"portlatch/1"[..], b"h2", b"smtp"] {
        let refused = port.get(alpn, None).await.unwrap_err().to_string();
        assert!(refused.contains("NoApplicationProtocol"), "{refused}");
    }
    assert!(port.get(b"portlatch/1", Some(leaf)).await.is_err());
}

#[tokio::test]
async fn peers_that_say_nothing_keep_nobody_waiting() {
    let port = Port::open();
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(port.address).await.unwrap());
    }
    let page = timeout(Duration::from_secs(5), port.get(HTTP_ALPN, None)).await;
    assert!(page.expect("others are served").unwrap().ends_with("a browser at 127.0.0.1"));
}

// E: slow-loris, in each thing that a peer owes.

#[tokio::test]
async fn a_peer_that_withholds_its_handshake_is_cut() {
    let port = Port::open_with(Deadlines { handshake: SOON, ..ALL_FAR });
    let hello = port.hello();
    tokio::join!(
        port.after_hello(b"", b""),
        port.after_hello(&hello[..hello.len() / 2], b""),
        // The head of a record of 16 KiB, and then its content.
        port.after_hello(&[22, 3, 1, 64, 0, 1, 0, 63, 252], b"\0"),
        // The server has answered, and waits for the last of it.
        port.after_hello(&hello, b""),
        port.serves_others(),
    );
}

#[tokio::test]
async fn a_peer_that_withholds_its_head_is_cut() {
    let port = Port::open_with(Deadlines { head: SOON, ..ALL_FAR });
    let half = b"GET / HTTP/1.1\r\nhost: c.example\r\nx-slow: ";
    tokio::join!(
        port.after_handshake(b"", b""),
        port.after_handshake(half, b""),
        port.after_handshake(half, b"z"),
        port.after_handshake(b"", b"\r\n"),
        port.serves_others(),
    );
}

#[tokio::test]
async fn a_peer_that_withholds_its_body_is_cut() {
    let port = Port::open_with(Deadlines { request: SOON, ..ALL_FAR });
    let head = b"POST /takes-a-body HTTP/1.1\r\nhost: c.example\r\n";
    let half = [&head[..], b"content-length: 100000\r\n\r\nhalf"].concat();
    let chunk = [&head[..], b"transfer-encoding: chunked\r\n\r\nffff\r\n"].concat();
    tokio::join!(
        port.after_handshake(&half, b""),
        port.after_handshake(&half, b"z"),
        port.after_handshake(&chunk, b"z"),
        port.serves_others(),
    );
}

#[tokio::test]
async fn a_body_that_nobody_asked_for_is_not_waited_for() {
    let port = Port::open_with(ALL_FAR);
    for (rest, drip) in
        [("content-length: 100000\r\n\r\nhalf", &b""[..]), ("content-length: 100000\r\n\r\n", b"z")]
    {
        let mut stream = port.connect(HTTP_ALPN, None).await.unwrap();
        let head = format!("POST /has-no-use-for-it HTTP/1.1\r\nhost: c.example\r\n{rest}");
        stream.write_all(head.as_bytes()).await.unwrap();
        let heard = closed_beside(stream, drip).await;
        // Who goes on to speak may be reset before it has read the answer.
        let is_answered = heard.starts_with(b"HTTP/1.1 200");
        assert!(is_answered || !drip.is_empty(), "{}", String::from_utf8_lossy(&heard));
    }
}
