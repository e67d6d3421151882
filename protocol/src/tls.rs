//! Who may speak on a TLS or QUIC connection of ours: rustls verifiers that accept exactly one kind of certificate of
//! exactly one cluster.
//!
//! Chains are short on purpose: the leaf is signed by the cluster's CA itself, so intermediates are refused before any
//! path is built. The time comes from rustls' `TimeProvider`, which the binaries set.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use sha2::{Digest, Sha256};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use crate::identity::{Identity, IdentityKind, Subject};
use crate::names::{Hostname, ProxyName};

/// Largest certificate that is looked at.
const MAX_CERTIFICATE: usize = 8 * 1024;
/// A leaf, and perhaps the CA beside it (an agent that knows only the pin needs it).
const MAX_CHAIN: usize = 2;

/// The SHA-256 of a CA certificate, as `--ca-pin sha256:...` writes it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CaPin([u8; 32]);

impl CaPin {
    /// The pin of this certificate.
    pub fn of(certificate: &[u8]) -> Self {
        Self(Sha256::digest(certificate).into())
    }
}

impl std::fmt::Display for CaPin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for CaPin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// Not a pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a CA pin is written sha256: and 64 hexadecimal digits, as `portlatch-proxy init` printed it")]
pub struct BadPin;

impl std::str::FromStr for CaPin {
    type Err = BadPin;
    fn from_str(text: &str) -> Result<Self, BadPin> {
        let digits = text.strip_prefix("sha256:").ok_or(BadPin)?.as_bytes();
        let mut pin = [0; 32];
        if digits.len() != 2 * pin.len() {
            return Err(BadPin);
        }
        for (byte, pair) in pin.iter_mut().zip(digits.chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| BadPin)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| BadPin)?;
        }
        Ok(Self(pin))
    }
}

/// A cluster's CA: what a certificate must descend from, and whose names it must carry.
#[derive(Debug, Clone)]
pub struct Authority {
    cluster: Hostname,
    anchors: Vec<TrustAnchor<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Authority {
    /// The CA of `cluster`, given as its certificates (one, or two while they rotate).
    ///
    /// # Errors
    /// [`CertificateError::BadEncoding`] if one of them is no certificate.
    pub fn new(cluster: Hostname, certificates: &[CertificateDer<'_>]) -> Result<Self, Error> {
        let anchor = |der| anchor_from_trusted_cert(der).map(|anchor| anchor.to_owned());
        let anchors: Result<Vec<_>, _> = certificates.iter().map(anchor).collect();
        let anchors = anchors.map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        Ok(Self { cluster, anchors, algorithms })
    }

    /// Whom `leaf` speaks for, once it is shown to be this cluster's and good at `now`.
    ///
    /// # Errors
    /// A certificate error that says no more than rustls' own would.
    pub fn identify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: KeyUsage,
        now: UnixTime,
    ) -> Result<Identity, Error> {
        let is_small = leaf.len() <= MAX_CERTIFICATE && intermediates.len() < MAX_CHAIN;
        if !is_small {
            return Err(Error::InvalidCertificate(CertificateError::BadEncoding));
        }
        let certificate = EndEntityCert::try_from(leaf).map_err(invalid)?;
        let algorithms = self.algorithms.all;
        // No intermediates are given: the CA beside the leaf is there for those who know only the pin.
        certificate
            .verify_for_usage(algorithms, &self.anchors, &[], now, usage, None, None)
            .map_err(invalid)?;
        let identity = Identity::from_certificate(leaf).map_err(|_| wrong_name())?;
        match identity.cluster == self.cluster {
            true => Ok(identity),
            false => Err(wrong_name()),
        }
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "webpki's list grows, and all the rest is one answer to the peer"
)]
fn invalid(error: webpki::Error) -> Error {
    let cause = match error {
        webpki::Error::CertExpired { .. } => CertificateError::Expired,
        webpki::Error::CertNotValidYet { .. } => CertificateError::NotValidYet,
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer,
        webpki::Error::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        _ => CertificateError::BadEncoding,
    };
    Error::InvalidCertificate(cause)
}

const fn wrong_name() -> Error {
    Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
}

/// Accepts clients with certificates of one kind.
#[derive(Debug)]
pub struct OneKindOfClient {
    authority: Authority,
    kind: IdentityKind,
    is_required: bool,
}

impl OneKindOfClient {
    /// Every client must show a certificate of this kind.
    pub fn required(authority: Authority, kind: IdentityKind) -> Arc<Self> {
        Arc::new(Self { authority, kind, is_required: true })
    }

    /// A client may come without one (login itself); one that it shows must be of this kind.
    pub fn optional(authority: Authority, kind: IdentityKind) -> Arc<Self> {
        Arc::new(Self { authority, kind, is_required: false })
    }
}

impl ClientCertVerifier for OneKindOfClient {
    fn client_auth_mandatory(&self) -> bool {
        self.is_required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let identity = self.authority.identify(end_entity, intermediates, KeyUsage::client_auth(), now)?;
        match identity.kind() == self.kind {
            true => Ok(ClientCertVerified::assertion()),
            false => Err(wrong_name()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.authority.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.authority.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authority.algorithms.supported_schemes()
    }
}

/// Which server a client means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerMeant {
    /// This proxy and no other.
    Proxy(ProxyName),
    /// Control, whichever of its processes answers.
    Control,
}

/// Accepts the one server that was meant, by its URI; its host name plays no part.
#[derive(Debug)]
pub struct OneServer {
    authority: Authority,
    meant: ServerMeant,
}

impl OneServer {
    /// A verifier for that server of that cluster.
    pub fn new(authority: Authority, meant: ServerMeant) -> Arc<Self> {
        Arc::new(Self { authority, meant })
    }
}

impl ServerCertVerifier for OneServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let identity = self.authority.identify(end_entity, intermediates, KeyUsage::server_auth(), now)?;
        let is_meant = match (&self.meant, &identity.subject) {
            (ServerMeant::Proxy(meant), Subject::Proxy(name)) => meant == name,
            (ServerMeant::Control, Subject::Control(_)) => true,
            (ServerMeant::Proxy(_), Subject::Control(_) | Subject::Login(_) | Subject::Tunnel(_))
            | (ServerMeant::Control, Subject::Proxy(_) | Subject::Login(_) | Subject::Tunnel(_)) => false,
        };
        match is_meant {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(wrong_name()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.authority.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.authority.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authority.algorithms.supported_schemes()
    }
}
