//! What SQLite commits a second by itself: the reference for whatever waits for it.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use tokio::task::JoinSet;

use super::super::figures::Samples;
use super::super::repeated::{Window, gathered};
use super::super::wire::Span;
use super::{directory_in, figures};

/// What a grant takes, more or less.
const ROW_BYTES: usize = 400;
/// As control's: how long a writer waits for its turn.
const PATIENCE: Duration = Duration::from_secs(10);

/// So many at a time insert a row each, in a transaction of its own, over one connection as control's writer is: commits a
/// second, p50 and p99 in milliseconds.
///
/// # Errors
/// If the database cannot be written.
pub async fn commits(parallel: usize, span: Span, scratch: &Path) -> Result<Value> {
    let dir = directory_in(scratch)?;
    let pool = open(&dir.path().join("commits.db")).await?;
    let window = Window::of(span);
    let mut tasks = JoinSet::new();
    for _ in 0..parallel {
        let pool = pool.clone();
        tasks.spawn(async move {
            let mut samples = Samples::default();
            while let Some(began) = window.begins() {
                sqlx::query("INSERT INTO rows (content) VALUES (?)")
                    .bind(vec![7; ROW_BYTES])
                    .execute(&pool)
                    .await?;
                window.ends(began).into_iter().for_each(|sample| samples.push(sample));
            }
            Ok(samples)
        });
    }
    let samples = gathered(tasks).await?;
    pool.close().await;
    Ok(figures(samples, span.time))
}

async fn open(file: &Path) -> Result<SqlitePool> {
    let options = SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(PATIENCE);
    let pool = SqlitePoolOptions::new().max_connections(1).idle_timeout(None).connect_with(options).await?;
    sqlx::query("CREATE TABLE rows (id INTEGER PRIMARY KEY, content BLOB NOT NULL) STRICT")
        .execute(&pool)
        .await?;
    Ok(pool)
}
