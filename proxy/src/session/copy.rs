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

/// Copies until both directions are closed, or something ends the session; leaves both sides closed accordingly.
pub(super) async fn copy(
    proxy: &Proxy,
    session: &Arc<LiveSession>,
    claims: &GrantClaims,
    mut target: TcpStream,
    (send, turns): (&mut SendStream, &Turns),
    receive: &mut RecvStream,
) -> EndReason {
    let over = proxy.view.boot_time_of(claims.session_end);
    let idle = claims.idle.map(Duration::from_secs).filter(|limit| !limit.is_zero());
    let _deadlines = proxy.deadlines.watch(session, proxy.clock.boot_time(), over, idle);
    // A close that lingers for no time at all is a reset, and that is what it is until all has come through.
    let _ = SockRef::from(&target).set_linger(Some(Duration::ZERO));
    let mut streams = Unended { send, receive, is_known: false };
    let is_finished = AtomicBool::new(false);
    let reason = {
        let (read, write) = target.split();
        tokio::select! {
            biased;
            reason = session.end.called() => {
                // Nobody ends a session so, but for a test that sets a trap.
                #[cfg(test)]
                assert_ne!(reason, EndReason::Internal, "a trap that a test has set");
                reason
            }
            () = proxy.stop.ended.cancelled() => EndReason::ProxyStopped,
            // Made inside: what is made before and moved in takes its room twice in the session's task.
            copied = async {
                tokio::try_join!(upload(&mut *streams.receive, write, session, &proxy.budget), async {
                    download(read, (&mut *streams.send, turns), session, &proxy.budget).await?;
                    is_finished.store(true, Ordering::Relaxed);
                    Ok(())
                })
            } => copied.map_or_else(|fault| fault, |_| EndReason::Closed),
        }
    };
    streams.is_known = true;
    if reason == EndReason::TargetReset && is_finished.into_inner() {
        // The target has said all it had to say and takes no more: what it said must not be lost on its way.
        let _ = streams.receive.stop(reset::BY_PEER.into());
        return reason;
    }
    close(reason, &target, streams.send, streams.receive);
    reason
}

/// The streams of a session whose end is not known. Dropped so, by a panic, they are reset: quinn would finish ours, and what
/// came until then would look whole.
struct Unended<'s> {
    send: &'s mut SendStream,
    receive: &'s mut RecvStream,
    is_known: bool,
}

impl Drop for Unended<'_> {
    fn drop(&mut self) {
        if !self.is_known {
            reset_both(self.send, self.receive, reset::SESSION_ENDED);
        }
    }
}

/// Ends both sides as the reason says: in order, or by resets, the target's by its close.
fn close(reason: EndReason, target: &TcpStream, send: &mut SendStream, receive: &mut RecvStream) {
    let code = match reason {
        EndReason::Closed => {
            let _ = SockRef::from(target).set_linger(None);
            return;
        }
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
    reset_both(send, receive, code);
}
