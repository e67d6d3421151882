//! What forms and the script send, read with care: who is there by the cookie, the form token of that cookie, and the
//! fields.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use axum::Form;
use axum::Json;
use axum::extract::{FromRequest, FromRequestParts, Request};
use http::header::HeaderMap;
use http::request::Parts;
use portlatch_protocol::names::{Id, UserName};
use serde::de::DeserializeOwned;

use super::Visitor;
use super::approve::Runs;
use super::cookies::Cookie;
use super::frame::SignedInAs;
use super::trouble::Trouble;
use crate::browser::Visit;
use crate::browser::secrets::CookieSecret;
use crate::browser::sessions::WebSession;
use crate::control::Control;
use crate::store::credentials::CredentialKind;

/// Longest name that a user gives a key.
const MAX_KEY_NAME: usize = 64;
const TOKEN: &str = "csrf";

/// Where somebody goes after signing in: pages of ours alone, so that nobody can be led elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    /// To the keys.
    Keys,
    /// To the keys, for the first time.
    Welcome,
    /// To the keys, after a change.
    Changed,
    /// To the keys, after an enrolment.
    Enrolled,
    /// To what an agent waits for, which runs where the link says.
    Waiting(Id, Option<Runs>),
}

impl Next {
    /// As a link names it; anything else leads to the keys.
    pub(super) fn parse(link: &str) -> Self {
        let (path, query) = link.split_once('?').unwrap_or((link, ""));
        let id = path.strip_prefix("/mfa/").and_then(|id| id.parse().ok());
        let runs = query.strip_prefix("runs=").and_then(Runs::parse);
        id.map_or(Self::Keys, |id| Self::Waiting(id, runs))
    }

    /// The page.
    pub(super) fn path(&self) -> String {
        match self {
            Self::Keys => "/keys".to_owned(),
            Self::Welcome => "/keys?welcome".to_owned(),
            Self::Changed => "/keys?done=change".to_owned(),
            Self::Enrolled => "/keys?done=enrol".to_owned(),
            Self::Waiting(id, None) => format!("/mfa/{id}"),
            Self::Waiting(id, Some(runs)) => format!("/mfa/{id}?runs={}", runs.word()),
        }
    }

    /// The sign-in that leads there.
    pub(super) fn sign_in_path(&self) -> String {
        match self {
            Self::Keys | Self::Welcome | Self::Changed | Self::Enrolled => "/login".to_owned(),
            Self::Waiting(..) => format!("/login?next={}", self.path()),
        }
    }
}

/// Somebody at a page that needs no sign-in.
#[derive(Debug)]
pub(super) struct Passing {
    /// The cookie, if the browser has one already.
    pub(super) cookie: Option<CookieSecret>,
}

impl FromRequestParts<Arc<Control>> for Passing {
    type Rejection = Trouble;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Control>) -> Result<Self, Trouble> {
        Ok(Self { cookie: Cookie::Visit.read(&parts.headers) })
    }
}

/// Somebody, and from where.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrived {
    /// From where.
    pub(super) address: IpAddr,
}

impl FromRequestParts<Arc<Control>> for Arrived {
    type Rejection = Trouble;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Control>) -> Result<Self, Trouble> {
        Ok(Self { address: address(&parts.extensions)? })
    }
}

/// Somebody who is signed in.
#[derive(Debug)]
pub(super) struct SignedIn {
    /// Who.
    pub(super) session: WebSession,
    /// Of the session.
    cookie: CookieSecret,
    /// From where.
    pub(super) address: IpAddr,
}

impl SignedIn {
    /// For the banner, and for forms.
    pub(super) fn shown(&self) -> SignedInAs {
        SignedInAs { user: self.session.user.clone(), token: self.token() }
    }

    /// What forms of this session carry.
    pub(super) fn token(&self) -> String {
        self.cookie.form_token()
    }

    /// As page challenges know it.
    pub(super) fn visit(&self) -> Visit {
        Visit { owner: self.session.hash, address: self.address }
    }

    async fn of(headers: &HeaderMap, address: IpAddr, control: &Control) -> Result<Option<Self>, Trouble> {
        let Some(cookie) = Cookie::Session.read(headers) else { return Ok(None) };
        let session = control.web_session(&cookie).await?;
        Ok(session.map(|session| Self { session, cookie, address }))
    }
}

impl FromRequestParts<Arc<Control>> for SignedIn {
    type Rejection = Trouble;

    async fn from_request_parts(parts: &mut Parts, control: &Arc<Control>) -> Result<Self, Trouble> {
        let address = address(&parts.extensions)?;
        if let Some(signed_in) = Self::of(&parts.headers, address, control).await? {
            return Ok(signed_in);
        }
        let is_cookieless = Cookie::Session.read(&parts.headers).is_none();
        let site = parts.headers.get("sec-fetch-site").map(http::HeaderValue::as_bytes);
        let link = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        match is_cookieless && matches!(site, Some(b"cross-site" | b"same-site")) {
            true => Err(Trouble::FromOutside(link.to_owned())),
            false => Err(Trouble::SignIn(Next::parse(link))),
        }
    }
}

/// A form of a page that needs no sign-in, from the browser that the page was made for.
#[derive(Debug)]
pub(super) struct Sent<T> {
    /// Whose.
    pub(super) visit: Visit,
    /// What was typed.
    pub(super) fields: T,
}

impl<T: DeserializeOwned> FromRequest<Arc<Control>> for Sent<T> {
    type Rejection = Trouble;

    async fn from_request(request: Request, control: &Arc<Control>) -> Result<Self, Trouble> {
        let address = address(request.extensions())?;
        let cookie = Cookie::Visit.read(request.headers()).ok_or_else(Trouble::stale)?;
        let fields = read(request, control, &cookie, None).await?;
        Ok(Self { visit: Visit { owner: cookie.hash(), address }, fields })
    }
}

/// A form of a page of somebody who is signed in.
#[derive(Debug)]
pub(super) struct SignedForm<T> {
    /// Whose.
    pub(super) who: SignedIn,
    /// What was typed.
    pub(super) fields: T,
}

impl<T: DeserializeOwned> FromRequest<Arc<Control>> for SignedForm<T> {
    type Rejection = Trouble;

    async fn from_request(request: Request, control: &Arc<Control>) -> Result<Self, Trouble> {
        let address = address(request.extensions())?;
        let who = SignedIn::of(request.headers(), address, control).await?;
        let who = who.ok_or(Trouble::SignIn(Next::Keys))?;
        let fields = read(request, control, &who.cookie, Some(&who.session.user)).await?;
        Ok(Self { who, fields })
    }
}

fn address(extensions: &http::Extensions) -> Result<IpAddr, Trouble> {
    extensions.get::<Visitor>().map(|visitor| visitor.address.ip()).ok_or_else(Trouble::broken)
}

/// Reads the fields, if the token among them is the cookie's; a form that was made by somebody else is on the record. Forms
/// and the script send the same fields.
async fn read<T: DeserializeOwned>(
    request: Request,
    control: &Arc<Control>,
    cookie: &CookieSecret,
    user: Option<&UserName>,
) -> Result<T, Trouble> {
    let address = address(request.extensions())?;
    let unreadable = || Trouble::bad_request("The form cannot be read: open the page anew and try again.");
    let kind = request.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let mut fields: BTreeMap<String, String> = match kind.starts_with("application/json") {
        true => {
            Json::from_request(request, control).await.map(|Json(fields)| fields).map_err(|_| unreadable())?
        }
        false => {
            Form::from_request(request, control).await.map(|Form(fields)| fields).map_err(|_| unreadable())?
        }
    };
    let token = fields.remove(TOKEN).unwrap_or_default();
    if !cookie.is_form_token(&token) {
        control.note_foreign_form(user, address).await;
        return Err(Trouble::stale());
    }
    let fields = fields.into_iter().map(|(name, value)| (name, value.into())).collect();
    serde_json::from_value(serde_json::Value::Object(fields)).map_err(|_| unreadable())
}

/// The answer of an authenticator, as the script puts it into a form.
#[derive(serde::Deserialize)]
pub(super) struct Answered {
    /// Names the challenge.
    challenge: String,
    /// WebAuthn's document.
    credential: String,
}

impl Answered {
    /// Both, if they are any.
    pub(super) fn read(&self) -> Result<(Id, serde_json::Value), Trouble> {
        let bad = || {
            Trouble::bad_request("The browser sent no answer of a key: is JavaScript allowed for this page?")
        };
        let challenge = self.challenge.parse().map_err(|_| bad())?;
        Ok((challenge, serde_json::from_str(&self.credential).map_err(|_| bad())?))
    }
}

/// A user's name as typed.
pub(super) fn user_name(text: &str) -> Result<UserName, Trouble> {
    let user = text.trim().parse();
    user.map_err(|_| {
        Trouble::bad_request("This is no user name: write it as your administrator gave it to you.")
    })
}

/// A key's name as typed: short, and without characters that act on what shows it.
pub(super) fn key_name(text: &str) -> Result<String, Trouble> {
    let name = text.trim();
    let is_plain = |c: char| {
        !c.is_control()
            && !matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    let is_good = !name.is_empty() && name.chars().all(is_plain) && name.chars().count() <= MAX_KEY_NAME;
    is_good.then(|| name.to_owned()).ok_or_else(|| {
        Trouble::bad_request(format!("A key's name has between 1 and {MAX_KEY_NAME} ordinary characters."))
    })
}

/// What a key is to be, as the form says it.
pub(super) fn key_kind(text: &str) -> Result<CredentialKind, Trouble> {
    match text {
        "key" => Ok(CredentialKind::SecurityKey),
        "passkey" => Ok(CredentialKind::Passkey),
        _ => Err(Trouble::bad_request("Choose what you want to enrol.")),
    }
}
