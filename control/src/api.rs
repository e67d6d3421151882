//! The agent's API: JSON over HTTP/1.1, for whoever serves TLS in front of it. The table of requests is
//! [`portlatch_protocol::api`]'s.
//!
//! Every request but the login itself looks its login up again: one that ended or was locked a moment ago gets nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{delete, get, post};
use http::StatusCode;
use portlatch_audit::{Event, EventKind};
use portlatch_protocol::api::{MAX_BODY, ProblemCode};
use portlatch_protocol::identity::{Identity, Subject};
use x509_parser::prelude::{FromDer, X509Certificate};

use self::problem::Denial;
use crate::control::Control;
use crate::store::logins::StoredLogin;

mod openapi;
mod pages;
pub mod problem;
mod routes;

/// How long a request may take, from its head to its answer; longer than the longest wait for a catalogue.
const REQUEST_DEADLINE: Duration = Duration::from_secs(40);

/// Who is at the other end of the connection; whoever accepted it puts this on every request.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Whom the verified certificate speaks for, if one was shown.
    pub identity: Option<Identity>,
    /// That certificate, in DER.
    pub certificate: Option<Vec<u8>>,
    /// The peer's address.
    pub address: SocketAddr,
}

/// The API of this control service.
pub(crate) fn router(control: Arc<Control>) -> Router {
    Router::new()
        .route("/v1/login", post(routes::begin_login))
        .route("/v1/login/{ceremony}", post(routes::finish_login))
        .route("/v1/logout", post(routes::logout))
        .route("/v1/tunnel", post(routes::certify_tunnel))
        .route("/v1/access", post(routes::ask))
        .route("/v1/ceremonies", post(routes::begin_ceremony))
        .route("/v1/ceremonies/{ceremony}", post(routes::finish_ceremony))
        .route("/v1/ceremonies/{ceremony}", delete(routes::cancel_ceremony))
        .route("/v1/devices", get(routes::mfa_devices))
        .route("/v1/devices/{ceremony}", post(routes::finish_enrolment))
        .route("/v1/taps", delete(routes::forget_taps))
        .route("/v1/browser-logins", post(pages::begin_login))
        .route("/v1/browser-logins/{ceremony}", post(pages::finish_login))
        .route("/v1/why", post(routes::why))
        .route_layer(from_fn(to_its_end))
        .route("/v1/catalogue", get(routes::catalogue))
        .route("/v1/ceremonies/{ceremony}/page", post(pages::decision))
        .route("/v1/browser-logins/{ceremony}/page", post(pages::login_decision))
        .route("/v1/openapi.json", get(openapi::serve))
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn(with_deadline))
        .with_state(control)
}

async fn with_deadline(request: Request, next: Next) -> Response {
    let answered = tokio::time::timeout(REQUEST_DEADLINE, next.run(request)).await;
    answered.unwrap_or_else(|_| {
        let message = "the request took too long: try again".to_owned();
        problem::answer(StatusCode::REQUEST_TIMEOUT, ProblemCode::Unavailable, message)
    })
}

/// Runs a request to its end even if the asker goes away or the time is over: what was written is put in force and on the
/// record. Waiting for the catalogue changes nothing, and ends with its asker.
async fn to_its_end(request: Request, next: Next) -> Response {
    let answered = tokio::spawn(next.run(request)).await;
    answered.unwrap_or_else(|error| {
        tracing::error!(%error, "a request broke");
        Denial::Unavailable.into_response()
    })
}

async fn no_such_route() -> Response {
    let message = "there is no such request: is `portlatch` of the service's version?".to_owned();
    problem::answer(StatusCode::NOT_FOUND, ProblemCode::NotFound, message)
}

async fn no_such_method() -> Response {
    let message = "there is no such request: is `portlatch` of the service's version?".to_owned();
    problem::answer(StatusCode::METHOD_NOT_ALLOWED, ProblemCode::BadRequest, message)
}

impl Control {
    /// The login that the peer's certificate speaks for, if it stands.
    pub(crate) async fn authenticate(&self, peer: &Peer) -> Result<StoredLogin, Denial> {
        let standing = self.login_of(peer).await.and_then(|login| self.stands(login));
        if let Err(denial) = &standing {
            self.note_refused(peer, denial).await;
        }
        standing
    }

    pub(crate) fn stands(&self, login: StoredLogin) -> Result<StoredLogin, Denial> {
        let now = self.clock.time_of_day();
        if login.ended.is_some() || login.expires <= now {
            return Err(Denial::LoginEnded);
        }
        let standing = self.hub.now();
        if !standing.has_user(&login.login.user) || standing.ended_logins.contains_key(&login.login.login) {
            return Err(Denial::LoginEnded);
        }
        match standing.lock_on_login(&login.login, now) {
            Some(message) => Err(Denial::Locked(message)),
            None => Ok(login),
        }
    }

    /// Records that a login is refused whatever it asks for. Whoever shows no certificate has no name to record.
    async fn note_refused(&self, peer: &Peer, denial: &Denial) {
        let Some(Subject::Login(login)) = peer.identity.as_ref().map(|identity| &identity.subject) else {
            return;
        };
        let reason = match denial {
            Denial::LoginEnded => "login_ended",
            Denial::Locked(_) => "locked",
            // The store, which logs its own.
            Denial::BadLogin
            | Denial::CeremonyEnded
            | Denial::BadAssertion
            | Denial::BadCode
            | Denial::Paused(_)
            | Denial::CodesPaused(_)
            | Denial::SourceAddress
            | Denial::Refused(_)
            | Denial::Policy
            | Denial::NotFound
            | Denial::RateLimited
            | Denial::BadRequest(_)
            | Denial::Unavailable => return,
        };
        if !self.access_limits.records.take(&login.login, self.clock.boot_time()) {
            return;
        }
        let event = Event {
            user: Some(login.user.clone()),
            login: Some(login.login.clone()),
            device: Some(login.device.clone()),
            client_addr: Some(peer.address.ip().to_string()),
            reason: Some(reason.to_owned()),
            ..Event::new(EventKind::AccessDenied)
        };
        self.audit.note(event).await;
    }

    /// The login that the peer's certificate speaks for, whether or not it stands.
    pub(crate) async fn login_of(&self, peer: &Peer) -> Result<StoredLogin, Denial> {
        let (Some(identity), Some(certificate)) = (&peer.identity, &peer.certificate) else {
            return Err(Denial::LoginEnded);
        };
        let Subject::Login(login) = &identity.subject else { return Err(Denial::LoginEnded) };
        if identity.cluster != *self.cluster() {
            return Err(Denial::LoginEnded);
        }
        let stored = self.store.login(&login.login).await?.ok_or(Denial::LoginEnded)?;
        // The name says who it claims to be; the key says whether this certificate is the one of the login.
        let is_same_key = X509Certificate::from_der(certificate)
            .is_ok_and(|(_, certificate)| certificate.public_key().raw == stored.spki);
        match is_same_key && stored.login == *login {
            true => Ok(stored),
            false => Err(Denial::LoginEnded),
        }
    }
}
