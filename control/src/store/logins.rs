//! Logins, and the tunnel keys that were certified for them.

use portlatch_clock::TimeOfDay;
use portlatch_protocol::identity::Login;
use portlatch_protocol::names::{DeviceName, Id, UserName};
use portlatch_protocol::thumbprint::Thumbprint;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::{Store, StoreError, name};

/// Tunnel keys kept for a login, newest first: a daemon has one at a time, and each attach makes a new one.
const MAX_TUNNEL_KEYS: i64 = 64;

/// A login to be kept.
#[derive(Debug)]
pub struct NewLogin<'a> {
    /// Its identifier.
    pub id: &'a Id,
    /// Whose.
    pub user: &'a UserName,
    /// On which device.
    pub device: &'a DeviceName,
    /// The login key's SubjectPublicKeyInfo.
    pub spki: &'a [u8],
    /// When it ends.
    pub expires: TimeOfDay,
}

/// A login.
#[derive(Debug, Clone)]
pub struct StoredLogin {
    /// Who and where.
    pub login: Login,
    /// The login key's SubjectPublicKeyInfo.
    pub spki: Vec<u8>,
    /// When it ends by itself.
    pub expires: TimeOfDay,
    /// When it was ended before that.
    pub ended: Option<TimeOfDay>,
}

const COLUMNS_OF: &str = "SELECT id, user, device, spki, expires, ended FROM logins WHERE id = ?";

impl Store {
    /// Keeps a login that this security key was tapped for. `false` if the key, or its user, has gone meanwhile.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be written.
    pub async fn add_login(
        &self,
        login: &NewLogin<'_>,
        key: &Id,
        now: TimeOfDay,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "INSERT INTO logins (id, user, device, spki, created, expires) \
             SELECT ?1, user, ?2, ?3, ?4, ?5 FROM credentials WHERE id = ?6 AND user = ?7",
        )
        .bind(login.id.as_str())
        .bind(login.device.as_str())
        .bind(login.spki)
        .bind(now.0)
        .bind(login.expires.0)
        .bind(key.as_str())
        .bind(login.user.as_str())
        .execute(&self.writer)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// The login of this name, ended or not.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be read.
    pub async fn login(&self, id: &Id) -> Result<Option<StoredLogin>, StoreError> {
        let row = sqlx::query(COLUMNS_OF).bind(id.as_str()).fetch_optional(&self.readers).await?;
        row.as_ref().map(read).transpose()
    }

    /// Ends a login; `false` if it had ended already.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be written.
    pub async fn end_login(&self, id: &Id, now: TimeOfDay) -> Result<bool, StoreError> {
        let row = sqlx::query("UPDATE logins SET ended = ? WHERE id = ? AND ended IS NULL RETURNING id")
            .bind(now.0)
            .bind(id.as_str())
            .fetch_optional(&self.writer)
            .await?;
        Ok(row.is_some())
    }

    /// Logins that were ended before their certificates end, with the certificates' end.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be read.
    pub async fn ended_logins(&self, now: TimeOfDay) -> Result<Vec<(Id, TimeOfDay)>, StoreError> {
        let rows = sqlx::query("SELECT id, expires FROM logins WHERE ended IS NOT NULL AND expires > ?")
            .bind(now.0)
            .fetch_all(&self.readers)
            .await?;
        rows.iter().map(|row| Ok((name(row.try_get(0)?, "login")?, TimeOfDay(row.try_get(1)?)))).collect()
    }

    /// Remembers that this tunnel key was certified for this login. `false` if the login has ended.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be written.
    pub async fn add_tunnel_key(
        &self,
        login: &Id,
        key: &Thumbprint,
        now: TimeOfDay,
    ) -> Result<bool, StoreError> {
        let mut transaction = self.writer.begin().await?;
        let done = sqlx::query(
            "INSERT OR REPLACE INTO tunnel_keys (login, thumbprint, created) \
             SELECT id, ?1, ?2 FROM logins WHERE id = ?3 AND ended IS NULL AND expires > ?2",
        )
        .bind(key.as_str())
        .bind(now.0)
        .bind(login.as_str())
        .execute(&mut *transaction)
        .await?;
        sqlx::query(
            "DELETE FROM tunnel_keys WHERE login = ?1 AND thumbprint NOT IN \
             (SELECT thumbprint FROM tunnel_keys WHERE login = ?1 ORDER BY created DESC LIMIT ?2)",
        )
        .bind(login.as_str())
        .bind(MAX_TUNNEL_KEYS)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(done.rows_affected() == 1)
    }

    /// Whether this tunnel key was certified for this login.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be read.
    pub async fn has_tunnel_key(&self, login: &Id, key: &Thumbprint) -> Result<bool, StoreError> {
        let row = sqlx::query("SELECT 1 FROM tunnel_keys WHERE login = ? AND thumbprint = ?")
            .bind(login.as_str())
            .bind(key.as_str())
            .fetch_optional(&self.readers)
            .await?;
        Ok(row.is_some())
    }
}

pub(super) async fn insert_login(
    connection: &mut SqliteConnection,
    login: &NewLogin<'_>,
    now: TimeOfDay,
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO logins (id, user, device, spki, created, expires) VALUES (?, ?, ?, ?, ?, ?)")
        .bind(login.id.as_str())
        .bind(login.user.as_str())
        .bind(login.device.as_str())
        .bind(login.spki)
        .bind(now.0)
        .bind(login.expires.0)
        .execute(connection)
        .await?;
    Ok(())
}

fn read(row: &SqliteRow) -> Result<StoredLogin, StoreError> {
    let login = Login {
        login: name(row.try_get(0)?, "login")?,
        user: name(row.try_get(1)?, "user name")?,
        device: name(row.try_get(2)?, "device name")?,
    };
    let ended: Option<i64> = row.try_get(5)?;
    Ok(StoredLogin {
        login,
        spki: row.try_get(3)?,
        expires: TimeOfDay(row.try_get(4)?),
        ended: ended.map(TimeOfDay),
    })
}
