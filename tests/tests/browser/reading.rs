//! The pages for people who use no mouse, or hear them: every page is walked by keyboard, and looked at as a screen reader
//! does.

use portlatch_tests::browser::authenticators::Authenticator;
use portlatch_tests::browser::chromium::Chromium;
use portlatch_tests::browser::looks::Look;
use portlatch_tests::browser::site::Site;
use serde_json::json;

use super::people::{PASSWORD, enrol, log_in, scene, sign_out};

/// Tab, as WebDriver names it.
const TAB: &str = "\u{e004}";
const ENTER: &str = "\u{e007}";
const SPACE: &str = " ";

/// What is wrong with the page for somebody who does not see it, or not well: a line each.
const FAULTS: &str = r#"
const faults = [];
const say = (what, it) => faults.push(`${what}: ${it.outerHTML.slice(0, 120)}`);
const seen = (it) => it.getClientRects().length && getComputedStyle(it).visibility !== "hidden";
if (document.documentElement.lang !== "en") faults.push("no language");
if (!/ · Portlatch$/.test(document.title)) faults.push(`title: ${document.title}`);
if (document.querySelectorAll("h1").length !== 1) faults.push("not one h1");
if (document.querySelectorAll("main").length !== 1) faults.push("not one main");
let level = 0;
for (const heading of document.querySelectorAll("h1, h2, h3, h4")) {
  const own = Number(heading.tagName[1]);
  if (own > level + 1) say("a heading skips a level", heading);
  level = own;
}
const ids = [...document.querySelectorAll("[id]")].map((it) => it.id);
for (const id of new Set(ids)) if (ids.filter((it) => it === id).length > 1) faults.push(`id twice: ${id}`);
for (const field of document.querySelectorAll("input:not([type=hidden])")) {
  if (!field.labels.length || !field.labels[0].textContent.trim()) say("a field without a label", field);
  for (const id of (field.getAttribute("aria-describedby") || "").split(" ").filter(Boolean))
    if (!document.getElementById(id)) say("describedby leads nowhere", field);
}
for (const it of document.querySelectorAll("button, a, summary"))
  if (seen(it) && !(it.getAttribute("aria-label") || it.textContent).trim()) say("nothing to call it by", it);
for (const form of document.querySelectorAll("form[data-ceremony]"))
  for (const live of ["[role=status][aria-live=polite]", "[role=alert]"])
    if (!form.querySelector(live)) say(`no ${live}`, form);
for (const group of document.querySelectorAll("fieldset")) if (!group.querySelector("legend")) say("no legend", group);
for (const image of document.querySelectorAll("img")) if (!image.hasAttribute("alt")) say("no alt", image);
for (const it of document.querySelectorAll("[tabindex]")) if (it.tabIndex > 0) say("tabindex above 0", it);
for (const it of document.querySelectorAll("button, summary, .button, input[type=text], input[type=password]"))
  if (seen(it) && it.getBoundingClientRect().height < 24) say("too small to hit", it);
const rgb = (text) => { const m = text.match(/[\d.]+/g).map(Number); return m.length < 4 ? [...m, 1] : m; };
const over = (top, under) => [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);
const ground = (it) => {
  const layers = [];
  for (let e = it; e; e = e.parentElement) layers.unshift(rgb(getComputedStyle(e).backgroundColor));
  return layers.reduce((under, top) => over(top, under), [255, 255, 255, 1]);
};
const light = (c) => {
  const [r, g, b] = c.slice(0, 3).map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (texts.nextNode()) {
  const it = texts.currentNode.parentElement;
  if (!texts.currentNode.textContent.trim() || !seen(it) || it.closest("noscript, .skip, [aria-disabled=true]")) continue;
  const back = ground(it);
  const [a, b] = [light(over(rgb(getComputedStyle(it).color), back)), light(back)];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < 4.5) say(`contrast ${ratio.toFixed(2)}`, it);
}
return faults;
"#;

/// What a screen reader has nothing to say of: its roles and names, as the browser hands them to it.
fn silent(browser: &Chromium) -> Vec<String> {
    let tree = browser.devtools("Accessibility.getFullAXTree", &json!({}));
    let nodes: Vec<(String, String)> = tree["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|node| node["ignored"] == false)
        .map(|node| {
            ["role", "name"].map(|it| node[it]["value"].as_str().unwrap_or_default().trim().to_owned())
        })
        .map(|[role, name]| (role, name))
        .collect();
    let named = ["RootWebArea", "button", "link", "textbox", "radio", "image", "heading", "region"];
    let nameless = nodes.iter().filter(|(role, name)| named.contains(&role.as_str()) && name.is_empty());
    let mut faults: Vec<String> = nameless.map(|(role, _)| format!("a {role} without a name")).collect();
    let count = |wanted: &str| nodes.iter().filter(|(role, _)| role == wanted).count();
    for landmark in ["main", "banner", "RootWebArea"] {
        if count(landmark) != 1 {
            faults.push(format!("{} of {landmark}", count(landmark)));
        }
    }
    faults
}

fn assert_readable(browser: &Chromium, page: &str) {
    assert_eq!(silent(browser), Vec::<String>::new(), "{page}");
    for look in [Look::Light, Look::Dark] {
        browser.look(look, 900);
        let faults = browser.script(FAULTS, &json!([]));
        assert_eq!(faults, json!([]), "{page} in {look:?}");
    }
    browser.look(Look::Light, 900);
}

/// What has the focus: its text or its label.
fn focused(browser: &Chromium) -> String {
    let script = "const it = document.activeElement; if (it === document.body) return ''; \
         const style = getComputedStyle(it); \
         if (it.matches(':focus-visible') && (style.outlineStyle === 'none' || style.outlineWidth === '0px')) return 'no outline'; \
         return (it.labels && it.labels[0] ? it.labels[0].textContent : it.getAttribute('aria-label') || it.textContent).trim()";
    browser.script(script, &json!([])).as_str().unwrap_or_default().to_owned()
}

/// Tabs to what is called so.
fn tab_to(browser: &Chromium, name: &str) {
    let mut passed = Vec::new();
    for _ in 0..60 {
        browser.type_keys(TAB);
        let now = focused(browser);
        assert_ne!(now, "no outline", "after {passed:?}");
        if now == name {
            return;
        }
        passed.push(now);
    }
    panic!("{name:?} cannot be reached by Tab; passed {passed:?}");
}

#[test]
fn the_pages_are_walked_by_keyboard_alone() {
    let Some((site, browser)) = scene() else { return };
    let invitation = site.add_user("jerry", "anywhere");
    let _key = browser.add(Authenticator::Key);
    browser.go(&invitation.link);
    browser.wait_for_heading("Welcome to Portlatch");
    // The first stop leads past the banner.
    browser.type_keys(TAB);
    assert_eq!(focused(&browser), "Skip to content");
    browser.type_keys(ENTER);
    tab_to(&browser, "New password");
    browser.type_keys(PASSWORD);
    tab_to(&browser, "New password, once more");
    browser.type_keys(PASSWORD);
    tab_to(&browser, "A security key");
    browser.type_keys(SPACE);
    tab_to(&browser, "Enrol");
    browser.type_keys(ENTER);
    browser.wait_for_heading("Your keys");

    tab_to(&browser, "Sign out");
    browser.type_keys(ENTER);
    browser.wait_for_heading("Sign in");
    tab_to(&browser, "My passkey is not offered");
    browser.type_keys(ENTER);
    tab_to(&browser, "User name");
    tab_to(&browser, "Find my passkey");
    tab_to(&browser, "User name");
    browser.type_keys("jerry");
    tab_to(&browser, "Password");
    // Enter in a field sends its form, and where it fails the focus comes back to the button.
    browser.type_keys("wrong password\u{e007}");
    browser.wait_for_alert("is wrong");
    assert_eq!(focused(&browser), "Sign in with your key");
    browser.fill("#password", "");
    browser.type_keys(&format!("{PASSWORD}{ENTER}"));
    browser.wait_for_heading("Your keys");

    let agent = log_in(&site, &browser, "jerry");
    let page = agent.wants("db/billing-db", 5432);
    browser.go(&page.url);
    browser.wait_for_heading("Open billing-db?");
    tab_to(&browser, "The program runs on another machine");
    browser.type_keys(ENTER);
    tab_to(&browser, "Code");
    browser.type_keys(page.code.as_deref().unwrap());
    tab_to(&browser, "Approve with your key");
    browser.type_keys(ENTER);
    browser.wait_for_heading("Approved");
    let page = agent.wants("db/billing-db", 5432);
    browser.go(&page.url);
    tab_to(&browser, "Deny");
    browser.type_keys(ENTER);
    browser.wait_for_heading("Denied");
}

#[test]
fn every_page_can_be_read_aloud_and_in_weak_light() {
    let Some((site, browser)) = scene() else { return };
    browser.go(&site.url("/"));
    assert_readable(&browser, "home");
    browser.go(&site.url("/enrol"));
    assert_readable(&browser, "enrol");
    enrol(&browser, &site.add_user("jerry", "anywhere"), Authenticator::Key);
    assert_readable(&browser, "keys, the first time");
    read_keys(&site, &browser);
    sign_out(&browser);
    assert_readable(&browser, "sign-in");
    browser.press("main", "My passkey is not offered");
    browser.press("main", "Sign in with your key");
    assert_readable(&browser, "sign-in, open");
    browser.go(&site.url("/nowhere"));
    assert_readable(&browser, "nothing here");

    let agent = log_in(&site, &browser, "jerry");
    let page = agent.wants("db/billing-db", 5432);
    browser.go(&format!("{}?runs=elsewhere", page.url));
    assert_readable(&browser, "approve");
    browser.press("main", "Deny");
    browser.wait_for_heading("Denied");
    assert_readable(&browser, "denied");
}

fn read_keys(site: &Site, browser: &Chromium) {
    browser.go(&site.url("/keys"));
    browser.press("main", "Rename or remove");
    browser.press(".keys", "Remove");
    browser.wait_for_alert("last key");
    assert_readable(browser, "keys, with an error");
    browser.go(&site.url("/keys"));
    browser.click("#add-kind-app");
    browser.fill("#add-name", "Phone");
    browser.press("main", "Add");
    browser.wait_for_heading("Now your authenticator app");
    browser.press("main", "I cannot scan it");
    assert_readable(browser, "new app");
    browser.go(&site.url("/keys"));
}
