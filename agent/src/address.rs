//! Where a cluster is: `HOST`, `HOST:PORT` or `https://HOST[:PORT]`, as people type it.

use std::fmt;
use std::str::FromStr;

use portlatch_protocol::names::{Hostname, NameError};

/// The one port of a cluster unless its administrator chose another (design section 7).
const DEFAULT_PORT: u16 = 443;

/// A cluster's public address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClusterAddress {
    /// The public host: the cluster's name.
    pub(crate) host: Hostname,
    /// The port.
    pub(crate) port: u16,
}

/// Not an address of a cluster.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AddressError {
    /// Another scheme than https.
    #[error("a cluster is reached by https alone: write HOST[:PORT] or https://HOST[:PORT]")]
    Scheme,
    /// Something stands behind the port.
    #[error("an address is HOST[:PORT], without a path or another scheme")]
    Path,
    /// The port is no number.
    #[error("{0:?} is not a port: write a number from 1 to 65535")]
    Port(String),
    /// The host is no name.
    #[error("{0}")]
    Host(#[from] NameError),
}

impl FromStr for ClusterAddress {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => rest,
            Some(_) => return Err(AddressError::Scheme),
            None => text,
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#', '@']) {
            return Err(AddressError::Path);
        }
        let (host, port) = split_port(rest)?;
        Ok(Self { host, port: port.unwrap_or(DEFAULT_PORT) })
    }
}

impl fmt::Display for ClusterAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            DEFAULT_PORT => write!(f, "{}", self.host),
            port => write!(f, "{}:{port}", self.host),
        }
    }
}

/// `HOST` or `HOST:PORT`.
///
/// # Errors
/// [`AddressError::Port`] or [`AddressError::Host`].
pub(crate) fn split_port(text: &str) -> Result<(Hostname, Option<u16>), AddressError> {
    if text.contains('/') {
        return Err(AddressError::Path);
    }
    let Some((host, port)) = text.rsplit_once(':') else { return Ok((text.parse()?, None)) };
    let number = port.parse().ok().filter(|number| *number > 0);
    let number = number.ok_or_else(|| AddressError::Port(port.chars().take(16).collect()))?;
    Ok((host.parse()?, Some(number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Result<(String, u16), AddressError> {
        text.parse::<ClusterAddress>().map(|a| (a.host.to_string(), a.port))
    }

    #[test]
    fn every_written_form_names_the_same_cluster() {
        for text in [
            "proxy.example.com",
            "Proxy.Example.com:443",
            "https://proxy.example.com/",
            "HTTPS://proxy.example.com:443",
        ] {
            assert_eq!(address(text).unwrap(), ("proxy.example.com".to_owned(), 443), "{text}");
        }
        assert_eq!(address("10.0.0.1:8443").unwrap(), ("10.0.0.1".to_owned(), 8443));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        assert!(matches!(address("http://proxy.example.com"), Err(AddressError::Scheme)));
        assert!(matches!(address("proxy.example.com/login"), Err(AddressError::Path)));
        assert!(matches!(address("user@proxy.example.com"), Err(AddressError::Path)));
        assert!(matches!(address("proxy.example.com:0"), Err(AddressError::Port(_))));
        assert!(matches!(address("proxy.example.com:https"), Err(AddressError::Port(_))));
        assert!(matches!(address(""), Err(AddressError::Host(_))));
        assert!(matches!(address("-x"), Err(AddressError::Host(_))));
        assert!(matches!(split_port("https://web.corp.internal/"), Err(AddressError::Path)));
    }

    #[test]
    fn the_default_port_is_not_written() {
        assert_eq!("h.example:443".parse::<ClusterAddress>().unwrap().to_string(), "h.example");
        assert_eq!("h.example:444".parse::<ClusterAddress>().unwrap().to_string(), "h.example:444");
    }
}
