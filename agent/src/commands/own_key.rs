//! A security key that a command uses itself, where no prompt of the agent's asks for it: to log in, and to enrol.

use std::time::Duration;

use portlatch_protocol::api::KeyTask;
use portlatch_protocol::names::Hostname;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::ceremony::{ClientData, creation_options, request_options};
use crate::failure::Failure;
use crate::keys::{Attempt, Key, KeyNotice, NOTICES, pin_entry};
use crate::service::Enter;
use crate::terminal::{self, say};

/// What the key is to do.
pub(super) struct UseOfKey<'u> {
    pub(super) task: KeyTask,
    /// How long control waits for it.
    pub(super) time: Duration,
    pub(super) cluster: &'u Hostname,
    /// What the person is told when the time is over.
    pub(super) too_late: &'static str,
}

impl UseOfKey<'_> {
    /// The key's answer, within the time.
    pub(super) async fn run(self, key: &Key, enter: &Enter) -> Result<serde_json::Value, Failure> {
        let Self { task, time, cluster, too_late } = self;
        let cancel = CancellationToken::new();
        let (notices, noticed) = mpsc::channel(NOTICES);
        let attempt = |client_data| Attempt {
            client_data,
            cancel: cancel.clone(),
            notices,
            pins: pin_entry::of_this_process(),
        };
        let answer = async {
            let answer = match task {
                KeyTask::Enrol { options } => {
                    say("Tap your security key, to enrol it.")?;
                    let options = creation_options(options, cluster)?;
                    let attempt = attempt(ClientData::for_enrolment(&options.challenge, cluster));
                    serde_json::to_value(key.enrol(options, attempt).await?)
                }
                KeyTask::Assert { options } => {
                    say("Tap your security key, to log in.")?;
                    let options = request_options(options, cluster)?;
                    let attempt = attempt(ClientData::for_login(&options.challenge, cluster));
                    serde_json::to_value(key.assert(options, attempt).await?)
                }
            };
            Ok(answer.expect("WebAuthn's documents are JSON"))
        };
        tokio::select! {
            answer = answer => answer,
            () = tokio::time::sleep(time) => Err(Failure::because(too_late)),
            never = show_notices(noticed, enter) => match never {},
        }
    }
}

/// Shows what the key has to say, and hands Enter on to a software key.
async fn show_notices(mut noticed: mpsc::Receiver<KeyNotice>, enter: &Enter) -> std::convert::Infallible {
    let mut last = None;
    // Standard input is read only where Enter is waited for: it may hold what the next program is to read.
    let mut typed = None;
    loop {
        tokio::select! {
            Some(notice) = noticed.recv() => {
                if last.as_ref() != Some(&notice) {
                    terminal::complain(&notice.text());
                }
                if notice == KeyNotice::PressEnter {
                    typed.get_or_insert_with(terminal::typed_lines);
                }
                last = Some(notice);
            }
            Some(_) = next_line(&mut typed) => enter(),
            else => std::future::pending().await,
        }
    }
}

async fn next_line(typed: &mut Option<mpsc::Receiver<String>>) -> Option<String> {
    match typed {
        Some(typed) => typed.recv().await,
        None => std::future::pending().await,
    }
}
