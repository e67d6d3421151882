//! Whoever speaks to control with a user's login, without being his agent: by its own bytes, well-formed or not.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portlatch_protocol::api;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;

use super::{Account, Host, Lab, PATIENCE};

/// A connection to control's API.
pub type ApiStream = StreamOwned<ClientConnection, TcpStream>;

/// A login's way to control.
#[derive(Debug, Clone)]
pub struct ApiClient<'l> {
    lab: &'l Lab,
    tls: Arc<ClientConfig>,
}

/// A status, and the body behind it.
pub type ApiAnswer = (u16, String);

impl Lab {
    /// The API, with the login that a user's agent keeps.
    ///
    /// # Panics
    /// If there is none.
    pub fn api(&self, account: Account) -> ApiClient<'_> {
        let read = |name: &str| {
            let path = format!("{}/.local/state/portlatch/{name}", account.home());
            self.run(Host::User, Account::Root, &["cat", &path]).expect_success().stdout
        };
        let certificate =
            |name| CertificateDer::from_pem_slice(read(name).as_bytes()).expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(read("login.key").as_bytes()).expect("a key");
        let mut roots = RootCertStore::empty();
        roots.add(certificate("ca.crt")).expect("the cluster's CA");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate("login.crt")], key)
            .expect("the login's key");
        tls.alpn_protocols = vec![api::ALPN.to_vec()];
        ApiClient { lab: self, tls: Arc::new(tls) }
    }
}

impl ApiClient<'_> {
    /// A TCP connection on which nothing was said yet.
    pub fn dial(&self) -> TcpStream {
        let dial = || TcpStream::connect(("192.0.2.1", 443)).expect("the proxy listens");
        let stream = self.lab.in_network(Host::User, dial);
        stream.set_read_timeout(Some(PATIENCE)).expect("a time that is not 0");
        stream
    }

    /// A connection on which no request was made yet.
    ///
    /// # Panics
    /// If TLS does not begin.
    pub fn connect(&self) -> ApiStream {
        let name = "proxy.example.com".try_into().expect("a name");
        let session = ClientConnection::new(Arc::clone(&self.tls), name).expect("a TLS session");
        StreamOwned::new(session, self.dial())
    }

    /// A request to certify a new key, in base64.
    ///
    /// # Panics
    /// If there is no randomness.
    pub fn request_for_key(&self) -> String {
        let key = KeyPair::generate().expect("a key");
        let request = CertificateParams::default().serialize_request(&key).expect("a request");
        STANDARD.encode(request.der())
    }

    /// All that comes back for these bytes, or before them: some peers answer what is too long before they have it all.
    pub fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        // Some peers end TLS without saying so; what came is the answer.
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// The first answer to these bytes; status 0 where there is none.
    pub fn exchange(&self, bytes: &[u8]) -> ApiAnswer {
        let answer = self.raw(bytes);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        (status, body.to_owned())
    }

    /// One request with this body.
    pub fn request(&self, method: &str, path: &str, body: &str) -> ApiAnswer {
        self.exchange(format!("{}{body}", head(method, path, body.len())).as_bytes())
    }

    /// One request, whose answer is JSON.
    ///
    /// # Panics
    /// If it is none.
    pub fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let (status, answer) = self.request("POST", path, &body.to_string());
        (status, serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error} in {answer}")))
    }
}

/// A request's head that announces so many bytes.
pub fn head(method: &str, path: &str, length: usize) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: proxy.example.com\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\nconnection: close\r\n\r\n"
    )
}
