//! Grants that were handed out, until they end: what is evaluated anew on every change, and what was revoked.

use portlatch_clock::TimeOfDay;
use portlatch_protocol::identity::Login;
use portlatch_protocol::names::{Id, ResourceId};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::taps::{presence, proof_columns};
use super::{Store, StoreError, name, port};
use crate::presence::Presence;

/// A grant as it is kept; the signed form is never.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredGrant {
    /// Its identifier.
    pub id: Id,
    /// The login that it was issued in.
    pub login: Login,
    /// The resource.
    pub resource: ResourceId,
    /// The port.
    pub port: u16,
    /// The proof behind it; none where none was needed.
    pub presence: Option<Presence>,
    /// When it ends.
    pub expires: TimeOfDay,
    /// The terms that it was given on ([`crate::policy::Terms::binding`]).
    pub terms: String,
}

impl Store {
    /// Keeps a grant that is about to be handed out, on the ground of this tap. `false` if the login or the tap has gone
    /// (with its key, or forgotten): it must not be handed out then.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be written.
    pub async fn add_grant(
        &self,
        grant: &StoredGrant,
        tap: Option<&Id>,
        now: TimeOfDay,
    ) -> Result<bool, StoreError> {
        let (key, app) = grant.presence.as_ref().map_or((None, None), proof_columns);
        let done = sqlx::query(
            "INSERT INTO grants (id, login, user, device, resource, port, key_id, user_verified, expires, terms, app_id) \
             SELECT ?1, id, user, device, ?3, ?4, ?5, ?6, ?7, ?9, ?10 FROM logins \
             WHERE id = ?2 AND ended IS NULL AND expires > ?8 \
             AND (?11 IS NULL OR EXISTS (SELECT 1 FROM taps t WHERE t.id = ?11 AND t.login = logins.id))",
        )
        .bind(grant.id.as_str())
        .bind(grant.login.login.as_str())
        .bind(grant.resource.to_string())
        .bind(i64::from(grant.port))
        .bind(key)
        .bind(i64::from(grant.presence.as_ref().is_some_and(Presence::is_user_verified)))
        .bind(grant.expires.0)
        .bind(now.0)
        .bind(&grant.terms)
        .bind(app)
        .bind(tap.map(Id::as_str))
        .execute(&self.writer)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Grants that still open new streams.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be read.
    pub async fn live_grants(&self, now: TimeOfDay) -> Result<Vec<StoredGrant>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, login, user, device, resource, port, key_id, user_verified, expires, terms, app_id \
             FROM grants \
             WHERE revoked IS NULL AND expires > ?",
        )
        .bind(now.0)
        .fetch_all(&self.readers)
        .await?;
        rows.iter().map(read).collect()
    }

    /// Live grants whose login, key or app has gone.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be read.
    pub async fn grants_without_ground(&self, now: TimeOfDay) -> Result<Vec<Id>, StoreError> {
        let rows = sqlx::query(
            "SELECT id FROM grants g WHERE revoked IS NULL AND expires > ?1 AND (\
             NOT EXISTS (SELECT 1 FROM logins l WHERE l.id = g.login AND l.ended IS NULL) \
             OR (g.key_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM credentials c WHERE c.id = g.key_id)) \
             OR (g.app_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM apps a WHERE a.id = g.app_id)))",
        )
        .bind(now.0)
        .fetch_all(&self.readers)
        .await?;
        rows.iter().map(|row| name(row.try_get(0)?, "grant")).collect()
    }

    /// Revokes grants.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be written.
    pub async fn revoke_grants(&self, ids: &[Id], now: TimeOfDay) -> Result<(), StoreError> {
        let mut transaction = self.writer.begin().await?;
        for id in ids {
            sqlx::query("UPDATE grants SET revoked = ? WHERE id = ? AND revoked IS NULL")
                .bind(now.0)
                .bind(id.as_str())
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Live grants of a login that rest on a proof of presence.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be read.
    pub async fn grants_with_presence(&self, login: &Id, now: TimeOfDay) -> Result<Vec<Id>, StoreError> {
        let rows = sqlx::query(
            "SELECT id FROM grants WHERE login = ? AND revoked IS NULL AND expires > ? \
             AND (key_id IS NOT NULL OR app_id IS NOT NULL)",
        )
        .bind(login.as_str())
        .bind(now.0)
        .fetch_all(&self.readers)
        .await?;
        rows.iter().map(|row| name(row.try_get(0)?, "grant")).collect()
    }

    /// Grants that were revoked and have not ended, with their end.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be read.
    pub async fn revoked_grants(&self, now: TimeOfDay) -> Result<Vec<(Id, TimeOfDay)>, StoreError> {
        let rows = sqlx::query("SELECT id, expires FROM grants WHERE revoked IS NOT NULL AND expires > ?")
            .bind(now.0)
            .fetch_all(&self.readers)
            .await?;
        rows.iter().map(|row| Ok((name(row.try_get(0)?, "grant")?, TimeOfDay(row.try_get(1)?)))).collect()
    }
}

fn read(row: &SqliteRow) -> Result<StoredGrant, StoreError> {
    let login = Login {
        login: name(row.try_get(1)?, "login")?,
        user: name(row.try_get(2)?, "user name")?,
        device: name(row.try_get(3)?, "device name")?,
    };
    Ok(StoredGrant {
        id: name(row.try_get(0)?, "grant")?,
        login,
        resource: name(row.try_get(4)?, "resource")?,
        port: port(row.try_get(5)?)?,
        presence: presence((row.try_get(6)?, row.try_get(10)?), row.try_get(7)?)?,
        expires: TimeOfDay(row.try_get(8)?),
        terms: row.try_get(9)?,
    })
}
