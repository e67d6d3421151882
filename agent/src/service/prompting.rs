//! The open prompt: opened when the broker says so, shown, ended by the key, the person or the time.

use portlatch_protocol::api::ClientDataContext;
use portlatch_protocol::api::IssuedGrant;
use portlatch_protocol::attach::ToDaemon;
use portlatch_protocol::refusal::RefusalReason;
use tokio_util::sync::CancellationToken;

use super::Service;
use super::access::{Origin, Request, access_request};
use super::login::over;
use super::tapping::{TapEnd, TapEvent, Tapping};
use super::work::Done;
use crate::broker::{Command as BrokerCommand, Ending, RequestId};
use crate::local::Tell;
use crate::prompt::{PromptView, Waiting};
use crate::safe_text::sentence;

/// The prompt that is open.
#[derive(Debug)]
pub(super) struct OpenPrompt {
    pub(super) id: RequestId,
    /// What people call it.
    pub(super) number: u64,
    /// Resource, host and port, for when the request is gone already.
    what: String,
    cancel: CancellationToken,
    stage: Stage,
}

/// A prompt is shown once its challenge is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Preparing,
    Shown,
}

impl Service {
    /// Does what the broker has decided.
    pub(super) fn obey_broker(&mut self) {
        while let Some(command) = self.broker.poll_command() {
            match command {
                BrokerCommand::Open(id) => self.open_prompt(id),
                BrokerCommand::End(id, ending) => self.end_request(id, ending),
            }
        }
    }

    fn open_prompt(&mut self, id: RequestId) {
        let number = self.next_number();
        let cancel = CancellationToken::new();
        let what = self.requests.get(&id).map(Request::what).unwrap_or_default();
        self.prompt = Some(OpenPrompt { id, number, what, cancel: cancel.clone(), stage: Stage::Preparing });
        let Some(tapping) = self.tapping(id, cancel) else {
            return self.broker.handle_refused(id, RefusalReason::NoLogin, self.clock.boot_time());
        };
        self.tasks.spawn(async move { Done::Tapped { id, end: tapping.run().await } });
    }

    fn tapping(&self, id: RequestId, cancel: CancellationToken) -> Option<Tapping> {
        let (request, active) = (self.requests.get(&id)?, self.login.active.as_ref()?);
        let context = ClientDataContext::Open {
            resource: request.subject.resource.clone(),
            port: request.subject.port,
            login: self.login_id()?.clone(),
        };
        Some(Tapping {
            id,
            control: active.control.clone(),
            key: self.key.clone(),
            cluster: active.file.cluster.clone(),
            request: access_request(
                &request.subject,
                self.daemon.tunnel_key()?.clone(),
                request.program.as_ref(),
            ),
            context,
            events: self.tap_events.clone(),
            cancel,
        })
    }

    pub(super) fn handle_tap_event(&mut self, id: RequestId, event: TapEvent) {
        let Some(prompt) = self.prompt.as_mut().filter(|prompt| prompt.id == id) else { return };
        match event {
            // Another challenge after an answer that was not accepted changes nothing of the prompt.
            TapEvent::Challenged if prompt.stage == Stage::Shown => {}
            TapEvent::Challenged => {
                prompt.stage = Stage::Shown;
                let left = self.broker.open_prompt(self.clock.boot_time());
                let is_daemons =
                    self.requests.get(&id).is_some_and(|request| matches!(request.origin, Origin::Daemon));
                if let Some((_, left)) = left.filter(|_| is_daemons) {
                    self.send(ToDaemon::PromptOpened(id.0, left));
                }
                self.show_prompt();
            }
            TapEvent::Notice(text) => self.tell_prompt(id, Tell::Note { text }),
        }
    }

    /// What people should see of the open prompt.
    pub(super) fn prompt_tell(&self) -> Option<Tell> {
        let prompt = self.prompt.as_ref().filter(|prompt| prompt.stage == Stage::Shown)?;
        let request = self.requests.get(&prompt.id)?;
        Some(Tell::Prompt { prompt: self.prompt_view(prompt, request)?, waiting: request.waiting })
    }

    /// The open prompt, as status shows it.
    pub(super) fn open_view(&self) -> Option<PromptView> {
        let prompt = self.prompt.as_ref().filter(|prompt| prompt.stage == Stage::Shown)?;
        self.prompt_view(prompt, self.requests.get(&prompt.id)?)
    }

    fn prompt_view(&self, prompt: &OpenPrompt, request: &Request) -> Option<PromptView> {
        let (_, left) = self.broker.open_prompt(self.clock.boot_time())?;
        Some(PromptView {
            id: prompt.number,
            resource: request.subject.resource.name.to_string(),
            host: request.host.clone(),
            port: request.subject.port,
            program: request.program.as_ref().map(|program| program.name.clone()),
            pid: request.program.as_ref().map(|program| program.pid),
            // A prompt that was just opened has 60 s, not 59.9.
            seconds_left: left.as_millis().div_ceil(1000).try_into().unwrap_or(0),
        })
    }

    pub(super) fn show_prompt(&self) {
        let (Some(tell), Some(prompt)) = (self.prompt_tell(), &self.prompt) else { return };
        self.tell_prompt(prompt.id, tell);
    }

    /// To everybody who watches, and to the `portlatch tap` that asked.
    fn tell_prompt(&self, id: RequestId, tell: Tell) {
        if let Some(Request { origin: Origin::Tap(tells), .. }) = self.requests.get(&id) {
            let _ = tells.try_send(tell.clone());
        }
        let _ = self.people.send(tell);
    }

    pub(super) fn handle_tapped(&mut self, id: RequestId, end: Result<IssuedGrant, TapEnd>) {
        let now = self.clock.boot_time();
        match end {
            Ok(grant) => {
                self.fresh_grant = Some(grant);
                self.broker.handle_granted(id, now);
            }
            Err(TapEnd::Cancelled) => {}
            Err(TapEnd::DeniedOnKey) => self.broker.handle_denied(id, now),
            Err(TapEnd::Failed(error)) => {
                self.note(sentence(&format!("{error}.")));
                self.broker.handle_refused(id, error.refusal(), now);
                if error.is_login_over() {
                    self.obey_broker();
                    self.end_login(&over(&error));
                }
            }
        }
        self.obey_broker();
        self.fresh_grant = None;
    }

    /// No to the prompt that people call by this number.
    pub(super) fn handle_deny(&mut self, number: u64) {
        let Some(id) = self.prompt.as_ref().filter(|prompt| prompt.number == number).map(|prompt| prompt.id)
        else {
            return;
        };
        self.broker.handle_denied(id, self.clock.boot_time());
        self.obey_broker();
    }

    fn end_request(&mut self, id: RequestId, ending: Ending) {
        if let Some(prompt) = self.prompt.take_if(|prompt| prompt.id == id) {
            prompt.cancel.cancel();
            if prompt.stage == Stage::Shown {
                let text = self.outcome(id, &prompt.what, ending);
                let _ = self.people.send(Tell::Closed { id: prompt.number, text });
            }
        }
        match (ending, self.fresh_grant.clone()) {
            (Ending::Granted, Some(grant)) => self.deliver(id, &grant),
            (Ending::Granted, None) => self.refuse(id, RefusalReason::TimedOut, None),
            (Ending::Refused(reason), _) => self.refuse(id, reason, None),
        }
    }

    fn outcome(&self, id: RequestId, what: &str, ending: Ending) -> String {
        let Some(request) = self.requests.get(&id) else {
            return format!("Closed: {what}: nobody waits for it any more");
        };
        match ending {
            Ending::Granted => {
                let minutes = self.fresh_grant.as_ref().map_or(0, |grant| grant.expires_in / 60);
                let retry = match request.waiting {
                    Waiting::GaveUp => ": run it again",
                    Waiting::Yes => "",
                };
                format!("Granted: {what} for {minutes} min{retry}")
            }
            Ending::Refused(reason) => format!("Not granted: {what}: {}", reason.advice()),
        }
    }
}
