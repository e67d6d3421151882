//! The tunnels of one login: which proxy, and the way to it.
//!
//! A tunnel is an authenticated QUIC connection to one proxy; each flow is a stream in it. Tunnels are made when they
//! are first needed, kept while the login is attached, and dialled anew when they are lost. A proxy that is silent or
//! will not have a flow does not end it while another one serves the resource ([`open`]).

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{LocalBoxFuture, Shared};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use portlatch_carrier::turns::Turns;
use portlatch_protocol::names::ProxyName;
use portlatch_protocol::refusal::RefusalReason;
use portlatch_protocol::resource::{ProxyAddress, Resource};
use portlatch_protocol::stream::{Open, OpenRefusal, close, reset};
use quinn::{Connection, RecvStream, SendStream, VarInt};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

pub(crate) mod credentials;
mod dial;
pub(crate) mod endpoint;
mod lost;
mod open;

use credentials::{SEND_WINDOW, TunnelCredentials};
use lost::{Health, InUse};
use open::TryError;

/// A proxy that can be reached has answered by then; else there is none (design section 4).
const REACH_DEADLINE: Duration = Duration::from_secs(5);
/// Tunnels that one flow tries: each of a few proxies, or one that was started again in between. Who closes every tunnel
/// must not be dialled in a storm.
const MAX_TRIES: usize = 4;

type Dialling = Shared<LocalBoxFuture<'static, Option<Rc<Tunnel>>>>;

/// A tunnel that is up.
pub(crate) struct Tunnel {
    pub(crate) proxy: ProxyName,
    connection: Connection,
    health: Rc<Health>,
    turns: Rc<Turns>,
}

/// A session that a proxy opened: both directions of its stream. While it lives, its proxy is watched.
pub(crate) struct Session {
    pub(crate) send: Upward,
    pub(crate) receive: RecvStream,
    /// In which order the tunnel's flows send.
    pub(crate) turns: Rc<Turns>,
    pub(crate) in_use: InUse,
}

/// Our direction of a session's stream. Dropped before all of it has arrived it is reset: quinn would finish it, and what a
/// panic, a logout or a stalled program cut off would look whole to the target.
pub(crate) struct Upward(SendStream);

impl Deref for Upward {
    type Target = SendStream;

    fn deref(&self) -> &SendStream {
        &self.0
    }
}

impl DerefMut for Upward {
    fn deref_mut(&mut self) -> &mut SendStream {
        &mut self.0
    }
}

impl Drop for Upward {
    fn drop(&mut self) {
        // One that was finished and acknowledged is over, which is as good.
        let _ = self.0.reset(VarInt::from_u32(reset::BY_PEER));
    }
}

/// Why there is no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OpenError {
    /// No proxy of the resource could be reached in time.
    #[error("no proxy of the resource can be reached")]
    NoProxy,
    /// The proxy said no.
    #[error("the proxy refused: {}", .0.as_str())]
    Refused(OpenRefusal),
}

impl OpenError {
    /// What the user is told.
    pub(crate) const fn reason(self) -> RefusalReason {
        match self {
            Self::NoProxy | Self::Refused(OpenRefusal::Unavailable) => RefusalReason::NoProxy,
            Self::Refused(
                OpenRefusal::BadGrant
                | OpenRefusal::GrantEnded
                | OpenRefusal::UnknownResource
                | OpenRefusal::ForbiddenTarget,
            ) => RefusalReason::Policy,
            Self::Refused(OpenRefusal::Locked) => RefusalReason::Locked,
            Self::Refused(OpenRefusal::Limit) => RefusalReason::Limit,
            Self::Refused(OpenRefusal::TargetRefused) => RefusalReason::TargetRefused,
            Self::Refused(OpenRefusal::TargetUnreachable) => RefusalReason::TargetUnreachable,
        }
    }
}

/// The tunnels of one login.
pub(crate) struct Tunnels {
    endpoint: quinn::Endpoint,
    credentials: TunnelCredentials,
    addresses: RefCell<HashMap<ProxyName, ProxyAddress>>,
    up: RefCell<HashMap<ProxyName, Rc<Tunnel>>>,
    /// Dials under way, by the proxies that would do: flows that want the same wait for the same dial.
    dialling: RefCell<HashMap<Vec<ProxyName>, Dialling>>,
    /// The proxy that won the last race, tried first in the next.
    last_winner: RefCell<Option<ProxyName>>,
    cancelled: CancellationToken,
}

impl Tunnels {
    pub(crate) fn new(
        endpoint: quinn::Endpoint,
        credentials: TunnelCredentials,
        cancelled: CancellationToken,
    ) -> Rc<Self> {
        Rc::new(Self {
            endpoint,
            credentials,
            addresses: RefCell::default(),
            up: RefCell::default(),
            dialling: RefCell::default(),
            last_winner: RefCell::default(),
            cancelled,
        })
    }

    /// Where the live proxies are now.
    pub(crate) fn handle_proxies(&self, proxies: Vec<ProxyAddress>) {
        let by_name = proxies.into_iter().map(|address| (address.name.clone(), address));
        *self.addresses.borrow_mut() = by_name.collect();
    }

    /// The proxies with a tunnel that is up.
    pub(crate) fn names(&self) -> Vec<ProxyName> {
        self.up.borrow().values().filter(|tunnel| tunnel.is_up()).map(|tunnel| tunnel.proxy.clone()).collect()
    }

    /// A tunnel to one of the resource's proxies: one that answers, else a new one, else one that answers again.
    pub(crate) async fn tunnel_for(self: &Rc<Self>, resource: &Resource) -> Option<Rc<Tunnel>> {
        self.reach(&resource.proxies).await
    }

    async fn reach(self: &Rc<Self>, proxies: &[ProxyName]) -> Option<Rc<Tunnel>> {
        if let Some(tunnel) = self.live(proxies) {
            return Some(tunnel);
        }
        let under_way = self.dialling.borrow().get(proxies).cloned();
        let dial = under_way.unwrap_or_else(|| self.start_dial(proxies.to_vec()));
        tokio::select! {
            dialled = dial => dialled,
            Some(heard_of) = self.heard_of(proxies) => Some(heard_of),
        }
    }

    fn live(&self, proxies: &[ProxyName]) -> Option<Rc<Tunnel>> {
        let up = self.up.borrow();
        let mut live = proxies.iter().filter_map(|name| up.get(name)).filter(|tunnel| tunnel.is_up());
        live.find(|tunnel| !tunnel.health.is_silent()).cloned()
    }

    /// The first of these proxies' silent tunnels that answers again; `None` if none does.
    async fn heard_of(&self, proxies: &[ProxyName]) -> Option<Rc<Tunnel>> {
        let up: Vec<_> = proxies.iter().filter_map(|name| self.up.borrow().get(name).cloned()).collect();
        let silent = up.into_iter().filter(|tunnel| tunnel.is_up());
        let mut answers: FuturesUnordered<_> = silent
            .map(|tunnel| async move {
                // Nobody asks on a tunnel that is not in use.
                let _in_use = tunnel.health.enter();
                tunnel.health.answers().await;
                tunnel
            })
            .collect();
        while let Some(tunnel) = answers.next().await {
            if tunnel.is_up() {
                return Some(tunnel);
            }
        }
        None
    }

    fn start_dial(self: &Rc<Self>, proxies: Vec<ProxyName>) -> Dialling {
        let (tunnels, key) = (Rc::clone(self), proxies.clone());
        let dial = async move {
            let candidates = tunnels.candidates(&proxies);
            let tunnel = dial::race(&tunnels.endpoint, &tunnels.credentials, candidates).await.map(Rc::new);
            if let Some(tunnel) = &tunnel {
                tunnels.keep(tunnel);
            }
            tunnels.dialling.borrow_mut().remove(&proxies);
            tunnel
        };
        let dial = dial.boxed_local().shared();
        self.dialling.borrow_mut().insert(key, dial.clone());
        // It goes on to its end if the flows that wait for it give up: whoever comes next must not find it as it stood.
        tokio::task::spawn_local(dial.clone());
        dial
    }

    /// The addresses of these proxies, the last winner first.
    fn candidates(&self, proxies: &[ProxyName]) -> Vec<ProxyAddress> {
        let (addresses, last_winner) = (self.addresses.borrow(), self.last_winner.borrow());
        let mut candidates: Vec<_> = proxies.iter().filter_map(|name| addresses.get(name)).cloned().collect();
        candidates.sort_by_key(|address| Some(&address.name) != last_winner.as_ref());
        candidates
    }

    fn keep(self: &Rc<Self>, tunnel: &Rc<Tunnel>) {
        tracing::info!(proxy = %tunnel.proxy, "tunnel up");
        *self.last_winner.borrow_mut() = Some(tunnel.proxy.clone());
        let replaced = self.up.borrow_mut().insert(tunnel.proxy.clone(), Rc::clone(tunnel));
        if let Some(replaced) = replaced {
            replaced.health.retire();
        }
        let (connection, cancelled) = (tunnel.connection.clone(), self.cancelled.clone());
        let health = Rc::clone(&tunnel.health);
        let (tunnels, proxy) = (Rc::downgrade(self), tunnel.proxy.clone());
        tokio::task::spawn_local(async move {
            tokio::select! {
                () = lost::watch(&connection, &health) => {}
                () = cancelled.cancelled() => {
                    connection.close(VarInt::from_u32(close::DETACHED), b"detached");
                }
            }
            if let Some(tunnels) = tunnels.upgrade() {
                tunnels.forget(&proxy, &connection);
            }
        });
    }

    /// A tunnel is down: what QUIC keeps of it is given back.
    fn forget(&self, proxy: &ProxyName, connection: &Connection) {
        let mut up = self.up.borrow_mut();
        if up.get(proxy).is_some_and(|tunnel| tunnel.connection.stable_id() == connection.stable_id()) {
            up.remove(proxy);
        }
    }

    /// Opens a session on a tunnel to one of the resource's proxies. Where one cannot serve now, another one is tried.
    pub(crate) async fn open(
        self: &Rc<Self>,
        resource: &Resource,
        open: &Open,
    ) -> Result<Session, OpenError> {
        let reach_by = Instant::now() + REACH_DEADLINE;
        let mut proxies = resource.proxies.clone();
        let mut why = OpenError::NoProxy;
        for _ in 0..MAX_TRIES {
            let Ok(Some(tunnel)) = timeout_at(reach_by, self.reach(&proxies)).await else { break };
            match tunnel.open(open).await {
                Ok(session) => return Ok(session),
                Err(TryError::Refused(refusal @ OpenRefusal::Unavailable)) => {
                    why = OpenError::Refused(refusal);
                    proxies.retain(|name| *name != tunnel.proxy);
                }
                Err(TryError::Refused(refusal)) => return Err(OpenError::Refused(refusal)),
                Err(TryError::Silent | TryError::Gone) => {}
                Err(TryError::Failed) => return Err(OpenError::NoProxy),
            }
            if reach_by <= Instant::now() {
                break;
            }
        }
        Err(why)
    }
}

impl Tunnel {
    fn new(proxy: ProxyName, connection: Connection) -> Self {
        let turns = Rc::new(Turns::new(connection.clone(), SEND_WINDOW));
        Self { proxy, connection, health: Rc::default(), turns }
    }

    fn is_up(&self) -> bool {
        self.connection.close_reason().is_none()
    }
}

#[cfg(test)]
pub(crate) mod tests;
