//! Chromium as a test uses it: goes to pages, types, clicks, presses keys, has virtual security keys, and is looked at.

use std::io::{BufRead as _, BufReader};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::processes::{ends_with_all_it_started, has_namespaces};
use super::webdriver::{Loopback, Refused, Session, Wire};
use crate::lab::wait_for;

/// The browser, as Debian installs it.
pub const CHROMIUM: &str = "/usr/bin/chromium";
/// What drives it.
pub const CHROMEDRIVER: &str = "/usr/bin/chromedriver";
/// What has it trust a CA.
pub const CERTUTIL: &str = "/usr/bin/certutil";
/// Set where a test may not be skipped for want of a browser.
const REQUIRED: &str = "PORTLATCH_BROWSER_REQUIRED";
/// Nothing on a page takes longer, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often chromedriver is started until it has found a port.
const PORTS: usize = 5;
/// How often a page is looked at that somebody waits for.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// WebDriver's name for an element's identifier.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A browser; closed when dropped.
pub struct Chromium {
    session: Session,
    driver: Option<Child>,
}

/// Whether there is a browser to test with; says why if not.
///
/// # Panics
/// If there is none where one must be, as `scripts/test` has it for root.
pub fn is_installed() -> bool {
    let missing = [CHROMIUM, CHROMEDRIVER, CERTUTIL].into_iter().find(|program| !Path::new(program).exists());
    let Some(program) = missing else { return true };
    let why = format!("there is no {program} (Debian's chromium, chromium-driver and libnss3-tools)");
    assert!(std::env::var_os(REQUIRED).is_none(), "{why}");
    crate::own_network::say(&format!("skipped: {why}"));
    false
}

/// What chromedriver is asked for: a browser without a window that keeps nothing of this machine's user.
pub fn capabilities() -> Value {
    // The sandbox needs a user that root is not; nothing but our own pages is opened.
    let arguments = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-proxy-server",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--force-device-scale-factor=1",
        "--window-size=1000,900",
    ];
    json!({
        "browserName": "chrome",
        "webauthn:virtualAuthenticators": true,
        "goog:loggingPrefs": {"browser": "ALL"},
        "goog:chromeOptions": {"binary": CHROMIUM, "args": arguments},
    })
}

impl Chromium {
    /// A browser whose user's home is `home`: the certificates that it trusts are there.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(home: &Path) -> Self {
        let (port, driver) = (0..PORTS).find_map(|_| start_driver(home)).expect("chromedriver finds a port");
        let mut browser = Self::over(Box::new(Loopback { port }));
        browser.driver = Some(driver);
        browser
    }

    /// A browser of a chromedriver that runs already.
    pub fn over(wire: Box<dyn Wire>) -> Self {
        Self { session: Session::open(wire, &capabilities()), driver: None }
    }

    /// Goes to a page.
    pub fn go(&self, url: &str) {
        self.session.command("POST", "/url", &json!({"url": url}));
    }

    /// Where it is.
    pub fn url(&self) -> String {
        self.session.command("GET", "/url", &Value::Null).as_str().unwrap_or_default().to_owned()
    }

    /// The page's main heading.
    pub fn heading(&self) -> String {
        self.text("h1")
    }

    /// Waits until a page with this main heading is loaded, its script included.
    ///
    /// # Panics
    /// If it does not come.
    pub fn wait_for_heading(&self, wanted: &str) {
        let script = "const it = document.querySelector('h1'); \
             return document.readyState === 'complete' && it ? it.innerText : ''";
        self.wait_for_script(script, &json!([]), wanted);
    }

    /// Waits until an alert of the page says this, and gives the whole of it.
    ///
    /// # Panics
    /// If none does.
    pub fn wait_for_alert(&self, wanted: &str) -> String {
        let script = "return [...document.querySelectorAll('[role=alert]')].map((it) => it.innerText) \
             .find((text) => text.includes(arguments[0])) || ''";
        let begin = Instant::now();
        loop {
            let seen = self.try_script(script, &json!([wanted])).unwrap_or_default();
            if let Some(text) = seen.as_str().filter(|text| !text.is_empty()) {
                return text.to_owned();
            }
            let url = self.url();
            assert!(begin.elapsed() < PATIENCE, "no alert {wanted:?} at {url}: {}", self.body());
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Waits until a script gives this, on whatever page there is by then.
    ///
    /// # Panics
    /// If it does not.
    pub fn wait_for_script(&self, script: &str, arguments: &Value, wanted: &str) {
        let begin = Instant::now();
        loop {
            let seen = self.try_script(script, arguments).unwrap_or_default();
            if seen == wanted {
                return;
            }
            let (url, body) = (self.url(), self.body());
            assert!(begin.elapsed() < PATIENCE, "no {wanted:?} at {url}, but {seen}: {body}");
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn try_script(&self, script: &str, arguments: &Value) -> Result<Value, Refused> {
        let body = json!({"script": script, "args": arguments});
        self.session.try_command("POST", "/execute/sync", &body)
    }

    /// All text of the page.
    pub fn body(&self) -> String {
        self.try_text("body").unwrap_or_default()
    }

    /// The visible text of the first element that this CSS selects.
    ///
    /// # Panics
    /// If there is none.
    pub fn text(&self, css: &str) -> String {
        self.try_text(css).unwrap_or_else(|refused| panic!("{css} at {}: {refused:?}", self.url()))
    }

    /// The same, if there is one.
    ///
    /// # Errors
    /// What WebDriver says.
    pub fn try_text(&self, css: &str) -> Result<String, Refused> {
        let element = self.find(css)?;
        let text = self.session.try_command("GET", &format!("/element/{element}/text"), &Value::Null)?;
        Ok(text.as_str().unwrap_or_default().to_owned())
    }

    /// Waits until the first element that this CSS selects says something, and gives that.
    ///
    /// # Panics
    /// If it stays silent.
    pub fn wait_for_text(&self, css: &str) -> String {
        wait_for(css, PATIENCE, || self.try_text(css).ok().filter(|text| !text.is_empty()))
    }

    /// Waits until the page's address begins like this.
    ///
    /// # Panics
    /// If it does not.
    pub fn wait_for_url(&self, beginning: &str) -> String {
        wait_for(beginning, PATIENCE, || Some(self.url()).filter(|url| url.starts_with(beginning)))
    }

    /// Whether this CSS selects anything.
    pub fn has(&self, css: &str) -> bool {
        self.find(css).is_ok()
    }

    /// Clicks the first element that this CSS selects.
    pub fn click(&self, css: &str) {
        let element = self.find(css).unwrap_or_else(|refused| panic!("{css} at {}: {refused:?}", self.url()));
        self.session.command("POST", &format!("/element/{element}/click"), &json!({}));
    }

    /// Clicks the first button or link with this text, inside what `within` selects.
    ///
    /// # Panics
    /// If there is none.
    pub fn press(&self, within: &str, label: &str) {
        let script = "const [within, label] = arguments; \
             const all = document.querySelectorAll(`${within} button, ${within} a, ${within} summary`); \
             return [...all].find((it) => it.textContent.trim() === label && it.getClientRects().length) || null";
        let found = self.script(script, &json!([within, label]));
        let element =
            found[ELEMENT].as_str().unwrap_or_else(|| panic!("no {label:?} in {within}: {}", self.body()));
        self.session.command("POST", &format!("/element/{element}/click"), &json!({}));
    }

    /// Types into the first field that this CSS selects, in place of what is there.
    pub fn fill(&self, css: &str, text: &str) {
        let element = self.find(css).unwrap_or_else(|refused| panic!("{css} at {}: {refused:?}", self.url()));
        self.session.command("POST", &format!("/element/{element}/clear"), &json!({}));
        self.session.command("POST", &format!("/element/{element}/value"), &json!({"text": text}));
    }

    /// Presses keys, as WebDriver names them (`\u{e004}` is Tab), wherever the focus is.
    pub fn type_keys(&self, keys: &str) {
        let strokes: Vec<Value> = keys
            .chars()
            .flat_map(|key| ["keyDown", "keyUp"].map(|kind| json!({"type": kind, "value": key.to_string()})))
            .collect();
        let actions = json!({"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]});
        self.session.command("POST", "/actions", &actions);
    }

    /// Runs a script on the page and gives what it returns.
    pub fn script(&self, script: &str, arguments: &Value) -> Value {
        self.session.command("POST", "/execute/sync", &json!({"script": script, "args": arguments}))
    }

    /// A command of the Chrome DevTools Protocol.
    pub fn devtools(&self, command: &str, parameters: &Value) -> Value {
        self.session.command("POST", "/goog/cdp/execute", &json!({"cmd": command, "params": parameters}))
    }

    /// Forgets all cookies, of whichever page: from here on it is another browser.
    pub fn forget_cookies(&self) {
        self.devtools("Network.clearBrowserCookies", &json!({}));
    }

    /// The tab that is looked at.
    pub fn tab(&self) -> String {
        self.session.command("GET", "/window", &Value::Null).as_str().unwrap_or_default().to_owned()
    }

    /// Opens another tab and looks at it. Authenticators stay with the tab that they were plugged into.
    pub fn open_tab(&self) {
        let opened = self.session.command("POST", "/window/new", &json!({"type": "tab"}));
        self.switch_to(opened["handle"].as_str().expect("a tab has a handle"));
    }

    /// Looks into the page's first frame, until the next page.
    pub fn enter_frame(&self) {
        self.session.command("POST", "/frame", &json!({"id": 0}));
    }

    /// Looks at a tab.
    pub fn switch_to(&self, tab: &str) {
        self.session.command("POST", "/window", &json!({"handle": tab}));
    }

    /// What the browser complained of since it was asked last: errors of scripts, and what the policy of content forbade.
    /// Answers with a status that says no are none: pages are tested for them.
    pub fn complaints(&self) -> Vec<String> {
        let entries = self.session.command("POST", "/se/log", &json!({"type": "browser"}));
        let entries = entries.as_array().cloned().unwrap_or_default();
        let grave = entries.into_iter().filter(|entry| entry["source"] != "network");
        grave.map(|entry| format!("{}: {}", entry["source"], entry["message"])).collect()
    }

    /// What commands go to.
    pub(super) const fn session(&self) -> &Session {
        &self.session
    }

    fn find(&self, css: &str) -> Result<String, Refused> {
        let wanted = json!({"using": "css selector", "value": css});
        let found = self.session.try_command("POST", "/element", &wanted)?;
        Ok(found[ELEMENT].as_str().unwrap_or_default().to_owned())
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        let complaints = if std::thread::panicking() { Vec::new() } else { self.complaints() };
        if let Some(mut driver) = self.driver.take() {
            if !has_namespaces() {
                let close = || self.session.command("DELETE", "", &Value::Null);
                let _ = catch_unwind(AssertUnwindSafe(close));
            }
            let _ = driver.kill();
            let _ = driver.wait();
        }
        assert!(complaints.is_empty(), "the browser complained: {complaints:#?}");
    }
}

/// Starts chromedriver, unless it ends at once: it wants the same port of IPv4 and of IPv6, and another program may have one.
fn start_driver(home: &Path) -> Option<(u16, Child)> {
    // Profiles are made there, and go with the home.
    let temporary = home.join("tmp");
    std::fs::create_dir_all(&temporary).expect("a directory of our own");
    let mut driver = ends_with_all_it_started(CHROMEDRIVER)
        .arg("--port=0")
        .env("TMPDIR", &temporary)
        .env("HOME", home)
        .env("XDG_CONFIG_HOME", home.join("config"))
        .env("XDG_CACHE_HOME", home.join("cache"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("chromedriver starts");
    let lines = BufReader::new(driver.stdout.take().expect("its output is piped")).lines();
    let port = lines.map_while(Result::ok).find_map(|line| {
        let port = line.split("started successfully on port ").nth(1)?;
        port.trim_end_matches('.').parse().ok()
    });
    if let Some(port) = port {
        return Some((port, driver));
    }
    let _ = driver.kill();
    let _ = driver.wait();
    None
}
