//! `portlatch status`: who is logged in, and what was asked, granted and refused.

use portlatch_clock::Clock;

use super::{AGENT_TIME, ask_agent, print_json, print_table};
use crate::cli::Output;
use crate::daemon::{ask_status, socket_path};
use crate::failure::Failure;
use crate::files::Files;
use crate::local::{LocalError, Tell, Want};
use crate::login;
use crate::prompt::PromptView;
use crate::safe_text::sentence;
use crate::status::{GrantView, Refusals, StatusReport, StatusView};
use crate::terminal::say;

/// Refusals that a person is shown; programs get them all.
const SHOWN_REFUSALS: usize = 10;

/// Shows how things are.
pub(crate) async fn status(output: &Output, files: &Files, clock: &Clock) -> Result<(), Failure> {
    let report = report(files, clock).await?;
    match output.json {
        true => print_json(&report.status),
        false => print(&report),
    }
}

/// How things are, as the agent knows it; without an agent as the files and the daemon do.
pub(super) async fn report(files: &Files, clock: &Clock) -> Result<StatusReport, Failure> {
    match ask_agent(files, &Want::Status, AGENT_TIME).await? {
        Some(Tell::Status { report }) => Ok(report),
        Some(_) => Err(LocalError::NotUnderstood.into()),
        None => without_agent(files, clock).await,
    }
}

/// The login as the files have it, the rest as the daemon knows it.
async fn without_agent(files: &Files, clock: &Clock) -> Result<StatusReport, Failure> {
    let login = login::read_file(files)?;
    let login = login.filter(|login| login.time_left(clock.time_of_day()).is_some());
    let mut status = StatusView::of_login(login.as_ref());
    let mut troubles = vec!["No agent is running: start `portlatch agent`.".to_owned()];
    match ask_status(&socket_path()).await {
        Ok(told) => {
            let mut refusals = Refusals::default();
            let since = login::refusals_since(files);
            refusals.add_older(told.refusals.into_iter().filter(|refusal| refusal.time >= since).collect());
            status.daemon = true;
            status.grants = told.grants.iter().map(GrantView::from).collect();
            status.refusals = refusals.views();
        }
        Err(error) => troubles.push(sentence(&format!("{error}."))),
    }
    Ok(StatusReport { status: Box::new(status), troubles })
}

fn print(StatusReport { status, troubles }: &StatusReport) -> Result<(), Failure> {
    match (&status.user, &status.cluster, &status.login_expires) {
        (Some(user), Some(cluster), Some(expires)) => {
            say(&format!("Logged in to {cluster} as {user}, until {expires}."))?;
        }
        _ => say("Nobody is logged in: run `portlatch login`.")?,
    }
    for trouble in troubles {
        say(trouble)?;
    }
    for prompt in &status.prompts {
        say(&prompt_line(prompt))?;
    }
    if !status.grants.is_empty() {
        let rows: Vec<_> = status.grants.iter().map(grant_row).collect();
        say("")?;
        print_table(["GRANT", "PORT", "SECONDS LEFT", "BY"], &rows)?;
    }
    if !status.refusals.is_empty() {
        say("")?;
        for refusal in status.refusals.iter().take(SHOWN_REFUSALS) {
            say(&format!("{}  {}", refusal.time, refusal.line()))?;
        }
    }
    Ok(())
}

fn prompt_line(prompt: &PromptView) -> String {
    let PromptView { resource, host, port, program, seconds_left, .. } = prompt;
    let at = if host.is_empty() { String::new() } else { format!(" ({host}:{port})") };
    let program = program.as_deref().unwrap_or("an unknown program");
    format!(
        "Open prompt: {resource}{at} for {program} - {seconds_left} s left; `portlatch watch` shows and answers it."
    )
}

fn grant_row(grant: &GrantView) -> [String; 4] {
    [grant.resource.clone(), grant.port.to_string(), grant.seconds_left.to_string(), grant.amr.join(", ")]
}
