//! `proxy.toml`: what a `portlatch-proxy` is told about its machine. Users, roles and resources are not here; they are
//! documents. Every fault is told at once, with its line and column.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use portlatch_audit::Durability;
use portlatch_protocol::names::{Hostname, ProxyName};

use self::table::{Faults, Table};
use crate::documents::fault::Fault;
use crate::documents::labels::{Labels, MAX_LABEL, MAX_LABELS};
use crate::documents::values::parse_port;

mod table;

/// The configuration's name in the proxy's directory.
pub const FILE_NAME: &str = "proxy.toml";
/// The port of the public host where none is given.
pub const DEFAULT_PORT: u16 = 443;
/// The proxy's name where none is given.
pub const DEFAULT_NAME: &str = "main";
/// Larger than any configuration that somebody wrote.
const MAX_FILE: u64 = 1024 * 1024;

const KEYS: [&str; 7] = ["public_host", "listen", "name", "labels", "https_keypair", "durability", "control"];
const DURABILITIES: [(&str, Durability); 2] = [("os", Durability::Os), ("disk", Durability::Disk)];

/// What a proxy is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyConfig {
    /// Where everybody finds the cluster.
    pub public: PublicAddress,
    /// Where this process listens, on UDP and TCP.
    pub listen: SocketAddr,
    /// This proxy's name.
    pub name: ProxyName,
    /// This proxy's labels: it serves the resources whose `proxies` match them.
    pub labels: Labels,
    /// The certificate of the web pages; the cluster's own if there is none.
    pub https_keypair: Option<HttpsKeypair>,
    /// When an audit record counts as written.
    pub durability: Durability,
}

/// `HOST[:PORT]`: where everybody finds the cluster, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicAddress {
    /// The host: the cluster's name and WebAuthn's RP ID, for ever.
    pub host: Hostname,
    /// The port, on UDP and TCP.
    pub port: u16,
}

/// Files of a certificate for the web pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpsKeypair {
    /// The chain, as PEM.
    pub cert: PathBuf,
    /// The private key, as PEM.
    pub key: PathBuf,
}

/// Not an address under which a cluster can be found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPublicAddress {
    /// Something else than a name and perhaps a port.
    #[error("write it as HOST or HOST:PORT, without https:// and spaces")]
    Form,
    /// The port is none.
    #[error("a port is between 1 and 65535")]
    Port,
    /// Security keys are bound to a name; an address has none.
    #[error("security keys are bound to a host's name: give it one, an IP address does not do")]
    IpAddress,
    /// The host is no name.
    #[error(transparent)]
    Host(#[from] portlatch_protocol::names::NameError),
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there: this is no proxy's directory.
    #[error("{} is missing: run `portlatch-proxy init` first", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It has faults.
    #[error("{}", lines(.0))]
    Faults(Vec<Fault>),
}

fn lines(faults: &[Fault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Reads the configuration of the proxy in `dir`.
///
/// # Errors
/// What is in the way; every fault of the file at once.
pub fn load(dir: &Path) -> Result<ProxyConfig, ConfigError> {
    let path = dir.join(FILE_NAME);
    match read(&path) {
        Ok(text) => parse(&path.display().to_string(), &text, dir).map_err(ConfigError::Faults),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(ConfigError::Missing { path }),
        Err(source) => Err(ConfigError::Read { path, source }),
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text)
}

/// Reads a configuration; its paths are relative to `dir`.
///
/// # Errors
/// Every fault, in order.
pub fn parse(file_name: &str, text: &str, dir: &Path) -> Result<ProxyConfig, Vec<Fault>> {
    let mut faults = Faults::new(file_name, text);
    let parsed = faults.parse();
    let root = Table::root(&parsed, &KEYS, &mut faults);
    let public: Option<PublicAddress> = root.required("public_host", &mut faults);
    let listen = root.parsed("listen", &mut faults);
    let name = root.parsed("name", &mut faults);
    let labels = read_labels(&root, &mut faults);
    let https_keypair = read_keypair(&root, dir, &mut faults);
    let durability = root.choice("durability", &DURABILITIES, &mut faults);
    refuse_join(&root, &mut faults);
    faults.finish()?;
    let public = public.ok_or_else(Vec::new)?;
    let everywhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), public.port);
    Ok(ProxyConfig {
        public,
        listen: listen.unwrap_or(everywhere),
        name: name.unwrap_or_else(|| DEFAULT_NAME.parse().expect("the default is a name")),
        labels,
        https_keypair,
        durability: durability.unwrap_or(Durability::Os),
    })
}

fn read_labels(root: &Table<'_, '_>, faults: &mut Faults<'_>) -> Labels {
    let Some(table) = root.table("labels", faults) else { return Labels::new() };
    let mut labels = BTreeMap::new();
    for (key, value) in table {
        let is_short = |text: &str| text.chars().count() <= MAX_LABEL && !text.chars().any(char::is_control);
        match value.get_ref().as_str() {
            Some(text) if is_short(text) && is_short(key.get_ref()) => {
                labels.insert(key.get_ref().to_string(), text.to_owned());
            }
            Some(_) => faults
                .add(value.span(), format!("a label has at most {MAX_LABEL} characters that can be shown")),
            None => faults.add(value.span(), "a label's value is a text in quotes"),
        }
    }
    if labels.len() > MAX_LABELS {
        faults.add(root.span("labels"), format!("there are at most {MAX_LABELS} labels"));
    }
    labels
}

fn read_keypair(root: &Table<'_, '_>, dir: &Path, faults: &mut Faults<'_>) -> Option<HttpsKeypair> {
    let span = root.span("https_keypair");
    let table = root.table("https_keypair", faults)?;
    let table = Table::new(table, span, "https_keypair", &["cert", "key"], faults);
    let cert: Option<PathBuf> = table.required("cert", faults);
    let key: Option<PathBuf> = table.required("key", faults);
    Some(HttpsKeypair { cert: dir.join(cert?), key: dir.join(key?) })
}

fn refuse_join(root: &Table<'_, '_>, faults: &mut Faults<'_>) {
    let span = root.span("control");
    let Some(table) = root.table("control", faults) else { return };
    let table = Table::new(table, span, "control", &["join"], faults);
    let join: Option<String> = table.parsed("join", faults);
    if join.is_some() {
        faults.add(
            table.span("join"),
            "this version runs control in the proxy's own process: remove control.join",
        );
    }
}

impl FromStr for PublicAddress {
    type Err = BadPublicAddress;
    fn from_str(text: &str) -> Result<Self, BadPublicAddress> {
        if text.contains(|c: char| c == '/' || c.is_whitespace()) {
            return Err(BadPublicAddress::Form);
        }
        let is_v6 = text.starts_with('[') || text.parse::<IpAddr>().is_ok();
        if is_v6 {
            return Err(BadPublicAddress::IpAddress);
        }
        let (host, port) = match text.split_once(':') {
            None => (text, DEFAULT_PORT),
            Some((host, port)) => (host, parse_port(port).ok_or(BadPublicAddress::Port)?),
        };
        let host: Hostname = host.parse()?;
        match host.as_str().parse::<IpAddr>() {
            Ok(_) => Err(BadPublicAddress::IpAddress),
            Err(_) => Ok(Self { host, port }),
        }
    }
}

impl fmt::Display for PublicAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            DEFAULT_PORT => write!(f, "{}", self.host),
            port => write!(f, "{}:{port}", self.host),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<ProxyConfig, Vec<String>> {
        let faults = |faults: Vec<Fault>| faults.iter().map(ToString::to_string).collect();
        parse("proxy.toml", text, Path::new("/var/lib/x")).map_err(faults)
    }

    #[test]
    fn the_public_host_is_enough() {
        let config = parsed("public_host = \"proxy.example.com\"\n").unwrap();
        assert_eq!(config.public.port, 443);
        assert_eq!(config.listen.to_string(), "0.0.0.0:443");
        assert_eq!(config.name.as_str(), "main");
        assert_eq!((config.https_keypair, config.durability), (None, Durability::Os));
    }

    #[test]
    fn a_url_is_no_public_host() {
        for text in ["https://proxy.example.com", "http://x y", "proxy.example.com/"] {
            assert_eq!(text.parse::<PublicAddress>(), Err(BadPublicAddress::Form), "{text}");
        }
    }

    #[test]
    fn every_setting_is_read() {
        let config = parsed(
            "public_host = \"Proxy.example.com:8443\"\nlisten = \"[::]:0\"\nname = \"berlin-1\"\ndurability = \"disk\"\n\
             labels = {site = \"berlin\"}\n[https_keypair]\ncert = \"cert.pem\"\nkey = \"/etc/key.pem\"\n[control]\n",
        )
        .unwrap();
        assert_eq!(config.public.to_string(), "proxy.example.com:8443");
        assert_eq!(config.listen.to_string(), "[::]:0");
        assert_eq!(config.labels.get("site").map(String::as_str), Some("berlin"));
        let keypair = config.https_keypair.unwrap();
        assert_eq!(keypair.cert, Path::new("/var/lib/x/cert.pem"));
        assert_eq!(keypair.key, Path::new("/etc/key.pem"));
        assert_eq!(config.durability, Durability::Disk);
    }

    #[test]
    fn the_port_to_listen_on_follows_the_public_one() {
        assert_eq!(parsed("public_host = \"a.b:8443\"").unwrap().listen.port(), 8443);
    }

    #[test]
    fn every_fault_is_told_at_once_with_its_place() {
        let text = "public_hst = \"proxy.example.com\"\nlisten = 443\ndurability = \"disc\"\nname = \"a b\"\n\
                    labels = {site = 1}\n[https_keypair]\ncrt = \"x\"\nkey = \"y\"\n[control]\njoin = \"c.example:443\"\n";
        assert_eq!(
            parsed(text).unwrap_err(),
            [
                "proxy.toml:1:1: unknown key `public_hst`: did you mean `public_host`?",
                "proxy.toml:1:1: `public_host` is missing",
                "proxy.toml:2:10: `listen` is a text in quotes",
                "proxy.toml:3:14: `durability` is one of os, disk, not `disc`",
                "proxy.toml:4:8: `name` `a b`: ' ' is not allowed in a proxy's name",
                "proxy.toml:5:18: a label's value is a text in quotes",
                "proxy.toml:6:1: `https_keypair.cert` is missing",
                "proxy.toml:7:1: unknown key `crt` in https_keypair: did you mean `cert`?",
                "proxy.toml:10:8: this version runs control in the proxy's own process: remove control.join",
            ]
        );
    }

    #[test]
    fn text_that_is_no_toml_is_a_fault() {
        let found = parsed("public_host = \"a.b\"\nlisten = \n").unwrap_err();
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("proxy.toml:2:"), "{found:?}");
    }

    #[test]
    fn the_public_host_is_a_name() {
        for bad in
            ["10.0.0.1", "10.0.0.1:443", "[::1]:443", "::1", "a b", "host:0", "host:x", "host:443:1", ""]
        {
            assert!(bad.parse::<PublicAddress>().is_err(), "{bad:?} was accepted");
        }
        assert_eq!("localhost:8443".parse::<PublicAddress>().unwrap().port, 8443);
    }

    #[test]
    fn a_directory_without_a_configuration_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let error = load(dir.path()).unwrap_err();
        assert!(error.to_string().contains("portlatch-proxy init"), "{error}");
    }
}
