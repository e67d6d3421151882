//! `/keys`: the user's keys and passkeys.

use std::sync::Arc;

use axum::extract::State;
use maud::html;

use super::fields::SignedIn;
use super::frame::Page;
use super::trouble::Trouble;
use crate::control::Control;
use crate::store::credentials::CredentialKind;

/// The list.
pub(super) async fn show(State(control): State<Arc<Control>>, signed_in: SignedIn) -> Result<Page, Trouble> {
    let keys = control.store.credentials(&signed_in.session.user).await;
    let keys = keys.map_err(crate::api::problem::Denial::from)?;
    let main = html! {
        ul.keys {
            @for key in &keys {
                li { (match key.kind { CredentialKind::Passkey => "passkey", CredentialKind::SecurityKey => "key" }) }
            }
        }
    };
    Ok(Page::new("Your keys", main).signed_in(signed_in.shown()))
}
