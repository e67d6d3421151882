//! `kind: app | db | node | kube_cluster | desktop`: a host name that users reach, and where a proxy dials for it.

use portlatch_protocol::names::{GroupName, HostPattern, NameError, ResourceId, ResourceKind};
use portlatch_protocol::ports::PortRange;
use portlatch_protocol::resource::{Hold, RefusalStyle, Zone};
use serde_json::{Map, Value as Json, json};

use super::DocumentKind;
use super::fault::{Report, quoted};
use super::fields::{Fields, Kept, Shape};
use super::header::{Header, Opened};
use super::labels::{LabelRule, read_rule};
use super::node::Node;
use super::values::{self, Uri, format_uri, parse_uri};

/// Longest name of a protocol.
const MAX_PROTOCOL: usize = 32;

/// A resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceDocument {
    /// Its kind and name.
    pub id: ResourceId,
    /// What stands around `spec`; its labels are the resource's.
    pub header: Header,
    /// Its host name; none given: NAME.ZONE with the first zone.
    pub public_addr: Option<HostPattern>,
    /// What is spoken on its ports.
    pub protocol: Option<String>,
    /// The host that a proxy dials: a name or an IP address.
    pub target: String,
    /// Its ports.
    pub ports: ResourcePorts,
    /// The labels of the proxies that may dial it; none given: any proxy.
    pub proxies: Option<LabelRule>,
    /// How a tap is asked for.
    pub mfa: ResourceMfa,
    /// The target may be this machine, its link, and the like.
    pub allow_local_target: bool,
}

/// The ports of a resource, and where they are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResourcePorts {
    /// One, in the `uri`.
    InUri(PortRange),
    /// In `tcp_ports`.
    Listed(Vec<PortRange>),
}

impl ResourcePorts {
    /// The ports.
    pub fn ranges(&self) -> &[PortRange] {
        match self {
            Self::InUri(port) => std::slice::from_ref(port),
            Self::Listed(ranges) => ranges,
        }
    }
}

/// How a tap is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResourceMfa {
    /// The key must know its user: by PIN or fingerprint.
    pub user_verification: bool,
    /// How a program waits; none given: as the kind does.
    pub hold: Option<Hold>,
    /// What one tap opens.
    pub scope: MfaScope,
    /// How a refusal reaches the program.
    pub refusal: RefusalStyle,
}

/// What one tap opens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum MfaScope {
    /// The one port that was asked for.
    #[default]
    Port,
    /// Every port of the resource.
    Resource,
    /// Every port of every resource that names the same group.
    Group(GroupName),
}

impl std::fmt::Display for MfaScope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Port => f.write_str("port"),
            Self::Resource => f.write_str("resource"),
            Self::Group(name) => write!(f, "{GROUP}{name}"),
        }
    }
}

/// Why a text names no scope.
#[derive(Debug, thiserror::Error)]
pub enum BadScope {
    /// It is none of the words.
    #[error("is one of port, resource, group:NAME")]
    Unknown,
    /// What stands behind `group:` is no name.
    #[error(transparent)]
    Name(#[from] NameError),
}

impl std::str::FromStr for MfaScope {
    type Err = BadScope;

    fn from_str(text: &str) -> Result<Self, BadScope> {
        match (text, text.strip_prefix(GROUP)) {
            ("port", _) => Ok(Self::Port),
            ("resource", _) => Ok(Self::Resource),
            (_, Some(name)) => Ok(Self::Group(name.parse()?)),
            (_, None) => Err(BadScope::Unknown),
        }
    }
}

/// What stands before a group's name.
const GROUP: &str = "group:";

const HOLDS: [(&str, Hold); 3] = [("hybrid", Hold::Hybrid), ("syn", Hold::Syn), ("data", Hold::Data)];

const REFUSALS: [(&str, RefusalStyle); 2] =
    [("reset", RefusalStyle::Reset), ("protocol", RefusalStyle::Protocol)];
/// The protocols in which a program can be told why it was refused.
const SPEAKING: [&str; 4] = ["postgres", "mysql", "ssh", "http"];

pub(super) const SPEC: Shape = Shape {
    path: "spec",
    known: &["public_addr", "protocol", "uri", "tcp_ports", "proxies", "mfa", "allow_local_target"],
    foreign: &[],
};
pub(super) const MFA: Shape =
    Shape { path: "spec.mfa", known: &["user_verification", "hold", "scope", "refusal"], foreign: &[] };

/// Reads a resource.
pub(super) fn read(
    kind: ResourceKind,
    mut opened: Opened<'_>,
    report: &mut Report,
) -> Option<ResourceDocument> {
    let name = opened.parse_name(report);
    let mut kept = std::mem::take(&mut opened.header.kept);
    let mut fields = Fields::open(opened.spec, &SPEC, &mut kept, report)?;
    let public_addr = read_public_addr(&mut fields);
    let protocol = read_protocol(&mut fields);
    let uri = read_uri(&mut fields);
    let listed = fields.get("tcp_ports").map(|_| values::ports(&mut fields, "tcp_ports"));
    let ports = uri.as_ref().and_then(|uri| join_ports(uri, listed, &mut fields));
    let proxies = read_rule(&mut fields, "proxies").filter(|rule| !rule.is_empty());
    let allow_local_target = fields.flag("allow_local_target");
    let needs_leave = !allow_local_target && uri.as_ref().is_some_and(|uri| values::is_local(&uri.host));
    if needs_leave {
        let spot = fields.spot("uri");
        fields.report.warn(
            spot,
            "the target is local to the proxy, which refuses it without `allow_local_target: true`",
        );
    }
    let mfa = fields.get("mfa").map(|node| read_mfa(node, kind, protocol.as_deref(), report));
    let mfa = mfa.unwrap_or_default();
    Some(ResourceDocument {
        id: ResourceId { kind, name: name? },
        header: Header { kept, ..opened.header },
        public_addr,
        protocol,
        target: uri?.host,
        ports: ports?,
        proxies,
        mfa,
        allow_local_target,
    })
}

fn read_public_addr(fields: &mut Fields<'_, '_>) -> Option<HostPattern> {
    let host: HostPattern = fields.parsed("public_addr")?;
    let spot = fields.spot("public_addr");
    // The public host is how everybody reaches control and the proxies: its name is never answered by the daemon.
    if let Some(public) = fields.report.public_host.clone().filter(|public| host.matches(public)) {
        fields.report.fault(spot, format!("spec.public_addr {host} takes the cluster's own host {public}"));
    }
    if host.anchor().labels() < 2 {
        fields.report.fault(spot, format!("spec.public_addr {host} lies in no zone: write NAME.ZONE"));
    }
    Some(host)
}

fn read_protocol(fields: &mut Fields<'_, '_>) -> Option<String> {
    let protocol = fields.text("protocol")?;
    let is_word = !protocol.is_empty()
        && protocol.len() <= MAX_PROTOCOL
        && protocol
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte));
    if !is_word {
        let spot = fields.spot("protocol");
        fields.report.fault(
            spot,
            format!("spec.protocol is a word as tcp, postgres or ssh, not {}", quoted(protocol)),
        );
    }
    Some(protocol.to_owned())
}

fn read_uri(fields: &mut Fields<'_, '_>) -> Option<Uri> {
    let node = fields.required("uri")?;
    let parsed = parse_uri(fields.text("uri")?);
    parsed.map_err(|why| fields.report.fault(node.spot, format!("spec.uri: {why}"))).ok()
}

/// Either the uri names the one port, or `tcp_ports` names them all.
fn join_ports(
    uri: &Uri,
    listed: Option<Vec<PortRange>>,
    fields: &mut Fields<'_, '_>,
) -> Option<ResourcePorts> {
    let spot = fields.spot("uri");
    match (uri.port, listed) {
        (Some(port), None) => PortRange::single(port).ok().map(ResourcePorts::InUri),
        (None, Some(ports)) => Some(ResourcePorts::Listed(ports)),
        (Some(port), Some(ports)) if ports.iter().any(|range| range.contains(port)) => {
            let message =
                "the port in spec.uri has no effect beside spec.tcp_ports: every port is dialled as itself";
            fields.report.warn(spot, message);
            Some(ResourcePorts::Listed(ports))
        }
        (Some(port), Some(_)) => {
            let message =
                format!("spec.uri names port {port}, and spec.tcp_ports does not: leave one of them out");
            fields.report.fault(spot, message);
            None
        }
        (None, None) => {
            fields
                .report
                .fault(spot, "no port: write it in spec.uri as tcp://HOST:PORT, or list spec.tcp_ports");
            None
        }
    }
}

fn read_mfa(node: &Node, kind: ResourceKind, protocol: Option<&str>, report: &mut Report) -> ResourceMfa {
    let Some(mut fields) = Fields::open(node, &MFA, &mut Kept::new(), report) else {
        return ResourceMfa::default();
    };
    let refusal = fields.choice("refusal", &REFUSALS).unwrap_or_default();
    let can_speak = protocol.is_some_and(|protocol| SPEAKING.contains(&protocol));
    if refusal == RefusalStyle::Protocol && !can_speak {
        let spot = fields.spot("refusal");
        let known = SPEAKING.join(", ");
        fields
            .report
            .fault(spot, format!("spec.mfa.refusal: protocol needs spec.protocol to be one of {known}"));
    }
    let hold = fields.choice("hold", &HOLDS);
    if kind == ResourceKind::Desktop && matches!(hold, Some(Hold::Hybrid | Hold::Syn)) {
        let spot = fields.spot("hold");
        fields.report.warn(
            spot,
            "so a desktop prompts for every connection, a port scan's too: without spec.mfa.hold its prompt waits for an RDP request",
        );
    }
    ResourceMfa {
        refusal,
        user_verification: fields.flag("user_verification"),
        hold,
        scope: fields.parsed("scope").unwrap_or_default(),
    }
}

impl ResourceDocument {
    /// Its host names: as written, or NAME.ZONE with the first of `zones`.
    ///
    /// # Errors
    /// A [`NameError`] if its name cannot be a part of a host name.
    pub fn host(&self, zones: &[Zone]) -> Result<Option<HostPattern>, NameError> {
        match (&self.public_addr, zones.first()) {
            (Some(written), _) => Ok(Some(written.clone())),
            (None, Some(zone)) => format!("{}.{}", self.id.name, zone.suffix).parse().map(Some),
            (None, None) => Ok(None),
        }
    }

    /// The resource in its written shape.
    pub(super) fn to_json(&self) -> Json {
        let mut spec = Map::new();
        let mut put = |name: &str, value: Option<Json>| {
            if let Some(value) = value {
                spec.insert(name.to_owned(), value);
            }
        };
        put("public_addr", self.public_addr.as_ref().map(|host| json!(host)));
        put("protocol", self.protocol.as_ref().map(|protocol| json!(protocol)));
        let (uri, listed) = match &self.ports {
            ResourcePorts::InUri(port) => (format_uri(&self.target, Some(port.first())), None),
            ResourcePorts::Listed(ranges) => (format_uri(&self.target, None), Some(json!(ranges))),
        };
        put("uri", Some(json!(uri)));
        put("tcp_ports", listed);
        put("proxies", self.proxies.as_ref().map(LabelRule::to_json));
        put("mfa", (self.mfa != ResourceMfa::default()).then(|| mfa_json(&self.mfa)));
        put("allow_local_target", self.allow_local_target.then_some(json!(true)));
        self.header.to_json(DocumentKind::Resource(self.id.kind), self.id.name.as_str(), spec)
    }
}

fn mfa_json(mfa: &ResourceMfa) -> Json {
    let mut object = json!({});
    if mfa.user_verification {
        object["user_verification"] = json!(true);
    }
    if let Some((word, _)) = HOLDS.iter().find(|(_, hold)| Some(*hold) == mfa.hold) {
        object["hold"] = json!(word);
    }
    if mfa.scope != MfaScope::default() {
        object["scope"] = json!(mfa.scope.to_string());
    }
    if mfa.refusal == RefusalStyle::Protocol {
        object["refusal"] = json!("protocol");
    }
    object
}
