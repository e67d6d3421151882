//! The server's end of a load, over TCP or QUIC.

use std::io;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::path::{Connection, Reader};
use super::wire::{BLOCK, Request, Volume};

/// Connections at once; beyond them new ones wait.
const MAX_CONNECTIONS: usize = 20_000;

/// Serves TCP connections until it is ended.
///
/// # Errors
/// If the listener fails.
pub async fn serve_tcp(listener: TcpListener) -> Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        spawn(&mut connections, stream.into()).await;
    }
}

/// Serves the streams of QUIC connections until it is ended.
pub async fn serve_quic(endpoint: quinn::Endpoint) {
    let mut clients = JoinSet::new();
    while let Some(incoming) = endpoint.accept().await {
        clients.spawn(async move {
            let Ok(connection) = incoming.await else { return };
            let mut streams = JoinSet::new();
            while let Ok(stream) = connection.accept_bi().await {
                spawn(&mut streams, stream.into()).await;
            }
        });
        while clients.try_join_next().is_some() {}
    }
}

async fn spawn(connections: &mut JoinSet<()>, connection: Connection) {
    if connections.len() >= MAX_CONNECTIONS {
        connections.join_next().await;
    }
    while connections.try_join_next().is_some() {}
    connections.spawn(async move {
        // A load ends its connections as it likes; how is the client's to say.
        let _ = serve(connection).await;
    });
}

async fn serve(mut connection: Connection) -> io::Result<()> {
    match Request::read(&mut connection.reader).await? {
        Request::Echo => echo(&mut connection).await?,
        Request::Once => {
            let byte = connection.reader.read_u8().await?;
            connection.writer.write_u8(byte).await?;
        }
        Request::Upload { warm_up } => {
            let volume = drain(&mut connection.reader, Instant::now() + warm_up, None).await?;
            volume.write(&mut connection.writer).await?;
        }
        Request::Download => {
            let block = vec![0; BLOCK];
            while connection.writer.write_all(&block).await.is_ok() {}
            return Ok(());
        }
    }
    connection.writer.shutdown().await
}

async fn echo(connection: &mut Connection) -> io::Result<()> {
    let mut block = vec![0; BLOCK];
    loop {
        match connection.reader.read(&mut block).await? {
            0 => return Ok(()),
            length => connection.writer.write_all(&block[..length]).await?,
        }
    }
}

/// Reads to the end, or until a time, and counts what comes from `since` on.
pub(super) async fn drain(reader: &mut Reader, since: Instant, until: Option<Instant>) -> io::Result<Volume> {
    let mut block = vec![0; BLOCK];
    let mut volume = Volume::default();
    loop {
        let length = reader.read(&mut block).await?;
        let now = Instant::now();
        if length == 0 || until.is_some_and(|until| now >= until) {
            return Ok(volume);
        }
        if now >= since {
            volume.bytes += length as u64;
            volume.time = now - since;
        }
    }
}
