//! Who a certificate speaks for. Every certificate of a cluster names its one kind and owner in one URI SAN:
//!
//! ```text
//! portlatch://CLUSTER/login/USER/LOGIN/DEVICE     an agent, to control
//! portlatch://CLUSTER/tunnel/USER/LOGIN/DEVICE    a daemon, to proxies
//! portlatch://CLUSTER/proxy/NAME                  a proxy, to control and to daemons
//! portlatch://CLUSTER/control/NAME                control, to agents
//! ```

use std::fmt;
use std::str::FromStr;

use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::names::{DeviceName, Hostname, Id, NameError, ProxyName, UserName};

const SCHEME: &str = "portlatch://";

/// What kind of certificate it is. An endpoint accepts exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IdentityKind {
    /// An agent's login.
    Login,
    /// A daemon's tunnel for one login.
    Tunnel,
    /// A proxy.
    Proxy,
    /// A control process.
    Control,
}

/// A login: one user signed in on one device.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Login {
    /// The user.
    pub user: UserName,
    /// The login's identifier.
    pub login: Id,
    /// The device's name.
    pub device: DeviceName,
}

/// Whom a certificate speaks for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The cluster that signed it.
    pub cluster: Hostname,
    /// The owner, with what belongs to its kind.
    pub subject: Subject,
}

/// The owner of a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// An agent's login.
    Login(Login),
    /// A daemon's tunnel for one login.
    Tunnel(Login),
    /// A proxy.
    Proxy(ProxyName),
    /// A control process.
    Control(ProxyName),
}

/// Why a certificate or URI names nobody.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The bytes are no X.509 certificate.
    #[error("not a certificate")]
    NotACertificate,
    /// It must have one subject alternative name, and that one a URI.
    #[error("a certificate must have exactly one name, a URI")]
    NotOneUri,
    /// The URI is not one of the four forms.
    #[error("the certificate's URI is not one of ours")]
    UnknownForm,
    /// A part of the URI is not a name.
    #[error("the certificate's URI has a bad name")]
    BadName(#[from] NameError),
}

impl Identity {
    /// The identity in a certificate that has been verified already.
    ///
    /// # Errors
    /// An [`IdentityError`] if it has not exactly one SAN, a URI of ours. (DNS names are allowed beside it only on
    /// certificates of proxies and control, which ordinary programs may meet by host name.)
    pub fn from_certificate(der: &[u8]) -> Result<Self, IdentityError> {
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|_| IdentityError::NotACertificate)?;
        if !rest.is_empty() {
            return Err(IdentityError::NotACertificate);
        }
        let names = certificate.subject_alternative_name().map_err(|_| IdentityError::NotOneUri)?;
        let names = &names.ok_or(IdentityError::NotOneUri)?.value.general_names;
        let uri_of = |name: &GeneralName<'_>| {
            if let GeneralName::URI(uri) = name { Some(uri.to_string()) } else { None }
        };
        let uris: Vec<String> = names.iter().filter_map(uri_of).collect();
        let others = names.len() - uris.len();
        let [uri] = &uris[..] else { return Err(IdentityError::NotOneUri) };
        let identity: Self = uri.parse()?;
        match identity.kind() {
            IdentityKind::Login | IdentityKind::Tunnel if others > 0 => Err(IdentityError::NotOneUri),
            IdentityKind::Login | IdentityKind::Tunnel | IdentityKind::Proxy | IdentityKind::Control => {
                Ok(identity)
            }
        }
    }

    /// Which of the four kinds it is.
    pub const fn kind(&self) -> IdentityKind {
        match self.subject {
            Subject::Login(_) => IdentityKind::Login,
            Subject::Tunnel(_) => IdentityKind::Tunnel,
            Subject::Proxy(_) => IdentityKind::Proxy,
            Subject::Control(_) => IdentityKind::Control,
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/", self.cluster)?;
        match &self.subject {
            Subject::Login(Login { user, login, device }) => write!(f, "login/{user}/{login}/{device}"),
            Subject::Tunnel(Login { user, login, device }) => write!(f, "tunnel/{user}/{login}/{device}"),
            Subject::Proxy(name) => write!(f, "proxy/{name}"),
            Subject::Control(name) => write!(f, "control/{name}"),
        }
    }
}

impl FromStr for Identity {
    type Err = IdentityError;
    fn from_str(uri: &str) -> Result<Self, IdentityError> {
        let path = uri.strip_prefix(SCHEME).ok_or(IdentityError::UnknownForm)?;
        let parts: Vec<&str> = path.split('/').collect();
        let login = |user: &str, login: &str, device: &str| -> Result<Login, NameError> {
            Ok(Login { user: user.parse()?, login: login.parse()?, device: device.parse()? })
        };
        let (cluster, subject) = match parts[..] {
            [cluster, "login", user, id, device] => (cluster, Subject::Login(login(user, id, device)?)),
            [cluster, "tunnel", user, id, device] => (cluster, Subject::Tunnel(login(user, id, device)?)),
            [cluster, "proxy", name] => (cluster, Subject::Proxy(name.parse()?)),
            [cluster, "control", name] => (cluster, Subject::Control(name.parse()?)),
            _ => return Err(IdentityError::UnknownForm),
        };
        Ok(Self { cluster: cluster.parse()?, subject })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_reads_back_what_it_writes() {
        for uri in [
            "portlatch://proxy.example.com/login/jerry/0af3/laptop",
            "portlatch://proxy.example.com/tunnel/jerry@corp/0af3/laptop",
            "portlatch://proxy.example.com/proxy/berlin-1",
            "portlatch://proxy.example.com/control/main",
        ] {
            assert_eq!(uri.parse::<Identity>().unwrap().to_string(), uri);
        }
    }

    #[test]
    fn uris_of_other_forms_name_nobody() {
        for uri in [
            "https://proxy.example.com/login/jerry/0af3/laptop",
            "portlatch://proxy.example.com/login/jerry/0af3",
            "portlatch://proxy.example.com/login/jerry/0af3/laptop/more",
            "portlatch://proxy.example.com/root/jerry",
            "portlatch://proxy.example.com/login/je rry/0af3/laptop",
            "portlatch:///proxy/name",
            "",
        ] {
            assert!(uri.parse::<Identity>().is_err(), "{uri:?} was accepted");
        }
    }

    #[test]
    fn a_tunnel_certificate_with_a_second_name_is_refused() {
        let uri = "portlatch://c.example/tunnel/jerry/0af3/laptop";
        let certificate = |names: Vec<rcgen::SanType>| {
            let mut params = rcgen::CertificateParams::default();
            params.subject_alt_names = names;
            params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap()
        };
        let (ours, other) = (
            rcgen::SanType::URI(uri.try_into().unwrap()),
            rcgen::SanType::DnsName("proxy.example.com".try_into().unwrap()),
        );
        let single = Identity::from_certificate(certificate(vec![ours.clone()]).der()).unwrap();
        assert_eq!(single.kind(), IdentityKind::Tunnel);
        assert!(Identity::from_certificate(certificate(vec![ours.clone(), other]).der()).is_err());
        assert!(Identity::from_certificate(certificate(vec![ours.clone(), ours]).der()).is_err());
        assert!(Identity::from_certificate(certificate(vec![]).der()).is_err());
    }
}
