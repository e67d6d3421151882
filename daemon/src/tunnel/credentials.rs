//! The tunnel key of one login, made in memory at attach and nowhere else, and what it takes to use it: the certificate
//! that control signed, the CA that proxies must descend from.

use std::sync::Arc;
use std::time::Duration;

use portlatch_carrier::turns::Turns;
use portlatch_clock::Clock;
use portlatch_protocol::identity::{Login, Subject};
use portlatch_protocol::names::{Hostname, Id, ProxyName, UserName};
use portlatch_protocol::stream::ALPN;
use portlatch_protocol::thumbprint::Thumbprint;
use portlatch_protocol::tls::{Authority, CaPin, OneServer, ServerMeant};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{AckFrequencyConfig, IdleTimeout, TransportConfig, VarInt};
use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::cipher_suite::{
    TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::time_provider::TimeProvider as _;
use webpki::KeyUsage;

/// Idle time of a tunnel: a cut shorter than this keeps every flow (design section 11).
const IDLE: Duration = Duration::from_secs(60);
/// Keeps NAT bindings alive, and notices a dead proxy while no flow is there to mind (design section 11).
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// What a proxy may send ahead of a program: a stalled flow holds this much, and no flow holds more. It is 800 Mbit/s at
/// 20 ms.
pub(crate) const STREAM_WINDOW: u32 = 2 * 1024 * 1024;
/// The same for every stream that a proxy allows one user: all of them may be stalled and leave the others their speed.
pub(super) const TUNNEL_WINDOW: u64 = STREAM_WINDOW as u64 * 1024;
/// Sent and not yet acknowledged, in all, where the path carries as much.
pub(super) const SEND_WINDOW: u64 = 32 * 1024 * 1024;
/// The first guess of the round trip: proxies are near, and quinn's 333 ms makes the first loss slow.
const INITIAL_RTT: Duration = Duration::from_millis(100);

/// A tunnel key that is not certified yet.
pub(crate) struct TunnelKey {
    key: KeyPair,
}

/// What it takes to open tunnels as one login.
#[derive(Clone)]
pub(crate) struct TunnelCredentials {
    authority: Authority,
    certificate: CertificateDer<'static>,
    key: Arc<KeyPair>,
    transport: Arc<TransportConfig>,
    clock: Clock,
}

/// Why a tunnel key or its certificate is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CredentialError {
    /// The key could not be made.
    #[error("making the tunnel key")]
    Key(#[source] rcgen::Error),
    /// The certificate is not the cluster's, or not for this login and key.
    #[error("the tunnel certificate does not fit: {0}")]
    BadCertificate(&'static str),
    /// rustls would not have them.
    #[error("using the tunnel certificate")]
    Tls(#[from] rustls::Error),
}

impl TunnelKey {
    /// A new P-256 key.
    pub(crate) fn generate() -> Result<Self, CredentialError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(CredentialError::Key)?;
        Ok(Self { key })
    }

    /// The PKCS #10 request, DER, for the agent to have certified.
    pub(crate) fn request(&self) -> Result<Vec<u8>, CredentialError> {
        let request =
            CertificateParams::default().serialize_request(&self.key).map_err(CredentialError::Key)?;
        Ok(request.der().to_vec())
    }

    /// The credentials and the login, once the certificate is shown to be the cluster's, of this user's login, and for
    /// this key.
    pub(crate) fn certified(
        self,
        certificate: Vec<u8>,
        authority: Authority,
        (user, login): (&UserName, &Id),
        clock: Clock,
    ) -> Result<(TunnelCredentials, Login), CredentialError> {
        let certificate = CertificateDer::from(certificate);
        let now = clock.current_time().unwrap_or(UnixTime::since_unix_epoch(Duration::ZERO));
        let identity = authority
            .identify(&certificate, &[], KeyUsage::client_auth(), now)
            .map_err(|_| CredentialError::BadCertificate("it is not this cluster's"))?;
        let certified = match identity.subject {
            Subject::Tunnel(certified) if certified.user == *user && certified.login == *login => certified,
            Subject::Tunnel(_) | Subject::Login(_) | Subject::Proxy(_) | Subject::Control(_) => {
                return Err(CredentialError::BadCertificate("it is another login's"));
            }
        };
        let is_ours =
            Thumbprint::of_certificate(&certificate) == Thumbprint::of_point(self.key.public_key_raw());
        if !is_ours {
            return Err(CredentialError::BadCertificate("it is another key's"));
        }
        let key = Arc::new(self.key);
        let transport = Arc::new(transport());
        Ok((TunnelCredentials { authority, certificate, key, transport, clock }, certified))
    }
}

impl TunnelCredentials {
    /// The client configuration for a tunnel to this proxy and no other.
    pub(crate) fn client_config(&self, proxy: &ProxyName) -> Result<quinn::ClientConfig, CredentialError> {
        let verifier = OneServer::new(self.authority.clone(), ServerMeant::Proxy(proxy.clone()));
        let key = PrivateKeyDer::try_from(self.key.serialize_der())
            .map_err(|_| CredentialError::BadCertificate("its key cannot be read"))?;
        let mut tls =
            rustls::ClientConfig::builder_with_details(Arc::new(provider()), Arc::new(self.clock.clone()))
                .with_protocol_versions(&[&rustls::version::TLS13])?
                .dangerous()
                .with_custom_certificate_verifier(verifier)
                .with_client_auth_cert(vec![self.certificate.clone()], key)?;
        tls.alpn_protocols = vec![ALPN.to_vec()];
        // A ticket would restore the client's certificate without verifying it again.
        tls.resumption = rustls::client::Resumption::disabled();
        tls.enable_early_data = false;
        let quic = QuicClientConfig::try_from(tls)
            .map_err(|_| CredentialError::BadCertificate("its cipher suites lack QUIC's"))?;
        let mut config = quinn::ClientConfig::new(Arc::new(quic));
        config.transport_config(Arc::clone(&self.transport));
        Ok(config)
    }
}

/// aws-lc-rs with AES-128-GCM first: about a tenth cheaper than AES-256 for a packet (performance.md 4.3).
fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            TLS13_AES_128_GCM_SHA256,
            TLS13_AES_256_GCM_SHA384,
            TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..rustls::crypto::aws_lc_rs::default_provider()
    }
}

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    let idle = IdleTimeout::try_from(IDLE).expect("a minute fits");
    transport
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .initial_rtt(INITIAL_RTT)
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u64(TUNNEL_WINDOW).unwrap_or(VarInt::MAX))
        .send_window(Turns::FIRST_WINDOW)
        // Only we open streams; and a proxy has no datagrams to send.
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .ack_frequency_config(Some(AckFrequencyConfig::default()));
    transport
}

/// The cluster's CA, if its certificate has the pin that root listed.
pub(crate) fn pinned_authority(cluster: Hostname, ca: &[u8], pin: CaPin) -> Option<Authority> {
    let is_pinned = CaPin::of(ca) == pin;
    is_pinned.then(|| Authority::new(cluster, &[CertificateDer::from(ca)]).ok()).flatten()
}
