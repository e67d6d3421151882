//! `/keys/new/{id}`: a new key, passkey or app, once a key that is enrolled has confirmed it.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::response::Redirect;
use maud::{Markup, PreEscaped, html};
use portlatch_protocol::api::Secret;
use qrcodegen::{QrCode, QrCodeEcc};

use super::approve::named;
use super::fields::{Answered, Next, SignedForm, SignedIn};
use super::frame::{Asks, CeremonyForm, Field, Page, Weight, form_token, without_script};
use super::sign_in::{Begun, Nothing};
use super::trouble::Trouble;
use crate::api::problem::Denial;
use crate::browser::devices::Enrolling;
use crate::control::Control;
use crate::store::credentials::CredentialKind;

const BACK: &str = "/keys";
/// Modules of white around a QR code (ISO/IEC 18004 section 6.3.8).
const QUIET_ZONE: i32 = 4;

/// Whether the code was wrong a moment ago.
#[derive(Debug, serde::Deserialize)]
pub(super) struct Again {
    again: Option<String>,
}

/// The page.
pub(super) async fn show(
    State(control): State<Arc<Control>>,
    Path(id): Path<String>,
    Query(Again { again }): Query<Again>,
    who: SignedIn,
) -> Result<Page, Trouble> {
    let challenge = named(&id)?;
    let token = who.token();
    let path = format!("/keys/new/{challenge}");
    let page = match control.enrolling(who.visit(), &challenge).ok_or(Trouble::NotThere)? {
        Enrolling::Key { kind, name } => key_page(&path, &token, kind, &name),
        Enrolling::App { uri, name } => app_page(&path, &token, (&uri, &name), again.as_deref()),
    };
    Ok(page.signed_in(who.shown()))
}

fn key_page(path: &str, token: &str, kind: CredentialKind, name: &str) -> Page {
    let (title, advice) = match kind {
        CredentialKind::SecurityKey => {
            ("Now your new security key", "Plug it in, or hold it to your device, and tap it when it blinks.")
        }
        CredentialKind::Passkey => {
            ("Now your new passkey", "Choose in the browser's window where it is to be kept.")
        }
    };
    let form = CeremonyForm {
        asks: Asks::Create,
        begin: &format!("{path}/begin"),
        finish: &format!("{path}/key"),
        token,
        button: "Enrol it",
        weight: Weight::Main,
    };
    let main = html! {
        p.lead { "“" (name) "”: " (advice) }
        (without_script())
        div.card { (form.with(&html! {})) }
        p { a href=(BACK) { "Back to your keys" } }
    };
    Page::new(title, main)
}

fn app_page(path: &str, token: &str, (uri, name): (&str, &str), again: Option<&str>) -> Page {
    let code = Field {
        id: "code",
        name: "code",
        label: "The code that the app shows now",
        kind: "text",
        autocomplete: "one-time-code",
        hint: Some("Six digits."),
        value: None,
    };
    let main = html! {
        p.lead { "Scan this with your authenticator app, “" (name) "”, and type the code that it shows." }
        @if again.is_some() { p.alert role="alert" { "That code was not right: wait for the next one, and type it." } }
        div.card {
            @if let Some(image) = qr(uri) { (image) }
            details {
                summary { "I cannot scan it" }
                p { "Type this key into the app:" }
                p { code.secret { (spaced_secret(uri)) } }
            }
            form method="post" action=(format!("{path}/app")) {
                (form_token(token))
                (code.render())
                div.actions { button.main type="submit" { "Enrol it" } }
            }
        }
        p { a href=(BACK) { "Back to your keys" } }
    };
    Page::new("Now your authenticator app", main)
}

/// A QR code as a drawing, dark on light whatever the page's colours are: cameras want it so.
fn qr(text: &str) -> Option<Markup> {
    let code = QrCode::encode_text(text, QrCodeEcc::Medium).ok()?;
    let mut path = String::new();
    for y in 0..code.size() {
        for x in 0..code.size() {
            if code.get_module(x, y) {
                // Writing into a String does not fail.
                let _ = write!(path, "M{},{}h1v1h-1z", x + QUIET_ZONE, y + QUIET_ZONE);
            }
        }
    }
    let side = code.size() + 2 * QUIET_ZONE;
    Some(html! {
        svg.qr xmlns="http://www.w3.org/2000/svg" viewBox=(format!("0 0 {side} {side}")) role="img"
            aria-label="QR code for the authenticator app" shape-rendering="crispEdges" {
            rect width=(side) height=(side) fill="#fff" {}
            (PreEscaped(format!("<path d=\"{path}\" fill=\"#000\"/>")))
        }
    })
}

/// The secret of an `otpauth` address, in groups that one can type.
fn spaced_secret(uri: &str) -> String {
    let query = uri.split_once('?').map_or("", |(_, query)| query);
    let secret = query.split('&').find_map(|pair| pair.strip_prefix("secret=")).unwrap_or_default();
    let groups: Vec<&str> =
        secret.as_bytes().chunks(4).filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join(" ")
}

/// What the new key is asked.
pub(super) async fn begin(
    State(control): State<Arc<Control>>,
    Path(id): Path<String>,
    SignedForm { who, fields: Nothing {} }: SignedForm<Nothing>,
) -> Result<Json<Begun>, Trouble> {
    Ok(Json(control.new_key_task(who.visit(), &named(&id)?)?.into()))
}

/// Enrols the key.
pub(super) async fn key(
    State(control): State<Arc<Control>>,
    SignedForm { who, fields }: SignedForm<Answered>,
) -> Result<Redirect, Trouble> {
    let (challenge, credential) = fields.read().map_err(|trouble| trouble.back(BACK))?;
    let enrolled = control.finish_new_key(&who.session, who.visit(), &challenge, &credential).await;
    enrolled.map_err(|denial| Trouble::from(denial).back(BACK))?;
    Ok(Redirect::to(&Next::Enrolled.path()))
}

/// A code as typed.
#[derive(serde::Deserialize)]
pub(super) struct Code {
    code: String,
}

/// Enrols the app.
pub(super) async fn app(
    State(control): State<Arc<Control>>,
    Path(id): Path<String>,
    SignedForm { who, fields: Code { code } }: SignedForm<Code>,
) -> Result<Redirect, Trouble> {
    let challenge = named(&id)?;
    match control.finish_new_app(&who.session, who.visit(), &challenge, &Secret(code)).await {
        Ok(()) => Ok(Redirect::to(&Next::Enrolled.path())),
        Err(Denial::BadCode) => Ok(Redirect::to(&format!("/keys/new/{challenge}?again"))),
        Err(denial) => Err(Trouble::from(denial).back(BACK)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_out_in_groups() {
        let uri = "otpauth://totp/Portlatch:jerry?secret=ABCDEFGHIJ&issuer=Portlatch";
        assert_eq!(spaced_secret(uri), "ABCD EFGH IJ");
        assert_eq!(spaced_secret("nonsense"), "");
    }

    #[test]
    fn a_qr_code_has_its_quiet_zone() {
        let image = qr("otpauth://totp/x?secret=AAAA").unwrap().into_string();
        let code = QrCode::encode_text("otpauth://totp/x?secret=AAAA", QrCodeEcc::Medium).unwrap();
        let side = code.size() + 2 * QUIET_ZONE;
        assert!(image.contains(&format!("viewBox=\"0 0 {side} {side}\"")), "{image}");
        assert!(image.contains("M4,4h1v1h-1z"), "the first finder's corner: {image}");
    }
}
