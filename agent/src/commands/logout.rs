//! `portlatch logout`: the cluster ends the login, the daemon lets go of it, this machine forgets it.

use std::time::Duration;

use portlatch_clock::Clock;

use super::ask_agent;
use crate::control::{ApiError, Control};
use crate::failure::Failure;
use crate::files::Files;
use crate::local::{LocalError, Tell, Want};
use crate::login;
use crate::terminal::say;

/// How long the agent has: it tells control first, which has 5 s.
const LOGOUT_TIME: Duration = Duration::from_secs(10);

/// Signs out.
pub(crate) async fn logout(files: &Files, clock: &Clock) -> Result<(), Failure> {
    if !login::is_any(files) {
        return Ok(say("Nobody is logged in.")?);
    }
    match ask_agent(files, &Want::Logout, LOGOUT_TIME).await? {
        Some(Tell::Done { text }) => Ok(say(&text)?),
        Some(Tell::Failed { text, .. }) => Err(Failure::Failed(text)),
        Some(_) => Err(LocalError::NotUnderstood.into()),
        None => without_agent(files, clock).await,
    }
}

async fn without_agent(files: &Files, clock: &Clock) -> Result<(), Failure> {
    // Damaged files are what logout is the remedy for: then there is just nobody to tell.
    let login = login::read(files).ok().flatten();
    let result = match login.filter(|login| login.file.time_left(clock.time_of_day()).is_some()) {
        Some(login) => goodbye(&login, clock).await,
        None => Ok(()),
    };
    login::remove(files, clock)?;
    Ok(say(&logged_out(&result))?)
}

/// Has the cluster end a login.
pub(super) async fn goodbye(login: &login::Login, clock: &Clock) -> Result<(), ApiError> {
    Control::for_login(login, clock)?.logout().await
}

/// What happened, for the person.
pub(crate) fn logged_out(result: &Result<(), ApiError>) -> String {
    match result {
        Ok(()) => "Logged out.".to_owned(),
        Err(error) if error.is_login_over() => "Logged out; the login had ended already.".to_owned(),
        Err(error) => format!(
            "Logged out on this machine, whose key and certificate are gone; the cluster could not be told ({error})."
        ),
    }
}
