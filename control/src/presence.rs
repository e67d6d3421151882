//! How a person was shown to be there: a security key that was tapped, or a code of an authenticator app in its place.
//! Whoever holds one has verified it; what it opens is the policy's to say.

use portlatch_audit::Event;
use portlatch_protocol::names::Id;
use portlatch_protocol::resource::MfaNeed;

use crate::policy::Terms;
use crate::webauthn::{UserVerified, VerifiedTap, amr};

/// A verified proof of presence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// A tap of a security key.
    Tap(VerifiedTap),
    /// A code of an authenticator app.
    Code {
        /// The app, as control names it.
        app: Id,
    },
}

impl Presence {
    /// The key or app, as control names it.
    pub const fn device(&self) -> &Id {
        match self {
            Self::Tap(tap) => &tap.key_id,
            Self::Code { app } => app,
        }
    }

    /// Whether the key verified its user. A code says nothing about who typed it.
    pub const fn is_user_verified(&self) -> bool {
        match self {
            Self::Tap(tap) => tap.is_user_verified,
            Self::Code { .. } => false,
        }
    }

    /// How presence was proved (RFC 8176).
    pub fn amr(&self) -> Vec<String> {
        match self {
            Self::Tap(tap) => amr(tap.is_user_verified.then_some(UserVerified)),
            Self::Code { .. } => vec!["otp".to_owned()],
        }
    }

    /// What of these terms it falls short of, in one word for the audit.
    pub const fn shortfall(&self, terms: &Terms) -> Option<&'static str> {
        match (self, terms.mfa) {
            (_, MfaNeed::None) => None,
            (Self::Code { .. }, MfaNeed::Tap) => Some("code_not_allowed"),
            (Self::Tap(_), MfaNeed::Tap | MfaNeed::TapOrCode) | (Self::Code { .. }, MfaNeed::TapOrCode) => {
                match terms.user_verification && !self.is_user_verified() {
                    true => Some("user_not_verified"),
                    false => None,
                }
            }
        }
    }

    /// The record `event`, with this as its proof.
    pub fn on(&self, event: Event) -> Event {
        let (up, uv) = match self {
            Self::Tap(tap) => (Some(true), Some(tap.is_user_verified)),
            Self::Code { .. } => (None, None),
        };
        Event { amr: self.amr(), key_id: Some(self.device().clone()), up, uv, ..event }
    }
}
