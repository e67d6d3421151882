//! What the proxy writes to the audit: the beginning, end and refusal of sessions.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use portlatch_audit::{Durability, Event, EventKind, Spool, SpoolError};
use portlatch_clock::Clock;
use portlatch_protocol::identity::Login;
use portlatch_protocol::names::ProxyName;
use portlatch_protocol::stream::Open;

use crate::grant::VerifiedGrant;
use crate::sessions::{EndReason, LiveSession};

/// The proxy's hand on its spool.
#[derive(Debug, Clone)]
pub struct Recorder {
    spool: Arc<Spool>,
    durability: Durability,
    clock: Clock,
    proxy: ProxyName,
}

impl Recorder {
    /// A recorder for this proxy. `durability` is the spool's: with [`Durability::Disk`] writing waits on another thread.
    pub const fn new(spool: Arc<Spool>, durability: Durability, clock: Clock, proxy: ProxyName) -> Self {
        Self { spool, durability, clock, proxy }
    }

    /// Writes an event of the proxy's own.
    ///
    /// # Errors
    /// Any [`SpoolError`]: what the event tells of must not happen.
    pub async fn write(&self, event: Event) -> Result<(), SpoolError> {
        let event = Event { proxy: Some(self.proxy.clone()), ..event };
        let (spool, now) = (Arc::clone(&self.spool), self.clock.time_of_day());
        match self.durability {
            Durability::Os => spool.append(&event, now).map(drop),
            Durability::Disk => {
                let write = tokio::task::spawn_blocking(move || spool.append(&event, now).map(drop));
                write.await.unwrap_or(Err(SpoolError::Failed))
            }
        }
    }

    /// Writes that a session begins. Nothing may reach the target before this has returned.
    ///
    /// # Errors
    /// Any [`SpoolError`].
    pub async fn session_start(
        &self,
        session: &LiveSession,
        open: &Open,
        grant: &VerifiedGrant,
    ) -> Result<(), SpoolError> {
        let claims = grant.claims();
        let event = Event {
            grant: Some(claims.jti.clone()),
            amr: claims.amr.clone(),
            key_id: claims.key_id.clone(),
            detail: Some(format!("host {}", open.host)),
            ..session_event(EventKind::SessionStart, session)
        };
        self.write(event).await
    }

    /// Writes how a session ended. A failure is logged by the spool itself and ends what comes next, not this.
    pub async fn session_end(&self, session: &LiveSession, reason: EndReason) {
        if let Err(error) = self.write(end_event(session, reason)).await {
            tracing::error!(%error, session = %session.id, "the end of a session is not in the audit");
        }
    }

    /// The same, from where nothing can be awaited.
    pub fn session_end_now(&self, session: &LiveSession, reason: EndReason) {
        let event = Event { proxy: Some(self.proxy.clone()), ..end_event(session, reason) };
        if let Err(error) = self.spool.append(&event, self.clock.time_of_day()) {
            tracing::error!(%error, session = %session.id, "the end of a session is not in the audit");
        }
    }

    /// Writes that a stream or a tunnel was refused.
    pub async fn denied(&self, denial: Denial<'_>) {
        let Denial { login, client, open, reason, detail } = denial;
        let event = Event {
            user: login.map(|login| login.user.clone()),
            login: login.map(|login| login.login.clone()),
            device: login.map(|login| login.device.clone()),
            resource: open.map(|open| open.resource.clone()),
            port: open.map(|open| open.port),
            program: open.and_then(|open| open.program.clone()),
            client_addr: Some(client.to_string()),
            reason: Some(reason.to_owned()),
            detail,
            ..Event::new(EventKind::AccessDenied)
        };
        if let Err(error) = self.write(event).await {
            tracing::error!(%error, "a refusal is not in the audit");
        }
    }
}

/// A refused stream or tunnel.
#[derive(Debug)]
pub struct Denial<'a> {
    /// Whose, if a certificate said so that can be believed.
    pub login: Option<&'a Login>,
    /// From where.
    pub client: std::net::SocketAddr,
    /// What it asked for, if that could be read.
    pub open: Option<&'a Open>,
    /// The audit's word.
    pub reason: &'a str,
    /// More about it.
    pub detail: Option<String>,
}

fn session_event(kind: EventKind, session: &LiveSession) -> Event {
    Event {
        session: Some(session.id.clone()),
        user: Some(session.login.user.clone()),
        login: Some(session.login.login.clone()),
        device: Some(session.login.device.clone()),
        resource: Some(session.resource.clone()),
        port: Some(session.port),
        target: Some(session.target.to_string()),
        client_addr: Some(session.client.to_string()),
        program: session.program.clone(),
        ..Event::new(kind)
    }
}

fn end_event(session: &LiveSession, reason: EndReason) -> Event {
    Event {
        bytes_in: Some(session.bytes_in.load(Ordering::Relaxed)),
        bytes_out: Some(session.bytes_out.load(Ordering::Relaxed)),
        reason: Some(reason.as_str().to_owned()),
        ..session_event(EventKind::SessionEnd, session)
    }
}
