//! The face that all pages have: head, banner, the page's own part, and the pieces that forms are made of.

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use maud::{DOCTYPE, Markup, html};
use portlatch_protocol::names::{Hostname, UserName};

use super::assets::{ICON, SCRIPT, STYLE};

/// A page, as a handler makes it; the guard puts the frame around it.
#[derive(Debug, Clone)]
pub(super) struct Page {
    status: StatusCode,
    title: String,
    main: Markup,
    signed_in: Option<SignedInAs>,
    loopback: Option<u16>,
}

/// Who is signed in, and the token of the form that signs out.
#[derive(Debug, Clone)]
pub(super) struct SignedInAs {
    pub(super) user: UserName,
    pub(super) token: String,
}

impl Page {
    /// A page with this title, which is its heading too.
    pub(super) fn new(title: impl Into<String>, main: Markup) -> Self {
        Self { status: StatusCode::OK, title: title.into(), main, signed_in: None, loopback: None }
    }

    /// The same with another status.
    pub(super) fn status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    /// The same for somebody who is signed in.
    pub(super) fn signed_in(self, signed_in: SignedInAs) -> Self {
        Self { signed_in: Some(signed_in), ..self }
    }

    /// The same, with forms that may lead to the agent that listens on this port of the browser's own machine.
    pub(super) fn leads_to_loopback(self, port: u16) -> Self {
        Self { loopback: Some(port), ..self }
    }

    /// Where forms of the page may lead besides to ourselves.
    pub(super) const fn loopback(&self) -> Option<u16> {
        self.loopback
    }

    /// The whole document.
    pub(super) fn dress(self, cluster: &Hostname) -> Response {
        let document = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (self.title) " · Portlatch" }
                    link rel="icon" type="image/svg+xml" href=(ICON.path());
                    link rel="stylesheet" href=(STYLE.path());
                    script src=(SCRIPT.path()) defer {}
                }
                body {
                    a.skip href="#main" { "Skip to content" }
                    (banner(cluster, self.signed_in.as_ref()))
                    main #main tabindex="-1" {
                        h1 { (self.title) }
                        (self.main)
                    }
                }
            }
        };
        (self.status, [("content-type", "text/html; charset=utf-8")], document.into_string()).into_response()
    }
}

fn banner(cluster: &Hostname, signed_in: Option<&SignedInAs>) -> Markup {
    html! {
        header.banner {
            a.brand href="/" {
                img src=(ICON.path()) alt="" width="28" height="28";
                span { "Portlatch" }
            }
            span.cluster { (cluster) }
            @if let Some(SignedInAs { user, token }) = signed_in {
                form.signout method="post" action="/logout" {
                    (form_token(token))
                    span.who { "Signed in as " strong { (user) } }
                    button.quiet type="submit" { "Sign out" }
                }
            }
        }
    }
}

impl IntoResponse for Page {
    fn into_response(self) -> Response {
        let mut response = Response::default();
        response.extensions_mut().insert(self);
        response
    }
}

/// The hidden field that shows that a form is ours.
pub(super) fn form_token(token: &str) -> Markup {
    html! { input type="hidden" name="csrf" value=(token); }
}

/// What a form's authenticator is asked to do.
#[derive(Debug, Clone, Copy)]
pub(super) enum Asks {
    /// To make a credential.
    Create,
    /// To sign with one.
    Get,
}

/// A form that the script hands to the authenticator before it is sent: it asks `begin` for the challenge, and sends the
/// answer to `finish`.
pub(super) struct CeremonyForm<'a> {
    pub(super) asks: Asks,
    pub(super) begin: &'a str,
    pub(super) finish: &'a str,
    pub(super) token: &'a str,
    /// What the button says.
    pub(super) button: &'a str,
    /// How the button looks.
    pub(super) weight: Weight,
}

/// How a button looks.
#[derive(Debug, Clone, Copy)]
pub(super) enum Weight {
    /// What most people came for.
    Main,
    /// Something else.
    Side,
    /// What cannot be undone.
    Danger,
}

impl Weight {
    pub(super) const fn class(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Side => "side",
            Self::Danger => "danger",
        }
    }
}

impl CeremonyForm<'_> {
    /// The form with these fields.
    pub(super) fn with(&self, fields: &Markup) -> Markup {
        let asks = match self.asks {
            Asks::Create => "create",
            Asks::Get => "get",
        };
        html! {
            form method="post" action=(self.finish) data-ceremony=(asks) data-begin=(self.begin) {
                (form_token(self.token))
                input type="hidden" name="challenge" value="";
                input type="hidden" name="credential" value="";
                (fields)
                div.actions {
                    button class=(self.weight.class()) type="submit" { (self.button) }
                    button.quiet type="button" data-cancel hidden { "Cancel" }
                }
                p.status role="status" aria-live="polite" data-status {}
                p.alert role="alert" data-alert {}
            }
        }
    }
}

/// What a page says whose browser runs no script.
pub(super) fn without_script() -> Markup {
    html! {
        noscript { p.alert { "Security keys and passkeys need JavaScript: allow it for this page." } }
    }
}

/// A text field with its label, and a line that explains it.
pub(super) struct Field<'a> {
    pub(super) id: &'a str,
    pub(super) name: &'a str,
    pub(super) label: &'a str,
    pub(super) kind: &'a str,
    pub(super) autocomplete: &'a str,
    pub(super) hint: Option<&'a str>,
    pub(super) value: Option<&'a str>,
}

impl Field<'_> {
    pub(super) fn render(&self) -> Markup {
        let hint = self.hint.map(|_| format!("{}-hint", self.id));
        html! {
            div.field {
                label for=(self.id) { (self.label) }
                @if let (Some(text), Some(id)) = (self.hint, &hint) { p.hint id=(id) { (text) } }
                input id=(self.id) name=(self.name) type=(self.kind) required autocomplete=(self.autocomplete)
                    autocapitalize="none" spellcheck="false" aria-describedby=[hint.as_deref()] value=[self.value];
            }
        }
    }
}

/// One of several things to choose from.
pub(super) struct Choice<'a> {
    /// Tells the fields of several forms of a page apart.
    pub(super) form: &'a str,
    pub(super) name: &'a str,
    pub(super) value: &'a str,
    pub(super) label: &'a str,
    pub(super) hint: &'a str,
    pub(super) is_chosen: bool,
}

impl Choice<'_> {
    pub(super) fn render(&self) -> Markup {
        let id = format!("{}-{}-{}", self.form, self.name, self.value);
        let hint = format!("{id}-hint");
        html! {
            div.choice {
                input type="radio" id=(id) name=(self.name) value=(self.value) checked[self.is_chosen]
                    aria-describedby=(hint);
                div {
                    label for=(id) { (self.label) }
                    p.hint id=(hint) { (self.hint) }
                }
            }
        }
    }
}
