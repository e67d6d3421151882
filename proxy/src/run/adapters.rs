//! Where control and proxy meet: each sees the other through its own trait.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hyper::Request;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use portlatch_clock::TimeOfDay;
use portlatch_control::admin::SessionLine;
use portlatch_control::api::Peer;
use portlatch_control::control::{Control, LiveSessions};
use portlatch_control::pages::Visitor;
use portlatch_control::watch::Watch;
use portlatch_protocol::names::Id;
use portlatch_protocol::watch::{Hello, WatchMessage};
use portlatch_proxy::listener::Caller;
use portlatch_proxy::proxy::Proxy;
use portlatch_proxy::sessions::{Killed, LiveSession};
use portlatch_proxy::watch::ControlWatch;

/// Control's watch, in the same process.
pub(super) struct ControlMessages(pub(super) Watch);

impl ControlWatch for ControlMessages {
    fn hello(&self) -> Hello {
        self.0.hello()
    }

    async fn next(&mut self) -> Option<WatchMessage> {
        self.0.next().await
    }
}

/// The proxy's sessions, for the administrator.
pub(super) struct ProxySessions(pub(super) Arc<Proxy>);

impl LiveSessions for ProxySessions {
    fn list(&self) -> Vec<SessionLine> {
        self.0.sessions.list().iter().map(|session| line(session)).collect()
    }

    fn kill(&self, id: &Id) -> bool {
        self.0.sessions.kill(id) == Killed::Ended
    }
}

fn line(session: &LiveSession) -> SessionLine {
    SessionLine {
        id: session.id.clone(),
        started: rfc3339(session.started),
        user: session.login.user.clone(),
        login: session.login.login.clone(),
        device: session.login.device.clone(),
        resource: session.resource.clone(),
        port: session.port,
        target: session.target.to_string(),
        client_addr: session.client.to_string(),
        program: session.program.clone(),
        bytes_in: session.bytes_in.load(Ordering::Relaxed),
        bytes_out: session.bytes_out.load(Ordering::Relaxed),
    }
}

fn rfc3339(time: TimeOfDay) -> String {
    let moment = time::OffsetDateTime::from_unix_timestamp(time.seconds()).ok();
    let form = &time::format_description::well_known::Rfc3339;
    moment.and_then(|moment| moment.format(form).ok()).unwrap_or_default()
}

/// What makes the service of one connection to the TCP port: control's API or its pages, told who is there.
pub(super) fn serve_control(
    control: &Arc<Control>,
) -> impl Fn(Caller) -> ControlService + Clone + Send + 'static {
    let api = TowerToHyperService::new(control.router());
    let pages = TowerToHyperService::new(control.pages());
    move |caller| match caller {
        Caller::Agent(peer) => {
            let certificate = peer.certificate.map(|der| der.to_vec());
            let peer = Peer { identity: peer.identity, certificate, address: peer.address };
            ControlService { router: api.clone(), peer: AtPort::Agent(peer) }
        }
        Caller::Browser(address) => {
            ControlService { router: pages.clone(), peer: AtPort::Browser(Visitor { address }) }
        }
    }
}

type Router = TowerToHyperService<axum::Router>;

/// Control as one peer sees it.
pub(super) struct ControlService {
    router: Router,
    peer: AtPort,
}

/// Who is there, as control's routers want to know it.
enum AtPort {
    Agent(Peer),
    Browser(Visitor),
}

impl Service<Request<Incoming>> for ControlService {
    type Response = <Router as Service<Request<Incoming>>>::Response;
    type Error = <Router as Service<Request<Incoming>>>::Error;
    type Future = <Router as Service<Request<Incoming>>>::Future;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        match &self.peer {
            AtPort::Agent(peer) => drop(request.extensions_mut().insert(peer.clone())),
            AtPort::Browser(visitor) => drop(request.extensions_mut().insert(*visitor)),
        }
        self.router.call(request)
    }
}
