//! `/etc/portlatch/daemon.toml`: what the administrator of this machine set. Read once, at start; a file with a fault
//! is not used at all, and every fault in it is told.
//!
//! ```toml
//! dns = "auto"                      # auto | resolved | resolv.conf | off
//! range = "198.18.0.0/16"           # default: the first free of 198.18.0.0/16 and 198.19.0.0/16
//! range6 = "auto"                   # auto | off | a /64
//! socket = "/run/portlatch/daemon.sock"
//! state_dir = "/var/lib/portlatch"
//! interface = "portlatch0"
//! search = ["corp.internal"]        # zones tried behind short names; default: none
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use portlatch_protocol::names::Hostname;

use crate::os::ranges::{Range4, Range6};
use crate::tun::is_interface_name;

mod document;
mod fault;

pub(crate) use document::{Document, Entry};
pub use fault::{Fault, Faults};

/// Where the file is unless told otherwise.
pub const DEFAULT_FILE: &str = "/etc/portlatch/daemon.toml";
/// Names another file.
pub const FILE_VARIABLE: &str = "PORTLATCH_DAEMON_CONFIG";
/// Names another socket, before the file's.
pub const SOCKET_VARIABLE: &str = "PORTLATCH_SOCKET";
const DEFAULT_SOCKET: &str = "/run/portlatch/daemon.sock";
const DEFAULT_STATE_DIR: &str = "/var/lib/portlatch";
const DEFAULT_INTERFACE: &str = "portlatch0";
const KEYS: [&str; 7] = ["dns", "range", "range6", "socket", "state_dir", "interface", "search"];

/// How the system's resolver learns of our zones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DnsMode {
    /// By systemd-resolved where it runs.
    Auto,
    /// By systemd-resolved.
    Resolved,
    /// By `/etc/resolv.conf`: we become the resolver of the whole machine.
    ResolvConf,
    /// Not at all.
    Off,
}

impl FromStr for DnsMode {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "auto" => Ok(Self::Auto),
            "resolved" => Ok(Self::Resolved),
            "resolv.conf" => Ok(Self::ResolvConf),
            "off" => Ok(Self::Off),
            _ => Err(()),
        }
    }
}

/// Whether names get IPv6 addresses too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ipv6Choice {
    /// From a range made once for this machine, where IPv6 works.
    Auto,
    /// From this range.
    Pinned(Range6),
    /// Never.
    Off,
}

/// What the file and the environment say, complete with defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How the system's resolver learns of our zones.
    pub dns: DnsMode,
    /// The IPv4 range, if it is pinned.
    pub range: Option<Range4>,
    /// Whether there is IPv6.
    pub range6: Ipv6Choice,
    /// Where agents find us.
    pub socket: PathBuf,
    /// Where we keep what outlives us.
    pub state_dir: PathBuf,
    /// The TUN's name.
    pub interface: String,
    /// Zones that are tried behind short names.
    pub search: Vec<Hostname>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            dns: DnsMode::Auto,
            range: None,
            range6: Ipv6Choice::Auto,
            socket: PathBuf::from(DEFAULT_SOCKET),
            state_dir: PathBuf::from(DEFAULT_STATE_DIR),
            interface: DEFAULT_INTERFACE.to_owned(),
            search: Vec::new(),
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file that was named is not there or cannot be read.
    #[error("{path} cannot be read")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It has faults.
    #[error(transparent)]
    Faults(#[from] Faults),
    /// The environment names no absolute path.
    #[error("{SOCKET_VARIABLE} must be an absolute path, not {given:?}")]
    BadSocket {
        /// As given.
        given: PathBuf,
    },
}

impl Config {
    /// Reads the file that `--config` names, else the one that the environment names, else the usual one. Only the
    /// usual one may be missing.
    ///
    /// # Errors
    /// A [`ConfigError`].
    pub fn load(named: Option<&Path>) -> Result<Self, ConfigError> {
        let named = named.map(Path::to_owned).or_else(|| std::env::var_os(FILE_VARIABLE).map(PathBuf::from));
        let path = named.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
        let mut config = match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(&path, &text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound && named.is_none() => Self::default(),
            Err(source) => return Err(ConfigError::Unreadable { path, source }),
        };
        if let Some(socket) = std::env::var_os(SOCKET_VARIABLE).map(PathBuf::from) {
            if !socket.is_absolute() {
                return Err(ConfigError::BadSocket { given: socket });
            }
            config.socket = socket;
        }
        Ok(config)
    }

    /// Reads this text; `path` is named in faults.
    ///
    /// # Errors
    /// Every fault in it.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Faults> {
        let mut document = Document::parse(path, text);
        let table = document.root();
        let mut config = Self::default();
        document.only(&table, &KEYS);
        let dns_forms = "one of \"auto\", \"resolved\", \"resolv.conf\", \"off\"";
        set(
            &mut config.dns,
            document.parsed(&table, "dns", dns_forms, |text| text.parse().map_err(|()| None)),
        );
        let range_form = "a range such as \"198.18.0.0/16\"";
        let range =
            document.parsed(&table, "range", range_form, |text| Range4::from_str(text).map_err(because));
        config.range = range;
        let range6_form = "\"auto\", \"off\" or a range such as \"fd12:3456:789a:1::/64\"";
        set(&mut config.range6, document.parsed(&table, "range6", range6_form, range6));
        set(&mut config.socket, document.parsed(&table, "socket", "an absolute path", absolute));
        set(&mut config.state_dir, document.parsed(&table, "state_dir", "an absolute path", absolute));
        let interface_form = "an interface's name: 1 to 15 letters, digits, dots, hyphens or underscores";
        let interface = document.parsed(&table, "interface", interface_form, |text| {
            is_interface_name(text).then(|| text.to_owned()).ok_or(None)
        });
        set(&mut config.interface, interface);
        let search_form = "a list of zones such as [\"corp.internal\"]";
        let search =
            document.list(&table, "search", search_form, |text| Hostname::from_str(text).map_err(because));
        set(&mut config.search, search);
        document.finish()?;
        Ok(config)
    }
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

pub(crate) fn because(error: impl std::fmt::Display) -> Option<String> {
    Some(error.to_string())
}

fn range6(text: &str) -> Result<Ipv6Choice, Option<String>> {
    match text {
        "auto" => Ok(Ipv6Choice::Auto),
        "off" => Ok(Ipv6Choice::Off),
        range => range.parse().map(Ipv6Choice::Pinned).map_err(because),
    }
}

fn absolute(text: &str) -> Result<PathBuf, Option<String>> {
    let path = PathBuf::from(text);
    path.is_absolute().then_some(path).ok_or(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        let faults = Config::parse(Path::new("daemon.toml"), text).unwrap_err();
        faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        assert_eq!(Config::parse(Path::new("daemon.toml"), "").unwrap(), Config::default());
    }

    #[test]
    fn every_key_is_read() {
        let text = "dns = \"resolv.conf\"\nrange = \"10.77.0.0/16\"\nrange6 = \"fd00:1:2:3::/64\"\n\
                    socket = \"/tmp/s\"\nstate_dir = \"/tmp/d\"\ninterface = \"pl1\"\nsearch = [\"Corp.Internal\"]\n";
        let config = Config::parse(Path::new("daemon.toml"), text).unwrap();
        assert_eq!(config.dns, DnsMode::ResolvConf);
        assert_eq!(config.range, Some("10.77.0.0/16".parse().unwrap()));
        assert_eq!(config.range6, Ipv6Choice::Pinned("fd00:1:2:3::/64".parse().unwrap()));
        assert_eq!((config.socket, config.state_dir), ("/tmp/s".into(), "/tmp/d".into()));
        assert_eq!((config.interface.as_str(), config.search[0].as_str()), ("pl1", "corp.internal"));
    }

    #[test]
    fn every_fault_is_told_with_its_place_and_what_would_be_right() {
        let text = "dns = \"systemd\"\nrnage = \"198.18.0.0/16\"\nrange = \"198.18.0.1/16\"\n\n  socket = 7\n\
                    search = [\"ok.internal\", \"-bad\"]\ninterface = \"a/b\"\n";
        assert_eq!(
            faults(text),
            [
                "daemon.toml:1:7: \"systemd\" is not right here: it takes one of \"auto\", \"resolved\", \"resolv.conf\", \"off\"",
                "daemon.toml:2:1: unknown key `rnage`: did you mean `range`?",
                "daemon.toml:3:9: \"198.18.0.1/16\" is not right here: the range that holds this address is 198.18.0.0/16; \
                 it takes a range such as \"198.18.0.0/16\"",
                "daemon.toml:5:12: this is an integer: it takes an absolute path",
                "daemon.toml:6:26: \"-bad\" is not right here: \"-bad\" is not a valid part of a host name; it takes a list of \
                 zones such as [\"corp.internal\"]",
                "daemon.toml:7:13: \"a/b\" is not right here: it takes an interface's name: 1 to 15 letters, digits, dots, \
                 hyphens or underscores",
            ]
        );
    }

    #[test]
    fn faults_of_form_do_not_hide_the_others() {
        let faults = faults("dns = \nrange = 5\nsocket = \"/a\"\nsocket = \"/b\"\n");
        assert!(faults.len() >= 3, "{faults:#?}");
        assert!(faults[0].starts_with("daemon.toml:1:"), "{faults:#?}");
        assert!(faults.iter().any(|fault| fault.starts_with("daemon.toml:2:9:")), "{faults:#?}");
    }

    #[test]
    fn a_file_that_was_named_must_be_there() {
        let error = Config::load(Some(Path::new("/nonexistent/daemon.toml"))).unwrap_err();
        assert_eq!(error.to_string(), "/nonexistent/daemon.toml cannot be read");
    }
}
