//! `/login` and `/logout`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::response::{AppendHeaders, IntoResponse as _, Redirect, Response};
use http::header::SET_COOKIE;
use maud::{Markup, html};
use portlatch_protocol::api::Secret;

use super::cookies::Cookie;
use super::fields::{Answered, Next, Passing, Sent, SignedForm, user_name};
use super::frame::{Asks, CeremonyForm, Field, Page, Weight, without_script};
use super::trouble::Trouble;
use crate::browser::Task;
use crate::browser::secrets::CookieSecret;
use crate::browser::sign_in::{SignInProof, SignInTarget};
use crate::control::Control;

/// Where the sign-in leads.
#[derive(Debug, serde::Deserialize)]
pub(super) struct Leads {
    next: Option<String>,
}

/// What the script hands to the authenticator.
#[derive(serde::Serialize)]
pub(super) struct Begun {
    challenge: String,
    options: serde_json::Value,
}

impl From<Task> for Begun {
    fn from(task: Task) -> Self {
        Self { challenge: task.challenge.to_string(), options: task.options }
    }
}

/// A page whose forms belong to a browser that is not signed in; it gets a cookie for them if it has none.
pub(super) fn page_of_visit(passing: Passing, page: impl FnOnce(&str) -> Page) -> Response {
    match passing.cookie {
        Some(cookie) => page(&cookie.form_token()).into_response(),
        None => {
            let cookie = CookieSecret::random();
            let page = page(&cookie.form_token());
            (AppendHeaders([(SET_COOKIE, Cookie::Visit.keep(&cookie))]), page).into_response()
        }
    }
}

/// The sign-in page.
pub(super) async fn show(passing: Passing, Query(Leads { next }): Query<Leads>) -> Response {
    let next = Next::parse(&next.unwrap_or_default());
    page_of_visit(passing, |token| {
        let forms = Forms { begin: "/login/begin", finish: "/login/finish", token, user: None };
        let next = next.path();
        let main = html! {
            (without_script())
            (forms.render(&|_| html! { input type="hidden" name="next" value=(next); }))
        };
        Page::new("Sign in", main)
    })
}

/// The forms of the ways of signing in.
pub(super) struct Forms<'a> {
    pub(super) begin: &'a str,
    pub(super) finish: &'a str,
    pub(super) token: &'a str,
    /// Who must sign in, if that is known.
    pub(super) user: Option<&'a str>,
}

impl Forms<'_> {
    /// All of them; `more` gives the fields that each way has besides its own.
    pub(super) fn render(&self, more: &dyn Fn(&str) -> Markup) -> Markup {
        html! {
            div.card {
                h2 { "With a passkey" }
                p { "Your fingerprint, face or PIN is enough." }
                (self.form("Sign in with a passkey", Weight::Main).with(&html! {
                    input type="hidden" name="way" value="passkey";
                    (more("passkey"))
                }))
                details {
                    summary { "My passkey is not offered" }
                    (self.form("Find my passkey", Weight::Side).with(&html! {
                        input type="hidden" name="way" value="passkey";
                        (self.user_field("named-user").render())
                        (more("named"))
                    }))
                }
            }
            div.card {
                h2 { "With password and security key" }
                (self.form("Sign in with your key", Weight::Main).with(&html! {
                    input type="hidden" name="way" value="password";
                    (self.user_field("user").render())
                    (Field {
                        id: "password",
                        name: "password",
                        label: "Password",
                        kind: "password",
                        autocomplete: "current-password",
                        hint: None,
                        value: None,
                    }.render())
                    (more("password"))
                }))
            }
        }
    }

    fn form<'b>(&'b self, button: &'b str, weight: Weight) -> CeremonyForm<'b> {
        let Self { begin, finish, token, .. } = self;
        CeremonyForm { asks: Asks::Get, begin, finish, token, button, weight }
    }

    fn user_field<'b>(&'b self, id: &'b str) -> Field<'b> {
        Field {
            id,
            name: "user",
            label: "User name",
            kind: "text",
            autocomplete: "username",
            hint: None,
            value: self.user,
        }
    }
}

/// What somebody typed who signs in.
#[derive(serde::Deserialize)]
pub(super) struct Typed {
    way: String,
    #[serde(default)]
    user: String,
    #[serde(default)]
    password: String,
}

impl Typed {
    /// As control takes it.
    pub(super) fn proof(self) -> Result<SignInProof, Trouble> {
        Ok(match self.way.as_str() {
            "passkey" if self.user.is_empty() => SignInProof::Passkey { user: None },
            "passkey" => SignInProof::Passkey { user: Some(user_name(&self.user)?) },
            _ => SignInProof::Password { user: user_name(&self.user)?, password: Secret(self.password) },
        })
    }
}

/// Makes the challenge for the key.
pub(super) async fn begin(
    State(control): State<Arc<Control>>,
    Sent { visit, fields }: Sent<Typed>,
) -> Result<Json<Begun>, Trouble> {
    Ok(Json(control.begin_sign_in(visit, SignInTarget::Pages, fields.proof()?).await?.into()))
}

/// The answer of the key, and where to go.
#[derive(serde::Deserialize)]
pub(super) struct Finish {
    #[serde(flatten)]
    answered: Answered,
    #[serde(default)]
    next: String,
}

/// Signs in.
pub(super) async fn finish(
    State(control): State<Arc<Control>>,
    Sent { visit, fields }: Sent<Finish>,
) -> Result<Response, Trouble> {
    let next = Next::parse(&fields.next);
    let back = |trouble: Trouble| trouble.back(next.sign_in_path());
    let (challenge, credential) = fields.answered.read().map_err(back)?;
    let signed_in = control.finish_sign_in(visit, &challenge, &credential).await;
    let signed_in = signed_in.map_err(|denial| back(denial.into()))?;
    let session = (SET_COOKIE, Cookie::Session.keep(&signed_in.cookie));
    let cookies = AppendHeaders([session, (SET_COOKIE, Cookie::Visit.forget())]);
    Ok((cookies, Redirect::to(&next.path())).into_response())
}

/// Nothing but the token.
#[derive(Debug, serde::Deserialize)]
pub(super) struct Nothing {}

/// Signs out.
pub(super) async fn sign_out(
    State(control): State<Arc<Control>>,
    form: Result<SignedForm<Nothing>, Trouble>,
) -> Result<Response, Trouble> {
    match form {
        Ok(SignedForm { who, fields: Nothing {} }) => {
            control.close_web_session(&who.session, who.visit()).await?;
        }
        // Signed out already.
        Err(Trouble::SignIn(_)) => {}
        Err(trouble @ (Trouble::NotThere | Trouble::FromOutside(_) | Trouble::Said { .. })) => {
            return Err(trouble);
        }
    }
    let forgotten = AppendHeaders([(SET_COOKIE, Cookie::Session.forget())]);
    Ok((forgotten, Redirect::to("/login")).into_response())
}
