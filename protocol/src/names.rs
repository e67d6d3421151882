//! Names, parsed once: what is inside one of these types is well formed, lower-case where case has no meaning, and
//! short enough to be stored, logged and shown.

use std::fmt;
use std::str::FromStr;

/// Longest DNS name in text form (RFC 1035 section 2.3.4: 255 octets on the wire, 253 in text).
const MAX_HOSTNAME: usize = 253;
/// Longest DNS label (RFC 1035 section 2.3.4).
const MAX_LABEL: usize = 63;
/// Longest name of a user, resource, proxy, role or device: fits a line of a table and a column of an index.
const MAX_NAME: usize = 64;

/// Why a name was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was there.
    #[error("a name must not be empty")]
    Empty,
    /// Longer than the limit.
    #[error("a name has at most {limit} characters")]
    TooLong {
        /// The limit, in characters.
        limit: usize,
    },
    /// A character that this kind of name may not have.
    #[error("{character:?} is not allowed in {kind}")]
    BadCharacter {
        /// The first such character.
        character: char,
        /// What kind of name it was.
        kind: &'static str,
    },
    /// A DNS label that is empty, too long, or begins or ends with a hyphen.
    #[error("{label:?} is not a valid part of a host name")]
    BadLabel {
        /// The label as given.
        label: String,
    },
    /// Not a kind of resource.
    #[error("unknown kind {given:?}: one of app, db, node, kube_cluster, desktop")]
    UnknownKind {
        /// The word as given.
        given: String,
    },
    /// Not of the form `KIND/NAME`.
    #[error("a resource is written KIND/NAME")]
    NotAResource,
}

/// Gives a newtype over a checked `String` everything that a name needs: parsing as the only way in, text, JSON and
/// CBOR forms. Both decoders go through `FromStr`, so a bad name cannot arrive by the wire.
macro_rules! name_type {
    ($name:ident) => {
        impl $name {
            /// The name as text, in its one canonical form.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Debug::fmt(&self.0, f)
            }
        }
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
        #[cfg(feature = "openapi")]
        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                String::schema()
            }
        }
        #[cfg(feature = "openapi")]
        impl utoipa::ToSchema for $name {}
        impl<C> minicbor::Encode<C> for $name {
            fn encode<W: minicbor::encode::Write>(
                &self,
                e: &mut minicbor::Encoder<W>,
                _: &mut C,
            ) -> Result<(), minicbor::encode::Error<W::Error>> {
                e.str(&self.0)?.ok()
            }
        }
        impl<'b, C> minicbor::Decode<'b, C> for $name {
            fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
                let at = d.position();
                d.str()?.parse().map_err(|e| minicbor::decode::Error::custom(e).at(at))
            }
        }
    };
}
pub(crate) use name_type;

/// A DNS host name: lower-case, without a trailing dot, letters, digits, hyphens and underscores in its labels.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hostname(String);
name_type!(Hostname);

impl FromStr for Hostname {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > MAX_HOSTNAME {
            return Err(NameError::TooLong { limit: MAX_HOSTNAME });
        }
        for label in text.split('.') {
            check_label(label)?;
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

fn check_label(label: &str) -> Result<(), NameError> {
    if let Some(character) = label.chars().find(|c| !(c.is_ascii_alphanumeric() || *c == '-' || *c == '_')) {
        return Err(NameError::BadCharacter { character, kind: "a host name" });
    }
    let is_well_formed =
        !label.is_empty() && label.len() <= MAX_LABEL && !label.starts_with('-') && !label.ends_with('-');
    is_well_formed.then_some(()).ok_or_else(|| NameError::BadLabel { label: label.to_owned() })
}

impl Hostname {
    /// Whether this name is `zone` itself or lies below it.
    pub fn is_within(&self, zone: &Hostname) -> bool {
        self.0.strip_suffix(&zone.0).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }

    /// How many labels the name has; 1 is a top-level zone.
    pub fn labels(&self) -> usize {
        self.0.split('.').count()
    }
}

/// The host names of one resource: one name, or every name below one (`*.db.corp.internal`).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPattern(String);
name_type!(HostPattern);

impl FromStr for HostPattern {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.strip_prefix("*.") {
            Some(parent) => Ok(Self(format!("*.{}", parent.parse::<Hostname>()?))),
            None => Ok(Self(text.parse::<Hostname>()?.0)),
        }
    }
}

impl HostPattern {
    /// Whether `host` is one of these names. A wildcard takes every name below its parent, at any depth, and not the
    /// parent itself.
    pub fn matches(&self, host: &Hostname) -> bool {
        match self.parent() {
            Some(parent) => host.0.len() > parent.0.len() && host.is_within(&parent),
            None => self.0 == host.0,
        }
    }

    /// Whether `host` is how a flow to one of these names is announced: the name itself or, since all names below a
    /// wildcard have one address, the wildcard's parent.
    pub fn is_announced_as(&self, host: &Hostname) -> bool {
        self.anchor() == *host || self.matches(host)
    }

    /// The name below which everything matches, if this is a wildcard.
    pub fn parent(&self) -> Option<Hostname> {
        self.0.strip_prefix("*.").map(|parent| Hostname(parent.to_owned()))
    }

    /// The name that every match lies within: the host itself, or the wildcard's parent.
    pub fn anchor(&self) -> Hostname {
        self.parent().unwrap_or_else(|| Hostname(self.0.clone()))
    }
}

impl From<Hostname> for HostPattern {
    fn from(host: Hostname) -> Self {
        Self(host.0)
    }
}

/// Defines a plain name: ASCII letters, digits and `._-` (and `@` and `+` for users), at most 64 characters.
macro_rules! plain_name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $extra:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        #[serde(try_from = "String", into = "String")]
                pub struct $name(String);
        name_type!($name);
        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                check_plain(text, $kind, $extra)?;
                Ok(Self(text.to_owned()))
            }
        }
    };
}

plain_name!(
    /// The name of a resource, unique among its kind.
    ResourceName,
    "a resource's name",
    ""
);
plain_name!(
    /// The name of a user.
    UserName,
    "a user's name",
    "@+"
);
plain_name!(
    /// The name of a role.
    RoleName,
    "a role's name",
    ""
);
plain_name!(
    /// The name of a group of resources that one proof of presence opens.
    GroupName,
    "a group's name",
    ""
);
plain_name!(
    /// The name of a proxy.
    ProxyName,
    "a proxy's name",
    ""
);
plain_name!(
    /// The name of a device: what the machine calls itself, for people to tell their logins apart.
    DeviceName,
    "a device's name",
    ""
);
plain_name!(
    /// An identifier that control made: of a login, grant, session, challenge, lock.
    Id,
    "an identifier",
    ""
);

impl Id {
    /// The identifier of these random bytes: 32 hexadecimal digits.
    pub fn from_random(bytes: [u8; 16]) -> Self {
        Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

fn check_plain(text: &str, kind: &'static str, extra: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > MAX_NAME {
        return Err(NameError::TooLong { limit: MAX_NAME });
    }
    let is_allowed = |c: &char| c.is_ascii_alphanumeric() || "._-".contains(*c) || extra.contains(*c);
    match text.chars().find(|c| !is_allowed(c)) {
        Some(character) => Err(NameError::BadCharacter { character, kind }),
        // A name becomes part of a URI and of messages to people: a leading dot or hyphen reads as something else.
        None if text.starts_with(['.', '-']) => {
            Err(NameError::BadCharacter { character: text.chars().next().unwrap_or('.'), kind })
        }
        None => Ok(()),
    }
}

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

    fn host(text: &str) -> Hostname {
        text.parse().unwrap()
    }

    #[test]
    fn host_names_are_compared_without_case_and_trailing_dot() {
        assert_eq!(host("Billing-DB.Corp.Internal."), host("billing-db.corp.internal"));
    }

    #[test]
    fn a_name_is_within_its_zone_only_at_a_label_border() {
        assert!(host("a.corp.internal").is_within(&host("corp.internal")));
        assert!(host("corp.internal").is_within(&host("corp.internal")));
        assert!(!host("evilcorp.internal").is_within(&host("corp.internal")));
    }

    #[test]
    fn a_wildcard_takes_every_name_below_and_not_its_parent() {
        let pattern: HostPattern = "*.Dev.corp.internal".parse().unwrap();
        assert!(pattern.matches(&host("a.dev.corp.internal")));
        assert!(pattern.matches(&host("b.a.dev.corp.internal")));
        assert!(!pattern.matches(&host("dev.corp.internal")));
        assert!(!pattern.matches(&host("xdev.corp.internal")));
    }

    #[test]
    fn a_flow_to_a_wildcards_address_is_announced_by_the_parent() {
        let pattern: HostPattern = "*.dev.corp.internal".parse().unwrap();
        assert!(pattern.is_announced_as(&host("dev.corp.internal")));
        assert!(pattern.is_announced_as(&host("a.dev.corp.internal")));
        assert!(!pattern.is_announced_as(&host("corp.internal")));
    }

    #[test]
    fn host_names_that_dns_forbids_are_refused() {
        let too_long_label = "a".repeat(64);
        let too_long_name = ["a"; 128].join(".");
        for bad in
            ["", ".", "a..b", "-a.b", "a-.b", "a b", "a/b", "ä.b", "*.*.b", &too_long_label, &too_long_name]
        {
            assert!(bad.parse::<Hostname>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn resources_are_written_as_kind_and_name() {
        let id: ResourceId = "kube_cluster/main".parse().unwrap();
        assert_eq!((id.kind, id.name.as_str()), (ResourceKind::KubeCluster, "main"));
        assert_eq!(id.to_string(), "kube_cluster/main");
        assert!("printer/main".parse::<ResourceId>().is_err());
        assert!("db/../../etc".parse::<ResourceId>().is_err());
    }

    #[test]
    fn a_bad_name_cannot_arrive_by_cbor_or_json() {
        let cbor = minicbor::to_vec("a b").unwrap();
        assert!(minicbor::decode::<Hostname>(&cbor).is_err());
        assert!(serde_json::from_str::<UserName>("\"jerry\\u001b[2J\"").is_err());
    }
}
