//! The TLS port as agents, browsers and tunnels meet it.

use std::convert::Infallible;

use http_body_util::Full;
use portlatch_clock::Clock;
use portlatch_protocol::identity::{Login, Subject};
use portlatch_protocol::tls::{OneServer, ServerMeant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;

use super::*;
use crate::proxy::fixture::ca::{Leaf, TestCa};
use crate::proxy::fixture::{self, login};

struct Port {
    ca: TestCa,
    address: SocketAddr,
    stop: Stop,
}

impl Port {
    fn open() -> Self {
        let (clock, _) = Clock::movable();
        let ca = TestCa::new();
        let leaf = ca.leaf(Subject::Control("main".parse().unwrap()));
        let certificate = ServerCertificate::new(leaf.chain.clone(), leaf.key()).unwrap();
        let certificates = Certificates { api: Arc::clone(&certificate), pages: certificate };
        let view = fixture::view(&clock);
        let any = "127.0.0.1:0".parse().unwrap();
        let listener = Listener::open(any, ca.authority(), certificates, &view).unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), Stop::default());
        let service = |caller: Caller| {
            hyper::service::service_fn(move |_: Request<Incoming>| {
                let who = match &caller {
                    Caller::Agent(peer) => {
                        peer.identity.as_ref().map_or("nobody".into(), ToString::to_string)
                    }
                    Caller::Browser(address) => format!("a browser at {}", address.ip()),
                };
                async move { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(who)))) }
            })
        };
        tokio::spawn(listener.serve(stop.clone(), service));
        Self { ca, address, stop }
    }

    async fn get(&self, alpn: &[u8], leaf: Option<Leaf>) -> io::Result<String> {
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
        let tcp = TcpStream::connect(self.address).await?;
        let name = "c.example".try_into().unwrap();
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: c.example\r\nconnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
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
