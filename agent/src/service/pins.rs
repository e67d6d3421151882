//! The PIN of a security key at an open prompt, where there is no pinentry: whoever sees the prompt is asked, and what is
//! typed there goes to the key that asked and nowhere else.

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use super::Service;
use super::access::{Origin, Request};
use super::tapping::TapEvent;
use crate::broker::RequestId;
use crate::keys::pin_entry::{NoPin, Pin, PinEntry, PinQuestion};
use crate::local::Tell;
use crate::prompt::Means;

/// Where the answer goes.
pub(super) type PinReply = oneshot::Sender<Result<Pin, NoPin>>;

/// Asks at the prompt of this number.
#[derive(Debug)]
pub(super) struct PinAtPrompt {
    number: u64,
    events: mpsc::Sender<(u64, TapEvent)>,
}

/// An open question.
#[derive(Debug)]
pub(super) struct PinWanted {
    question: PinQuestion,
    reply: PinReply,
    stage: Stage,
    /// How the prompt is answered otherwise.
    before: Means,
}

/// With few tries left the person first agrees to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Warned,
    Asked,
}

impl PinAtPrompt {
    pub(super) const fn new(number: u64, events: mpsc::Sender<(u64, TapEvent)>) -> Self {
        Self { number, events }
    }
}

impl PinEntry for PinAtPrompt {
    fn ask(&self, question: PinQuestion) -> BoxFuture<'_, Result<Pin, NoPin>> {
        Box::pin(async move {
            let (reply, answered) = oneshot::channel();
            // The service outlives its tasks; if it does not, nobody is there to ask.
            let _ = self.events.send((self.number, TapEvent::Pin(question, reply))).await;
            answered.await.unwrap_or(Err(NoPin::Nobody))
        })
    }
}

impl Service {
    /// The key of the open prompt wants its PIN.
    pub(super) fn handle_pin_wanted(&mut self, id: RequestId, question: PinQuestion, reply: PinReply) {
        let asks = |request: &Request| matches!(request.origin, Origin::Command(_));
        let can_be_typed = self.eyes() > 0 || self.requests.get(&id).is_some_and(asks);
        let Some(prompt) = self.prompt.as_mut().filter(|_| can_be_typed) else {
            let _ = reply.send(Err(NoPin::Nobody));
            return;
        };
        let before = match prompt.shown {
            Some(Means::Pin) | None => Means::Key,
            Some(before) => before,
        };
        let stage = if question.warning().is_some() { Stage::Warned } else { Stage::Asked };
        prompt.shown = Some(Means::Pin);
        prompt.pin = Some(PinWanted { question, reply, stage, before });
        self.say_what_is_asked();
    }

    /// Somebody typed the PIN, or the yes before it.
    pub(super) fn handle_pin_typed(&mut self, number: u64, pin: Pin) {
        let is_meant = self.prompt_called(number).is_some_and(|prompt| prompt.pin.is_some());
        let Some(prompt) = self.prompt.as_mut().filter(|_| is_meant) else { return };
        let Some(mut wanted) = prompt.pin.take() else { return };
        let answer = match wanted.stage {
            Stage::Warned if pin.text().trim() == "yes" => {
                wanted.stage = Stage::Asked;
                prompt.pin = Some(wanted);
                return self.say_what_is_asked();
            }
            Stage::Warned => Err(NoPin::Cancelled),
            Stage::Asked => Ok(pin),
        };
        prompt.shown = Some(wanted.before);
        prompt.notices.clear();
        // The key may have gone meanwhile: then the PIN is wiped here.
        let _ = wanted.reply.send(answer);
        self.show_prompt();
    }

    /// Takes the question back that nobody waits for any more: the key was taken out.
    pub(super) fn drop_withdrawn_pin(&mut self) {
        let Some(prompt) = self.prompt.as_mut() else { return };
        if let Some(withdrawn) = prompt.pin.take_if(|wanted| wanted.reply.is_closed()) {
            prompt.shown = Some(withdrawn.before);
            self.show_prompt();
        }
    }

    fn say_what_is_asked(&mut self) {
        let Some(prompt) = self.prompt.as_mut() else { return };
        let Some(wanted) = &prompt.pin else { return };
        let text = match (wanted.stage, wanted.question.warning()) {
            (Stage::Warned, Some(warning)) => format!("{warning} Type yes and Enter."),
            (Stage::Warned | Stage::Asked, _) => {
                let complaint = wanted.question.complaint().map(|text| format!("{text} "));
                format!("{}{}.", complaint.unwrap_or_default(), wanted.question.text())
            }
        };
        prompt.remember(text.clone());
        let id = prompt.id;
        self.show_prompt();
        self.tell_prompt(id, Tell::Note { text });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::broadcast;
    use tokio_util::sync::CancellationToken;
    use webauthn_rs_proto::{
        PublicKeyCredential, PublicKeyCredentialCreationOptions, PublicKeyCredentialRequestOptions,
        RegisterPublicKeyCredential,
    };
    use zeroize::Zeroizing;

    use super::super::prompting::OpenPrompt;
    use super::super::{Parts, Terminal};
    use super::*;
    use crate::broker::{Subject, Wish};
    use crate::files::Files;
    use crate::keys::pin_entry::PinAfter;
    use crate::keys::{Attempt, KeyError, SecurityKey};

    struct NoKey;

    impl SecurityKey for NoKey {
        fn enrol(
            &self,
            _: PublicKeyCredentialCreationOptions,
            _: Attempt,
        ) -> BoxFuture<'_, Result<RegisterPublicKeyCredential, KeyError>> {
            Box::pin(std::future::pending())
        }

        fn assert(
            &self,
            _: PublicKeyCredentialRequestOptions,
            _: Attempt,
        ) -> BoxFuture<'_, Result<PublicKeyCredential, KeyError>> {
            Box::pin(std::future::pending())
        }
    }

    const ID: RequestId = RequestId(5);
    const NUMBER: u64 = 7;

    /// A service whose prompt is open, and what it tells people.
    fn with_open_prompt(terminal: Terminal) -> (Service, broadcast::Receiver<Tell>) {
        let directory = tempfile::tempdir().unwrap();
        let (mut service, _, _) = Service::new(Parts {
            files: Files::inside(directory.path()),
            clock: portlatch_clock::Clock::movable().0,
            key: Arc::new(NoKey),
            enter: Box::new(|| {}),
            mode: None,
            terminal,
        });
        let told = service.subscribe();
        let (codes, _) = mpsc::channel(1);
        let mut prompt = OpenPrompt::new(ID, NUMBER, String::new(), CancellationToken::new(), codes);
        prompt.shown = Some(Means::KeyOrCode);
        service.prompt = Some(prompt);
        (service, told)
    }

    fn question(retries_left: u8) -> PinQuestion {
        PinQuestion { purpose: "to open x, port 1".to_owned(), retries_left, after: PinAfter::Nothing }
    }

    fn pin(text: &str) -> Pin {
        Pin::new(Zeroizing::new(text.to_owned()))
    }

    fn shown(service: &Service) -> Option<Means> {
        service.prompt.as_ref().and_then(|prompt| prompt.shown)
    }

    #[tokio::test]
    async fn what_is_typed_at_the_prompt_goes_to_the_key() {
        let (mut service, mut told) = with_open_prompt(Terminal::Seen);
        let (reply, mut answer) = oneshot::channel();
        service.handle_pin_wanted(ID, question(8), reply);
        assert_eq!(shown(&service), Some(Means::Pin));
        let Tell::Note { text } = told.try_recv().unwrap() else { panic!("a note") };
        assert_eq!(text, "The PIN of your security key, to open x, port 1 (8 tries left).");
        service.handle_pin_typed(NUMBER + 1, pin("meant for another prompt"));
        assert!(answer.try_recv().is_err());
        service.handle_pin_typed(NUMBER, pin("4711"));
        assert_eq!(answer.try_recv().unwrap(), Ok(pin("4711")));
        assert_eq!(shown(&service), Some(Means::KeyOrCode));
    }

    #[tokio::test]
    async fn with_few_tries_left_only_a_yes_leads_to_the_question() {
        for (typed, ends) in [("yes", false), ("4711", true)] {
            let (mut service, _told) = with_open_prompt(Terminal::Seen);
            let (reply, mut answer) = oneshot::channel();
            service.handle_pin_wanted(ID, question(2), reply);
            service.handle_pin_typed(NUMBER, pin(typed));
            assert_eq!(
                answer.try_recv().is_ok_and(|answer| answer == Err(NoPin::Cancelled)),
                ends,
                "{typed}"
            );
            if !ends {
                service.handle_pin_typed(NUMBER, pin("4711"));
                assert_eq!(answer.try_recv().unwrap(), Ok(pin("4711")));
            }
        }
    }

    #[tokio::test]
    async fn where_nobody_sees_the_prompt_nobody_is_asked() {
        let (mut service, _told) = with_open_prompt(Terminal::Unseen);
        let (reply, mut answer) = oneshot::channel();
        service.handle_pin_wanted(ID, question(8), reply);
        assert_eq!(answer.try_recv().unwrap(), Err(NoPin::Nobody));
        assert_eq!(shown(&service), Some(Means::KeyOrCode));
    }

    /// The daemon's request whose prompt is open, for the broker as well.
    fn with_request(service: &mut Service) {
        let subject = Subject::Port { resource: "db/billing-db".parse().unwrap(), port: 5432 };
        let wish = Wish { subject, program: None };
        service.broker.handle_request(ID, wish, service.clock.boot_time());
        assert!(service.broker.poll_command().is_some());
    }

    #[tokio::test]
    async fn a_key_that_nobody_knows_to_plug_in_is_not_waited_for() {
        for (terminal, goes_on) in [(Terminal::Seen, true), (Terminal::Unseen, false)] {
            let (mut service, _told) = with_open_prompt(terminal);
            with_request(&mut service);
            service.handle_tap_event(NUMBER, TapEvent::NoKey);
            assert_eq!(service.prompt.is_some(), goes_on, "{terminal:?}");
        }
    }

    #[tokio::test]
    async fn a_key_that_was_taken_out_wants_no_pin_any_more() {
        let (mut service, _told) = with_open_prompt(Terminal::Seen);
        let (reply, answer) = oneshot::channel();
        service.handle_pin_wanted(ID, question(8), reply);
        drop(answer);
        service.handle_tap_event(NUMBER, TapEvent::Notice("Plug in your security key.".to_owned()));
        assert_eq!(shown(&service), Some(Means::KeyOrCode));
    }
}
