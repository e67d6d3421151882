//! Connections that are open and idle, so that memory and the other loads can be looked at beside them.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::load::{PATIENCE, round};
use super::path::{Connection, Path};
use super::wire::Request;

/// Opened at once: enough to be quick, too few to meet any limit on what waits.
const AT_ONCE: usize = 16;
/// How long all of them may take to end: they end at once, and an engine may drop much of that.
const CLOSING: Duration = Duration::from_secs(60);

/// Reads numbers, one a line; opens connections until there are as many, and tells. At the end of the input it closes
/// them all, and is done when the other ends have closed them too.
///
/// # Errors
/// If a connection fails, or a line is no number.
pub async fn hold(
    path: &Path,
    mut wanted: impl AsyncBufRead + Unpin,
    mut tell: impl FnMut(usize) -> Result<()>,
) -> Result<()> {
    let mut held = Vec::new();
    let mut line = String::new();
    while wanted.read_line(&mut line).await? > 0 {
        let number = line.trim().parse().context("a number of connections is needed")?;
        while held.len() < number {
            open(path, AT_ONCE.min(number - held.len()), &mut held).await?;
        }
        tell(held.len())?;
        line.clear();
    }
    timeout_at(Instant::now() + CLOSING, close(held)).await.context("waiting for connections to end")?
}

/// Opens so many more. Each has answered once: whatever a path puts off until the first byte is done.
async fn open(path: &Path, number: usize, held: &mut Vec<Connection>) -> Result<()> {
    let mut opening = JoinSet::new();
    for _ in 0..number {
        let path = path.clone();
        opening.spawn(async move {
            let mut connection = path.connect().await?;
            Request::Echo.write(&mut connection.writer).await?;
            timeout_at(Instant::now() + PATIENCE, round(&mut connection, &mut [1]))
                .await
                .context("waiting for a byte")??;
            anyhow::Ok(connection)
        });
    }
    while let Some(opened) = opening.join_next().await {
        held.push(opened??);
    }
    Ok(())
}

async fn close(mut held: Vec<Connection>) -> Result<()> {
    for connection in &mut held {
        connection.writer.shutdown().await?;
    }
    for connection in &mut held {
        ensure!(connection.reader.read(&mut [0]).await? == 0, "an idle connection says something");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::bench::server::serve_tcp;

    #[tokio::test]
    async fn as_many_connections_are_open_as_were_wanted_last() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let path = Path::tcp(&listener.local_addr().unwrap().to_string()).await.unwrap();
        let mut server = JoinSet::new();
        server.spawn(async { serve_tcp(listener).await.unwrap() });
        let told = AtomicUsize::new(0);
        let tell = |number| {
            told.store(number, Ordering::Relaxed);
            Ok(())
        };
        hold(&path, &b"8\n40\n"[..], tell).await.unwrap();
        assert_eq!(told.load(Ordering::Relaxed), 40);
        assert!(hold(&path, &b"many\n"[..], |_| Ok(())).await.is_err());
    }

    #[tokio::test]
    async fn a_path_that_refuses_is_an_error() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let path = Path::Tcp(listener.local_addr().unwrap());
        drop(listener);
        assert!(hold(&path, &b"1\n"[..], |_| Ok(())).await.is_err());
    }
}
