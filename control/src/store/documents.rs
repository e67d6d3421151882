//! Resource documents, as JSON in their canonical form.

use sqlx::Row as _;

use super::{Store, StoreError, unsigned};

/// A document as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredDocument {
    /// The kind, as documents write it.
    pub kind: String,
    /// The name, unique among its kind.
    pub name: String,
    /// The canonical form.
    pub json: String,
}

impl Store {
    /// Every document, by kind and name.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be read.
    pub async fn documents(&self) -> Result<Vec<StoredDocument>, StoreError> {
        let rows = sqlx::query("SELECT kind, name, json FROM documents ORDER BY kind, name")
            .fetch_all(&self.readers)
            .await?;
        let read = |row: &sqlx::sqlite::SqliteRow| {
            Ok(StoredDocument { kind: row.try_get(0)?, name: row.try_get(1)?, json: row.try_get(2)? })
        };
        rows.iter().map(read).collect()
    }

    /// Puts documents in force and removes others, all of it or nothing; answers the new revision.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be written.
    pub async fn change_documents(
        &self,
        put: &[StoredDocument],
        removed: &[(String, String)],
    ) -> Result<u64, StoreError> {
        let mut transaction = self.writer.begin().await?;
        let row = sqlx::query("UPDATE revision SET value = value + 1 RETURNING value")
            .fetch_one(&mut *transaction)
            .await?;
        let revision: i64 = row.try_get(0)?;
        for document in put {
            sqlx::query("INSERT OR REPLACE INTO documents (kind, name, json, revision) VALUES (?, ?, ?, ?)")
                .bind(&document.kind)
                .bind(&document.name)
                .bind(&document.json)
                .bind(revision)
                .execute(&mut *transaction)
                .await?;
        }
        for (kind, name) in removed {
            sqlx::query("DELETE FROM documents WHERE kind = ? AND name = ?")
                .bind(kind)
                .bind(name)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        unsigned(revision, "revision")
    }
}
