//! `/keys`: the user's keys, passkeys and apps, and the recovery codes; and the way to whatever waits for an answer at its
//! page. Each change is confirmed with a key.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::response::{IntoResponse as _, Redirect, Response};
use maud::{Markup, html};
use portlatch_protocol::api::Secret;
use portlatch_protocol::api::ceremony::{DeviceChange, MfaDevice, MfaDeviceKind};
use time::OffsetDateTime;
use time::macros::format_description;

use super::approve::heading;
use super::fields::{Answered, Next, SignedForm, SignedIn, key_name};
use super::frame::{Asks, CeremonyForm, Choice, Field, Page, Weight, without_script};
use super::sign_in::Begun;
use super::trouble::Trouble;
use crate::browser::devices::{Changed, WantedChange};
use crate::ceremony::Codes;
use crate::control::Control;
use crate::store::credentials::CredentialKind;

const PATH: &str = "/keys";

/// What was done a moment ago.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Done {
    welcome: Option<String>,
    done: Option<String>,
}

impl Done {
    fn notice(&self) -> Option<&'static str> {
        match (&self.welcome, self.done.as_deref()) {
            (Some(_), _) => Some(
                "You are enrolled. Add a second key or passkey now, and keep it somewhere else: if you lose your only one, \
                 your administrator has to let you in again.",
            ),
            (None, Some("enrol")) => Some("It is enrolled, and works from now on."),
            (None, Some("change")) => Some("Your change is made."),
            (None, Some(_) | None) => None,
        }
    }
}

/// The list.
pub(super) async fn show(
    State(control): State<Arc<Control>>,
    Query(done): Query<Done>,
    who: SignedIn,
) -> Result<Page, Trouble> {
    let devices = control.mfa_devices(&who.session.user).await?;
    let (token, waiting) = (who.token(), control.all_waiting(&who.session.user));
    let keys = devices.devices.iter().filter(|device| device.kind != MfaDeviceKind::App).count();
    let codes = match control.hub.now().world.allows_otp() {
        true => Codes::Taken,
        false => Codes::Refused,
    };
    let main = html! {
        @if let Some(notice) = done.notice() { p.notice role="status" { (notice) } }
        @for (id, waiting) in &waiting {
            p.warning role="status" {
                "Something waits for you: "
                a href=(format!("/mfa/{id}")) { (heading(&waiting.wanted)) }
            }
        }
        @if keys == 1 && done.welcome.is_none() {
            p.warning {
                "This is your only key. Add a second one, and keep it somewhere else: if you lose your only one, your \
                 administrator has to let you in again."
            }
        }
        (without_script())
        ul.keys {
            @for device in &devices.devices { li { (entry(device, &token)) } }
        }
        section.card aria-labelledby="add" {
            h2 #add { "Add another one" }
            (change_form(&token, "Add", Weight::Main).with(&add_fields(codes)))
        }
        section.card aria-labelledby="recovery" {
            h2 #recovery { "Recovery codes" }
            p { (recovery_left(devices.recovery_codes)) }
            p {
                "Each works once, in place of your key: " code { "portlatch login --recovery-code" } " asks for it and for \
                 your password. Keep them on paper."
            }
            (change_form(&token, "Make new recovery codes", Weight::Side).with(&html! {
                input type="hidden" name="change" value="codes";
            }))
        }
    };
    Ok(Page::new("Your keys", main).signed_in(who.shown()))
}

fn recovery_left(count: u32) -> String {
    match count {
        0 => "You have none.".to_owned(),
        1 => "You have one that was not used.".to_owned(),
        count => format!("You have {count} that were not used. New ones replace them."),
    }
}

fn change_form<'a>(token: &'a str, button: &'a str, weight: Weight) -> CeremonyForm<'a> {
    CeremonyForm { asks: Asks::Get, begin: "/keys/begin", finish: "/keys/confirm", token, button, weight }
}

fn entry(device: &MfaDevice, token: &str) -> Markup {
    let kind = match device.kind {
        MfaDeviceKind::SecurityKey => "security key",
        MfaDeviceKind::Passkey => "passkey",
        MfaDeviceKind::App => "authenticator app",
    };
    let id = format!("name-{}", device.id);
    let hidden = |change: &str| {
        html! {
            input type="hidden" name="change" value=(change);
            input type="hidden" name="device" value=(device.id);
        }
    };
    let name = Field {
        id: &id,
        name: "name",
        label: "New name",
        kind: "text",
        autocomplete: "off",
        hint: None,
        value: Some(&device.name),
    };
    html! {
        div.key-head { h2 { (device.name) } span.kind { (kind) } }
        p.hint {
            "Added " (date(device.created))
            @match device.last_used {
                Some(time) => { ", last used " (date(time)) }
                None => { ", not used yet" }
            }
        }
        details {
            summary aria-label=(format!("Rename or remove {}", device.name)) { "Rename or remove" }
            (change_form(token, "Rename", Weight::Side).with(&html! { (hidden("rename")) (name.render()) }))
            (change_form(token, "Remove", Weight::Danger).with(&hidden("remove")))
            p.hint { "You confirm it with a key or passkey of yours." }
        }
    }
}

fn date(seconds: i64) -> Markup {
    let moment = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let exact = moment.format(format_description!("[year]-[month]-[day]")).unwrap_or_default();
    let shown = moment.format(format_description!("[day padding:none] [month repr:long] [year]"));
    html! { time datetime=(exact) { (shown.unwrap_or_default()) } }
}

fn add_fields(codes: Codes) -> Markup {
    let kind =
        |value, label, hint, is_chosen| Choice { form: "add", name: "kind", value, label, hint, is_chosen };
    html! {
        input type="hidden" name="change" value="add";
        fieldset {
            legend { "What is it?" }
            (kind("key", "A security key", "A USB or NFC key that you tap.", true).render())
            (kind(
                "passkey",
                "A passkey",
                "This device, your phone or a key: it checks your fingerprint, face or PIN, and signs you in without a password.",
                false,
            ).render())
            @if codes == Codes::Taken {
                (kind("app", "An authenticator app", "It makes codes, for where a code is enough.", false).render())
            }
        }
        (Field {
            id: "add-name",
            name: "name",
            label: "What do you call it?",
            kind: "text",
            autocomplete: "off",
            hint: Some("You confirm it with a key or passkey that you have."),
            value: None,
        }.render())
    }
}

/// What somebody wants to change.
#[derive(serde::Deserialize)]
pub(super) struct Wanted {
    change: String,
    #[serde(default)]
    device: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    kind: String,
}

impl Wanted {
    fn read(&self) -> Result<WantedChange, Trouble> {
        let device = || self.device.parse().map_err(|_| Trouble::NotThere);
        let kind = match self.kind.as_str() {
            "passkey" => CredentialKind::Passkey,
            _ => CredentialKind::SecurityKey,
        };
        let change = match (self.change.as_str(), self.kind.as_str()) {
            ("add", "app") => DeviceChange::AddApp { name: key_name(&self.name)? },
            ("add", _) => DeviceChange::AddKey { name: key_name(&self.name)? },
            ("rename", _) => DeviceChange::Rename { device: device()?, name: key_name(&self.name)? },
            ("remove", _) => DeviceChange::Remove { device: device()? },
            ("codes", _) => DeviceChange::RecoveryCodes,
            _ => return Err(Trouble::bad_request("Choose what to change.")),
        };
        Ok(WantedChange { change, kind })
    }
}

/// Makes the challenge for the tap.
pub(super) async fn begin(
    State(control): State<Arc<Control>>,
    SignedForm { who, fields }: SignedForm<Wanted>,
) -> Result<Json<Begun>, Trouble> {
    Ok(Json(control.begin_change(&who.session, who.visit(), fields.read()?).await?.into()))
}

/// Makes the change.
pub(super) async fn confirm(
    State(control): State<Arc<Control>>,
    SignedForm { who, fields }: SignedForm<Answered>,
) -> Result<Response, Trouble> {
    let (challenge, credential) = fields.read().map_err(|trouble| trouble.back(PATH))?;
    let changed = control.finish_change(&who.session, who.visit(), &challenge, &credential).await;
    Ok(match changed.map_err(|denial| Trouble::from(denial).back(PATH))? {
        Changed::Done => Redirect::to(&Next::Changed.path()).into_response(),
        Changed::Enrol(challenge) => Redirect::to(&format!("/keys/new/{challenge}")).into_response(),
        Changed::Codes(codes) => codes_page(&codes).signed_in(who.shown()).into_response(),
    })
}

/// The recovery codes, the only time that anybody sees them.
fn codes_page(codes: &[Secret]) -> Page {
    let main = html! {
        p.lead { "Print these codes or write them down, and keep them where your keys are not. They are shown this once." }
        div.card {
            ol.codes { @for code in codes { li { code { (code.0) } } } }
            p {
                "Each works once, in place of your key: " code { "portlatch login --recovery-code" } " asks for it and for \
                 your password. Codes that you had before are void."
            }
        }
        p { a.button.main href=(PATH) { "I have kept them" } }
    };
    Page::new("Your recovery codes", main)
}
