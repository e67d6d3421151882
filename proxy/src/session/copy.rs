//! The bytes of a session, both ways, with back-pressure: what one side does not take is not read from the other.
//!
//! A half-close is passed on as a half-close and the other direction goes on; a reset is passed on as a reset. quinn
//! hands out and takes whole chunks, so bytes are copied once, between kernel and chunk. A session that waits holds no
//! room for what will come: there are thousands that wait for each that does not.

mod download;
mod upload;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use portlatch_carrier::turns::Turns;
use portlatch_clock::Clock;
use portlatch_protocol::grant::GrantClaims;
use portlatch_protocol::stream::reset;
use quinn::{RecvStream, SendStream};
use socket2::SockRef;
use tokio::net::TcpStream;

use self::download::download;
use self::upload::upload;
use super::reset_both;
use crate::proxy::Proxy;
use crate::sessions::{EndReason, LiveSession};

/// How exactly an idle limit is kept: an eighth of it.
const IDLE_LOOKS: u32 = 8;

/// Copies until both directions are closed, or something ends the session; leaves both sides closed accordingly.
pub(super) async fn copy(
    proxy: &Proxy,
    session: &Arc<LiveSession>,
    claims: &GrantClaims,
    mut target: TcpStream,
    (send, turns): (&mut SendStream, &Turns),
    receive: &mut RecvStream,
) -> EndReason {
    let is_finished = AtomicBool::new(false);
    let reason = {
        let (read, write) = target.split();
        tokio::select! {
            biased;
            reason = session.end.called() => reason,
            () = proxy.stop.ended.cancelled() => EndReason::ProxyStopped,
            // Made inside: what is made before and moved in takes its room twice in the session's task.
            copied = async {
                tokio::try_join!(upload(receive, write, session, &proxy.budget), async {
                    download(read, (&mut *send, turns), session, &proxy.budget).await?;
                    is_finished.store(true, Ordering::Relaxed);
                    Ok(())
                })
            } => copied.map_or_else(|fault| fault, |_| EndReason::Closed),
            () = session_over(proxy, claims) => EndReason::SessionOver,
            () = idle(&proxy.clock, session, claims.idle) => EndReason::Idle,
        }
    };
    if reason == EndReason::TargetReset && is_finished.into_inner() {
        // The target has said all it had to say and takes no more: what it said must not be lost on its way.
        let _ = receive.stop(reset::BY_PEER.into());
        return reason;
    }
    close(reason, &target, send, receive);
    reason
}

/// Returns at the end that the grant set, in control's time.
async fn session_over(proxy: &Proxy, claims: &GrantClaims) {
    match proxy.view.boot_time_of(claims.session_end) {
        Some(end) => proxy.clock.sleep_until(end).await,
        None => std::future::pending().await,
    }
}

/// Returns once no byte has gone either way for as long as the grant allows.
async fn idle(clock: &Clock, session: &LiveSession, limit: Option<u64>) {
    let Some(limit) = limit.map(Duration::from_secs).filter(|limit| !limit.is_zero()) else {
        return std::future::pending().await;
    };
    let (mut bytes, mut quiet_since) = (session.bytes(), clock.boot_time());
    loop {
        let end = quiet_since + limit;
        clock.sleep_until(end.min(clock.boot_time() + limit / IDLE_LOOKS)).await;
        let now = clock.boot_time();
        if session.bytes() != bytes {
            (bytes, quiet_since) = (session.bytes(), now);
        } else if now >= end {
            return;
        }
    }
}

/// Ends both sides as the reason says: in order, or by resets.
fn close(reason: EndReason, target: &TcpStream, send: &mut SendStream, receive: &mut RecvStream) {
    let code = match reason {
        EndReason::Closed => return,
        EndReason::ProgramReset | EndReason::TargetReset | EndReason::TunnelLost => reset::BY_PEER,
        EndReason::Idle
        | EndReason::SessionOver
        | EndReason::Locked
        | EndReason::LoginEnded
        | EndReason::ResourceGone
        | EndReason::Killed
        | EndReason::ProxyStopped
        | EndReason::TargetRefused
        | EndReason::TargetUnreachable
        | EndReason::OverBudget
        | EndReason::Internal => reset::SESSION_ENDED,
    };
    // A close that lingers for no time at all is a reset. A socket that is gone needs none.
    let _ = SockRef::from(target).set_linger(Some(Duration::ZERO));
    reset_both(send, receive, code);
}
