//! Verified proofs of presence, remembered for as long as they sign grants silently.

use std::time::Duration;

use portlatch_clock::TimeOfDay;
use portlatch_protocol::names::{GroupName, Id, ResourceId};
use portlatch_protocol::thumbprint::Thumbprint;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::{Store, StoreError, name};
use crate::presence::Presence;
use crate::webauthn::VerifiedTap;

/// What a tap opens, as the resource said when it was tapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TapScope {
    /// One port.
    Port(ResourceId, u16),
    /// Every port of a resource.
    Resource(ResourceId),
    /// Every port of every resource that names this group.
    Group(GroupName),
}

/// A verified tap, or a code in its place.
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
    /// What was verified.
    pub presence: Presence,
    /// When.
    pub time: TimeOfDay,
    /// For how long it serves.
    pub lifetime: Duration,
}

const COLUMNS: &str =
    "id, login, tunnel_key, resource, port, scope_group, key_id, app_id, user_verified, time, lifetime";

impl Store {
    /// Remembers taps, all of them or none. `false` if login, key or app have gone meanwhile.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be written.
    pub async fn add_taps(&self, taps: &[Tap]) -> Result<bool, StoreError> {
        let mut transaction = self.writer.begin().await?;
        for tap in taps {
            if !insert(&mut transaction, tap).await? {
                return Ok(false);
            }
        }
        transaction.commit().await?;
        Ok(true)
    }

    /// Forgets a login's taps; how many there were. Grants that are being signed with one of them find it gone.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be written.
    pub async fn forget_taps(&self, login: &Id) -> Result<u64, StoreError> {
        let statement = "DELETE FROM taps WHERE login = ?";
        Ok(sqlx::query(statement).bind(login.as_str()).execute(&self.writer).await?.rows_affected())
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

    /// Taps of this login and tunnel key (its newest, where none is named) since `since` that were for this port, for
    /// every port of its resource, or for the group, newest first.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be read.
    pub async fn taps_covering(
        &self,
        (login, tunnel_key): (&Id, Option<&Thumbprint>),
        (resource, port): (&ResourceId, u16),
        group: Option<&GroupName>,
        since: TimeOfDay,
    ) -> Result<Vec<Tap>, StoreError> {
        let statement = format!(
            "SELECT {COLUMNS} FROM taps WHERE login = ?1 AND time > ?3 \
             AND tunnel_key = COALESCE(?2, (SELECT thumbprint FROM tunnel_keys WHERE login = ?1 ORDER BY created DESC LIMIT 1)) \
             AND ((resource = ?4 AND (port = ?5 OR port IS NULL)) OR scope_group = ?6) ORDER BY time DESC"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(statement))
            .bind(login.as_str())
            .bind(tunnel_key.map(Thumbprint::as_str))
            .bind(since.0)
            .bind(resource.to_string())
            .bind(i64::from(port))
            .bind(group.map(GroupName::as_str))
            .fetch_all(&self.readers)
            .await?;
        rows.iter().map(read).collect()
    }
}

async fn insert(connection: &mut SqliteConnection, tap: &Tap) -> Result<bool, StoreError> {
    let (resource, port, group) = match &tap.scope {
        TapScope::Port(resource, port) => (Some(resource.to_string()), Some(i64::from(*port)), None),
        TapScope::Resource(resource) => (Some(resource.to_string()), None, None),
        TapScope::Group(group) => (None, None, Some(group.as_str())),
    };
    let (key, app) = proof_columns(&tap.presence);
    let statement = format!(
        "INSERT INTO taps ({COLUMNS}) SELECT ?1, l.id, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11 FROM logins l \
         WHERE l.id = ?2 AND l.ended IS NULL AND l.expires > ?10 AND {STANDS}"
    );
    let done = sqlx::query(sqlx::AssertSqlSafe(statement))
        .bind(tap.id.as_str())
        .bind(tap.login.as_str())
        .bind(tap.tunnel_key.as_str())
        .bind(resource)
        .bind(port)
        .bind(group)
        .bind(key)
        .bind(app)
        .bind(i64::from(tap.presence.is_user_verified()))
        .bind(tap.time.0)
        .bind(i64::try_from(tap.lifetime.as_millis()).unwrap_or(i64::MAX))
        .execute(connection)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Whether the key `?7` or app `?8` still is the login's user's.
const STANDS: &str = "(EXISTS (SELECT 1 FROM credentials c WHERE c.id = ?7 AND c.user = l.user) \
     OR EXISTS (SELECT 1 FROM apps a WHERE a.id = ?8 AND a.user = l.user))";

fn read(row: &SqliteRow) -> Result<Tap, StoreError> {
    let (resource, port, group): (Option<&str>, Option<i64>, Option<&str>) =
        (row.try_get(3)?, row.try_get(4)?, row.try_get(5)?);
    let scope = match (resource, port, group) {
        (Some(resource), Some(port), None) => TapScope::Port(name(resource, "resource")?, super::port(port)?),
        (Some(resource), None, None) => TapScope::Resource(name(resource, "resource")?),
        (None, None, Some(group)) => TapScope::Group(name(group, "group")?),
        (Some(_) | None, Some(_) | None, Some(_) | None) => {
            return Err(StoreError::Unreadable("scope of a tap"));
        }
    };
    Ok(Tap {
        id: name(row.try_get(0)?, "tap")?,
        login: name(row.try_get(1)?, "login")?,
        tunnel_key: name(row.try_get(2)?, "tunnel key")?,
        scope,
        presence: presence((row.try_get(6)?, row.try_get(7)?), row.try_get(8)?)?
            .ok_or(StoreError::Unreadable("proof of a tap"))?,
        time: TimeOfDay(row.try_get(9)?),
        lifetime: Duration::from_millis(super::unsigned(row.try_get(10)?, "lifetime")?),
    })
}

/// How a presence is kept: key, or app.
pub(super) fn proof_columns(presence: &Presence) -> (Option<&str>, Option<&str>) {
    match presence {
        Presence::Tap(tap) => (Some(tap.key_id.as_str()), None),
        Presence::Code { app } => (None, Some(app.as_str())),
    }
}

/// The presence in columns of this form; none in none.
pub(super) fn presence(
    columns: (Option<&str>, Option<&str>),
    verified: i64,
) -> Result<Option<Presence>, StoreError> {
    Ok(match columns {
        (Some(key), _) => Some(Presence::Tap(VerifiedTap {
            key_id: name(key, "key name")?,
            is_user_verified: verified != 0,
        })),
        (None, Some(app)) => Some(Presence::Code { app: name(app, "app name")? }),
        (None, None) => None,
    })
}
