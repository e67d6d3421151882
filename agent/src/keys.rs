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

use crate::ceremony::ClientData;

pub(crate) mod attestation;
#[cfg(feature = "software-key")]
pub(crate) mod software;
pub(crate) mod usb;
mod usb_error;

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
}

impl Attempt {
    /// Tells the person, if anybody listens and has time.
    pub(crate) fn notice(&self, notice: KeyNotice) {
        let _ = self.notices.try_send(notice);
    }
}

/// What a person should know while the key waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyNotice {
    /// No key is there.
    PlugIn,
    /// A key is there and was not enrolled by this user.
    WrongKey,
    /// A software key waits for Enter.
    PressEnter,
}

impl KeyNotice {
    /// For the person.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::PlugIn => "Plug in your security key.",
            Self::WrongKey => "This security key is not enrolled for you: plug in the one that is.",
            Self::PressEnter => "Press Enter to tap the software key.",
        }
    }
}

/// Why there is no answer of a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeyError {
    /// It was called off.
    #[error("the tap was called off")]
    Cancelled,
    /// The device may not be opened by this user.
    #[error(
        "no access to the security key at {device}: log in at the machine itself, or have an administrator add a udev rule for it"
    )]
    NoAccess {
        /// The device.
        device: String,
    },
    /// The key asks for its PIN.
    #[error(
        "this security key wants its PIN, which portlatch cannot ask for yet: use a key that a tap suffices for"
    )]
    PinRequired,
    /// The key holds a credential of this user already.
    #[error("this security key is enrolled already: log in with your password instead, or use another key")]
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
