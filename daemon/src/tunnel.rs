//! The tunnels of one login: which proxy, and the way to it.
//!
//! A tunnel is an authenticated QUIC connection to one proxy; each flow is a stream in it. Tunnels are made when they
//! are first needed, kept while the login is attached, and dialled anew when they are lost.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::{LocalBoxFuture, Shared};
use portlatch_protocol::frame::{self, LENGTH_BYTES, MAX_STREAM_FRAME};
use portlatch_protocol::names::ProxyName;
use portlatch_protocol::refusal::RefusalReason;
use portlatch_protocol::resource::{ProxyAddress, Resource};
use portlatch_protocol::stream::{Answer, Open, OpenRefusal, close};
use quinn::{Connection, RecvStream, SendStream, VarInt};
use tokio_util::sync::CancellationToken;

pub(crate) mod credentials;
mod dial;
pub(crate) mod endpoint;
mod lost;

use credentials::TunnelCredentials;

/// The proxy dials for 5 s, then resolves and audits: an `Open` that takes longer is lost.
const OPEN_DEADLINE: Duration = Duration::from_secs(12);
/// Credit for the streams that have just ended is on its way for a round trip; a proxy that gives none by then has none
/// left, and the flow is refused.
const STREAM_CREDIT_DEADLINE: Duration = Duration::from_secs(1);

type Dialling = Shared<LocalBoxFuture<'static, Option<Rc<Tunnel>>>>;

/// A tunnel that is up.
pub(crate) struct Tunnel {
    pub(crate) proxy: ProxyName,
    connection: Connection,
}

/// A session that a proxy opened: both directions of its stream.
pub(crate) struct Session {
    pub(crate) send: SendStream,
    pub(crate) receive: RecvStream,
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

    /// A tunnel to one of the resource's proxies, made now if there is none.
    pub(crate) async fn tunnel_for(self: &Rc<Self>, resource: &Resource) -> Option<Rc<Tunnel>> {
        if let Some(tunnel) = self.live(&resource.proxies) {
            return Some(tunnel);
        }
        let under_way = self.dialling.borrow().get(&resource.proxies).cloned();
        let dial = under_way.unwrap_or_else(|| self.start_dial(resource.proxies.clone()));
        dial.await
    }

    fn live(&self, proxies: &[ProxyName]) -> Option<Rc<Tunnel>> {
        let up = self.up.borrow();
        proxies.iter().filter_map(|name| up.get(name)).find(|tunnel| tunnel.is_up()).cloned()
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
        dial
    }

    /// The addresses of these proxies, the last winner first.
    fn candidates(&self, proxies: &[ProxyName]) -> Vec<ProxyAddress> {
        let (addresses, last_winner) = (self.addresses.borrow(), self.last_winner.borrow());
        let mut candidates: Vec<_> = proxies.iter().filter_map(|name| addresses.get(name)).cloned().collect();
        candidates.sort_by_key(|address| Some(&address.name) != last_winner.as_ref());
        candidates
    }

    fn keep(&self, tunnel: &Rc<Tunnel>) {
        tracing::info!(proxy = %tunnel.proxy, "tunnel up");
        *self.last_winner.borrow_mut() = Some(tunnel.proxy.clone());
        self.up.borrow_mut().insert(tunnel.proxy.clone(), Rc::clone(tunnel));
        let (connection, cancelled) = (tunnel.connection.clone(), self.cancelled.clone());
        tokio::task::spawn_local(async move {
            tokio::select! {
                () = lost::watch(&connection) => {}
                () = cancelled.cancelled() => {
                    connection.close(VarInt::from_u32(close::DETACHED), b"detached");
                }
            }
        });
    }

    /// Opens a session on a tunnel to one of the resource's proxies.
    pub(crate) async fn open(
        self: &Rc<Self>,
        resource: &Resource,
        open: &Open,
    ) -> Result<Session, OpenError> {
        let tunnel = self.tunnel_for(resource).await.ok_or(OpenError::NoProxy)?;
        match tokio::time::timeout(OPEN_DEADLINE, tunnel.open(open)).await {
            Ok(Ok(session)) => Ok(session),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(OpenError::NoProxy),
        }
    }
}

impl Tunnel {
    fn is_up(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    async fn open(&self, open: &Open) -> Result<Session, OpenError> {
        let credit = tokio::time::timeout(STREAM_CREDIT_DEADLINE, self.connection.open_bi()).await;
        let (mut send, mut receive) = match credit {
            Ok(Ok(streams)) => streams,
            Ok(Err(_)) => return Err(OpenError::NoProxy),
            Err(_) => return Err(OpenError::Refused(OpenRefusal::Limit)),
        };
        let header = frame::encode(open, MAX_STREAM_FRAME).expect("an Open fits its frame");
        send.write_chunk(Bytes::from(header)).await.map_err(|_| OpenError::NoProxy)?;
        match answer(&mut receive).await? {
            Answer::Opened => Ok(Session { send, receive }),
            Answer::Refused(refusal) => Err(OpenError::Refused(refusal)),
        }
    }
}

async fn answer(receive: &mut RecvStream) -> Result<Answer, OpenError> {
    let mut prefix = [0; LENGTH_BYTES];
    receive.read_exact(&mut prefix).await.map_err(|_| OpenError::NoProxy)?;
    let length = frame::content_length(prefix, MAX_STREAM_FRAME).map_err(|_| OpenError::NoProxy)?;
    let mut content = vec![0; length];
    receive.read_exact(&mut content).await.map_err(|_| OpenError::NoProxy)?;
    frame::decode(&content).map_err(|_| OpenError::NoProxy)
}
