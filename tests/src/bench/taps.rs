//! How long people wait around a tap. A software key stands for theirs: `portlatch watch` shows its prompt, and Enter
//! there is the tap.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::figures::Samples;
use super::load::round;
use super::path::Path;
use super::wire::Request;

/// Longer than any prompt should need to open, and any connection after its tap.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long flows wait before they are looked at: all SYNs have come, and have come again.
const SETTLE: Duration = Duration::from_secs(2);

/// `portlatch watch`, and what it shows.
struct Watch {
    lines: Lines<BufReader<ChildStdout>>,
    enter: ChildStdin,
    _child: Child,
}

impl Watch {
    /// Returns when it watches.
    async fn start() -> Result<Self> {
        let mut child = Command::new("portlatch")
            .arg("watch")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("starting portlatch watch")?;
        let enter = child.stdin.take().context("it has no input")?;
        let output = child.stdout.take().context("it has no output")?;
        let mut watch = Self { lines: BufReader::new(output).lines(), enter, _child: child };
        watch.line(|line| line.starts_with("Watching")).await.context("waiting for portlatch watch")?;
        Ok(watch)
    }

    /// When such a line came.
    async fn line(&mut self, mut is_meant: impl FnMut(&str) -> bool) -> Result<Instant> {
        let found = timeout(PATIENCE, async {
            while let Some(line) = self.lines.next_line().await? {
                if is_meant(&line) {
                    return Ok(Instant::now());
                }
            }
            bail!("portlatch watch has ended")
        });
        found.await?
    }

    /// When a prompt for one of these ports was shown; the port is taken away.
    async fn any_prompt(&mut self, ports: &mut Vec<u16>) -> Result<Instant> {
        let mut shown = None;
        let when = self.line(|line| {
            shown = ports.iter().position(|port| line.contains(&format!(":{port})")));
            shown.is_some()
        });
        let when = when.await.context("waiting for a prompt")?;
        shown.map(|index| ports.swap_remove(index));
        Ok(when)
    }

    /// Taps the key.
    async fn tap(&mut self) -> Result<Instant> {
        let tapped = Instant::now();
        self.enter.write_all(b"\n").await?;
        self.enter.flush().await?;
        Ok(tapped)
    }
}

/// Connects to one port after another, from the server's on, where each needs a tap: from the SYN to the prompt, from the tap
/// to the first byte, and the first byte of another connection that needs no tap any more; p50 and p99 in milliseconds.
///
/// # Errors
/// If a prompt does not open, or a connection fails.
pub async fn one_by_one(server: SocketAddr, taps: u16) -> Result<Value> {
    let mut watch = Watch::start().await?;
    let (mut shown, mut answered, mut granted) = (Samples::default(), Samples::default(), Samples::default());
    for port in server.port()..server.port().saturating_add(taps) {
        let path = Path::Tcp(SocketAddr::new(server.ip(), port));
        let begin = Instant::now();
        let connection = tokio::spawn({
            let path = path.clone();
            async move { first_byte(&path).await }
        });
        shown.push(watch.any_prompt(&mut vec![port]).await? - begin);
        let tapped = watch.tap().await?;
        answered.push(connection.await?? - tapped);
        let begin = Instant::now();
        granted.push(first_byte(&path).await? - begin);
    }
    Ok(json!({
        "prompt_p50_ms": millis(shown.percentile(50)),
        "prompt_p99_ms": millis(shown.percentile(99)),
        "tap_p50_ms": millis(answered.percentile(50)),
        "tap_p99_ms": millis(answered.percentile(99)),
        "granted_p50_ms": millis(granted.percentile(50)),
        "granted_p99_ms": millis(granted.percentile(99)),
    }))
}

/// So many connections wait together, one prompt for each of so many ports from the server's on. When they have waited for a while it calls
/// `waiting`; then it taps whenever another prompt is shown. From the first tap, and from the last, until all have a
/// byte, in milliseconds.
///
/// # Errors
/// If a prompt does not open, or a connection fails.
pub async fn all_at_once(
    server: SocketAddr,
    ports: u16,
    connections: usize,
    waiting: impl AsyncFnOnce() -> Result<()>,
) -> Result<Value> {
    let mut watch = Watch::start().await?;
    let mut flows = JoinSet::new();
    let mut left: Vec<_> = (server.port()..server.port().saturating_add(ports)).collect();
    for &port in left.iter().cycle().take(connections) {
        let path = Path::Tcp(SocketAddr::new(server.ip(), port));
        flows.spawn(async move { first_byte(&path).await });
    }
    watch.any_prompt(&mut left).await?;
    sleep(SETTLE).await;
    waiting().await?;
    let first = watch.tap().await?;
    let mut last = first;
    while !left.is_empty() {
        watch.any_prompt(&mut left).await?;
        last = watch.tap().await?;
    }
    let mut latest = last;
    while let Some(flow) = flows.join_next().await {
        latest = latest.max(flow??);
    }
    Ok(json!({ "first_tap_ms": millis(Some(latest - first)), "last_tap_ms": millis(Some(latest - last)) }))
}

/// When a new connection had its first byte.
async fn first_byte(path: &Path) -> Result<Instant> {
    let mut connection = path.connect().await?;
    Request::Once.write(&mut connection.writer).await?;
    timeout(PATIENCE, round(&mut connection, &mut [1])).await.context("waiting for a byte")??;
    Ok(Instant::now())
}

fn millis(duration: Option<Duration>) -> f64 {
    duration.unwrap_or_default().as_secs_f64() * 1e3
}
