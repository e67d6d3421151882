//! The pages for people: enrolment from the one-time link, sign-in, keys, and the approval of what an agent waits for. HTML
//! that is rendered here, one style sheet, one script for WebAuthn; nothing of anybody else's.
//!
//! | page | signed in | what it does |
//! |---|---|---|
//! | `/` | | says where one is |
//! | `/enrol` | no | sets a password and enrols the first key, with the token behind `#` |
//! | `/login` | no | signs in |
//! | `/login/device/ID` | no | signs in, here and on the device whose `portlatch login` waits |
//! | `/keys`, `/keys/new/ID` | yes | keys, passkeys, apps and recovery codes: list, add, name, remove |
//! | `/mfa/ID` | yes | what an agent waits for: approve or deny |
//!
//! A handler answers with a `frame::Page` or a `trouble::Trouble`; the guard dresses both, so that every answer has the
//! same headers and the same face. What changes anything is a POST from our own origin with the form token of the visitor's
//! cookie. Nothing happens on load: every ceremony begins with a button.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use portlatch_protocol::api::MAX_BODY;

use self::trouble::Trouble;
use crate::control::Control;

mod approve;
mod assets;
mod cookies;
mod device;
mod enrol;
mod fields;
mod frame;
mod guard;
mod home;
mod keys;
mod new_device;
mod sign_in;
mod trouble;

/// How long a request may take, from its head to its answer. Password hashing on a busy machine takes seconds.
const REQUEST_DEADLINE: Duration = Duration::from_secs(30);

/// Who is at the other end of the connection; whoever accepted it puts this on every request.
#[derive(Debug, Clone, Copy)]
pub struct Visitor {
    /// From where.
    pub address: SocketAddr,
}

/// The pages of this control service.
pub(crate) fn router(control: Arc<Control>) -> Router {
    Router::new()
        .route("/", get(home::show))
        .route("/enrol", get(enrol::show))
        .route("/enrol/begin", post(enrol::begin))
        .route("/enrol/finish", post(enrol::finish))
        .route("/login", get(sign_in::show))
        .route("/login/begin", post(sign_in::begin))
        .route("/login/finish", post(sign_in::finish))
        .route("/login/device/{id}", get(device::show))
        .route("/login/device/{id}/begin", post(device::begin))
        .route("/login/device/{id}/finish", post(device::finish))
        .route("/login/device/{id}/deny", post(device::deny))
        .route("/logout", post(sign_in::sign_out))
        .route("/keys", get(keys::show))
        .route("/keys/begin", post(keys::begin))
        .route("/keys/confirm", post(keys::confirm))
        .route("/keys/new/{id}", get(new_device::show))
        .route("/keys/new/{id}/begin", post(new_device::begin))
        .route("/keys/new/{id}/key", post(new_device::key))
        .route("/keys/new/{id}/app", post(new_device::app))
        .route("/mfa/{id}", get(approve::show))
        .route("/mfa/{id}/begin", post(approve::begin))
        .route("/mfa/{id}/approve", post(approve::approve))
        .route("/mfa/{id}/deny", post(approve::deny))
        .route("/assets/{name}", get(assets::serve))
        .route_layer(from_fn(to_its_end))
        .fallback(nothing_here)
        .method_not_allowed_fallback(nothing_here)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn_with_state(control.clone(), guard::guard))
        .with_state(control)
}

async fn nothing_here() -> Trouble {
    Trouble::NotThere
}

/// Runs a request to its end even if the browser goes away: what was written is put in force and on the record.
async fn to_its_end(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST_DEADLINE, tokio::spawn(next.run(request))).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => {
            tracing::error!(%error, "a page broke");
            Trouble::broken().into_response()
        }
        Err(_) => Trouble::broken().into_response(),
    }
}
