//! Changes of documents and users: read, checked as a whole, written in one transaction, put in force, and their
//! consequences drawn, one change after the other.

use std::collections::BTreeMap;
use std::time::Duration;

use portlatch_audit::{Event, EventKind};
use portlatch_protocol::names::{ProxyName, RoleName, UserName};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use self::plan::{Change, Key, Plan, change_event, key};
use super::{Control, read_documents};
use crate::admin::{IssuedToken, LockedBy, SourceFile};
use crate::api::problem::Denial;
use crate::audit_log::AuditFailed;
use crate::documents::fault::Fault;
use crate::documents::people::{LockDocument, UserDocument};
use crate::documents::{Document, DocumentKind, ParseContext, check_set, parse_all};
use crate::login::token_hash;
use crate::policy::World;
use crate::store::documents::StoredDocument;
use portlatch_clock::TimeOfDay;
use portlatch_protocol::watch::LockTarget;

mod plan;

/// How long an enrolment token serves: the user comes to it on the next working day.
const ENROLMENT_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// How long a join token serves: whoever makes it is at the new machine.
const JOIN_LIFETIME: Duration = Duration::from_secs(30 * 60);

/// Why a change was not made. Nothing was changed, unless it says so.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The documents have faults, or contradict each other.
    #[error("the documents have faults")]
    Faults(Vec<String>),
    /// The store cannot be used, or another change takes too long.
    #[error("{0}")]
    Unavailable(#[from] Denial),
    /// What is not on the record does not happen.
    #[error("the audit cannot be written, so nothing was changed: is the disk full?")]
    NotRecorded(#[from] AuditFailed),
    /// A new user's token could not be kept. The user stays.
    #[error("the user {0} was made, but no token: `users reset {0}` makes one")]
    NoToken(UserName),
}

impl ChangeError {
    /// What there is to say, a line each.
    pub fn lines(self) -> Vec<String> {
        match self {
            Self::Faults(faults) => faults,
            Self::Unavailable(denial) => vec![denial.to_string()],
            Self::NotRecorded(_) | Self::NoToken(_) => vec![self.to_string()],
        }
    }

    fn fault(message: impl Into<String>) -> Self {
        Self::Faults(vec![message.into()])
    }
}

impl From<Vec<Fault>> for ChangeError {
    fn from(faults: Vec<Fault>) -> Self {
        Self::Faults(faults.iter().map(ToString::to_string).collect())
    }
}

/// What a change did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// A line for each thing.
    pub lines: Vec<String>,
    /// What has no effect.
    pub warnings: Vec<String>,
}

impl Control {
    /// Puts documents in force: all of them or, if one has a fault, none.
    ///
    /// # Errors
    /// [`ChangeError`] with every fault.
    pub async fn apply(&self, files: &[SourceFile], actor: &str) -> Result<Changed, ChangeError> {
        let (files, context) = (files.to_vec(), self.parse_context());
        let parsed = aside(move || parse_all(&files, &context)).await??;
        if parsed.documents.is_empty() {
            return Err(ChangeError::fault("there is no document in it: nothing was changed"));
        }
        let _turn = self.turn().await?;
        let mut changed = self.put(parsed.documents, actor).await?;
        let warnings = parsed.warnings.iter().map(ToString::to_string);
        changed.warnings = warnings.chain(changed.warnings).collect();
        Ok(changed)
    }

    /// Removes a document.
    ///
    /// # Errors
    /// [`ChangeError`] if there is none, or others rest on it.
    pub async fn delete(&self, kind: &str, name: &str, actor: &str) -> Result<Changed, ChangeError> {
        let kind: DocumentKind = kind.parse().map_err(|error| ChangeError::fault(format!("{error}")))?;
        let _turn = self.turn().await?;
        let mut documents = self.read_all().await?;
        if documents.remove(&(kind, name.to_owned())).is_none() {
            return Err(ChangeError::fault(format!("there is no {kind}/{name}")));
        }
        if kind == DocumentKind::Role {
            check_nobody_has(name, documents.values())?;
        }
        let rest: Vec<Document> = documents.into_values().collect();
        let context = self.parse_context();
        let (rest, warnings) = aside(move || check_set(&rest, &context).map(|it| (rest, it))).await??;
        let removed = [(kind.to_string(), name.to_owned())];
        let events = self.record(vec![change_event(kind, name, Change::Delete)], actor).await?;
        self.done_or_noted(self.put_in_force(rest, &[], &removed).await, &events).await?;
        Ok(Changed {
            lines: vec![format!("{kind}/{name} deleted")],
            warnings: warnings.iter().map(ToString::to_string).collect(),
        })
    }

    /// Reads documents of a kind.
    ///
    /// # Errors
    /// [`ChangeError`] if the kind is unknown or the named one does not exist.
    pub async fn get(&self, kind: &str, name: Option<&str>) -> Result<Vec<serde_json::Value>, ChangeError> {
        let kind: DocumentKind = kind.parse().map_err(|error| ChangeError::fault(format!("{error}")))?;
        let documents = self.read_all().await?;
        let wanted = documents
            .iter()
            .filter(|((its, called), _)| *its == kind && name.is_none_or(|name| name == called));
        let found: Vec<_> = wanted.map(|(_, document)| document.to_json()).collect();
        match (name, found.is_empty()) {
            (Some(name), true) => Err(ChangeError::fault(format!("there is no {kind}/{name}"))),
            (Some(_) | None, _) => Ok(found),
        }
    }

    /// Makes a user and an enrolment token.
    ///
    /// # Errors
    /// [`ChangeError`] if there is such a user, or a role is missing; [`ChangeError::NoToken`] if only the token could not be
    /// made.
    pub async fn add_user(
        &self,
        name: &UserName,
        roles: Vec<RoleName>,
        actor: &str,
    ) -> Result<IssuedToken, ChangeError> {
        let _turn = self.turn().await?;
        if self.hub.now().has_user(name) {
            let advice = format!("there is a user {name} already: `users reset {name}` makes a new token");
            return Err(ChangeError::fault(advice));
        }
        let user = Document::User(UserDocument::new(name.clone(), roles));
        // All of it is on the record before any of it is done: no user is made whose token cannot be recorded.
        let (_, token) = self.put_recording(vec![user], vec![token_event(name)], actor).await?;
        self.new_enrolment(name, &token).await.map_err(|_| ChangeError::NoToken(name.clone()))
    }

    /// Forgets a user's password and keys, ends the logins, and makes a new enrolment token.
    ///
    /// # Errors
    /// [`ChangeError`] if there is no such user.
    pub async fn reset_user(&self, name: &UserName, actor: &str) -> Result<IssuedToken, ChangeError> {
        let _turn = self.turn().await?;
        if !self.hub.now().has_user(name) {
            return Err(ChangeError::fault(format!("there is no user {name}")));
        }
        let event = Event { user: Some(name.clone()), ..Event::new(EventKind::UserReset) };
        let events = self.record(vec![event, token_event(name)], actor).await?;
        self.new_enrolment(name, &events).await
    }

    /// Makes what stands on the record in these events.
    async fn new_enrolment(&self, name: &UserName, events: &[Event]) -> Result<IssuedToken, ChangeError> {
        let now = self.clock.time_of_day();
        let (token, expires) = (random_token(), now.after(ENROLMENT_LIFETIME));
        let reset = self.store.reset_user(name, &token_hash(&token), expires, now).await;
        self.done_or_noted(reset.map_err(|error| Denial::from(error).into()), events).await?;
        self.note_ended(self.ceremonies.forget_user(name), "reset").await;
        self.forget_pages_of(name, "reset").await;
        self.settle().await;
        let link = format!("https://{}/enrol#{name}/{token}", self.authority_part());
        Ok(IssuedToken { name: name.to_string(), token, link: Some(link), expires: rfc3339(expires) })
    }

    /// Makes a join token for a proxy.
    ///
    /// # Errors
    /// [`ChangeError::Unavailable`].
    pub async fn add_join_token(&self, proxy: &ProxyName, actor: &str) -> Result<IssuedToken, ChangeError> {
        let (token, expires) = (random_token(), self.clock.time_of_day().after(JOIN_LIFETIME));
        let event = Event { proxy: Some(proxy.clone()), ..Event::new(EventKind::TokenCreate) };
        let events = self.record(vec![event], actor).await?;
        let added = self.store.add_join_token(&token_hash(&token), proxy, expires).await;
        self.done_or_noted(added.map_err(|error| Denial::from(error).into()), &events).await?;
        Ok(IssuedToken { name: proxy.to_string(), token, link: None, expires: rfc3339(expires) })
    }

    /// Locks somebody or something, at once.
    ///
    /// # Errors
    /// [`ChangeError`] if the message is none that a lock can have.
    pub async fn lock(
        &self,
        target: LockedBy,
        ttl: Option<Duration>,
        message: Option<String>,
        actor: &str,
    ) -> Result<Changed, ChangeError> {
        let target = match target {
            LockedBy::User(name) => LockTarget::User(name),
            LockedBy::Device(name) => LockTarget::Device(name),
            LockedBy::Login(id) => LockTarget::Login(id),
            LockedBy::Resource(id) => LockTarget::Resource(id),
            LockedBy::Proxy(name) => LockTarget::Proxy(name),
        };
        let expires = ttl.map(|ttl| date(self.clock.time_of_day().after(ttl)));
        let lock = Document::Lock(LockDocument::new(target, message.unwrap_or_default(), expires));
        // Through the written form, so that a lock of the command line obeys the rules of a document.
        let lock = Document::from_json(&lock.to_json())?;
        let _turn = self.turn().await?;
        self.put(vec![lock], actor).await
    }

    /// Puts new and changed documents beside those in force. In a turn.
    async fn put(&self, new: Vec<Document>, actor: &str) -> Result<Changed, ChangeError> {
        Ok(self.put_recording(new, Vec::new(), actor).await?.0)
    }

    /// The same, with what the caller does after it on the record beforehand; gives these records back.
    async fn put_recording(
        &self,
        new: Vec<Document>,
        next: Vec<Event>,
        actor: &str,
    ) -> Result<(Changed, Vec<Event>), ChangeError> {
        let (documents, context) = (self.read_all().await?, self.parse_context());
        let Plan { all, stored, lines, events, warnings } =
            aside(move || Plan::new(documents, new, &context)).await??;
        let own = events.len();
        let mut events = self.record(events.into_iter().chain(next).collect(), actor).await?;
        if !stored.is_empty() {
            self.done_or_noted(self.put_in_force(all, &stored, &[]).await, &events).await?;
        }
        Ok((Changed { lines, warnings }, events.split_off(own)))
    }

    async fn put_in_force(
        &self,
        all: Vec<Document>,
        put: &[StoredDocument],
        removed: &[(String, String)],
    ) -> Result<(), ChangeError> {
        let revision = self.store.change_documents(put, removed).await.map_err(Denial::from)?;
        let (world, now) = (aside(move || World::new(all)).await?, self.clock.time_of_day());
        self.hub.change(|standing| {
            standing.world = std::sync::Arc::new(world);
            standing.revision = standing.revision.max(revision);
            standing.locks = standing.world.locks(now);
        });
        self.settle().await;
        Ok(())
    }

    async fn read_all(&self) -> Result<BTreeMap<Key, Document>, ChangeError> {
        let documents = read_documents(&self.store).await.map_err(|error| {
            tracing::error!(%error, "the documents cannot be read");
            Denial::Unavailable
        })?;
        Ok(documents.into_iter().map(|document| (key(&document), document)).collect())
    }

    fn parse_context(&self) -> ParseContext {
        ParseContext { public_host: self.cluster().clone() }
    }

    /// Host and port of the pages and the API, as a URL has them.
    pub(crate) fn authority_part(&self) -> String {
        match self.settings.public_port {
            443 => self.cluster().to_string(),
            port => format!("{}:{port}", self.cluster()),
        }
    }

    /// Puts changes that are about to be made on the record. A lock alone is set even if the audit is full: it takes rights
    /// away, and whoever sets one cannot wait.
    async fn record(&self, events: Vec<Event>, actor: &str) -> Result<Vec<Event>, AuditFailed> {
        let by = |event| Event { actor: Some(actor.to_owned()), ..event };
        let events: Vec<Event> = events.into_iter().map(by).collect();
        for (written, event) in events.iter().enumerate() {
            if event.kind == EventKind::Lock {
                self.audit.note(event.clone()).await;
            } else if let Err(error) = self.audit.write(event.clone()).await {
                // Those before it stand, and nothing of it is going to happen.
                self.note_not_done(&events[..written]).await;
                return Err(error);
            }
        }
        Ok(events)
    }

    /// What was recorded and then could not be done is recorded as such.
    async fn done_or_noted(
        &self,
        done: Result<(), ChangeError>,
        events: &[Event],
    ) -> Result<(), ChangeError> {
        if done.is_err() {
            self.note_not_done(events).await;
        }
        done
    }

    async fn note_not_done(&self, events: &[Event]) {
        for event in events {
            self.audit.note(Event { reason: Some("not_done".to_owned()), ..event.clone() }).await;
        }
    }
}

/// A role goes when nobody has it any more.
fn check_nobody_has<'d>(
    role: &str,
    documents: impl Iterator<Item = &'d Document>,
) -> Result<(), ChangeError> {
    let has_it = |user: &&UserDocument| user.roles.iter().any(|own| own.as_str() == role);
    let users = documents.filter_map(|document| match document {
        Document::User(user) => Some(user),
        Document::AuthPreference(_)
        | Document::Vnet(_)
        | Document::Role(_)
        | Document::Resource(_)
        | Document::Lock(_) => None,
    });
    let advice = |user: &UserDocument| format!("user/{} has the role {role}: take it away first", user.name);
    let held: Vec<String> = users.filter(has_it).map(advice).collect();
    if held.is_empty() { Ok(()) } else { Err(ChangeError::Faults(held)) }
}

/// Work that takes a large site's documents some time: not on the executor.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Denial> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        tracing::error!(%error, "documents could not be worked on");
        Denial::Unavailable
    })
}

/// An enrolment token for a user.
fn token_event(user: &UserName) -> Event {
    Event { user: Some(user.clone()), ..Event::new(EventKind::TokenCreate) }
}

/// 128 bits in hexadecimal: no character that a shell or a command line would take for something else.
fn random_token() -> String {
    super::random_id().to_string()
}

fn date(time: TimeOfDay) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(time.seconds()).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn rfc3339(time: TimeOfDay) -> String {
    date(time).format(&Rfc3339).unwrap_or_default()
}
