//! The front page: where one is, and where to go.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse as _, Redirect, Response};
use maud::html;

use super::fields::{Next, SignedIn};
use super::frame::Page;
use super::trouble::Trouble;
use crate::control::Control;

/// The front page; somebody who is signed in came for the keys.
pub(super) async fn show(
    State(control): State<Arc<Control>>,
    signed_in: Result<SignedIn, Trouble>,
) -> Result<Response, Trouble> {
    match signed_in {
        Ok(_) => return Ok(Redirect::to(&Next::Keys.path()).into_response()),
        Err(Trouble::SignIn(_) | Trouble::FromOutside(_)) => {}
        Err(trouble @ (Trouble::NotThere | Trouble::Said { .. })) => return Err(trouble),
    }
    let command = format!("portlatch login --proxy https://{}", control.authority_part());
    let main = html! {
        p.lead { "Your ordinary programs reach internal hosts through this cluster, with a tap of your security key." }
        div.card {
            h2 { "On your machine" }
            p { "Sign in once a day:" }
            pre { code { (command) } }
        }
        div.card {
            h2 { "Here" }
            p { "Look after your security keys and passkeys." }
            p { a.button.main href="/login" { "Sign in" } }
        }
    };
    Ok(Page::new("Portlatch", main).into_response())
}
