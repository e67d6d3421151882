//! The commands as they are typed, against a control that runs in a directory of its own.

use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use portlatch_audit::Durability;
use portlatch_clock::Clock;
use portlatch_protocol::names::Id;
use serde_json::{Value as Json, json};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::admin::SessionLine;
use crate::control::{Control, ControlSettings, LiveSessions};
use crate::init::{InitOptions, init};
use crate::keys::Keys;

#[derive(Debug, Parser)]
struct Typed {
    #[command(subcommand)]
    command: AdminCommand,
}

/// One session that runs until it is killed.
struct OneSession;

impl LiveSessions for OneSession {
    fn list(&self) -> Vec<SessionLine> {
        let line = json!({"id": "5e55", "started": "2026-11-22T17:00:00Z", "user": "jerry", "login": "0af3",
            "device": "laptop", "resource": "db/billing-db", "port": 5432, "target": "10.0.0.5:5432",
            "client_addr": "192.0.2.7:40000", "program": "ps\u{1b}[2Jql", "bytes_in": 12, "bytes_out": 3456});
        vec![serde_json::from_value(line).unwrap()]
    }
    fn kill(&self, id: &Id) -> bool {
        id.as_str() == "5e55"
    }
}

/// What a command printed, and how it ended.
#[derive(Debug)]
struct Outcome {
    out: String,
    err: String,
    result: Result<(), CliError>,
}

fn typed(dir: &Path, words: &[&str]) -> Outcome {
    let command = Typed::try_parse_from(["portlatch-proxy"].iter().chain(words)).unwrap().command;
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let result = run(command, dir, &mut Streams { out: &mut out, err: &mut err });
    Outcome { out: String::from_utf8(out).unwrap(), err: String::from_utf8(err).unwrap(), result }
}

impl Outcome {
    fn expect(self) -> String {
        self.result.unwrap_or_else(|error| panic!("{error}"));
        self.out
    }
}

/// A control that runs on threads of its own until dropped.
struct Site {
    folder: tempfile::TempDir,
    control: Arc<Control>,
    cancel: CancellationToken,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Site {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("proxy");
        let clock = Clock::movable().0;
        let public_host: crate::config::PublicAddress = "proxy.example.com:8443".parse().unwrap();
        init(&InitOptions { dir: dir.clone(), public_host }, clock.time_of_day()).unwrap();
        let settings = ControlSettings {
            public_host: "proxy.example.com".parse().unwrap(),
            public_port: 8443,
            durability: Durability::Os,
        };
        let keys = Keys::open(&dir).unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let control =
            runtime.block_on(Control::open(&dir, keys, settings, clock, Arc::new(OneSession))).unwrap();
        let cancel = CancellationToken::new();
        let socket =
            runtime.block_on(async { crate::admin_server::AdminServer::bind(control.clone()) }).unwrap();
        runtime.spawn(socket.serve(cancel.clone()));
        Self { folder, control, cancel, runtime: Some(runtime) }
    }

    fn dir(&self) -> PathBuf {
        self.folder.path().join("proxy")
    }

    fn type_in(&self, words: &[&str]) -> Outcome {
        typed(&self.dir(), words)
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.cancel.cancel();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }
}

const ROLE: &str = "kind: role\nmetadata: {name: dev}\nspec: {allow: {db_labels: {env: dev}, logins: [x]}}\n";
const DB: &str = "kind: db\nmetadata: {name: billing-db, labels: {env: dev}}\nspec: {uri: 'tcp://10.0.0.5:5432', public_addr: b.corp.internal}\n";

#[test]
fn documents_are_applied_shown_and_deleted() {
    let site = Site::start();
    let (role, db) = (site.write("role.yaml", ROLE), site.write("db.yaml", DB));
    let applied = site.type_in(&["apply", "-f", &role, &db]);
    assert!(
        applied.err.contains("role.yaml:3:39: spec.allow.logins is kept but not enforced"),
        "{applied:?}"
    );
    assert!(applied.expect().contains("db/billing-db"));
    let table = site.type_in(&["get", "dbs"]).expect();
    assert_eq!(
        table,
        "NAME        HOST             TARGET    PORTS  LABELS   DESCRIPTION\n\
                       billing-db  b.corp.internal  10.0.0.5  5432   env=dev\n"
    );
    let yaml = site.type_in(&["get", "role/dev", "-o", "yaml"]).expect();
    assert!(yaml.contains("  allow:\n    db_labels:\n      env: dev\n    logins:\n    - x\n"), "{yaml}");
    let one: Json = serde_json::from_str(&site.type_in(&["get", "role/dev", "-o", "json"]).expect()).unwrap();
    assert_eq!(one["metadata"]["name"], "dev");
    let none: Json = serde_json::from_str(&site.type_in(&["get", "lock", "-o", "json"]).expect()).unwrap();
    assert_eq!(none, json!([]));
    site.type_in(&["delete", "db/billing-db"]).expect();
    let none = site.type_in(&["get", "db"]);
    assert_eq!((none.out.as_str(), none.err.as_str()), ("", "there is no db\n"));
    let nothing = site.write("nothing.yaml", "# not yet\n");
    let error = site.type_in(&["apply", "-f", &nothing]).result.unwrap_err();
    assert_eq!(error.to_string(), "there is no document in it: nothing was changed");
}

#[test]
fn faults_are_told_with_their_places_and_nothing_is_applied() {
    let site = Site::start();
    let (good, bad) = (site.write("good.yaml", ROLE), site.write("bad.yaml", "kind: rol\nspec: {}\n"));
    let error = site.type_in(&["apply", "-f", &good, "-f", &bad]).result.unwrap_err();
    assert!(error.to_string().ends_with("bad.yaml:1:7: unknown kind `rol`: did you mean `role`?"), "{error}");
    assert_eq!(error.exit_code(), 1);
    assert_eq!(site.type_in(&["get", "role", "-o", "json"]).expect().trim(), "[]");
}

#[test]
fn users_get_a_token_and_a_link() {
    let site = Site::start();
    let role = site.write("role.yaml", ROLE);
    site.type_in(&["apply", "-f", &role]).expect();
    let added: Json =
        serde_json::from_str(&site.type_in(&["users", "add", "jerry", "--roles", "dev", "--json"]).expect())
            .unwrap();
    assert_eq!(added["user"], "jerry");
    for field in ["token", "link", "expires"] {
        assert!(added[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {added}");
    }
    let reset = site.type_in(&["users", "reset", "jerry"]).expect();
    assert!(reset.starts_with("jerry can enrol once, until ") && reset.contains("  token  "), "{reset}");
    assert!(!reset.contains(added["token"].as_str().unwrap()), "a reset makes another token");
    let login = reset.lines().last().unwrap();
    let pin = Keys::open(&site.dir()).unwrap().ca_pin().to_string();
    let host = "https://proxy.example.com:8443";
    assert!(login.starts_with(&format!("  portlatch login --proxy {host} --user jerry --enrol ")), "{login}");
    assert!(login.ends_with(&format!(" --ca-pin {pin}")), "{login}");
    let held = site.type_in(&["delete", "role/dev"]).result.unwrap_err();
    assert_eq!(held.to_string(), "user/jerry has the role dev: take it away first");
    let unknown = site.type_in(&["users", "add", "kim", "--roles", "prod"]).result.unwrap_err();
    assert!(unknown.to_string().contains("prod"), "{unknown}");
    let token: Json =
        serde_json::from_str(&site.type_in(&["tokens", "add", "--proxy", "berlin", "--json"]).expect())
            .unwrap();
    assert_eq!(token["proxy"], "berlin");
}

#[test]
fn locks_and_sessions_are_reached() {
    let site = Site::start();
    let locked = site.type_in(&["lock", "--user", "jerry", "--ttl", "1h", "--message", "laptop stolen"]);
    assert_eq!(locked.err, "warning: lock/user-jerry: what it locks does not exist (yet)\n");
    locked.expect();
    let locks = site.type_in(&["get", "locks"]).expect();
    assert!(locks.contains("user jerry") && locks.contains("laptop stolen"), "{locks}");
    let sessions = site.type_in(&["sessions"]).expect();
    assert!(sessions.contains("db/billing-db:5432") && !sessions.contains('\u{1b}'), "{sessions}");
    let listed: Json = serde_json::from_str(&site.type_in(&["sessions", "--json"]).expect()).unwrap();
    assert_eq!(listed[0]["bytes_out"], 3456);
    site.type_in(&["sessions", "kill", "5e55"]).expect();
    assert!(site.type_in(&["sessions", "kill", "0000"]).result.is_err());
}

#[test]
fn the_audit_is_read_and_verified_beside_its_writer() {
    let site = Site::start();
    let role = site.write("role.yaml", ROLE);
    site.type_in(&["apply", "-f", &role]).expect();
    let tail = site.type_in(&["audit", "tail", "-n", "1"]).expect();
    let record: Json = serde_json::from_str(&tail).unwrap();
    assert_eq!(record["cluster"], "proxy.example.com");
    let report = site.type_in(&["audit", "verify"]).expect();
    assert!(report.starts_with("control: ") && report.contains(" records, whole"), "{report}");
    change_a_record(&site.dir().join("audit/control"));
    let error = site.type_in(&["audit", "verify"]).result.unwrap_err();
    assert_eq!(error.exit_code(), 1);
    assert!(error.to_string().contains(".jsonl, line "), "{error}");
}

#[test]
fn the_signature_of_the_audit_s_head_is_checked() {
    let site = Site::start();
    let unsigned = site.type_in(&["audit", "verify"]).expect();
    assert!(unsigned.contains("control: no signature was checked"), "{unsigned}");
    let runtime = site.runtime.as_ref().unwrap();
    runtime.block_on(site.control.audit.sign_head(&site.control.keys)).unwrap();
    let signed = site.type_in(&["audit", "verify"]).expect();
    assert!(signed.contains("control: signed up to record 2, at "), "{signed}");
    // Another cluster's CA did not sign it.
    let other = Site::start();
    std::fs::copy(other.dir().join("keys/ca.der"), site.dir().join("keys/ca.der")).unwrap();
    let error = site.type_in(&["audit", "verify"]).result.unwrap_err();
    assert!(error.to_string().contains("the signed head is not of the records before it"), "{error}");
}

#[test]
fn why_names_the_rule() {
    let site = Site::start();
    let (role, db) = (site.write("role.yaml", ROLE), site.write("db.yaml", DB));
    site.type_in(&["apply", "-f", &role, &db]).expect();
    site.type_in(&["users", "add", "jerry", "--roles", "dev"]).expect();
    let why = site.type_in(&["why", "jerry", "db/billing-db", "5432"]).expect();
    for step in
        ["jerry has the role dev\n", "role dev allows it: db_labels env=dev\n", "allowed without a tap\n"]
    {
        assert!(why.contains(step), "{step}: {why}");
    }
    let refused = site.type_in(&["why", "jerry", "db/billing-db", "1", "--json"]);
    let told: Json = serde_json::from_str(&refused.out).unwrap();
    assert_eq!(told["is_allowed"], false);
    let error = refused.result.unwrap_err();
    assert_eq!(error.exit_code(), 3);
    assert_eq!(error.to_string(), "jerry may not open port 1 of db/billing-db");
    assert!(
        typed_badly(&["why", "jerry", "billing-db", "5432"]) && typed_badly(&["why", "jerry", "db/x", "0x"])
    );
}

fn typed_badly(words: &[&str]) -> bool {
    Typed::try_parse_from(["portlatch-proxy"].iter().chain(words)).is_err()
}

fn change_a_record(folder: &Path) {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let segment =
        entries.into_iter().find(|path| path.extension().is_some_and(|end| end == "jsonl")).unwrap();
    let text = std::fs::read_to_string(&segment).unwrap();
    std::fs::write(&segment, text.replacen("proxy.example.com", "proxy.example.net", 1)).unwrap();
}

#[test]
fn a_stopped_proxy_is_named_as_such() {
    let dir = tempfile::tempdir().unwrap();
    let error = typed(dir.path(), &["sessions"]).result.unwrap_err();
    assert!(error.to_string().starts_with("nobody listens at "), "{error}");
    assert_eq!(error.exit_code(), 1);
    drop(UnixListener::bind(dir.path().join("admin.sock")).unwrap());
    let left_behind = typed(dir.path(), &["sessions"]).result.unwrap_err();
    assert!(matches!(left_behind, CliError::NotRunning { .. }), "{left_behind}");
    for command in ["verify", "tail"] {
        let error = typed(dir.path(), &["audit", command]).result.unwrap_err();
        assert!(
            error.to_string().ends_with("/audit: say with --dir where the proxy's directory is"),
            "{error}"
        );
    }
    let missing = typed(dir.path(), &["apply", "-f", "/nonexistent.yaml"]).result.unwrap_err();
    assert_eq!(missing.to_string(), "/nonexistent.yaml cannot be read: No such file or directory");
}

#[test]
fn a_silent_or_strange_answer_ends_the_wait() {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("admin.sock")).unwrap();
    // The kernel takes the connection and the request; nobody ever answers.
    let client = Client::with_patience(dir.path(), Duration::from_millis(50));
    assert!(matches!(client.ask(&AdminRequest::Sessions), Err(CliError::NoAnswer)));
    drop(listener.accept().unwrap());
    let strange =
        std::thread::spawn(move || listener.accept().unwrap().0.write_all(b"{\"answer\":\"maybe\"}\n"));
    let client = Client::with_patience(dir.path(), Duration::from_secs(20));
    assert!(matches!(client.ask(&AdminRequest::Sessions), Err(CliError::BadAnswer)));
    strange.join().unwrap().unwrap();
}

#[test]
fn slips_on_the_command_line_are_usage_errors() {
    for words in [
        &["get", "rules"][..],
        &["delete", "role"],
        &["lock"],
        &["lock", "--user", "a", "--proxy", "b"],
        &["lock", "--user", "a", "--ttl", "0s"],
        &["users", "add", "jerry"],
        &["users", "add", "je rry", "--roles", "dev"],
        &["apply"],
    ] {
        let parsed = Typed::try_parse_from(["portlatch-proxy"].iter().chain(words));
        assert_eq!(parsed.unwrap_err().exit_code(), 2, "{words:?}");
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let site = Site::start();
    let follow = AdminCommand::Audit(AuditCommand::Tail { lines: 10, follow: true });
    run(follow, &site.dir(), &mut Streams { out: &mut Closed, err: &mut Vec::new() }).unwrap();
}
