//! Codes: those of authenticator apps, in place of a tap where the policy takes them, and recovery codes, for a login when
//! the key is lost. How they are computed is in the two modules; here is how often one may be tried.

use std::time::Duration;

use portlatch_clock::TimeOfDay;
use portlatch_protocol::api::Secret;
use portlatch_protocol::names::{Id, UserName};

use self::app::TypedCode;
use crate::api::problem::Denial;
use crate::control::Control;
use crate::store::StoreError;
use crate::store::apps::{Attempt, FailureBounds};

pub(crate) mod app;
pub(crate) mod recovery;

/// Wrong codes in a row: with three codes that count at a time, one in 66,667 guesses right with five tries.
pub const MAX_FAILURES: u32 = 5;
/// How long codes pause after that. Keys do not: whoever has the password alone must not be able to lock a user out.
pub const PAUSE: Duration = Duration::from_secs(15 * 60);
/// Apps of one user: each is one more code that counts.
pub const MAX_APPS: u32 = 3;

/// Why a code was not accepted. The peer hears one thing of all but the pause; the audit hears which.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CodeError {
    /// It is none of those that count.
    #[error("code_wrong")]
    Wrong,
    /// It was accepted before, or a later one was.
    #[error("code_replayed")]
    Replayed,
    /// The user has no app.
    #[error("code_without_app")]
    NoApp,
    /// Too many were wrong.
    #[error("codes_paused")]
    Paused(Duration),
    /// The store cannot be used; nothing was changed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Whether a code that was refused was the last one for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// More may be tried.
    Allowed,
    /// Codes pause from now on.
    Paused,
}

impl Control {
    /// The user's app whose code this is; the code is used up with that.
    ///
    /// An attempt is counted before the code is looked at, so that of any number at once no more than allowed are.
    pub(crate) async fn verify_code(&self, user: &UserName, typed: &Secret) -> Result<Id, (CodeError, Next)> {
        let now = self.clock.time_of_day();
        let store = |error: StoreError| (CodeError::Store(error), Next::Allowed);
        let attempt = self.store.count_code_attempt(user, bounds(now), now).await.map_err(store)?;
        let next = match attempt {
            Attempt::Refused(last) => {
                return Err((CodeError::Paused(left(last, now)), Next::Allowed));
            }
            Attempt::Counted(failures) if failures >= MAX_FAILURES => Next::Paused,
            Attempt::Counted(_) => Next::Allowed,
        };
        let (app, step) = self.matching_app(user, typed, now).await.map_err(|error| (error, next))?;
        match self.store.accept_step(&app, user, step, now).await.map_err(store)? {
            true => Ok(app),
            false => Err((CodeError::Replayed, next)),
        }
    }

    /// Every app is looked at, whichever fits.
    async fn matching_app(
        &self,
        user: &UserName,
        typed: &Secret,
        now: TimeOfDay,
    ) -> Result<(Id, u64), CodeError> {
        let apps = self.store.apps(user).await?;
        if apps.is_empty() {
            return Err(CodeError::NoApp);
        }
        let code = TypedCode::read(&typed.0).ok_or(CodeError::Wrong)?;
        let mut found = None;
        for app in apps {
            let secret = self.keys.open_sealed(&seal_purpose(user, &app.id), &app.secret);
            let secret = secret.map_err(|_| StoreError::Unreadable("secret of an app"))?;
            if let Some(step) = app::matching_step(&secret, &code, now) {
                found = Some((app.id, step));
            }
        }
        found.ok_or(CodeError::Wrong)
    }

    /// Whether the user could answer with a code at all.
    pub(crate) async fn has_app(&self, user: &UserName) -> Result<bool, Denial> {
        Ok(!self.store.apps(user).await?.is_empty())
    }

    /// Whether the user's codes pause now.
    pub(crate) async fn codes_pause(&self, user: &UserName) -> Result<bool, Denial> {
        Ok(self.store.codes_pause(user, bounds(self.clock.time_of_day())).await?)
    }
}

/// What an app's secret is sealed for: it opens for no other app and no other user.
pub(crate) fn seal_purpose(user: &UserName, app: &Id) -> String {
    format!("totp/{user}/{app}")
}

fn bounds(now: TimeOfDay) -> FailureBounds {
    let pause = i64::try_from(PAUSE.as_millis()).unwrap_or(i64::MAX);
    FailureBounds { most: MAX_FAILURES, forgotten: TimeOfDay(now.0.saturating_sub(pause)) }
}

fn left(last: TimeOfDay, now: TimeOfDay) -> Duration {
    let left = last.after(PAUSE).0.saturating_sub(now.0);
    Duration::from_millis(u64::try_from(left).unwrap_or(0)).min(PAUSE)
}
