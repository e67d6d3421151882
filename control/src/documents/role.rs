//! `kind: role`: what its users may reach, and on which terms.

use std::collections::BTreeMap;
use std::time::Duration;

use portlatch_protocol::grant::MAX_LIFETIME;
use portlatch_protocol::names::{ResourceKind, RoleName};
use portlatch_protocol::ports::PortRange;
use serde_json::{Map, Value as Json, json};

use super::DocumentKind;
use super::fault::{Report, quoted};
use super::fields::{Fields, Kept, Shape, Tolerance};
use super::header::{Header, Opened};
use super::labels::{LabelRule, Labels, read_rule};
use super::node::Node;
use super::values::{self, format_duration};

/// A role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleDocument {
    /// Its name.
    pub name: RoleName,
    /// What stands around `spec`.
    pub header: Header,
    /// The terms.
    pub options: RoleOptions,
    /// What it gives.
    pub allow: Rule,
    /// What it takes away, from every role's gifts.
    pub deny: Rule,
}

/// The terms on which a role gives access. Nothing said: the defaults of the design.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RoleOptions {
    /// A tap opens each port.
    pub require_session_mfa: bool,
    /// How long a login may last.
    pub max_session_ttl: Option<Duration>,
    /// How long a session may last.
    pub max_session: Option<Duration>,
    /// After how much silence a session ends.
    pub client_idle_timeout: Option<Duration>,
    /// Connections at once at one proxy.
    pub max_connections: Option<u32>,
    /// New connections a second in the long run.
    pub max_connection_rate: Option<u32>,
    /// New connections in one burst.
    pub max_connection_burst: Option<u32>,
    /// For how long a tap opens a port to new connections; at most 5 minutes.
    pub mfa_verification_interval: Option<Duration>,
    /// Only the address that the login was made from may use it.
    pub pin_source_ip: bool,
    /// Whether a browser on another machine may answer for this one; nothing said: no.
    pub cross_device: Option<bool>,
}

/// What a role speaks of: things with these labels, and these ports of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    /// By kind; a kind that is not there matches nothing.
    pub labels: BTreeMap<ResourceKind, LabelRule>,
    /// None given: every port.
    pub ports: Vec<PortRange>,
}

impl Rule {
    /// Whether it speaks of a thing of this kind with these labels.
    pub fn covers(&self, kind: ResourceKind, labels: &Labels) -> bool {
        self.labels.get(&kind).is_some_and(|rule| rule.matches(labels))
    }

    /// The ports of `all` that it speaks of.
    pub fn ports_of(&self, all: &[PortRange]) -> Vec<PortRange> {
        if self.ports.is_empty() {
            return all.to_vec();
        }
        all.iter().flat_map(|range| self.ports.iter().filter_map(|own| range.intersection(*own))).collect()
    }

    /// Whether it speaks of this port.
    pub fn has_port(&self, port: u16) -> bool {
        self.ports.is_empty() || self.ports.iter().any(|range| range.contains(port))
    }

    fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.ports.is_empty()
    }
}

/// The fields that hold labels, and for which kind; the first of a kind is the one that we write.
const LABEL_FIELDS: [(&str, ResourceKind); 7] = [
    ("app_labels", ResourceKind::App),
    ("db_labels", ResourceKind::Db),
    ("node_labels", ResourceKind::Node),
    ("kube_cluster_labels", ResourceKind::KubeCluster),
    ("kubernetes_labels", ResourceKind::KubeCluster),
    ("desktop_labels", ResourceKind::Desktop),
    ("windows_desktop_labels", ResourceKind::Desktop),
];

const RULE_FIELDS: [&str; 8] = [
    "app_labels",
    "db_labels",
    "node_labels",
    "kube_cluster_labels",
    "kubernetes_labels",
    "desktop_labels",
    "windows_desktop_labels",
    "ports",
];

/// Names inside protocols that we do not open: to ignore them gives nobody a host or port.
macro_rules! inner_names {
    ($tolerance:expr) => {
        &[
            ("logins", $tolerance),
            ("windows_desktop_logins", $tolerance),
            ("db_names", $tolerance),
            ("db_users", $tolerance),
            ("db_roles", $tolerance),
            ("kubernetes_users", $tolerance),
            ("kubernetes_groups", $tolerance),
            ("kubernetes_resources", $tolerance),
            ("host_groups", $tolerance),
            ("host_sudoers", $tolerance),
            ("aws_role_arns", $tolerance),
            ("azure_identities", $tolerance),
            ("gcp_service_accounts", $tolerance),
            ("rules", $tolerance),
            ("request", $tolerance),
            ("review_requests", $tolerance),
            ("impersonate", $tolerance),
            ("join_sessions", $tolerance),
            ("cluster_labels", $tolerance),
        ]
    };
}

const SPEC: Shape = Shape { path: "spec", known: &["options", "allow", "deny"], foreign: &[] };
const ALLOW: Shape = Shape { path: "spec.allow", known: &RULE_FIELDS, foreign: inner_names!(Tolerance::Any) };
const DENY: Shape = Shape { path: "spec.deny", known: &RULE_FIELDS, foreign: inner_names!(Tolerance::Empty) };
pub(super) const OPTIONS: Shape = Shape {
    path: "spec.options",
    known: &[
        "require_session_mfa",
        "max_session_ttl",
        "max_session",
        "client_idle_timeout",
        "max_connections",
        "max_connection_rate",
        "max_connection_burst",
        "mfa_verification_interval",
        "pin_source_ip",
        "cross_device",
    ],
    foreign: &[
        ("cert_format", Tolerance::Any),
        ("forward_agent", Tolerance::Any),
        ("create_host_user_mode", Tolerance::Any),
        ("create_db_user", Tolerance::Any),
        ("create_db_user_mode", Tolerance::Any),
        ("create_desktop_user", Tolerance::Any),
        ("enhanced_recording", Tolerance::Any),
        ("permit_x11_forwarding", Tolerance::Any),
        ("idp", Tolerance::Any),
        ("create_host_user", Tolerance::No),
        ("port_forwarding", Tolerance::Yes),
        ("ssh_file_copy", Tolerance::Yes),
        ("desktop_clipboard", Tolerance::Yes),
        ("desktop_directory_sharing", Tolerance::Yes),
        // A session never outlives its login here, whatever a role says.
        ("disconnect_expired_cert", Tolerance::Any),
        ("record_session", Tolerance::Empty),
        ("device_trust_mode", Tolerance::Empty),
        ("lock", Tolerance::Empty),
        ("max_sessions", Tolerance::Empty),
        ("max_kubernetes_connections", Tolerance::Empty),
        ("request_access", Tolerance::Empty),
        ("request_prompt", Tolerance::Empty),
        ("ssh_port_forwarding", Tolerance::Empty),
    ],
};

/// Reads a role.
pub(super) fn read(mut opened: Opened<'_>, report: &mut Report) -> Option<RoleDocument> {
    let name = opened.parse_name(report);
    let mut kept = std::mem::take(&mut opened.header.kept);
    let spec = Fields::open(opened.spec, &SPEC, &mut kept, report)?;
    let (options, allow, deny) = (spec.get("options"), spec.get("allow"), spec.get("deny"));
    let options = options.map(|node| read_options(node, &mut kept, report)).unwrap_or_default();
    let allow = allow.map(|node| read_rule_of(node, &ALLOW, &mut kept, report)).unwrap_or_default();
    let deny_rule = deny.map(|node| read_rule_of(node, &DENY, &mut kept, report)).unwrap_or_default();
    let denies_nothing = !deny_rule.ports.is_empty() && deny_rule.labels.is_empty();
    if let Some(deny) = deny.filter(|_| denies_nothing) {
        report.fault(
            deny.spot,
            "spec.deny.ports without labels denies nothing: add labels, as `app_labels: {'*': '*'}`",
        );
    }
    let header = Header { kept, ..opened.header };
    Some(RoleDocument { name: name?, header, options, allow, deny: deny_rule })
}

/// A grant must outlive the way to the proxy, whose clock may be off by half of this.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(10);

fn read_options(node: &Node, kept: &mut Kept, report: &mut Report) -> RoleOptions {
    let Some(mut fields) = Fields::open(node, &OPTIONS, kept, report) else { return RoleOptions::default() };
    let interval = fields.duration("mfa_verification_interval");
    if interval.is_some_and(|interval| !(SHORTEST_INTERVAL..=MAX_LIFETIME).contains(&interval)) {
        let spot = fields.spot("mfa_verification_interval");
        fields.report.fault(
            spot,
            "spec.options.mfa_verification_interval is 10s to 5m: a tap opens a port for at most five minutes",
        );
    }
    RoleOptions {
        require_session_mfa: read_require_session_mfa(&mut fields),
        max_session_ttl: fields.duration("max_session_ttl"),
        max_session: fields.duration("max_session"),
        client_idle_timeout: read_idle_timeout(&mut fields),
        max_connections: fields.count("max_connections"),
        max_connection_rate: fields.count("max_connection_rate"),
        max_connection_burst: fields.count("max_connection_burst"),
        mfa_verification_interval: interval,
        pin_source_ip: fields.flag("pin_source_ip"),
        cross_device: fields.get("cross_device").map(|_| fields.flag("cross_device")),
    }
}

/// The field of roles and of the cluster preference, with Teleport's words for more than a tap.
pub(super) fn read_require_session_mfa(fields: &mut Fields<'_, '_>) -> bool {
    const NAME: &str = "require_session_mfa";
    let hardware = fields.get(NAME).and_then(values::text).filter(|text| text.starts_with("hardware_key"));
    let Some(hardware) = hardware else { return fields.flag(NAME) };
    let message = format!(
        "{} cannot be required here: write `true` for a tap, and ask for a PIN by a resource's mfa.user_verification",
        quoted(hardware)
    );
    let spot = fields.spot(NAME);
    fields.report.fault(spot, message);
    true
}

/// Teleport writes 0 (and `never`) for "none".
fn read_idle_timeout(fields: &mut Fields<'_, '_>) -> Option<Duration> {
    const NAME: &str = "client_idle_timeout";
    let text = values::text(fields.get(NAME)?);
    if text.is_some_and(|text| ["0", "0s", "never"].contains(&text)) {
        return None;
    }
    fields.duration(NAME)
}

fn read_rule_of(node: &Node, shape: &Shape, kept: &mut Kept, report: &mut Report) -> Rule {
    let Some(mut fields) = Fields::open(node, shape, kept, report) else { return Rule::default() };
    let mut rule = Rule { ports: values::ports(&mut fields, "ports"), ..Rule::default() };
    for (name, kind) in LABEL_FIELDS {
        let Some(labels) = read_rule(&mut fields, name).filter(|labels| !labels.is_empty()) else { continue };
        if rule.labels.insert(kind, labels).is_some() {
            let message = format!("{name} says the same as {kind}_labels: keep one of the two");
            let spot = fields.spot(name);
            fields.report.fault(spot, message);
        }
    }
    rule
}

impl RoleDocument {
    /// The role in its written shape.
    pub(super) fn to_json(&self) -> Json {
        let mut spec = Map::new();
        for (name, object) in [
            ("options", options_json(&self.options)),
            ("allow", rule_json(&self.allow)),
            ("deny", rule_json(&self.deny)),
        ] {
            if !object.is_empty() {
                spec.insert(name.to_owned(), object.into());
            }
        }
        self.header.to_json(DocumentKind::Role, self.name.as_str(), spec)
    }
}

fn options_json(options: &RoleOptions) -> Map<String, Json> {
    let duration = |value: Option<Duration>| value.map(|value| json!(format_duration(value)));
    let count = |value: Option<u32>| value.map(|value| json!(value));
    let fields = [
        ("require_session_mfa", options.require_session_mfa.then_some(json!(true))),
        ("max_session_ttl", duration(options.max_session_ttl)),
        ("max_session", duration(options.max_session)),
        ("client_idle_timeout", duration(options.client_idle_timeout)),
        ("max_connections", count(options.max_connections)),
        ("max_connection_rate", count(options.max_connection_rate)),
        ("max_connection_burst", count(options.max_connection_burst)),
        ("mfa_verification_interval", duration(options.mfa_verification_interval)),
        ("pin_source_ip", options.pin_source_ip.then_some(json!(true))),
        ("cross_device", options.cross_device.map(|is_allowed| json!(is_allowed))),
    ];
    fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

fn rule_json(rule: &Rule) -> Map<String, Json> {
    let mut object = Map::new();
    if rule.is_empty() {
        return object;
    }
    for (kind, labels) in &rule.labels {
        object.insert(format!("{kind}_labels"), labels.to_json());
    }
    if !rule.ports.is_empty() {
        object.insert("ports".to_owned(), json!(rule.ports));
    }
    object
}
