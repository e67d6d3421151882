//! Grants that were handed out, until they end: what is evaluated anew on every change, and what was revoked.

use portlatch_clock::TimeOfDay;
use portlatch_protocol::identity::Login;
use portlatch_protocol::names::{Id, ResourceId};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::{Store, StoreError, name, port};

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
    /// The security key of the tap behind it; none where no tap was needed.
    pub key_id: Option<Id>,
    /// Whether that key verified its user.
    pub is_user_verified: bool,
    /// When it ends.
    pub expires: TimeOfDay,
    /// The terms that it was given on ([`crate::policy::Terms::binding`]).
    pub terms: String,
}

impl Store {
    /// Keeps a grant that is about to be handed out. `false` if the login or the key behind the tap has gone: it must
    /// not be handed out then.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be written.
    pub async fn add_grant(&self, grant: &StoredGrant, now: TimeOfDay) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "INSERT INTO grants (id, login, user, device, resource, port, key_id, user_verified, expires, terms) \
             SELECT ?1, id, user, device, ?3, ?4, ?5, ?6, ?7, ?9 FROM logins \
             WHERE id = ?2 AND ended IS NULL AND expires > ?8 \
             AND (?5 IS NULL OR EXISTS (SELECT 1 FROM credentials c WHERE c.id = ?5 AND c.user = logins.user))",
        )
        .bind(grant.id.as_str())
        .bind(grant.login.login.as_str())
        .bind(grant.resource.to_string())
        .bind(i64::from(grant.port))
        .bind(grant.key_id.as_ref().map(Id::as_str))
        .bind(i64::from(grant.is_user_verified))
        .bind(grant.expires.0)
        .bind(now.0)
        .bind(&grant.terms)
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
            "SELECT id, login, user, device, resource, port, key_id, user_verified, expires, terms FROM grants \
             WHERE revoked IS NULL AND expires > ?",
        )
        .bind(now.0)
        .fetch_all(&self.readers)
        .await?;
        rows.iter().map(read).collect()
    }

    /// Logins and keys that live grants rest on and that have gone.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be read.
    pub async fn grants_without_ground(&self, now: TimeOfDay) -> Result<Vec<Id>, StoreError> {
        let rows = sqlx::query(
            "SELECT id FROM grants g WHERE revoked IS NULL AND expires > ?1 AND (\
             NOT EXISTS (SELECT 1 FROM logins l WHERE l.id = g.login AND l.ended IS NULL) \
             OR (g.key_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM credentials c WHERE c.id = g.key_id)))",
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
    let key_id: Option<&str> = row.try_get(6)?;
    let verified: i64 = row.try_get(7)?;
    Ok(StoredGrant {
        id: name(row.try_get(0)?, "grant")?,
        login,
        resource: name(row.try_get(4)?, "resource")?,
        port: port(row.try_get(5)?)?,
        key_id: key_id.map(|id| name(id, "key name")).transpose()?,
        is_user_verified: verified != 0,
        expires: TimeOfDay(row.try_get(8)?),
        terms: row.try_get(9)?,
    })
}
