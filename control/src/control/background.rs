//! What happens by time: locks end, ceremonies lapse, rows that are long over go, the audit's head is signed, and what
//! could not be settled is tried again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use portlatch_audit::{Event, EventKind};
use portlatch_clock::{BootTime, Clock, TimeOfDay};
use portlatch_protocol::grant::EXPIRY_LEEWAY;
use portlatch_protocol::watch::Lock;
use tokio_util::sync::CancellationToken;

use super::Control;

/// How often lapsed ceremonies are looked for; they cannot be answered after their time whatever this is.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often the store is swept.
const SWEEP_EVERY: Duration = Duration::from_secs(600);
/// How often the audit's head is signed (design section 12).
const SIGN_EVERY: Duration = Duration::from_secs(60);

pub(super) async fn run(control: Arc<Control>, cancel: CancellationToken) {
    let start = control.clock.boot_time();
    let (mut sweep_at, mut sign_at) = (start, start + SIGN_EVERY);
    let mut booted_at = boot(&control.clock);
    while !cancel.is_cancelled() {
        tokio::select! {
            () = cancel.cancelled() => break,
            () = control.clock.sleep(LOOK_EVERY) => {}
            () = control.clock.moved() => {}
        }
        let now = control.clock.boot_time();
        look(&control).await;
        if was_set_back(&mut booted_at, boot(&control.clock)) {
            tracing::warn!(
                "this machine's clock was set back: taps and grants from the time after it are forgotten"
            );
            let forgotten = control.forget_the_future().await;
            forgotten.unwrap_or_else(|error| tracing::error!(%error, "the future could not be forgotten"));
        }
        if is_due(&mut sweep_at, SWEEP_EVERY, now) {
            let swept = control.store.sweep(control.clock.time_of_day()).await;
            swept.unwrap_or_else(|error| tracing::warn!(%error, "the store could not be swept"));
        }
        if is_due(&mut sign_at, SIGN_EVERY, now) {
            let signed = control.audit.sign_head(&control.keys).await;
            signed.unwrap_or_else(|error| tracing::error!(%error, "the audit's head could not be signed"));
        }
    }
}

fn is_due(at: &mut BootTime, every: Duration, now: BootTime) -> bool {
    if now < *at {
        return false;
    }
    *at = now + every;
    true
}

/// The time of day of the machine's start, as its clocks say now, in milliseconds.
fn boot(clock: &Clock) -> i64 {
    let up = clock.boot_time().saturating_since(BootTime::since_boot(Duration::ZERO));
    clock.time_of_day().0.saturating_sub(i64::try_from(up.as_millis()).unwrap_or(i64::MAX))
}

/// Whether the time of day lost more than grants allow for since the last look.
fn was_set_back(before: &mut i64, now: i64) -> bool {
    let lost = std::mem::replace(before, now).saturating_sub(now);
    lost > i64::try_from(EXPIRY_LEEWAY.as_millis()).unwrap_or(i64::MAX)
}

async fn look(control: &Control) {
    let lapsed = control.ceremonies.take_expired(control.clock.boot_time());
    control.note_ended(lapsed, "timed_out").await;
    control.note_lapsed_pages().await;
    let now = control.clock.time_of_day();
    for lock in ended_locks(control, now) {
        let (detail, reason) = (Some(format!("lock/{}", lock.id)), Some("expired".to_owned()));
        control.audit.note(Event { detail, reason, ..Event::new(EventKind::Unlock) }).await;
    }
    if control.is_unsettled.swap(false, Ordering::AcqRel) {
        match control.turn().await {
            Ok(_turn) => control.settle().await,
            Err(_) => control.is_unsettled.store(true, Ordering::Release),
        }
    }
}

/// Lifts the locks whose time is over, and says which.
fn ended_locks(control: &Control, now: TimeOfDay) -> Vec<Lock> {
    let is_over = |lock: &Lock| lock.expires.is_some_and(|end| end.0 <= now.0);
    let ended: Vec<Lock> = control.hub.now().locks.iter().filter(|lock| is_over(lock)).cloned().collect();
    if !ended.is_empty() {
        control.hub.change(|standing| standing.locks = standing.world.locks(now));
    }
    ended
}
