//! One prompt's ceremony: a challenge from control, the answer of key, code or browser, control's verdict. A new challenge
//! for every try, since each is taken once.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use portlatch_protocol::api::ceremony::{
    BrowserOffer, CeremonyOutcome, CeremonyPurpose, CeremonyRequest, PresenceProof,
};
use portlatch_protocol::api::{
    AccessAnswer, AccessRequest, Ceremony, ClientDataContext, ProblemCode, Secret,
};
use portlatch_protocol::names::Hostname;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use webauthn_rs_proto::{PublicKeyCredential, PublicKeyCredentialRequestOptions};

use super::pins::{PinAtPrompt, PinReply};
use crate::browser::{self, Page, PageEnd};
use crate::ceremony::{ClientData, request_options};
use crate::code::Code;
use crate::control::{ApiError, SharedControl};
use crate::keys::pin_entry::{self, PinQuestion};
use crate::keys::{Attempt, Key, KeyError, KeyNotice, NOTICES};
use crate::mfa_mode::MfaMode;
use crate::prompt::Means;
use crate::safe_text::sentence;

/// Answers that control may find wrong before the prompt ends (notes: "tries < 3").
const TRIES: u32 = 3;
/// Pause before a key that failed is tried again: the person may take it out and put it in meanwhile.
const KEY_AGAIN: Duration = Duration::from_secs(3);
/// How long a key has to stop blinking when a code came instead.
const KEY_STOPS: Duration = Duration::from_secs(2);

/// One prompt's ceremony.
pub(super) struct Tapping {
    /// The prompt's, which no other one has.
    pub(super) number: u64,
    pub(super) control: SharedControl,
    pub(super) key: Key,
    pub(super) cluster: Hostname,
    pub(super) purpose: CeremonyPurpose,
    pub(super) context: ClientDataContext,
    /// Asked first, where a tap that came after this request may serve it.
    pub(super) once_more: Option<AccessRequest>,
    pub(super) mode: MfaMode,
    pub(super) codes: mpsc::Receiver<Code>,
    pub(super) events: mpsc::Sender<(u64, TapEvent)>,
    pub(super) cancel: CancellationToken,
}

/// What happens meanwhile.
#[derive(Debug)]
pub(super) enum TapEvent {
    /// The challenge is there: the prompt can be shown, and is to be answered like this.
    Challenged(Means),
    /// Something for the person.
    Notice(String),
    /// A key is wanted, and none is plugged in.
    NoKey,
    /// The key wants its PIN.
    Pin(PinQuestion, PinReply),
}

/// How it ended without what it was for.
#[derive(Debug)]
pub(super) enum TapEnd {
    /// The prompt was over before.
    Cancelled,
    /// The person refused on the key, or at the page.
    DeniedOnKey,
    /// Control does not grant it, or cannot be reached.
    Failed(ApiError),
}

impl Tapping {
    pub(super) async fn run(mut self) -> Result<CeremonyOutcome, TapEnd> {
        if let Some(request) = self.once_more.take() {
            let asked = self.cancel.run_until_cancelled(self.control.access(&request)).await;
            if let Ok(AccessAnswer::Granted(grant)) = asked.ok_or(TapEnd::Cancelled)? {
                return Ok(CeremonyOutcome::Granted(grant));
            }
        }
        let (mut tries_left, mut codes_pause) = (TRIES, false);
        loop {
            match self.attempt().await {
                // Codes pause, the key does not: the prompt stays for it.
                Err(TapEnd::Failed(error)) if !codes_pause && is_pause_of_codes(&error) => {
                    codes_pause = true;
                    self.tell(TapEvent::Notice(sentence(&format!("{error}.")))).await;
                }
                Err(TapEnd::Failed(error)) if tries_left > 1 && is_worth_another_try(&error) => {
                    tries_left -= 1;
                    self.tell(TapEvent::Notice(once_more(&error, tries_left))).await;
                }
                end => return end,
            }
        }
    }

    async fn attempt(&mut self) -> Result<CeremonyOutcome, TapEnd> {
        let page = self.page().await;
        let browser = page.as_ref().map(Page::announce);
        let request = CeremonyRequest { purpose: self.purpose.clone(), browser };
        let begun = self.cancel.run_until_cancelled(self.control.begin_ceremony(&request)).await;
        let ceremony = begun.ok_or(TapEnd::Cancelled)?.map_err(TapEnd::Failed)?;
        let ended = match page.as_ref().zip(ceremony.browser.as_ref()) {
            Some((page, offer)) => self.approve(&ceremony, page, offer).await.map(Ok),
            None => match self.answer(&ceremony).await {
                Ok(proof) => Ok(self.finish(&ceremony, &proof).await),
                Err(end) => Err(end),
            },
        };
        match ended {
            Ok(finished) => finished.map_err(TapEnd::Failed),
            Err(end) => {
                // Control forgets it by itself; told, it forgets it now.
                if let Err(error) = self.control.cancel_ceremony(&ceremony.ceremony).await {
                    tracing::debug!(%error, "the ceremony was not called off");
                }
                Err(end)
            }
        }
    }

    async fn finish(&self, ceremony: &Ceremony, proof: &PresenceProof) -> Result<CeremonyOutcome, ApiError> {
        let outcome = self.control.finish_ceremony(&ceremony.ceremony, proof).await?;
        fitting(&self.purpose, outcome)
    }

    async fn answer(&mut self, ceremony: &Ceremony) -> Result<PresenceProof, TapEnd> {
        let means = self.means(ceremony);
        self.tell(TapEvent::Challenged(means)).await;
        match means {
            // Where a page was wanted and could not be had, the key at this machine does.
            Means::Key | Means::Pin | Means::Browser => self.tap(ceremony, &self.cancel).await.map(key_proof),
            Means::Code => self.code().await,
            Means::KeyOrCode => self.tap_or_code(ceremony).await,
        }
    }

    /// How this ceremony can be answered, as far as the policy leaves a choice.
    fn means(&self, ceremony: &Ceremony) -> Means {
        match (self.mode, ceremony.code_allowed) {
            (MfaMode::Otp, true) => Means::Code,
            (MfaMode::Webauthn | MfaMode::Browser, true) => Means::KeyOrCode,
            (MfaMode::Webauthn | MfaMode::Otp | MfaMode::Browser, false) => Means::Key,
        }
    }

    /// A page to be opened, where the person wants one.
    async fn page(&self) -> Option<Page> {
        if self.mode != MfaMode::Browser {
            return None;
        }
        let page = Page::prepare().await;
        page.inspect_err(|error| tracing::warn!(%error, "no port for a page's answer")).ok()
    }

    async fn approve(
        &self,
        ceremony: &Ceremony,
        page: &Page,
        offer: &BrowserOffer,
    ) -> Result<CeremonyOutcome, TapEnd> {
        let foreign = |_| TapEnd::Failed(ApiError::BadOptions("a page of another host"));
        let url = browser::own_page(offer, &self.cluster).map_err(foreign)?;
        self.tell(TapEvent::Challenged(Means::Browser)).await;
        let ask = || self.control.page_decision(&ceremony.ceremony);
        let finish = |proof| async move { self.finish(ceremony, &PresenceProof::Browser(proof)).await };
        let invite = async {
            let opened = browser::open(url).await;
            for line in browser::invitation(url, offer.code.as_deref(), opened) {
                self.tell(TapEvent::Notice(line)).await;
            }
            std::future::pending::<Infallible>().await
        };
        // Not cancelled from outside: as with a key's answer, what control is just taking has its end.
        let answered = page.answered(&ceremony.ceremony, ask, finish, self.cancel.cancelled());
        let answered = tokio::select! {
            answered = answered => answered,
            never = invite => match never {},
        };
        answered.map_err(|end| match end {
            PageEnd::Denied => TapEnd::DeniedOnKey,
            PageEnd::Failed(error) => TapEnd::Failed(error),
            PageEnd::Stopped => TapEnd::Cancelled,
        })
    }

    async fn tap_or_code(&mut self, ceremony: &Ceremony) -> Result<PresenceProof, TapEnd> {
        let stop = self.cancel.child_token();
        // Taken out, so that the key and the codes can be waited for side by side.
        let mut codes = std::mem::replace(&mut self.codes, mpsc::channel(1).1);
        let proof = {
            let tapped = self.tap(ceremony, &stop);
            tokio::pin!(tapped);
            tokio::select! {
                biased;
                tapped = &mut tapped => tapped.map(key_proof),
                Some(code) = codes.recv() => {
                    stop.cancel();
                    let _ = tokio::time::timeout(KEY_STOPS, tapped).await;
                    Ok(code_proof(&code))
                }
            }
        };
        self.codes = codes;
        proof
    }

    async fn code(&mut self) -> Result<PresenceProof, TapEnd> {
        let code = self.cancel.run_until_cancelled(self.codes.recv()).await.flatten();
        code.map(|code| code_proof(&code)).ok_or(TapEnd::Cancelled)
    }

    async fn tap(
        &self,
        ceremony: &Ceremony,
        cancel: &CancellationToken,
    ) -> Result<PublicKeyCredential, TapEnd> {
        let options = request_options(ceremony.options.clone(), &self.cluster).map_err(TapEnd::Failed)?;
        let client_data = ClientData::for_purpose(&options.challenge, &self.cluster, &self.context);
        let mut last_trouble = None;
        loop {
            let answered = self.use_key(&options, &client_data, cancel, &mut last_trouble).await;
            let trouble = match answered {
                Ok(credential) => return Ok(credential),
                Err(KeyError::Cancelled) => return Err(TapEnd::Cancelled),
                Err(KeyError::Denied | KeyError::PinCancelled) => return Err(TapEnd::DeniedOnKey),
                Err(trouble) => sentence(&format!("{trouble}.")),
            };
            self.tell_trouble(trouble, &mut last_trouble).await;
            let pause = tokio::time::sleep(KEY_AGAIN);
            cancel.run_until_cancelled(pause).await.ok_or(TapEnd::Cancelled)?;
        }
    }

    async fn use_key(
        &self,
        options: &PublicKeyCredentialRequestOptions,
        client_data: &ClientData,
        cancel: &CancellationToken,
        last_trouble: &mut Option<String>,
    ) -> Result<PublicKeyCredential, KeyError> {
        let (notices, mut noticed) = mpsc::channel(NOTICES);
        let pins = pin_entry::pinentry_or(Arc::new(PinAtPrompt::new(self.number, self.events.clone())));
        let attempt = Attempt { client_data: client_data.clone(), cancel: cancel.clone(), notices, pins };
        let mut answer = self.key.assert(options.clone(), attempt);
        loop {
            tokio::select! {
                biased;
                Some(notice) = noticed.recv() => {
                    let is_news = self.tell_trouble(notice.text_at_prompt(), last_trouble).await;
                    if is_news && notice == KeyNotice::PlugIn {
                        self.tell(TapEvent::NoKey).await;
                    }
                }
                answered = &mut answer => return answered,
            }
        }
    }

    /// Tells each trouble once, until it is another one; whether it did.
    async fn tell_trouble(&self, text: String, last: &mut Option<String>) -> bool {
        let is_news = last.as_ref() != Some(&text);
        if is_news {
            self.tell(TapEvent::Notice(text.clone())).await;
            *last = Some(text);
        }
        is_news
    }

    async fn tell(&self, event: TapEvent) {
        // The service outlives its tasks; if it does not, nobody is there to tell.
        let _ = self.events.send((self.number, event)).await;
    }
}

fn key_proof(credential: PublicKeyCredential) -> PresenceProof {
    let credential = serde_json::to_value(credential).expect("WebAuthn's documents are JSON");
    PresenceProof::Key { credential }
}

fn code_proof(code: &Code) -> PresenceProof {
    PresenceProof::Code { code: Secret(code.digits().to_owned()) }
}

/// The outcome, if it is one of this purpose's.
fn fitting(purpose: &CeremonyPurpose, outcome: CeremonyOutcome) -> Result<CeremonyOutcome, ApiError> {
    let fits = match purpose {
        CeremonyPurpose::Open(_) => matches!(outcome, CeremonyOutcome::Granted(_)),
        CeremonyPurpose::Exec(_) => matches!(outcome, CeremonyOutcome::Remembered { .. }),
        CeremonyPurpose::ManageDevices(_) => {
            !matches!(outcome, CeremonyOutcome::Granted(_) | CeremonyOutcome::Remembered { .. })
        }
    };
    let other = || ApiError::BadAnswer(serde::de::Error::custom("a ceremony ended as one of another kind"));
    fits.then_some(outcome).ok_or_else(other)
}

fn is_pause_of_codes(error: &ApiError) -> bool {
    error.code() == Some(ProblemCode::CodesPaused)
}

fn is_worth_another_try(error: &ApiError) -> bool {
    matches!(
        error.code(),
        Some(ProblemCode::BadAssertion | ProblemCode::BadCode | ProblemCode::CeremonyEnded)
    )
}

fn once_more(error: &ApiError, tries_left: u32) -> String {
    let tries = if tries_left == 1 { "1 try" } else { &format!("{tries_left} tries") };
    match error.code() {
        Some(ProblemCode::BadCode) => format!(
            "That code was not accepted, {tries} left: each works once, so wait for the next one if you used it already."
        ),
        // Nobody did anything wrong: control began anew meanwhile, and knows nothing of what it had asked.
        Some(ProblemCode::CeremonyEnded) => {
            "The server does not know any more what it asked you: answer once more.".to_owned()
        }
        Some(_) | None => "The tap was not accepted: tap once more.".to_owned(),
    }
}
