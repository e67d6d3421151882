//! `kind: user` and `kind: lock`.

use portlatch_protocol::names::{DeviceName, Id, NameError, ProxyName, ResourceId, RoleName, UserName};
use portlatch_protocol::watch::LockTarget;
use serde_json::{Map, Value as Json, json};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::DocumentKind;
use super::fault::{Report, quoted};
use super::fields::{Fields, Kept, Shape, Tolerance};
use super::header::{Header, Opened};

/// Most roles of one user.
const MAX_ROLES: usize = 64;
/// Longest message of a lock: a line of a terminal or two.
const MAX_MESSAGE: usize = 256;

/// A user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserDocument {
    /// The name.
    pub name: UserName,
    /// What stands around `spec`.
    pub header: Header,
    /// The roles.
    pub roles: Vec<RoleName>,
}

/// An administrator's immediate no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockDocument {
    /// The lock's name.
    pub id: Id,
    /// What stands around `spec`.
    pub header: Header,
    /// Whom or what it stands against.
    pub target: LockTarget,
    /// For those who meet it.
    pub message: String,
    /// When it ends by itself.
    pub expires: Option<OffsetDateTime>,
}

const USER: Shape = Shape {
    path: "spec",
    known: &["roles"],
    foreign: &[
        ("traits", Tolerance::Any),
        ("created_by", Tolerance::Any),
        ("trusted_device_ids", Tolerance::Any),
        ("status", Tolerance::Empty),
        ("expires", Tolerance::Empty),
    ],
};
const LOCK: Shape = Shape { path: "spec", known: &["target", "message", "expires"], foreign: &[] };
const TARGETS: [&str; 5] = ["user", "device", "login", "resource", "proxy"];
const TARGET: Shape = Shape { path: "spec.target", known: &TARGETS, foreign: &[] };

/// Reads a user.
pub(super) fn read_user(mut opened: Opened<'_>, report: &mut Report) -> Option<UserDocument> {
    let name = opened.parse_name(report);
    let mut kept = std::mem::take(&mut opened.header.kept);
    let mut fields = Fields::open(opened.spec, &USER, &mut kept, report)?;
    let mut roles: Vec<RoleName> = fields.list_of("roles").unwrap_or_default();
    if roles.len() > MAX_ROLES {
        let spot = fields.spot("roles");
        fields.report.fault(spot, format!("a user has at most {MAX_ROLES} roles"));
    }
    let mut seen = std::collections::HashSet::new();
    roles.retain(|role| seen.insert(role.clone()));
    Some(UserDocument { name: name?, header: Header { kept, ..opened.header }, roles })
}

/// Reads a lock. Without a name it is named after its target, so that to apply it twice makes one lock.
pub(super) fn read_lock(mut opened: Opened<'_>, report: &mut Report) -> Option<LockDocument> {
    let name: Option<Option<Id>> = match opened.name {
        Some(_) => opened.parse_name(report).map(Some),
        None => Some(None),
    };
    let mut kept = std::mem::take(&mut opened.header.kept);
    let mut fields = Fields::open(opened.spec, &LOCK, &mut kept, report)?;
    let message = read_message(&mut fields);
    let expires = read_expires(&mut fields);
    let target = fields.required("target")?;
    let mut fields = Fields::open(target, &TARGET, &mut Kept::new(), report)?;
    let given: Vec<&str> = TARGETS.into_iter().filter(|name| fields.get(name).is_some()).collect();
    let [one] = given[..] else {
        let message = format!("spec.target names one of {}", TARGETS.join(", "));
        report.fault(target.spot, message);
        return None;
    };
    let target = read_target(one, &mut fields)?;
    let id = name?.unwrap_or_else(|| LockDocument::id_of(&target));
    Some(LockDocument { id, header: Header { kept, ..opened.header }, target, message, expires })
}

fn read_target(name: &str, fields: &mut Fields<'_, '_>) -> Option<LockTarget> {
    let text = fields.text(name)?;
    let target: Result<LockTarget, NameError> = match name {
        "user" => text.parse::<UserName>().map(LockTarget::User),
        "device" => text.parse::<DeviceName>().map(LockTarget::Device),
        "login" => text.parse::<Id>().map(LockTarget::Login),
        "resource" => text.parse::<ResourceId>().map(LockTarget::Resource),
        _ => text.parse::<ProxyName>().map(LockTarget::Proxy),
    };
    let spot = fields.spot(name);
    target
        .map_err(|error| fields.report.fault(spot, format!("spec.target.{name} {}: {error}", quoted(text))))
        .ok()
}

fn read_message(fields: &mut Fields<'_, '_>) -> String {
    let message = fields.text("message").unwrap_or_default();
    let is_one_line = message.chars().count() <= MAX_MESSAGE && !message.chars().any(char::is_control);
    if !is_one_line {
        let spot = fields.spot("message");
        fields.report.fault(spot, format!("spec.message is one line of at most {MAX_MESSAGE} characters"));
    }
    message.to_owned()
}

fn read_expires(fields: &mut Fields<'_, '_>) -> Option<OffsetDateTime> {
    let text = fields.text("expires")?;
    let time = OffsetDateTime::parse(text, &Rfc3339);
    if time.is_err() {
        let spot = fields.spot("expires");
        let message = format!("spec.expires is a time as 2027-01-01T00:00:00Z, not {}", quoted(text));
        fields.report.fault(spot, message);
    }
    time.ok()
}

impl UserDocument {
    /// A user with these roles.
    pub fn new(name: UserName, roles: Vec<RoleName>) -> Self {
        Self { name, header: Header::default(), roles }
    }

    /// The user in the written shape.
    pub(super) fn to_json(&self) -> Json {
        let spec = Map::from_iter([("roles".to_owned(), json!(self.roles))]);
        self.header.to_json(DocumentKind::User, self.name.as_str(), spec)
    }
}

impl LockDocument {
    /// A lock against this target, named after it.
    pub fn new(target: LockTarget, message: String, expires: Option<OffsetDateTime>) -> Self {
        Self { id: Self::id_of(&target), header: Header::default(), target, message, expires }
    }

    fn id_of(target: &LockTarget) -> Id {
        let (kind, name) = target_words(target);
        let readable = format!("{kind}-{}", name.replace('/', "-"));
        // Names that an identifier cannot hold (a user's `@`, a long one) are told apart by their hash. A resource's
        // kind has no hyphen, so two resources never get the same name.
        readable.parse().unwrap_or_else(|_| {
            let digest = Sha256::digest(format!("{kind}/{name}"));
            let mut first = [0; 16];
            first.copy_from_slice(&digest[..16]);
            Id::from_random(first)
        })
    }

    /// The lock in its written shape.
    pub(super) fn to_json(&self) -> Json {
        let (kind, name) = target_words(&self.target);
        let mut spec = Map::from_iter([("target".to_owned(), json!({ kind: name }))]);
        if !self.message.is_empty() {
            spec.insert("message".to_owned(), json!(self.message));
        }
        if let Some(expires) = self.expires.and_then(|expires| expires.format(&Rfc3339).ok()) {
            spec.insert("expires".to_owned(), json!(expires));
        }
        self.header.to_json(DocumentKind::Lock, self.id.as_str(), spec)
    }
}

fn target_words(target: &LockTarget) -> (&'static str, String) {
    match target {
        LockTarget::User(name) => ("user", name.to_string()),
        LockTarget::Device(name) => ("device", name.to_string()),
        LockTarget::Login(id) => ("login", id.to_string()),
        LockTarget::Resource(id) => ("resource", id.to_string()),
        LockTarget::Proxy(name) => ("proxy", name.to_string()),
    }
}
