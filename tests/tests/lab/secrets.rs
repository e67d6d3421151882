//! A day of one user's, with every log at its loudest (the attack list's G): enrolment, an app, recovery codes, a code, a
//! tap, wrong ones of each, logout and back; and another user's with a key that has a PIN. Afterwards no secret of it stands
//! in a log, an audit file or a command's output for others, none ever stood in a process's arguments or environment, and
//! every file is its owner's alone.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use portlatch_tests::browser::totp;
use portlatch_tests::lab::program::Outcome;
use portlatch_tests::lab::{Account::*, Host, Lab, LabOptions, PATIENCE, Part, Taps, start, wait_for};
use serde_json::json;

mod real_key;

const PASSWORD: &str = "Zq7-canary-of-a-password";
const WRONG_PASSWORD: &str = "Xk4-wrong-canary-of-a-password";
const CODES: &str = "
kind: cluster_auth_preference
metadata: {name: cluster-auth-preference}
spec: {require_session_mfa: false, second_factors: [webauthn, otp]}
";

/// Secrets, and a thread that looks for them where every user of a machine may look: at its processes.
struct Watch {
    secrets: Arc<Mutex<BTreeSet<String>>>,
    found: Arc<Mutex<Vec<String>>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    fn start() -> Self {
        let (secrets, found, is_over) = (
            Arc::<Mutex<BTreeSet<String>>>::default(),
            Arc::<Mutex<Vec<String>>>::default(),
            Arc::<AtomicBool>::default(),
        );
        let thread = std::thread::spawn({
            let (secrets, found, is_over) = (Arc::clone(&secrets), Arc::clone(&found), Arc::clone(&is_over));
            move || {
                while !is_over.load(Ordering::Relaxed) {
                    let secrets = secrets.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    found.lock().unwrap_or_else(PoisonError::into_inner).extend(in_processes(&secrets));
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        });
        Self { secrets, found, is_over, thread: Some(thread) }
    }

    fn add(&self, secret: &str) {
        assert!(secret.len() >= 6, "too short to be told from chance: {secret}");
        self.secrets.lock().unwrap().insert(secret.to_owned());
    }

    /// All secrets, once no process showed one.
    fn end(mut self) -> BTreeSet<String> {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        let found = self.found.lock().unwrap();
        assert!(found.is_empty(), "{found:?}");
        self.secrets.lock().unwrap().clone()
    }
}

/// Where processes of Portlatch's show a secret.
fn in_processes(secrets: &BTreeSet<String>) -> Vec<String> {
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let read = |file: &str| fs::read(process.path().join(file)).unwrap_or_default();
        if !read("comm").starts_with(b"portlatch") {
            continue;
        }
        for file in ["cmdline", "environ"] {
            let shown = String::from_utf8_lossy(&read(file)).into_owned();
            let seen = secrets.iter().find(|secret| shown.contains(secret.as_str()));
            found.extend(seen.map(|secret| format!("{secret} in {file}: {}", shown.replace('\0', " "))));
        }
    }
    found
}

/// Whether a text has this secret; digits among other digits are another number.
fn has(text: &str, secret: &str) -> bool {
    let is_code = secret.bytes().all(|byte| byte.is_ascii_digit());
    text.match_indices(secret).any(|(at, _)| {
        let before = text[..at].chars().next_back().unwrap_or(' ');
        let after = text[at + secret.len()..].chars().next().unwrap_or(' ');
        !is_code || !(before.is_ascii_alphanumeric() || before == '.' || after.is_ascii_alphanumeric())
    })
}

#[track_caller]
fn assert_has_none(place: &str, text: &str, secrets: &BTreeSet<String>) {
    for secret in secrets {
        if let Some(line) = text.lines().find(|line| has(line, secret)) {
            panic!("{secret} is in {place}: {line}");
        }
    }
}

/// What is secret by its shape, whoever made it: a JWT or `clientDataJSON` in base64, a challenge, a key.
#[track_caller]
fn assert_no_shape(place: &str, text: &str) {
    for line in text.lines() {
        for shape in ["PRIVATE KEY", "\"challenge\":", "clientDataJSON\":", "otpauth://"] {
            assert!(!line.contains(shape), "{shape} is in {place}: {line}");
        }
        for (at, _) in line.match_indices("eyJ") {
            let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
            let length = line.as_bytes()[at..].iter().take_while(|byte| is_base64(byte)).count();
            assert!(length < 24, "a token is in {place}: {line}");
        }
    }
}

struct Day<'l> {
    lab: &'l Lab,
    watch: Watch,
    /// What commands said that nobody but their user sees; they are asked for no secret.
    said: String,
    offset: u64,
}

impl Day<'_> {
    fn login(&mut self, more: &[&str], lines: &[&str]) -> Outcome {
        let pin = fs::read_to_string(self.lab.directory().join("ca-pin")).unwrap();
        let mut line = vec!["portlatch", "login", "--proxy", "https://proxy.example.com", "--user", "jerry"];
        line.extend(["--ca-pin", pin.trim(), "--software-key", "auto", "--password-stdin"]);
        line.extend(more);
        let mut program = self.lab.spawn(Host::User, Jerry, &line);
        for line in lines {
            program.write_line(line);
        }
        let outcome = program.finish(PATIENCE);
        self.said += &outcome.stdout;
        self.said += &outcome.stderr;
        outcome
    }

    fn tap(&self) {
        wait_for("a prompt", PATIENCE, || (self.lab.prompts(Jerry).len() == 1).then_some(()));
        self.lab.tap(Jerry);
    }

    fn wait_for_service(&self) {
        wait_for("the login to serve", PATIENCE, || {
            let status = self.lab.status(Jerry);
            (status["agent"] == true && status["daemon"] == true && status["user"] == "jerry").then_some(())
        });
    }

    /// A code of the app that begins with 0, as no number in a log does; time goes on until there is one.
    fn code(&mut self, secret: &str) -> String {
        let code = loop {
            self.offset += 30;
            let code = totp::code(secret, SystemTime::now() + Duration::from_secs(self.offset));
            if code.starts_with('0') {
                break code;
            }
        };
        self.watch.add(&code);
        self.lab.move_clock(Duration::from_secs(self.offset));
        code
    }

    /// Adds an authenticator app at a terminal, and gives its secret.
    fn add_app(&mut self) -> String {
        let command = "stty cols 120; exec portlatch mfa add app phone";
        let line = ["script", "--quiet", "--flush", "--return", "--command", command, "/home/jerry/terminal"];
        let mut add = self.lab.spawn(Host::User, Jerry, &line);
        self.tap();
        let shown = || fs::read_to_string(inside(self.lab, "/home/jerry/terminal")).unwrap_or_default();
        let secret = wait_for("the question for a code", PATIENCE, || {
            let (_, behind) = shown().split_once("time-based: ").map(|(a, b)| (a.len(), b.to_owned()))?;
            let (secret, question) = behind.split_once('\n')?;
            question.contains("The code that it shows").then(|| secret.trim().replace(' ', ""))
        });
        self.watch.add(&secret);
        // A challenge does not wait until a code begins with 0.
        let code = totp::code(&secret, SystemTime::now() + Duration::from_secs(self.offset));
        if code.starts_with('0') {
            self.watch.add(&code);
        }
        // What is typed before the terminal is silent is thrown away.
        let added = || fs::read_to_string(inside(self.lab, "/home/jerry/terminal")).unwrap_or_default();
        let deadline = Instant::now() + PATIENCE;
        while !added().contains("Added phone.") {
            assert!(Instant::now() < deadline, "{}", added());
            assert!(add.is_running() || added().contains("Added phone."), "{}", added());
            add.write_line(&code);
            let until = Instant::now() + Duration::from_secs(2);
            while Instant::now() < until && !added().contains("Added phone.") {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        add.finish(PATIENCE).expect_success();
        secret
    }

    fn add_recovery_codes(&mut self) -> Vec<String> {
        let made = self.lab.spawn(Host::User, Jerry, &["portlatch", "mfa", "recovery-codes"]);
        self.tap();
        let outcome = made.finish(PATIENCE).expect_success();
        self.said += &outcome.stderr;
        let codes: Vec<_> = outcome.stdout.lines().filter_map(|line| line.strip_prefix("  ")).collect();
        assert_eq!(codes.len(), 10, "{outcome}");
        for code in &codes {
            self.watch.add(code);
            self.watch.add(&code.replace(['-', ' '], ""));
        }
        codes.into_iter().map(str::to_owned).collect()
    }

    /// A connection that a code opens, after one that is wrong.
    fn connect_with_code(&mut self, secret: &str) {
        let mut watch = self.lab.spawn(Host::User, Jerry, &["portlatch", "watch"]);
        watch.read_line(PATIENCE);
        let code = self.code(secret);
        let wrong = if code == "012345" { "054321" } else { "012345" };
        self.watch.add(wrong);
        let mut program = self.lab.program(Jerry, &["talk", "billing-db.corp.internal", "6433"]);
        self.lab.wait_for_prompt(Jerry, "billing-db", 6433);
        let fails = self.lab.count("mfa.fail");
        // A code that is typed before the prompt is there is for nothing.
        wait_for("the prompt at the watch", PATIENCE, || {
            watch.read_line(PATIENCE).contains("billing-db").then_some(())
        });
        watch.write_line(wrong);
        wait_for("the wrong code's end", PATIENCE, || (self.lab.count("mfa.fail") > fails).then_some(()));
        wait_for("the next try", PATIENCE, || {
            watch.read_line(PATIENCE).contains("not accepted").then_some(())
        });
        watch.write_line(&code);
        assert_eq!(program.read_line(PATIENCE), "connected");
        let granted = self
            .lab
            .wait_for_record("its grant", |record| record["event"] == "grant" && record["port"] == 6433);
        assert!(granted["amr"].as_array().unwrap().contains(&"otp".into()), "{granted}");
    }

    fn connect_with_tap(&self) {
        let mut program = self.lab.program(Jerry, &["talk", "billing-db.corp.internal", "6432"]);
        self.tap();
        assert_eq!(program.read_line(PATIENCE), "connected");
        program.write_line("hello");
        assert_eq!(program.read_line(PATIENCE), "hello");
    }

    /// A challenge and a grant that control makes, seen by whoever asks.
    fn see_challenge_and_grant(&self) {
        let api = self.lab.api(Jerry);
        let (_, tunnel) = api.post("/v1/tunnel", &json!({"csr": api.request_for_key()}));
        let key = &tunnel["thumbprint"];
        let open = json!({"type": "open", "resource": "db/billing-db", "port": 6434, "tunnel_key": key});
        let (status, ceremony) = api.post("/v1/ceremonies", &json!({"purpose": open}));
        assert_eq!(status, 200, "{ceremony}");
        self.watch.add(ceremony["options"]["publicKey"]["challenge"].as_str().unwrap());
        let path = format!("/v1/ceremonies/{}", ceremony["ceremony"].as_str().unwrap());
        assert_eq!(api.request("DELETE", &path, "").0, 204);
        let (status, access) =
            api.post("/v1/access", &json!({"resource": "app/peer", "port": 6432, "tunnel_key": key}));
        assert_eq!(status, 200, "{access}");
        self.watch.add(access["token"].as_str().unwrap());
    }

    /// The private keys that lie in files now.
    fn see_keys(&self) {
        let home = inside(self.lab, "/home/jerry/.local/state/portlatch");
        let pem = fs::read_to_string(home.join("login.key")).unwrap();
        for line in pem.lines().filter(|line| !line.starts_with("-----")) {
            self.watch.add(line);
        }
        let key: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(home.join("software-key.json")).unwrap()).unwrap();
        for credential in key["credentials"].as_array().unwrap() {
            self.watch.add(credential["key"].as_str().unwrap());
        }
    }
}

/// A path on the user's machine, as root sees it from outside.
fn inside(lab: &Lab, path: &str) -> PathBuf {
    let holder = fs::read_to_string(lab.directory().join("pid/host-user")).unwrap();
    PathBuf::from(format!("/proc/{}/root{path}", holder.trim()))
}

/// All files below a directory, with what their content looks like as text.
fn files_below(directory: &Path) -> Vec<(PathBuf, String)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            all.extend(files_below(&entry.path()));
        } else if kind.is_file() {
            all.push((entry.path(), String::from_utf8_lossy(&fs::read(entry.path()).unwrap()).into_owned()));
        }
    }
    all
}

/// What is not 0600, or 0700 for a directory; sockets are named apart.
fn open_to_others(lab: &Lab, host: Host, directory: &str) -> Vec<String> {
    let line = ["find", directory, "-type", "d", "!", "-perm", "0700", "-print", "-o", "!", "-type", "d"];
    let line = [&line[..], &["!", "-perm", "0600", "-printf", "%m %p\\n"]].concat();
    let found = lab.run(host, Root, &line).expect_success();
    found.stdout.lines().map(str::to_owned).collect()
}

fn assert_modes(lab: &Lab) {
    let proxy = lab.directory().join("proxy/portlatch");
    for (host, directory) in [
        (Host::User, "/home/jerry/.local/state/portlatch"),
        (Host::User, "/run/user/2001/portlatch"),
        (Host::Proxy, proxy.to_str().unwrap()),
    ] {
        assert_eq!(open_to_others(lab, host, directory), Vec::<String>::new(), "{directory}");
    }
    // The daemon keeps nothing secret: names of clusters and addresses, which root alone may change.
    let writable = ["find", "/var/lib/portlatch", "/run/portlatch", "-perm", "/022", "!", "-type", "s"];
    assert_eq!(lab.run(Host::User, Root, &writable).expect_success().stdout, "");
}

#[test]
fn no_secret_is_in_a_log_a_record_or_a_process_list_and_no_file_is_open_to_others() {
    let options = LabOptions { taps: Taps::Enter, logins: &[], log: Some("trace"), ..LabOptions::default() };
    let Some(lab) = start(options) else { return };
    lab.apply(CODES).expect_success();
    let mut day = Day { lab: &lab, watch: Watch::start(), said: String::new(), offset: 0 };
    day.watch.add(PASSWORD);
    day.watch.add(WRONG_PASSWORD);
    let token = fs::read_to_string(lab.directory().join("jerry.token")).unwrap();
    day.login(&["--enrol", token.trim()], &[PASSWORD]).expect_success();
    lab.restart(Part::Agent(Jerry), Taps::Enter);
    day.wait_for_service();
    day.connect_with_tap();
    let secret = day.add_app();
    let recovery = day.add_recovery_codes();
    day.connect_with_code(&secret);
    day.see_keys();
    lab.portlatch(Jerry, &["logout"]).expect_success();
    day.login(&[], &[WRONG_PASSWORD]).expect_failure();
    day.login(&["--recovery-code"], &[PASSWORD, &recovery[0]]).expect_success();
    day.wait_for_service();
    day.login(&[], &[PASSWORD]).expect_success();
    day.wait_for_service();
    day.see_challenge_and_grant();
    day.see_keys();
    day.watch.add(real_key::PIN);
    day.watch.add(real_key::WRONG_PIN);
    real_key::is_used(&lab);

    let Day { watch, said, .. } = day;
    let mut secrets = watch.end();
    // On the command line of the enrolment it stood, and by then it was used.
    secrets.insert(token.trim().to_owned());
    assert_has_none("what commands said", &said, &secrets);
    let logs = files_below(&lab.directory().join("log"));
    for (part, loudest) in [
        ("portlatchd", "DEBUG"),
        ("agent-jerry", "DEBUG"),
        ("agent-tom", "DEBUG"),
        ("portlatch-proxy", "TRACE"),
    ] {
        let log = logs.iter().find(|(path, _)| path.ends_with(part)).unwrap();
        assert!(log.1.contains(loudest), "{part} is not at its loudest");
    }
    for (path, text) in &logs {
        assert_has_none(&path.display().to_string(), text, &secrets);
        assert_no_shape(&path.display().to_string(), text);
    }
    let proxy = lab.directory().join("proxy/portlatch");
    for (path, text) in files_below(&proxy.join("audit")) {
        assert_has_none(&path.display().to_string(), &text, &secrets);
        assert_no_shape(&path.display().to_string(), &text);
    }
    // At rest, no database and no file of the daemon's has one in the clear.
    secrets.retain(|secret| secret.len() > 6);
    for (path, text) in
        files_below(&proxy).into_iter().chain(files_below(&inside(&lab, "/var/lib/portlatch")))
    {
        assert_has_none(&path.display().to_string(), &text, &secrets);
    }
    assert_modes(&lab);
    lab.assert_audit_verifies();
}
