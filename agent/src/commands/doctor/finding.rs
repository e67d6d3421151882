//! What one look has shown: a line, and what to do if it is not well.

use serde::Serialize;

/// A line of the doctor's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// What was looked at, in a word.
    pub(super) check: &'static str,
    /// How it is.
    pub(super) state: State,
    /// What was seen.
    pub(super) text: String,
    /// What to do; null where nothing is to be done, or the text says it.
    pub(super) advice: Option<String>,
}

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    /// Well.
    Ok,
    /// It works, less well than it could.
    Warn,
    /// It does not work.
    Fail,
}

impl State {
    /// The word at the beginning of the line.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

impl Finding {
    /// It is well.
    pub(super) fn ok(check: &'static str, text: impl Into<String>) -> Self {
        Self { check, state: State::Ok, text: text.into(), advice: None }
    }

    /// It could be better.
    pub(super) fn warn(check: &'static str, text: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, state: State::Warn, text: text.into(), advice: Some(advice.into()) }
    }

    /// It does not work.
    pub(super) fn fail(check: &'static str, text: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, state: State::Fail, text: text.into(), advice: Some(advice.into()) }
    }

    /// It does not work, and the error's sentence says what to do.
    pub(super) fn error(check: &'static str, error: &impl ToString) -> Self {
        Self { check, state: State::Fail, text: error.to_string(), advice: None }
    }

    /// The same, where something else does the work as well.
    pub(super) fn softened(self) -> Self {
        let state = if self.state == State::Fail { State::Warn } else { self.state };
        Self { state, ..self }
    }
}

/// How many more there are than one look tries, if there are.
pub(super) fn untried(check: &'static str, more: usize) -> Option<Finding> {
    let text = match more {
        0 => return None,
        1 => "and 1 more was not tried".to_owned(),
        more => format!("and {more} more were not tried"),
    };
    Some(Finding::ok(check, text))
}
