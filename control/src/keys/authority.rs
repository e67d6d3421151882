//! The cluster CA's own certificate. What it signs for others is made elsewhere.

use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use portlatch_audit::Signature;
use portlatch_clock::TimeOfDay;
use portlatch_protocol::names::Hostname;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
    PublicKeyData,
};
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::KeysError;

/// The CA outlives every machine that pins it, until there is rotation.
const LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Machines whose clock is behind accept it nevertheless.
const BACKDATED: Duration = Duration::from_secs(24 * 3600);

/// Makes the certificate: P-256, signs leaves only.
pub(super) fn self_signed(
    cluster: &Hostname,
    key: &KeyPair,
    now: TimeOfDay,
) -> Result<CertificateDer<'static>, KeysError> {
    let now = OffsetDateTime::from_unix_timestamp(now.seconds()).map_err(|_| KeysError::Crypto)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, cluster.as_str());
    params.not_before = now - BACKDATED;
    params.not_after = now + LIFETIME;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params.self_signed(key)?.der().clone())
}

/// The cluster that the certificate was made for.
pub(super) fn cluster_of(certificate: &CertificateDer<'_>) -> Option<Hostname> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    certificate.subject().iter_common_name().next()?.as_str().ok()?.parse().ok()
}

/// Whether the certificate is whole and this key's own.
pub(super) fn certifies(certificate: &CertificateDer<'_>, key: &KeyPair) -> bool {
    let Ok((rest, certificate)) = X509Certificate::from_der(certificate) else { return false };
    let is_own = certificate.public_key().subject_public_key.data == key.der_bytes();
    rest.is_empty() && is_own && is_signed_by(&certificate, key)
}

/// The CA's public key.
#[derive(Debug)]
pub(crate) struct PublicCa(Vec<u8>);

impl PublicCa {
    /// The key of this certificate.
    pub(super) fn read(certificate: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        Some(Self(certificate.public_key().subject_public_key.data.to_vec()))
    }

    /// Whether the CA made this signature of this message.
    pub(crate) fn check(&self, message: &[u8], signature: &[u8]) -> Signature {
        match UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.0).verify(message, signature) {
            Ok(()) => Signature::Good,
            Err(_) => Signature::Bad,
        }
    }
}

fn is_signed_by(certificate: &X509Certificate<'_>, key: &KeyPair) -> bool {
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.der_bytes())
        .verify(certificate.tbs_certificate.as_ref(), &certificate.signature_value.data)
        .is_ok()
}
