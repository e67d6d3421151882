//! A user's keys and authenticator apps side by side, as their user sees and changes them.

use portlatch_clock::TimeOfDay;
use portlatch_protocol::api::ceremony::{MfaDevice, MfaDeviceKind};
use portlatch_protocol::names::{Id, UserName};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::credentials::{NewCredential, insert_credential};
use super::{Store, StoreError, name};

/// Who asks for a change, and must still be signed in at the very moment of its write: a reset that came a moment before
/// must not be followed by a key of whoever it was to keep out.
#[derive(Debug, Clone)]
pub enum Ground {
    /// A login.
    Login(Id),
    /// A session of the pages, by the hash of its cookie.
    Session([u8; 32]),
}

/// What became of something that was to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It is kept.
    Yes,
    /// It is somebody's already, there is no room for it, or what it was for is not there.
    No,
    /// Whoever asked is not signed in any more.
    GroundGone,
}

impl Ground {
    /// Whether this user's login or session stands.
    pub(super) async fn stands(
        &self,
        connection: &mut SqliteConnection,
        user: &UserName,
        now: TimeOfDay,
    ) -> Result<bool, StoreError> {
        let query = match self {
            Self::Login(login) => sqlx::query(
                "SELECT 1 FROM logins WHERE id = ? AND user = ? AND ended IS NULL AND expires > ?",
            )
            .bind(login.as_str()),
            Self::Session(hash) => {
                sqlx::query("SELECT 1 FROM web_sessions WHERE hash = ? AND user = ? AND expires > ?")
                    .bind(hash.as_slice())
            }
        };
        let row = query.bind(user.as_str()).bind(now.0).fetch_optional(connection).await?;
        Ok(row.is_some())
    }
}

/// What became of the removal of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// It is gone.
    Yes,
    /// The user has no such key or app.
    Unknown,
    /// It is the user's last key.
    LastKey,
    /// Whoever asked is not signed in any more.
    GroundGone,
}

impl Store {
    /// The user's keys and apps, oldest first.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be read.
    pub async fn mfa_devices(&self, user: &UserName) -> Result<Vec<MfaDevice>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, kind, name, created, last_used FROM credentials WHERE user = ?1 \
             UNION ALL SELECT id, 'app', name, created, last_used FROM apps WHERE user = ?1 ORDER BY created, id",
        )
        .bind(user.as_str())
        .fetch_all(&self.readers)
        .await?;
        rows.iter().map(read).collect()
    }

    /// Keeps one more key.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be written.
    pub async fn add_credential(
        &self,
        credential: &NewCredential<'_>,
        ground: &Ground,
        now: TimeOfDay,
    ) -> Result<Kept, StoreError> {
        let mut transaction = self.writer.begin().await?;
        if !ground.stands(&mut transaction, credential.user, now).await? {
            return Ok(Kept::GroundGone);
        }
        let is_added = insert_credential(&mut transaction, credential, now).await?;
        transaction.commit().await?;
        Ok(if is_added { Kept::Yes } else { Kept::No })
    }

    /// Removes a key or app of a user, with the taps that were made with it. The last key stays: without one there is no
    /// way in.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be written.
    pub async fn remove_device(
        &self,
        id: &Id,
        user: &UserName,
        ground: &Ground,
        now: TimeOfDay,
    ) -> Result<Removed, StoreError> {
        let mut transaction = self.writer.begin().await?;
        if !ground.stands(&mut transaction, user, now).await? {
            return Ok(Removed::GroundGone);
        }
        let app = sqlx::query("DELETE FROM apps WHERE id = ? AND user = ? RETURNING id")
            .bind(id.as_str())
            .bind(user.as_str())
            .fetch_optional(&mut *transaction)
            .await?;
        // Counting and removing are one statement: of two keys that are removed at once one stays.
        let key = sqlx::query(
            "DELETE FROM credentials WHERE id = ?1 AND user = ?2 \
             AND (SELECT COUNT(*) FROM credentials WHERE user = ?2) > 1 RETURNING id",
        )
        .bind(id.as_str())
        .bind(user.as_str())
        .fetch_optional(&mut *transaction)
        .await?;
        let is_last = sqlx::query("SELECT 1 FROM credentials WHERE id = ? AND user = ?")
            .bind(id.as_str())
            .bind(user.as_str())
            .fetch_optional(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(match (app.or(key), is_last) {
            (Some(_), _) => Removed::Yes,
            (None, Some(_)) => Removed::LastKey,
            (None, None) => Removed::Unknown,
        })
    }

    /// Gives a key or app of a user another name; [`Kept::No`] if the user has none such.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be written.
    pub async fn rename_device(
        &self,
        (id, called): (&Id, &str),
        user: &UserName,
        ground: &Ground,
        now: TimeOfDay,
    ) -> Result<Kept, StoreError> {
        let mut transaction = self.writer.begin().await?;
        if !ground.stands(&mut transaction, user, now).await? {
            return Ok(Kept::GroundGone);
        }
        let mut changed = 0;
        for statement in [
            "UPDATE credentials SET name = ? WHERE id = ? AND user = ?",
            "UPDATE apps SET name = ? WHERE id = ? AND user = ?",
        ] {
            let done = sqlx::query(statement)
                .bind(called)
                .bind(id.as_str())
                .bind(user.as_str())
                .execute(&mut *transaction)
                .await?;
            changed += done.rows_affected();
        }
        transaction.commit().await?;
        Ok(if changed == 1 { Kept::Yes } else { Kept::No })
    }
}

fn read(row: &SqliteRow) -> Result<MfaDevice, StoreError> {
    let kind = match row.try_get(1)? {
        "security_key" => MfaDeviceKind::SecurityKey,
        "passkey" => MfaDeviceKind::Passkey,
        "app" => MfaDeviceKind::App,
        _ => return Err(StoreError::Unreadable("kind of device")),
    };
    let (created, last_used): (i64, Option<i64>) = (row.try_get(3)?, row.try_get(4)?);
    Ok(MfaDevice {
        id: name(row.try_get(0)?, "device name")?,
        kind,
        name: row.try_get(2)?,
        created: TimeOfDay(created).seconds(),
        last_used: last_used.map(|time| TimeOfDay(time).seconds()),
    })
}
