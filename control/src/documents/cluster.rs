//! The two documents of which there is one each: `cluster_auth_preference` and `vnet_config`.

use portlatch_protocol::names::Hostname;
use portlatch_protocol::resource::Zone;
use serde_json::{Map, Value as Json, json};

use super::DocumentKind;
use super::fault::{Report, quoted};
use super::fields::{Fields, Kept, Shape, Tolerance};
use super::header::{Header, Opened};
use super::node::Node;
use super::role::read_require_session_mfa;
use super::values;

/// The name of the one `cluster_auth_preference`.
pub const AUTH_PREFERENCE_NAME: &str = "cluster-auth-preference";
/// The name of the one `vnet_config`.
pub const VNET_CONFIG_NAME: &str = "vnet-config";
/// Most zones: each is a routing domain on every user's machine.
const MAX_ZONES: usize = 64;

/// How users prove who they are, cluster-wide.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuthPreference {
    /// What stands around `spec`.
    pub header: Header,
    /// A tap opens each port, whatever the roles say.
    pub require_session_mfa: bool,
    /// Codes of an authenticator app count where they may.
    pub allows_otp: bool,
}

/// Which names users' machines answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VnetConfig {
    /// What stands around `spec`.
    pub header: Header,
    /// The zones; the first one completes names.
    pub zones: Vec<Zone>,
}

const PREFERENCE: Shape = Shape {
    path: "spec",
    known: &["type", "require_session_mfa", "second_factor", "second_factors", "webauthn", "local_auth"],
    foreign: &[
        ("message_of_the_day", Tolerance::Any),
        ("connector_name", Tolerance::Any),
        ("signature_algorithm_suite", Tolerance::Any),
        ("allow_headless", Tolerance::Any),
        ("disconnect_expired_cert", Tolerance::Any),
        ("allow_local_auth", Tolerance::Yes),
        ("allow_passwordless", Tolerance::Yes),
    ],
};
const WEBAUTHN: Shape = Shape { path: "spec.webauthn", known: &["rp_id"], foreign: &[] };
const VNET: Shape =
    Shape { path: "spec", known: &["custom_dns_zones"], foreign: &[("ipv4_cidr_range", Tolerance::Any)] };
const ZONE: Shape =
    Shape { path: "an entry of custom_dns_zones", known: &["suffix", "exclusive"], foreign: &[] };

/// Reads a `cluster_auth_preference`.
pub(super) fn read_preference(mut opened: Opened<'_>, report: &mut Report) -> Option<AuthPreference> {
    opened.check_only_name(AUTH_PREFERENCE_NAME, report);
    let mut kept = std::mem::take(&mut opened.header.kept);
    let mut fields = Fields::open(opened.spec, &PREFERENCE, &mut kept, report)?;
    fields.choice("type", &[("local", ())]);
    let has_local_auth = fields.get("local_auth").is_none() || fields.flag("local_auth");
    if !has_local_auth {
        let spot = fields.spot("local_auth");
        fields.report.fault(spot, "spec.local_auth cannot be turned off: there is no other way to log in");
    }
    let require_session_mfa = read_require_session_mfa(&mut fields);
    let allows_otp = read_second_factors(&mut fields);
    if let Some(webauthn) = fields.get("webauthn") {
        check_webauthn(webauthn, report);
    }
    Some(AuthPreference { header: Header { kept, ..opened.header }, require_session_mfa, allows_otp })
}

/// Whether codes count; security keys always do. The old field has one word, the new one a list.
fn read_second_factors(fields: &mut Fields<'_, '_>) -> bool {
    let old = fields
        .choice("second_factor", &[("on", true), ("optional", true), ("otp", true), ("webauthn", false)]);
    let Some(items) = fields.list("second_factors") else { return old.unwrap_or(false) };
    let list_spot = fields.spot("second_factors");
    if old.is_some() {
        fields.report.fault(
            list_spot,
            "spec.second_factors and spec.second_factor stand for the same: keep the first",
        );
    }
    let (mut allows_otp, mut has_webauthn) = (false, false);
    for item in items {
        match values::text(item) {
            Some("webauthn") => has_webauthn = true,
            Some("otp") => allows_otp = true,
            Some("sso") => fields.report.warn(item.spot, "the second factor sso is not here: it is left out"),
            Some(_) | None => {
                let message = format!("a second factor is webauthn or otp, not {}", item.described());
                fields.report.fault(item.spot, message);
            }
        }
    }
    if !has_webauthn {
        fields.report.fault(list_spot, "spec.second_factors needs webauthn: every login has a security key");
    }
    allows_otp
}

fn check_webauthn(node: &Node, report: &mut Report) {
    let Some(mut fields) = Fields::open(node, &WEBAUTHN, &mut Kept::new(), report) else { return };
    let Some(rp_id) = fields.text("rp_id") else { return };
    let is_host = match &fields.report.public_host {
        Some(public) => rp_id.parse::<Hostname>().is_ok_and(|rp_id| rp_id == *public),
        None => true,
    };
    if !is_host {
        let public = fields.report.public_host.as_ref().map(ToString::to_string).unwrap_or_default();
        let spot = fields.spot("rp_id");
        let message = format!(
            "spec.webauthn.rp_id is the cluster's public host {public} for ever, not {}",
            quoted(rp_id)
        );
        fields.report.fault(spot, message);
    }
}

/// Reads a `vnet_config`.
pub(super) fn read_vnet(mut opened: Opened<'_>, report: &mut Report) -> Option<VnetConfig> {
    opened.check_only_name(VNET_CONFIG_NAME, report);
    let mut kept = std::mem::take(&mut opened.header.kept);
    let mut fields = Fields::open(opened.spec, &VNET, &mut kept, report)?;
    let items = fields.list("custom_dns_zones").unwrap_or_default();
    let spot = fields.spot("custom_dns_zones");
    if items.len() > MAX_ZONES {
        fields.report.fault(spot, format!("there are at most {MAX_ZONES} zones"));
    }
    let mut zones: Vec<Zone> = Vec::new();
    for item in items.iter().take(MAX_ZONES) {
        let Some(zone) = read_zone(item, report) else { continue };
        if zones.iter().any(|other| other.suffix == zone.suffix) {
            report.fault(item.spot, format!("the zone {} stands here twice: remove one", zone.suffix));
            continue;
        }
        zones.push(zone);
    }
    Some(VnetConfig { header: Header { kept, ..opened.header }, zones })
}

fn read_zone(item: &Node, report: &mut Report) -> Option<Zone> {
    let mut fields = Fields::open(item, &ZONE, &mut Kept::new(), report)?;
    fields.required("suffix")?;
    let suffix: Hostname = fields.parsed("suffix")?;
    if suffix.labels() < 2 {
        let spot = fields.spot("suffix");
        let message = format!("the zone {suffix} is a whole top-level domain: write at least corp.{suffix}");
        fields.report.fault(spot, message);
    }
    Some(Zone { suffix, exclusive: fields.flag("exclusive") })
}

impl AuthPreference {
    /// The preference in its written shape.
    pub(super) fn to_json(&self) -> Json {
        let factors: &[&str] = if self.allows_otp { &["webauthn", "otp"] } else { &["webauthn"] };
        let mut spec = Map::new();
        spec.insert("require_session_mfa".to_owned(), json!(self.require_session_mfa));
        spec.insert("second_factors".to_owned(), json!(factors));
        self.header.to_json(DocumentKind::ClusterAuthPreference, AUTH_PREFERENCE_NAME, spec)
    }
}

impl VnetConfig {
    /// The configuration in its written shape.
    pub(super) fn to_json(&self) -> Json {
        let zone = |zone: &Zone| match zone.exclusive {
            true => json!({ "suffix": zone.suffix, "exclusive": true }),
            false => json!({ "suffix": zone.suffix }),
        };
        let zones: Vec<Json> = self.zones.iter().map(zone).collect();
        let spec = Map::from_iter([("custom_dns_zones".to_owned(), Json::from(zones))]);
        self.header.to_json(DocumentKind::VnetConfig, VNET_CONFIG_NAME, spec)
    }
}
