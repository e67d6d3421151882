//! The user's own keys, passkeys, apps and recovery codes.

use portlatch_tests::browser::authenticators::{Authenticator, Verified};
use portlatch_tests::browser::chromium::Chromium;
use portlatch_tests::browser::site::Site;
use serde_json::json;

use super::people::{enrol, scene, sign_in, sign_out};

/// What the list says, a line each: name and kind.
fn listed(browser: &Chromium) -> Vec<String> {
    let script =
        "return [...document.querySelectorAll('.key-head')].map((it) => it.innerText.replace(/\\s+/g, ' '))";
    let lines = browser.script(script, &json!([]));
    lines.as_array().unwrap().iter().map(|line| line.as_str().unwrap().to_owned()).collect()
}

fn add(browser: &Chromium, kind: &str, name: &str) {
    browser.click(&format!("#add-kind-{kind}"));
    browser.fill("#add-name", name);
    browser.press("main", "Add");
}

/// Opens what belongs to the entry with this number, and gives the CSS of its forms.
fn open_entry(browser: &Chromium, number: usize) -> String {
    let entry = format!(".keys > li:nth-child({number})");
    browser.press(&entry, "Rename or remove");
    entry
}

#[test]
fn keys_and_passkeys_are_added_named_and_removed_each_with_a_fresh_tap() {
    let Some((site, browser)) = scene() else { return };
    let first = enrol(&browser, &site.add_user("jerry", "here"), Authenticator::Key);
    assert_eq!(listed(&browser), ["My first key security key"]);

    // The last key stays.
    let entry = open_entry(&browser, 1);
    browser.press(&entry, "Remove");
    browser.wait_for_alert("last key");

    // A second one, while the first confirms and is then taken out: the same key cannot be enrolled twice.
    browser.go(&site.url("/keys"));
    add(&browser, "key", "Spare <b>key</b>");
    browser.wait_for_heading("Now your new security key");
    browser.picture("new-key");
    browser.press("main", "Enrol it");
    browser.wait_for_alert("enrolled already");
    browser.remove(&first);
    let spare = browser.add(Authenticator::Key);
    browser.press("main", "Enrol it");
    browser.wait_for_heading("Your keys");
    assert_eq!(listed(&browser), ["My first key security key", "Spare <b>key</b> security key"]);

    // A passkey must verify its user at its enrolment.
    add(&browser, "passkey", "Laptop");
    browser.wait_for_heading("Now your new passkey");
    browser.remove(&spare);
    let passkey = browser.add(Authenticator::Passkey);
    browser.set_verified(&passkey, Verified::No);
    browser.press("main", "Enrol it");
    browser.wait_for_alert("No key answered");
    browser.set_verified(&passkey, Verified::Yes);
    browser.press("main", "Enrol it");
    browser.wait_for_heading("Your keys");
    assert_eq!(listed(&browser)[2], "Laptop passkey");
    browser.picture("keys");

    let entry = open_entry(&browser, 2);
    browser.picture("keys-open");
    browser.fill(&format!("{entry} input[type=text]"), "In the safe");
    browser.press(&entry, "Rename");
    browser.wait_for_script(
        "return document.querySelector('.notice').innerText",
        &json!([]),
        "Your change is made.",
    );
    assert_eq!(listed(&browser)[1], "In the safe security key");

    // The key that opened the session takes it along.
    let entry = open_entry(&browser, 1);
    browser.press(&entry, "Remove");
    browser.wait_for_heading("Sign in");
    browser.press("main", "Sign in with a passkey");
    browser.wait_for_heading("Your keys");
    assert_eq!(listed(&browser), ["In the safe security key", "Laptop passkey"]);
    let added: Vec<_> = site.audit("device.add").iter().map(|it| it["detail"].clone()).collect();
    assert_eq!(added[1..], [json!("Spare <b>key</b>"), json!("Laptop")]);
    assert_eq!(site.audit("device.remove").len(), 1);
}

#[test]
fn an_authenticator_app_is_enrolled_by_its_qr_code_and_recovery_codes_are_shown_once() {
    let Some((site, browser)) = scene() else { return };
    enrol(&browser, &site.add_user("jerry", "here"), Authenticator::Key);
    add(&browser, "app", "Phone");
    browser.wait_for_heading("Now your authenticator app");
    browser.picture("new-app");
    browser.press("main", "I cannot scan it");
    let secret = browser.text(".secret").replace(' ', "");
    assert_eq!(secret.len(), 32, "160 bits in base32");

    browser.fill("#code", "000000");
    browser.press("main", "Enrol it");
    browser.wait_for_alert("not right");
    let code = current_code(&secret);
    browser.fill("#code", &code);
    browser.press("main", "Enrol it");
    browser.wait_for_heading("Your keys");
    assert_eq!(listed(&browser), ["My first key security key", "Phone authenticator app"]);

    browser.press("main", "Make new recovery codes");
    browser.wait_for_heading("Your recovery codes");
    let codes = browser.text(".codes");
    assert_eq!(codes.lines().count(), 10, "{codes}");
    browser.picture("recovery-codes");
    browser.press("main", "I have kept them");
    browser.wait_for_heading("Your keys");
    assert!(browser.body().contains("You have 10 that were not used"), "{}", browser.body());
    assert!(!site.log().contains(&secret), "no secret in a log");
    refuses_strangers(&site, &browser);
}

/// Nobody else's challenge, and none that is over, shows anything.
fn refuses_strangers(site: &Site, browser: &Chromium) {
    add(browser, "app", "Another");
    browser.wait_for_heading("Now your authenticator app");
    let url = browser.url();
    sign_out(browser);
    sign_in(browser, "jerry");
    browser.wait_for_heading("Your keys");
    browser.go(&url);
    browser.wait_for_heading("Nothing here");
    browser.go(&site.url("/keys/new/ffffffffffffffffffffffffffffffff"));
    browser.wait_for_heading("Nothing here");
}

fn current_code(secret: &str) -> String {
    portlatch_tests::browser::totp::code(secret, std::time::SystemTime::now())
}
