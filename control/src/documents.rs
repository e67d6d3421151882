//! The documents that administrators write: read from YAML with every fault at its line and column, kept as JSON in the
//! same shape, and checked as a set. What they mean together is the policy's to say.

use std::fmt;

use portlatch_protocol::names::{Hostname, ResourceKind};
use serde_json::Value as Json;

use self::cluster::{AuthPreference, VnetConfig};
use self::fault::{Fault, Place, Report, Warning};
use self::node::Node;
use self::people::{LockDocument, UserDocument};
use self::resource::ResourceDocument;
use self::role::RoleDocument;
use crate::admin::SourceFile;

pub mod cluster;
pub mod fault;
mod fields;
pub mod header;
pub mod labels;
mod node;
pub mod people;
pub mod resource;
pub mod role;
mod set;
pub(crate) mod values;
mod yaml;

pub use self::set::check_set;
pub use self::yaml::to_yaml;

/// What a document is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DocumentKind {
    /// How users prove who they are; one in a cluster.
    ClusterAuthPreference,
    /// Which names users' machines answer; one in a cluster.
    VnetConfig,
    /// What its users may reach.
    Role,
    /// What users reach.
    Resource(ResourceKind),
    /// A user.
    User,
    /// An immediate no.
    Lock,
}

impl DocumentKind {
    /// Every kind.
    pub const ALL: [Self; 10] = [
        Self::ClusterAuthPreference,
        Self::VnetConfig,
        Self::Role,
        Self::Resource(ResourceKind::App),
        Self::Resource(ResourceKind::Db),
        Self::Resource(ResourceKind::Node),
        Self::Resource(ResourceKind::KubeCluster),
        Self::Resource(ResourceKind::Desktop),
        Self::User,
        Self::Lock,
    ];

    /// The word that documents and commands use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ClusterAuthPreference => "cluster_auth_preference",
            Self::VnetConfig => "vnet_config",
            Self::Role => "role",
            Self::Resource(kind) => kind.as_str(),
            Self::User => "user",
            Self::Lock => "lock",
        }
    }
}

impl fmt::Display for DocumentKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Not a kind of document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown kind {given}: {hint}")]
pub struct UnknownKind {
    given: String,
    hint: String,
}

impl std::str::FromStr for DocumentKind {
    type Err = UnknownKind;
    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        let found = Self::ALL.into_iter().find(|kind| kind.as_str() == text);
        found.ok_or_else(|| UnknownKind {
            given: fault::quoted(text),
            hint: crate::nearest::suggestion(text, &Self::ALL.map(Self::as_str)),
        })
    }
}

/// A document that was read and is well formed by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// `kind: cluster_auth_preference`.
    AuthPreference(AuthPreference),
    /// `kind: vnet_config`.
    Vnet(VnetConfig),
    /// `kind: role`.
    Role(RoleDocument),
    /// `kind: app | db | node | kube_cluster | desktop`.
    Resource(ResourceDocument),
    /// `kind: user`.
    User(UserDocument),
    /// `kind: lock`.
    Lock(LockDocument),
}

/// What documents may refer to.
#[derive(Debug, Clone)]
pub struct ParseContext {
    /// The host under which everybody reaches the cluster.
    pub public_host: Hostname,
}

/// Documents, and what there is to say about them.
#[derive(Debug, Clone, Default)]
pub struct Parsed {
    /// In the order in which they were written.
    pub documents: Vec<Document>,
    /// What is kept without effect.
    pub warnings: Vec<Warning>,
}

/// Reads the documents of one file.
///
/// # Errors
/// Every fault of the file, in order.
pub fn parse(file_name: &str, text: &str, context: &ParseContext) -> Result<Parsed, Vec<Fault>> {
    let mut report = Report::new(file_name, Some(context.public_host.clone()));
    let nodes = Node::read_yaml(text, &mut report);
    let documents = nodes.iter().filter_map(|node| read(node, &mut report)).collect();
    report.finish().map(|warnings| Parsed { documents, warnings })
}

/// Reads the documents of several files.
///
/// # Errors
/// Every fault of every file.
pub fn parse_all(files: &[SourceFile], context: &ParseContext) -> Result<Parsed, Vec<Fault>> {
    let (mut all, mut faults) = (Parsed::default(), Vec::new());
    for file in files {
        match parse(&file.name, &file.text, context) {
            Ok(parsed) => {
                all.documents.extend(parsed.documents);
                all.warnings.extend(parsed.warnings);
            }
            Err(found) => faults.extend(found),
        }
    }
    if faults.is_empty() { Ok(all) } else { Err(faults) }
}

fn read(node: &Node, report: &mut Report) -> Option<Document> {
    let opened = header::open(node, report)?;
    match opened.kind {
        DocumentKind::ClusterAuthPreference => {
            cluster::read_preference(opened, report).map(Document::AuthPreference)
        }
        DocumentKind::VnetConfig => cluster::read_vnet(opened, report).map(Document::Vnet),
        DocumentKind::Role => role::read(opened, report).map(Document::Role),
        DocumentKind::Resource(kind) => resource::read(kind, opened, report).map(Document::Resource),
        DocumentKind::User => people::read_user(opened, report).map(Document::User),
        DocumentKind::Lock => people::read_lock(opened, report).map(Document::Lock),
    }
}

impl Document {
    /// What it is of.
    pub const fn kind(&self) -> DocumentKind {
        match self {
            Self::AuthPreference(_) => DocumentKind::ClusterAuthPreference,
            Self::Vnet(_) => DocumentKind::VnetConfig,
            Self::Role(_) => DocumentKind::Role,
            Self::Resource(resource) => DocumentKind::Resource(resource.id.kind),
            Self::User(_) => DocumentKind::User,
            Self::Lock(_) => DocumentKind::Lock,
        }
    }

    /// Its name, unique among its kind.
    pub fn name(&self) -> &str {
        match self {
            Self::AuthPreference(_) => cluster::AUTH_PREFERENCE_NAME,
            Self::Vnet(_) => cluster::VNET_CONFIG_NAME,
            Self::Role(role) => role.name.as_str(),
            Self::Resource(resource) => resource.id.name.as_str(),
            Self::User(user) => user.name.as_str(),
            Self::Lock(lock) => lock.id.as_str(),
        }
    }

    /// Where it was written, if it was read from a file.
    pub fn place(&self) -> Option<&Place> {
        let header = match self {
            Self::AuthPreference(preference) => &preference.header,
            Self::Vnet(vnet) => &vnet.header,
            Self::Role(role) => &role.header,
            Self::Resource(resource) => &resource.header,
            Self::User(user) => &user.header,
            Self::Lock(lock) => &lock.header,
        };
        header.origin.0.as_ref()
    }

    /// The document as JSON, in the shape in which it is written; what is the default is left out.
    pub fn to_json(&self) -> Json {
        match self {
            Self::AuthPreference(preference) => preference.to_json(),
            Self::Vnet(vnet) => vnet.to_json(),
            Self::Role(role) => role.to_json(),
            Self::Resource(resource) => resource.to_json(),
            Self::User(user) => user.to_json(),
            Self::Lock(lock) => lock.to_json(),
        }
    }

    /// Reads what [`Document::to_json`] made.
    ///
    /// # Errors
    /// Every fault, without places.
    pub fn from_json(json: &Json) -> Result<Self, Vec<Fault>> {
        let mut report = Report::new("", None);
        let document = read(&Node::from_json(json), &mut report);
        report.finish()?;
        document.ok_or_else(|| vec![Fault { place: None, message: "not a document".to_owned() }])
    }
}

impl fmt::Display for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind(), self.name())
    }
}

#[cfg(test)]
mod tests;
