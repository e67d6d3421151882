//! Control's pen in the audit: appends from async code without holding up an executor thread.

use std::sync::Arc;

use portlatch_audit::{Event, Spool, SpoolError};
use portlatch_clock::Clock;
use rcgen::SigningKey as _;

use crate::keys::Keys;

/// A record could not be written: what it would have recorded must not happen.
#[derive(Debug, thiserror::Error)]
pub enum AuditFailed {
    /// The spool said no.
    #[error("the audit cannot be written")]
    Spool(#[from] SpoolError),
    /// The writer died.
    #[error("the audit's writer is gone")]
    Gone,
}

/// Writes control's records. Cheap to clone.
#[derive(Clone)]
pub struct AuditLog {
    spool: Arc<Spool>,
    clock: Clock,
}

impl std::fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuditLog").finish_non_exhaustive()
    }
}

impl AuditLog {
    /// Writes into this spool, with the times of this clock.
    pub fn new(spool: Spool, clock: Clock) -> Self {
        Self { spool: Arc::new(spool), clock }
    }

    /// Writes a record; returns once it counts as written.
    ///
    /// # Errors
    /// [`AuditFailed`]: the caller grants nothing then.
    pub async fn write(&self, event: Event) -> Result<(), AuditFailed> {
        let (spool, now) = (self.spool.clone(), self.clock.time_of_day());
        let written = tokio::task::spawn_blocking(move || spool.append(&event, now)).await;
        written.map_err(|_| AuditFailed::Gone)??;
        Ok(())
    }

    /// Writes a record about something that was refused or is over: the refusal stands whether or not it is recorded.
    pub async fn note(&self, event: Event) {
        let kind = event.kind;
        if let Err(error) = self.write(event).await {
            tracing::error!(%error, event = %kind, "an event is missing in the audit");
        }
    }

    /// Signs the chain's head with the CA's key, which every reader of the audit can be given.
    ///
    /// # Errors
    /// [`AuditFailed`].
    pub async fn sign_head(&self, keys: &Arc<Keys>) -> Result<(), AuditFailed> {
        let (spool, keys, now) = (self.spool.clone(), keys.clone(), self.clock.time_of_day());
        let sign = move || {
            let signer = |message: &[u8]| keys.ca().key().sign(message).unwrap_or_default();
            spool.sign_head(&signer, now)
        };
        tokio::task::spawn_blocking(sign).await.map_err(|_| AuditFailed::Gone)??;
        Ok(())
    }
}
