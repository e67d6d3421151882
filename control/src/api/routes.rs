//! The requests, one function each: who asks, what is asked, and the answer in JSON.

use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, Path, Query, Request, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::StatusCode;
use portlatch_audit::EventKind;
use portlatch_protocol::api::ceremony::{
    CeremonyOutcome, CeremonyRequest, DeviceProof, ExecTarget, Explanation, MfaDevice, MfaDevices,
    PresenceProof,
};
use portlatch_protocol::api::{
    AccessAnswer, AccessRequest, CATALOGUE_WAIT, Catalogue, Ceremony, LoginAnswer, LoginChallenge,
    LoginGranted, LoginRequest, Problem, ProblemCode, TunnelCertificate, TunnelRequest,
};
use portlatch_protocol::names::Id;

use super::Peer;
use super::problem::{Denial, answer};
use crate::control::Control;
use crate::grants::Asker;

type Service = State<Arc<Control>>;

/// A JSON body; what is wrong with it is answered as a [`Problem`].
pub(super) struct Body<T>(pub(super) T);

impl<T: serde::de::DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let read = Json::<T>::from_request(request, state).await;
        let bad = |error: JsonRejection| answer(error.status(), ProblemCode::BadRequest, error.body_text());
        read.map(|Json(body)| Self(body)).map_err(bad)
    }
}

/// Begins a login.
#[utoipa::path(post, path = "/v1/login", request_body = LoginRequest, responses(
    (status = 200, body = LoginChallenge), (status = 401, body = Problem), (status = 403, body = Problem),
    (status = 429, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn begin_login(
    State(control): Service,
    Extension(peer): Extension<Peer>,
    Body(request): Body<LoginRequest>,
) -> Result<Json<LoginChallenge>, Denial> {
    Ok(Json(control.begin_login(&request, peer.address.ip()).await?))
}

/// Ends a login's ceremony with the key's answer.
#[utoipa::path(post, path = "/v1/login/{ceremony}", request_body = LoginAnswer,
    params(("ceremony" = Id, Path)), responses(
    (status = 200, body = LoginGranted), (status = 401, body = Problem), (status = 403, body = Problem),
    (status = 410, body = Problem), (status = 429, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn finish_login(
    State(control): Service,
    Extension(peer): Extension<Peer>,
    ceremony: Named,
    Body(request): Body<LoginAnswer>,
) -> Result<Json<LoginGranted>, Denial> {
    Ok(Json(control.finish_login(&named(ceremony)?, &request, peer.address.ip()).await?))
}

/// Ends the login.
#[utoipa::path(post, path = "/v1/logout", responses(
    (status = 204), (status = 401, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn logout(
    State(control): Service,
    Extension(peer): Extension<Peer>,
) -> Result<StatusCode, Denial> {
    // A locked user may leave: whoever holds the key of a login may always end it. Not limited, or somebody with a stolen
    // login could keep its user from it.
    let login = control.login_of(&peer).await?;
    control.logout(&login).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Certifies a tunnel key for the login.
#[utoipa::path(post, path = "/v1/tunnel", request_body = TunnelRequest, responses(
    (status = 200, body = TunnelCertificate), (status = 400, body = Problem), (status = 401, body = Problem),
    (status = 403, body = Problem), (status = 429, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn certify_tunnel(
    State(control): Service,
    Extension(peer): Extension<Peer>,
    Body(request): Body<TunnelRequest>,
) -> Result<Json<TunnelCertificate>, Denial> {
    let login = control.authenticate(&peer).await?;
    let asker = Asker { login: &login, address: peer.address.ip() };
    Ok(Json(control.certify_tunnel(asker, &request).await?))
}

/// Which catalogue the agent has.
#[derive(Debug, Clone, Copy, serde::Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct After {
    /// Its revision; without one, the answer comes at once.
    after: Option<u64>,
}

/// All that the login may reach; waits for a change if the agent has the newest already.
#[utoipa::path(get, path = "/v1/catalogue", params(After), responses(
    (status = 200, body = Catalogue), (status = 204), (status = 401, body = Problem),
    (status = 403, body = Problem), (status = 429, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn catalogue(
    State(control): Service,
    Extension(peer): Extension<Peer>,
    query: Result<Query<After>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Denial> {
    let Query(After { after }) = query.map_err(|error| Denial::BadRequest(error.body_text()))?;
    let asked = control.authenticate(&peer).await?;
    let asker = Asker { login: &asked, address: peer.address.ip() };
    if !control.access_limits.catalogues.take(&asked.login.login, asker.address, control.clock.boot_time()) {
        control.note_limited(asker, asker.event(EventKind::AccessDenied)).await;
        return Err(Denial::RateLimited);
    }
    let mut standing = control.hub.subscribe();
    let deadline = tokio::time::Instant::now() + CATALOGUE_WAIT;
    loop {
        // Looked up anew at each change: the change may be the login's own end.
        let login = control.authenticate(&peer).await?;
        let now = standing.borrow_and_update().clone();
        if after != Some(now.revision) {
            let catalogue = now.catalogue(&login.login.user, control.cluster());
            return Ok(Json(catalogue).into_response());
        }
        match tokio::time::timeout_at(deadline, standing.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(Denial::Unavailable),
            Err(_) => return Ok(StatusCode::NO_CONTENT.into_response()),
        }
    }
}

/// Asks for a grant.
#[utoipa::path(post, path = "/v1/access", request_body = AccessRequest, responses(
    (status = 200, body = AccessAnswer), (status = 400, body = Problem), (status = 401, body = Problem),
    (status = 403, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn ask(
    State(control): Service,
    Extension(peer): Extension<Peer>,
    Body(request): Body<AccessRequest>,
) -> Result<Json<AccessAnswer>, Denial> {
    let login = control.authenticate(&peer).await?;
    let asker = Asker { login: &login, address: peer.address.ip() };
    Ok(Json(control.ask(asker, &request).await?))
}

/// Makes the challenge for a proof of presence.
#[utoipa::path(post, path = "/v1/ceremonies", request_body = CeremonyRequest, responses(
    (status = 200, body = Ceremony), (status = 400, body = Problem), (status = 401, body = Problem),
    (status = 403, body = Problem), (status = 404, body = Problem), (status = 429, body = Problem),
    (status = 503, body = Problem)))]
pub(super) async fn begin_ceremony(
    State(control): Service,
    Extension(peer): Extension<Peer>,
    Body(request): Body<CeremonyRequest>,
) -> Result<Json<Ceremony>, Denial> {
    let login = control.authenticate(&peer).await?;
    let asker = Asker { login: &login, address: peer.address.ip() };
    Ok(Json(control.begin_ceremony(asker, &request).await?))
}

/// Ends a ceremony with a proof of presence.
#[utoipa::path(post, path = "/v1/ceremonies/{ceremony}", request_body = PresenceProof,
    params(("ceremony" = Id, Path)), responses(
    (status = 200, body = CeremonyOutcome), (status = 401, body = Problem), (status = 403, body = Problem),
    (status = 404, body = Problem), (status = 410, body = Problem), (status = 429, body = Problem),
    (status = 503, body = Problem)))]
pub(super) async fn finish_ceremony(
    State(control): Service,
    Extension(peer): Extension<Peer>,
    ceremony: Named,
    Body(proof): Body<PresenceProof>,
) -> Result<Json<CeremonyOutcome>, Denial> {
    let login = control.authenticate(&peer).await?;
    let asker = Asker { login: &login, address: peer.address.ip() };
    control.take_other(asker).await?;
    Ok(Json(control.finish_ceremony(asker, &named(ceremony)?, &proof).await?))
}

/// Forgets a ceremony.
#[utoipa::path(delete, path = "/v1/ceremonies/{ceremony}", params(("ceremony" = Id, Path)), responses(
    (status = 204), (status = 401, body = Problem), (status = 403, body = Problem),
    (status = 429, body = Problem)))]
pub(super) async fn cancel_ceremony(
    State(control): Service,
    Extension(peer): Extension<Peer>,
    ceremony: Named,
) -> Result<StatusCode, Denial> {
    let login = control.authenticate(&peer).await?;
    let asker = Asker { login: &login, address: peer.address.ip() };
    control.take_other(asker).await?;
    control.cancel_ceremony(asker, &named(ceremony)?).await;
    Ok(StatusCode::NO_CONTENT)
}

/// The user's keys, apps and recovery codes.
#[utoipa::path(get, path = "/v1/devices", responses(
    (status = 200, body = MfaDevices), (status = 401, body = Problem), (status = 403, body = Problem),
    (status = 429, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn mfa_devices(
    State(control): Service,
    Extension(peer): Extension<Peer>,
) -> Result<Json<MfaDevices>, Denial> {
    let login = control.authenticate(&peer).await?;
    control.take_other(Asker { login: &login, address: peer.address.ip() }).await?;
    Ok(Json(control.mfa_devices(&login.login.user).await?))
}

/// Ends the enrolment of a key or app.
#[utoipa::path(post, path = "/v1/devices/{ceremony}", request_body = DeviceProof,
    params(("ceremony" = Id, Path)), responses(
    (status = 200, body = MfaDevice), (status = 401, body = Problem), (status = 403, body = Problem),
    (status = 410, body = Problem), (status = 429, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn finish_enrolment(
    State(control): Service,
    Extension(peer): Extension<Peer>,
    ceremony: Named,
    Body(proof): Body<DeviceProof>,
) -> Result<Json<MfaDevice>, Denial> {
    let login = control.authenticate(&peer).await?;
    let asker = Asker { login: &login, address: peer.address.ip() };
    control.take_other(asker).await?;
    Ok(Json(control.finish_enrolment(asker, &named(ceremony)?, &proof).await?))
}

/// Forgets the login's proofs of presence: a screen was locked, or woke.
#[utoipa::path(delete, path = "/v1/taps", responses(
    (status = 204), (status = 401, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn forget_taps(
    State(control): Service,
    Extension(peer): Extension<Peer>,
) -> Result<StatusCode, Denial> {
    // As with the logout: whoever holds the key of a login may always give rights back.
    let login = control.login_of(&peer).await?;
    let asker = Asker { login: &login, address: peer.address.ip() };
    control.forget_presence(asker).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The ceremony that a path names.
pub(super) type Named = Result<Path<Id>, axum::extract::rejection::PathRejection>;

/// Which rule decides on a port.
#[utoipa::path(post, path = "/v1/why", request_body = ExecTarget, responses(
    (status = 200, body = Explanation), (status = 401, body = Problem), (status = 403, body = Problem),
    (status = 429, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn why(
    State(control): Service,
    Extension(peer): Extension<Peer>,
    Body(target): Body<ExecTarget>,
) -> Result<Json<Explanation>, Denial> {
    let login = control.authenticate(&peer).await?;
    let asker = Asker { login: &login, address: peer.address.ip() };
    Ok(Json(control.why(asker, &target).await?))
}

/// A name that is none names no ceremony.
pub(super) fn named(ceremony: Named) -> Result<Id, Denial> {
    ceremony.map(|Path(id)| id).map_err(|_| Denial::CeremonyEnded)
}
