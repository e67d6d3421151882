//! What control remembers across restarts: one SQLite file, typed functions grouped by concern.
//!
//! Nothing here decides anything; conditions that must hold at the very moment of a write (a token is unused, a counter
//! has grown, a login still stands) are part of the one statement that writes, so that no two requests can both be first.
//! Another database takes this place by offering the same functions.

use std::fs::{OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use portlatch_clock::TimeOfDay;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Row as _, SqlitePool};

pub mod apps;
pub mod credentials;
pub mod devices;
pub mod documents;
pub mod grants;
pub mod join_tokens;
pub mod logins;
pub mod taps;
pub mod users;
pub mod web_sessions;

/// What the database's files may be read and written by.
const OWNER_ONLY: u32 = 0o600;
/// How long a request waits for its turn at the database before it is told that control cannot serve.
const PATIENCE: Duration = Duration::from_secs(5);
/// Readers at once; the pages of all policies fit the cache, so more would only wait for the processor.
const READERS: u32 = 4;
/// How long rows that have ended are kept, so that what a proxy may still hold a certificate of can be told from what
/// never was.
const KEPT_AFTER_END: Duration = Duration::from_secs(3600);
/// The same for grants: longer than any proxy's clock is off.
const GRANTS_KEPT: Duration = Duration::from_secs(60);

/// Why the store could not do it. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database: disk full, gone, busy for too long.
    #[error("the database cannot be used")]
    Database(#[from] sqlx::Error),
    /// Its schema could not be brought up to date.
    #[error("the database's schema cannot be brought up to date")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// A row holds what this version cannot have written.
    #[error("the database has an unreadable {0}")]
    Unreadable(&'static str),
}

/// The database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    readers: SqlitePool,
    /// SQLite takes one writer at a time: waiting happens here, in order, and never as SQLITE_BUSY.
    writer: SqlitePool,
}

impl Store {
    /// Opens or makes the file and brings its schema up to date.
    ///
    /// # Errors
    /// [`StoreError`] if the file cannot be used.
    pub async fn open(file: &Path) -> Result<Self, StoreError> {
        keep_from_others(file).map_err(sqlx::Error::Io)?;
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(PATIENCE);
        let pool = |connections: u32| {
            SqlitePoolOptions::new().max_connections(connections).acquire_timeout(PATIENCE).idle_timeout(None)
        };
        let writer = pool(1).connect_with(options.clone()).await?;
        sqlx::migrate!("./migrations").run(&writer).await?;
        let readers = pool(READERS).connect_with(options.read_only(true).create_if_missing(false)).await?;
        Ok(Self { readers, writer })
    }

    /// Closes the file; the write-ahead log is folded in.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    /// Lets the file grow to so many pages and no further (it keeps what it has), as a full disk does.
    #[cfg(test)]
    pub(crate) async fn allow_pages(&self, pages: u32) {
        let pragma = format!("PRAGMA max_page_count = {pages}");
        sqlx::query(sqlx::AssertSqlSafe(pragma)).execute(&self.writer).await.expect("the pragma is known");
    }

    /// Refuses whatever is to be written anew into this table.
    #[cfg(test)]
    pub(crate) async fn refuse_inserts(&self, table: &str) {
        let trigger = format!(
            "CREATE TEMP TRIGGER refused BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'refused'); END"
        );
        sqlx::query(sqlx::AssertSqlSafe(trigger)).execute(&self.writer).await.expect("the table is there");
    }

    /// The number of the newest change that a catalogue could show.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be read.
    pub async fn revision(&self) -> Result<u64, StoreError> {
        let row = sqlx::query("SELECT value FROM revision").fetch_one(&self.readers).await?;
        unsigned(row.try_get(0)?, "revision")
    }

    /// Counts a change that stands outside the documents (a proxy came or went).
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be written.
    pub async fn next_revision(&self) -> Result<u64, StoreError> {
        let statement = "UPDATE revision SET value = value + 1 RETURNING value";
        unsigned(sqlx::query(statement).fetch_one(&self.writer).await?.try_get(0)?, "revision")
    }

    /// Forgets what has ended long ago.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be written.
    pub async fn sweep(&self, now: TimeOfDay) -> Result<(), StoreError> {
        let kept = now.0.saturating_sub(i64::try_from(KEPT_AFTER_END.as_millis()).unwrap_or(i64::MAX));
        // Of these there may be many, and nobody asks for one that no proxy takes any more.
        let ended = now.0.saturating_sub(i64::try_from(GRANTS_KEPT.as_millis()).unwrap_or(i64::MAX));
        sqlx::query("DELETE FROM grants WHERE expires < ?").bind(ended).execute(&self.writer).await?;
        for statement in [
            "DELETE FROM taps WHERE time < ?",
            "DELETE FROM logins WHERE expires < ?",
            "DELETE FROM enrolments WHERE expires < ?",
            "DELETE FROM join_tokens WHERE expires < ?",
            "DELETE FROM web_sessions WHERE expires < ?",
        ] {
            sqlx::query(statement).bind(kept).execute(&self.writer).await?;
        }
        // Failures of a time that is still to come would count for longer than they should.
        sqlx::query("DELETE FROM code_failures WHERE last > ?").bind(now.0).execute(&self.writer).await?;
        self.forget_future_taps(now).await
    }
}

/// A name as it was written; anything else means that the file was changed by another hand.
fn name<T: FromStr>(text: &str, what: &'static str) -> Result<T, StoreError> {
    text.parse().map_err(|_| StoreError::Unreadable(what))
}

fn unsigned(value: i64, what: &'static str) -> Result<u64, StoreError> {
    u64::try_from(value).map_err(|_| StoreError::Unreadable(what))
}

fn port(value: i64) -> Result<u16, StoreError> {
    u16::try_from(value).map_err(|_| StoreError::Unreadable("port"))
}

/// Makes the file, if it is not there, for its owner alone: SQLite goes by the umask, and gives its log the file's mode.
fn keep_from_others(file: &Path) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(OWNER_ONLY).open(file)?;
    file.set_permissions(Permissions::from_mode(OWNER_ONLY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn its_files_are_for_their_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("control.db");
        // As an earlier version left it.
        std::fs::write(&file, []).unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        let store = Store::open(&file).await.unwrap();
        store.next_revision().await.unwrap();
        let mut seen = 0;
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{entry:?}");
            seen += 1;
        }
        assert!(seen >= 2, "the database and its log");
    }

    #[tokio::test]
    async fn a_second_opening_finds_the_same_revision() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("control.db");
        let store = Store::open(&file).await.unwrap();
        let revision = store.next_revision().await.unwrap();
        store.close().await;
        assert_eq!(Store::open(&file).await.unwrap().revision().await.unwrap(), revision);
    }

    #[tokio::test]
    async fn the_file_is_durable_and_keeps_its_references() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("control.db")).await.unwrap();
        for (pragma, wanted) in [("PRAGMA synchronous", 2_i64), ("PRAGMA foreign_keys", 1)] {
            let row = sqlx::query(pragma).fetch_one(&store.writer).await.unwrap();
            assert_eq!(row.get::<i64, _>(0), wanted, "{pragma}");
        }
        let row = sqlx::query("PRAGMA journal_mode").fetch_one(&store.writer).await.unwrap();
        assert_eq!(row.get::<String, _>(0), "wal");
    }
}
