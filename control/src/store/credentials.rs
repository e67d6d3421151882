//! Security keys as they were enrolled, with the signature counter that each has reached.

use portlatch_clock::TimeOfDay;
use portlatch_protocol::names::{Id, UserName};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};
use webauthn_rs::prelude::SecurityKey;

use super::{Store, StoreError, name};

/// What a key is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialKind {
    /// It is tapped.
    SecurityKey,
    /// It verifies its user, and then suffices for signing in.
    Passkey,
}

impl CredentialKind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::SecurityKey => "security_key",
            Self::Passkey => "passkey",
        }
    }

    fn read(text: &str) -> Result<Self, StoreError> {
        match text {
            "security_key" => Ok(Self::SecurityKey),
            "passkey" => Ok(Self::Passkey),
            _ => Err(StoreError::Unreadable("kind of key")),
        }
    }
}

/// A key to be kept.
#[derive(Debug)]
pub struct NewCredential<'a> {
    /// Our name for it, in grants and audit.
    pub id: &'a Id,
    /// Whose it is.
    pub user: &'a UserName,
    /// What people call it.
    pub name: &'a str,
    /// What it is good for.
    pub kind: CredentialKind,
    /// What verifies its signatures.
    pub security_key: &'a SecurityKey,
}

/// A key of a user.
#[derive(Debug, Clone)]
pub struct StoredCredential {
    /// Our name for it.
    pub id: Id,
    /// What it is good for.
    pub kind: CredentialKind,
    /// What verifies its signatures.
    pub security_key: SecurityKey,
}

impl Store {
    /// The user's keys, oldest first.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be read.
    pub async fn credentials(&self, user: &UserName) -> Result<Vec<StoredCredential>, StoreError> {
        let rows =
            sqlx::query("SELECT id, security_key, kind FROM credentials WHERE user = ? ORDER BY created, id")
                .bind(user.as_str())
                .fetch_all(&self.readers)
                .await?;
        rows.iter().map(read).collect()
    }

    /// Whose this credential is, by the name that authenticators know it by, and the key; `None` if nobody's.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be read.
    pub async fn credential_named(
        &self,
        credential: &[u8],
    ) -> Result<Option<(UserName, StoredCredential)>, StoreError> {
        let row = sqlx::query("SELECT id, security_key, kind, user FROM credentials WHERE credential = ?")
            .bind(credential)
            .fetch_optional(&self.readers)
            .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some((name(row.try_get(3)?, "user name")?, read(&row)?)))
    }

    /// Keeps the counter that a verified assertion brought, if the key still is this user's and the counter is higher
    /// than any before, or both are zero (a key that does not count). `false` otherwise: a clone, or an answer that
    /// was overtaken.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be written.
    pub async fn advance_counter(
        &self,
        id: &Id,
        user: &UserName,
        security_key: &SecurityKey,
        counter: u32,
        now: TimeOfDay,
    ) -> Result<bool, StoreError> {
        let json = serde_json::to_string(security_key).map_err(|_| StoreError::Unreadable("security key"))?;
        let statement = "UPDATE credentials SET counter = ?1, security_key = ?2, last_used = ?3 \
             WHERE id = ?4 AND user = ?5 AND (counter < ?1 OR (counter = 0 AND ?1 = 0)) RETURNING id";
        let row = sqlx::query(statement)
            .bind(i64::from(counter))
            .bind(json)
            .bind(now.0)
            .bind(id.as_str())
            .bind(user.as_str())
            .fetch_optional(&self.writer)
            .await?;
        Ok(row.is_some())
    }

    /// Whether the key still is enrolled.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be read.
    pub async fn has_credential(&self, id: &Id) -> Result<bool, StoreError> {
        let row = sqlx::query("SELECT 1 FROM credentials WHERE id = ?")
            .bind(id.as_str())
            .fetch_optional(&self.readers);
        Ok(row.await?.is_some())
    }

    /// Removes a key of a user; `false` if the user has no such key.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be written.
    pub async fn remove_credential(&self, id: &Id, user: &UserName) -> Result<bool, StoreError> {
        let row = sqlx::query("DELETE FROM credentials WHERE id = ? AND user = ? RETURNING id")
            .bind(id.as_str())
            .bind(user.as_str())
            .fetch_optional(&self.writer)
            .await?;
        Ok(row.is_some())
    }
}

fn read(row: &SqliteRow) -> Result<StoredCredential, StoreError> {
    let security_key = serde_json::from_str(row.try_get(1)?);
    let security_key = security_key.map_err(|_| StoreError::Unreadable("security key"))?;
    let kind = CredentialKind::read(row.try_get(2)?)?;
    Ok(StoredCredential { id: name(row.try_get(0)?, "key name")?, kind, security_key })
}

/// `false` if the credential is enrolled already, by whomever (WebAuthn section 7.1 step 26).
pub(super) async fn insert_credential(
    connection: &mut SqliteConnection,
    credential: &NewCredential<'_>,
    now: TimeOfDay,
) -> Result<bool, StoreError> {
    let json =
        serde_json::to_string(credential.security_key).map_err(|_| StoreError::Unreadable("security key"))?;
    let counter = webauthn_rs::prelude::Credential::from(credential.security_key.clone()).counter;
    let done = sqlx::query(
        "INSERT INTO credentials (id, credential, user, name, security_key, counter, created, kind) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (credential) DO NOTHING",
    )
    .bind(credential.id.as_str())
    .bind(credential.security_key.cred_id().as_slice())
    .bind(credential.user.as_str())
    .bind(credential.name)
    .bind(json)
    .bind(i64::from(counter))
    .bind(now.0)
    .bind(credential.kind.as_str())
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}
