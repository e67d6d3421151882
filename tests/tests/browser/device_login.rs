//! `portlatch login` without `--native`: the real command, and the page that it opens.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use portlatch_tests::browser::authenticators::Authenticator;
use portlatch_tests::browser::chromium::Chromium;
use portlatch_tests::browser::processes::ends_with_test;
use portlatch_tests::browser::site::Site;
use portlatch_tests::lab::{binaries, wait_for};

use super::people::{enrol, enrol_plugged, scene, sign_in, sign_out};

/// A `portlatch login` that runs, and the page that it opened.
struct Login {
    process: Child,
    url: String,
}

/// Starts it with a "browser" that writes down what it is to open, as a desktop would start the real one.
fn start(site: &Site, name: &str, more: &[&str]) -> Login {
    let home = site.agent_home(name);
    let (browser, opened) = (home.join("browser"), home.join("opened"));
    fs::write(&browser, format!("#!/bin/sh\nprintf %s \"$1\" >{0}.new\nmv {0}.new {0}\n", opened.display()))
        .unwrap();
    fs::set_permissions(&browser, fs::Permissions::from_mode(0o755)).unwrap();
    let process = command(site, &home, more).env("BROWSER", &browser).spawn().unwrap();
    let url = wait_for("the page to be opened", Duration::from_secs(30), || fs::read_to_string(&opened).ok());
    Login { process, url }
}

fn command(site: &Site, home: &Path, more: &[&str]) -> Command {
    let mut command = ends_with_test(binaries().join("portlatch").to_str().unwrap());
    command.args(["login", "--proxy", &format!("localhost:{}", site.port), "--ca-pin", &site.pin]);
    command
        .args(more)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", home)
        .env("PORTLATCH_HOME", state(home));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn state(home: &Path) -> PathBuf {
    let state = home.join("state");
    fs::create_dir_all(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
    state
}

fn finish(login: Login) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = login.process.wait_with_output().unwrap();
    let said = [stdout, stderr].map(|it| String::from_utf8_lossy(&it).into_owned()).concat();
    (status.code(), said)
}

fn jerry() -> Option<(Site, Chromium)> {
    let (site, browser) = scene()?;
    enrol(&browser, &site.add_user("jerry", "anywhere"), Authenticator::Passkey);
    sign_out(&browser);
    Some((site, browser))
}

#[test]
fn the_page_signs_in_on_this_machine_and_returns_to_the_command() {
    let Some((site, browser)) = jerry() else { return };
    let login = start(&site, "jerry", &[]);
    assert!(login.url.ends_with("?runs=here"), "{}", login.url);
    browser.go(&login.url);
    browser.wait_for_heading("Sign in on your device");
    assert!(!browser.has("#passkey-code"), "the command opened the page itself");
    browser.picture("device-login");
    browser.press("main", "Sign in with a passkey");
    browser.wait_for_heading("Done");
    assert!(browser.body().contains("close this window"));
    browser.picture("device-login-done");
    let (status, said) = finish(login);
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("Logged in to localhost as jerry"), "{said}");
    // Signed in at the pages as well.
    browser.go(&site.url("/keys"));
    browser.wait_for_heading("Your keys");
    let files = state(&site.agent_home("jerry"));
    for file in ["login.key", "login.crt", "login.json"] {
        assert_eq!(fs::metadata(files.join(file)).unwrap().permissions().mode() & 0o777, 0o600, "{file}");
    }
}

#[test]
fn without_a_browser_the_command_says_what_to_do_and_another_machine_can_do_it() {
    let Some((site, browser)) = jerry() else { return };
    let home = site.agent_home("headless");
    let mut process = command(&site, &home, &["--user", "jerry"]).spawn().unwrap();
    let (url, code) = read_invitation(&mut process);
    // Both have the address 127.0.0.1, as two machines behind one router may: the command knows better.
    browser.go(&url);
    browser.wait_for_heading("Sign in on your device");
    assert!(browser.has("#passkey-code") && browser.body().contains("The program runs on this computer"));
    browser.picture("device-login-elsewhere");
    browser.fill("#passkey-code", &code);
    browser.press("main", "Sign in with a passkey");
    browser.wait_for_heading("Approved");
    let (status, said) = finish(Login { process, url });
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("Logged in to localhost as jerry"), "{said}");
}

/// What the command says where there is no screen: the page, and the code.
fn read_invitation(process: &mut Child) -> (String, String) {
    use std::io::{BufRead as _, BufReader};
    let mut said = String::new();
    let mut lines = BufReader::new(process.stdout.take().unwrap());
    while !said.contains("portlatch login --native") {
        assert!(lines.read_line(&mut said).unwrap() > 0, "{said}");
    }
    let url = said.split("Open this page: ").nth(1).unwrap().split_whitespace().next().unwrap();
    let code = said.split("type this code there: ").nth(1).unwrap().split_whitespace().next().unwrap();
    let found = (url.to_owned(), code.to_owned());
    process.stdout = Some(lines.into_inner());
    found
}

#[test]
fn a_denied_login_ends_the_command_at_once_and_another_user_cannot_answer_it() {
    let Some((site, browser)) = jerry() else { return };
    let login = start(&site, "denied", &[]);
    browser.go(&login.url);
    browser.press("main", "Refuse the device");
    browser.wait_for_heading("Denied");
    let (status, said) = finish(login);
    assert_eq!(status, Some(3), "{said}");
    assert!(said.contains("denied in the browser"), "{said}");

    // Only whom the command named.
    let login = start(&site, "kramers", &["--user", "kramer"]);
    browser.go(&login.url);
    browser.press("main", "Sign in with a passkey");
    browser.wait_for_heading("That did not work");
    assert!(browser.body().contains("Another user asked"), "{}", browser.body());
    // Nobody was signed in by the way.
    browser.go(&site.url("/keys"));
    browser.wait_for_heading("Sign in");

    // F: wrong code three times, and the request is dead.
    browser.go(&login.url.replace("?runs=here", "?runs=elsewhere"));
    for said in ["two tries are left", "one try is left", "it is over"] {
        browser.fill("#password-code", "0000");
        sign_in(&browser, "jerry");
        browser.wait_for_alert(said);
    }
    assert_eq!(finish(login).0, Some(3));
    site.audited("mfa.fail", "wrong_page_code");
}

#[test]
fn a_role_that_keeps_other_machines_out_refuses_even_the_right_code() {
    let Some((site, browser)) = jerry() else { return };
    enrol_plugged(&browser, &site.add_user("kramer", "here"), Authenticator::Passkey);
    sign_out(&browser);
    let home = site.agent_home("kramers");
    let mut process = command(&site, &home, &["--user", "kramer"]).spawn().unwrap();
    let (url, code) = read_invitation(&mut process);
    browser.go(&url);
    browser.fill("#password-code", &code);
    sign_in(&browser, "kramer");
    browser.wait_for_heading("That did not work");
    browser.wait_for_alert("on the machine itself");
    browser.picture("device-login-refused");
    // Neither here nor there is anybody signed in.
    browser.go(&site.url("/keys"));
    browser.wait_for_heading("Sign in");
    browser.go(&url);
    browser.press("main", "Refuse the device");
    browser.wait_for_heading("Denied");
    browser.picture("device-login-denied");
    assert_eq!(finish(Login { process, url }).0, Some(3));
    assert!(!state(&home).join("login.crt").exists());
}
