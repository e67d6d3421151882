//! Virtual authenticators: what people plug in, tap, and lay a finger on.

use serde_json::{Value, json};

use super::chromium::Chromium;

/// What a virtual authenticator is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authenticator {
    /// A USB key without a PIN: it is tapped, and verifies nobody.
    Key,
    /// The device's own, with a fingerprint that fits.
    Passkey,
}

/// Whether somebody taps an authenticator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tapped {
    /// As soon as it blinks.
    AtOnce,
    /// It blinks until it is told to stop.
    Never,
}

/// A virtual authenticator of a browser.
#[derive(Debug, Clone)]
pub struct AuthenticatorId(String);

/// Whether an authenticator verifies its user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verified {
    /// The fingerprint fits.
    Yes,
    /// It does not.
    No,
}

impl Chromium {
    /// Plugs a virtual authenticator in.
    pub fn add(&self, authenticator: Authenticator) -> AuthenticatorId {
        let (transport, is_verifying) = match authenticator {
            Authenticator::Key => ("usb", false),
            Authenticator::Passkey => ("internal", true),
        };
        let options = json!({
            "protocol": "ctap2",
            "transport": transport,
            "hasResidentKey": is_verifying,
            "hasUserVerification": is_verifying,
            "isUserVerified": is_verifying,
            "isUserConsenting": true,
        });
        let id = self.session().command("POST", "/webauthn/authenticator", &options);
        AuthenticatorId(id.as_str().expect("an authenticator has a name").to_owned())
    }

    /// Unplugs one.
    pub fn remove(&self, authenticator: &AuthenticatorId) {
        let path = format!("/webauthn/authenticator/{}", authenticator.0);
        self.session().command("DELETE", &path, &Value::Null);
    }

    /// Whether it is tapped when it blinks.
    pub fn set_tapped(&self, authenticator: &AuthenticatorId, tapped: Tapped) {
        let parameters = json!({"authenticatorId": authenticator.0, "enabled": tapped == Tapped::AtOnce});
        self.devtools("WebAuthn.setAutomaticPresenceSimulation", &parameters);
    }

    /// Whether the next fingerprint fits.
    pub fn set_verified(&self, authenticator: &AuthenticatorId, verified: Verified) {
        let path = format!("/webauthn/authenticator/{}/uv", authenticator.0);
        self.session().command("POST", &path, &json!({"isUserVerified": verified == Verified::Yes}));
    }

    /// What credentials it holds.
    pub fn credentials(&self, authenticator: &AuthenticatorId) -> Vec<Value> {
        let path = format!("/webauthn/authenticator/{}/credentials", authenticator.0);
        self.session().command("GET", &path, &Value::Null).as_array().cloned().unwrap_or_default()
    }
}
