//! Ceremonies of control: a challenge, the key's answer to it, and the signed grant that comes of it, again and again.
//!
//! Control runs in the load program itself, in a directory on the disk, with its database's own settings, and every
//! record of the audit synced before it counts. What is asked goes over HTTP on loopback as agents ask it; only TLS is
//! left out. Beside it stands what SQLite alone commits on the same disk with the same settings.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use portlatch_audit::Durability;
use portlatch_clock::Clock;
use portlatch_control::admin::{SessionLine, SourceFile};
use portlatch_control::control::{Control, ControlSettings, LiveSessions};
use portlatch_control::keys::Keys;
use portlatch_protocol::names::Id;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::asker::Asker;
use self::server::Server;
use super::figures::{Samples, per_second};
use super::repeated::{Window, gathered};
use super::wire::Span;

mod asker;
mod commits;
mod server;
mod soft_key;

pub use commits::commits;

/// The cluster.
const HOST: &str = "proxy.example.com";
/// One user gets a challenge in so long, in the long run; the clock moves by as much for each of one's ceremonies.
const BETWEEN_CHALLENGES: Duration = Duration::from_secs(6);
/// A resource that wants a tap for each port, and a login that outlasts a run by the clock that is moved.
const DOCUMENTS: &str = "
kind: vnet_config
spec: {custom_dns_zones: [{suffix: corp.internal}]}
---
kind: role
metadata: {name: tap}
spec:
  options: {require_session_mfa: true, max_session_ttl: 30h}
  allow: {db_labels: {mfa: tap}}
---
kind: db
metadata: {name: billing, labels: {mfa: tap}}
spec: {uri: 'tcp://10.0.0.5:5432'}
";

struct NoSessions;

impl LiveSessions for NoSessions {
    fn list(&self) -> Vec<SessionLine> {
        Vec::new()
    }

    fn kill(&self, _: &Id) -> bool {
        false
    }
}

/// So many users at a time tap for a grant as often as they can: how many grants each second, p50 and p99 of a ceremony
/// in milliseconds. What is written is written below `scratch`: where that is no disk, it is synced to nothing.
///
/// # Errors
/// If a ceremony fails.
pub async fn ceremonies(parallel: usize, span: Span, scratch: &Path) -> Result<Value> {
    let dir = directory_in(scratch)?;
    let (clock, mover) = Clock::movable();
    let control = open(dir.path(), clock).await?;
    let server = Server::start(&control).await?;
    let mut askers = Vec::new();
    for number in 0..parallel {
        askers.push(Asker::enrolled(&control, &server, number).await?);
        // Who signs in may do so as often as a person does.
        pass(&mover, Duration::from_secs(60));
    }
    let window = Window::of(span);
    let mut tasks = JoinSet::new();
    for mut asker in askers {
        let mover = mover.clone();
        let step = BETWEEN_CHALLENGES / u32::try_from(parallel).unwrap_or(u32::MAX);
        tasks.spawn(async move {
            let mut samples = Samples::default();
            while let Some(began) = window.begins() {
                asker.tap().await?;
                pass(&mover, step);
                window.ends(began).into_iter().for_each(|sample| samples.push(sample));
            }
            Ok(samples)
        });
    }
    let samples = gathered(tasks).await?;
    Ok(figures(samples, span.time))
}

/// What so many operations in that time come to.
fn figures(mut samples: Samples, time: Duration) -> Value {
    let mut millis = |percent| samples.percentile(percent).unwrap_or_default().as_secs_f64() * 1e3;
    let (p50, p99) = (millis(50), millis(99));
    json!({ "per_second": per_second(samples.len() as u64, time), "p50_ms": p50, "p99_ms": p99 })
}

fn pass(mover: &watch::Sender<Duration>, time: Duration) {
    mover.send_modify(|offset| *offset += time);
}

async fn open(dir: &Path, clock: Clock) -> Result<Arc<Control>> {
    let keys = Keys::create(dir, &HOST.parse()?, clock.time_of_day())?;
    let public_host = HOST.parse()?;
    let settings = ControlSettings { public_host, public_port: 443, durability: Durability::Disk };
    let control = Control::open(dir, keys, settings, clock, Arc::new(NoSessions)).await?;
    let documents = SourceFile { name: "bench.yaml".to_owned(), text: DOCUMENTS.to_owned() };
    control.apply(&[documents], "bench").await.context("applying the documents")?;
    Ok(control)
}

/// A directory of our own in this one.
fn directory_in(scratch: &Path) -> Result<tempfile::TempDir> {
    tempfile::tempdir_in(scratch).with_context(|| format!("making a directory in {}", scratch.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Span = Span { warm_up: Duration::ZERO, time: Duration::from_secs(5) };

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn ceremonies_end_in_grants_and_are_counted() {
        let figures = ceremonies(2, SHORT, &std::env::temp_dir()).await.unwrap();
        assert!(figures["per_second"].as_f64().unwrap() > 0.0, "{figures}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn commits_are_counted() {
        let figures = commits(2, SHORT, &std::env::temp_dir()).await.unwrap();
        assert!(figures["per_second"].as_f64().unwrap() > 0.0, "{figures}");
    }
}
