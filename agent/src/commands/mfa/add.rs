//! `portlatch mfa add`: a proof of presence with what the user has already; then the new key is tapped, or the new app's
//! first code is entered.

use std::time::Duration;

use portlatch_protocol::api::ceremony::{CeremonyOutcome, DeviceChange, DeviceProof};
use portlatch_protocol::api::{KeyTask, Secret};
use portlatch_protocol::names::Id;

use super::changed;
use crate::cli::{DeviceKind, MfaAdd};
use crate::code::Code;
use crate::commands::own_key::UseOfKey;
use crate::control::Control;
use crate::failure::Failure;
use crate::files::Files;
use crate::local::LocalError;
use crate::login::Login;
use crate::safe_text::safe;
use crate::terminal::{self, Stream, say};

/// Codes that may be wrong before it has to be begun anew: control counts as well.
const TRIES: usize = 3;

/// Adds a key or an app.
pub(super) async fn add(
    options: &MfaAdd,
    login: &Login,
    control: &Control,
    files: &Files,
) -> Result<(), Failure> {
    let name = options.name.clone();
    let (change, title) = match options.kind {
        DeviceKind::Key => {
            let title = format!("add the security key {name:?}");
            (DeviceChange::AddKey { name: name.clone() }, title)
        }
        DeviceKind::App => {
            let title = format!("add the authenticator app {name:?}");
            (DeviceChange::AddApp { name: name.clone() }, title)
        }
    };
    // Before anybody taps for it: its key is shown once, and a file is no place for it.
    if options.kind == DeviceKind::App && !Stream::Out.is_seen() {
        return Err(Failure::because(
            "the app's key is shown on a terminal and nowhere else: run it without redirecting its output",
        ));
    }
    if options.kind == DeviceKind::App && !terminal::has_keyboard() {
        return Err(Failure::because(
            "the app's first code is typed at a terminal: run it without redirecting its input",
        ));
    }
    say("First show that it is you, with what you have already.")?;
    let device = match changed(change, title, options.mfa_mode, files).await? {
        CeremonyOutcome::EnrolKey { ceremony, options: creation, expires_in } => {
            let credential = new_key(options, login, files, creation, expires_in).await?;
            control.finish_enrolment(&ceremony, &DeviceProof::Key { credential }).await?
        }
        CeremonyOutcome::EnrolApp { ceremony, uri, .. } => new_app(control, &ceremony, &uri).await?,
        CeremonyOutcome::Granted(_)
        | CeremonyOutcome::Remembered { .. }
        | CeremonyOutcome::RecoveryCodes { .. }
        | CeremonyOutcome::Done => return Err(LocalError::NotUnderstood.into()),
    };
    Ok(say(&format!("Added {}.", safe(&device.name)))?)
}

async fn new_key(
    options: &MfaAdd,
    login: &Login,
    files: &Files,
    creation: serde_json::Value,
    expires_in: u64,
) -> Result<serde_json::Value, Failure> {
    say("Now plug in the new security key.")?;
    let (key, enter) = chosen_key(options, files);
    let use_of_key = UseOfKey {
        task: KeyTask::Enrol { options: creation },
        time: Duration::from_secs(expires_in),
        cluster: &login.file.cluster,
        too_late: "nobody tapped the new security key in time: run `portlatch mfa add` again",
    };
    use_of_key.run(&key, &enter).await
}

#[cfg(feature = "software-key")]
fn chosen_key(options: &MfaAdd, files: &Files) -> (crate::keys::Key, crate::service::Enter) {
    crate::commands::key(options.software_key, files)
}

#[cfg(not(feature = "software-key"))]
fn chosen_key(_: &MfaAdd, _: &Files) -> (crate::keys::Key, crate::service::Enter) {
    crate::commands::usb_key()
}

async fn new_app(
    control: &Control,
    ceremony: &Id,
    uri: &Secret,
) -> Result<portlatch_protocol::api::ceremony::MfaDevice, Failure> {
    let secret = secret_of(&uri.0).ok_or_else(|| {
        Failure::because("the server's answer makes no sense: is it a Portlatch cluster of this version?")
    })?;
    say("Scan this with your authenticator app:")?;
    match terminal::qr_code(&uri.0, Stream::Out.columns()) {
        Some(lines) => lines.iter().try_for_each(|line| say(line))?,
        None => say("  (a QR code is shown on a terminal that is wide enough)")?,
    }
    say(&format!("Or enter this key there, time-based: {secret}"))?;
    for tries_left in (0..TRIES).rev() {
        let typed = terminal::ask_secret("The code that it shows").await?;
        let Some(code) = Code::typed(&typed) else {
            say("That is no code: type its six digits.")?;
            continue;
        };
        let proof = DeviceProof::Code { code: Secret(code.digits().to_owned()) };
        match control.finish_enrolment(ceremony, &proof).await {
            Err(error) if error.is_wrong_code() && tries_left > 0 => {
                say("That code was not accepted: is the phone's clock right? Try the next one.")?;
            }
            added => return Ok(added?),
        }
    }
    Err(Failure::because("no code was right: run `portlatch mfa add` again"))
}

/// The secret inside `otpauth://totp/LABEL?secret=...`, in groups of four that can be typed.
fn secret_of(uri: &str) -> Option<String> {
    let (_, query) = uri.strip_prefix("otpauth://totp/")?.split_once('?')?;
    let secret = query.split('&').find_map(|pair| pair.strip_prefix("secret="))?;
    let is_base32 = |c: char| c.is_ascii_uppercase() || ('2'..='7').contains(&c);
    if secret.is_empty() || !secret.chars().all(is_base32) {
        return None;
    }
    let groups: Vec<&str> = secret
        .as_bytes()
        .chunks(4)
        .map(|group| std::str::from_utf8(group).expect("base32 is ASCII"))
        .collect();
    Some(groups.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_is_shown_so_that_it_can_be_typed() {
        let uri = "otpauth://totp/h:jerry?secret=JBSWY3DPEHPK3PXP&issuer=h";
        assert_eq!(secret_of(uri).unwrap(), "JBSW Y3DP EHPK 3PXP");
        for wrong in
            ["", "https://evil/?secret=AAAA", "otpauth://totp/h?secret=", "otpauth://totp/h?secret=\u{1b}[2J"]
        {
            assert!(secret_of(wrong).is_none(), "{wrong:?}");
        }
    }
}
