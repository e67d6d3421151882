//! What every tunnel and session of a proxy shares.

use std::sync::Arc;
use std::time::Duration;

use portlatch_clock::Clock;
use portlatch_protocol::names::ProxyName;
use portlatch_protocol::stream::close;

use crate::budget::Budget;
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
        let (sessions, limits, stop) = (Arc::default(), Arc::default(), Stop::default());
        let budget = Budget::default();
        Arc::new(Self { name, clock, view, sessions, limits, budget, recorder, stop })
    }

    /// Follows control until the proxy has ended; cuts what control's word cuts.
    pub async fn follow(&self, mut watch: impl ControlWatch) {
        loop {
            let message = tokio::select! {
                message = watch.next() => message,
                () = self.stop.ended.cancelled() => return,
            };
            let Some(message) = message else {
                tracing::error!("control's watch has ended: no new session after the silence it may keep");
                return;
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
