//! Why a request got no for an answer: what a program reads, what a person reads, and the HTTP status.

use std::time::Duration;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use portlatch_protocol::api::{Problem, ProblemCode};

use crate::audit_log::AuditFailed;
use crate::authority::AuthorityError;
use crate::ceremony::TableFull;
use crate::password::PasswordError;
use crate::store::StoreError;

/// A no. What stands behind it is for the log and the audit; a peer hears only the word and the advice.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// The first factor, or a login's or enrolment's key.
    #[error(
        "user, password, token or code is wrong, or the security key's answer: try again, or ask an administrator"
    )]
    BadLogin,
    /// The ceremony is over, unknown, or was answered already.
    #[error("this prompt is over: try again")]
    CeremonyEnded,
    /// The key's answer does not verify.
    #[error("the security key's answer does not verify: try again with a key that you enrolled")]
    BadAssertion,
    /// The code is wrong, was used, or there is no app: which of these, nobody is told.
    #[error("the code is not accepted: wait for the next one, then try again")]
    BadCode,
    /// Too many wrong answers of a login: proofs of presence pause.
    #[error("too many wrong answers: try again in {}", wait(.0))]
    Paused(Duration),
    /// Too many wrong codes of a user: codes pause, keys do not.
    #[error("too many wrong codes: tap your security key, or try a code again in {}", wait(.0))]
    CodesPaused(Duration),
    /// The access is bound to the address that the login was made from.
    #[error("this access is bound to the address that you logged in from: run `portlatch login` here")]
    SourceAddress,
    /// The policy refuses it, in these words.
    #[error("{0}")]
    Refused(String),
    /// There is no such login, or it has ended.
    #[error("the login has ended: run `portlatch login`")]
    LoginEnded,
    /// A lock stands against it.
    #[error("an administrator has locked this access{}", .0.as_ref().map(|it| format!(": {it}")).unwrap_or_default())]
    Locked(Option<String>),
    /// The roles do not allow it.
    #[error("your roles do not allow it: ask an administrator")]
    Policy,
    /// No such thing for this login.
    #[error("no resource has this name and port: `portlatch ls` shows what there is")]
    NotFound,
    /// Too much at once.
    #[error("too many attempts: wait a minute, then try again")]
    RateLimited,
    /// The request is not well formed.
    #[error("{0}")]
    BadRequest(String),
    /// Control cannot serve now; nothing was changed.
    #[error("the service cannot decide this now: try again, and tell an administrator if it stays so")]
    Unavailable,
}

impl Denial {
    /// The word that programs read.
    pub const fn code(&self) -> ProblemCode {
        match self {
            Self::BadLogin => ProblemCode::BadLogin,
            Self::CeremonyEnded => ProblemCode::CeremonyEnded,
            Self::BadAssertion => ProblemCode::BadAssertion,
            Self::LoginEnded => ProblemCode::LoginEnded,
            Self::Locked(_) => ProblemCode::Locked,
            Self::BadCode => ProblemCode::BadCode,
            Self::Policy | Self::SourceAddress | Self::Refused(_) => ProblemCode::Policy,
            Self::NotFound => ProblemCode::NotFound,
            Self::RateLimited | Self::Paused(_) => ProblemCode::RateLimited,
            Self::CodesPaused(_) => ProblemCode::CodesPaused,
            Self::BadRequest(_) => ProblemCode::BadRequest,
            Self::Unavailable => ProblemCode::Unavailable,
        }
    }

    /// Its status in HTTP.
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::BadLogin | Self::LoginEnded => StatusCode::UNAUTHORIZED,
            Self::CeremonyEnded => StatusCode::GONE,
            Self::BadAssertion
            | Self::BadCode
            | Self::Locked(_)
            | Self::Policy
            | Self::SourceAddress
            | Self::Refused(_) => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::RateLimited | Self::Paused(_) | Self::CodesPaused(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl IntoResponse for Denial {
    fn into_response(self) -> Response {
        answer(self.status(), self.code(), self.to_string())
    }
}

/// A length of time as people say it, rounded up: nobody should try too early.
fn wait(left: &Duration) -> String {
    match left.as_secs().max(1) {
        seconds @ 1..=90 => format!("{seconds} s"),
        seconds => format!("{} min", seconds.div_ceil(60)),
    }
}

/// A problem with this very status.
pub(super) fn answer(status: StatusCode, code: ProblemCode, message: String) -> Response {
    (status, Json(Problem { code, message })).into_response()
}

impl From<StoreError> for Denial {
    fn from(error: StoreError) -> Self {
        tracing::error!(error = %Chain(&error), "the store cannot be used");
        Self::Unavailable
    }
}

impl From<AuditFailed> for Denial {
    fn from(error: AuditFailed) -> Self {
        tracing::error!(error = %Chain(&error), "the audit cannot be written: nothing is granted");
        Self::Unavailable
    }
}

impl From<AuthorityError> for Denial {
    fn from(error: AuthorityError) -> Self {
        match error {
            AuthorityError::NotARequest | AuthorityError::NotProven | AuthorityError::NotP256 => {
                Self::BadRequest(error.to_string())
            }
            AuthorityError::Signing(_) => {
                tracing::error!(error = %Chain(&error), "a certificate could not be signed");
                Self::Unavailable
            }
        }
    }
}

impl From<PasswordError> for Denial {
    fn from(error: PasswordError) -> Self {
        match error {
            PasswordError::Length => Self::BadRequest(error.to_string()),
            PasswordError::Busy => Self::RateLimited,
            PasswordError::Broken => Self::Unavailable,
        }
    }
}

impl From<TableFull> for Denial {
    fn from(_: TableFull) -> Self {
        Self::RateLimited
    }
}

/// An error with its causes, on one line.
struct Chain<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
