//! Why a request to control brought nothing, as a sentence.

use std::time::Duration;

use http::StatusCode;
use portlatch_protocol::api::{Problem, ProblemCode};
use portlatch_protocol::refusal::RefusalReason;

use crate::safe_text::{plain, safe_sentence};

/// Why there is no answer, or not the one that was hoped for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// Key, certificate or CA cannot be used.
    #[error("the login's files cannot be used ({0}): run `portlatch login`")]
    Setup(String),
    /// No connection.
    #[error("{host} cannot be reached ({}): check the address and your network", plain(.source))]
    Connect {
        /// Where to.
        host: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The server is not the cluster that was meant.
    #[error(
        "{host} is not the cluster that was meant ({}): check the address, and the pin if you gave one",
        mismatch(.reason)
    )]
    NotTheCluster {
        /// Where to.
        host: String,
        /// What rustls found.
        reason: rustls::Error,
    },
    /// The server did not take our certificate.
    #[error("{host} does not accept this login any more: run `portlatch login`")]
    NotAccepted {
        /// Where to.
        host: String,
    },
    /// No answer in time.
    #[error("{host} did not answer within {} s: try again", .waited.as_secs())]
    Silent {
        /// Where to.
        host: String,
        /// How long.
        waited: Duration,
    },
    /// The connection broke.
    #[error("the connection to {host} broke ({source}): try again")]
    Broken {
        /// Where to.
        host: String,
        /// How.
        source: hyper::Error,
    },
    /// More bytes than any answer of control has.
    #[error("the answer of {host} is too long: is it a Portlatch cluster?")]
    TooLong {
        /// Where from.
        host: String,
    },
    /// An answer that is none.
    #[error("the server's answer makes no sense ({0}): is it a Portlatch cluster of this version?")]
    BadAnswer(serde_json::Error),
    /// WebAuthn options that this agent will not have answered.
    #[error(
        "the server asks the security key for something that is not its own ({0}): tell an administrator"
    )]
    BadOptions(&'static str),
    /// Control says what is wrong.
    #[error("{}", safe_sentence(&.0.message))]
    Problem(Problem),
}

/// What rustls found, as a person would say it.
fn mismatch(reason: &rustls::Error) -> String {
    use rustls::CertificateError as Certificate;
    let rustls::Error::InvalidCertificate(certificate) = reason else { return reason.to_string() };
    if matches!(certificate, Certificate::UnknownIssuer | Certificate::BadSignature) {
        return "its certificate is of another CA".to_owned();
    }
    if matches!(
        certificate,
        Certificate::Expired
            | Certificate::ExpiredContext { .. }
            | Certificate::NotValidYet
            | Certificate::NotValidYetContext { .. }
    ) {
        return "its certificate is of another time than this machine's clock shows".to_owned();
    }
    if matches!(certificate, Certificate::NotValidForName | Certificate::NotValidForNameContext { .. }) {
        return "its certificate is of another host".to_owned();
    }
    reason.to_string()
}

impl ApiError {
    /// What an answer with this status means.
    pub(crate) fn problem(status: StatusCode, body: &[u8]) -> Self {
        let said = serde_json::from_slice(body);
        Self::Problem(said.unwrap_or_else(|_| Problem {
            code: ProblemCode::Unavailable,
            message: format!("the server answered {status}: try again, or ask an administrator"),
        }))
    }

    /// The problem's code, if control named one.
    pub(crate) const fn code(&self) -> Option<ProblemCode> {
        match self {
            Self::Problem(problem) => Some(problem.code),
            Self::Setup(_)
            | Self::Connect { .. }
            | Self::NotTheCluster { .. }
            | Self::NotAccepted { .. }
            | Self::Silent { .. }
            | Self::Broken { .. }
            | Self::TooLong { .. }
            | Self::BadAnswer(_)
            | Self::BadOptions(_) => None,
        }
    }

    /// Whether somebody said no, as opposed to something not working.
    pub(crate) fn is_denial(&self) -> bool {
        matches!(self.code(), Some(ProblemCode::Locked | ProblemCode::Policy))
    }

    /// Whether the login is over, so that only another one helps.
    pub(crate) fn is_login_over(&self) -> bool {
        matches!(self, Self::NotAccepted { .. }) || self.code() == Some(ProblemCode::LoginEnded)
    }

    /// Whether a code was wrong, or used already.
    pub(crate) fn is_wrong_code(&self) -> bool {
        self.code() == Some(ProblemCode::BadCode)
    }

    /// What a waiting program is told.
    pub(crate) fn refusal(&self) -> RefusalReason {
        if self.is_login_over() {
            return RefusalReason::NoLogin;
        }
        match self.code() {
            Some(ProblemCode::Locked) => RefusalReason::Locked,
            Some(ProblemCode::NotFound) => RefusalReason::UnknownPort,
            Some(ProblemCode::RateLimited | ProblemCode::CodesPaused) => RefusalReason::Limit,
            Some(ProblemCode::BadAssertion | ProblemCode::BadCode | ProblemCode::CeremonyEnded) => {
                RefusalReason::Denied
            }
            Some(
                ProblemCode::Policy
                | ProblemCode::BadLogin
                | ProblemCode::LoginEnded
                | ProblemCode::BadRequest,
            ) => RefusalReason::Policy,
            // Without control there is no grant, and without a grant no proxy serves: for the program it is the same.
            Some(ProblemCode::Unavailable) | None => RefusalReason::NoProxy,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(code: ProblemCode) -> ApiError {
        ApiError::Problem(Problem { code, message: "no\u{1b}[2J, never".into() })
    }

    #[test]
    fn a_server_s_sentence_is_made_safe() {
        assert_eq!(problem(ProblemCode::Policy).to_string(), "no, never");
    }

    #[test]
    fn an_answer_that_is_no_problem_becomes_one() {
        let error = ApiError::problem(StatusCode::BAD_GATEWAY, b"<html>");
        assert_eq!(error.code(), Some(ProblemCode::Unavailable));
        assert!(error.to_string().contains("502"));
    }

    #[test]
    fn every_problem_has_a_refusal() {
        for (code, reason) in [
            (ProblemCode::LoginEnded, RefusalReason::NoLogin),
            (ProblemCode::Locked, RefusalReason::Locked),
            (ProblemCode::Policy, RefusalReason::Policy),
            (ProblemCode::NotFound, RefusalReason::UnknownPort),
            (ProblemCode::RateLimited, RefusalReason::Limit),
            (ProblemCode::CodesPaused, RefusalReason::Limit),
            (ProblemCode::BadAssertion, RefusalReason::Denied),
            (ProblemCode::Unavailable, RefusalReason::NoProxy),
        ] {
            assert_eq!(problem(code).refusal(), reason, "{code:?}");
        }
    }
}
