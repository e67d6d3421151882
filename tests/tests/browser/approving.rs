//! What an agent waits for, approved and denied at its page.

use std::net::Ipv4Addr;
use std::time::Instant;

use portlatch_protocol::api::browser::APPROVAL_WAIT;
use portlatch_tests::browser::agent::Agent;
use portlatch_tests::browser::authenticators::{Authenticator, Tapped};
use portlatch_tests::browser::chromium::Chromium;
use portlatch_tests::browser::site::Site;

use super::people::{PASSWORD, enrol, enrol_plugged, log_in, scene, sign_in, sign_out};

const APPROVE: &str = "Approve with your key";
const QUESTION: &str = "Open billing-db?";

/// Jerry, who may approve from anywhere, with an agent and signed in.
fn jerry() -> Option<(Site, Chromium, Agent)> {
    let (site, browser) = scene()?;
    enrol(&browser, &site.add_user("jerry", "anywhere"), Authenticator::Key);
    let agent = log_in(&site, &browser, "jerry");
    Some((site, browser, agent))
}

#[test]
fn an_approval_on_the_same_machine_returns_to_the_agent_and_brings_a_grant_once() {
    let Some((site, browser, agent)) = jerry() else { return };
    let page = agent.wants("db/billing-db", 5432);
    // Whoever is signed in finds it there as well.
    browser.go(&site.url("/"));
    browser.wait_for_heading("Your keys");
    browser.press("main", QUESTION);
    browser.wait_for_heading(QUESTION);
    let said = browser.body();
    for fact in
        ["db/billing-db", "billing-db.corp.internal:5432", "psql, process 4242", "laptop, at 127.0.0.1"]
    {
        assert!(said.contains(fact), "{fact}: {said}");
    }
    browser.picture("approve");
    let first = browser.tab();
    browser.open_tab();
    browser.go(&page.url);
    browser.wait_for_heading(QUESTION);
    let second = browser.tab();
    browser.switch_to(&first);
    // The agent's own origin does not help here, nor the browser's there: neither has anything to show yet.
    assert_eq!(agent.redeem(&page, None).0, 410);
    browser.press("main", APPROVE);
    let code = page.redirected();
    browser.wait_for_heading("Done");
    assert_eq!(agent.redeem(&page, Some("guess")).0, 410, "a wrong code is refused");
    let (status, outcome) = agent.redeem(&page, Some(&code));
    assert_eq!((status, outcome["type"].as_str()), (200, Some("granted")), "{outcome}");
    assert_eq!(agent.redeem(&page, Some(&code)).0, 410, "the code works once");

    // F: double approve, in the tab that shows the question still, and anew.
    browser.switch_to(&second);
    browser.press("main", APPROVE);
    browser.wait_for_alert("it is over");
    browser.go(&page.url);
    browser.wait_for_heading("Nothing here");
    assert_eq!(site.audit("grant").len(), 1);
}

#[test]
fn a_denial_reaches_the_waiting_agent_at_once() {
    let Some((site, browser, agent)) = jerry() else { return };
    let page = agent.wants("db/billing-db", 5432);
    browser.go(&page.url);
    browser.wait_for_heading(QUESTION);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let decision = agent.decision(&page);
            (decision, Instant::now())
        });
        // F: deny fails the waiting connection at once.
        browser.press("main", "Deny");
        browser.wait_for_heading("Denied");
        let denied = Instant::now();
        let ((status, decision), heard) = waiting.join().unwrap();
        assert_eq!((status, decision["decision"].as_str()), (200, Some("denied")), "{decision}");
        // Not when the question's own time is over.
        assert!(heard.saturating_duration_since(denied) < APPROVAL_WAIT / 2);
    });
    browser.picture("denied");
    site.audited("mfa.fail", "denied_at_page");
    assert_eq!(agent.redeem(&page, None).0, 410);
    // Whoever asks late hears it too.
    assert_eq!(agent.decision(&page).1["decision"], "denied");

    // F: approve after the agent cancelled.
    let page = agent.wants("db/billing-db", 5432);
    browser.go(&page.url);
    browser.wait_for_heading(QUESTION);
    assert_eq!(agent.cancel(&page), 204);
    browser.press("main", APPROVE);
    browser.wait_for_alert("it is over");
    site.audited("mfa.fail", "cancelled");
    assert_eq!(agent.decision(&page).0, 410);
    assert!(site.audit("grant").is_empty());
}

#[test]
fn another_machine_types_the_code_and_three_wrong_ones_end_the_request() {
    let Some((site, browser, agent)) = jerry() else { return };
    let page = agent.wants("db/billing-db", 5432);
    let code = page.code.clone().expect("the role lets other machines approve");
    browser.go(&page.url);
    browser.press("main", "The program runs on another machine");
    browser.wait_for_heading(QUESTION);
    browser.picture("approve-elsewhere");
    browser.fill("#approve-code", "0000");
    browser.press("main", APPROVE);
    browser.wait_for_alert("two tries are left");
    browser.fill("#approve-code", &code.to_lowercase());
    browser.press("main", APPROVE);
    browser.wait_for_heading("Approved");
    browser.picture("approved-elsewhere");
    let (status, decision) = agent.decision(&page);
    assert_eq!((status, decision["decision"].as_str()), (200, Some("approved")), "{decision}");
    let (status, outcome) = agent.redeem(&page, None);
    assert_eq!((status, outcome["type"].as_str()), (200, Some("granted")), "{outcome}");

    // F: wrong code three times, and the request is dead.
    let page = agent.wants("db/billing-db", 5432);
    browser.go(&format!("{}?runs=elsewhere", page.url));
    for said in ["two tries are left", "one try is left", "it is over"] {
        browser.wait_for_heading(QUESTION);
        browser.fill("#approve-code", "0000");
        browser.press("main", APPROVE);
        browser.wait_for_alert(said);
    }
    assert_eq!(agent.decision(&page).1["decision"], "denied");
    browser.go(&page.url);
    browser.wait_for_heading("Nothing here");
    assert_eq!(agent.redeem(&page, None).0, 410);
    site.audited("mfa.fail", "wrong_page_code");

    // Where the roles do not say so there is no code, and a page that claims one is refused.
    site.apply("kind: role\nversion: v7\nmetadata: {name: anywhere}\nspec: {options: {require_session_mfa: true}, allow: {db_labels: {env: prod}}}\n");
    let page = agent.wants("db/billing-db", 5432);
    assert_eq!(page.code, None);
    browser.go(&format!("{}?runs=elsewhere", page.url));
    browser.wait_for_heading(QUESTION);
    assert!(
        !browser.has("#approve-code") && !browser.body().contains("another machine"),
        "{}",
        browser.body()
    );
}

#[test]
fn a_request_is_shown_to_its_own_user_alone() {
    let Some((site, browser, agent)) = jerry() else { return };
    let page = agent.wants("db/billing-db", 5432);

    // Not signed in: sign in first, then the page. F: request id enumeration: any name leads to the sign-in.
    browser.forget_cookies();
    browser.go(&site.url("/mfa/00000000000000000000000000000000"));
    browser.wait_for_heading("Sign in");
    browser.go(&format!("{}?runs=elsewhere", page.url));
    browser.wait_for_heading("Sign in");
    sign_in(&browser, "jerry");
    browser.wait_for_heading(QUESTION);
    assert!(browser.has("#approve-code"), "what the link says is not lost on the way");
    sign_out(&browser);

    // F: foreign session and unknown request look the same.
    enrol_plugged(&browser, &site.add_user("newman", "anywhere"), Authenticator::Key);
    let mut answers = Vec::new();
    for url in
        [page.url.as_str(), &site.url("/mfa/00000000000000000000000000000000"), &site.url("/mfa/x%20y")]
    {
        let script = "const reply = await fetch(arguments[0]); \
             return [reply.status, await reply.text(), [...reply.headers].filter(([it]) => it !== 'date')]";
        answers.push(browser.script(script, &serde_json::json!([url])));
    }
    assert_eq!(answers[0][0], 404);
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:#?}");
    for action in ["begin", "approve", "deny"] {
        let script = "const token = document.querySelector('input[name=csrf]').value; \
             const body = JSON.stringify({csrf: token, place: 'here', challenge: '0a', credential: '{}'}); \
             const reply = await fetch(arguments[0], {method: 'POST', body, headers: {'content-type': 'application/json'}}); \
             return reply.status";
        browser.go(&site.url("/keys"));
        let status = browser.script(script, &serde_json::json!([format!("{}/{action}", page.url)]));
        assert_eq!(status, 404, "{action}");
    }
    // It stands still for whom it is for.
    assert_eq!(agent.redeem(&page, None).0, 410);
    sign_out(&browser);
    browser.go(&page.url);
    browser.fill("#user", "jerry");
    browser.fill("#password", PASSWORD);
    browser.press("main", "Sign in with your key");
    browser.wait_for_heading(QUESTION);
}

#[test]
fn a_page_waits_for_the_tap_can_be_cancelled_and_says_when_its_time_is_over() {
    let Some((site, browser)) = scene() else { return };
    let key = enrol(&browser, &site.add_user("jerry", "here"), Authenticator::Key);
    let agent = log_in(&site, &browser, "jerry");
    browser.set_tapped(&key, Tapped::Never);
    let page = agent.wants("db/billing-db", 5432);
    browser.go(&page.url);
    browser.wait_for_heading(QUESTION);
    browser.press("main", APPROVE);
    assert!(browser.wait_for_text("[data-status]").contains("Use your key"));
    browser.picture("approve-tap");
    browser.press("main", "Cancel");
    browser.wait_for_alert("Cancelled");
    assert!(!browser.body().contains("Use your key"));
    assert_eq!(agent.redeem(&page, None).0, 410);

    // It can be tried again at once. The time is the prompt's, and not the challenge's.
    let left: u64 = browser.text("[data-left]").split(' ').next().unwrap().parse().unwrap();
    assert!(left <= 60, "{left}");
    browser.set_tapped(&key, Tapped::AtOnce);
    browser.press("main", APPROVE);
    let code = page.redirected();
    assert_eq!(agent.redeem(&page, Some(&code)).0, 200);
    let page = agent.wants("db/vault-db", 5432);
    browser.go(&page.url);
    browser.wait_for_heading("Open vault-db?");
    let real = "const real = Date.now; Date.now = () => real() + 1000 * arguments[0]";
    browser.script(real, &serde_json::json!([200]));
    browser.wait_for_alert("The time is over");
    assert_eq!(browser.text("[data-left]"), "0 seconds");
    assert!(!browser.body().contains(APPROVE), "there is nothing to approve any more");
    browser.picture("approve-over");
}

#[test]
fn a_request_from_another_address_is_said_to_be_and_its_words_are_only_words() {
    let Some((site, browser, agent)) = jerry() else { return };
    let agent = agent.at(Ipv4Addr::new(127, 0, 0, 2));
    let program = "<b>psql</b>\u{202e}\u{1b}[31m\u{7}' onclick=x";
    let page = agent.wants_for(program, "db/billing-db", 5432);
    browser.go(&page.url);
    browser.wait_for_heading(QUESTION);
    let said = browser.body();
    for fact in [
        "laptop, at 127.0.0.2",
        "at 127.0.0.1",
        "addresses differ",
        "<b>psql</b>[31m' onclick=x, process 4242",
    ] {
        assert!(said.contains(fact), "{fact}: {said}");
    }
    // Another machine is what it looks like: the code is asked for.
    assert!(browser.has("#approve-code"));
    browser.picture("approve-far");
    // Where the agent opened the page itself, the two addresses are one machine's.
    browser.go(&format!("{}?runs=here", page.url));
    browser.wait_for_heading(QUESTION);
    assert!(!browser.has("#approve-code") && !browser.body().contains("addresses differ"));
    browser.go(&page.url);
    browser.wait_for_heading(QUESTION);
    browser.fill("#approve-code", &page.code.clone().unwrap());
    browser.press("main", APPROVE);
    browser.wait_for_heading("Approved");
    assert_eq!(agent.redeem(&page, None).0, 200);
    assert_eq!(site.audit("grant").len(), 1);
}

#[test]
fn where_the_key_must_know_its_user_a_bare_tap_is_not_enough() {
    let Some((site, browser, agent)) = jerry() else { return };
    let page = agent.wants("db/vault-db", 5432);
    browser.go(&page.url);
    browser.wait_for_heading("Open vault-db?");
    browser.press("main", APPROVE);
    browser.wait_for_alert("No key answered");
    assert_eq!(agent.redeem(&page, None).0, 410);
    assert!(site.audit("grant").is_empty());
}
