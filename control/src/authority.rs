//! The cluster's CA at work: it reads certificate requests and signs leaves, each of one kind and for one URI.
//!
//! Of a request only the public key counts, and that its owner signed it: names, usages and dates are ours to say.

use std::time::Duration;

use portlatch_clock::TimeOfDay;
use portlatch_protocol::identity::{Identity, Login, Subject};
use portlatch_protocol::names::{Hostname, ProxyName};
use portlatch_protocol::thumbprint::Thumbprint;
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY};
use x509_parser::prelude::FromDer;

use crate::keys::Keys;

/// How long a proxy's and control's own certificate lives (design section 5); renewed long before.
pub const SERVER_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Machines whose clock is behind accept a new certificate nevertheless.
const BACKDATED: Duration = Duration::from_secs(60);
/// A request with a P-256 key needs some 300 bytes.
const MAX_REQUEST: usize = 4 * 1024;

/// Why a request was not accepted, or nothing could be signed.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// It is no PKCS #10 request, or a far too large one.
    #[error("the certificate request is not well formed")]
    NotARequest,
    /// It was not signed with the key that it names.
    #[error("the certificate request is not signed by its own key")]
    NotProven,
    /// Its key is of another kind.
    #[error("the key of a certificate request must be a P-256 key")]
    NotP256,
    /// Signing failed, which does not happen on a working machine.
    #[error("a certificate could not be signed")]
    Signing(#[from] rcgen::Error),
}

/// The public key of a request whose owner has proved to hold the private one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvenKey {
    spki: Vec<u8>,
    thumbprint: Thumbprint,
}

impl ProvenKey {
    /// The key in this PKCS #10 request.
    ///
    /// # Errors
    /// [`AuthorityError`] if it is no request, not signed by its own key, or the key is not on P-256.
    pub fn from_request(der: &[u8]) -> Result<Self, AuthorityError> {
        if der.len() > MAX_REQUEST {
            return Err(AuthorityError::NotARequest);
        }
        let parsed = X509CertificationRequest::from_der(der);
        let (rest, request) = parsed.map_err(|_| AuthorityError::NotARequest)?;
        if !rest.is_empty() {
            return Err(AuthorityError::NotARequest);
        }
        let key = &request.certification_request_info.subject_pki;
        let curve = key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
        if key.algorithm.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY || curve != Some(OID_EC_P256) {
            return Err(AuthorityError::NotP256);
        }
        let thumbprint = Thumbprint::of_public_key(key.raw).ok_or(AuthorityError::NotP256)?;
        request.verify_signature().map_err(|_| AuthorityError::NotProven)?;
        Ok(Self { spki: key.raw.to_vec(), thumbprint })
    }

    /// The key as SubjectPublicKeyInfo.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// The key's thumbprint, as grants name it.
    pub const fn thumbprint(&self) -> &Thumbprint {
        &self.thumbprint
    }
}

/// A server's certificate chain (leaf, then CA) and its key.
pub type ServerIdentity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Signs for one cluster.
#[derive(Debug)]
pub struct Signer<'a> {
    cluster: &'a Hostname,
    keys: &'a Keys,
}

impl<'a> Signer<'a> {
    /// The CA of `cluster`.
    pub const fn new(cluster: &'a Hostname, keys: &'a Keys) -> Self {
        Self { cluster, keys }
    }

    /// The certificate of a login.
    ///
    /// # Errors
    /// [`AuthorityError::Signing`].
    pub fn login(
        &self,
        login: &Login,
        key: &ProvenKey,
        expires: TimeOfDay,
        now: TimeOfDay,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        self.leaf(Subject::Login(login.clone()), key.spki(), expires, now)
    }

    /// The certificate of a tunnel.
    ///
    /// # Errors
    /// [`AuthorityError::Signing`].
    pub fn tunnel(
        &self,
        login: &Login,
        key: &ProvenKey,
        expires: TimeOfDay,
        now: TimeOfDay,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        self.leaf(Subject::Tunnel(login.clone()), key.spki(), expires, now)
    }

    /// The certificate of a proxy.
    ///
    /// # Errors
    /// [`AuthorityError::Signing`].
    pub fn proxy(
        &self,
        name: &ProxyName,
        key: &ProvenKey,
        now: TimeOfDay,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        self.leaf(Subject::Proxy(name.clone()), key.spki(), now.after(SERVER_LIFETIME), now)
    }

    /// A fresh key and certificate for control's own listener.
    ///
    /// # Errors
    /// [`AuthorityError::Signing`].
    pub fn control(&self, name: &ProxyName, now: TimeOfDay) -> Result<ServerIdentity, AuthorityError> {
        use rcgen::PublicKeyData as _;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let spki = key.subject_public_key_info();
        let leaf = self.leaf(Subject::Control(name.clone()), &spki, now.after(SERVER_LIFETIME), now)?;
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        Ok((vec![leaf, self.keys.ca_der().clone()], key.into()))
    }

    fn leaf(
        &self,
        subject: Subject,
        spki: &[u8],
        expires: TimeOfDay,
        now: TimeOfDay,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        let (usages, has_host) = match &subject {
            Subject::Login(_) | Subject::Tunnel(_) => (vec![ExtendedKeyUsagePurpose::ClientAuth], false),
            Subject::Proxy(_) => {
                (vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth], false)
            }
            // Programs that know nothing of our URIs meet control by its host name.
            Subject::Control(_) => (vec![ExtendedKeyUsagePurpose::ServerAuth], true),
        };
        let identity = Identity { cluster: self.cluster.clone(), subject };
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
        if has_host {
            params.subject_alt_names.push(SanType::DnsName(self.cluster.as_str().try_into()?));
        }
        params.serial_number = Some(serial());
        params.not_before = date(TimeOfDay(now.0 - i64::try_from(BACKDATED.as_millis()).unwrap_or(0)));
        params.not_after = date(expires);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages;
        params.use_authority_key_identifier_extension = true;
        let key = SubjectPublicKeyInfo::from_der(spki)?;
        Ok(params.signed_by(&key, self.keys.ca())?.der().clone())
    }
}

/// Positive, at most 20 octets (RFC 5280 section 4.1.2.2).
fn serial() -> SerialNumber {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the system has randomness");
    bytes[0] &= 0x7f;
    SerialNumber::from_slice(&bytes)
}

/// Certificates count whole seconds; a moment outside their calendar becomes its nearest end.
fn date(time: TimeOfDay) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(time.seconds().clamp(0, 253_402_300_799))
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests;
