//! What a resource is called: one of five kinds, and a name among them.

use std::fmt;
use std::str::FromStr;

use super::{MAX_NAME, NameError, ResourceName};

/// What a resource is: decides the default of the hold, the refusals, and which proofs of presence count.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
    minicbor::Encode,
    minicbor::Decode,
)]
#[serde(rename_all = "snake_case")]
#[cbor(index_only)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ResourceKind {
    /// A TCP application.
    #[n(0)]
    App,
    /// A database.
    #[n(1)]
    Db,
    /// An SSH server.
    #[n(2)]
    Node,
    /// A Kubernetes API.
    #[n(3)]
    KubeCluster,
    /// An RDP desktop.
    #[n(4)]
    Desktop,
}

impl ResourceKind {
    /// Every kind, in the order in which tables show them.
    pub const ALL: [Self; 5] = [Self::App, Self::Db, Self::Node, Self::KubeCluster, Self::Desktop];

    /// The word that documents and commands use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Db => "db",
            Self::Node => "node",
            Self::KubeCluster => "kube_cluster",
            Self::Desktop => "desktop",
        }
    }
}

impl fmt::Display for ResourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ResourceKind {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let unknown = || NameError::UnknownKind { given: text.chars().take(MAX_NAME).collect() };
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(unknown)
    }
}

/// One resource of a cluster: kind and name, written `db/billing-db`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ResourceId {
    /// Its kind.
    pub kind: ResourceKind,
    /// Its name among that kind.
    pub name: ResourceName,
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)
    }
}

impl fmt::Debug for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ResourceId {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let (kind, name) = text.split_once('/').ok_or(NameError::NotAResource)?;
        Ok(Self { kind: kind.parse()?, name: name.parse()? })
    }
}

impl TryFrom<String> for ResourceId {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<ResourceId> for String {
    fn from(id: ResourceId) -> String {
        id.to_string()
    }
}

#[cfg(feature = "openapi")]
impl utoipa::PartialSchema for ResourceId {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        String::schema()
    }
}
#[cfg(feature = "openapi")]
impl utoipa::ToSchema for ResourceId {}

impl<C> minicbor::Encode<C> for ResourceId {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.str(&self.to_string())?.ok()
    }
}

impl<'b, C> minicbor::Decode<'b, C> for ResourceId {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        let at = d.position();
        d.str()?.parse().map_err(|e| minicbor::decode::Error::custom(e).at(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_written_as_kind_and_name() {
        let id: ResourceId = "kube_cluster/main".parse().unwrap();
        assert_eq!((id.kind, id.name.as_str()), (ResourceKind::KubeCluster, "main"));
        assert_eq!(id.to_string(), "kube_cluster/main");
        assert!("printer/main".parse::<ResourceId>().is_err());
        assert!("db/../../etc".parse::<ResourceId>().is_err());
    }
}
