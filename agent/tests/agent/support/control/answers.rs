//! What a good proof brings, and why a port is open or not: the answers of the control that the tests play.

use portlatch_protocol::api::IssuedGrant;
use portlatch_protocol::api::Secret;
use portlatch_protocol::api::ceremony::{
    CeremonyOutcome, CeremonyPurpose, DeviceChange, ExecTarget, Explanation, MfaDevice, MfaDeviceKind,
};
use portlatch_protocol::resource::MfaNeed;
use serde_json::{Value, json};

use super::{CLUSTER, Story};

/// Whether control forgets taps when it is told to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Memory {
    #[default]
    Obedient,
    Stubborn,
}

/// When control tells what came of a proof.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Verdicts {
    #[default]
    Told,
    /// Not before they are told again.
    Held,
}

/// Why this port can be opened or not.
pub(super) fn explanation(target: &ExecTarget) -> Explanation {
    let ExecTarget { resource, port } = target;
    let role = "jerry has the role access-prod".to_owned();
    match port {
        403 => {
            let refused =
                format!("refused: role access-prod denies {resource} (db_labels env=prod)\u{1b}[2J");
            Explanation::refused(vec![role, refused])
        }
        80 => Explanation::allowed(MfaNeed::None, vec![role, "allowed without a tap".to_owned()]),
        _ => {
            let asked = "a tap is asked for by access-prod (require_session_mfa)".to_owned();
            let steps = vec![role, asked, "allowed after a tap".to_owned()];
            Explanation {
                proved_for: (*port == 5433).then_some(120),
                ..Explanation::allowed(MfaNeed::Tap, steps)
            }
        }
    }
}

/// What a good tap brings.
pub(super) fn outcome(story: &mut Story, purpose: CeremonyPurpose) -> CeremonyOutcome {
    let amr = ["hwk", "user"];
    match purpose {
        CeremonyPurpose::Open(_) => CeremonyOutcome::Granted(grant(&amr)),
        CeremonyPurpose::Exec(exec) => {
            story.remembered.extend(exec.targets);
            CeremonyOutcome::Remembered { expires_in: 300, amr: amr.map(str::to_owned).to_vec() }
        }
        CeremonyPurpose::ManageDevices(change) => changed(story, change),
    }
}

fn changed(story: &mut Story, change: DeviceChange) -> CeremonyOutcome {
    let next = format!("{:02x}", story.devices.len() + story.enrolling.len() + 0x20);
    let ceremony = next.parse().unwrap();
    match change {
        DeviceChange::AddKey { name } => {
            story.enrolling.push((next, MfaDeviceKind::SecurityKey, name));
            CeremonyOutcome::EnrolKey { ceremony, options: creation_options(), expires_in: 120 }
        }
        DeviceChange::AddApp { name } => {
            story.enrolling.push((next, MfaDeviceKind::App, name));
            let uri = format!("otpauth://totp/{CLUSTER}:jerry?secret=JBSWY3DPEHPK3PXP&issuer={CLUSTER}");
            CeremonyOutcome::EnrolApp { ceremony, uri: Secret(uri), expires_in: 120 }
        }
        DeviceChange::Remove { device } => {
            story.devices.retain(|known| known.id != device);
            CeremonyOutcome::Done
        }
        DeviceChange::Rename { device, name } => {
            let known = story.devices.iter_mut().find(|known| known.id == device).unwrap();
            known.name = name;
            CeremonyOutcome::Done
        }
        DeviceChange::RecoveryCodes => {
            story.recovery_codes = (0..10).map(|n| format!("abcd-efgh-{n}")).collect();
            let codes = story.recovery_codes.iter().cloned().map(Secret).collect();
            CeremonyOutcome::RecoveryCodes { codes }
        }
    }
}

fn creation_options() -> Value {
    json!({"publicKey": {
        "challenge": "AAAA", "rp": {"name": "Portlatch", "id": CLUSTER},
        "user": {"id": "AAAA", "name": "jerry", "displayName": "jerry"},
        "pubKeyCredParams": [{"type": "public-key", "alg": -7}],
    }})
}

pub(super) fn device(id: &str, kind: MfaDeviceKind, name: &str) -> MfaDevice {
    let id = id.parse().unwrap();
    MfaDevice { id, kind, name: name.to_owned(), created: 1_700_000_000, last_used: None }
}

pub(super) fn grant(amr: &[&str]) -> IssuedGrant {
    let amr = amr.iter().map(|method| (*method).to_owned()).collect();
    IssuedGrant { id: "0b".parse().unwrap(), token: "header.claims.signature".into(), expires_in: 300, amr }
}
