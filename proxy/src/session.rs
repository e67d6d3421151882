//! The story of one stream, in the order in which it happens: header, grant, resource, address, limits, audit, dial,
//! answer, bytes, end. No byte reaches the target before the grant is verified and the session's start is written.

mod copy;

use std::sync::Arc;
use std::time::{Duration, Instant};

use portlatch_carrier::turns::Turns;
use portlatch_protocol::frame::{self, FrameError, LENGTH_BYTES, MAX_STREAM_FRAME};
use portlatch_protocol::names::Id;
use portlatch_protocol::stream::{Answer, Open, OpenRefusal, close, reset};
use portlatch_protocol::watch::ProxyResource;
use quinn::{RecvStream, SendStream};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::budget::OverBudget;
use crate::endpoint::transport::STREAM_WINDOW;
use crate::grant::VerifiedGrant;
use crate::limits::Place;
use crate::proxy::Proxy;
use crate::record::Denial;
use crate::sessions::{End, EndReason, LiveSession, SessionEntry};
use crate::target::{Target, TargetFault};
use crate::tunnel::Tunnel;

/// What a peer has for its header, and for taking our answer (design section 11).
pub(crate) const HEADER_DEADLINE: Duration = Duration::from_secs(5);

/// Serves one stream from its header to its end.
pub async fn run(proxy: Arc<Proxy>, tunnel: Arc<Tunnel>, mut send: SendStream, mut receive: RecvStream) {
    if proxy.stop.is_draining() {
        return refuse(&mut send, &mut receive, OpenRefusal::Unavailable).await;
    }
    let user = &tunnel.identity.login.user;
    let header = proxy.budget.while_headless(user, STREAM_WINDOW.into(), read_header(&mut receive));
    let open = match timeout(HEADER_DEADLINE, header).await {
        Ok(Ok(Ok(open))) => open,
        Ok(Ok(Err(HeaderFault::Stream))) => return,
        Ok(Ok(Err(HeaderFault::Frame(fault)))) => {
            tracing::warn!(%fault, client = %tunnel.client().ip(), "a tunnel broke the protocol");
            return tunnel.connection.close(close::PROTOCOL.into(), b"not a header");
        }
        Ok(Err(OverBudget)) | Err(_) => return reset_both(&mut send, &mut receive, reset::BAD_HEADER),
    };
    let admitted = match admit(&proxy, &tunnel, &open).await {
        Ok(admitted) => admitted,
        Err(refusal) => return refuse(&mut send, &mut receive, refusal).await,
    };
    match begin(&proxy, &tunnel, &open, admitted, &mut receive).await {
        Ok(session) => session.serve(&proxy, (&mut send, &tunnel.turns), &mut receive).await,
        Err(NotBegun::Refused(refusal)) => refuse(&mut send, &mut receive, refusal).await,
        Err(NotBegun::Early(Early::Gone)) => {}
        Err(NotBegun::Early(Early::Bytes)) => {
            tracing::warn!(client = %tunnel.client().ip(), "a tunnel broke the protocol: bytes before the answer");
            tunnel.connection.close(close::PROTOCOL.into(), b"bytes before the answer");
        }
    }
}

/// A header that never came whole.
enum HeaderFault {
    /// The stream or the tunnel ended.
    Stream,
    /// The bytes are no header.
    Frame(FrameError),
}

async fn read_header(receive: &mut RecvStream) -> Result<Open, HeaderFault> {
    let mut prefix = [0; LENGTH_BYTES];
    receive.read_exact(&mut prefix).await.map_err(|_| HeaderFault::Stream)?;
    let length = frame::content_length(prefix, MAX_STREAM_FRAME).map_err(HeaderFault::Frame)?;
    let mut content = vec![0; length];
    receive.read_exact(&mut content).await.map_err(|_| HeaderFault::Stream)?;
    frame::decode(&content).map_err(HeaderFault::Frame)
}

/// What a stream has passed before anything is written about it.
struct Admitted {
    grant: VerifiedGrant,
    target: Target,
    place: Place,
}

async fn admit(proxy: &Proxy, tunnel: &Tunnel, open: &Open) -> Result<Admitted, OpenRefusal> {
    if !proxy.view.becomes_ready().await {
        tracing::warn!("a stream is refused: control is silent");
        return Err(OpenRefusal::Unavailable);
    }
    let grant = match VerifiedGrant::verify(open, &tunnel.identity, &proxy.view, &tunnel.grants) {
        Ok(grant) => grant,
        Err(fault) => return Err(deny(proxy, tunnel, open, fault.refusal(), &fault.to_string(), None).await),
    };
    let Some(resource) = proxy.view.resource(&open.resource).filter(|resource| has(resource, open)) else {
        let refusal = OpenRefusal::UnknownResource;
        return Err(deny(proxy, tunnel, open, refusal, refusal.as_str(), None).await);
    };
    let limits = grant.claims().limits;
    let user = &tunnel.identity.login.user;
    let Ok(place) = proxy.limits.connection(user, limits, Instant::now()) else {
        return Err(deny(proxy, tunnel, open, OpenRefusal::Limit, OpenRefusal::Limit.as_str(), None).await);
    };
    tunnel.allow_streams(limits.connections);
    match Target::resolve(&resource, open.port).await {
        Ok(target) => Ok(Admitted { grant, target, place }),
        Err(fault) => {
            let refusal = fault.refusal();
            tracing::debug!(%fault, resource = %open.resource, "no target");
            Err(deny(proxy, tunnel, open, refusal, refusal.as_str(), Some(fault.to_string())).await)
        }
    }
}

/// Whether the resource has this port and this host name.
fn has(resource: &ProxyResource, open: &Open) -> bool {
    resource.ports.iter().any(|range| range.contains(open.port)) && resource.host.is_announced_as(&open.host)
}

/// Writes a refusal to the audit. Who is refused too often loses the tunnel.
async fn deny(
    proxy: &Proxy,
    tunnel: &Tunnel,
    open: &Open,
    refusal: OpenRefusal,
    reason: &str,
    detail: Option<String>,
) -> OpenRefusal {
    let (login, client) = (Some(&tunnel.identity.login), tunnel.client());
    if proxy.limits.refusal(&tunnel.identity.login.user, Instant::now()).is_err() {
        // One record for all that is refused from now on: the streams under way are many.
        if tunnel.gives_up() {
            let detail =
                Some(format!("too many refused streams, the last for {reason}: the tunnel is closed"));
            let reason = OpenRefusal::Limit.as_str();
            proxy.recorder.denied(Denial { login, client, open: Some(open), reason, detail }).await;
        }
        tunnel.connection.close(close::LIMIT.into(), b"too many refused streams");
        return refusal;
    }
    proxy.recorder.denied(Denial { login, client, open: Some(open), reason, detail }).await;
    refusal
}

/// Why a session did not begin.
enum NotBegun {
    Refused(OpenRefusal),
    Early(Early),
}

impl From<OpenRefusal> for NotBegun {
    fn from(refusal: OpenRefusal) -> Self {
        Self::Refused(refusal)
    }
}

/// What a peer did before its answer.
enum Early {
    /// It has reset the stream, or the tunnel is gone: nobody waits for the target any more.
    Gone,
    /// It sent more than its header. Nobody reads that until the target is there, and thousands of streams may wait for
    /// theirs: so none of ours sends any.
    Bytes,
}

/// Returns when the peer does one of it.
async fn early(receive: &mut RecvStream) -> Early {
    match receive.read_chunk(1, true).await {
        Ok(Some(_)) => Early::Bytes,
        Ok(None) => std::future::pending().await,
        Err(_) => Early::Gone,
    }
}

/// Puts the session on the record and dials.
async fn begin(
    proxy: &Arc<Proxy>,
    tunnel: &Tunnel,
    open: &Open,
    admitted: Admitted,
    receive: &mut RecvStream,
) -> Result<Connected, NotBegun> {
    let Admitted { grant, target, place } = admitted;
    let id = new_id().ok_or(OpenRefusal::Unavailable)?;
    let session = proxy.sessions.add(LiveSession {
        id,
        login: tunnel.identity.login.clone(),
        resource: open.resource.clone(),
        port: open.port,
        target: target.first(),
        client: tunnel.client(),
        program: open.program.clone(),
        started: proxy.clock.time_of_day(),
        bytes_in: 0.into(),
        bytes_out: 0.into(),
        end: End::default(),
    });
    // Again now that the session is in the table: the target's name took its time, and neither a revocation nor a lock
    // that came meanwhile must be passed by.
    if let Err(fault) = grant.check_standing(&tunnel.identity, &proxy.view) {
        return Err(deny(proxy, tunnel, open, fault.refusal(), &fault.to_string(), None).await.into());
    }
    if let Err(error) = proxy.recorder.session_start(&session, open, &grant).await {
        tracing::error!(%error, "no session without its record");
        return Err(OpenRefusal::Unavailable.into());
    }
    let recorded = Recorded { proxy: Arc::clone(proxy), session, is_over: false };
    let dialled = tokio::select! {
        dialled = target.dial() => dialled,
        reason = recorded.session.end.called() => {
            recorded.over(reason).await;
            return Err(refusal_of_end(reason).into());
        }
        early = early(receive) => {
            recorded.over(EndReason::ProgramReset).await;
            return Err(NotBegun::Early(early));
        }
    };
    match dialled {
        Ok(stream) => Ok(Connected { recorded, stream, grant, _place: place }),
        Err(fault) => {
            let (refusal, reason) = (fault.refusal(), end_of_dial(&fault));
            tracing::debug!(%fault, resource = %open.resource, "not dialled");
            recorded.over(reason).await;
            Err(refusal.into())
        }
    }
}

const fn end_of_dial(fault: &TargetFault) -> EndReason {
    match fault {
        TargetFault::Refused => EndReason::TargetRefused,
        TargetFault::Unreachable(_) | TargetFault::Unresolved(_) | TargetFault::Forbidden(_) => {
            EndReason::TargetUnreachable
        }
        TargetFault::OutOfResources(_) => EndReason::Internal,
    }
}

/// A session that was cut before its target answered.
fn refusal_of_end(reason: EndReason) -> OpenRefusal {
    match reason {
        EndReason::Locked | EndReason::Killed => OpenRefusal::Locked,
        EndReason::LoginEnded | EndReason::SessionOver | EndReason::Idle => OpenRefusal::GrantEnded,
        EndReason::ResourceGone => OpenRefusal::UnknownResource,
        EndReason::TargetRefused => OpenRefusal::TargetRefused,
        EndReason::TargetUnreachable | EndReason::TargetReset => OpenRefusal::TargetUnreachable,
        EndReason::Closed
        | EndReason::ProgramReset
        | EndReason::TunnelLost
        | EndReason::ProxyStopped
        | EndReason::OverBudget
        | EndReason::Internal => OpenRefusal::Unavailable,
    }
}

fn new_id() -> Option<Id> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).ok()?;
    Some(Id::from_random(bytes))
}

/// A session whose start is written: its end will be too, even if what runs it panics or is dropped.
struct Recorded {
    proxy: Arc<Proxy>,
    session: SessionEntry,
    is_over: bool,
}

impl Recorded {
    async fn over(mut self, reason: EndReason) {
        self.is_over = true;
        self.proxy.recorder.session_end(&self.session, reason).await;
        tracing::debug!(session = %self.session.id, reason = reason.as_str(), "session over");
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        if !self.is_over {
            self.proxy.recorder.session_end_now(&self.session, EndReason::Internal);
        }
    }
}

/// A session whose target is connected.
struct Connected {
    recorded: Recorded,
    stream: TcpStream,
    grant: VerifiedGrant,
    _place: Place,
}

impl Connected {
    async fn serve(self, proxy: &Proxy, (send, turns): (&mut SendStream, &Turns), receive: &mut RecvStream) {
        let Self { recorded, stream, grant, _place } = self;
        let reason = match answer(send, Answer::Opened).await {
            Ok(()) => {
                copy::copy(proxy, recorded.session.shared(), grant.claims(), stream, (send, turns), receive)
                    .await
            }
            Err(_) => EndReason::TunnelLost,
        };
        recorded.over(reason).await;
    }
}

/// The peer did not take our answer.
struct NotAnswered;

async fn answer(send: &mut SendStream, answer: Answer) -> Result<(), NotAnswered> {
    let bytes = frame::encode(&answer, MAX_STREAM_FRAME).map_err(|_| NotAnswered)?;
    match timeout(HEADER_DEADLINE, send.write_all(&bytes)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(NotAnswered),
    }
}

async fn refuse(send: &mut SendStream, receive: &mut RecvStream, refusal: OpenRefusal) {
    // Whoever does not take the answer, or has gone, needs none.
    let _ = receive.stop(reset::BAD_HEADER.into());
    match answer(send, Answer::Refused(refusal)).await {
        Ok(()) => drop(send.finish()),
        Err(NotAnswered) => drop(send.reset(reset::BAD_HEADER.into())),
    }
}

/// Ends both directions. They may have ended already, which is as good.
fn reset_both(send: &mut SendStream, receive: &mut RecvStream, code: u32) {
    let _ = send.reset(code.into());
    let _ = receive.stop(code.into());
}
