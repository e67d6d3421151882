//! What every tunnel and session of a proxy shares.

use std::sync::Arc;
use std::time::Duration;

use portlatch_clock::Clock;
use portlatch_protocol::names::ProxyName;
use portlatch_protocol::stream::close;
use portlatch_protocol::watch::OtherVersion;

use crate::budget::Budget;
use crate::deadlines::Deadlines;
use crate::limits::Limits;
use crate::record::Recorder;
use crate::sessions::Sessions;
use crate::stop::Stop;
use crate::watch::{ControlWatch, Effect, View};

/// How often the drain looks whether the last session has gone.
const IDLE_LOOK: Duration = Duration::from_millis(200);

/// One running proxy.
#[derive(Debug)]
pub struct Proxy {
    /// Its name.
    pub name: ProxyName,
    /// Our clocks.
    pub clock: Clock,
    /// What control says.
    pub view: Arc<View>,
    /// What lives.
    pub sessions: Arc<Sessions>,
    /// When it ends by itself.
    pub deadlines: Arc<Deadlines>,
    /// What each user has.
    pub limits: Arc<Limits>,
    /// What stalled sessions hold.
    pub budget: Budget,
    /// The audit.
    pub recorder: Recorder,
    /// Whether and how far it is stopping.
    pub stop: Stop,
}

impl Proxy {
    /// A proxy that knows nothing and serves nobody yet.
    pub fn new(name: ProxyName, clock: Clock, recorder: Recorder) -> Arc<Self> {
        let view = View::new(name.clone(), clock.clone());
        let (sessions, deadlines, limits) = (Arc::default(), Arc::default(), Arc::default());
        let (budget, stop) = (Budget::default(), Stop::default());
        Arc::new(Self { name, clock, view, sessions, deadlines, limits, budget, recorder, stop })
    }

    /// Follows control until the proxy has ended; cuts what control's word cuts.
    ///
    /// # Errors
    /// [`OtherVersion`] if control speaks another version: nothing is believed of it, and so no stream is taken.
    pub async fn follow(&self, mut watch: impl ControlWatch) -> Result<(), OtherVersion> {
        watch.hello().of_control()?;
        loop {
            let message = tokio::select! {
                message = watch.next() => message,
                () = self.stop.ended.cancelled() => return Ok(()),
            };
            let Some(message) = message else {
                tracing::error!("control's watch has ended: no new session after the silence it may keep");
                return Ok(());
            };
            if self.view.handle_message(message) == Effect::Recheck {
                self.enforce();
            }
        }
    }

    /// Cuts the sessions and tunnels that something stands against now.
    pub fn enforce(&self) {
        self.sessions.end_where(|session| self.view.objection(&session.login, &session.resource));
        let is_cut = |login: &_| self.view.tunnel_objection(login).is_some();
        self.sessions.close_tunnels_where(is_cut, close::LOCKED, b"locked or gone");
    }

    /// Returns once no session lives.
    pub async fn is_idle(&self) {
        while self.sessions.count() > 0 {
            tokio::time::sleep(IDLE_LOOK).await;
        }
    }
}

#[cfg(test)]
pub(crate) mod fixture;

#[cfg(test)]
mod tests {
    use portlatch_audit::SpoolConfig;
    use portlatch_protocol::watch::{Hello, VERSION, WatchMessage};
    use tokio::sync::mpsc;

    use super::fixture::network::{Messages, new_proxy};
    use super::*;

    #[tokio::test]
    async fn nothing_is_believed_of_a_control_of_another_version() {
        let (directory, clock) = (tempfile::tempdir().unwrap(), Clock::system());
        let proxy = new_proxy(directory.path(), &clock, SpoolConfig::DEFAULT_MAX_BYTES);
        for version in [VERSION - 1, VERSION + 1] {
            let (control, messages) = mpsc::channel(1);
            control.send(WatchMessage::Snapshot(fixture::snapshot(&clock))).await.unwrap();
            let refusal = proxy.follow(Messages { hello: Hello { version }, messages }).await.unwrap_err();
            assert_eq!((refusal.control, refusal.proxy), (version, VERSION));
            assert!(!proxy.view.is_ready(), "it would take streams");
        }
    }
}
