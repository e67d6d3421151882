//! Which clusters this machine serves, and which names each may answer: root's to say (`portlatchd trust`), kept in the
//! state directory and read at every attach.
//!
//! ```toml
//! [[cluster]]
//! host = "proxy.example.com"
//! port = 443
//! ca_pin = "sha256:..."
//! zones = ["corp.internal"]
//! ```

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::str::FromStr;

use portlatch_protocol::names::{Hostname, NameError};
use portlatch_protocol::tls::CaPin;
use toml::de::DeTable;

use crate::config::{Document, Entry, Faults, because};
use crate::os::{StateDir, StateError};

/// The file's name in the state directory.
pub const FILE: &str = "trust.toml";
const MODE: u32 = 0o644;
const DEFAULT_PORT: u16 = 443;
const KEYS: [&str; 4] = ["host", "port", "ca_pin", "zones"];
/// Second-level labels under which registries of two-letter top-level domains let others register: such a name belongs
/// to nobody in particular.
const REGISTRY_LABELS: [&str; 12] =
    ["co", "com", "net", "org", "gov", "edu", "ac", "or", "ne", "go", "ltd", "gob"];

/// A cluster that root listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedCluster {
    /// Its public host.
    pub host: Hostname,
    /// Its port.
    pub port: u16,
    /// The pin of its CA.
    pub pin: CaPin,
    /// The zones whose names it may answer; none belongs to another cluster, wholly or in part.
    pub zones: Vec<Hostname>,
}

/// Every cluster that root listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    clusters: Vec<TrustedCluster>,
}

/// Why a cluster was not added.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// Only root may say it.
    #[error("only root may say which clusters this machine serves: run it with sudo")]
    NotRoot,
    /// The cluster's address.
    #[error("{given:?} is not a cluster's address: write it as https://HOST or https://HOST:PORT")]
    BadUrl {
        /// As given.
        given: String,
    },
    /// Its host.
    #[error("{given:?} has no valid host name")]
    BadHost {
        /// As given.
        given: String,
        /// What is wrong with it.
        #[source]
        source: NameError,
    },
    /// A cluster without zones would serve nothing.
    #[error("name at least one --zone: without one no name of this cluster can be reached")]
    NoZone,
    /// A zone has one owner.
    #[error("the zone {zone} overlaps {theirs}, which belongs to {owner}: a zone belongs to one cluster")]
    ZoneTaken {
        /// The zone that was asked for.
        zone: Hostname,
        /// The other's zone.
        theirs: Hostname,
        /// The other.
        owner: Hostname,
    },
    /// The present file is faulty.
    #[error(transparent)]
    Faults(#[from] Faults),
    /// It cannot be written.
    #[error(transparent)]
    State(#[from] StateError),
}

/// Reads the trust file.
#[derive(Debug)]
pub struct TrustFile;

impl TrustFile {
    /// What root said; nothing where there is no file yet.
    ///
    /// # Errors
    /// Every fault in the file. A file that others than its owner may write, or that belongs to neither root nor us, is
    /// one.
    pub fn read(state: &StateDir) -> Result<Trust, Faults> {
        let path = state.file(FILE);
        let unreadable = |error: io::Error| format!("the file cannot be read: {error}");
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Trust::default()),
            Err(error) => return Err(Faults::whole(path, unreadable(error))),
        };
        match owned_text(file) {
            Ok(Some(text)) => Trust::parse(&path, &text),
            Ok(None) => {
                let advice =
                    "the file must belong to root and be writable by root alone: chown root, chmod 644";
                Err(Faults::whole(path, advice.to_owned()))
            }
            Err(error) => Err(Faults::whole(path, unreadable(error))),
        }
    }
}

/// The text of a file that nobody but root or us may write; `None` of another. What is looked at is the open file: by its
/// path it could be another one by then.
fn owned_text(mut file: File) -> io::Result<Option<String>> {
    let ours = [0, rustix::process::geteuid().as_raw()];
    let metadata = file.metadata()?;
    if !ours.contains(&metadata.uid()) || metadata.mode() & 0o022 != 0 {
        return Ok(None);
    }
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(Some(text))
}

impl Trust {
    /// Every cluster.
    pub fn clusters(&self) -> &[TrustedCluster] {
        &self.clusters
    }

    /// The cluster of this public host, if root listed it.
    pub fn cluster(&self, host: &Hostname) -> Option<&TrustedCluster> {
        self.clusters.iter().find(|cluster| cluster.host == *host)
    }

    /// Adds a cluster, in the place of what was said about it before.
    ///
    /// # Errors
    /// [`TrustError::NoZone`], [`TrustError::ZoneTaken`].
    pub fn add(&mut self, cluster: TrustedCluster) -> Result<(), TrustError> {
        if cluster.zones.is_empty() {
            return Err(TrustError::NoZone);
        }
        let others = self.clusters.iter().filter(|other| other.host != cluster.host);
        for (owner, theirs) in
            others.flat_map(|other| other.zones.iter().map(move |zone| (&other.host, zone)))
        {
            if let Some(zone) = cluster.zones.iter().find(|zone| overlap(zone, theirs)) {
                let (zone, theirs, owner) = (zone.clone(), theirs.clone(), owner.clone());
                return Err(TrustError::ZoneTaken { zone, theirs, owner });
            }
        }
        match self.clusters.iter_mut().find(|known| known.host == cluster.host) {
            Some(known) => *known = cluster,
            None => self.clusters.push(cluster),
        }
        Ok(())
    }

    /// Reads this text; `path` is named in faults.
    ///
    /// # Errors
    /// Every fault in it.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Faults> {
        let mut document = Document::parse(path, text);
        let root = document.root();
        document.only(&root, &["cluster"]);
        let mut trust = Self::default();
        match root.get("cluster") {
            None => {}
            Some(value) => match value.get_ref().as_array() {
                None => document.wrong_kind(value, "tables: [[cluster]]"),
                Some(entries) => {
                    for entry in entries.iter() {
                        trust.read_cluster(&mut document, entry);
                    }
                }
            },
        }
        document.finish()?;
        Ok(trust)
    }

    fn read_cluster(&mut self, document: &mut Document<'_>, entry: &Entry<'_>) {
        let Some(table) = entry.get_ref().as_table() else {
            document.wrong_kind(entry, "a table: [[cluster]]");
            return;
        };
        document.only(table, &KEYS);
        for key in ["host", "ca_pin", "zones"].iter().filter(|key| !table.contains_key(**key)) {
            document.fault(entry.span(), format!("this cluster has no `{key}`"));
        }
        let name = |text: &str| Hostname::from_str(text).map_err(because);
        let host = document.parsed(table, "host", "the cluster's public host name", name);
        let pin_form = "the pin that `portlatch-proxy init` printed";
        let pin = document.parsed(table, "ca_pin", pin_form, |text| CaPin::from_str(text).map_err(because));
        let zones = document.list(table, "zones", "a list of zones such as [\"corp.internal\"]", name);
        let port = read_port(document, table);
        let (Some(host), Some(pin), Some(zones), Some(port)) = (host, pin, zones, port) else { return };
        if self.cluster(&host).is_some() {
            document.fault(entry.span(), format!("{host} is listed twice"));
            return;
        }
        if let Err(error) = self.add(TrustedCluster { host, port, pin, zones }) {
            document.fault(entry.span(), error.to_string());
        }
    }

    fn render(&self) -> String {
        let mut text = String::from(
            "# Which clusters this machine serves, and which names each may answer. See `portlatchd trust`.\n",
        );
        for TrustedCluster { host, port, pin, zones } in &self.clusters {
            let zones: Vec<String> = zones.iter().map(|zone| format!("\"{zone}\"")).collect();
            text.push_str(&format!(
                "\n[[cluster]]\nhost = \"{host}\"\nport = {port}\nca_pin = \"{pin}\"\nzones = [{}]\n",
                zones.join(", ")
            ));
        }
        text
    }
}

/// Whether this process may say which clusters the machine serves.
///
/// # Errors
/// [`TrustError::NotRoot`].
pub fn may_be_said() -> Result<(), TrustError> {
    match rustix::process::geteuid().is_root() {
        true => Ok(()),
        false => Err(TrustError::NotRoot),
    }
}

/// `portlatchd trust URL --ca-pin PIN --zone ZONE...`: lists the cluster, in the place of what was said about it before.
/// Gives a warning line for each zone that captures more names than one organisation's; listing it is the permission.
///
/// # Errors
/// A [`TrustError`]; the file is as it was.
pub fn trust(
    state: &StateDir,
    url: &str,
    pin: CaPin,
    mut zones: Vec<Hostname>,
) -> Result<Vec<String>, TrustError> {
    may_be_said()?;
    let (host, port) = parse_url(url)?;
    zones.sort();
    zones.dedup();
    let warnings = zones.iter().filter_map(wide).collect();
    let mut trust = TrustFile::read(state)?;
    trust.add(TrustedCluster { host, port, pin, zones })?;
    state.write(FILE, trust.render().as_bytes(), MODE)?;
    Ok(warnings)
}

fn read_port(document: &mut Document<'_>, table: &DeTable<'_>) -> Option<u16> {
    let Some(value) = table.get("port") else { return Some(DEFAULT_PORT) };
    let port = value
        .get_ref()
        .as_integer()
        .and_then(|number| u16::from_str_radix(number.as_str(), number.radix()).ok());
    if port.is_none_or(|port| port == 0) {
        document.fault(value.span(), "this is no port: it takes a number from 1 to 65535".to_owned());
    }
    port.filter(|port| *port != 0)
}

/// `https://HOST[:PORT][/]`, or that without the scheme.
fn parse_url(url: &str) -> Result<(Hostname, u16), TrustError> {
    let bad = || TrustError::BadUrl { given: url.to_owned() };
    let rest = url.strip_prefix("https://").unwrap_or(url);
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains(['/', '@', '?', '#']) {
        return Err(bad());
    }
    let (host, port) = match rest.split_once(':') {
        Some((host, port)) => (host, port.parse().ok().filter(|port| *port != 0).ok_or_else(bad)?),
        None => (rest, DEFAULT_PORT),
    };
    let host = host.parse().map_err(|source| TrustError::BadHost { given: url.to_owned(), source })?;
    Ok((host, port))
}

fn overlap(a: &Hostname, b: &Hostname) -> bool {
    a.is_within(b) || b.is_within(a)
}

/// A warning, if a zone captures names of more than one organisation.
fn wide(zone: &Hostname) -> Option<String> {
    let labels: Vec<&str> = zone.as_str().split('.').collect();
    match labels[..] {
        [_] => Some(format!(
            "{zone} is a top-level zone: every name below it will be asked of this cluster first"
        )),
        [second, top] if top.len() == 2 && REGISTRY_LABELS.contains(&second) => {
            Some(format!("{zone} is a public suffix: names of other organisations lie below it"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
