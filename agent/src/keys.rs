//! Security keys behind one trait: make a credential, make an assertion, be told to stop.
//!
//! A key gets WebAuthn's options and the bytes of `clientDataJSON` and answers with WebAuthn's own documents; whether
//! they are any good is control's to say.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use webauthn_rs_proto::{
    PublicKeyCredential, PublicKeyCredentialCreationOptions, PublicKeyCredentialRequestOptions,
    RegisterPublicKeyCredential,
};

use self::pin_entry::Pins;
use crate::ceremony::ClientData;
use crate::safe_text::sentence;

pub(crate) mod attestation;
pub(crate) mod pin_entry;
mod purpose;
#[cfg(feature = "software-key")]
pub(crate) mod software;
pub(crate) mod usb;

/// Notices that a key has for the person, waiting to be shown; more are dropped, the newest matters least.
pub(crate) const NOTICES: usize = 8;

/// A security key, or whatever stands in for one.
pub(crate) trait SecurityKey: Send + Sync {
    /// Makes a credential.
    fn enrol(
        &self,
        options: PublicKeyCredentialCreationOptions,
        attempt: Attempt,
    ) -> BoxFuture<'_, Result<RegisterPublicKeyCredential, KeyError>>;

    /// Makes an assertion.
    fn assert(
        &self,
        options: PublicKeyCredentialRequestOptions,
        attempt: Attempt,
    ) -> BoxFuture<'_, Result<PublicKeyCredential, KeyError>>;
}

/// The key of this process.
pub(crate) type Key = Arc<dyn SecurityKey>;

/// One use of the key.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    /// What is signed.
    pub(crate) client_data: ClientData,
    /// Ends the attempt: the prompt is over.
    pub(crate) cancel: CancellationToken,
    /// What the person should know meanwhile.
    pub(crate) notices: mpsc::Sender<KeyNotice>,
    /// Who asks for the key's PIN.
    pub(crate) pins: Pins,
}

impl Attempt {
    /// Tells the person, if anybody listens and has time.
    pub(crate) fn notice(&self, notice: KeyNotice) {
        let _ = self.notices.try_send(notice);
    }
}

/// What a person should know while the key waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KeyNotice {
    /// No key is there.
    PlugIn,
    /// No key that is there was enrolled by this user.
    WrongKey,
    /// One that was not was touched, and another one blinks.
    WrongKeyTouched,
    /// The key did not know the finger.
    UnknownFinger,
    /// The PIN was right, and a touch is still to come.
    TouchNow,
    /// Another program uses the key.
    InUse,
    /// A key is of no use, and another one may be.
    Trouble(String),
    /// A software key waits for Enter.
    PressEnter,
}

impl KeyNotice {
    /// For the person.
    pub(crate) fn text(&self) -> String {
        let text = match self {
            Self::PlugIn => "Plug in your security key.",
            Self::WrongKey => "This security key is not enrolled for you: plug in the one that is.",
            Self::WrongKeyTouched => "That security key is not enrolled for you: tap the other one.",
            Self::UnknownFinger => "The security key does not know this finger: try again, or another one.",
            Self::TouchNow => "Now tap your security key.",
            Self::InUse => "Another program uses your security key: finish or close what it asks for.",
            Self::Trouble(text) => return sentence(&format!("{text}.")),
            Self::PressEnter => "Press Enter to tap the software key.",
        };
        text.to_owned()
    }

    /// For the person at a prompt, which a page can answer as well: a passkey may be all that is enrolled.
    pub(crate) fn text_at_prompt(&self) -> String {
        let text = self.text();
        match self {
            Self::PlugIn | Self::WrongKey => format!(
                "{}, or run `portlatch login --mfa-mode browser` to approve in your browser.",
                text.trim_end_matches('.')
            ),
            Self::WrongKeyTouched
            | Self::UnknownFinger
            | Self::TouchNow
            | Self::InUse
            | Self::Trouble(_)
            | Self::PressEnter => text,
        }
    }
}

/// Why there is no answer of a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeyError {
    /// It was called off.
    #[error("the tap was called off")]
    Cancelled,
    /// The device may not be opened by this user; the sentence says why and what to do.
    #[error("{0}")]
    NoAccess(String),
    /// The key is to verify its user and has no PIN.
    #[error(
        "a PIN is asked for and this security key has none: set one (for example with `fido2-token -S`), then try again"
    )]
    NoPinSet,
    /// The PIN was wrong, each time.
    #[error("the PIN was wrong: try again")]
    PinRefused,
    /// The key takes no PIN before it is plugged in anew.
    #[error("the security key takes no PIN for now: take it out, put it in and try again")]
    PinNeedsPower,
    /// The key takes no PIN for ever.
    #[error(
        "the security key has blocked its PIN after too many wrong ones: reset it, which deletes what it holds, and enrol it anew, or use another one"
    )]
    PinBlocked,
    /// The person did not want to give the PIN.
    #[error("no PIN was given")]
    PinCancelled,
    /// The key wants its PIN and there is nowhere to ask for it.
    #[error(
        "this security key wants its PIN, and there is nowhere to ask for it: install pinentry, or run `portlatch agent` in a terminal"
    )]
    NobodyToAsk,
    /// The key holds a credential of this user already.
    #[error("this security key is enrolled already: log in with it, or enrol another one")]
    AlreadyEnrolled,
    /// The key holds no credential of this user. (A USB key that has none is waited past: another may be plugged in.)
    #[cfg(feature = "software-key")]
    #[error("this security key is not enrolled for you: use the one that you enrolled")]
    NotEnrolled,
    /// The person refused on the key itself.
    #[error("it was denied on the security key")]
    Denied,
    /// The key cannot do what is asked.
    #[error("this security key cannot be used: it lacks {0}")]
    Unsupported(&'static str),
    /// The key or its driver misbehaves.
    #[error("the security key does not answer properly ({0}): take it out, put it in and try again")]
    Broken(String),
    /// The software key's file cannot be used.
    #[cfg(feature = "software-key")]
    #[error("the software key cannot be used: {0}")]
    Software(String),
}

impl KeyError {
    /// Whether the person has decided it, or the key has on the person's touch: other keys are asked no more.
    pub(crate) const fn is_decision(&self) -> bool {
        matches!(self, Self::Denied | Self::PinCancelled | Self::AlreadyEnrolled)
    }
}
