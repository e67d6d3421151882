//! Who is signed in at the pages. A session is known by the hash of its cookie; it ends by itself, with its user, and
//! with the key that opened it.

use portlatch_clock::TimeOfDay;
use portlatch_protocol::names::{Id, UserName};
use sqlx::Row as _;

use super::{Store, StoreError, name};

/// Sessions of one user: more than anybody's browsers; the ones that were used longest ago make room.
const MAX_PER_USER: i64 = 16;

/// A session to be kept.
#[derive(Debug)]
pub struct NewWebSession<'a> {
    /// SHA-256 of the cookie.
    pub hash: &'a [u8; 32],
    /// Whose.
    pub user: &'a UserName,
    /// The key that opened it; none after a recovery code.
    pub key_id: Option<&'a Id>,
    /// When it ends, used or not.
    pub expires: TimeOfDay,
}

/// A session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredWebSession {
    /// Whose.
    pub user: UserName,
    /// When it was used last, to the minute.
    pub last_used: TimeOfDay,
    /// When it ends, used or not.
    pub expires: TimeOfDay,
}

impl Store {
    /// Keeps a session. `false` if its user, or the key that opened it, has gone meanwhile.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be written.
    pub async fn add_web_session(
        &self,
        session: &NewWebSession<'_>,
        now: TimeOfDay,
    ) -> Result<bool, StoreError> {
        let mut transaction = self.writer.begin().await?;
        let done = sqlx::query(
            "INSERT INTO web_sessions (hash, user, key_id, created, last_used, expires) \
             SELECT ?1, u.name, ?3, ?4, ?4, ?5 FROM users u WHERE u.name = ?2 AND \
             (?3 IS NULL OR EXISTS (SELECT 1 FROM credentials c WHERE c.id = ?3 AND c.user = u.name))",
        )
        .bind(session.hash.as_slice())
        .bind(session.user.as_str())
        .bind(session.key_id.map(Id::as_str))
        .bind(now.0)
        .bind(session.expires.0)
        .execute(&mut *transaction)
        .await?;
        sqlx::query(
            "DELETE FROM web_sessions WHERE user = ?1 AND hash NOT IN \
             (SELECT hash FROM web_sessions WHERE user = ?1 ORDER BY last_used DESC, created DESC LIMIT ?2)",
        )
        .bind(session.user.as_str())
        .bind(MAX_PER_USER)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(done.rows_affected() == 1)
    }

    /// The session behind this cookie, over or not.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be read.
    pub async fn web_session(&self, hash: &[u8; 32]) -> Result<Option<StoredWebSession>, StoreError> {
        let row = sqlx::query("SELECT user, last_used, expires FROM web_sessions WHERE hash = ?")
            .bind(hash.as_slice())
            .fetch_optional(&self.readers)
            .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(StoredWebSession {
            user: name(row.try_get(0)?, "user name")?,
            last_used: TimeOfDay(row.try_get(1)?),
            expires: TimeOfDay(row.try_get(2)?),
        }))
    }

    /// Remembers that a session is in use.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be written.
    pub async fn touch_web_session(&self, hash: &[u8; 32], now: TimeOfDay) -> Result<(), StoreError> {
        sqlx::query("UPDATE web_sessions SET last_used = ? WHERE hash = ?")
            .bind(now.0)
            .bind(hash.as_slice())
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    /// Ends a session; `false` if there was none.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be written.
    pub async fn end_web_session(&self, hash: &[u8; 32]) -> Result<bool, StoreError> {
        let done = sqlx::query("DELETE FROM web_sessions WHERE hash = ?")
            .bind(hash.as_slice())
            .execute(&self.writer)
            .await?;
        Ok(done.rows_affected() == 1)
    }
}
