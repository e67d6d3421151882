//! A message bus of the test's own (a real dbus-daemon), and the two services that the agent speaks to there: the
//! desktop's notifications and systemd-logind, as far as the agent sees them.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use zbus::message::Type;
use zbus::{Connection, Message, MessageStream, ObjectPath, OwnedVariant, Variant};

use super::PATIENCE;

const NOTIFICATIONS: &str = "org.freedesktop.Notifications";
const NOTIFICATIONS_PATH: &str = "/org/freedesktop/Notifications";
const LOGIND: &str = "org.freedesktop.login1";
const LOGIND_PATH: &str = "/org/freedesktop/login1";
const SESSION: &str = "org.freedesktop.login1.Session";

/// The bus; it ends with this.
pub(crate) struct Bus {
    address: String,
    _daemon: Child,
}

impl Bus {
    /// Starts a bus whose socket is in this directory.
    pub(crate) async fn start(directory: &Path) -> Self {
        let socket = directory.join("bus");
        let config = directory.join("bus.conf");
        std::fs::write(
            &config,
            format!(
                r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
                "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
                <busconfig><type>session</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>
                <policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/>
                <allow own="*"/></policy></busconfig>"#,
                socket.display()
            ),
        )
        .unwrap();
        std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o644)).unwrap();
        let mut daemon = Command::new("dbus-daemon")
            .arg(format!("--config-file={}", config.display()))
            .args(["--nofork", "--print-address"])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("dbus-daemon is installed (Debian: dbus)");
        let mut lines = BufReader::new(daemon.stdout.take().unwrap()).lines();
        let address = timeout(PATIENCE, lines.next_line()).await.expect("the bus starts").unwrap().unwrap();
        Self { address, _daemon: daemon }
    }

    /// Where it is.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    async fn service(&self, name: &'static str) -> (Connection, MessageStream) {
        let connection = zbus::connection::Builder::address(self.address.as_str()).build().await.unwrap();
        let calls = MessageStream::from(&connection);
        connection.request_name(name).await.unwrap();
        (connection, calls)
    }
}

/// The next call of a service, with the name of its method.
async fn next_call(calls: &mut MessageStream) -> Option<(Message, String)> {
    loop {
        let message = calls.next().await?.ok()?;
        if message.message_type() == Type::MethodCall {
            let member = message.header().member().unwrap().to_string();
            return Some((message, member));
        }
    }
}

/// A notification as the server got it.
#[derive(Debug, Clone)]
pub(crate) struct Notified {
    pub(crate) id: u32,
    pub(crate) replaces: u32,
    pub(crate) summary: String,
    pub(crate) body: String,
    pub(crate) actions: Vec<String>,
    pub(crate) urgency: u8,
}

/// The desktop's notification server.
pub(crate) struct Desktop {
    connection: Connection,
    notified: mpsc::UnboundedReceiver<Notified>,
    closed: mpsc::UnboundedReceiver<u32>,
    _calls: JoinSet<()>,
}

impl Desktop {
    /// Serves on this bus, with these capabilities.
    pub(crate) async fn start(bus: &Bus, capabilities: &'static [&'static str]) -> Self {
        let (connection, mut calls) = bus.service(NOTIFICATIONS).await;
        let (notifies, notified) = mpsc::unbounded_channel();
        let (closes, closed) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        let replies = connection.clone();
        tasks.spawn(async move {
            let mut last = 0;
            while let Some((call, method)) = next_call(&mut calls).await {
                let header = call.header();
                match method.as_str() {
                    "GetCapabilities" => replies.reply(&header, &capabilities.to_vec()).await.unwrap(),
                    "Notify" => {
                        let mut notified = notice(&call);
                        last += 1;
                        notified.id = if notified.replaces == 0 { last } else { notified.replaces };
                        replies.reply(&header, &notified.id).await.unwrap();
                        notifies.send(notified).unwrap();
                    }
                    "CloseNotification" => {
                        replies.reply(&header, &()).await.unwrap();
                        closes.send(call.body().deserialize::<u32>().unwrap()).unwrap();
                    }
                    other => panic!("no server has a method {other}"),
                }
            }
        });
        Self { connection, notified, closed, _calls: tasks }
    }

    /// The next notification.
    pub(crate) async fn notified(&mut self) -> Notified {
        timeout(PATIENCE, self.notified.recv()).await.expect("a notification is shown").unwrap()
    }

    /// The next one that is taken away.
    pub(crate) async fn closed(&mut self) -> u32 {
        timeout(PATIENCE, self.closed.recv()).await.expect("a notification is taken away").unwrap()
    }

    /// Whether nothing more is shown.
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.notified.try_recv().is_err()
    }

    /// The person presses a button of a notification.
    pub(crate) async fn press(&self, notification: u32, key: &str) {
        let (path, name) = (NOTIFICATIONS_PATH, NOTIFICATIONS);
        let body = (notification, key);
        self.connection.emit_signal(None::<&str>, path, name, "ActionInvoked", &body).await.unwrap();
    }

    /// The server ends.
    pub(crate) async fn end(self) {
        self.connection.close().await.unwrap();
    }
}

fn notice(call: &Message) -> Notified {
    type Body = (String, u32, String, String, String, Vec<String>, HashMap<String, OwnedVariant>, i32);
    let body = call.body();
    let (application, replaces, _icon, summary, body, actions, mut hints, _timeout): Body =
        body.deserialize().unwrap();
    assert_eq!(application, "Portlatch");
    let urgency = u8::try_from(hints.remove("urgency").unwrap()).unwrap();
    Notified { id: 0, replaces, summary, body, actions, urgency }
}

/// systemd-logind with sessions of this user and of another one.
pub(crate) struct Logind {
    connection: Connection,
    sessions: Arc<Mutex<Vec<LogindSession>>>,
    /// How often a screen was asked whether it is locked.
    looked: Arc<AtomicUsize>,
    _calls: JoinSet<()>,
}

/// What a session says of itself.
#[derive(Debug, Clone)]
pub(crate) struct LogindSession {
    pub(crate) name: &'static str,
    pub(crate) uid: u32,
    pub(crate) class: &'static str,
    pub(crate) is_locked: bool,
}

impl LogindSession {
    /// One of this user in which a person is.
    pub(crate) fn own(name: &'static str) -> Self {
        Self { name, uid: rustix::process::geteuid().as_raw(), class: "user", is_locked: false }
    }
}

/// What a session's `LockedHint` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hint {
    Locked,
    Open,
}

fn path_of(name: &str) -> ObjectPath<'static> {
    format!("{LOGIND_PATH}/session/{name}").try_into().unwrap()
}

impl Logind {
    pub(crate) async fn start(bus: &Bus, sessions: Vec<LogindSession>) -> Self {
        let (connection, mut calls) = bus.service(LOGIND).await;
        let sessions = Arc::new(Mutex::new(sessions));
        let mut tasks = JoinSet::new();
        let looked = Arc::<AtomicUsize>::default();
        let (replies, listed, looks) = (connection.clone(), sessions.clone(), looked.clone());
        tasks.spawn(async move {
            while let Some((call, method)) = next_call(&mut calls).await {
                let header = call.header();
                let sessions = listed.lock().unwrap().clone();
                match method.as_str() {
                    "ListSessions" => {
                        let row = |s: &LogindSession| (s.name, s.uid, "jerry", "seat0", path_of(s.name));
                        let rows: Vec<_> = sessions.iter().map(row).collect();
                        replies.reply(&header, &rows).await.unwrap();
                    }
                    "Get" => {
                        let path = header.path().unwrap().to_string();
                        let session = sessions.iter().find(|s| path_of(s.name).as_str() == path).unwrap();
                        let body = call.body();
                        let (_, property): (String, String) = body.deserialize().unwrap();
                        let value = match property.as_str() {
                            "Class" => Variant::from(session.class),
                            "State" => Variant::from("active"),
                            "LockedHint" => Variant::from(session.is_locked),
                            other => panic!("no session has a property {other}"),
                        };
                        replies.reply(&header, &value).await.unwrap();
                        looks.fetch_add(usize::from(property == "LockedHint"), Ordering::Relaxed);
                    }
                    other => panic!("logind has no method {other}"),
                }
            }
        });
        Self { connection, sessions, looked, _calls: tasks }
    }

    /// `loginctl lock-session`, and a desktop that obeys and says so.
    pub(crate) async fn lock(&self, name: &str) {
        self.signal(path_of(name), SESSION, "Lock", &()).await;
        self.hint(name, Hint::Locked).await;
    }

    /// `loginctl lock-session`, and nobody says what came of it. Waits until the agent has heard of it, which then looks.
    pub(crate) async fn tell_to_lock(&self, name: &str) {
        let before = self.looked.load(Ordering::Relaxed);
        self.signal(path_of(name), SESSION, "Lock", &()).await;
        let heard = async {
            while self.looked.load(Ordering::Relaxed) == before {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, heard).await.expect("the agent hears of it");
    }

    /// The screen is unlocked, as GNOME says it: the hint alone.
    pub(crate) async fn unlock_by_hint(&self, name: &str) {
        self.hint(name, Hint::Open).await;
    }

    /// `loginctl unlock-session`, and a desktop that obeys and says so.
    pub(crate) async fn unlock(&self, name: &str) {
        self.signal(path_of(name), SESSION, "Unlock", &()).await;
        self.hint(name, Hint::Open).await;
    }

    async fn hint(&self, name: &str, hint: Hint) {
        let is_locked = hint == Hint::Locked;
        for session in self.sessions.lock().unwrap().iter_mut().filter(|session| session.name == name) {
            session.is_locked = is_locked;
        }
        let changed = HashMap::from([("LockedHint", Variant::from(is_locked))]);
        let body = (SESSION, changed, Vec::<String>::new());
        self.signal(path_of(name), "org.freedesktop.DBus.Properties", "PropertiesChanged", &body).await;
    }

    /// The machine goes to sleep and wakes up.
    pub(crate) async fn sleep_and_wake(&self) {
        let path = ObjectPath::try_from(LOGIND_PATH).unwrap();
        for is_about_to in [true, false] {
            let manager = "org.freedesktop.login1.Manager";
            self.signal(path.clone(), manager, "PrepareForSleep", &(is_about_to,)).await;
        }
    }

    async fn signal<B>(&self, path: ObjectPath<'_>, interface: &str, member: &str, body: &B)
    where
        B: serde::Serialize + zbus::DynamicType,
    {
        self.connection.emit_signal(None::<&str>, path, interface, member, body).await.unwrap();
    }
}
