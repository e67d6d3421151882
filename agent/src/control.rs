//! The agent's side of control's API: one function for each request of [`portlatch_protocol::api`], each with a
//! deadline and a limit on the answer, each error a sentence.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, StatusCode};
use portlatch_clock::Clock;
use portlatch_protocol::api::ceremony::{
    CeremonyOutcome, CeremonyRequest, DeviceProof, ExecTarget, Explanation, MfaDevice, MfaDevices,
    PresenceProof,
};
use portlatch_protocol::api::{
    AccessAnswer, AccessRequest, CATALOGUE_WAIT, Catalogue, Ceremony, LoginAnswer, LoginChallenge,
    LoginGranted, LoginRequest, TunnelCertificate, TunnelRequest,
};
use portlatch_protocol::names::Id;
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::address::ClusterAddress;
use crate::login::Login;

mod error;
mod exchange;
mod pages;
mod trust;

pub(crate) use error::ApiError;
use exchange::{Answer, Exchange};
pub(crate) use trust::Trust;

/// How long control has for an answer that it need not wait for. Password hashing on a busy machine takes a second or
/// two; a program's SYN is held for longer than this.
const ANSWER_TIME: Duration = Duration::from_secs(15);
/// How long control has to decide on access: the daemon waits 15 s for it, the look at /proc included.
const ACCESS_TIME: Duration = Duration::from_secs(10);
/// How long the answer to the catalogue's long poll may take: control's wait and the way.
const CATALOGUE_TIME: Duration = CATALOGUE_WAIT.saturating_add(Duration::from_secs(10));
/// How long a glance may take: whoever waits for it wants to know whether control answers at all.
const GLANCE_TIME: Duration = Duration::from_secs(8);
/// How long saying goodbye may take: nobody wants to wait for it.
const GOODBYE_TIME: Duration = Duration::from_secs(5);

/// Control of one cluster.
#[derive(Debug)]
pub(crate) struct Control {
    exchange: Exchange,
}

impl Control {
    /// Control as it is seen before the login: only a login can be made.
    ///
    /// # Errors
    /// [`ApiError::Setup`] if the CA is no certificate.
    pub(crate) fn before_login(
        address: &ClusterAddress,
        trust: Trust,
        clock: &Clock,
    ) -> Result<Self, ApiError> {
        let tls = trust::anonymous(address, trust, clock)?;
        Ok(Self { exchange: Exchange::new(address.clone(), tls) })
    }

    /// Control as this login sees it.
    ///
    /// # Errors
    /// [`ApiError::Setup`] if key and certificate do not fit.
    pub(crate) fn for_login(login: &Login, clock: &Clock) -> Result<Self, ApiError> {
        let tls = trust::logged_in(login, clock)?;
        Ok(Self { exchange: Exchange::new(login.file.address(), tls) })
    }

    /// Begins a login.
    pub(crate) async fn begin_login(&self, request: &LoginRequest) -> Result<LoginChallenge, ApiError> {
        self.post("/v1/login", request).await
    }

    /// Ends a login's ceremony.
    pub(crate) async fn finish_login(
        &self,
        ceremony: &Id,
        answer: &LoginAnswer,
    ) -> Result<LoginGranted, ApiError> {
        self.post(&format!("/v1/login/{ceremony}"), answer).await
    }

    /// Ends the login itself.
    pub(crate) async fn logout(&self) -> Result<(), ApiError> {
        let answer = self.exchange.ask(Method::POST, "/v1/logout", Bytes::new(), GOODBYE_TIME).await?;
        nothing(&answer)
    }

    /// Has a tunnel key certified.
    pub(crate) async fn certify(&self, csr: &[u8]) -> Result<TunnelCertificate, ApiError> {
        self.post("/v1/tunnel", &TunnelRequest { csr: STANDARD.encode(csr) }).await
    }

    /// The catalogue once it is newer than `after`; `None` if it stayed the same for a while.
    pub(crate) async fn catalogue(&self, after: Option<u64>) -> Result<Option<Catalogue>, ApiError> {
        let path = match after {
            Some(revision) => format!("/v1/catalogue?after={revision}"),
            None => "/v1/catalogue".to_owned(),
        };
        let answer = self.exchange.ask(Method::GET, &path, Bytes::new(), CATALOGUE_TIME).await?;
        match answer.status {
            StatusCode::NO_CONTENT => Ok(None),
            _ => parsed(&answer).map(Some),
        }
    }

    /// Whether it answers, what it lists, and what time it is there.
    pub(crate) async fn glance(&self) -> Result<Glance, ApiError> {
        let answer = self.exchange.ask(Method::GET, "/v1/catalogue", Bytes::new(), GLANCE_TIME).await?;
        Ok(Glance { time: answer.date, catalogue: parsed(&answer) })
    }

    /// Asks for a grant.
    pub(crate) async fn access(&self, request: &AccessRequest) -> Result<AccessAnswer, ApiError> {
        self.post_within("/v1/access", request, ACCESS_TIME).await
    }

    /// Asks which rule decides on a port.
    pub(crate) async fn why(&self, target: &ExecTarget) -> Result<Explanation, ApiError> {
        self.post("/v1/why", target).await
    }

    /// Has a challenge made.
    pub(crate) async fn begin_ceremony(&self, request: &CeremonyRequest) -> Result<Ceremony, ApiError> {
        self.post("/v1/ceremonies", request).await
    }

    /// Answers a challenge.
    pub(crate) async fn finish_ceremony(
        &self,
        id: &Id,
        proof: &PresenceProof,
    ) -> Result<CeremonyOutcome, ApiError> {
        self.post(&format!("/v1/ceremonies/{id}"), proof).await
    }

    /// Calls a challenge off.
    pub(crate) async fn cancel_ceremony(&self, id: &Id) -> Result<(), ApiError> {
        let path = format!("/v1/ceremonies/{id}");
        nothing(&self.exchange.ask(Method::DELETE, &path, Bytes::new(), GOODBYE_TIME).await?)
    }

    /// The user's keys and apps.
    pub(crate) async fn devices(&self) -> Result<MfaDevices, ApiError> {
        parsed(&self.exchange.ask(Method::GET, "/v1/devices", Bytes::new(), ANSWER_TIME).await?)
    }

    /// Ends the enrolment of a key or an app.
    pub(crate) async fn finish_enrolment(&self, id: &Id, proof: &DeviceProof) -> Result<MfaDevice, ApiError> {
        self.post(&format!("/v1/devices/{id}"), proof).await
    }

    /// Forgets what was tapped for: the next grant needs another tap.
    pub(crate) async fn forget_taps(&self) -> Result<(), ApiError> {
        nothing(&self.exchange.ask(Method::DELETE, "/v1/taps", Bytes::new(), GOODBYE_TIME).await?)
    }

    async fn post<A: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<A, ApiError> {
        self.post_within(path, body, ANSWER_TIME).await
    }

    async fn post_within<A: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        time: Duration,
    ) -> Result<A, ApiError> {
        // It may hold a password or a code.
        let body = Zeroizing::new(serde_json::to_vec(body).expect("a request of ours is JSON"));
        parsed(&self.exchange.ask(Method::POST, path, Bytes::from_owner(body), time).await?)
    }
}

/// What one look at control shows.
#[derive(Debug)]
pub(crate) struct Glance {
    /// Its time of day, in seconds since 1970.
    pub(crate) time: Option<i64>,
    /// What the login may reach, or why control does not say.
    pub(crate) catalogue: Result<Catalogue, ApiError>,
}

/// A control that several tasks ask.
pub(crate) type SharedControl = Arc<Control>;

fn parsed<A: DeserializeOwned>(answer: &Answer) -> Result<A, ApiError> {
    match answer.status.is_success() {
        true => serde_json::from_slice(&answer.body).map_err(ApiError::BadAnswer),
        false => Err(ApiError::problem(answer.status, &answer.body)),
    }
}

fn nothing(answer: &Answer) -> Result<(), ApiError> {
    match answer.status.is_success() {
        true => Ok(()),
        false => Err(ApiError::problem(answer.status, &answer.body)),
    }
}
