//! What holds for every page: it is ours by its name, what changes anything comes from a page of ours, and no answer leaves
//! without the headers that keep it in its place.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::header::{HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN};
use http::{Method, StatusCode};

use super::assets::Asset;
use super::frame::Page;
use super::trouble::Trouble;
use crate::control::Control;

/// For every answer. Nobody else's page can show, open, embed or read ours, and ours can load nothing of anybody else's.
const HEADERS: [(&str, &str); 7] = [
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    (
        "permissions-policy",
        "publickey-credentials-get=(self), publickey-credentials-create=(self), camera=(), microphone=(), \
         geolocation=(), usb=(), hid=(), serial=(), payment=()",
    ),
    ("x-robots-tag", "noindex"),
];
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'self'";
/// How long browsers ask for this host by HTTPS alone: a year.
const HTTPS_ONLY: &str = "max-age=31536000";

/// Lets pass what may, and dresses what comes back.
pub(super) async fn guard(State(control): State<Arc<Control>>, request: Request, next: Next) -> Response {
    let asker = Asker::of(request.headers());
    let answer = match objection(&control, &request) {
        Some(trouble) => trouble.into_response(),
        None => next.run(request).await,
    };
    with_headers(dressed(answer, &control, asker), &control)
}

/// Why a request goes no further.
fn objection(control: &Control, request: &Request) -> Option<Trouble> {
    let (headers, authority) = (request.headers(), control.authority_part());
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if !host.eq_ignore_ascii_case(&authority) {
        let sentence = format!("These pages have one address: https://{authority}/");
        return Some(Trouble::said(StatusCode::MISDIRECTED_REQUEST, sentence));
    }
    let is_read = request.method() == Method::GET || request.method() == Method::HEAD;
    let is_ours = is_read || is_from_ourselves(headers, control.relying_party.browser_origin());
    (!is_ours).then(Trouble::stale)
}

/// Whether a page of ours sent this, as the browser says. `Sec-Fetch-Site` cannot be forged by a page; a browser that knows
/// it not says `Origin` (which is `null` on forms of pages that send no referrer, where the browser knows the former).
fn is_from_ourselves(headers: &HeaderMap, own: &str) -> bool {
    let said = |name: HeaderName| headers.get(name).map(HeaderValue::as_bytes);
    let origin = said(ORIGIN);
    match said(HeaderName::from_static("sec-fetch-site")) {
        Some(b"same-origin") => origin.is_none_or(|origin| origin == own.as_bytes() || origin == b"null"),
        Some(_) => false,
        None => origin == Some(own.as_bytes()),
    }
}

/// Who reads the answer.
#[derive(Debug, Clone, Copy)]
enum Asker {
    /// A person.
    Person,
    /// The script, on a page that stays.
    Script,
}

impl Asker {
    fn of(headers: &HeaderMap) -> Self {
        let kind = headers.get("content-type").and_then(|kind| kind.to_str().ok());
        match kind.is_some_and(|kind| kind.starts_with("application/json")) {
            true => Self::Script,
            false => Self::Person,
        }
    }
}

fn dressed(mut answer: Response, control: &Control, asker: Asker) -> Response {
    let extensions = answer.extensions_mut();
    let mut dressed = match (extensions.remove::<Trouble>(), extensions.remove::<Page>(), asker) {
        (Some(trouble), _, Asker::Script) => trouble.tell_script(),
        (Some(trouble), _, Asker::Person) => trouble.dress(control.cluster()),
        (None, Some(page), _) => {
            let policy = policy(page.loopback());
            let mut dressed = page.dress(control.cluster());
            dressed.headers_mut().insert("content-security-policy", policy);
            dressed
        }
        (None, None, _) => return answer,
    };
    let (parts, _) = answer.into_parts();
    // Cookies that the handler gave along.
    for (name, value) in &parts.headers {
        if name == http::header::SET_COOKIE {
            dressed.headers_mut().append(name, value.clone());
        }
    }
    dressed
}

/// Where forms lead to is restricted through redirects too: to the waiting agent's port, where a page leads there.
fn policy(loopback: Option<u16>) -> HeaderValue {
    match loopback {
        None => HeaderValue::from_static(POLICY),
        Some(port) => HeaderValue::from_str(&format!("{POLICY} http://127.0.0.1:{port}"))
            .expect("a policy and a number are visible ASCII"),
    }
}

fn with_headers(mut answer: Response, control: &Control) -> Response {
    let is_asset = answer.extensions().get::<Asset>().is_some();
    let headers = answer.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if !headers.contains_key("content-security-policy") {
        headers.insert("content-security-policy", HeaderValue::from_static(POLICY));
    }
    if !is_asset {
        headers.insert("cache-control", HeaderValue::from_static("no-store"));
    }
    // On another port the host may serve other things without TLS.
    if control.settings.public_port == 443 {
        headers.insert("strict-transport-security", HeaderValue::from_static(HTTPS_ONLY));
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "https://proxy.example.com";

    fn said(headers: &[(&'static str, &'static str)]) -> bool {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        is_from_ourselves(&headers.collect(), OWN)
    }

    #[test]
    fn a_page_of_ours_may_send_forms() {
        assert!(said(&[("sec-fetch-site", "same-origin"), ("origin", OWN)]));
        assert!(said(&[("sec-fetch-site", "same-origin"), ("origin", "null")]));
        assert!(said(&[("origin", OWN)]), "a browser that knows no Sec-Fetch-Site");
    }

    #[test]
    fn nobody_else_may() {
        for headers in [
            &[] as &[(&'static str, &'static str)],
            &[("sec-fetch-site", "cross-site"), ("origin", OWN)],
            &[("sec-fetch-site", "same-site"), ("origin", OWN)],
            &[("sec-fetch-site", "none")],
            &[("sec-fetch-site", "same-origin"), ("origin", "https://proxy.example.com.evil")],
            &[("origin", "null")],
            &[("origin", "http://proxy.example.com")],
        ] {
            assert!(!said(headers), "{headers:?}");
        }
    }
}
