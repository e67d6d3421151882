//! The open prompt: opened when the broker says so, shown, ended by the key, a code, the person or the time.

use std::collections::VecDeque;

use portlatch_protocol::api::ceremony::{CeremonyOutcome, CeremonyPurpose, ExecRequest};
use portlatch_protocol::attach::ToDaemon;
use portlatch_protocol::refusal::RefusalReason;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::access::{AWAY, Origin, Request, Stage, access_request, tell_more};
use super::login::over;
use super::pins::PinWanted;
use super::tapping::{TapEnd, TapEvent, Tapping};
use super::work::Done;
use super::{Service, Trouble};
use crate::broker::{Command as BrokerCommand, Denial, Ending, RequestId, Subject};
use crate::code::Code;
use crate::local::Tell;
use crate::prompt::{About, Means, Prompt, PromptView, Waiting};
use crate::safe_text::sentence;

/// Codes that wait to be tried: a person enters one at a time.
const CODES: usize = 1;
/// Notices of an open prompt that whoever looks only now is shown: a page's address and its code are three.
const MAX_NOTICES: usize = 4;

/// The prompt that is open.
#[derive(Debug)]
pub(super) struct OpenPrompt {
    pub(super) id: RequestId,
    /// What people call it.
    pub(super) number: u64,
    /// What it is about, for when the request is gone already.
    what: String,
    cancel: CancellationToken,
    codes: mpsc::Sender<Code>,
    /// How it is answered; a prompt is shown once its challenge is made.
    pub(super) shown: Option<Means>,
    /// What the person was told last, for whoever looks only now.
    pub(super) notices: VecDeque<String>,
    /// The question for the key's PIN, while it is open.
    pub(super) pin: Option<PinWanted>,
}

impl OpenPrompt {
    /// A prompt that is not shown yet.
    pub(super) const fn new(
        id: RequestId,
        number: u64,
        what: String,
        cancel: CancellationToken,
        codes: mpsc::Sender<Code>,
    ) -> Self {
        Self { id, number, what, cancel, codes, shown: None, notices: VecDeque::new(), pin: None }
    }

    /// Keeps what the person was told.
    pub(super) fn remember(&mut self, text: String) {
        self.notices.push_back(text);
        if self.notices.len() > MAX_NOTICES {
            self.notices.pop_front();
        }
    }
}

impl Service {
    /// Does what the broker has decided.
    pub(super) fn obey_broker(&mut self) {
        while let Some(command) = self.broker.poll_command() {
            match command {
                BrokerCommand::Open(id) => self.open_prompt(id),
                BrokerCommand::End(id, ending) => self.end_request(id, ending),
                BrokerCommand::Announce(standing) => self.note(standing.line()),
            }
        }
    }

    fn open_prompt(&mut self, id: RequestId) {
        let number = self.next_number();
        let (cancel, (codes, typed)) = (CancellationToken::new(), mpsc::channel(CODES));
        let what = self.requests.get(&id).map(Request::what).unwrap_or_default();
        self.prompt = Some(OpenPrompt::new(id, number, what, cancel.clone(), codes));
        let Some(tapping) = self.tapping(id, number, cancel, typed) else {
            return self.broker.handle_refused(id, RefusalReason::NoLogin, self.clock.boot_time());
        };
        self.tasks.spawn(async move { Done::Tapped { id, number, end: tapping.run().await } });
    }

    fn tapping(
        &self,
        id: RequestId,
        number: u64,
        cancel: CancellationToken,
        codes: mpsc::Receiver<Code>,
    ) -> Option<Tapping> {
        let (request, active) = (self.requests.get(&id)?, self.login.active.as_ref()?);
        let purpose = self.purpose(request)?;
        let context = purpose.context(&active.file.login);
        let once_more = match &purpose {
            CeremonyPurpose::Open(access) if request.stage != Stage::Prompt(self.taps) => {
                Some(access.clone())
            }
            CeremonyPurpose::Open(_) | CeremonyPurpose::Exec(_) | CeremonyPurpose::ManageDevices(_) => None,
        };
        Some(Tapping {
            number,
            control: active.control.clone(),
            key: self.key.clone(),
            cluster: active.file.cluster.clone(),
            purpose,
            context,
            once_more,
            mode: request.mode.or(self.mode).unwrap_or(active.file.mfa_mode),
            codes,
            events: self.tap_events.clone(),
            cancel,
        })
    }

    /// What control is asked for.
    fn purpose(&self, request: &Request) -> Option<CeremonyPurpose> {
        let program = request.program.as_ref();
        Some(match &request.subject {
            Subject::Port { resource, port } => {
                let tunnel_key = self.daemon.tunnel_key()?.clone();
                CeremonyPurpose::Open(access_request(resource.clone(), *port, tunnel_key, program))
            }
            Subject::Exec(targets) => CeremonyPurpose::Exec(ExecRequest {
                targets: targets.clone(),
                tunnel_key: self.daemon.tunnel_key()?.clone(),
                program: program.map(|program| program.name.clone()),
            }),
            Subject::Devices(change) => CeremonyPurpose::ManageDevices(change.clone()),
        })
    }

    pub(super) fn handle_tap_event(&mut self, number: u64, event: TapEvent) {
        // What a prompt before this one still had to say is of no use.
        let Some(prompt) = self.prompt.as_mut().filter(|prompt| prompt.number == number) else { return };
        let id = prompt.id;
        match event {
            // Another challenge after an answer that was not accepted changes nothing of the prompt.
            TapEvent::Challenged(means) if prompt.shown == Some(means) => {}
            TapEvent::Challenged(means) => {
                let is_first = prompt.shown.replace(means).is_none();
                let left = self.broker.open_prompt(self.clock.boot_time());
                let is_daemons =
                    self.requests.get(&id).is_some_and(|request| matches!(request.origin, Origin::Daemon));
                if let Some((_, left)) = left.filter(|_| is_daemons && is_first) {
                    self.send(ToDaemon::PromptOpened(id.0, left));
                }
                self.see_to_eyes(id, means);
                self.show_prompt();
            }
            TapEvent::Pin(question, reply) => self.handle_pin_wanted(id, question, reply),
            TapEvent::NoKey if self.can_be_seen(id) => {}
            TapEvent::NoKey => self.give_up_unseen(id),
            TapEvent::Notice(text) => {
                self.drop_withdrawn_pin();
                let Some(prompt) = self.prompt.as_mut() else { return };
                prompt.remember(text.clone());
                self.tell_prompt(id, Tell::Note { text });
            }
        }
    }

    /// A prompt that nobody can see is answered by chance alone; a code that nobody can enter never comes, nor does a key
    /// that nobody knows to plug in.
    fn see_to_eyes(&mut self, id: RequestId, means: Means) {
        if self.can_be_seen(id) {
            return self.settle(Trouble::Unseen);
        }
        tracing::warn!("a prompt is open that nobody can see");
        self.complain(Trouble::Unseen, "Nobody can see prompts: run `portlatch watch` in a terminal.");
        if means == Means::Code {
            self.give_up_unseen(id);
        }
    }

    fn can_be_seen(&self, id: RequestId) -> bool {
        let asks = |request: &Request| matches!(request.origin, Origin::Command(_));
        self.eyes() > 0 || self.requests.get(&id).is_some_and(asks)
    }

    /// The program hears at once what it would hear in a minute.
    fn give_up_unseen(&mut self, id: RequestId) {
        self.broker.handle_unseen(id, self.clock.boot_time());
        self.obey_broker();
    }

    /// What people should see of the open prompt.
    pub(super) fn open_prompt_shown(&self) -> Option<Prompt> {
        let open = self.prompt.as_ref()?;
        let (means, request) = (open.shown?, self.requests.get(&open.id)?);
        let (_, left) = self.broker.open_prompt(self.clock.boot_time())?;
        let (resource, host, port) = match &request.subject {
            Subject::Port { resource, port } => (resource.name.to_string(), request.title.clone(), *port),
            Subject::Exec(targets) => {
                let names: Vec<String> =
                    targets.iter().map(|target| target.resource.name.to_string()).collect();
                (names.join(", "), String::new(), 0)
            }
            Subject::Devices(_) => ("your keys".to_owned(), String::new(), 0),
        };
        let view = PromptView {
            id: open.number,
            resource,
            host,
            port,
            program: request.program.as_ref().map(|program| program.name.clone()),
            // One that has gone has none: by now it may be another program's.
            pid: request
                .program
                .as_ref()
                .filter(|_| request.waiting == Waiting::Yes)
                .map(|program| program.pid),
            // A prompt that was just opened has 60 s, not 59.9.
            seconds_left: left.as_millis().div_ceil(1000).try_into().unwrap_or(0),
        };
        let about = match &request.subject {
            Subject::Port { .. } => About::Port,
            Subject::Exec(targets) => About::Exec { resources: targets.len() },
            Subject::Devices(_) => About::Devices(request.title.clone()),
        };
        Some(Prompt { view, about, waiting: request.waiting, means })
    }

    /// The open prompt, for whoever looks only now.
    pub(super) fn prompt_tells(&self) -> impl Iterator<Item = Tell> {
        let prompt = self.open_prompt_shown();
        let notices = self.prompt.iter().flat_map(|open| open.notices.clone()).filter(|_| prompt.is_some());
        let notices: Vec<Tell> = notices.map(|text| Tell::Note { text }).collect();
        prompt.map(|prompt| Tell::Prompt { prompt }).into_iter().chain(notices)
    }

    pub(super) fn show_prompt(&self) {
        let (Some(prompt), Some(open)) = (self.open_prompt_shown(), &self.prompt) else { return };
        self.tell_prompt(open.id, Tell::Prompt { prompt });
    }

    /// To everybody who watches, and to the command that asked.
    pub(super) fn tell_prompt(&self, id: RequestId, message: Tell) {
        if let Some(request) = self.requests.get(&id) {
            tell_more(request, message.clone());
        }
        let _ = self.people.send(message);
    }

    pub(super) fn handle_tapped(&mut self, id: RequestId, number: u64, end: Result<CeremonyOutcome, TapEnd>) {
        // A daemon that begins anew counts its requests anew: the tap is for the prompt that was shown, or for none.
        if self.prompt_called(number).is_none() {
            return self.tell_late_change(&end);
        }
        let now = self.clock.boot_time();
        match end {
            Ok(outcome) => {
                self.taps += 1;
                self.outcome = Some(outcome);
                self.broker.handle_granted(id, now);
            }
            Err(TapEnd::Cancelled) => {}
            Err(TapEnd::DeniedOnKey) => self.broker.handle_denied(id, Denial::Once, now),
            Err(TapEnd::Failed(error)) => {
                let text = sentence(&format!("{error}."));
                // A command says it itself, as the last thing.
                match self.requests.get(&id) {
                    Some(Request { origin: Origin::Command(_), .. }) => {
                        self.broker.handle_refused(id, error.refusal(), now);
                        self.refuse(id, error.refusal(), Some(error.to_string()));
                    }
                    Some(_) | None => {
                        self.note(text);
                        self.broker.handle_refused(id, error.refusal(), now);
                    }
                }
                if error.is_login_over() {
                    self.obey_broker();
                    self.end_login(&over(&error));
                }
            }
        }
        self.obey_broker();
        self.outcome = None;
    }

    /// What control has changed stays changed, though the prompt was closed while it did: whoever asked was told that
    /// nothing came of it. An enrolment that nobody goes on with changes nothing.
    fn tell_late_change(&self, end: &Result<CeremonyOutcome, TapEnd>) {
        match end {
            Ok(CeremonyOutcome::Done) => {
                self.note("The change of your keys was made all the same: see `portlatch mfa ls`.");
            }
            Ok(CeremonyOutcome::RecoveryCodes { .. }) => self.note(
                "New recovery codes were made all the same, which nobody can see any more: run `portlatch mfa recovery-codes` again.",
            ),
            Ok(
                CeremonyOutcome::EnrolKey { .. }
                | CeremonyOutcome::EnrolApp { .. }
                | CeremonyOutcome::Granted(_)
                | CeremonyOutcome::Remembered { .. },
            )
            | Err(_) => {}
        }
    }

    /// No to the prompt that people call by this number.
    pub(super) fn handle_deny(&mut self, number: u64, denial: Denial) {
        let Some(id) = self.prompt_called(number).map(|prompt| prompt.id) else { return };
        self.broker.handle_denied(id, denial, self.clock.boot_time());
        self.obey_broker();
    }

    /// A code for it.
    pub(super) fn handle_code(&self, number: u64, code: Code) {
        if let Some(prompt) =
            self.prompt_called(number).filter(|prompt| prompt.shown.is_some_and(Means::takes_codes))
        {
            // One that comes while another is being tried is one too many.
            let _ = prompt.codes.try_send(code);
        }
    }

    pub(super) fn prompt_called(&self, number: u64) -> Option<&OpenPrompt> {
        self.prompt.as_ref().filter(|prompt| prompt.number == number)
    }

    fn end_request(&mut self, id: RequestId, ending: Ending) {
        if let Some(prompt) = self.prompt.take_if(|prompt| prompt.id == id) {
            prompt.cancel.cancel();
            if prompt.shown.is_some() {
                let text = self.closing_words(id, &prompt.what, ending);
                let _ = self.people.send(Tell::Closed { id: prompt.number, text });
            }
        }
        match (ending, self.outcome.clone()) {
            (Ending::Granted, Some(outcome)) => self.deliver(id, outcome),
            (Ending::Granted, None) => self.refuse(id, RefusalReason::TimedOut, None),
            (Ending::Refused(reason), _) => self.refuse(id, reason, None),
        }
    }

    fn closing_words(&self, id: RequestId, what: &str, ending: Ending) -> String {
        let Some(request) = self.requests.get(&id) else {
            return format!("Closed: {what}: nobody waits for it any more");
        };
        let retry = match request.waiting {
            Waiting::GaveUp => ": run it again",
            Waiting::Yes => "",
        };
        match (ending, &self.outcome) {
            (Ending::Refused(RefusalReason::TimedOut), _) if self.absence.is_away() => {
                format!("Not granted: {what}: {AWAY}")
            }
            (Ending::Refused(reason), _) => format!("Not granted: {what}: {}", reason.advice()),
            (Ending::Granted, Some(CeremonyOutcome::Granted(grant))) => {
                format!("Granted: {what} for {} min{retry}", grant.expires_in / 60)
            }
            (Ending::Granted, Some(CeremonyOutcome::Remembered { expires_in, .. })) => {
                format!("Granted: {what} for {} min", expires_in / 60)
            }
            (Ending::Granted, _) => format!("Approved: {what}"),
        }
    }
}
