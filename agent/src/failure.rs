//! How a command ends when it does not succeed: one sentence for the person, one code for the shell.

use std::process::ExitCode;

use tokio::signal::unix::SignalKind;

use crate::control::ApiError;
use crate::files::FilesError;
use crate::keys::KeyError;
use crate::local::LocalError;
use crate::safe_text::plain;

/// Why a command did not do what it was asked. The text says what happened and what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// It did not work.
    #[error("{0}")]
    Failed(String),
    /// The command line makes no sense.
    #[error("{0}")]
    Usage(String),
    /// Whoever read the output has gone, as `head` does: nobody is left to tell.
    #[error("nobody reads the output any more")]
    Unread,
    /// It did not all work, and the person was told already.
    #[error("it did not all succeed")]
    Said,
    /// What was asked about is refused, and the person was told so already.
    #[error("it is refused")]
    Refused,
    /// The person or the system ended it.
    #[error("stopped")]
    Stopped(SignalKind),
    /// Somebody said no: the policy, an administrator, or the user.
    #[error("{0}")]
    Denied(String),
}

impl Failure {
    /// A failure with this sentence.
    pub(crate) fn because(sentence: impl Into<String>) -> Self {
        Self::Failed(sentence.into())
    }

    /// What the shell sees (design section 7).
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Failed(_) | Self::Unread | Self::Said => ExitCode::from(1),
            Self::Usage(_) => ExitCode::from(2),
            Self::Denied(_) | Self::Refused => ExitCode::from(3),
            // As shells count them.
            Self::Stopped(signal) => ExitCode::from(u8::try_from(128 + signal.as_raw_value()).unwrap_or(1)),
        }
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        match error.is_denial() {
            true => Self::Denied(error.to_string()),
            false => Self::Failed(error.to_string()),
        }
    }
}

impl From<FilesError> for Failure {
    fn from(error: FilesError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<LocalError> for Failure {
    fn from(error: LocalError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Standard output is gone (a closed pipe) or full.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() == std::io::ErrorKind::BrokenPipe {
            true => Self::Unread,
            false => Self::Failed(format!("the output cannot be written: {}", plain(&error))),
        }
    }
}
