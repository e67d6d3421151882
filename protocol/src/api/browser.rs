//! Browsers beside an agent: a login that is made at a page, and what a person decided there for an agent that waits.
//!
//! The agent announces where it listens and the hash of a secret ([`BrowserReturn`]), opens the page, and then waits for
//! both: the one-time code that the page's redirect brings to its own machine, and control's word, which comes first where
//! the person denied it, or approved it from another machine.

use super::Secret;
use super::ceremony::{BrowserOffer, BrowserReturn};
use crate::names::{DeviceName, Id, UserName};

/// How long control holds a request for what was decided at the page.
pub const APPROVAL_WAIT: std::time::Duration = std::time::Duration::from_secs(25);
/// Characters of the code that is typed into the page on another machine.
pub const TYPED_CODE: usize = 4;

/// The path at which an agent's listener expects a ceremony's redirect.
pub fn return_path(ceremony: &Id) -> String {
    format!("/portlatch/{ceremony}")
}

/// Begins a login at a page.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BrowserLoginRequest {
    /// The user, where the agent knows it: nobody else can answer then.
    #[serde(default)]
    pub user: Option<UserName>,
    /// What the machine calls itself.
    pub device: DeviceName,
    /// PKCS #10 request for the login certificate, signed by the new login key: base64 of the DER.
    pub csr: String,
    /// Where a browser on this machine brings its answer.
    pub browser: BrowserReturn,
}

/// A login that waits for its page.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BrowserLogin {
    /// Names it.
    pub ceremony: Id,
    /// The page, and the code for another machine; whether the user's roles take that is known only once the user is.
    pub browser: BrowserOffer,
    /// Seconds until it ends.
    pub expires_in: u64,
}

/// Shows that whoever asks about a login at a page began it.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BrowserClaim {
    /// The agent's secret.
    pub secret: Secret,
}

impl std::fmt::Debug for BrowserClaim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BrowserClaim")
    }
}

/// What was decided at the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", tag = "decision")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum PageDecision {
    /// Approved from another machine: the agent's secret alone ends the ceremony now.
    Approved,
    /// Denied.
    Denied,
}
