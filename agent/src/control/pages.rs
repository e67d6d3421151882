//! What control says of its pages: logins that are made there, and what was decided there.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use portlatch_protocol::api::browser::{
    APPROVAL_WAIT, BrowserClaim, BrowserLogin, BrowserLoginRequest, PageDecision,
};
use portlatch_protocol::api::ceremony::BrowserProof;
use portlatch_protocol::api::{LoginGranted, Secret};
use portlatch_protocol::names::Id;

use super::exchange::Answer;
use super::{ApiError, Control, parsed};

/// How long the answer to the long poll may take: control's wait and the way.
const DECISION_TIME: Duration = APPROVAL_WAIT.saturating_add(Duration::from_secs(10));

impl Control {
    /// What was decided at the page of a ceremony; `None` if nothing was for a while.
    pub(crate) async fn page_decision(&self, ceremony: &Id) -> Result<Option<PageDecision>, ApiError> {
        let path = format!("/v1/ceremonies/{ceremony}/page");
        decision(&self.exchange.ask(Method::POST, &path, Bytes::new(), DECISION_TIME).await?)
    }

    /// Begins a login at a page.
    pub(crate) async fn begin_browser_login(
        &self,
        request: &BrowserLoginRequest,
    ) -> Result<BrowserLogin, ApiError> {
        self.post("/v1/browser-logins", request).await
    }

    /// What was decided at the page of a login; `None` if nothing was for a while.
    pub(crate) async fn browser_login_decision(
        &self,
        ceremony: &Id,
        secret: Secret,
    ) -> Result<Option<PageDecision>, ApiError> {
        let path = format!("/v1/browser-logins/{ceremony}/page");
        let body = serde_json::to_vec(&BrowserClaim { secret }).expect("a request of ours is JSON");
        decision(&self.exchange.ask(Method::POST, &path, body.into(), DECISION_TIME).await?)
    }

    /// Ends a login at a page.
    pub(crate) async fn finish_browser_login(
        &self,
        ceremony: &Id,
        proof: &BrowserProof,
    ) -> Result<LoginGranted, ApiError> {
        self.post(&format!("/v1/browser-logins/{ceremony}"), proof).await
    }
}

fn decision(answer: &Answer) -> Result<Option<PageDecision>, ApiError> {
    match answer.status {
        StatusCode::NO_CONTENT => Ok(None),
        _ => parsed(answer).map(Some),
    }
}
