//! What every document has: kind, version, metadata, and the fields that are kept without a meaning.

use serde_json::{Map, Value as Json, json};

use super::DocumentKind;
use super::fault::{Origin, Report, Spot, quoted};
use super::fields::{Fields, Kept, Shape, Tolerance};
use super::labels::{Labels, read_labels};
use super::node::{Node, Value};
use super::values;
use crate::nearest::suggestion;

/// Longest description: a line of a table.
const MAX_DESCRIPTION: usize = 256;
/// Teleport's versions; the differences lie in fields that mean nothing here.
const VERSIONS: [&str; 8] = ["v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8"];

const TOP: Shape = Shape {
    path: "the document",
    known: &["kind", "version", "metadata", "spec"],
    foreign: &[("sub_kind", Tolerance::Empty)],
};
const METADATA: Shape = Shape {
    path: "metadata",
    known: &["name", "description", "labels"],
    foreign: &[
        ("id", Tolerance::Any),
        ("revision", Tolerance::Any),
        ("namespace", Tolerance::Any),
        // To forget an expiry would keep alive what somebody meant to end.
        ("expires", Tolerance::Empty),
    ],
};

/// What stands around a document's `spec`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Header {
    /// As written; nothing here depends on it.
    pub version: Option<String>,
    /// What it is, for people.
    pub description: String,
    /// The labels of a resource; of other documents they are kept.
    pub labels: Labels,
    /// Fields without a meaning here, by their path.
    pub(super) kept: Kept,
    /// Where it was written.
    pub origin: Origin,
}

/// A document whose `spec` is still to be read.
pub(super) struct Opened<'n> {
    pub(super) kind: DocumentKind,
    pub(super) name: Option<&'n str>,
    pub(super) name_spot: Spot,
    pub(super) header: Header,
    pub(super) spec: &'n Node,
}

/// Reads all but the `spec`.
pub(super) fn open<'n>(node: &'n Node, report: &mut Report) -> Option<Opened<'n>> {
    let kind = read_kind(node, report);
    let mut kept = Kept::new();
    let mut fields = Fields::open(node, &TOP, &mut kept, report)?;
    let version = fields.text("version").map(str::to_owned);
    if let Some(version) = version.as_deref().filter(|version| !VERSIONS.contains(version)) {
        let spot = fields.spot("version");
        fields.report.fault(spot, format!("{} is no version: v1 to v8, or leave it out", quoted(version)));
    }
    let spec = fields.required("spec");
    let metadata = fields.get("metadata");
    let mut header = Header { version, ..Header::default() };
    header.origin = Origin(report.place(node.spot));
    let (mut name, mut name_spot) = (None, node.spot);
    if let Some(mut fields) =
        metadata.and_then(|metadata| Fields::open(metadata, &METADATA, &mut kept, report))
    {
        name = fields.text("name");
        name_spot = fields.spot("name");
        header.labels = read_labels(&mut fields, "labels");
        header.description = read_description(&mut fields);
    }
    header.kept = kept;
    Some(Opened { kind: kind?, name, name_spot, header, spec: spec? })
}

fn read_description(fields: &mut Fields<'_, '_>) -> String {
    let description = fields.text("description").unwrap_or_default();
    let is_one_line =
        description.chars().count() <= MAX_DESCRIPTION && !description.chars().any(char::is_control);
    if !is_one_line {
        let spot = fields.spot("description");
        fields
            .report
            .fault(spot, format!("a description is one line of at most {MAX_DESCRIPTION} characters"));
    }
    description.to_owned()
}

fn read_kind(node: &Node, report: &mut Report) -> Option<DocumentKind> {
    let Value::Mapping(entries) = &node.value else { return None };
    let Some(kind) = entries.iter().find(|entry| entry.key == "kind") else {
        report.fault(node.spot, "the document needs the field `kind`");
        return None;
    };
    let text = values::text(&kind.value).unwrap_or_default();
    let found = DocumentKind::ALL.into_iter().find(|known| known.as_str() == text);
    if found.is_none() {
        let hint = match text {
            "windows_desktop" | "dynamic_windows_desktop" => "did you mean `desktop`?".to_owned(),
            _ => suggestion(text, &DocumentKind::ALL.map(DocumentKind::as_str)),
        };
        report.fault(kind.value.spot, format!("unknown kind {}: {hint}", kind.value.described()));
    }
    found
}

impl Opened<'_> {
    /// The name, which must be there and be one.
    pub(super) fn parse_name<T>(&self, report: &mut Report) -> Option<T>
    where
        T: std::str::FromStr<Err: std::fmt::Display>,
    {
        let Some(name) = self.name else {
            report.fault(self.name_spot, format!("a {} needs metadata.name", self.kind));
            return None;
        };
        match name.parse() {
            Ok(name) => Some(name),
            Err(error) => {
                report.fault(self.name_spot, format!("metadata.name {}: {error}", quoted(name)));
                None
            }
        }
    }

    /// The name of the one document of its kind, which may be left out.
    pub(super) fn check_only_name(&self, only: &str, report: &mut Report) {
        if let Some(name) = self.name.filter(|name| *name != only) {
            let message = format!("there is one {} and its name is {only}, not {}", self.kind, quoted(name));
            report.fault(self.name_spot, message);
        }
    }
}

impl Header {
    /// The document in its written shape.
    pub(super) fn to_json(&self, kind: DocumentKind, name: &str, spec: Map<String, Json>) -> Json {
        let mut metadata = Map::from_iter([("name".to_owned(), json!(name))]);
        if !self.description.is_empty() {
            metadata.insert("description".to_owned(), json!(self.description));
        }
        if !self.labels.is_empty() {
            metadata.insert("labels".to_owned(), json!(self.labels));
        }
        let mut document = json!({ "kind": kind.as_str(), "metadata": metadata, "spec": spec });
        if let Some(version) = &self.version {
            document["version"] = json!(version);
        }
        for (path, value) in &self.kept {
            let place = path.split('.').fold(&mut document, |object, key| &mut object[key]);
            *place = value.clone();
        }
        document
    }
}
