//! What keeps the pages in their place: form tokens, origins, frames, and the policy of content.

use std::time::Duration;

use portlatch_tests::browser::authenticators::Authenticator;
use portlatch_tests::browser::chromium::Chromium;
use portlatch_tests::lab::wait_for;
use serde_json::{Value, json};

use super::people::{enrol, log_in, scene, sign_in, sign_out};

/// The status of a form that the page sends by script.
fn post(browser: &Chromium, path: &str, fields: &Value) -> u64 {
    let script = "const reply = await fetch(arguments[0], {method: 'POST', redirect: 'manual', \
         body: new URLSearchParams(arguments[1])}); return reply.status";
    browser.script(script, &json!([path, fields])).as_u64().unwrap()
}

#[test]
fn forms_without_their_token_and_from_other_origins_are_refused() {
    let Some((site, browser)) = scene() else { return };
    enrol(&browser, &site.add_user("jerry", "here"), Authenticator::Key);
    let agent = log_in(&site, &browser, "jerry");
    let page = agent.wants("db/billing-db", 5432);
    browser.go(&page.url);
    browser.wait_for_heading("Open billing-db?");
    let deny = format!("{}/deny", page.url.trim_start_matches(&site.url("")));

    // F: CSRF token missing, wrong, and of another cookie.
    let foreign = || site.audit("access.denied").iter().filter(|it| it["reason"] == "csrf").count();
    for (fields, records) in [json!({}), json!({"csrf": ""}), json!({"csrf": "A".repeat(43)})].iter().zip(1..)
    {
        assert_eq!(post(&browser, &deny, fields), 403, "{fields}");
        assert_eq!(foreign(), records, "{fields}");
    }
    assert_eq!(post(&browser, "/logout", &json!({})), 403);
    assert_eq!(post(&browser, "/keys/begin", &json!({"change": "codes"})), 403);
    let token = browser.script("return document.querySelector('[name=csrf]').value", &json!([]));
    sign_out(&browser);
    sign_in(&browser, "jerry");
    browser.wait_for_heading("Your keys");
    assert_eq!(post(&browser, &deny, &json!({"csrf": token})), 403, "of the session before");
    assert_eq!(post(&browser, "/login/begin", &json!({"csrf": token, "way": "passkey"})), 403);

    // Another site's form comes without the session, and is refused by where it comes from.
    let form = format!(
        "data:text/html,<form method=post action='{}'><input name=csrf value=x><button>go</button></form>",
        site.url(&deny)
    );
    browser.go(&form);
    browser.press("body", "go");
    browser.wait_for_heading("That did not work");
    assert!(browser.body().contains("does not belong"), "{}", browser.body());

    // A link of another site leads to a page of ours first, which then shows the cookie.
    browser.go(&format!("data:text/html,<a href='{}'>go</a>", page.url));
    browser.press("body", "go");
    browser.wait_for_heading("Continue");
    browser.picture("from-outside");
    browser.press("main", "Continue to Portlatch");
    browser.wait_for_heading("Open billing-db?");
    assert_eq!(agent.cancel(&page), 204, "it still waits after all that");
    assert!((5..10).contains(&foreign()), "a few of them are on the record, and no flood of them");
}

#[test]
fn nobody_frames_the_pages_and_they_load_nothing_of_anybody_else() {
    let Some((site, browser)) = scene() else { return };
    // F: framing refused.
    let frame = format!("data:text/html,<iframe src='{}'></iframe>", site.url("/login"));
    browser.go(&frame);
    browser.enter_frame();
    browser.wait_for_script("return location.href", &json!([]), "chrome-error://chromewebdata/");

    browser.go(&site.url("/login"));
    let headers = browser
        .script("const reply = await fetch('/login'); return Object.fromEntries(reply.headers)", &json!([]));
    for (name, wanted) in [
        ("x-frame-options", "DENY"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cache-control", "no-store"),
    ] {
        assert_eq!(headers[name], wanted, "{name}");
    }
    let policy = headers["content-security-policy"].as_str().unwrap();
    for part in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"] {
        assert!(policy.contains(part), "{part}: {policy}");
    }
    // What the policy forbids does not happen, even if somebody got a script or a style into a page.
    let mut reported = Vec::new();
    let script = "const image = new Image(); image.src = 'https://example.com/x.png'; \
         const inline = document.createElement('script'); inline.textContent = 'window.injected = true'; \
         document.head.append(inline); \
         const fetched = await fetch('https://example.com/').then(() => 'fetched', () => 'refused'); \
         return [fetched, window.injected === true]";
    assert_eq!(browser.script(script, &json!([])), json!(["refused", false]));
    for directive in ["img-src", "script-src", "connect-src"] {
        wait_for(directive, Duration::from_secs(30), || {
            reported.extend(browser.complaints());
            reported.iter().any(|complaint| complaint.contains(directive)).then_some(())
        });
    }
    // Nothing happens on load: no challenge was made by looking.
    assert!(site.audit("mfa.challenge").is_empty());
}
