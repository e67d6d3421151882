//! Authenticator apps: their sealed secrets, which step was accepted last, and how many codes were wrong in a row.

use portlatch_clock::TimeOfDay;
use portlatch_protocol::names::{Id, UserName};
use sqlx::Row as _;

use super::devices::{Ground, Kept};
use super::{Store, StoreError, name, unsigned};

/// An app to be kept.
#[derive(Debug)]
pub struct NewApp<'a> {
    /// Our name for it.
    pub id: &'a Id,
    /// Whose it is.
    pub user: &'a UserName,
    /// What people call it.
    pub name: &'a str,
    /// Its secret, sealed.
    pub secret: &'a [u8],
    /// The step of its first code: that one is used up.
    pub step: u64,
}

/// An app of a user.
#[derive(Clone)]
pub struct StoredApp {
    /// Our name for it.
    pub id: Id,
    /// Its secret, sealed.
    pub secret: Vec<u8>,
}

impl std::fmt::Debug for StoredApp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoredApp").field("id", &self.id).finish_non_exhaustive()
    }
}

/// How often codes may be wrong in a row, and since when they count.
#[derive(Debug, Clone, Copy)]
pub struct FailureBounds {
    /// So often.
    pub most: u32,
    /// What failed up to this moment counts no more.
    pub forgotten: TimeOfDay,
}

/// Whether a code may be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// Yes: it counts as the so many-th failure until it succeeds.
    Counted(u32),
    /// No: too many failed, the last one at this moment.
    Refused(TimeOfDay),
}

impl Store {
    /// The user's apps, oldest first.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be read.
    pub async fn apps(&self, user: &UserName) -> Result<Vec<StoredApp>, StoreError> {
        let rows = sqlx::query("SELECT id, secret FROM apps WHERE user = ? ORDER BY created, id")
            .bind(user.as_str())
            .fetch_all(&self.readers)
            .await?;
        rows.iter()
            .map(|row| Ok(StoredApp { id: name(row.try_get(0)?, "app name")?, secret: row.try_get(1)? }))
            .collect()
    }

    /// Keeps an app, if the user has fewer than `most`.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be written.
    pub async fn add_app(
        &self,
        app: &NewApp<'_>,
        ground: &Ground,
        most: u32,
        now: TimeOfDay,
    ) -> Result<Kept, StoreError> {
        let mut transaction = self.writer.begin().await?;
        if !ground.stands(&mut transaction, app.user, now).await? {
            return Ok(Kept::GroundGone);
        }
        let done = sqlx::query(
            "INSERT INTO apps (id, user, name, secret, last_step, created) \
             SELECT ?1, name, ?3, ?4, ?5, ?6 FROM users WHERE name = ?2 \
             AND (SELECT COUNT(*) FROM apps WHERE user = ?2) < ?7",
        )
        .bind(app.id.as_str())
        .bind(app.user.as_str())
        .bind(app.name)
        .bind(app.secret)
        .bind(step_column(app.step)?)
        .bind(now.0)
        .bind(i64::from(most))
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(if done.rows_affected() == 1 { Kept::Yes } else { Kept::No })
    }

    /// Counts a code that is about to be tried as wrong, before it is looked at: of any number of attempts at once no more
    /// than `bounds.most` are looked at.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be written.
    pub async fn count_code_attempt(
        &self,
        user: &UserName,
        bounds: FailureBounds,
        now: TimeOfDay,
    ) -> Result<Attempt, StoreError> {
        let row = sqlx::query(
            "INSERT INTO code_failures (user, failures, last) SELECT name, 1, ?2 FROM users WHERE name = ?1 \
             ON CONFLICT (user) DO UPDATE SET last = ?2, \
             failures = CASE WHEN last <= ?3 THEN 1 ELSE failures + 1 END \
             WHERE failures < ?4 OR last <= ?3 RETURNING failures",
        )
        .bind(user.as_str())
        .bind(now.0)
        .bind(bounds.forgotten.0)
        .bind(i64::from(bounds.most))
        .fetch_optional(&self.writer)
        .await?;
        if let Some(row) = row {
            let failures = u32::try_from(row.try_get::<i64, _>(0)?);
            return failures.map(Attempt::Counted).map_err(|_| StoreError::Unreadable("number of failures"));
        }
        let last = sqlx::query("SELECT last FROM code_failures WHERE user = ?")
            .bind(user.as_str())
            .fetch_optional(&self.readers)
            .await?;
        let last = last.map(|row| row.try_get(0)).transpose()?;
        Ok(Attempt::Refused(last.map_or(now, TimeOfDay)))
    }

    /// Whether no code of the user would be looked at now.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be read.
    pub async fn codes_pause(&self, user: &UserName, bounds: FailureBounds) -> Result<bool, StoreError> {
        let row = sqlx::query("SELECT 1 FROM code_failures WHERE user = ? AND failures >= ? AND last > ?")
            .bind(user.as_str())
            .bind(i64::from(bounds.most))
            .bind(bounds.forgotten.0)
            .fetch_optional(&self.readers)
            .await?;
        Ok(row.is_some())
    }

    /// Accepts a step of an app, and forgets the failures before it. `false`, and nothing changed, if the app is not the
    /// user's any more, or this step or a later one was accepted already.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be written.
    pub async fn accept_step(
        &self,
        app: &Id,
        user: &UserName,
        step: u64,
        now: TimeOfDay,
    ) -> Result<bool, StoreError> {
        let mut transaction = self.writer.begin().await?;
        // Comparing and writing are one statement: of two codes of one step the first alone finds it unused.
        let row = sqlx::query(
            "UPDATE apps SET last_step = ?1, last_used = ?2 WHERE id = ?3 AND user = ?4 AND last_step < ?1 \
             RETURNING id",
        )
        .bind(step_column(step)?)
        .bind(now.0)
        .bind(app.as_str())
        .bind(user.as_str())
        .fetch_optional(&mut *transaction)
        .await?;
        if row.is_none() {
            return Ok(false);
        }
        sqlx::query("DELETE FROM code_failures WHERE user = ?")
            .bind(user.as_str())
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Puts new recovery codes, by their hashes, in the place of all of the user's old ones.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be written.
    pub async fn replace_recovery_codes(
        &self,
        user: &UserName,
        hashes: &[[u8; 32]],
        ground: &Ground,
        now: TimeOfDay,
    ) -> Result<Kept, StoreError> {
        let mut transaction = self.writer.begin().await?;
        if !ground.stands(&mut transaction, user, now).await? {
            return Ok(Kept::GroundGone);
        }
        sqlx::query("DELETE FROM recovery_codes WHERE user = ?")
            .bind(user.as_str())
            .execute(&mut *transaction)
            .await?;
        for hash in hashes {
            let done = sqlx::query(
                "INSERT INTO recovery_codes (hash, user) SELECT ?1, name FROM users WHERE name = ?2",
            )
            .bind(hash.as_slice())
            .bind(user.as_str())
            .execute(&mut *transaction)
            .await?;
            if done.rows_affected() != 1 {
                return Ok(Kept::GroundGone);
            }
        }
        transaction.commit().await?;
        Ok(Kept::Yes)
    }

    /// How many recovery codes the user has left.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be read.
    pub async fn recovery_codes_left(&self, user: &UserName) -> Result<u32, StoreError> {
        let row = sqlx::query("SELECT COUNT(*) FROM recovery_codes WHERE user = ? AND used IS NULL")
            .bind(user.as_str())
            .fetch_one(&self.readers)
            .await?;
        let count = unsigned(row.try_get(0)?, "number of codes")?;
        u32::try_from(count).map_err(|_| StoreError::Unreadable("number of codes"))
    }
}

fn step_column(step: u64) -> Result<i64, StoreError> {
    i64::try_from(step).map_err(|_| StoreError::Unreadable("step"))
}
