//! The test's hand on the clock: a file with seconds, read at start and at every SIGUSR1.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

const VARIABLE: &str = "PORTLATCH_CLOCK_OFFSET";

/// The offset in the file that the environment names, kept up to date; `None` where it names none.
pub(crate) fn watch_file() -> Option<watch::Receiver<Duration>> {
    let file = PathBuf::from(std::env::var_os(VARIABLE)?);
    let (sender, receiver) = watch::channel(read(&file));
    tracing::warn!("{VARIABLE} is set: the clock is moved by a test");
    // The one detached task of the process: it lives as long as the clock does, and tests alone have it.
    tokio::spawn(async move {
        let Ok(mut reread) = signal(SignalKind::user_defined1()) else { return };
        while reread.recv().await.is_some() && sender.send(read(&file)).is_ok() {}
    });
    Some(receiver)
}

fn read(file: &Path) -> Duration {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    Duration::from_secs_f64(text.trim().parse::<f64>().unwrap_or(0.0).clamp(0.0, 1e9))
}
