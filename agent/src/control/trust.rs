//! Which server is taken for control: the one whose certificate descends from the CA that a pin or an earlier login
//! named, and says that it is control of the cluster that was meant.

use std::sync::Arc;

use portlatch_clock::Clock;
use portlatch_protocol::api::ALPN;
use portlatch_protocol::names::Hostname;
use portlatch_protocol::tls::{Authority, CaPin, OneServer, ServerMeant};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

use super::ApiError;
use crate::address::ClusterAddress;
use crate::login::Login;

/// What is known of a cluster's CA.
#[derive(Debug, Clone)]
pub(crate) enum Trust {
    /// Its SHA-256; the server sends the certificate along.
    Pin(CaPin),
    /// The certificate.
    Ca(CertificateDer<'static>),
}

/// TLS without a client certificate, for login itself.
pub(super) fn anonymous(
    address: &ClusterAddress,
    trust: Trust,
    clock: &Clock,
) -> Result<Arc<ClientConfig>, ApiError> {
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        Trust::Pin(pin) => {
            Arc::new(PinnedControl { cluster: address.host.clone(), pin, provider: provider() })
        }
        Trust::Ca(ca) => known(&address.host, &ca)?,
    };
    let config = with_verifier(verifier, clock)?.with_no_client_auth();
    Ok(finished(config))
}

/// TLS with the login's certificate.
pub(super) fn logged_in(login: &Login, clock: &Clock) -> Result<Arc<ClientConfig>, ApiError> {
    let config = with_verifier(known(&login.file.cluster, &login.ca)?, clock)?;
    let config = config.with_client_auth_cert(vec![login.certificate.clone()], login.key.clone_key());
    Ok(finished(config.map_err(setup)?))
}

fn known(cluster: &Hostname, ca: &CertificateDer<'_>) -> Result<Arc<OneServer>, ApiError> {
    let authority = Authority::new(cluster.clone(), std::slice::from_ref(ca)).map_err(setup)?;
    Ok(OneServer::new(authority, ServerMeant::Control))
}

fn with_verifier(
    verifier: Arc<dyn ServerCertVerifier>,
    clock: &Clock,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, ApiError> {
    let builder = ClientConfig::builder_with_details(provider(), Arc::new(clock.clone()));
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).map_err(setup)?;
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier))
}

fn finished(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A resumed session would skip the look at certificates and their dates (design section 5).
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn setup(error: Error) -> ApiError {
    ApiError::Setup(error.to_string())
}

/// Accepts control of one cluster, knowing only its CA's pin: the CA comes with the leaf and must be the pinned one.
#[derive(Debug)]
struct PinnedControl {
    cluster: Hostname,
    pin: CaPin,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedControl {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let ca = intermediates.iter().find(|certificate| CaPin::of(certificate) == self.pin);
        let ca = ca.ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let authority = Authority::new(self.cluster.clone(), std::slice::from_ref(ca))?;
        let verifier = OneServer::new(authority, ServerMeant::Control);
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
    use std::time::Duration;

    struct Ca {
        certificate: CertificateDer<'static>,
        issuer: Issuer<'static, KeyPair>,
    }

    fn ca() -> Ca {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        params.distinguished_name.push(DnType::CommonName, "test CA");
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Ca { certificate, issuer: Issuer::new(params, key) }
    }

    fn leaf(ca: &Ca, uri: &str) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.signed_by(&KeyPair::generate().unwrap(), &ca.issuer).unwrap().der().clone()
    }

    fn verify(pinned: &Ca, sent: &Ca, uri: &str) -> Result<ServerCertVerified, Error> {
        let pin = CaPin::of(&pinned.certificate);
        let control = PinnedControl { cluster: "h.example".parse().unwrap(), pin, provider: provider() };
        let now = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
        let name = ServerName::try_from("h.example").unwrap();
        control.verify_server_cert(&leaf(sent, uri), std::slice::from_ref(&sent.certificate), &name, &[], now)
    }

    #[test]
    fn the_pinned_ca_s_control_is_accepted() {
        let ca = ca();
        assert!(verify(&ca, &ca, "portlatch://h.example/control/main").is_ok());
    }

    #[test]
    fn another_ca_or_cluster_or_kind_is_not() {
        let (mine, other) = (ca(), ca());
        assert!(verify(&mine, &other, "portlatch://h.example/control/main").is_err());
        assert!(verify(&mine, &mine, "portlatch://other.example/control/main").is_err());
        assert!(verify(&mine, &mine, "portlatch://h.example/proxy/main").is_err());
    }
}
