//! `portlatch mfa`: the user's own security keys and authenticator apps. Each change needs a proof of presence, at a prompt
//! of the agent like any other.

use portlatch_clock::Clock;
use portlatch_protocol::api::Secret;
use portlatch_protocol::api::ceremony::{
    CeremonyOutcome, DeviceChange, MfaDevice, MfaDeviceKind, MfaDevices,
};
use serde::Serialize;

use super::asking::ask_person;
use super::{current_login, print_json, print_table, unless_stopped};
use crate::cli::{Mfa, MfaChange, MfaList};
use crate::control::Control;
use crate::failure::Failure;
use crate::files::Files;
use crate::local::{LocalError, Tell, Want};
use crate::mfa_mode::MfaMode;
use crate::safe_text::safe;
use crate::status::rfc3339;
use crate::terminal::{Stream, say};

mod add;

/// A row of `mfa ls --json`.
#[derive(Debug, Serialize)]
struct Row {
    id: String,
    kind: MfaDeviceKind,
    name: String,
    added: String,
    last_used: Option<String>,
}

/// `mfa ls --json`.
#[derive(Debug, Serialize)]
struct List {
    devices: Vec<Row>,
    recovery_codes: u32,
}

/// Lists or changes keys and apps.
pub(crate) async fn mfa(command: &Mfa, files: &Files, clock: &Clock) -> Result<(), Failure> {
    let login = current_login(files, clock)?;
    let control = Control::for_login(&login, clock)?;
    match command {
        Mfa::Ls(list) => show(list, control.devices().await?),
        Mfa::Add(add) => unless_stopped(add::add(add, &login, &control, files)).await,
        Mfa::Rm(MfaChange { device, mfa_mode }) => {
            let device = find(control.devices().await?, device)?;
            let title = format!("remove the {} {:?}", kind(device.kind), device.name);
            let change = DeviceChange::Remove { device: device.id };
            unless_stopped(changed(change, title, *mfa_mode, files)).await?;
            Ok(say(&format!("Removed {}.", safe(&device.name)))?)
        }
        Mfa::Rename { device, name, mfa_mode } => {
            let device = find(control.devices().await?, device)?;
            let title = format!("rename the {} {:?} to {name:?}", kind(device.kind), device.name);
            let change = DeviceChange::Rename { device: device.id, name: name.clone() };
            unless_stopped(changed(change, title, *mfa_mode, files)).await?;
            Ok(say(&format!("{} is now called {}.", safe(&device.name), safe(name)))?)
        }
        Mfa::RecoveryCodes { mfa_mode } => {
            let title = "make new recovery codes in place of the old ones".to_owned();
            let asked = changed(DeviceChange::RecoveryCodes, title, *mfa_mode, files);
            let CeremonyOutcome::RecoveryCodes { codes } = unless_stopped(asked).await? else {
                return Err(LocalError::NotUnderstood.into());
            };
            show_codes(&codes)
        }
    }
}

/// Has the agent ask for a proof of presence, and control make the change.
async fn changed(
    change: DeviceChange,
    title: String,
    mode: Option<MfaMode>,
    files: &Files,
) -> Result<CeremonyOutcome, Failure> {
    let want = Want::Devices { change, title, pid: std::process::id(), mode };
    match ask_person(files, &want, Stream::Out).await? {
        Tell::Changed { outcome } => Ok(outcome),
        Tell::Status { .. }
        | Tell::Catalogue { .. }
        | Tell::Prompt { .. }
        | Tell::Closed { .. }
        | Tell::Note { .. }
        | Tell::SignIn { .. }
        | Tell::Tapped { .. }
        | Tell::Done { .. }
        | Tell::Failed { .. } => Err(LocalError::NotUnderstood.into()),
    }
}

/// The one with this identifier or, failing that, of this name.
fn find(devices: MfaDevices, called: &str) -> Result<MfaDevice, Failure> {
    let MfaDevices { devices, .. } = devices;
    if let Some(device) = devices.iter().find(|device| device.id.as_str() == called) {
        return Ok(device.clone());
    }
    let mut named = devices.into_iter().filter(|device| device.name == called);
    match (named.next(), named.next()) {
        (Some(device), None) => Ok(device),
        (Some(_), Some(_)) => Err(Failure::Failed(format!(
            "several are called {}: name it by its ID, which `portlatch mfa ls` shows",
            safe(called)
        ))),
        (None, _) => Err(Failure::Failed(format!(
            "no key and no app of yours is called {}: run `portlatch mfa ls`",
            safe(called)
        ))),
    }
}

fn show(list: &MfaList, devices: MfaDevices) -> Result<(), Failure> {
    let MfaDevices { devices, recovery_codes } = devices;
    let rows: Vec<Row> = devices.iter().map(row).collect();
    if list.json {
        return print_json(&List { devices: rows, recovery_codes });
    }
    let cells = |row: &Row| {
        let used = row.last_used.clone().unwrap_or_else(|| "never".to_owned());
        [row.name.clone(), kind(row.kind).to_owned(), row.added.clone(), used, row.id.clone()]
    };
    print_table(["NAME", "KIND", "ADDED", "LAST USED", "ID"], &rows.iter().map(cells).collect::<Vec<_>>())?;
    let codes = match recovery_codes {
        0 => "You have no recovery codes: make some with `portlatch mfa recovery-codes`.".to_owned(),
        1 => "One recovery code is left.".to_owned(),
        left => format!("{left} recovery codes are left."),
    };
    Ok(say(&codes)?)
}

fn row(device: &MfaDevice) -> Row {
    Row {
        id: device.id.to_string(),
        kind: device.kind,
        name: safe(&device.name),
        added: rfc3339(device.created),
        last_used: device.last_used.map(rfc3339),
    }
}

const fn kind(kind: MfaDeviceKind) -> &'static str {
    match kind {
        MfaDeviceKind::SecurityKey => "security key",
        MfaDeviceKind::Passkey => "passkey",
        MfaDeviceKind::App => "authenticator app",
    }
}

fn show_codes(codes: &[Secret]) -> Result<(), Failure> {
    say(
        "Your recovery codes. Each lets you log in once without your security key. They are shown only now:",
    )?;
    for Secret(code) in codes {
        say(&format!("  {}", safe(code)))?;
    }
    Ok(say("Keep them where nobody else can read them, and not on this machine. The old ones are void.")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices(names: &[(&str, &str)]) -> MfaDevices {
        let device = |(id, name): &(&str, &str)| MfaDevice {
            id: id.parse().unwrap(),
            kind: MfaDeviceKind::SecurityKey,
            name: (*name).to_owned(),
            created: 0,
            last_used: None,
        };
        MfaDevices { devices: names.iter().map(device).collect(), recovery_codes: 0 }
    }

    #[test]
    fn a_key_is_found_by_identifier_and_by_name_where_that_is_enough() {
        let all = [("0a", "blue"), ("0b", "red"), ("0c", "red"), ("0d", "0a")];
        let found = |called| find(devices(&all), called).map(|device| device.id.to_string());
        assert_eq!(found("blue").unwrap(), "0a");
        assert_eq!(found("0a").unwrap(), "0a", "an identifier goes before a name");
        assert!(found("red").unwrap_err().to_string().contains("by its ID"));
        assert!(found("green").unwrap_err().to_string().contains("portlatch mfa ls"));
    }
}
