//! What a change of documents comes to, before anything of it is done: which are stored, what is recorded and what is said.

use std::collections::BTreeMap;

use portlatch_audit::{Event, EventKind};

use crate::documents::fault::{Fault, Warning};
use crate::documents::{Document, DocumentKind, ParseContext, check_set};
use crate::store::documents::StoredDocument;

/// A document's name within all kinds.
pub(super) type Key = (DocumentKind, String);

pub(super) fn key(document: &Document) -> Key {
    (document.kind(), document.name().to_owned())
}

/// What putting documents beside those in force comes to.
pub(super) struct Plan {
    pub(super) all: Vec<Document>,
    pub(super) stored: Vec<StoredDocument>,
    pub(super) lines: Vec<String>,
    pub(super) events: Vec<Event>,
    pub(super) warnings: Vec<String>,
}

impl Plan {
    /// What it comes to, unless the whole has a fault.
    pub(super) fn new(
        mut documents: BTreeMap<Key, Document>,
        new: Vec<Document>,
        context: &ParseContext,
    ) -> Result<Self, Vec<Fault>> {
        let (mut to_store, mut lines, mut events) = (Vec::new(), Vec::new(), Vec::new());
        for document in &new {
            let change = match documents.get(&key(document)) {
                None => Some(Change::Create),
                Some(old) if old.to_json() == document.to_json() => None,
                Some(_) => Some(Change::Update),
            };
            lines.push(format!("{document} {}", change.map_or("unchanged", Change::word)));
            if let Some(change) = change {
                to_store.push(stored(document));
                events.push(change_event(document.kind(), document.name(), change));
            }
        }
        // What is written twice stays twice, for the check to find.
        new.iter().for_each(|document| drop(documents.remove(&key(document))));
        let own: Vec<String> = new.iter().map(|document| format!("{document}: ")).collect();
        let all: Vec<Document> = documents.into_values().chain(new).collect();
        // What was in force already was warned of when it came. What a command made has no place, either.
        let is_new = |warning: &&Warning| {
            warning.place.is_some() || own.iter().any(|own| warning.message.starts_with(own))
        };
        let warnings = check_set(&all, context)?.iter().filter(is_new).map(ToString::to_string).collect();
        Ok(Self { all, stored: to_store, lines, events, warnings })
    }
}

/// What happened to a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Create,
    Update,
    Delete,
}

impl Change {
    const fn word(self) -> &'static str {
        match self {
            Self::Create => "created",
            Self::Update => "updated",
            Self::Delete => "deleted",
        }
    }
}

/// The record of it.
pub(super) fn change_event(kind: DocumentKind, name: &str, change: Change) -> Event {
    use Change::{Create, Delete, Update};
    let event = match (kind, change) {
        (DocumentKind::Resource(_), Create) => EventKind::ResourceCreate,
        (DocumentKind::Resource(_), Update) => EventKind::ResourceUpdate,
        (DocumentKind::Resource(_), Delete) => EventKind::ResourceDelete,
        (DocumentKind::Role, Create) => EventKind::RoleCreate,
        (DocumentKind::Role, Update) => EventKind::RoleUpdate,
        (DocumentKind::Role, Delete) => EventKind::RoleDelete,
        (DocumentKind::User, Create) => EventKind::UserCreate,
        (DocumentKind::User, Update) => EventKind::UserUpdate,
        (DocumentKind::User, Delete) => EventKind::UserDelete,
        (DocumentKind::Lock, Create | Update) => EventKind::Lock,
        (DocumentKind::Lock, Delete) => EventKind::Unlock,
        (DocumentKind::ClusterAuthPreference, Create | Update | Delete) => EventKind::PreferenceUpdate,
        (DocumentKind::VnetConfig, Create | Update | Delete) => EventKind::ZoneUpdate,
    };
    Event {
        detail: Some(format!("{kind}/{name}")),
        resource: format!("{kind}/{name}").parse().ok(),
        user: (kind == DocumentKind::User).then(|| name.parse().ok()).flatten(),
        ..Event::new(event)
    }
}

fn stored(document: &Document) -> StoredDocument {
    StoredDocument {
        kind: document.kind().to_string(),
        name: document.name().to_owned(),
        json: document.to_json().to_string(),
    }
}
