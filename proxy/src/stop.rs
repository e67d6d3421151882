//! Stopping in two steps: first no new streams while old ones run to their end, then the end for all.

use std::time::Duration;

use portlatch_clock::Clock;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How long running sessions have after the first signal (design section 11).
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(300);

/// The two steps, as all parts hear them.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// No new tunnel or stream from now on.
    pub draining: CancellationToken,
    /// Everything ends now.
    pub ended: CancellationToken,
}

/// SIGTERM and SIGINT. From the moment of listening they no longer end the process by themselves.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Listens. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// The system's.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }
}

impl Stop {
    /// Whether new streams are refused.
    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Follows the signals of the process: the first drains, the second ends, and so does the deadline by `clock`. Returns
    /// when all has ended; `is_idle` returns once no session is left.
    pub async fn follow_signals(&self, signals: Signals, clock: &Clock, is_idle: impl Future<Output = ()>) {
        let Signals { mut terminate, mut interrupt } = signals;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = self.ended.cancelled() => {}
        }
        self.draining.cancel();
        tokio::select! {
            _ = terminate.recv() => tracing::info!("told twice: ending at once"),
            _ = interrupt.recv() => tracing::info!("told twice: ending at once"),
            () = is_idle => {}
            () = clock.sleep(DRAIN_DEADLINE) => tracing::warn!("sessions are left at the deadline: ending them"),
            () = self.ended.cancelled() => {}
        }
        self.ended.cancel();
    }
}
