//! The control service, whole: what it is made of, how it opens and how it runs. It runs inside the process of a proxy; that
//! process listens, and calls in here.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use portlatch_audit::{Durability, Event, EventKind, Spool, SpoolConfig, SpoolError};
use portlatch_clock::Clock;
use portlatch_protocol::attach::CertificateBytes;
use portlatch_protocol::names::{Hostname, Id, ProxyName};
use portlatch_protocol::resource::ProxyAddress;
use portlatch_protocol::tls::Authority;
use portlatch_protocol::watch::{GrantKey, Hello, OtherVersion};
use rustls::pki_types::CertificateDer;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;

use crate::admin::SessionLine;
use crate::api::problem::Denial;
use crate::audit_log::AuditLog;
use crate::authority::{AuthorityError, ProvenKey, ServerIdentity};
use crate::browser::Browsers;
use crate::ceremony::{Ceremonies, Challenge};
use crate::documents::Document;
use crate::documents::labels::Labels;
use crate::grants::AccessLimits;
use crate::grants::sign::GrantSigner;
use crate::keys::Keys;
use crate::login::LoginLimits;
use crate::password::{PasswordError, Passwords};
use crate::policy::World;
use crate::store::{Store, StoreError};
use crate::watch::standing::{Hub, ServingProxy, Standing};
use crate::watch::{ClusterFacts, Watch};
use crate::webauthn::{BadHost, RelyingParty};

mod background;
pub mod changes;

/// Control's name in its own certificate; one process on SQLite is all there is.
const OWN_NAME: &str = "main";
/// The name of control's source in the audit.
pub(crate) const AUDIT_SOURCE: &str = "control";
const DATABASE: &str = "control.db";
const AUDIT_FOLDER: &str = "audit";
/// How long an administrator's command waits for the one before it.
const TURN_PATIENCE: Duration = Duration::from_secs(10);

/// What the configuration says about control.
#[derive(Debug, Clone)]
pub struct ControlSettings {
    /// The cluster's public host, which is the cluster's name and WebAuthn's RP ID for ever.
    pub public_host: Hostname,
    /// Its port.
    pub public_port: u16,
    /// When an audit record counts as written.
    pub durability: Durability,
}

/// The sessions that run at this moment, as the proxy in the same process knows them.
pub trait LiveSessions: Send + Sync {
    /// All of them, oldest first.
    fn list(&self) -> Vec<SessionLine>;
    /// Ends one; `false` if there is none of this name.
    fn kill(&self, id: &Id) -> bool;
}

/// Why control could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The database.
    #[error("control.db cannot be opened")]
    Store(#[from] StoreError),
    /// The audit.
    #[error("the audit cannot be opened")]
    Audit(#[from] SpoolError),
    /// The public host.
    #[error(transparent)]
    Host(#[from] BadHost),
    /// The configuration names another cluster than the directory holds.
    #[error(
        "proxy.toml says public_host = {configured}, but this directory is the cluster {own}: certificates and security \
         keys are bound to that name, so put it back, or make a new cluster with `portlatch-proxy init`"
    )]
    OtherCluster {
        /// As configured.
        configured: Hostname,
        /// As the CA says.
        own: Hostname,
    },
    /// The CA's certificate.
    #[error("the cluster's CA cannot be used")]
    Authority(#[source] rustls::Error),
    /// Argon2.
    #[error("passwords cannot be checked on this machine")]
    Passwords(#[from] PasswordError),
    /// A document that this version cannot read.
    #[error("the stored document {kind}/{name} cannot be read: {fault}")]
    Document {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
        /// What is wrong with it.
        fault: String,
    },
}

/// The control service.
pub struct Control {
    pub(crate) dir: PathBuf,
    pub(crate) settings: ControlSettings,
    pub(crate) keys: Arc<Keys>,
    pub(crate) clock: Clock,
    pub(crate) store: Store,
    pub(crate) audit: AuditLog,
    pub(crate) relying_party: RelyingParty,
    pub(crate) ceremonies: Ceremonies,
    pub(crate) browsers: Browsers,
    pub(crate) passwords: Passwords,
    pub(crate) login_limits: LoginLimits,
    pub(crate) access_limits: AccessLimits,
    pub(crate) grant_signer: GrantSigner,
    pub(crate) hub: Hub,
    pub(crate) live: Arc<dyn LiveSessions>,
    /// A change went into force whose consequences could not all be drawn; they are tried again.
    pub(crate) is_unsettled: AtomicBool,
    authority: Authority,
    facts: Arc<ClusterFacts>,
    /// Changes of documents and users take turns: each reads, checks and writes the whole set. So does what no lock may
    /// overtake.
    turn: Semaphore,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("cluster", &self.settings.public_host).finish_non_exhaustive()
    }
}

impl Control {
    /// Opens the control service of the directory `dir`.
    ///
    /// # Errors
    /// [`OpenError`] with the part that is in the way.
    pub async fn open(
        dir: &Path,
        keys: Keys,
        settings: ControlSettings,
        clock: Clock,
        live: Arc<dyn LiveSessions>,
    ) -> Result<Arc<Self>, OpenError> {
        let cluster = settings.public_host.clone();
        if let Some(own) = keys.cluster().filter(|own| *own != cluster) {
            return Err(OpenError::OtherCluster { configured: cluster, own });
        }
        let relying_party = RelyingParty::new(&cluster, settings.public_port)?;
        let authority =
            Authority::new(cluster.clone(), &[keys.ca_der().clone()]).map_err(OpenError::Authority)?;
        let store = Store::open(&dir.join(DATABASE)).await?;
        let audit = open_audit(dir, &settings, &clock)?;
        let world = World::new(read_documents(&store).await?);
        let now = clock.time_of_day();
        let standing = Standing::new(world, store.revision().await?, now);
        let facts = Arc::new(ClusterFacts {
            cluster,
            authorities: vec![CertificateBytes(keys.ca_der().to_vec())],
            grant_keys: vec![GrantKey {
                kid: keys.grant_kid().clone(),
                point: CertificateBytes(keys.grant_point().to_vec()),
            }],
        });
        let control = Arc::new(Self {
            dir: dir.to_owned(),
            settings,
            clock: clock.clone(),
            store,
            audit: AuditLog::new(audit, clock),
            relying_party,
            ceremonies: Ceremonies::default(),
            browsers: Browsers::new(&keys),
            passwords: Passwords::new()?,
            login_limits: LoginLimits::default(),
            access_limits: AccessLimits::default(),
            grant_signer: GrantSigner::new(&keys),
            hub: Hub::new(standing),
            live,
            is_unsettled: AtomicBool::new(false),
            authority,
            facts,
            turn: Semaphore::new(1),
            keys: Arc::new(keys),
        });
        // What a crash left between two steps, and what ended while nobody ran.
        control.forget_removed_users().await?;
        control.reconsider_grants().await?;
        control.audit.note(Event::new(EventKind::ControlStart)).await;
        Ok(control)
    }

    /// The cluster: its public host.
    pub const fn cluster(&self) -> &Hostname {
        &self.settings.public_host
    }

    /// The cluster's CA, for verifying peers.
    pub fn authority(&self) -> Authority {
        self.authority.clone()
    }

    /// The agent's API. Whoever serves it puts a [`crate::api::Peer`] on each request.
    pub fn router(self: &Arc<Self>) -> axum::Router {
        crate::api::router(self.clone())
    }

    /// The pages. Whoever serves them puts a [`crate::pages::Visitor`] on each request.
    pub fn pages(self: &Arc<Self>) -> axum::Router {
        crate::pages::router(self.clone())
    }

    /// Runs until cancelled: the administrator's socket, and everything that happens by time.
    ///
    /// # Errors
    /// The system's, if the socket cannot be made.
    pub async fn run(self: &Arc<Self>, cancel: CancellationToken) -> std::io::Result<()> {
        let socket = crate::admin_server::AdminServer::bind(self.clone())?;
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(socket.serve(cancel.clone()));
        tasks.spawn(background::run(self.clone(), cancel.clone()));
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a task of control died");
                cancel.cancel();
            }
        }
        self.audit.note(Event::new(EventKind::ControlStop)).await;
        self.store.close().await;
        Ok(())
    }

    /// A watch for a proxy with these labels, which said this first.
    ///
    /// # Errors
    /// [`OtherVersion`] if it speaks another version.
    pub fn watch(&self, hello: Hello, proxy: ProxyName, labels: Labels) -> Result<Watch, OtherVersion> {
        hello.of_proxy()?;
        Ok(Watch::new(self.hub.subscribe(), self.facts.clone(), self.clock.clone(), proxy, labels))
    }

    /// Lists a proxy as serving, at the address where users' machines find it.
    ///
    /// # Errors
    /// [`StoreError`]: it is not listed then.
    pub async fn register_proxy(&self, address: ProxyAddress, labels: Labels) -> Result<(), StoreError> {
        let revision = self.store.next_revision().await?;
        self.hub.change(|standing| {
            standing.revision = standing.revision.max(revision);
            standing.proxies.insert(address.name.clone(), ServingProxy { address, labels });
        });
        Ok(())
    }

    /// Takes a proxy off the list: it drains, or is gone.
    ///
    /// # Errors
    /// [`StoreError`]: it stays listed then.
    pub async fn deregister_proxy(&self, name: &ProxyName) -> Result<(), StoreError> {
        let revision = self.store.next_revision().await?;
        self.hub.change(|standing| {
            standing.revision = standing.revision.max(revision);
            standing.proxies.remove(name);
        });
        Ok(())
    }

    /// The certificate of a proxy for the key of this PKCS #10 request.
    ///
    /// # Errors
    /// [`AuthorityError`] if the request is none.
    pub fn issue_proxy_certificate(
        &self,
        name: &ProxyName,
        request: &[u8],
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        let key = ProvenKey::from_request(request)?;
        self.signer().proxy(name, &key, self.clock.time_of_day())
    }

    /// A fresh certificate for the listener of the API, with the CA beside it, and its key. Valid for a day.
    ///
    /// # Errors
    /// [`AuthorityError::Signing`].
    pub fn server_identity(&self) -> Result<ServerIdentity, AuthorityError> {
        let name: ProxyName = OWN_NAME.parse().expect("a constant name is well formed");
        self.signer().control(&name, self.clock.time_of_day())
    }

    /// Records challenges that nobody can answer any more.
    pub(crate) async fn note_ended(&self, challenges: Vec<Challenge>, reason: &str) {
        for challenge in challenges {
            self.audit.note(challenge.ended(reason)).await;
        }
    }

    /// The turn to change documents or users, or to write what no lock may overtake.
    pub(crate) async fn turn(&self) -> Result<SemaphorePermit<'_>, Denial> {
        let turn = tokio::time::timeout(TURN_PATIENCE, self.turn.acquire()).await;
        turn.map_err(|_| Denial::Unavailable)?.map_err(|_| Denial::Unavailable)
    }

    /// Draws the consequences of a change. What fails here is tried again until it is done.
    pub(crate) async fn settle(&self) {
        if let Err(error) = self.try_to_settle().await {
            tracing::error!(%error, "the consequences of a change could not be drawn: trying again");
            self.is_unsettled.store(true, Ordering::Release);
        }
    }

    async fn try_to_settle(&self) -> Result<(), StoreError> {
        self.forget_removed_users().await?;
        self.reconsider_grants().await
    }
}

/// A new identifier.
pub(crate) fn random_id() -> Id {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the system has randomness");
    Id::from_random(bytes)
}

fn open_audit(dir: &Path, settings: &ControlSettings, clock: &Clock) -> Result<Spool, SpoolError> {
    let config = SpoolConfig {
        directory: dir.join(AUDIT_FOLDER),
        source: AUDIT_SOURCE.to_owned(),
        cluster: settings.public_host.clone(),
        durability: settings.durability,
        max_bytes: SpoolConfig::DEFAULT_MAX_BYTES,
    };
    Spool::open(config, clock.time_of_day())
}

pub(crate) async fn read_documents(store: &Store) -> Result<Vec<Document>, OpenError> {
    let stored = store.documents().await?;
    let read = |stored: crate::store::documents::StoredDocument| {
        let unreadable = |fault: String| OpenError::Document {
            kind: stored.kind.clone(),
            name: stored.name.clone(),
            fault,
        };
        let json = serde_json::from_str(&stored.json).map_err(|error| unreadable(error.to_string()))?;
        Document::from_json(&json).map_err(|faults| {
            unreadable(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
        })
    };
    // A large site's take a second, and nothing else could run on this thread meanwhile.
    let read = tokio::task::spawn_blocking(move || stored.into_iter().map(read).collect()).await;
    read.unwrap_or(Err(OpenError::Store(StoreError::Unreadable("document"))))
}

#[cfg(test)]
mod tests;
