//! The client's end of a load.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::figures::{Samples, fairness, megabits_per_second, per_second};
use super::path::{Connection, Path};
use super::repeated::gathered;
use super::server::drain_for;
use super::wire::{BLOCK, Request, Span, Volume};

/// What a path may take beyond the load's own time before it counts as stuck.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// More than any path answers in a run; bounds memory.
const MAX_SAMPLES: usize = 5_000_000;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Direction {
    /// From the user.
    Up,
    /// To the user.
    Down,
}

impl Direction {
    /// As on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// So many bytes there and back, again and again on one connection: p50 and p99 in microseconds, and how many each
/// second.
///
/// # Errors
/// If the path fails or is stuck.
pub async fn request_response(path: &Path, bytes: usize, span: Span) -> Result<Value> {
    let mut message = vec![1; bytes];
    let mut connection = path.connect().await?;
    Request::Echo.write(&mut connection.writer).await?;
    let begin = Instant::now() + span.warm_up;
    let (mut samples, mut finished) = (Samples::default(), Instant::now());
    while finished < begin + span.time && samples.len() < MAX_SAMPLES {
        let sent = Instant::now();
        timeout_at(sent + PATIENCE, round(&mut connection, &mut message))
            .await
            .context("waiting for an answer")??;
        finished = Instant::now();
        if sent >= begin {
            samples.push(finished - sent);
        }
    }
    latencies(samples, finished.saturating_duration_since(begin))
}

/// A message there and back.
pub(super) async fn round(connection: &mut Connection, message: &mut [u8]) -> Result<()> {
    connection.writer.write_all(message).await?;
    connection.writer.flush().await?;
    connection.reader.read_exact(message).await?;
    Ok(())
}

/// Connect, one byte there and back, close; so many at once: as [`request_response`], of whole connections.
///
/// # Errors
/// If a connection fails or is stuck.
pub async fn new_connections(path: &Path, parallel: usize, span: Span) -> Result<Value> {
    let begin = Instant::now() + span.warm_up;
    let mut workers = JoinSet::new();
    for _ in 0..parallel {
        let path = path.clone();
        workers.spawn(async move {
            let mut samples = Samples::default();
            loop {
                let started = Instant::now();
                if started >= begin + span.time || samples.len() >= MAX_SAMPLES {
                    return anyhow::Ok(samples);
                }
                timeout_at(started + PATIENCE, once(&path)).await.context("waiting for a connection")??;
                if started >= begin {
                    samples.push(started.elapsed());
                }
            }
        });
    }
    latencies(gathered(workers).await?, begin.elapsed())
}

/// One connection and one byte: whether the path is there.
///
/// # Errors
/// If it is not.
pub async fn probe(path: &Path) -> Result<()> {
    timeout_at(Instant::now() + PATIENCE, once(path)).await.context("waiting for a connection")?
}

async fn once(path: &Path) -> Result<()> {
    let mut connection = path.connect().await?;
    Request::Once.write(&mut connection.writer).await?;
    connection.writer.write_u8(1).await?;
    connection.writer.flush().await?;
    connection.reader.read_u8().await?;
    // The server closes first, so that the client's ports are free again at once.
    let mut rest = [0];
    if connection.reader.read(&mut rest).await? != 0 {
        bail!("more than one byte came back");
    }
    connection.writer.shutdown().await.context("closing")
}

fn latencies(mut samples: Samples, time: Duration) -> Result<Value> {
    let count = samples.len() as u64;
    let (p50, p99) = (samples.percentile(50), samples.percentile(99));
    let (Some(p50), Some(p99)) = (p50, p99) else { bail!("nothing was finished in time") };
    let micros = |duration: Duration| duration.as_secs_f64() * 1e6;
    Ok(json!({ "p50_us": micros(p50), "p99_us": micros(p99), "per_second": per_second(count, time) }))
}

/// As many bytes as pass: megabits each second, of all flows together, counted where they arrive.
///
/// # Errors
/// If a flow fails or is stuck.
pub async fn bulk(path: &Path, direction: Direction, flows: usize, span: Span) -> Result<Value> {
    let total = transfer(path, direction, flows, span).await?;
    Ok(json!({ "mbit_per_second": total.megabits, "bytes": total.bytes, "fairness": total.fairness }))
}

/// Both ways at once, so many flows each: megabits each second of each direction, and what the weaker one has of half of
/// the sum.
///
/// # Errors
/// If a flow fails or is stuck.
pub async fn both_ways(path: &Path, flows: usize, span: Span) -> Result<Value> {
    let (up, down) = tokio::try_join!(
        transfer(path, Direction::Up, flows, span),
        transfer(path, Direction::Down, flows, span)
    )?;
    Ok(json!({
        "up_mbit_per_second": up.megabits,
        "down_mbit_per_second": down.megabits,
        "weaker": up.megabits.min(down.megabits) / f64::midpoint(up.megabits, down.megabits),
        "bytes": up.bytes + down.bytes,
    }))
}

struct Total {
    megabits: f64,
    /// Those of the warm-up too: what the processor's time was spent on.
    bytes: u64,
    fairness: f64,
}

async fn transfer(path: &Path, direction: Direction, flows: usize, span: Span) -> Result<Total> {
    let mut workers = JoinSet::new();
    for _ in 0..flows {
        let path = path.clone();
        workers.spawn(async move {
            let end = Instant::now() + span.warm_up + span.time + PATIENCE;
            match direction {
                Direction::Up => timeout_at(end, upload(&path, span)).await,
                Direction::Down => timeout_at(end, download(&path, span)).await,
            }
            .context("waiting for the last byte")?
        });
    }
    let mut volumes = Vec::with_capacity(flows);
    while let Some(worker) = workers.join_next().await {
        let volume = worker??;
        volumes.push(volume);
    }
    // A single flow that starves is shown by the fairness.
    if volumes.iter().all(|volume| volume.counted == 0) {
        bail!("no flow carried anything");
    }
    let counted: Vec<_> = volumes.iter().map(|volume| volume.counted).collect();
    Ok(Total {
        megabits: megabits_per_second(counted.iter().sum(), span.time),
        bytes: volumes.iter().map(|volume| volume.all).sum(),
        fairness: fairness(&counted),
    })
}

async fn upload(path: &Path, span: Span) -> Result<Volume> {
    let mut connection = path.connect().await?;
    Request::Upload(span).write(&mut connection.writer).await?;
    let block = vec![0; BLOCK];
    let end = Instant::now() + span.warm_up + span.time;
    while Instant::now() < end {
        // A path that takes nothing more is as much at its end as one that took all.
        let Ok(written) = timeout_at(end, connection.writer.write_all(&block)).await else { break };
        written?;
    }
    connection.writer.shutdown().await?;
    Ok(Volume::read(&mut connection.reader).await?)
}

async fn download(path: &Path, span: Span) -> Result<Volume> {
    let mut connection = path.connect().await?;
    Request::Download.write(&mut connection.writer).await?;
    connection.writer.flush().await?;
    Ok(drain_for(&mut connection.reader, span).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::path::quic_endpoint;
    use crate::bench::server::{serve_quic, serve_tcp};

    /// On a machine that is busy with other tests a short span may end before the first byte.
    const SPANS: [u64; 4] = [20, 100, 500, 2500];

    fn spans() -> impl Iterator<Item = Span> {
        let span = |time| Span { warm_up: Duration::from_millis(5), time: Duration::from_millis(time) };
        SPANS.into_iter().map(span)
    }

    async fn tcp() -> (Path, JoinSet<()>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let path = Path::tcp(&listener.local_addr().unwrap().to_string()).await.unwrap();
        let mut server = JoinSet::new();
        server.spawn(async { serve_tcp(listener).await.unwrap() });
        (path, server)
    }

    async fn quic() -> (Path, JoinSet<()>) {
        let (endpoint, certificate) = quic_endpoint("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = endpoint.local_addr().unwrap();
        let mut server = JoinSet::new();
        server.spawn(serve_quic(endpoint));
        (Path::quic(address, certificate).await.unwrap(), server)
    }

    async fn figures_of(path: &Path, load: impl AsyncFn(&Path, Span) -> Result<Value>) -> Value {
        let mut last = None;
        for span in spans() {
            match load(path, span).await {
                Ok(figures) => return figures,
                Err(error) => last = Some(error),
            }
        }
        panic!("no figures: {last:?}")
    }

    #[tokio::test]
    async fn every_load_gives_figures_over_tcp_and_quic() {
        for (path, _server) in [tcp().await, quic().await] {
            let answered =
                figures_of(&path, async |path, span| request_response(path, 1024, span).await).await;
            let connected = figures_of(&path, async |path, span| new_connections(path, 4, span).await).await;
            for figures in [answered, connected] {
                assert!(figures["p50_us"].as_f64() <= figures["p99_us"].as_f64());
                assert!(figures["per_second"].as_f64() > Some(0.0));
            }
            for direction in [Direction::Up, Direction::Down] {
                let figures =
                    figures_of(&path, async |path, span| bulk(path, direction, 2, span).await).await;
                for member in ["bytes", "mbit_per_second", "fairness"] {
                    assert!(figures[member].as_f64() > Some(0.0), "{member}: {figures}");
                }
            }
            let figures = figures_of(&path, async |path, span| both_ways(path, 1, span).await).await;
            for member in ["bytes", "up_mbit_per_second", "down_mbit_per_second", "weaker"] {
                assert!(figures[member].as_f64() > Some(0.0), "{member}: {figures}");
            }
        }
    }

    #[tokio::test]
    async fn a_path_that_refuses_is_an_error_and_no_figure() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let path = Path::Tcp(listener.local_addr().unwrap());
        drop(listener);
        let short = spans().next().unwrap();
        assert!(request_response(&path, 1, short).await.is_err());
        assert!(bulk(&path, Direction::Down, 1, short).await.is_err());
    }
}
