//! One prompt's ceremony: a challenge from control, the key's answer, control's verdict. A new challenge for every try,
//! since each is taken once.

use std::time::Duration;

use portlatch_protocol::api::ceremony::{CeremonyPurpose, CeremonyRequest, PresenceProof};
use portlatch_protocol::api::{AccessRequest, Ceremony, ClientDataContext, IssuedGrant, ProblemCode};
use portlatch_protocol::names::Hostname;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use webauthn_rs_proto::PublicKeyCredential;

use crate::broker::RequestId;
use crate::ceremony::{ClientData, request_options};
use crate::control::{ApiError, SharedControl};
use crate::keys::{Attempt, Key, KeyError, NOTICES};
use crate::safe_text::sentence;

/// Answers that control may find wrong before the prompt ends (notes: "tries < 3").
const TRIES: u32 = 3;
/// Pause before a key that failed is tried again: the person may take it out and put it in meanwhile.
const KEY_AGAIN: Duration = Duration::from_secs(3);

/// One prompt's ceremony.
pub(super) struct Tapping {
    pub(super) id: RequestId,
    pub(super) control: SharedControl,
    pub(super) key: Key,
    pub(super) cluster: Hostname,
    pub(super) request: AccessRequest,
    pub(super) context: ClientDataContext,
    pub(super) events: mpsc::Sender<(RequestId, TapEvent)>,
    pub(super) cancel: CancellationToken,
}

/// What happens meanwhile.
#[derive(Debug)]
pub(super) enum TapEvent {
    /// The challenge is there: the prompt can be shown.
    Challenged,
    /// Something for the person.
    Notice(String),
}

/// How it ended without a grant.
#[derive(Debug)]
pub(super) enum TapEnd {
    /// The prompt was over before.
    Cancelled,
    /// The person refused on the key.
    DeniedOnKey,
    /// Control does not grant it, or cannot be reached.
    Failed(ApiError),
}

impl Tapping {
    pub(super) async fn run(self) -> Result<IssuedGrant, TapEnd> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.attempt().await {
                Err(TapEnd::Failed(error)) if tries < TRIES && is_worth_another_try(&error) => {
                    self.tell(TapEvent::Notice("The tap was not accepted: tap once more".to_owned())).await;
                }
                end => return end,
            }
        }
    }

    async fn attempt(&self) -> Result<IssuedGrant, TapEnd> {
        let purpose = CeremonyPurpose::Open(self.request.clone());
        let request = CeremonyRequest { purpose, browser: None };
        let begun = self.cancel.run_until_cancelled(self.control.begin_ceremony(&request)).await;
        let ceremony = begun.ok_or(TapEnd::Cancelled)?.map_err(TapEnd::Failed)?;
        self.tell(TapEvent::Challenged).await;
        match self.answer(&ceremony).await {
            Ok(credential) => {
                let credential = serde_json::to_value(credential).expect("WebAuthn's documents are JSON");
                let proof = PresenceProof::Key { credential };
                self.control.finish_open(&ceremony.ceremony, &proof).await.map_err(TapEnd::Failed)
            }
            Err(end) => {
                // Control forgets it by itself; told, it forgets it now.
                if let Err(error) = self.control.cancel_ceremony(&ceremony.ceremony).await {
                    tracing::debug!(%error, "the ceremony was not called off");
                }
                Err(end)
            }
        }
    }

    async fn answer(&self, ceremony: &Ceremony) -> Result<PublicKeyCredential, TapEnd> {
        let options = request_options(ceremony.options.clone(), &self.cluster).map_err(TapEnd::Failed)?;
        let client_data = ClientData::for_open(&options.challenge, &self.cluster, &self.context);
        let mut last_trouble = None;
        loop {
            let (notices, mut noticed) = mpsc::channel(NOTICES);
            let attempt = Attempt { client_data: client_data.clone(), cancel: self.cancel.clone(), notices };
            let mut answer = self.key.assert(options.clone(), attempt);
            let answered = loop {
                tokio::select! {
                    biased;
                    Some(notice) = noticed.recv() => {
                        if last_trouble.as_deref() != Some(notice.text()) {
                            last_trouble = Some(notice.text().to_owned());
                            self.tell(TapEvent::Notice(notice.text().to_owned())).await;
                        }
                    }
                    answered = &mut answer => break answered,
                }
            };
            match answered {
                Ok(credential) => return Ok(credential),
                Err(KeyError::Cancelled) => return Err(TapEnd::Cancelled),
                Err(KeyError::Denied) => return Err(TapEnd::DeniedOnKey),
                Err(trouble) => {
                    let text = sentence(&format!("{trouble}."));
                    if last_trouble.as_ref() != Some(&text) {
                        self.tell(TapEvent::Notice(text.clone())).await;
                        last_trouble = Some(text);
                    }
                    let pause = tokio::time::sleep(KEY_AGAIN);
                    self.cancel.run_until_cancelled(pause).await.ok_or(TapEnd::Cancelled)?;
                }
            }
        }
    }

    async fn tell(&self, event: TapEvent) {
        // The service outlives its tasks; if it does not, nobody is there to tell.
        let _ = self.events.send((self.id, event)).await;
    }
}

fn is_worth_another_try(error: &ApiError) -> bool {
    matches!(
        error.code(),
        Some(ProblemCode::BadAssertion | ProblemCode::BadCode | ProblemCode::CeremonyEnded)
    )
}
