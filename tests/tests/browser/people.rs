//! A cluster, a browser, and somebody in front of it.

use portlatch_tests::browser::agent::{Agent, PendingLogin};
use portlatch_tests::browser::authenticators::{Authenticator, AuthenticatorId};
use portlatch_tests::browser::chromium::{self, Chromium};
use portlatch_tests::browser::site::{Invitation, Site};

pub(super) const PASSWORD: &str = "correct horse";

/// A cluster and a browser, or nothing where there is no Chromium.
pub(super) fn scene() -> Option<(Site, Chromium)> {
    if !chromium::is_installed() {
        return None;
    }
    let site = Site::start();
    let browser = Chromium::start(&site.home());
    Some((site, browser))
}

/// Enrols somebody by the link, with a key that is plugged in for it, and leaves them signed in.
pub(super) fn enrol(
    browser: &Chromium,
    invitation: &Invitation,
    authenticator: Authenticator,
) -> AuthenticatorId {
    let key = browser.add(authenticator);
    enrol_plugged(browser, invitation, authenticator);
    key
}

/// The same with what is plugged in already. Of two keys that blink, whichever is tapped first answers.
pub(super) fn enrol_plugged(browser: &Chromium, invitation: &Invitation, authenticator: Authenticator) {
    browser.go(&invitation.link);
    browser.fill("#password", PASSWORD);
    browser.fill("#again", PASSWORD);
    if authenticator == Authenticator::Passkey {
        browser.click("#enrol-kind-passkey");
    }
    browser.press("main", "Enrol");
    browser.wait_for_heading("Your keys");
}

/// Signs out, and waits for the sign-in page.
pub(super) fn sign_out(browser: &Chromium) {
    browser.press("header", "Sign out");
    browser.wait_for_heading("Sign in");
}

/// Signs in with password and key, on the page that the browser shows.
pub(super) fn sign_in(browser: &Chromium, user: &str) {
    browser.fill("#user", user);
    browser.fill("#password", PASSWORD);
    browser.press("main", "Sign in with your key");
}

/// An agent whose user signed in for it at the page, in this browser.
pub(super) fn log_in(site: &Site, browser: &Chromium, user: &str) -> Agent {
    let pending = PendingLogin::begin(site, Some(user));
    browser.go(&pending.page.url);
    browser.wait_for_heading("Sign in on your device");
    sign_in(browser, user);
    let code = pending.page.redirected();
    let (status, granted) = pending.redeem(Some(&code));
    assert_eq!(status, 200, "{granted}");
    pending.granted(site, granted)
}
