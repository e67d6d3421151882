//! Verified taps, remembered for as long as they sign grants silently.

use portlatch_clock::TimeOfDay;
use portlatch_protocol::names::{Id, ResourceId};
use portlatch_protocol::thumbprint::Thumbprint;
use sqlx::Row as _;

use super::{Store, StoreError, name};

/// What a tap opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapScope {
    /// The resource.
    pub resource: ResourceId,
    /// The one port of it, or every port.
    pub port: Option<u16>,
}

/// A verified tap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tap {
    /// Its identifier.
    pub id: Id,
    /// The login that it was made in.
    pub login: Id,
    /// The tunnel key that its grants are bound to.
    pub tunnel_key: Thumbprint,
    /// What it opens.
    pub scope: TapScope,
    /// The security key.
    pub key_id: Id,
    /// Whether the key verified its user (PIN, fingerprint) and not only a presence.
    pub is_user_verified: bool,
    /// When it was verified.
    pub time: TimeOfDay,
}

impl Store {
    /// Remembers a tap. `false` if login or key have gone meanwhile.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be written.
    pub async fn add_tap(&self, tap: &Tap) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "INSERT INTO taps (id, login, tunnel_key, resource, port, key_id, user_verified, time) \
             SELECT ?1, l.id, ?3, ?4, ?5, c.id, ?7, ?8 FROM logins l, credentials c \
             WHERE l.id = ?2 AND l.ended IS NULL AND l.expires > ?8 AND c.id = ?6 AND c.user = l.user",
        )
        .bind(tap.id.as_str())
        .bind(tap.login.as_str())
        .bind(tap.tunnel_key.as_str())
        .bind(tap.scope.resource.to_string())
        .bind(tap.scope.port.map(i64::from))
        .bind(tap.key_id.as_str())
        .bind(i64::from(tap.is_user_verified))
        .bind(tap.time.0)
        .execute(&self.writer)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Forgets taps that seem to come from the future: the clock was set back, and nobody can tell any more how old they
    /// are.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be written.
    pub async fn forget_future_taps(&self, now: TimeOfDay) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM taps WHERE time > ?").bind(now.0).execute(&self.writer).await?;
        Ok(())
    }

    /// Taps of this login and tunnel key since `since` that cover the port, newest first.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be read.
    pub async fn taps_covering(
        &self,
        login: &Id,
        tunnel_key: &Thumbprint,
        resource: &ResourceId,
        port: u16,
        since: TimeOfDay,
    ) -> Result<Vec<Tap>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, port, key_id, user_verified, time FROM taps WHERE login = ? AND tunnel_key = ? \
             AND resource = ? AND (port = ? OR port IS NULL) AND time > ? ORDER BY time DESC",
        )
        .bind(login.as_str())
        .bind(tunnel_key.as_str())
        .bind(resource.to_string())
        .bind(i64::from(port))
        .bind(since.0)
        .fetch_all(&self.readers)
        .await?;
        let read = |row: &sqlx::sqlite::SqliteRow| {
            let port: Option<i64> = row.try_get(1)?;
            let verified: i64 = row.try_get(3)?;
            Ok(Tap {
                id: name(row.try_get(0)?, "tap")?,
                login: login.clone(),
                tunnel_key: tunnel_key.clone(),
                scope: TapScope { resource: resource.clone(), port: port.map(super::port).transpose()? },
                key_id: name(row.try_get(2)?, "key name")?,
                is_user_verified: verified != 0,
                time: TimeOfDay(row.try_get(4)?),
            })
        };
        rows.iter().map(read).collect()
    }
}
