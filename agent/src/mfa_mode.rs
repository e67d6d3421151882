//! How the user wants to prove presence where the policy leaves a choice: `--mfa-mode`, kept with the login.

use serde::{Deserialize, Serialize};

/// What a prompt asks for first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum MfaMode {
    /// The security key at this machine; a code where one is allowed
    #[default]
    Webauthn,
    /// A code of an authenticator app; the security key where no code is allowed
    Otp,
    /// A page in the browser
    Browser,
}
