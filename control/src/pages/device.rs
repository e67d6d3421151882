//! `/login/device/{id}`: `portlatch login` waits for somebody to sign in for its device.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::response::{AppendHeaders, IntoResponse as _, Response};
use http::header::SET_COOKIE;
use maud::html;

use super::approve::{self, Asked, Near, Placed, Runs, approved_elsewhere, named, to_agent};
use super::cookies::Cookie;
use super::fields::{Answered, Arrived, Passing, Sent};
use super::frame::{Page, form_token, without_script};
use super::sign_in::{Begun, Forms, Nothing, Typed, page_of_visit};
use super::trouble::Trouble;
use crate::browser::approval::CrossDevice;
use crate::browser::sign_in::{Leads, SignInTarget};
use crate::control::Control;

/// The page.
pub(super) async fn show(
    State(control): State<Arc<Control>>,
    Path(id): Path<String>,
    Query(asked): Query<Asked>,
    Arrived { address }: Arrived,
    passing: Passing,
) -> Result<Response, Trouble> {
    let id = named(&id)?;
    let waiting = control.waiting_device(&id).ok_or(Trouble::NotThere)?;
    let path = format!("/login/device/{id}");
    let near = Near::of(waiting.address, address);
    let runs = Runs::of(asked.runs(), CrossDevice::WithCode, near);
    let user = waiting.user.as_ref().map(ToString::to_string);
    Ok(page_of_visit(passing, |token| {
        let forms = Forms {
            begin: &format!("{path}/begin"),
            finish: &format!("{path}/finish"),
            token,
            user: user.as_deref(),
        };
        let main = html! {
            p.lead { "The device below asks to be signed in. Go on only if you have just run " code { "portlatch login" } " on it." }
            div.card {
                dl.facts {
                    dt { "Device" } dd { (waiting.device) ", at " (waiting.address) }
                    @if let Some(user) = &waiting.user { dt { "As" } dd { (user) } }
                    dt { "This browser" } dd { "at " (address) }
                }
                (near.warning(asked.runs()))
                (runs.link(CrossDevice::WithCode, &path))
            }
            (without_script())
            (forms.render(&|way| runs.fields(way)))
            div.card {
                h2 { "Not you?" }
                form.deny method="post" action=(format!("{path}/deny")) {
                    (form_token(token))
                    button.danger type="submit" { "Refuse the device" }
                }
            }
        };
        Page::new("Sign in on your device", main).leads_to_loopback(waiting.port)
    }))
}

/// What somebody typed who signs in for a device.
#[derive(serde::Deserialize)]
pub(super) struct TypedForDevice {
    #[serde(flatten)]
    typed: Typed,
    #[serde(flatten)]
    placed: Placed,
}

/// Makes the challenge for the key.
pub(super) async fn begin(
    State(control): State<Arc<Control>>,
    Path(id): Path<String>,
    Sent { visit, fields }: Sent<TypedForDevice>,
) -> Result<Json<Begun>, Trouble> {
    let login = named(&id)?;
    let proof = fields.typed.proof()?;
    let place = control.device_place(&login, &fields.placed.claimed()).await.map_err(approve::trouble)?;
    let begun = control.begin_sign_in(visit, SignInTarget::Device { login, place }, proof).await;
    Ok(Json(begun.map_err(approve::trouble)?.into()))
}

/// Signs in, here and on the device.
pub(super) async fn finish(
    State(control): State<Arc<Control>>,
    Path(id): Path<String>,
    Sent { visit, fields }: Sent<Answered>,
) -> Result<Response, Trouble> {
    let id = named(&id)?;
    let back = |trouble: Trouble| trouble.back(format!("/login/device/{id}"));
    let (challenge, credential) = fields.read().map_err(back)?;
    let signed_in = control.finish_sign_in(visit, &challenge, &credential).await;
    let signed_in = signed_in.map_err(|denial| back(approve::trouble(denial)))?;
    let cookie = AppendHeaders([(SET_COOKIE, Cookie::Session.keep(&signed_in.cookie))]);
    Ok(match signed_in.leads {
        Leads::Agent(redirect) => (cookie, to_agent(&id, &redirect)).into_response(),
        Leads::Elsewhere | Leads::Pages => (cookie, approved_elsewhere()).into_response(),
    })
}

/// Denies.
pub(super) async fn deny(
    State(control): State<Arc<Control>>,
    Path(id): Path<String>,
    Sent { fields: Nothing {}, .. }: Sent<Nothing>,
) -> Result<Page, Trouble> {
    let id = named(&id)?;
    control.deny_device(&id).await.map_err(approve::trouble)?;
    let main = html! {
        p.notice role="status" { "The device was refused, and is not signed in. You can close this window." }
        p { "If you did not run " code { "portlatch login" } " yourself, tell your administrator." }
    };
    Ok(Page::new("Denied", main))
}
