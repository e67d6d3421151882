//! systemd-logind, over the system bus: which sessions the user has, whether their screens are locked, and when the machine
//! wakes up. Without it nothing is known, and everything else works.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::{SelectAll, select_all};
use tokio::sync::mpsc;
use zbus::message::Type;
use zbus::{Connection, MatchRule, Message, MessageStream, OwnedObjectPath, OwnedVariant};

use super::{Screen, SeatEvent};
use crate::safe_text::{safe_sentence, without_number};

const SERVICE: &str = "org.freedesktop.login1";
const MANAGER_PATH: &str = "/org/freedesktop/login1";
const MANAGER: &str = "org.freedesktop.login1.Manager";
const SESSION: &str = "org.freedesktop.login1.Session";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
/// How long the bus and logind have for an answer.
const LONGEST_CALL: Duration = Duration::from_secs(5);
/// Between two looks for logind: where there is none, none will come.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// A row of `ListSessions`: session, uid, user, seat, path.
type Row = (String, u32, String, String, OwnedObjectPath);

/// Tells what logind says for as long as somebody listens.
pub(crate) async fn listen(events: mpsc::Sender<SeatEvent>) {
    while !events.is_closed() {
        match tokio::time::timeout(LONGEST_CALL, Listener::connect()).await {
            Ok(Ok(listener)) => {
                let ended = listener.run(&events).await;
                tracing::debug!(?ended, "logind is not heard any more");
            }
            Ok(Err(error)) => tracing::debug!(%error, "no logind"),
            Err(_) => tracing::debug!("no logind: the bus is silent"),
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Whether logind can be heard; if not, why.
///
/// # Errors
/// What the bus said.
pub(crate) async fn look_for_it() -> Result<(), String> {
    let looked = async { Listener::connect().await?.sessions().await };
    match tokio::time::timeout(LONGEST_CALL, looked).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(safe_sentence(without_number(&error.to_string()))),
        Err(_) => Err("the bus is silent".to_owned()),
    }
}

#[derive(Debug)]
struct Listener {
    connection: Connection,
    signals: SelectAll<MessageStream>,
}

impl Listener {
    async fn connect() -> zbus::Result<Self> {
        let connection = zbus::connection::Builder::system().method_timeout(LONGEST_CALL).build().await?;
        let of = |interface: &'static str| {
            MatchRule::builder().msg_type(Type::Signal).sender(SERVICE).interface(interface)
        };
        let rules = [
            of(SESSION).build(),
            of(MANAGER).path(MANAGER_PATH).build(),
            of(PROPERTIES).member("PropertiesChanged").arg(0, SESSION).build(),
            MatchRule::builder()
                .msg_type(Type::Signal)
                .sender("org.freedesktop.DBus")
                .interface("org.freedesktop.DBus")
                .member("NameOwnerChanged")
                .arg(0, SERVICE)
                .build(),
        ];
        let mut streams = Vec::new();
        for rule in rules {
            streams.push(MessageStream::for_match_rule(rule?, &connection, None).await?);
        }
        Ok(Self { connection, signals: select_all(streams) })
    }

    async fn run(mut self, events: &mpsc::Sender<SeatEvent>) -> zbus::Result<()> {
        self.tell_sessions(events).await?;
        while let Some(signal) = self.signals.next().await {
            let signal = signal?;
            let is_heard = match self.understood(&signal) {
                Some(Heard::Event(event)) => events.send(event).await.is_ok(),
                Some(Heard::SessionsChanged) => self.tell_sessions(events).await.map(|()| true)?,
                // Whether it did so is the screen's own to say, by its hint: perhaps it has by now.
                Some(Heard::ToldToLock(event)) => {
                    let is_heard = events.send(event).await.is_ok();
                    self.tell_sessions(events).await.map(|()| is_heard)?
                }
                None => true,
            };
            if !is_heard {
                break;
            }
        }
        Ok(())
    }

    fn understood(&self, signal: &Message) -> Option<Heard> {
        let header = signal.header();
        let path = header.path().map(ToString::to_string);
        let screen = |screen| path.clone().map(|path| Heard::Event(SeatEvent::Screen(path, screen)));
        match header.member()?.as_str() {
            "Lock" => path.map(|path| Heard::ToldToLock(SeatEvent::ToldToLock(path))),
            "Unlock" => screen(Screen::Open),
            "PropertiesChanged" => {
                let body = signal.body();
                let (_, changed, _): (String, HashMap<String, OwnedVariant>, Vec<String>) =
                    body.deserialize().ok()?;
                let hint = changed.get("LockedHint")?.try_clone().ok()?;
                screen(bool::try_from(hint).ok()?.into())
            }
            // `true` announces the sleep, `false` the waking up.
            "PrepareForSleep" => {
                let is_about_to: bool = signal.body().deserialize().ok()?;
                (!is_about_to).then_some(Heard::Event(SeatEvent::Woke))
            }
            "SessionNew" | "SessionRemoved" | "NameOwnerChanged" => Some(Heard::SessionsChanged),
            _ => None,
        }
    }

    async fn tell_sessions(&self, events: &mpsc::Sender<SeatEvent>) -> zbus::Result<()> {
        // Whoever listens may have gone: the next signal shows it.
        let _ = events.send(SeatEvent::Sessions(self.sessions().await?)).await;
        Ok(())
    }

    /// The user's sessions in which a person can be.
    async fn sessions(&self) -> zbus::Result<Vec<(String, Screen)>> {
        let answer = self
            .connection
            .call_method(Some(SERVICE), MANAGER_PATH, Some(MANAGER), "ListSessions", &())
            .await?;
        let rows: Vec<Row> = answer.body().deserialize()?;
        let uid = rustix::process::geteuid().as_raw();
        let mut sessions = Vec::new();
        for (.., path) in rows.into_iter().filter(|(_, owner, ..)| *owner == uid) {
            // One that ends just now is no reason to know nothing of the others.
            match self.session(&path).await {
                Ok(Some(screen)) => sessions.push((path.to_string(), screen)),
                Ok(None) => {}
                Err(error) => tracing::debug!(%error, "a session of logind says nothing of itself"),
            }
        }
        Ok(sessions)
    }

    /// The session's screen; `None` where no person is (a user's manager, cron) or will be (it ends).
    async fn session(&self, path: &OwnedObjectPath) -> zbus::Result<Option<Screen>> {
        let class: String = self.property(path, "Class").await?;
        let state: String = self.property(path, "State").await?;
        if !class.starts_with("user") || state == "closing" {
            return Ok(None);
        }
        // Sessions without a screen have the property as well; it stays false.
        Ok(Some(self.property::<bool>(path, "LockedHint").await?.into()))
    }

    async fn property<T>(&self, path: &OwnedObjectPath, name: &str) -> zbus::Result<T>
    where
        T: TryFrom<OwnedVariant, Error = zbus::Error>,
    {
        let question = (SESSION, name);
        let answer =
            self.connection.call_method(Some(SERVICE), path, Some(PROPERTIES), "Get", &question).await?;
        let value: OwnedVariant = answer.body().deserialize()?;
        value.try_into()
    }
}

/// What a signal says.
enum Heard {
    Event(SeatEvent),
    ToldToLock(SeatEvent),
    SessionsChanged,
}

/// What `LockedHint` says.
impl From<bool> for Screen {
    fn from(is_locked: bool) -> Self {
        match is_locked {
            true => Self::Locked,
            false => Self::Open,
        }
    }
}
