//! Why there is no page as it was asked for: what a person reads, or the script in its place.

use axum::Json;
use axum::response::{IntoResponse, Redirect, Response};
use http::StatusCode;
use maud::html;
use portlatch_protocol::names::Hostname;

use super::fields::Next;
use super::frame::Page;
use crate::api::problem::Denial;

/// What is said of whatever is not there, is over, or is somebody else's: the same in every case.
const NOT_THERE: &str =
    "There is no such page or request here, or it is over. If a program waits, run it again.";

/// Why there is no page.
#[derive(Debug, Clone)]
pub(super) enum Trouble {
    /// Unknown, over, or somebody else's: nobody learns which.
    NotThere,
    /// Somebody must sign in first, and then goes on there.
    SignIn(Next),
    /// The browser came from another site and showed no cookie: one click on our own page, and it shows them.
    FromOutside(String),
    /// Something that a person can do something about.
    Said {
        /// The status.
        status: StatusCode,
        /// What happened and what to do.
        sentence: String,
        /// Where to start again.
        back: Option<String>,
    },
}

impl Trouble {
    /// Something with this advice.
    pub(super) fn said(status: StatusCode, sentence: impl Into<String>) -> Self {
        Self::Said { status, sentence: sentence.into(), back: None }
    }

    /// What was typed makes no sense.
    pub(super) fn bad_request(sentence: impl Into<String>) -> Self {
        Self::said(StatusCode::BAD_REQUEST, sentence)
    }

    /// A form that is not ours, or whose page is out of date.
    pub(super) fn stale() -> Self {
        Self::said(
            StatusCode::FORBIDDEN,
            "This form does not belong to this browser's visit, or is too old: open the page anew and try again.",
        )
    }

    /// We cannot serve.
    pub(super) fn broken() -> Self {
        Denial::Unavailable.into()
    }

    /// The same, with the page to start again from.
    pub(super) fn back(self, path: impl Into<String>) -> Self {
        match self {
            Self::Said { status, sentence, back: _ } => {
                Self::Said { status, sentence, back: Some(path.into()) }
            }
            Self::NotThere | Self::SignIn(_) | Self::FromOutside(_) => self,
        }
    }

    /// What a person sees.
    pub(super) fn dress(self, cluster: &Hostname) -> Response {
        match self {
            Self::SignIn(next) => Redirect::to(&next.sign_in_path()).into_response(),
            Self::NotThere => {
                let main = html! {
                    p.lead { (NOT_THERE) }
                    p { a.button.side href="/" { "To the start page" } }
                };
                Page::new("Nothing here", main).status(StatusCode::NOT_FOUND).dress(cluster)
            }
            Self::FromOutside(path) => {
                let main = html! {
                    p.lead { "Another site sent you here. Go on only if you meant to come to Portlatch." }
                    p { a.button.main href=(path) { "Continue to Portlatch" } }
                };
                Page::new("Continue", main).dress(cluster)
            }
            Self::Said { status, sentence, back } => {
                let main = html! {
                    p.alert role="alert" { (sentence) }
                    @if let Some(back) = back { p { a.button.main href=(back) { "Start again" } } }
                };
                Page::new("That did not work", main).status(status).dress(cluster)
            }
        }
    }

    /// What the script is told, to say it on the page that it is on.
    pub(super) fn tell_script(self) -> Response {
        let (status, sentence) = match self {
            Self::NotThere => (StatusCode::NOT_FOUND, NOT_THERE.to_owned()),
            Self::SignIn(_) => {
                (StatusCode::UNAUTHORIZED, "You are signed out: reload the page, and sign in.".to_owned())
            }
            Self::FromOutside(_) => (StatusCode::FORBIDDEN, "Reload the page and try again.".to_owned()),
            Self::Said { status, sentence, .. } => (status, sentence),
        };
        (status, Json(serde_json::json!({ "error": sentence }))).into_response()
    }
}

impl From<Denial> for Trouble {
    fn from(denial: Denial) -> Self {
        let sentence = match &denial {
            Denial::BadLogin => {
                "User name or password is wrong, or the key's answer is. Try again.".to_owned()
            }
            Denial::CeremonyEnded => "This took too long, or was answered already. Try again.".to_owned(),
            Denial::BadAssertion => {
                "The key's answer does not verify. Try again with a key that you enrolled.".to_owned()
            }
            Denial::LoginEnded => "You are signed out. Sign in again.".to_owned(),
            Denial::NotFound
            | Denial::Locked(_)
            | Denial::Policy
            | Denial::BadCode
            | Denial::Paused(_)
            | Denial::CodesPaused(_)
            | Denial::SourceAddress
            | Denial::Refused(_)
            | Denial::RateLimited
            | Denial::BadRequest(_)
            | Denial::Unavailable => sentence(&denial.to_string()),
        };
        Self::said(denial.status(), sentence)
    }
}

/// A capital at its beginning, a full stop at its end.
fn sentence(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters.next().map(char::to_uppercase).into_iter().flatten();
    let sentence: String = first.chain(characters).collect();
    if sentence.ends_with(['.', '!', '?']) { sentence } else { sentence + "." }
}

impl IntoResponse for Trouble {
    fn into_response(self) -> Response {
        let mut response = Response::default();
        response.extensions_mut().insert(self);
        response
    }
}
