//! Chromium as a test uses it: goes to pages, types, clicks, presses keys, has virtual security keys, and is looked at.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::webdriver::{Loopback, Refused, Session, Wire};
use crate::lab::wait_for;

/// The browser, as Debian installs it.
pub const CHROMIUM: &str = "/usr/bin/chromium";
/// What drives it.
pub const CHROMEDRIVER: &str = "/usr/bin/chromedriver";
/// What has it trust a CA.
pub const CERTUTIL: &str = "/usr/bin/certutil";
/// Nothing on a page takes longer.
const PATIENCE: Duration = Duration::from_secs(10);
/// WebDriver's name for an element's identifier.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A browser; closed when dropped.
pub struct Chromium {
    session: Session,
    driver: Option<Child>,
    artefacts: PathBuf,
}

/// How a page is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// A wide window in light colours.
    Light,
    /// A wide window in dark colours.
    Dark,
    /// 320 px, as on a small phone, or at 400 % on a desktop.
    Narrow,
}

impl Look {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Light, Self::Dark, Self::Narrow];

    const fn width(self) -> u32 {
        match self {
            Self::Light | Self::Dark => 1000,
            Self::Narrow => 320,
        }
    }

    const fn scheme(self) -> &'static str {
        match self {
            Self::Light | Self::Narrow => "light",
            Self::Dark => "dark",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Light => "light",
            Self::Dark => "dark",
            Self::Narrow => "narrow",
        }
    }
}

/// What a virtual authenticator is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authenticator {
    /// A USB key without a PIN: it is tapped, and verifies nobody.
    Key,
    /// The device's own, with a fingerprint that fits.
    Passkey,
}

/// A virtual authenticator of a browser.
#[derive(Debug, Clone)]
pub struct AuthenticatorId(String);

/// Whether there is a browser to test with; says so if not.
#[expect(clippy::print_stdout, reason = "what println prints is what a test's runner captures and shows")]
pub fn is_installed() -> bool {
    let missing = [CHROMIUM, CHROMEDRIVER, CERTUTIL].into_iter().find(|program| !Path::new(program).exists());
    if let Some(program) = missing {
        println!("skipped: there is no {program} (Debian's chromium, chromium-driver and libnss3-tools)");
    }
    missing.is_none()
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
        "goog:chromeOptions": {"binary": CHROMIUM, "args": arguments},
    })
}

impl Chromium {
    /// A browser whose user's home is `home`: the certificates that it trusts are there.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(home: &Path) -> Self {
        let mut driver = Command::new(CHROMEDRIVER)
            .arg("--port=0")
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
        let port = port.expect("chromedriver says its port");
        let mut browser = Self::over(Box::new(Loopback { port }));
        browser.driver = Some(driver);
        browser
    }

    /// A browser of a chromedriver that runs already.
    pub fn over(wire: Box<dyn Wire>) -> Self {
        let session = Session::open(wire, &capabilities());
        let test = std::env::current_exe().expect("a test knows its own file");
        let target = test.ancestors().nth(3).expect("tests stand in TARGET/PROFILE/deps/");
        Self { session, driver: None, artefacts: target.join("browser-artefacts") }
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

    /// Waits until the main heading is this.
    ///
    /// # Panics
    /// If it does not come.
    pub fn wait_for_heading(&self, wanted: &str) {
        let mut seen = String::new();
        let came = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_for(wanted, PATIENCE, || {
                seen = self.try_text("h1").unwrap_or_default();
                (seen == wanted).then_some(())
            });
        }));
        assert!(came.is_ok(), "waited for {wanted:?} at {}, saw {seen:?}: {}", self.url(), self.body());
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

    /// Forgets all cookies: from here on it is another browser.
    pub fn forget_cookies(&self) {
        self.session.command("DELETE", "/cookie", &Value::Null);
    }

    /// Plugs a virtual authenticator in.
    pub fn add(&self, authenticator: Authenticator) -> AuthenticatorId {
        let (transport, is_verifying) = match authenticator {
            Authenticator::Key => ("usb", false),
            Authenticator::Passkey => ("internal", true),
        };
        let options = json!({
            "protocol": "ctap2",
            "transport": transport,
            "hasResidentKey": is_verifying,
            "hasUserVerification": is_verifying,
            "isUserVerified": is_verifying,
            "isUserConsenting": true,
        });
        let id = self.session.command("POST", "/webauthn/authenticator", &options);
        AuthenticatorId(id.as_str().expect("an authenticator has a name").to_owned())
    }

    /// Unplugs one.
    pub fn remove(&self, authenticator: &AuthenticatorId) {
        let path = format!("/webauthn/authenticator/{}", authenticator.0);
        self.session.command("DELETE", &path, &Value::Null);
    }

    /// Whether the next fingerprint fits.
    pub fn set_verified(&self, authenticator: &AuthenticatorId, verified: Verified) {
        let path = format!("/webauthn/authenticator/{}/uv", authenticator.0);
        self.session.command("POST", &path, &json!({"isUserVerified": verified == Verified::Yes}));
    }

    /// What credentials it holds.
    pub fn credentials(&self, authenticator: &AuthenticatorId) -> Vec<Value> {
        let path = format!("/webauthn/authenticator/{}/credentials", authenticator.0);
        self.session.command("GET", &path, &Value::Null).as_array().cloned().unwrap_or_default()
    }

    /// Sets the window and the colours.
    pub fn look(&self, look: Look, height: u32) {
        let metrics =
            json!({"width": look.width(), "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.devtools("Emulation.setDeviceMetricsOverride", &metrics);
        let features = json!([{"name": "prefers-color-scheme", "value": look.scheme()}]);
        self.devtools("Emulation.setEmulatedMedia", &json!({"features": features}));
    }

    /// Keeps pictures of the whole page, in every look, as `NAME-LOOK.png`; a page that does not fit the width of its
    /// window fails the test.
    ///
    /// # Panics
    /// If a picture cannot be kept, or the page is too wide.
    pub fn picture(&self, name: &str) {
        std::fs::create_dir_all(&self.artefacts).expect("the artefacts' directory");
        for look in Look::ALL {
            self.look(look, 600);
            let size = "const page = document.documentElement; return [page.scrollWidth, page.scrollHeight]";
            let size = self.script(size, &json!([]));
            let (width, height) = (size[0].as_u64().unwrap_or(0), size[1].as_u64().unwrap_or(0));
            assert!(width <= u64::from(look.width()), "{name} is {width} px wide: {look:?}");
            self.look(look, u32::try_from(height).unwrap_or(600).clamp(400, 8000));
            let image = self.session.command("GET", "/screenshot", &Value::Null);
            let file = self.artefacts.join(format!("{name}-{}.png", look.name()));
            std::fs::write(file, STANDARD.decode(image.as_str().unwrap_or_default()).expect("base64"))
                .expect("keeping a picture");
        }
        self.look(Look::Light, 900);
    }

    fn find(&self, css: &str) -> Result<String, Refused> {
        let wanted = json!({"using": "css selector", "value": css});
        let found = self.session.try_command("POST", "/element", &wanted)?;
        Ok(found[ELEMENT].as_str().unwrap_or_default().to_owned())
    }
}

/// Whether an authenticator verifies its user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verified {
    /// The fingerprint fits.
    Yes,
    /// It does not.
    No,
}

impl Drop for Chromium {
    fn drop(&mut self) {
        self.session.close();
        if let Some(mut driver) = self.driver.take() {
            let _ = driver.kill();
            let _ = driver.wait();
        }
    }
}
