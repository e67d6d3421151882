//! An agent's side of the API, played by the test: it logs in at a page, has a tunnel key certified, and asks for what needs
//! a tap, as `portlatch agent` does once it has a daemon. Blocking, one request a connection.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::site::Site;
use crate::lab::wait_for;

/// Longer than control holds a question about a page.
const ANSWER_TIME: Duration = Duration::from_secs(40);
/// How long a redirect may take.
const REDIRECT_TIME: Duration = Duration::from_secs(30);

/// Whoever speaks the API: with a login's certificate, or without.
#[derive(Clone)]
pub struct Client {
    port: u16,
    source: Ipv4Addr,
    tls: Arc<ClientConfig>,
}

/// An agent with a login and a tunnel key.
pub struct Agent {
    client: Client,
    tunnel_key: String,
    /// What control granted.
    pub login: Value,
}

/// A page that waits, and what its agent keeps for it.
pub struct Page {
    /// The page.
    pub url: String,
    /// What a browser on another machine types, where one may.
    pub code: Option<String>,
    /// Names the ceremony.
    pub ceremony: String,
    secret: String,
    listener: TcpListener,
}

/// A login that waits for its page.
pub struct PendingLogin {
    /// Its page.
    pub page: Page,
    client: Client,
    key: KeyPair,
}

impl Client {
    fn new(site: &Site, identity: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(site.ca().into()).expect("the cluster's CA");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).expect("TLS 1.3");
        let builder = builder.with_root_certificates(roots);
        let mut tls = match identity {
            Some((leaf, key)) => {
                builder.with_client_auth_cert(vec![leaf], key).expect("a login's certificate")
            }
            None => builder.with_no_client_auth(),
        };
        tls.alpn_protocols = vec![b"portlatch-api/1".to_vec()];
        Self { port: site.port, source: Ipv4Addr::LOCALHOST, tls: Arc::new(tls) }
    }

    /// A connection from our address to the proxy.
    fn connect(&self) -> TcpStream {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from((self.source, 0)).into()).expect("an address of this machine");
        let proxy = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        socket.connect(&proxy.into()).expect("the proxy listens");
        socket.into()
    }

    /// One request: its status, and its answer's JSON.
    pub fn send(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let stream = self.connect();
        stream.set_read_timeout(Some(ANSWER_TIME)).expect("a deadline");
        let name = "localhost".try_into().expect("a name");
        let session = ClientConnection::new(Arc::clone(&self.tls), name).expect("a TLS session");
        let mut stream = StreamOwned::new(session, stream);
        let body = body.to_string();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost:{}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n{body}",
            self.port,
            body.len()
        );
        stream.write_all(request.as_bytes()).expect("control takes requests");
        let mut answer = Vec::new();
        // Some peers end TLS without saying so; what came is the answer.
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }
}

impl Page {
    /// A secret and a port for the redirect, before control is asked.
    fn prepare() -> (TcpListener, String, Value) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let secret = URL_SAFE_NO_PAD.encode(KeyPair::generate().expect("randomness").serialize_der());
        let announced = json!({
            "port": listener.local_addr().expect("its port").port(),
            "secret_hash": URL_SAFE_NO_PAD.encode(Sha256::digest(&secret)),
        });
        (listener, secret, announced)
    }

    fn of(answer: &Value, listener: TcpListener, secret: String) -> Self {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let offer = &answer["browser"];
        Self {
            url: text(&offer["url"]).unwrap_or_else(|| panic!("no page: {answer}")),
            code: text(&offer["code"]),
            ceremony: text(&answer["ceremony"]).expect("a name"),
            secret,
            listener,
        }
    }

    /// Waits for the redirect, answers it and gives its code.
    ///
    /// # Panics
    /// If it does not come, or not to the path that was agreed on.
    pub fn redirected(&self) -> String {
        self.listener.set_nonblocking(true).expect("looking without waiting");
        let path = format!("GET /portlatch/{}?code=", self.ceremony);
        wait_for("the redirect", REDIRECT_TIME, || {
            let (mut stream, _) = self.listener.accept().ok()?;
            stream.set_nonblocking(false).expect("waiting again");
            stream.set_read_timeout(Some(Duration::from_secs(2))).expect("a deadline");
            let mut head = [0; 8192];
            // A connection that a browser opens beforehand says nothing.
            let length = stream.read(&mut head).ok().filter(|length| *length > 0)?;
            let head = String::from_utf8_lossy(&head[..length]).into_owned();
            let body = "<!doctype html><title>Done</title><h1>Done</h1>";
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(answer.as_bytes()).expect("the browser takes the answer");
            let code = head.strip_prefix(&path)?.split(' ').next()?;
            Some(code.to_owned())
        })
    }

    fn proof(&self, code: Option<&str>) -> Value {
        json!({"code": code, "secret": self.secret})
    }
}

impl PendingLogin {
    /// Begins a login at a page, as `portlatch login` does.
    ///
    /// # Panics
    /// If control refuses it.
    pub fn begin(site: &Site, user: Option<&str>) -> Self {
        let client = Client::new(site, None);
        let key = KeyPair::generate().expect("a key");
        let (listener, secret, browser) = Page::prepare();
        let request = json!({"user": user, "device": "laptop", "csr": csr(&key), "browser": browser});
        let (status, answer) = client.send("POST", "/v1/browser-logins", &request);
        assert_eq!(status, 200, "{answer}");
        Self { page: Page::of(&answer, listener, secret), client, key }
    }

    /// Asks control what was decided.
    pub fn decision(&self) -> (u16, Value) {
        let path = format!("/v1/browser-logins/{}/page", self.page.ceremony);
        self.client.send("POST", &path, &json!({"secret": self.page.secret}))
    }

    /// Shows control what it takes, and gives its answer.
    pub fn redeem(&self, code: Option<&str>) -> (u16, Value) {
        let path = format!("/v1/browser-logins/{}", self.page.ceremony);
        self.client.send("POST", &path, &self.page.proof(code))
    }

    /// The agent of a login that was granted.
    ///
    /// # Panics
    /// If control does not certify its tunnel key.
    pub fn granted(self, site: &Site, login: Value) -> Agent {
        let certificate =
            STANDARD.decode(login["certificate"].as_str().unwrap_or_default()).expect("a certificate");
        let key = PrivatePkcs8KeyDer::from(self.key.serialize_der());
        let client = Client::new(site, Some((certificate.into(), key.into())));
        let (status, tunnel) =
            client.send("POST", "/v1/tunnel", &json!({"csr": csr(&KeyPair::generate().expect("a key"))}));
        assert_eq!(status, 200, "{tunnel}");
        let tunnel_key = tunnel["thumbprint"].as_str().expect("a thumbprint").to_owned();
        Agent { client, tunnel_key, login }
    }
}

impl Agent {
    /// The same from another of this machine's addresses.
    pub fn at(mut self, address: Ipv4Addr) -> Self {
        self.client.source = address;
        self
    }

    /// What it speaks the API with.
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// Asks to open a port, with a page to answer it.
    ///
    /// # Panics
    /// If control makes no page.
    pub fn wants(&self, resource: &str, port: u16) -> Page {
        self.wants_for("psql", resource, port)
    }

    /// The same for a program of this name.
    ///
    /// # Panics
    /// If control makes no page.
    pub fn wants_for(&self, program: &str, resource: &str, port: u16) -> Page {
        let (listener, secret, browser) = Page::prepare();
        let purpose = json!({
            "type": "open", "resource": resource, "port": port, "tunnel_key": self.tunnel_key,
            "program": program, "pid": 4242,
        });
        let request = json!({"purpose": purpose, "browser": browser});
        let (status, answer) = self.client.send("POST", "/v1/ceremonies", &request);
        assert_eq!(status, 200, "{answer}");
        Page::of(&answer, listener, secret)
    }

    /// Asks control what was decided at a page.
    pub fn decision(&self, page: &Page) -> (u16, Value) {
        self.client.send("POST", &format!("/v1/ceremonies/{}/page", page.ceremony), &Value::Null)
    }

    /// Shows control what it takes.
    pub fn redeem(&self, page: &Page, code: Option<&str>) -> (u16, Value) {
        let mut proof = page.proof(code);
        proof["type"] = "browser".into();
        self.client.send("POST", &format!("/v1/ceremonies/{}", page.ceremony), &proof)
    }

    /// Calls a ceremony off.
    pub fn cancel(&self, page: &Page) -> u16 {
        self.client.send("DELETE", &format!("/v1/ceremonies/{}", page.ceremony), &Value::Null).0
    }
}

fn csr(key: &KeyPair) -> String {
    let request = CertificateParams::default().serialize_request(key).expect("a request");
    STANDARD.encode(request.der())
}
