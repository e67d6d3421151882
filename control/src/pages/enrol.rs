//! `/enrol`: what the one-time link of a new user opens. The token stands behind `#`, so that it is sent to nobody; the
//! script puts it into its field.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{AppendHeaders, IntoResponse as _, Redirect, Response};
use http::header::SET_COOKIE;
use maud::{Markup, html};
use portlatch_protocol::api::Secret;

use super::cookies::Cookie;
use super::fields::{Answered, Next, Passing, Sent, key_kind, key_name, user_name};
use super::frame::{Asks, CeremonyForm, Choice, Field, Page, Weight, without_script};
use super::sign_in::{Begun, page_of_visit};
use super::trouble::Trouble;
use crate::api::problem::Denial;
use crate::browser::enrolment::NewUser;
use crate::control::Control;

const PATH: &str = "/enrol";
/// The same for a wrong name, a wrong token, and one that was used or is too old: nobody learns which.
const NO_LINK: &str = "This user name and token do not fit, or the link was used already or is older than a day. Ask your \
     administrator for a new one.";
const NOT_ENROLLED: &str = "The key was not enrolled: its answer does not verify, or the link was used in the meantime. \
     Open the link again.";

/// The page.
pub(super) async fn show(passing: Passing) -> Response {
    page_of_visit(passing, |token| {
        let form = CeremonyForm {
            asks: Asks::Create,
            begin: "/enrol/begin",
            finish: "/enrol/finish",
            token,
            button: "Enrol",
            weight: Weight::Main,
        };
        let main = html! {
            p.lead { "Choose a password, and enrol the key or passkey that you will sign in with." }
            (without_script())
            div.card data-enrol { (form.with(&fields())) }
        };
        Page::new("Welcome to Portlatch", main)
    })
}

fn fields() -> Markup {
    let field = |id, label, kind, autocomplete| Field {
        id,
        name: id,
        label,
        kind,
        autocomplete,
        hint: None,
        value: None,
    };
    let kind =
        |value, label, hint| Choice { form: "enrol", name: "kind", value, label, hint, is_chosen: false };
    let key = kind("key", "A security key", "A USB or NFC key that you tap.");
    let passkey = kind(
        "passkey",
        "A passkey",
        "This device, your phone or a key: it checks your fingerprint, face or PIN, and signs you in without a password.",
    );
    let token = Field {
        hint: Some("The link that you were given fills it in. It works once."),
        ..field("token", "Enrolment token", "text", "off")
    };
    let password = Field {
        hint: Some("At least eight characters."),
        ..field("password", "New password", "password", "new-password")
    };
    html! {
        (field("user", "User name", "text", "username").render())
        (token.render())
        (password.render())
        (field("again", "New password, once more", "password", "new-password").render())
        fieldset {
            legend { "What do you enrol?" }
            (Choice { is_chosen: true, ..key }.render())
            (passkey.render())
        }
        (Field { value: Some("My first key"), ..field("name", "What do you call it?", "text", "off") }.render())
    }
}

/// What a new user typed.
#[derive(serde::Deserialize)]
pub(super) struct Typed {
    user: String,
    token: String,
    password: String,
    again: String,
    kind: String,
    name: String,
}

/// Makes the challenge for the new key.
pub(super) async fn begin(
    State(control): State<Arc<Control>>,
    Sent { visit, fields }: Sent<Typed>,
) -> Result<Json<Begun>, Trouble> {
    if fields.password != fields.again {
        return Err(Trouble::bad_request("The two passwords differ: type them once more."));
    }
    let new = NewUser {
        user: user_name(&fields.user)?,
        token: Secret(fields.token),
        password: Secret(fields.password),
        name: key_name(&fields.name)?,
        kind: key_kind(&fields.kind)?,
    };
    let begun = control.begin_web_enrolment(visit, new).await;
    Ok(Json(begun.map_err(|denial| trouble(denial, NO_LINK))?.into()))
}

fn trouble(denial: Denial, refused: &str) -> Trouble {
    if denial == Denial::BadLogin { Trouble::said(denial.status(), refused) } else { denial.into() }
}

/// Enrols, and signs in.
pub(super) async fn finish(
    State(control): State<Arc<Control>>,
    Sent { visit, fields }: Sent<Answered>,
) -> Result<Response, Trouble> {
    let (challenge, credential) = fields.read().map_err(|trouble| trouble.back(PATH))?;
    let enrolled = control.finish_web_enrolment(visit, &challenge, &credential).await;
    let session = enrolled.map_err(|denial| trouble(denial, NOT_ENROLLED).back(PATH))?;
    let cookies = [(SET_COOKIE, Cookie::Session.keep(&session)), (SET_COOKIE, Cookie::Visit.forget())];
    Ok((AppendHeaders(cookies), Redirect::to(&Next::Welcome.path())).into_response())
}
