//! Logins, and the tunnel keys that were certified for them.

use std::net::IpAddr;

use portlatch_clock::TimeOfDay;
use portlatch_protocol::identity::Login;
use portlatch_protocol::names::{DeviceName, Id, UserName};
use portlatch_protocol::thumbprint::Thumbprint;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::{Store, StoreError, name};

/// Tunnel keys kept for a login, newest first: a daemon has one at a time, and each attach makes a new one.
const MAX_TUNNEL_KEYS: i64 = 64;

/// Logins of one user that are listed: some months of a login a day.
const MAX_LISTED: i64 = 256;

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
    /// From where it is made.
    pub address: IpAddr,
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
    /// From where it was made; unknown of one that an older version made.
    pub address: Option<IpAddr>,
    /// When it ends by itself.
    pub expires: TimeOfDay,
    /// When it was ended before that.
    pub ended: Option<TimeOfDay>,
}

const COLUMNS_OF: &str = "SELECT id, user, device, spki, expires, ended, address FROM logins WHERE id = ?";

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
            "INSERT INTO logins (id, user, device, spki, created, expires, address) \
             SELECT ?1, user, ?2, ?3, ?4, ?5, ?8 FROM credentials WHERE id = ?6 AND user = ?7",
        )
        .bind(login.id.as_str())
        .bind(login.device.as_str())
        .bind(login.spki)
        .bind(now.0)
        .bind(login.expires.0)
        .bind(key.as_str())
        .bind(login.user.as_str())
        .bind(login.address.to_string())
        .execute(&self.writer)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Keeps a login that this recovery code of its user was given for, and uses the code up. The number of codes that are
    /// left; none if the user has no such code, or it was used.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be written.
    pub async fn add_login_by_recovery(
        &self,
        login: &NewLogin<'_>,
        code: &[u8; 32],
        now: TimeOfDay,
    ) -> Result<Option<u32>, StoreError> {
        let mut transaction = self.writer.begin().await?;
        // Finding and using up are one statement: of any number of attempts one gets the row.
        let used = sqlx::query(
            "UPDATE recovery_codes SET used = ? WHERE hash = ? AND user = ? AND used IS NULL RETURNING user",
        )
        .bind(now.0)
        .bind(code.as_slice())
        .bind(login.user.as_str())
        .fetch_optional(&mut *transaction)
        .await?;
        if used.is_none() {
            return Ok(None);
        }
        let left = sqlx::query("SELECT COUNT(*) FROM recovery_codes WHERE user = ? AND used IS NULL")
            .bind(login.user.as_str())
            .fetch_one(&mut *transaction)
            .await?;
        let left: i64 = left.try_get(0)?;
        insert_login(&mut transaction, login, now).await?;
        transaction.commit().await?;
        u32::try_from(left).map(Some).map_err(|_| StoreError::Unreadable("number of codes"))
    }

    /// The login of this name, ended or not.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be read.
    pub async fn login(&self, id: &Id) -> Result<Option<StoredLogin>, StoreError> {
        let row = sqlx::query(COLUMNS_OF).bind(id.as_str()).fetch_optional(&self.readers).await?;
        row.as_ref().map(read).transpose()
    }

    /// The logins of a user, ended or not, newest first, as many as an administrator would read of.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be read.
    pub async fn logins_of(&self, user: &UserName) -> Result<Vec<Login>, StoreError> {
        let statement = "SELECT id, user, device FROM logins WHERE user = ? ORDER BY created DESC LIMIT ?";
        let rows =
            sqlx::query(statement).bind(user.as_str()).bind(MAX_LISTED).fetch_all(&self.readers).await?;
        rows.iter().map(login_of).collect()
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
    sqlx::query(
        "INSERT INTO logins (id, user, device, spki, created, expires, address) VALUES (?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(login.id.as_str())
    .bind(login.user.as_str())
    .bind(login.device.as_str())
    .bind(login.spki)
    .bind(now.0)
    .bind(login.expires.0)
    .bind(login.address.to_string())
    .execute(connection)
    .await?;
    Ok(())
}

fn login_of(row: &SqliteRow) -> Result<Login, StoreError> {
    Ok(Login {
        login: name(row.try_get(0)?, "login")?,
        user: name(row.try_get(1)?, "user name")?,
        device: name(row.try_get(2)?, "device name")?,
    })
}

fn read(row: &SqliteRow) -> Result<StoredLogin, StoreError> {
    let login = login_of(row)?;
    let ended: Option<i64> = row.try_get(5)?;
    let address: Option<&str> = row.try_get(6)?;
    Ok(StoredLogin {
        login,
        spki: row.try_get(3)?,
        address: address.map(|address| name(address, "address")).transpose()?,
        expires: TimeOfDay(row.try_get(4)?),
        ended: ended.map(TimeOfDay),
    })
}
