//! The two cookies: `session` of somebody who is signed in, and `visit` of somebody who is not, to which the forms of the
//! sign-in belong. Both have names that only this very host can have set (RFC 6265bis, `__Host-`).

use http::header::{COOKIE, HeaderMap, HeaderValue};

use crate::browser::secrets::CookieSecret;

/// A cookie of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cookie {
    /// Signed in. It is not sent when another site leads here: what comes from outside is nobody's act.
    Session,
    /// Not signed in. It is sent with a link from outside, so that such a link does not replace it.
    Visit,
}

impl Cookie {
    const fn name(self) -> &'static str {
        match self {
            Self::Session => "__Host-portlatch-session",
            Self::Visit => "__Host-portlatch-visit",
        }
    }

    const fn same_site(self) -> &'static str {
        match self {
            Self::Session => "Strict",
            Self::Visit => "Lax",
        }
    }

    /// What the browser sent; nothing where it sent two of them, which none of ours are.
    pub(super) fn read(self, headers: &HeaderMap) -> Option<CookieSecret> {
        let sent = headers.get_all(COOKIE).into_iter().filter_map(|value| value.to_str().ok());
        let pairs = sent.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
        let mut ours = pairs.filter(|(name, _)| *name == self.name()).map(|(_, value)| value);
        match (ours.next(), ours.next()) {
            (Some(value), None) => CookieSecret::parse(value),
            (Some(_), Some(_)) | (None, _) => None,
        }
    }

    /// The header that has the browser keep it until it is closed.
    pub(super) fn keep(self, secret: &CookieSecret) -> HeaderValue {
        self.header(&secret.text(), "")
    }

    /// The header that has the browser forget it.
    pub(super) fn forget(self) -> HeaderValue {
        self.header("", "; Max-Age=0")
    }

    fn header(self, value: &str, life: &str) -> HeaderValue {
        let (name, same_site) = (self.name(), self.same_site());
        let text = format!("{name}={value}; Path=/; Secure; HttpOnly; SameSite={same_site}{life}");
        let mut header = HeaderValue::from_str(&text).expect("base64 and our own words are visible ASCII");
        header.set_sensitive(true);
        header
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(text: &str) -> HeaderMap {
        HeaderMap::from_iter([(COOKIE, HeaderValue::from_str(text).unwrap())])
    }

    #[test]
    fn a_cookie_is_found_among_others() {
        let secret = CookieSecret::random();
        let text = secret.text();
        let headers = sent(&format!("a=b; __Host-portlatch-session={}; c", *text));
        assert_eq!(Cookie::Session.read(&headers).unwrap().hash(), secret.hash());
        assert!(Cookie::Visit.read(&headers).is_none());
    }

    #[test]
    fn two_cookies_of_one_name_are_none() {
        let text = CookieSecret::random().text();
        let twice = format!("__Host-portlatch-visit={0}; __Host-portlatch-visit={0}", *text);
        assert!(Cookie::Visit.read(&sent(&twice)).is_none());
    }

    #[test]
    fn no_script_and_no_other_host_gets_one() {
        let header = Cookie::Session.keep(&CookieSecret::random());
        let text = header.to_str().unwrap();
        assert!(text.ends_with("; Path=/; Secure; HttpOnly; SameSite=Strict"), "{text}");
        assert!(!text.contains("Domain"));
    }
}
