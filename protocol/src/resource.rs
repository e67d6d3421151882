//! A resource as the user's machine knows it: an entry of the catalogue.

use std::collections::BTreeMap;

use crate::names::{HostPattern, ProxyName, ResourceId};
use crate::ports::PortRange;

/// What a login may reach, as control's catalogue lists it. Being listed promises nothing: every connection is decided
/// anew.
#[derive(
    Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, minicbor::Encode, minicbor::Decode,
)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Resource {
    /// Its kind and name.
    #[n(0)]
    pub id: ResourceId,
    /// Its host name, or the names below a wildcard.
    #[n(1)]
    pub host: HostPattern,
    /// The ports that this login's roles allow.
    #[n(2)]
    pub ports: Vec<PortRange>,
    /// How a program waits while a tap is needed.
    #[n(3)]
    pub hold: Hold,
    /// Whether a tap is needed.
    #[n(4)]
    pub mfa: MfaNeed,
    /// Its labels.
    #[n(5)]
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What it is, for people.
    #[n(6)]
    #[serde(default)]
    pub description: String,
    /// The live proxies that may dial it.
    #[n(7)]
    pub proxies: Vec<ProxyName>,
    /// What is spoken on its ports, in lower case (`postgres`, `mysql`, `ssh`, `http`, ...), where the document says.
    #[n(8)]
    #[serde(default)]
    pub protocol: Option<String>,
    /// How a refusal reaches the program.
    #[n(9)]
    #[serde(default)]
    pub refusal: RefusalStyle,
}

impl Resource {
    /// Whether the resource has `port` for this login.
    pub fn has_port(&self, port: u16) -> bool {
        self.ports.iter().any(|range| range.contains(port))
    }

    /// The port, where there is only one.
    pub fn only_port(&self) -> Option<u16> {
        match self.ports[..] {
            [only] if only.first() == only.last() => Some(only.first()),
            _ => None,
        }
    }
}

/// How a program waits while a tap is needed (design section 4).
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    serde::Serialize,
    serde::Deserialize,
    minicbor::Encode,
    minicbor::Decode,
)]
#[serde(rename_all = "snake_case")]
#[cbor(index_only)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Hold {
    /// The SYN for a while, then the program's first data.
    #[default]
    #[n(0)]
    Hybrid,
    /// The SYN until the end.
    #[n(1)]
    Syn,
    /// The handshake is completed at once, the data held.
    #[n(2)]
    Data,
}

/// How a refusal reaches a program whose handshake was completed already, or must be for it.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    serde::Serialize,
    serde::Deserialize,
    minicbor::Encode,
    minicbor::Decode,
)]
#[serde(rename_all = "snake_case")]
#[cbor(index_only)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum RefusalStyle {
    /// Connection refused, or a reset.
    #[default]
    #[n(0)]
    Reset,
    /// A message of the resource's own protocol, which the program shows.
    #[n(1)]
    Protocol,
}

/// Which proof of presence a resource asks for.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    serde::Serialize,
    serde::Deserialize,
    minicbor::Encode,
    minicbor::Decode,
)]
#[serde(rename_all = "snake_case")]
#[cbor(index_only)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum MfaNeed {
    /// None.
    #[n(0)]
    None,
    /// A tap of a security key.
    #[n(1)]
    Tap,
    /// A tap, or a code of an authenticator app.
    #[n(2)]
    TapOrCode,
}

/// A zone whose names the daemon answers.
#[derive(
    Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, minicbor::Encode, minicbor::Decode,
)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Zone {
    /// The DNS suffix.
    #[n(0)]
    pub suffix: crate::names::Hostname,
    /// Whether unknown names of it do not exist, instead of being forwarded.
    #[n(1)]
    #[serde(default)]
    pub exclusive: bool,
}

/// A proxy and where tunnels find it.
#[derive(
    Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, minicbor::Encode, minicbor::Decode,
)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ProxyAddress {
    /// The name that its certificate must have.
    #[n(0)]
    pub name: ProxyName,
    /// Its host, as a name or an IP address.
    #[n(1)]
    pub host: String,
    /// Its port, on UDP and TCP.
    #[n(2)]
    pub port: u16,
}
