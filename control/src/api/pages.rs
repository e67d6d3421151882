//! What agents ask about pages: logins that are made there, and what was decided there.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use http::StatusCode;
use portlatch_protocol::api::browser::{BrowserClaim, BrowserLogin, BrowserLoginRequest, PageDecision};
use portlatch_protocol::api::ceremony::BrowserProof;
use portlatch_protocol::api::{LoginGranted, Problem};
use portlatch_protocol::names::Id;

use super::Peer;
use super::problem::Denial;
use super::routes::{Body, Named, named};
use crate::control::Control;
use crate::grants::Asker;

type Service = State<Arc<Control>>;

/// Waits for what is decided at the page of a ceremony.
#[utoipa::path(post, path = "/v1/ceremonies/{ceremony}/page", params(("ceremony" = Id, Path)), responses(
    (status = 200, body = PageDecision), (status = 204), (status = 401, body = Problem),
    (status = 403, body = Problem), (status = 410, body = Problem), (status = 429, body = Problem),
    (status = 503, body = Problem)))]
pub(super) async fn decision(
    State(control): Service,
    Extension(peer): Extension<Peer>,
    ceremony: Named,
) -> Result<Response, Denial> {
    let login = control.authenticate(&peer).await?;
    control.take_other(Asker { login: &login, address: peer.address.ip() }).await?;
    Ok(decided(control.page_decision(&login.login.login, &named(ceremony)?).await?))
}

/// Begins a login at a page.
#[utoipa::path(post, path = "/v1/browser-logins", request_body = BrowserLoginRequest, responses(
    (status = 200, body = BrowserLogin), (status = 400, body = Problem), (status = 429, body = Problem),
    (status = 503, body = Problem)))]
pub(super) async fn begin_login(
    State(control): Service,
    Extension(peer): Extension<Peer>,
    Body(request): Body<BrowserLoginRequest>,
) -> Result<Json<BrowserLogin>, Denial> {
    Ok(Json(control.begin_browser_login(&request, peer.address.ip()).await?))
}

/// Ends a login at a page, with what the page gave the agent.
#[utoipa::path(post, path = "/v1/browser-logins/{ceremony}", request_body = BrowserProof,
    params(("ceremony" = Id, Path)), responses(
    (status = 200, body = LoginGranted), (status = 401, body = Problem), (status = 403, body = Problem),
    (status = 410, body = Problem), (status = 429, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn finish_login(
    State(control): Service,
    Extension(peer): Extension<Peer>,
    ceremony: Named,
    Body(proof): Body<BrowserProof>,
) -> Result<Json<LoginGranted>, Denial> {
    Ok(Json(control.finish_browser_login(&named(ceremony)?, &proof, peer.address.ip()).await?))
}

/// Waits for what is decided at the page of a login.
#[utoipa::path(post, path = "/v1/browser-logins/{ceremony}/page", request_body = BrowserClaim,
    params(("ceremony" = Id, Path)), responses(
    (status = 200, body = PageDecision), (status = 204), (status = 410, body = Problem),
    (status = 503, body = Problem)))]
pub(super) async fn login_decision(
    State(control): Service,
    ceremony: Named,
    Body(claim): Body<BrowserClaim>,
) -> Result<Response, Denial> {
    Ok(decided(control.browser_login_decision(&named(ceremony)?, &claim.secret).await?))
}

fn decided(decision: Option<PageDecision>) -> Response {
    match decision {
        Some(decision) => Json(decision).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    }
}
