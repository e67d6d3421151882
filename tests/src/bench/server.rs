//! The server's end of a load, over TCP or QUIC.

use std::io;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::path::{Connection, Reader};
use super::wire::{BLOCK, ECHO_BLOCK, Request, Span, Volume};

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
        Request::Upload(span) => {
            let volume = drain_to_end(&mut connection.reader, span).await?;
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
    let mut block = vec![0; ECHO_BLOCK];
    loop {
        match connection.reader.read(&mut block).await? {
            0 => return Ok(()),
            length => connection.writer.write_all(&block[..length]).await?,
        }
    }
}

/// Reads to the end, and counts what comes within the span, which begins now.
pub(super) async fn drain_to_end(reader: &mut Reader, span: Span) -> io::Result<Volume> {
    let mut count = Count::new(span);
    while count.block(reader).await?.is_some() {}
    Ok(count.volume)
}

/// As [`drain_to_end`], but leaves off when the span is over.
pub(super) async fn drain_for(reader: &mut Reader, span: Span) -> io::Result<Volume> {
    let mut count = Count::new(span);
    let end = count.end;
    // A path that gives nothing more is as much at its end as one that gave all.
    while let Ok(read) = timeout_at(end, count.block(reader)).await {
        if read?.is_none_or(|now| now >= end) {
            break;
        }
    }
    Ok(count.volume)
}

struct Count {
    begin: Instant,
    end: Instant,
    block: Vec<u8>,
    volume: Volume,
}

impl Count {
    fn new(span: Span) -> Self {
        let begin = Instant::now() + span.warm_up;
        Self { begin, end: begin + span.time, block: vec![0; BLOCK], volume: Volume::default() }
    }

    /// When the next bytes came; `None` at the end.
    async fn block(&mut self, reader: &mut Reader) -> io::Result<Option<Instant>> {
        let length = reader.read(&mut self.block).await?;
        if length == 0 {
            return Ok(None);
        }
        let now = Instant::now();
        self.volume.all += length as u64;
        if (self.begin..self.end).contains(&now) {
            self.volume.counted += length as u64;
        }
        Ok(Some(now))
    }
}
