//! The proxy's side of a story: what control says, which grants open a session, and which sessions are cut.
//!
//! The code under test is what `portlatch-proxy` decides with: its view of control, the verification of grants, the
//! limits of users and the table of sessions, put together as it puts them together, without sockets.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::future::Future as _;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use portlatch_clock::{Clock, TimeOfDay};
use portlatch_protocol::frame::{self, LENGTH_BYTES};
use portlatch_protocol::names::Id;
use portlatch_protocol::stream::OpenRefusal;
use portlatch_protocol::watch::WatchMessage;
use portlatch_proxy::grant::{GrantFault, KnownGrants, VerifiedGrant};
use portlatch_proxy::limits::{Limits, MAX_TUNNELS, Place as Room};
use portlatch_proxy::sessions::{End, EndReason, Killed, LiveSession, SessionEntry, Sessions};
use portlatch_proxy::watch::{Effect, View};
use tokio::sync::watch;

use super::cluster::{BEGIN, CLUSTER_OF_ALL, LOGINS, PLACES, Place, STEP, Token, header_of};
use super::control::{Control, Facts};

/// Sessions, and streams on the way to be some, that a story has at once: each is looked at after each step.
const MOST_SESSIONS: usize = 48;
/// Refused streams of one user: a token of the bucket, and what it holds.
const REFUSAL: Duration = Duration::from_millis(50);
const MOST_REFUSALS: u32 = 1000;

/// A stream that was let in and has not begun: its target's name is being resolved.
struct Admitted {
    who: usize,
    token: &'static Token,
    place: &'static Place,
    grant: VerifiedGrant,
    room: Room,
}

/// A session, and what the model knows of it.
struct Live {
    who: usize,
    place: &'static Place,
    entry: SessionEntry,
    _room: Room,
    ended: Option<EndReason>,
    /// A lock that had ended stands again, since control's clock went back: who is in stays in until the next cut.
    is_spared: bool,
}

/// One user's use of the limits, as the model counts.
#[derive(Debug, Clone, Copy, Default)]
struct Usage {
    rooms: u32,
    tunnels: u32,
    /// How far the bucket of new connections, and that of refusals, is from full.
    opened: Duration,
    refused: Duration,
}

/// Why a stream was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotAdmitted {
    /// Control is silent.
    NotReady,
    Grant(GrantFault),
    UnknownResource,
    Limit,
    /// The story has enough of them.
    Enough,
}

impl NotAdmitted {
    /// What the daemon hears.
    pub(super) const fn refusal(self) -> OpenRefusal {
        match self {
            Self::NotReady | Self::Enough => OpenRefusal::Unavailable,
            Self::Grant(fault) => fault.refusal(),
            Self::UnknownResource => OpenRefusal::UnknownResource,
            Self::Limit => OpenRefusal::Limit,
        }
    }
}

/// The proxy, and the model beside it.
pub(super) struct Gate {
    mover: watch::Sender<Duration>,
    origin: Instant,
    passed: u32,
    view: Arc<View>,
    sessions: Arc<Sessions>,
    limits: Arc<Limits>,
    known: [KnownGrants; LOGINS],
    tunnels: Vec<(usize, Room)>,
    admitted: Vec<Admitted>,
    live: Vec<Live>,
    control: Control,
    facts: Option<Facts>,
    usage: [Usage; LOGINS],
    next_id: u32,
}

impl Gate {
    pub(super) fn new() -> Self {
        let (clock, mover) = Clock::still(TimeOfDay(BEGIN * 1000));
        let view = View::new("p1".parse().expect("a name"), clock);
        Self {
            mover,
            origin: Instant::now(),
            passed: 0,
            view,
            sessions: Arc::default(),
            limits: Arc::default(),
            known: Default::default(),
            tunnels: Vec::new(),
            admitted: Vec::new(),
            live: Vec::new(),
            control: Control::default(),
            facts: None,
            usage: Default::default(),
            next_id: 0,
        }
    }

    /// How long the story has been going on, by its own clock.
    pub(super) fn elapsed(&self) -> Duration {
        STEP * self.passed
    }

    pub(super) fn pass(&mut self, steps: u32) {
        self.passed += steps;
        self.mover.send_replace(STEP * self.passed);
        for usage in &mut self.usage {
            usage.opened = usage.opened.saturating_sub(STEP * steps);
            usage.refused = usage.refused.saturating_sub(STEP * steps);
        }
    }

    fn now(&self) -> Instant {
        self.origin + STEP * self.passed
    }

    /// Control's clock is set, and tells nobody.
    pub(super) fn set_control_clock(&mut self, steps: i8) {
        self.control.skew = steps;
    }

    /// Control says something.
    pub(super) fn hear(&mut self, kind: u8, number: u8, mode: u8) {
        let message = self.control.message((kind, number, mode), self.passed);
        let before = self.facts.as_ref().map(|facts| facts.now(self.passed));
        Facts::take(&mut self.facts, &message, self.passed);
        let after = self.facts.as_ref().map(|facts| facts.now(self.passed));
        // As it comes from the wire.
        let bytes = frame::encode(&message, usize::MAX >> 1).expect("a message of ours");
        let message: WatchMessage = frame::decode(&bytes[LENGTH_BYTES..]).expect("a message of ours");
        if self.view.handle_message(message) == Effect::Recheck {
            self.sessions.end_where(|session| self.view.objection(&session.login, &session.resource));
        } else if after < before {
            self.live.iter_mut().for_each(|live| live.is_spared = true);
        }
        self.check_ends(None);
        for (who, tunnel) in CLUSTER_OF_ALL.tunnels.iter().enumerate() {
            let expected = self.facts.as_ref().is_some_and(|facts| facts.is_tunnel_cut(who, self.passed));
            assert_eq!(self.view.tunnel_objection(&tunnel.login).is_some(), expected, "a tunnel's right");
        }
    }

    /// Every session against which something stands is told to end, for such a reason; and no other one.
    fn check_ends(&mut self, killed: Option<usize>) {
        let reasons_against = |who: usize, place: &Place| -> Vec<EndReason> {
            let facts = self.facts.as_ref();
            let objections = facts.map_or(Vec::new(), |facts| facts.objections(who, place, self.passed));
            objections.into_iter().map(EndReason::from).collect()
        };
        // Many sessions are of the same login and to the same place.
        let against: [[OnceCell<Vec<EndReason>>; PLACES]; LOGINS] = Default::default();
        for (number, live) in self.live.iter_mut().enumerate() {
            let told = told_of(&live.entry.end);
            if live.ended.is_some() {
                assert_eq!(told, live.ended, "an end was taken back, or has another reason now");
                continue;
            }
            let may_end =
                against[live.who][live.place.number].get_or_init(|| reasons_against(live.who, live.place));
            match told {
                None => {
                    let may_stay = may_end.is_empty() || live.is_spared && *may_end == [EndReason::Locked];
                    assert!(may_stay && killed != Some(number), "a session goes on: {may_end:?}");
                }
                Some(EndReason::Killed) => assert_eq!(killed, Some(number), "another one was killed"),
                Some(reason) => assert!(may_end.contains(&reason), "ended for {reason:?} of {may_end:?}"),
            }
            live.ended = told;
        }
        assert_eq!(self.sessions.count(), self.live.len(), "sessions in the table");
    }

    /// A stream on a tunnel asks for a session with this grant, of which one character may be altered.
    pub(super) fn open(
        &mut self,
        who: usize,
        token: &'static Token,
        place: &'static Place,
        altered: Option<u16>,
    ) -> Result<(), NotAdmitted> {
        if self.live.len() + self.admitted.len() >= MOST_SESSIONS {
            return Err(NotAdmitted::Enough);
        }
        let opened = self.admit(who, token, place, altered);
        if let Err(fault) = opened
            && fault != NotAdmitted::NotReady
        {
            let user = &CLUSTER_OF_ALL.tunnels[who].login.user;
            let usage = &mut self.usage[who].refused;
            let is_room = *usage + REFUSAL <= REFUSAL * MOST_REFUSALS;
            *usage += if is_room { REFUSAL } else { Duration::ZERO };
            let now = self.origin + STEP * self.passed;
            assert_eq!(self.limits.refusal(user, now).is_ok(), is_room, "refusals are counted otherwise");
        }
        opened
    }

    fn admit(
        &mut self,
        who: usize,
        token: &'static Token,
        place: &'static Place,
        altered: Option<u16>,
    ) -> Result<(), NotAdmitted> {
        let is_ready = self.facts.as_ref().is_some_and(|facts| facts.is_fresh(self.passed));
        assert_eq!(self.view.is_ready(), is_ready, "whether control is heard");
        if !is_ready {
            return Err(NotAdmitted::NotReady);
        }
        let facts = self.facts.as_ref().expect("it is ready");
        let open = match altered {
            None => Cow::Borrowed(CLUSTER_OF_ALL.header(token, place)),
            Some(at) => Cow::Owned(header_of(place, alter(&token.text, at))),
        };
        let tunnel = &CLUSTER_OF_ALL.tunnels[who];
        let grant = VerifiedGrant::verify(&open, tunnel, &self.view, &self.known[who]);
        if altered.is_some() {
            assert!(grant.is_err(), "an altered grant is good");
        } else {
            let faults = facts.faults(token, who, place, self.passed);
            match &grant {
                Ok(_) => assert!(faults.is_empty(), "a bad grant is good: {faults:?}"),
                Err(fault) => assert!(faults.contains(fault), "{fault:?} of {faults:?}"),
            }
        }
        let grant = grant.map_err(NotAdmitted::Grant)?;
        assert_eq!(grant.claims(), &token.claims, "another grant was verified");
        let resource = self.view.resource(&place.id).filter(|resource| {
            resource.ports.iter().any(|range| range.contains(place.port))
                && resource.host.is_announced_as(&open.host)
        });
        assert_eq!(resource.is_some(), facts.has(place), "a resource's ports");
        if resource.is_none() {
            return Err(NotAdmitted::UnknownResource);
        }
        let room = self.take_room(who, token).ok_or(NotAdmitted::Limit)?;
        self.admitted.push(Admitted { who, token, place, grant, room });
        Ok(())
    }

    fn take_room(&mut self, who: usize, token: &Token) -> Option<Room> {
        let limits = token.claims.limits;
        let room = self.limits.connection(&CLUSTER_OF_ALL.tunnels[who].login.user, limits, self.now()).ok();
        let usage = &mut self.usage[who];
        let one = Duration::from_secs(1).checked_div(limits.rate);
        let is_room = usage.rooms < limits.connections
            && one.is_some_and(|one| usage.opened + one <= one * limits.burst && limits.burst > 0);
        assert_eq!(room.is_some(), is_room, "a limit: {usage:?}, {limits:?}");
        if is_room {
            usage.rooms += 1;
            usage.opened += one.unwrap_or_default();
        }
        room
    }

    /// A stream's target is resolved: its session begins, unless control has said something meanwhile.
    pub(super) fn begin(&mut self, number: usize) {
        if self.admitted.is_empty() {
            return;
        }
        let Admitted { who, token, place, grant, room } =
            self.admitted.swap_remove(number % self.admitted.len());
        self.next_id += 1;
        let tunnel = &CLUSTER_OF_ALL.tunnels[who];
        let entry = self.sessions.add(LiveSession {
            id: id_of(self.next_id),
            login: tunnel.login.clone(),
            resource: place.id.clone(),
            port: place.port,
            target: ([192, 0, 2, 1], place.port).into(),
            client: ([192, 0, 2, 2], 1234).into(),
            program: None,
            started: TimeOfDay((BEGIN + i64::from(self.next_id)) * 1000),
            bytes_in: 0.into(),
            bytes_out: 0.into(),
            end: End::default(),
        });
        let facts = self.facts.as_ref().expect("something was let in");
        let faults = facts.faults_by_now(token, who, place, self.passed);
        match grant.check_standing(tunnel, &self.view) {
            Ok(()) => {
                assert!(faults.is_empty(), "a session begins in spite of {faults:?}");
                self.live.push(Live { who, place, entry, _room: room, ended: None, is_spared: false });
            }
            Err(fault) => {
                assert!(faults.contains(&fault), "{fault:?} of {faults:?}");
                self.usage[who].rooms -= 1;
                drop((entry, room));
            }
        }
        self.check_ends(None);
    }

    /// A session's end: its program or target closed it, or it heard that it has to.
    pub(super) fn close(&mut self, number: usize) {
        if self.live.is_empty() {
            return;
        }
        let live = self.live.swap_remove(number % self.live.len());
        self.usage[live.who].rooms -= 1;
        let id = live.entry.id.clone();
        drop(live);
        assert_eq!(self.sessions.kill(&id), Killed::Unknown, "a session that is over is there");
        self.check_ends(None);
    }

    /// An administrator ends one.
    pub(super) fn kill(&mut self, number: usize) {
        if self.live.is_empty() {
            return;
        }
        let number = number % self.live.len();
        assert_eq!(self.sessions.kill(&self.live[number].entry.id), Killed::Ended);
        self.check_ends(Some(number));
    }

    /// A tunnel comes, if there is room for one more of this user.
    pub(super) fn tunnel_up(&mut self, who: usize) {
        let room = self.limits.tunnel(&CLUSTER_OF_ALL.tunnels[who].login.user);
        assert_eq!(room.is_ok(), self.usage[who].tunnels < MAX_TUNNELS, "tunnels are counted otherwise");
        if let Ok(room) = room {
            self.usage[who].tunnels += 1;
            self.tunnels.push((who, room));
        }
    }

    /// A login's tunnels are lost, with all that ran on them.
    pub(super) fn lose(&mut self, who: usize) {
        self.known[who] = KnownGrants::default();
        self.tunnels.retain(|(whose, _)| *whose != who);
        self.admitted.retain(|admitted| admitted.who != who);
        self.live.retain(|live| live.who != who);
        (self.usage[who].rooms, self.usage[who].tunnels) = (0, 0);
        self.check_ends(None);
    }
}

/// The reason for which a session was told to end.
fn told_of(end: &End) -> Option<EndReason> {
    match pin!(end.called()).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(reason) => Some(reason),
        Poll::Pending => None,
    }
}

/// The token with one character altered.
fn alter(token: &str, at: u16) -> String {
    let mut bytes = token.as_bytes().to_vec();
    let at = usize::from(at) % bytes.len();
    bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
    String::from_utf8(bytes).expect("a grant is ASCII")
}

fn id_of(number: u32) -> Id {
    format!("{number:08x}").parse().expect("an identifier")
}
