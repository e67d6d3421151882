//! The secret side of users: the password's hash, the WebAuthn user handle, and one-time enrolment tokens.

use portlatch_clock::TimeOfDay;
use portlatch_protocol::names::UserName;
use sqlx::Row as _;

use super::credentials::{NewCredential, insert_credential};
use super::logins::{NewLogin, insert_login};
use super::{Store, StoreError, name};

/// How many random bytes name a user to authenticators (WebAuthn section 5.4.3: no personal information).
pub const HANDLE_BYTES: usize = 16;

/// What control knows of a user beside the document.
#[derive(Clone)]
pub struct UserSecrets {
    /// The name that authenticators know the user by.
    pub handle: [u8; HANDLE_BYTES],
    /// The password's hash in PHC form; none before the enrolment.
    pub password_hash: Option<String>,
}

impl std::fmt::Debug for UserSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserSecrets")
            .field("is_enrolled", &self.password_hash.is_some())
            .finish_non_exhaustive()
    }
}

/// What an enrolment leaves behind, all of it or nothing.
pub struct Enrolment<'a> {
    /// SHA-256 of the token.
    pub token_hash: &'a [u8; 32],
    /// The hash of the password that the user chose.
    pub password_hash: &'a str,
    /// The first security key.
    pub credential: NewCredential<'a>,
    /// The login that the enrolment ends in, where it was an agent's.
    pub login: Option<NewLogin<'a>>,
}

impl std::fmt::Debug for Enrolment<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Enrolment").field("user", self.credential.user).finish_non_exhaustive()
    }
}

impl Store {
    /// The user's secrets, if there are any.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be read.
    pub async fn user_secrets(&self, user: &UserName) -> Result<Option<UserSecrets>, StoreError> {
        let row = sqlx::query("SELECT handle, password_hash FROM users WHERE name = ?")
            .bind(user.as_str())
            .fetch_optional(&self.readers)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let handle: Vec<u8> = row.try_get(0)?;
        let handle = handle.try_into().map_err(|_| StoreError::Unreadable("user handle"))?;
        Ok(Some(UserSecrets { handle, password_hash: row.try_get(1)? }))
    }

    /// Forgets the user's password, keys and older tokens, ends the logins, and keeps a new token's hash.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be written.
    pub async fn reset_user(
        &self,
        user: &UserName,
        token_hash: &[u8; 32],
        expires: TimeOfDay,
        now: TimeOfDay,
    ) -> Result<(), StoreError> {
        let mut handle = [0; HANDLE_BYTES];
        getrandom::fill(&mut handle).expect("the system has randomness");
        let mut transaction = self.writer.begin().await?;
        // A new handle: authenticators must not take the new keys for the old ones' successors.
        sqlx::query("DELETE FROM users WHERE name = ?")
            .bind(user.as_str())
            .execute(&mut *transaction)
            .await?;
        sqlx::query("INSERT INTO users (name, handle) VALUES (?, ?)")
            .bind(user.as_str())
            .bind(handle.as_slice())
            .execute(&mut *transaction)
            .await?;
        sqlx::query("INSERT INTO enrolments (hash, user, expires) VALUES (?, ?, ?)")
            .bind(token_hash.as_slice())
            .bind(user.as_str())
            .bind(expires.0)
            .execute(&mut *transaction)
            .await?;
        sqlx::query("UPDATE logins SET ended = ? WHERE user = ? AND ended IS NULL")
            .bind(now.0)
            .bind(user.as_str())
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Forgets all secrets of users that have no document any more, and ends their logins.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be written.
    pub async fn remove_user(&self, user: &UserName, now: TimeOfDay) -> Result<(), StoreError> {
        let mut transaction = self.writer.begin().await?;
        sqlx::query("DELETE FROM users WHERE name = ?")
            .bind(user.as_str())
            .execute(&mut *transaction)
            .await?;
        sqlx::query("UPDATE logins SET ended = ? WHERE user = ? AND ended IS NULL")
            .bind(now.0)
            .bind(user.as_str())
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Everyone with secrets.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be read.
    pub async fn users_with_secrets(&self) -> Result<Vec<UserName>, StoreError> {
        let rows = sqlx::query("SELECT name FROM users").fetch_all(&self.readers).await?;
        rows.iter().map(|row| name(row.try_get(0)?, "user name")).collect()
    }

    /// Whether this token would enrol this user now. It stays usable: only [`Store::enrol`] consumes it.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be read.
    pub async fn enrolment_stands(
        &self,
        token_hash: &[u8; 32],
        user: &UserName,
        now: TimeOfDay,
    ) -> Result<bool, StoreError> {
        let statement =
            "SELECT 1 FROM enrolments WHERE hash = ? AND user = ? AND used IS NULL AND expires > ?";
        let row = sqlx::query(statement)
            .bind(token_hash.as_slice())
            .bind(user.as_str())
            .bind(now.0)
            .fetch_optional(&self.readers)
            .await?;
        Ok(row.is_some())
    }

    /// Consumes the token and sets password, first key and login; `false`, and nothing changed, if the token was used
    /// already or has ended.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be written.
    pub async fn enrol(&self, enrolment: &Enrolment<'_>, now: TimeOfDay) -> Result<bool, StoreError> {
        let user = enrolment.credential.user;
        let mut transaction = self.writer.begin().await?;
        // Finding and consuming are one statement: of any number of attempts one gets the row.
        let consumed = sqlx::query(
            "UPDATE enrolments SET used = ? WHERE hash = ? AND user = ? AND used IS NULL AND expires > ? RETURNING user",
        )
        .bind(now.0)
        .bind(enrolment.token_hash.as_slice())
        .bind(user.as_str())
        .bind(now.0)
        .fetch_optional(&mut *transaction)
        .await?;
        if consumed.is_none() {
            return Ok(false);
        }
        sqlx::query("UPDATE users SET password_hash = ? WHERE name = ?")
            .bind(enrolment.password_hash)
            .bind(user.as_str())
            .execute(&mut *transaction)
            .await?;
        if !insert_credential(&mut transaction, &enrolment.credential, now).await? {
            return Ok(false);
        }
        if let Some(login) = &enrolment.login {
            insert_login(&mut transaction, login, now).await?;
        }
        transaction.commit().await?;
        Ok(true)
    }
}
