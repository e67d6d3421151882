//! The daemon's side of a story: flows that wait for a grant, the agent that is asked for it, and what becomes of both.
//!
//! The model does not say what the tracker does; it says what it owes. Each flow that waits hears one last word, nobody
//! waits for nobody, the agent is asked once at a time for a port and told when nobody waits any more, a prompt opens
//! only where it may, and a grant is given out for its own port and its own time.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use portlatch_clock::BootTime;
use portlatch_protocol::attach::Grant;
use portlatch_protocol::grant::MAX_LIFETIME;
use portlatch_protocol::refusal::RefusalReason;
use portlatchd::tracker::{Event, PortKey, PromptOn, Tracker, Verdict, WaiterId, Wanted};

use super::cluster::{CLUSTER_OF_ALL, Place, Token};

/// Flows that a story has in all.
const MOST_FLOWS: u64 = 1_500;
/// Flows that may wait for a tap at one port (design section 8).
const MOST_AT_PORT: usize = 256;
/// Longer than anything that waits may wait: an answer, a prompt that queues, the prompt, or a grant.
const FOR_EVER: Duration = Duration::from_secs(3_600);
/// More events or deadlines than this from one step would be a loop.
const MAX_OUTPUT: usize = 10_000;
/// After a no, flows are refused for so long without asking.
const REST: Duration = Duration::from_secs(1);

/// A flow that has not heard its last word.
#[derive(Debug)]
struct Waiting {
    place: usize,
    /// It heard that a tap is needed.
    is_told: bool,
}

/// A request that the agent was asked and that is not over.
#[derive(Debug)]
struct Request {
    place: usize,
    is_tapping: bool,
    /// The daemon was told to see that there is a tunnel.
    wants_tunnel: bool,
    /// A grant serves meanwhile.
    is_renewal: bool,
}

/// What makes the tracker speak.
#[derive(Debug, Clone, Copy)]
enum Cause {
    /// A flow that wants this place.
    Flow(usize),
    Time,
    Other,
}

/// What the dial of a tunnel comes to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Dialled {
    Up,
    Down,
}

/// How many flows wait at a port, and how many of them for a tap.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    waiting: usize,
    told: usize,
}

/// What serves a port.
#[derive(Debug, Clone)]
struct Serving {
    token: &'static Token,
    is_tapped: bool,
    until: BootTime,
}

/// A flow that may go on to the proxy.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ready {
    pub(super) place: &'static Place,
    pub(super) token: &'static Token,
}

/// What the agent may say of a grant.
#[derive(Debug, Clone, Copy)]
pub(super) struct Brought {
    pub(super) token: &'static Token,
    pub(super) kind: u8,
}

impl Brought {
    fn grant(self) -> Grant {
        let amr = if self.is_tapped() { vec!["hwk".to_owned(), "user".to_owned()] } else { Vec::new() };
        let program = if self.is_sound() { None } else { Some("p".repeat(257)) };
        Grant { token: self.token.text.clone(), expires_in: self.expires_in(), amr, program }
    }

    fn expires_in(self) -> Duration {
        Duration::from_secs(match self.kind & 7 {
            0 => 0,
            1 => 30,
            2 => 100,
            3 => 100_000,
            _ => 300,
        })
    }

    fn is_tapped(self) -> bool {
        self.kind & 8 != 0
    }

    /// Whether it can be one of control's: its parts are as long as they may be.
    fn is_sound(self) -> bool {
        self.kind & 0xf0 != 0xf0
    }

    fn serving(self, now: BootTime) -> Serving {
        let until = now + self.expires_in().min(MAX_LIFETIME);
        Serving { token: self.token, is_tapped: self.is_tapped(), until }
    }
}

/// The tracker of one login, and the model beside it.
pub(super) struct Waits {
    tracker: Tracker,
    keys: Vec<PortKey>,
    now: BootTime,
    next_flow: u64,
    waiting: BTreeMap<u64, Waiting>,
    counts: [Counts; 4],
    requests: BTreeMap<u64, Request>,
    /// Requests whose tunnel is being dialled; some of them are over by now.
    dialling: VecDeque<u64>,
    asked: Vec<u64>,
    serving: BTreeMap<usize, Serving>,
    resting: BTreeMap<usize, BootTime>,
    ready: Vec<Ready>,
}

impl Waits {
    pub(super) fn new() -> Self {
        let key = |place: &Place| PortKey { resource: place.id.clone(), port: place.port };
        Self {
            tracker: Tracker::default(),
            keys: CLUSTER_OF_ALL.places.iter().map(key).collect(),
            now: BootTime::since_boot(Duration::from_secs(1_000)),
            next_flow: 0,
            waiting: BTreeMap::new(),
            counts: Default::default(),
            requests: BTreeMap::new(),
            dialling: VecDeque::new(),
            asked: Vec::new(),
            serving: BTreeMap::new(),
            resting: BTreeMap::new(),
            ready: Vec::new(),
        }
    }

    /// The flows that were granted since the last time.
    pub(super) fn take_ready(&mut self) -> Vec<Ready> {
        std::mem::take(&mut self.ready)
    }

    /// So many flows want this port.
    pub(super) fn want(&mut self, place: usize, count: u8, prompt_on: PromptOn) {
        for _ in 0..count.max(1) {
            if self.next_flow >= MOST_FLOWS {
                return;
            }
            self.next_flow += 1;
            let (flow, key) = (self.next_flow, &self.keys[place]);
            let host = &CLUSTER_OF_ALL.places[place].host;
            let now = self.now;
            self.serving.retain(|_, serving| serving.until > now);
            let serves = self.serving.contains_key(&place);
            let is_resting = self.resting.get(&place).is_some_and(|until| *until > self.now);
            let before = self.requests.values().filter(|request| request.place == place).count();
            self.waiting.insert(flow, Waiting { place, is_told: false });
            self.counts[place].waiting += 1;
            let wanted = Wanted { key, host, inode: flow, prompt_on };
            self.tracker.handle_flow(&wanted, WaiterId(flow), self.now);
            self.settle(Cause::Flow(place));
            let is_over = !self.waiting.contains_key(&flow);
            let asked = self.requests.values().filter(|request| request.place == place).count();
            if serves {
                assert!(is_over, "a flow waits where a grant serves");
            } else if is_resting {
                assert!(is_over && asked == 0, "the agent is asked right after a no");
            } else {
                assert!(before == 1 || asked == 1, "nobody was asked");
            }
        }
    }

    /// The program of a flow gives up.
    pub(super) fn gone(&mut self, number: usize) {
        let Some((flow, place)) = pick(&self.waiting, number) else { return };
        let Some(waiting) = self.waiting.remove(&flow) else { return };
        self.counts[place].waiting -= 1;
        self.counts[place].told -= usize::from(waiting.is_told);
        self.tracker.handle_flow_gone(&self.keys[place], WaiterId(flow));
        self.settle(Cause::Other);
        // Whoever has gone twice, or heard its word already, is nobody.
        self.tracker.handle_flow_gone(&self.keys[place], WaiterId(flow));
        self.settle(Cause::Other);
    }

    pub(super) fn first_request(&mut self, place: usize) {
        self.tracker.handle_first_request(&self.keys[place]);
        self.settle(Cause::Other);
    }

    /// The agent says something about a request; it may be over already, and then it says nothing.
    pub(super) fn tap_needed(&mut self, number: usize) {
        let Some(request) = self.request(number) else { return };
        let now = self.now;
        let note = |waits: &mut Self| {
            if let Some(of) = waits.requests.get_mut(&request) {
                of.is_tapping = true;
            }
        };
        self.about(request, |tracker| tracker.handle_tap_needed(request, now), note);
    }

    pub(super) fn prompt_opened(&mut self, number: usize, seconds: u8) {
        let Some(request) = self.request(number) else { return };
        let (length, now) = (Duration::from_secs(u64::from(seconds) * 4), self.now);
        self.about(request, |tracker| tracker.handle_prompt_opened(request, length, now), |_| {});
    }

    pub(super) fn granted(&mut self, number: usize, brought: Brought) {
        let Some(request) = self.request(number) else { return };
        let (grant, now) = (brought.grant(), self.now);
        let note = |waits: &mut Self| {
            if let Some(of) = waits.requests.remove(&request)
                && brought.is_sound()
            {
                waits.serving.insert(of.place, brought.serving(now));
            }
        };
        self.about(request, |tracker| tracker.handle_granted(request, grant, now), note);
    }

    pub(super) fn refused(&mut self, number: usize, reason: u8) {
        let Some(request) = self.request(number) else { return };
        let reason = match reason % 5 {
            0 => RefusalReason::Denied,
            1 => RefusalReason::TimedOut,
            2 => RefusalReason::CoolDown,
            3 => RefusalReason::Policy,
            _ => RefusalReason::QueueFull,
        };
        let now = self.now;
        let rests =
            matches!(reason, RefusalReason::Denied | RefusalReason::TimedOut | RefusalReason::CoolDown);
        // A grant that serves while it was asked for again goes on serving.
        let note = |waits: &mut Self| {
            if let Some(of) = waits.requests.remove(&request)
                && rests
                && !of.is_renewal
            {
                waits.resting.insert(of.place, now + REST);
            }
        };
        self.about(request, |tracker| tracker.handle_refused(request, reason, now), note);
    }

    /// A grant for a port, whether anybody asked for it or not.
    pub(super) fn offer(&mut self, place: usize, brought: Brought) {
        if brought.is_sound() {
            self.resting.remove(&place);
            self.serving.insert(place, brought.serving(self.now));
        }
        self.tracker.handle_offer(self.keys[place].clone(), brought.grant(), self.now);
        self.settle(Cause::Other);
    }

    /// A proxy says that a grant is not good any more.
    pub(super) fn grant_ended(&mut self, place: &Place, token: &Token) {
        let at = self.keys.iter().position(|key| (&key.resource, key.port) == (&place.id, place.port));
        let at = at.expect("one of the places");
        if self.serving.get(&at).is_some_and(|serving| serving.token.text == token.text) {
            self.serving.remove(&at);
        }
        self.tracker.handle_grant_ended(&self.keys[at], &token.text);
        self.settle(Cause::Other);
    }

    /// The screen is locked.
    pub(super) fn forget_taps(&mut self) {
        self.serving.retain(|_, serving| !serving.is_tapped);
        self.tracker.forget_taps();
        self.settle(Cause::Other);
    }

    /// The dial of the tunnel that was asked for first comes to its end.
    pub(super) fn dialled(&mut self, outcome: Dialled) {
        let Some(request) = self.dialling.pop_front() else { return };
        let act = |tracker: &mut Tracker| match outcome {
            Dialled::Up => tracker.handle_tunnel_up(request),
            Dialled::Down => tracker.handle_no_tunnel(request),
        };
        self.about(request, act, |_| {});
    }

    /// Time goes on, with all that it brings.
    pub(super) fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        for _ in 0..MAX_OUTPUT {
            let Some(due) = self.tracker.poll_timeout().filter(|due| *due <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(due);
            self.lapse();
            self.tracker.handle_timeout(self.now);
            self.settle(Cause::Time);
            let next = self.tracker.poll_timeout();
            assert!(next.is_none_or(|next| next > self.now), "the tracker would spin");
        }
        panic!("deadlines without end");
    }

    /// Everybody falls silent: whoever waits hears a word, and nothing is left.
    pub(super) fn end(&mut self) {
        self.pass(FOR_EVER);
        assert!(self.waiting.is_empty(), "flows wait for ever: {:?}", self.waiting);
        assert!(self.requests.is_empty(), "requests last for ever: {:?}", self.requests);
        assert_eq!((self.tracker.poll_timeout(), self.tracker.grants(self.now).len()), (None, 0));
    }

    fn lapse(&mut self) {
        let now = self.now;
        self.serving.retain(|_, serving| serving.until > now);
        self.resting.retain(|_, until| *until > now);
    }

    fn request(&self, number: usize) -> Option<u64> {
        self.asked.get(number % self.asked.len().max(1)).copied()
    }

    /// Does something about a request. If it is over, nothing may come of it.
    fn about(&mut self, request: u64, act: impl FnOnce(&mut Tracker), note: impl FnOnce(&mut Self)) {
        if self.requests.contains_key(&request) {
            note(self);
            act(&mut self.tracker);
        } else {
            act(&mut self.tracker);
            assert_eq!(self.tracker.poll_event(), None, "a word about a request that is over");
        }
        self.settle(Cause::Other);
    }

    /// Takes all that the tracker has to say, and holds it against the model.
    fn settle(&mut self, cause: Cause) {
        let mut told = BTreeMap::new();
        for _ in 0..MAX_OUTPUT {
            let Some(event) = self.tracker.poll_event() else {
                return self.check_counts(&told);
            };
            match event {
                Event::Ask(wanted) => {
                    let Cause::Flow(place) = cause else { panic!("the agent is asked for nobody") };
                    let key = PortKey { resource: wanted.resource, port: wanted.port };
                    assert_eq!((&key, wanted.inode), (&self.keys[place], self.next_flow));
                    self.ask(wanted.request, place);
                }
                Event::TunnelNeeded { request, resource } => {
                    let of = self.requests.get_mut(&request).expect("a request that is not over");
                    assert!(of.is_tapping && !of.wants_tunnel, "a tunnel for nothing");
                    assert_eq!(resource, self.keys[of.place].resource);
                    of.wants_tunnel = true;
                    self.dialling.push_back(request);
                }
                Event::Proceed(request) => {
                    let of = self.requests.get(&request).expect("a request that is not over");
                    assert!(of.is_tapping && of.wants_tunnel, "a prompt that may not open");
                }
                Event::Cancel(request, _) => {
                    let of = self.requests.remove(&request).expect("a request that is not over");
                    if matches!(cause, Cause::Time) && !of.is_renewal {
                        self.resting.insert(of.place, self.now + REST);
                    }
                }
                Event::Waiting(request, count) => drop(told.insert(request, count)),
                Event::Verdict(WaiterId(flow), verdict) => self.hear(flow, verdict),
            }
        }
        panic!("events without end");
    }

    fn ask(&mut self, request: u64, place: usize) {
        let is_asked = self.requests.values().any(|request| request.place == place);
        assert!(!is_asked, "the agent is asked twice at once");
        assert!(self.asked.last().is_none_or(|last| *last < request), "a request's number came again");
        let is_renewal = self.serving.contains_key(&place);
        let request_of = Request { place, is_tapping: false, wants_tunnel: false, is_renewal };
        self.requests.insert(request, request_of);
        self.asked.push(request);
    }

    /// A flow hears a word.
    fn hear(&mut self, flow: u64, verdict: Verdict) {
        let waiting = self.waiting.get_mut(&flow).expect("a flow that has not heard its last word");
        let place = waiting.place;
        if verdict == Verdict::TapNeeded {
            assert!(!waiting.is_told, "a tap is needed twice");
            let mut tapping = self.requests.values().filter(|request| request.is_tapping);
            assert!(tapping.any(|request| request.place == place), "a tap that nobody asks for");
            waiting.is_told = true;
            self.counts[place].told += 1;
            return;
        }
        let counts = &mut self.counts[place];
        if verdict == Verdict::Refused(RefusalReason::Limit) {
            assert!(counts.waiting > MOST_AT_PORT, "a limit that is not reached: {counts:?}");
        }
        counts.waiting -= 1;
        counts.told -= usize::from(waiting.is_told);
        self.waiting.remove(&flow);
        let Verdict::Granted(grant) = verdict else { return };
        let serving = self.serving.get(&place).expect("a grant that was brought for this port");
        assert_eq!(grant.token, serving.token.text, "another port's grant, or an old one");
        assert_eq!(grant.amr.is_empty(), !serving.is_tapped);
        self.ready.push(Ready { place: &CLUSTER_OF_ALL.places[place], token: serving.token });
    }

    /// Nobody waits for nobody, nor where a grant serves, nor beyond the limits; and the agent was told how many wait.
    fn check_counts(&self, told: &BTreeMap<u64, u32>) {
        for (place, counts) in self.counts.iter().enumerate() {
            assert!(counts.told <= MOST_AT_PORT, "too many wait for a tap: {counts:?}");
            let is_asked = self.requests.values().any(|request| request.place == place);
            assert!(counts.waiting == 0 || is_asked, "flows wait, and nobody is asked");
            let serves = self.serving.get(&place).is_some_and(|serving| serving.until > self.now);
            assert!(counts.waiting == 0 || !serves, "flows wait where a grant serves");
        }
        for (request, count) in told {
            let Some(of) = self.requests.get(request) else { continue };
            assert_eq!(usize::try_from(*count), Ok(self.counts[of.place].waiting), "how many wait");
        }
        let is_waiting = !self.requests.is_empty();
        assert!(!is_waiting || self.tracker.poll_timeout().is_some(), "a wait without a deadline");
    }
}

fn pick(from: &BTreeMap<u64, Waiting>, number: usize) -> Option<(u64, usize)> {
    from.iter().nth(number % from.len().max(1)).map(|(flow, waiting)| (*flow, waiting.place))
}
