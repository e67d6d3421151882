//! A cluster to visit: a real `portlatch-proxy` on this machine's loopback, with its certificate trusted by the browser's
//! user, as an administrator would import it.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::processes::ends_with_test;
use crate::lab::{binaries, wait_for};

/// What there is to reach, and for whom.
pub const DOCUMENTS: &str = "\
kind: vnet_config
metadata: {name: vnet-config}
spec: {custom_dns_zones: [{suffix: corp.internal}]}
---
kind: cluster_auth_preference
metadata: {name: cluster-auth-preference}
spec: {require_session_mfa: false, second_factors: [webauthn, otp]}
---
kind: role
version: v7
metadata: {name: here}
spec: {options: {require_session_mfa: true}, allow: {db_labels: {env: prod}}}
---
kind: role
version: v7
metadata: {name: anywhere}
spec: {options: {require_session_mfa: true, cross_device: true}, allow: {db_labels: {env: prod}}}
---
kind: db
metadata: {name: billing-db, description: Billing, labels: {env: prod}}
spec: {uri: 'tcp://10.0.0.5:5432'}
---
kind: db
metadata: {name: vault-db, labels: {env: prod}}
spec: {uri: 'tcp://10.0.0.6:5432', mfa: {user_verification: true}}
";

/// How long the proxy may take to come up, and to write down what it did, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// Ports that are tried one after another: another program may take one between its choice and its use.
const PORTS: usize = 5;

/// A cluster; its proxy ends when this is dropped.
pub struct Site {
    /// The port of its pages and API.
    pub port: u16,
    /// What agents trust it by.
    pub pin: String,
    directory: tempfile::TempDir,
    proxy: Child,
}

/// What `users add` prints.
#[derive(Debug, Clone)]
pub struct Invitation {
    /// The one-time token.
    pub token: String,
    /// The link with it.
    pub link: String,
}

impl Site {
    /// Starts a cluster.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn start() -> Self {
        let site =
            (0..PORTS).find_map(|_| Self::try_start()).expect("a cluster comes up at one of some ports");
        site.apply(DOCUMENTS);
        site.trust();
        site
    }

    /// A cluster, unless another program took its port in the meantime: the cluster's name has the port in it, so it must
    /// be known before anything listens.
    fn try_start() -> Option<Self> {
        let directory = tempfile::tempdir().expect("a directory of our own");
        let cluster = directory.path().join("cluster");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its number").port();
        drop(listener);
        let host = format!("localhost:{port}");
        let made = run(&cluster, &["init", "--public-host", &host, "--json"]);
        let pin = json(&made)["ca_pin"].as_str().expect("a pin").to_owned();
        let config = cluster.join("proxy.toml");
        let text = fs::read_to_string(&config).expect("a configuration");
        fs::write(&config, format!("listen = \"127.0.0.1:{port}\"\n{text}")).expect("writing it");
        let proxy = run_proxy(directory.path());
        let mut site = Self { port, pin, directory, proxy };
        site.is_up().then_some(site)
    }

    /// Waits until the proxy serves; not if it ends before that.
    fn is_up(&mut self) -> bool {
        let socket = self.cluster().join("admin.sock");
        wait_for("the proxy", PATIENCE, || match self.proxy.try_wait() {
            Ok(None) => {
                let listens = std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok();
                (listens && std::os::unix::net::UnixStream::connect(&socket).is_ok()).then_some(true)
            }
            Ok(Some(_)) | Err(_) => Some(false),
        })
    }

    /// Ends the proxy and starts it again, when so much more time has passed.
    ///
    /// # Panics
    /// If it does not come up again.
    pub fn restart_after(&mut self, time: Duration) {
        fs::write(self.directory.path().join("clock"), time.as_secs().to_string()).expect("moving the clock");
        self.proxy.kill().expect("the proxy runs");
        self.proxy.wait().expect("the proxy ends");
        self.proxy = run_proxy(self.directory.path());
        assert!(self.is_up(), "the proxy does not come up again");
    }

    /// The address of a page.
    pub fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.port)
    }

    /// The home of the browser's user.
    pub fn home(&self) -> PathBuf {
        self.directory.path().join("home")
    }

    /// A directory for an agent's files.
    pub fn agent_home(&self, name: &str) -> PathBuf {
        let home = self.directory.path().join(name);
        fs::create_dir_all(&home).expect("a directory");
        home
    }

    /// The cluster's CA, in DER.
    pub fn ca(&self) -> Vec<u8> {
        fs::read(self.cluster().join("keys/ca.der")).expect("the cluster's CA")
    }

    /// Puts documents in force.
    pub fn apply(&self, documents: &str) {
        let file = self.directory.path().join("documents.yaml");
        fs::write(&file, documents).expect("writing documents");
        self.admin(&["apply", "-f", file.to_str().expect("a path of ours is text")]);
    }

    /// Makes a user with these roles.
    pub fn add_user(&self, name: &str, roles: &str) -> Invitation {
        invitation(&self.admin(&["users", "add", name, "--roles", roles, "--json"]))
    }

    /// Forgets a user's keys and password.
    pub fn reset_user(&self, name: &str) -> Invitation {
        invitation(&self.admin(&["users", "reset", name, "--json"]))
    }

    /// An administrator's command.
    ///
    /// # Panics
    /// If it fails.
    pub fn admin(&self, arguments: &[&str]) -> Output {
        run(&self.cluster(), arguments)
    }

    /// The records of the audit of this kind, oldest first.
    pub fn audit(&self, event: &str) -> Vec<Value> {
        let tail = self.admin(&["audit", "tail", "--lines", "100000"]);
        let text = String::from_utf8(tail.stdout).expect("records are UTF-8");
        let records = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        records.filter(|record| record["event"] == event).collect()
    }

    /// Waits until a record of this kind says this reason.
    ///
    /// # Panics
    /// If none comes that does.
    pub fn audited(&self, event: &str, reason: &str) {
        wait_for(&format!("{event} because of {reason}"), PATIENCE, || {
            self.audit(event).iter().any(|record| record["reason"] == reason).then_some(())
        });
    }

    /// What the proxy logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("proxy.log")).unwrap_or_default()
    }

    fn cluster(&self) -> PathBuf {
        self.directory.path().join("cluster")
    }

    /// Has the browser's user trust the cluster's CA, by the database that Chromium reads.
    fn trust(&self) {
        let database = self.home().join(".pki/nssdb");
        fs::create_dir_all(&database).expect("the browser's home");
        trust_in(&database, &self.cluster().join("keys/ca.der"));
    }
}

/// Has whoever uses this NSS database trust a CA.
///
/// # Panics
/// If certutil (libnss3-tools) is not there or fails.
pub fn trust_in(database: &Path, ca: &Path) {
    let name = format!("sql:{}", database.display());
    let import = ["-A", "-t", "C,,", "-n", "cluster", "-i"];
    for (arguments, file) in [(&["-N", "--empty-password"][..], None), (&import[..], Some(ca))] {
        let done = Command::new("certutil").args(["-d", &name]).args(arguments).args(file).output();
        let done = done.expect("certutil (Debian's libnss3-tools) is installed");
        assert!(done.status.success(), "certutil: {}", String::from_utf8_lossy(&done.stderr));
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let end: Vec<&str> = log.lines().rev().take(20).collect();
            crate::own_network::say(&format!("the proxy's log ends: {end:#?}"));
        }
        let _ = self.proxy.kill();
        let _ = self.proxy.wait();
    }
}

fn run_proxy(directory: &Path) -> Child {
    let log = fs::File::options().create(true).append(true).open(directory.join("proxy.log"));
    ends_with_test(binaries().join("portlatch-proxy").to_str().expect("cargo's directory is text"))
        .args(["run", "--dir"])
        .arg(directory.join("cluster"))
        .env("PORTLATCH_CLOCK_OFFSET", directory.join("clock"))
        .stdin(Stdio::null())
        .stderr(log.expect("a log"))
        .spawn()
        .expect("portlatch-proxy starts")
}

fn run(cluster: &Path, arguments: &[&str]) -> Output {
    let command =
        Command::new(binaries().join("portlatch-proxy")).args(arguments).arg("--dir").arg(cluster).output();
    let output = command.expect("portlatch-proxy stands beside the tests");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).expect("--json prints JSON")
}

fn invitation(output: &Output) -> Invitation {
    let json = json(output);
    let text = |name: &str| json[name].as_str().expect("a text").to_owned();
    Invitation { token: text("token"), link: text("link") }
}
