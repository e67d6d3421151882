//! The one-time link, and signing in with what it enrolled.

use std::time::Duration;

use portlatch_tests::browser::authenticators::{Authenticator, Verified};
use serde_json::json;

use super::people::{PASSWORD, enrol, scene, sign_in, sign_out};

#[test]
fn a_new_user_enrols_a_security_key_by_the_link_and_signs_in_with_password_and_key() {
    let Some((site, browser)) = scene() else { return };
    let invitation = site.add_user("jerry", "here");
    browser.go(&site.url("/"));
    browser.picture("home");

    // The token stands in its field, and not in the history any more.
    browser.go(&invitation.link);
    browser.wait_for_heading("Welcome to Portlatch");
    assert_eq!(browser.url(), site.url("/enrol"));
    let typed = browser.script("return document.querySelector('#token').value", &json!([]));
    assert_eq!(typed, invitation.token.as_str());
    browser.picture("enrol");

    // What was typed wrongly is said on the spot, and nothing is used up.
    browser.fill("#password", PASSWORD);
    browser.fill("#again", "something else");
    browser.press("main", "Enrol");
    browser.wait_for_alert("two passwords differ");
    browser.picture("enrol-wrong");

    enrol(&browser, &invitation, Authenticator::Key);
    assert!(browser.text(".notice").contains("Add a second key"), "{}", browser.body());
    browser.picture("keys-first");

    sign_out(&browser);
    browser.picture("sign-in");
    browser.fill("#user", "jerry");
    browser.fill("#password", "not the password");
    browser.press("main", "Sign in with your key");
    browser.wait_for_alert("is wrong");
    browser.picture("sign-in-wrong");
    sign_in(&browser, "jerry");
    browser.wait_for_heading("Your keys");

    // The link works once.
    browser.go(&invitation.link);
    browser.fill("#password", PASSWORD);
    browser.fill("#again", PASSWORD);
    browser.press("main", "Enrol");
    browser.wait_for_alert("was used already");
    browser.picture("enrol-used");
    site.audited("login", "token");
}

#[test]
fn a_link_that_is_pasted_over_the_open_page_fills_its_fields() {
    let Some((site, browser)) = scene() else { return };
    let values = "return ['user', 'token'].map((id) => document.querySelector('#' + id).value).join(' ')";
    browser.go(&site.url("/enrol"));
    browser.wait_for_script(values, &json!([]), " ");
    // The browser stays on its page: only what is behind "#" is new.
    let first = site.add_user("jerry", "here");
    let paste = "location.href = arguments[0]";
    browser.script(paste, &json!([first.link]));
    browser.wait_for_script(values, &json!([]), &format!("jerry {}", first.token));
    let second = site.add_user("elaine", "here");
    browser.script(paste, &json!([second.link]));
    browser.wait_for_script(values, &json!([]), &format!("elaine {}", second.token));
    // Neither stays in the address bar, and what is no link of ours breaks nothing.
    browser.script(paste, &json!([site.url("/enrol#%E0%A4%A/x")]));
    browser.wait_for_script("return location.href", &json!([]), &site.url("/enrol"));
    browser.wait_for_script(values, &json!([]), &format!("elaine {}", second.token));
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn a_link_ends_after_a_day_and_a_page_without_scripts_says_what_it_needs() {
    let Some((mut site, browser)) = scene() else { return };
    let invitation = site.add_user("jerry", "here");
    let _key = browser.add(Authenticator::Key);
    site.restart_after(Duration::from_secs(24 * 3600 + 1));
    // The proxy's certificate is of tomorrow.
    browser.devtools("Security.setIgnoreCertificateErrors", &json!({"ignore": true}));
    browser.go(&invitation.link);
    browser.wait_for_heading("Welcome to Portlatch");
    browser.fill("#password", PASSWORD);
    browser.fill("#again", PASSWORD);
    browser.press("main", "Enrol");
    browser.wait_for_alert("older than a day");
    site.audited("login", "token");

    browser.devtools("Emulation.setScriptExecutionDisabled", &json!({"value": true}));
    browser.go(&site.url("/enrol"));
    assert!(browser.text("noscript").contains("need JavaScript"));
    browser.devtools("Emulation.setScriptExecutionDisabled", &json!({"value": false}));
}

#[test]
fn a_passkey_signs_in_alone_but_only_if_it_verified_its_user() {
    let Some((site, browser)) = scene() else { return };
    let invitation = site.add_user("elaine", "here");
    let passkey = enrol(&browser, &invitation, Authenticator::Passkey);
    let kept = browser.credentials(&passkey);
    assert_eq!((kept.len(), kept[0]["isResidentCredential"].as_bool()), (1, Some(true)), "{kept:?}");

    // Whichever the browser finds.
    sign_out(&browser);
    browser.press("main", "Sign in with a passkey");
    browser.wait_for_heading("Your keys");
    assert!(browser.text("header").contains("Signed in as elaine"));
    assert_eq!(site.audit("login").last().unwrap()["amr"], json!(["hwk", "user", "pin"]));

    // By name.
    sign_out(&browser);
    browser.press("main", "My passkey is not offered");
    browser.fill("#named-user", "elaine");
    browser.press("main", "Find my passkey");
    browser.wait_for_heading("Your keys");

    // A finger that does not fit, and somebody else's name: nothing is opened, and nobody learns who exists.
    sign_out(&browser);
    browser.set_verified(&passkey, Verified::No);
    browser.press("main", "Sign in with a passkey");
    browser.wait_for_alert("No key answered");
    browser.set_verified(&passkey, Verified::Yes);
    browser.press("main", "My passkey is not offered");
    browser.fill("#named-user", "nobody");
    browser.press("main", "Find my passkey");
    browser.wait_for_alert("No key answered");
    assert_eq!(browser.heading(), "Sign in");

    // A locked user's session dies at once, and no other one is opened.
    browser.go(&site.url("/login"));
    browser.press("main", "Sign in with a passkey");
    browser.wait_for_heading("Your keys");
    site.admin(&["lock", "--user", "elaine"]);
    browser.go(&site.url("/keys"));
    browser.wait_for_heading("Sign in");
    browser.press("main", "Sign in with a passkey");
    browser.wait_for_heading("That did not work");
    assert!(browser.body().contains("locked"), "{}", browser.body());
    browser.picture("refused");
}

#[test]
fn a_reset_ends_sessions_and_keys() {
    let Some((site, browser)) = scene() else { return };
    let invitation = site.add_user("george", "here");
    let key = enrol(&browser, &invitation, Authenticator::Key);
    let again = site.reset_user("george");
    browser.go(&site.url("/keys"));
    browser.wait_for_heading("Sign in");
    sign_in(&browser, "george");
    browser.wait_for_alert("is wrong");
    browser.remove(&key);
    enrol(&browser, &again, Authenticator::Key);
}
