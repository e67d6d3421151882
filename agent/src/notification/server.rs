//! The notification server of the desktop (Desktop Notifications Specification 1.2): what it can do, and how it is asked.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::{SelectAll, select_all};
use zbus::message::Type;
use zbus::{Connection, MatchRule, Message, MessageStream, Variant};

const SERVICE: &str = "org.freedesktop.Notifications";
const PATH: &str = "/org/freedesktop/Notifications";
/// How long bus and server have for an answer: the prompt is seen on a terminal meanwhile.
const LONGEST_CALL: Duration = Duration::from_secs(5);
/// The keys of our actions.
const DENY: &str = "deny";
const BLOCK: &str = "block";

/// The server.
#[derive(Debug)]
pub(super) struct Server {
    connection: Connection,
    capabilities: Capabilities,
    signals: SelectAll<MessageStream>,
}

/// What of its capabilities matters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Capabilities {
    actions: Actions,
    body: Body,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Actions {
    #[default]
    No,
    Yes,
}

/// How it shows a body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Body {
    /// Not at all.
    #[default]
    No,
    /// As it is.
    Plain,
    /// As markup, so that text must be escaped.
    Markup,
}

/// A notification.
#[derive(Debug)]
pub(super) struct Notice<'a> {
    /// The one that it takes the place of; 0 for none.
    pub(super) replaces: u32,
    pub(super) summary: &'a str,
    pub(super) body: &'a str,
    pub(super) urgency: Urgency,
}

/// How a notification is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Urgency {
    /// As others, and to be read.
    Normal,
    /// Until it is decided, with the actions that decide it.
    Critical,
}

/// What comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// The person denied what this notification shows.
    Denied(u32),
    /// And blocked the program.
    Blocked(u32),
    /// The server has left.
    Gone,
}

impl Server {
    /// Finds it on the session bus, started by the bus if need be.
    ///
    /// # Errors
    /// If there is no bus or no server.
    pub(super) async fn find() -> zbus::Result<Self> {
        let silent = |_| zbus::Error::Failure("the session bus is silent".to_owned());
        tokio::time::timeout(LONGEST_CALL, Self::connect()).await.map_err(silent)?
    }

    async fn connect() -> zbus::Result<Self> {
        let connection = zbus::connection::Builder::session().method_timeout(LONGEST_CALL).build().await?;
        let answers = MatchRule::builder()
            .msg_type(Type::Signal)
            .sender(SERVICE)
            .path(PATH)
            .interface(SERVICE)
            .member("ActionInvoked")
            .build()?;
        let owners = MatchRule::builder()
            .msg_type(Type::Signal)
            .sender("org.freedesktop.DBus")
            .interface("org.freedesktop.DBus")
            .member("NameOwnerChanged")
            .arg(0, SERVICE)
            .build()?;
        let answers = MessageStream::for_match_rule(answers, &connection, None).await?;
        let asked = connection.call_method(Some(SERVICE), PATH, Some(SERVICE), "GetCapabilities", &());
        let names: Vec<String> = asked.await?.body().deserialize()?;
        // Only now: the bus may just have started it, which changes its owner as well.
        let owners = MessageStream::for_match_rule(owners, &connection, None).await?;
        let capabilities = Capabilities::named(&names);
        Ok(Self { connection, capabilities, signals: select_all([answers, owners]) })
    }

    /// Shows a notification and returns what it is called.
    ///
    /// # Errors
    /// If the server does not take it.
    pub(super) async fn notify(&self, notice: &Notice<'_>) -> zbus::Result<u32> {
        let (summary, body) = self.capabilities.text(notice);
        let actions = self.capabilities.actions(notice.urgency);
        let (urgency, timeout) = match notice.urgency {
            Urgency::Normal => (1_u8, -1),
            Urgency::Critical => (2_u8, 0),
        };
        let hints = HashMap::from([
            ("urgency", Variant::from(urgency)),
            ("resident", Variant::from(notice.urgency == Urgency::Critical)),
        ]);
        let body = ("Portlatch", notice.replaces, "dialog-password", summary, body, actions, hints, timeout);
        let shown = self.connection.call_method(Some(SERVICE), PATH, Some(SERVICE), "Notify", &body).await?;
        shown.body().deserialize()
    }

    /// Takes a notification away.
    ///
    /// # Errors
    /// If the server does not.
    pub(super) async fn close(&self, notification: u32) -> zbus::Result<()> {
        let (method, body) = ("CloseNotification", (notification,));
        self.connection.call_method(Some(SERVICE), PATH, Some(SERVICE), method, &body).await?;
        Ok(())
    }

    /// What a person decides next. Cancel-safe.
    pub(super) async fn answer(&mut self) -> Answer {
        loop {
            let Some(Ok(signal)) = self.signals.next().await else { return Answer::Gone };
            if let Some(answer) = understood(&signal) {
                return answer;
            }
        }
    }
}

fn understood(signal: &Message) -> Option<Answer> {
    if signal.header().member()?.as_str() == "NameOwnerChanged" {
        return Some(Answer::Gone);
    }
    let (notification, key): (u32, String) = signal.body().deserialize().ok()?;
    match key.as_str() {
        DENY => Some(Answer::Denied(notification)),
        BLOCK => Some(Answer::Blocked(notification)),
        _ => None,
    }
}

impl Capabilities {
    fn named(names: &[String]) -> Self {
        let has = |name: &str| names.iter().any(|other| other == name);
        let body = match (has("body"), has("body-markup")) {
            (_, true) => Body::Markup,
            (true, false) => Body::Plain,
            (false, false) => Body::No,
        };
        Self { actions: if has("actions") { Actions::Yes } else { Actions::No }, body }
    }

    /// Summary and body, as this server shows them.
    fn text(self, notice: &Notice<'_>) -> (String, String) {
        let summary = notice.summary.to_owned();
        match self.body {
            Body::No => (format!("{summary}: {}", notice.body), String::new()),
            Body::Plain => (summary, notice.body.to_owned()),
            Body::Markup => (summary, escaped(notice.body)),
        }
    }

    /// Pairs of key and label.
    fn actions(self, urgency: Urgency) -> Vec<&'static str> {
        match (self.actions, urgency) {
            (Actions::Yes, Urgency::Critical) => vec![DENY, "Deny", BLOCK, "Deny and block the program"],
            (Actions::Yes, Urgency::Normal) | (Actions::No, _) => Vec::new(),
        }
    }
}

/// Text inside markup.
fn escaped(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut escaped, c| {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(c),
        }
        escaped
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capabilities(names: &[&str]) -> Capabilities {
        Capabilities::named(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
    }

    const NOTICE: Notice<'_> = Notice {
        replaces: 0,
        summary: "Tap your security key",
        body: "a & <b>bold</b> \"program\"",
        urgency: Urgency::Critical,
    };

    #[test]
    fn text_is_escaped_where_it_would_be_markup() {
        let (summary, body) = capabilities(&["body", "body-markup"]).text(&NOTICE);
        assert_eq!(summary, "Tap your security key");
        assert_eq!(body, "a &amp; &lt;b&gt;bold&lt;/b&gt; &quot;program&quot;");
        assert_eq!(capabilities(&["body"]).text(&NOTICE).1, NOTICE.body);
    }

    #[test]
    fn a_server_without_bodies_shows_all_in_the_summary() {
        let (summary, body) = capabilities(&[]).text(&NOTICE);
        assert_eq!(
            (summary.as_str(), body.as_str()),
            ("Tap your security key: a & <b>bold</b> \"program\"", "")
        );
    }

    #[test]
    fn actions_are_offered_where_the_server_has_them() {
        assert_eq!(capabilities(&["actions"]).actions(Urgency::Critical).len(), 4);
        assert!(capabilities(&["actions"]).actions(Urgency::Normal).is_empty());
        assert!(capabilities(&["body"]).actions(Urgency::Critical).is_empty());
    }
}
