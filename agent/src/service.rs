//! The per-user background process: it keeps the login attached to the daemon, answers who wants access, and opens one
//! prompt at a time.
//!
//! One task owns everything here; others (the link to the daemon, the socket for commands, the requests to control, the
//! security key) send it messages. It never waits for any of them.
//!
//! ```text
//! daemon:  access wanted --> ask control --> granted | refused ----------------------------------> daemon
//!                                  '-> tap needed --> daemon: proceed --> broker: its turn
//!                                                       --> challenge --> key --> control --> granted --> daemon
//! ```

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use portlatch_clock::{BootTime, Clock};
use portlatch_protocol::api::Catalogue;
use portlatch_protocol::api::ceremony::CeremonyOutcome;
use portlatch_protocol::attach::ToDaemon;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinSet;

use crate::absence::sleep::SleepWatch;
use crate::absence::{Absence, SeatEvent, logind};
use crate::broker::{Broker, RequestId};
use crate::daemon::{Link, LinkEvent, socket_path};
use crate::files::Files;
use crate::identify::Program;
use crate::keys::Key;
use crate::local::Tell;
use crate::mfa_mode::MfaMode;
use crate::notification::Desktop;
use crate::safe_text::sentence;
use crate::status::{Refusals, StatusReport};

mod access;
mod attach;
mod leaving;
mod login;
mod people;
mod pins;
mod prompting;
mod reasons;
mod server;
mod tapping;
mod wishes;
mod work;

use access::Request;
use attach::DaemonState;
use leaving::Leaving;
use login::LoginState;
pub(crate) use people::Command;
use prompting::OpenPrompt;
use reasons::Reasons;
pub(crate) use server::Server;
use tapping::TapEvent;
use work::Done;

/// What waits to be handled, from each side: more than that and the sender waits.
const EVENTS: usize = 256;
/// What people have not read yet; who is slower misses the oldest.
const TELLS: usize = 256;
/// How often the login's file is looked at, and whether those who asked still listen.
const TICK: Duration = Duration::from_secs(1);

/// Ticks between two greetings of a daemon that no login is attached to: it lets go of who is silent for 30 s, and what
/// it refused meanwhile is learnt.
const QUIET_TICKS: u64 = 5;

/// Whether the agent taps a software key when somebody presses Enter.
pub(crate) type Enter = Box<dyn Fn() + Send>;

/// What the service is made of.
pub(crate) struct Parts {
    /// Where the login is.
    pub(crate) files: Files,
    /// The time.
    pub(crate) clock: Clock,
    /// The security key.
    pub(crate) key: Key,
    /// What Enter does.
    pub(crate) enter: Enter,
    /// How to prove presence, if not as the login says.
    pub(crate) mode: Option<MfaMode>,
    /// Whether people see what the agent itself writes.
    pub(crate) terminal: Terminal,
}

/// Whether people see what the agent itself writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Terminal {
    /// On a terminal.
    Seen,
    /// To a log or nowhere.
    Unseen,
}

/// The service's state.
pub(crate) struct Service {
    files: Files,
    clock: Clock,
    key: Key,
    enter: Enter,
    login: LoginState,
    daemon: DaemonState,
    catalogue: Option<Arc<Catalogue>>,
    requests: HashMap<RequestId, Request>,
    broker: Broker,
    prompt: Option<OpenPrompt>,
    /// What the prompt which is just closing brought.
    outcome: Option<CeremonyOutcome>,
    /// Taps so far: whoever waited while there was one may be served by it.
    taps: u64,
    /// How to prove presence, if not as the login says.
    mode: Option<MfaMode>,
    refusals: Refusals,
    reasons: Reasons,
    /// Whose sockets the last requests' were, for refusals that follow.
    programs: VecDeque<(u64, Program)>,
    status_wanted: Vec<(oneshot::Sender<StatusReport>, BootTime)>,
    people: broadcast::Sender<Tell>,
    terminal: Terminal,
    desktop: Desktop,
    absence: Absence,
    sleep: SleepWatch,
    leaving: Leaving,
    /// Those of the agent's own that hear what people are told.
    own_ears: usize,
    /// From the prompt of this number.
    tap_events: mpsc::Sender<(u64, TapEvent)>,
    tasks: JoinSet<Done>,
    counter: u64,
    complaints: HashMap<Trouble, String>,
    ticks: u64,
}

/// Where the service's messages come from.
pub(crate) struct Inbox {
    commands: mpsc::Receiver<Command>,
    links: mpsc::Receiver<LinkEvent>,
    taps: mpsc::Receiver<(u64, TapEvent)>,
    seat: mpsc::Receiver<SeatEvent>,
    seat_events: mpsc::Sender<SeatEvent>,
    link: Link,
}

/// What may be amiss, each told once for as long as it lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Trouble {
    /// The login's files.
    Files,
    /// The daemon.
    Daemon,
    /// Attaching to it.
    Attach,
    /// Control.
    Control,
    /// Prompts that nobody sees.
    Unseen,
}

/// How others speak to the service.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    /// Commands.
    pub(crate) commands: mpsc::Sender<Command>,
}

impl Service {
    /// A service that has not begun.
    pub(crate) fn new(parts: Parts) -> (Self, Inbox, Handle) {
        let (commands, command_inbox) = mpsc::channel(EVENTS);
        let (link_events, links) = mpsc::channel(EVENTS);
        let (tap_events, taps) = mpsc::channel(EVENTS);
        let link = Link { socket: socket_path(), events: link_events };
        let Parts { files, clock, key, enter, mode, terminal } = parts;
        let service = Self {
            files,
            clock,
            key,
            enter,
            login: LoginState::default(),
            daemon: DaemonState::Down,
            catalogue: None,
            requests: HashMap::new(),
            broker: Broker::default(),
            prompt: None,
            outcome: None,
            taps: 0,
            mode,
            refusals: Refusals::default(),
            reasons: Reasons::default(),
            programs: VecDeque::new(),
            status_wanted: Vec::new(),
            people: broadcast::channel(TELLS).0,
            terminal,
            desktop: Desktop::IsNotThere,
            absence: Absence::default(),
            sleep: SleepWatch::new(),
            leaving: Leaving::default(),
            own_ears: 0,
            tap_events,
            tasks: JoinSet::new(),
            counter: 0,
            complaints: HashMap::new(),
            ticks: 0,
        };
        let (seat_events, seat) = mpsc::channel(EVENTS);
        let inbox = Inbox { commands: command_inbox, links, taps, seat, seat_events, link };
        (service, inbox, Handle { commands })
    }

    /// What the service says to people, for the agent's own front-ends.
    pub(crate) fn subscribe(&mut self) -> broadcast::Receiver<Tell> {
        self.own_ears += 1;
        self.people.subscribe()
    }

    /// How many front-ends there are on which a person can see prompts.
    fn eyes(&self) -> usize {
        let watching = self.people.receiver_count().saturating_sub(self.own_ears);
        watching + usize::from(self.terminal == Terminal::Seen) + usize::from(self.desktop == Desktop::Shows)
    }

    /// Serves for ever; whoever runs it drops it to end it.
    pub(crate) async fn run(mut self, inbox: Inbox) {
        let Inbox { mut commands, mut links, mut taps, mut seat, seat_events, link } = inbox;
        let mut helpers = JoinSet::new();
        helpers.spawn(link.run());
        helpers.spawn(logind::listen(seat_events));
        let mut tick = tokio::time::interval(TICK);
        let clock = self.clock.clone();
        self.handle_login_files();
        loop {
            let wake_at = self.next_deadline();
            let deadline = async {
                match wake_at {
                    Some(at) => clock.sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(event) = links.recv() => self.handle_link(event),
                Some(command) = commands.recv() => self.handle_command(command),
                Some((number, event)) = taps.recv() => self.handle_tap_event(number, event),
                Some(event) = seat.recv() => self.handle_seat_event(event),
                Some(done) = self.tasks.join_next() => match done {
                    Ok(done) => self.handle_done(done),
                    Err(error) => tracing::error!(%error, "a task of the agent ended badly"),
                },
                _ = tick.tick() => self.handle_tick(),
                () = clock.moved() => self.handle_time(),
                () = deadline => self.handle_time(),
            }
        }
    }

    fn next_deadline(&self) -> Option<BootTime> {
        let requests = self.next_give_up();
        let status = self.status_wanted.iter().map(|(_, deadline)| *deadline);
        let others = [self.broker.poll_timeout(), self.login.attach_after, self.absence.poll_timeout()];
        requests.into_iter().chain(status).chain(others.into_iter().flatten()).min()
    }

    fn handle_tick(&mut self) {
        self.handle_login_files();
        self.take_up_lapsed_login();
        self.drop_deserted();
        self.ticks += 1;
        // Without a login whatever is refused is news, and asks for one.
        if self.ticks.is_multiple_of(QUIET_TICKS) || self.login.active.is_none() {
            self.greet_daemon();
        }
        self.handle_time();
    }

    fn handle_time(&mut self) {
        let now = self.clock.boot_time();
        self.end_expired_login();
        self.retry_attach(now);
        self.give_up_requests(now);
        self.answer_status_late(now);
        self.see_to_absence(now);
        self.broker.handle_timeout(now);
        self.obey_broker();
    }

    /// Tells everybody who watches.
    fn note(&self, text: impl Into<String>) {
        // Nobody need be watching.
        let _ = self.people.send(Tell::Note { text: text.into() });
    }

    /// Tells a trouble once, until it is another one or over.
    fn complain(&mut self, trouble: Trouble, text: impl Into<String>) {
        let text = sentence(&text.into());
        if self.complaints.get(&trouble) != Some(&text) {
            self.note(text.clone());
            self.complaints.insert(trouble, text);
        }
    }

    /// The trouble is over: the next one of this kind is told again.
    fn settle(&mut self, trouble: Trouble) {
        self.complaints.remove(&trouble);
    }

    fn send(&mut self, message: ToDaemon) {
        let sent = self.daemon.sender().is_some_and(|sender| sender.try_send(message).is_ok());
        if !sent && self.daemon.sender().is_some() {
            // A daemon that takes nothing any more is not worth waiting for: begin anew.
            tracing::warn!("the daemon takes no messages: beginning anew");
            self.handle_daemon_gone();
        }
    }

    fn next_number(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }
}
