//! The tracker under any order of events, with an agent that may say anything at any time: what holds always.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

/// Ports of the model; the last one is a desktop's, whose prompt waits for a first request.
const PORTS: u16 = 6;
/// Longest that a flow waits, whatever its agent says: asked, queued, then a prompt of the longest length.
const LONGEST: Duration = Duration::from_secs(15 + 125 + 125 + 20);

#[derive(Debug, Clone)]
enum Step {
    Flow(u16),
    /// Many programs at once.
    Burst(u16, u64),
    FlowGone(u64),
    TapNeeded(u64),
    PromptOpened(u64, u64),
    Granted(u64, Given),
    Refused(u64),
    Offer(u16, Given),
    TunnelUp(u64),
    NoTunnel(u64),
    GrantEnded(u16),
    FirstRequest(u16),
    ForgetTaps,
    Wait(u64),
}

/// A grant as the agent brings it.
#[derive(Debug, Clone, Copy)]
struct Given {
    is_tap: bool,
    seconds: u64,
}

fn step() -> impl Strategy<Value = Step> {
    let port = 1..=PORTS;
    let request = 1_u64..16;
    let given = (any::<bool>(), prop_oneof![Just(300), 0_u64..400])
        .prop_map(|(is_tap, seconds)| Given { is_tap, seconds });
    prop_oneof![
        6 => port.clone().prop_map(Step::Flow),
        2 => (port.clone(), 1_u64..400).prop_map(|(port, count)| Step::Burst(port, count)),
        3 => (1_u64..60).prop_map(Step::FlowGone),
        4 => request.clone().prop_map(Step::TapNeeded),
        3 => (request.clone(), 0_u64..1000).prop_map(|(request, length)| Step::PromptOpened(request, length)),
        3 => (request.clone(), given.clone()).prop_map(|(request, given)| Step::Granted(request, given)),
        2 => request.clone().prop_map(Step::Refused),
        2 => (port.clone(), given).prop_map(|(port, given)| Step::Offer(port, given)),
        2 => request.clone().prop_map(Step::TunnelUp),
        1 => request.prop_map(Step::NoTunnel),
        1 => port.clone().prop_map(Step::GrantEnded),
        2 => port.prop_map(Step::FirstRequest),
        1 => Just(Step::ForgetTaps),
        3 => (0_u64..200).prop_map(Step::Wait),
    ]
}

fn prompt_on(port: u16) -> PromptOn {
    if port == PORTS { PromptOn::FirstRequest } else { PromptOn::Syn }
}

/// What the agent gave last for a port, and until when it serves.
#[derive(Debug, Clone)]
struct Latest {
    token: String,
    until: BootTime,
    is_tap: bool,
}

/// What is known from outside.
struct Model {
    tracker: Tracker,
    now: BootTime,
    /// By flow, from 1.
    flows: Vec<(u16, BootTime)>,
    /// Flows without a last word, whose programs wait.
    waiting: HashSet<u64>,
    /// Requests that the agent has been asked and has not answered, with their port.
    outstanding: HashMap<u64, u16>,
    /// Of these, those whose tunnel was asked for.
    tunnels: HashSet<u64>,
    latest: HashMap<u16, Latest>,
    tokens: u64,
}

impl Model {
    fn new() -> Self {
        let (tracker, now) = start();
        Self {
            tracker,
            now,
            flows: Vec::new(),
            waiting: HashSet::new(),
            outstanding: HashMap::new(),
            tunnels: HashSet::new(),
            latest: HashMap::new(),
            tokens: 0,
        }
    }

    fn flow(&mut self, port: u16) {
        self.flows.push((port, self.now));
        let id = self.flows.len() as u64;
        self.waiting.insert(id);
        flow_prompting_on(prompt_on(port), &mut self.tracker, port, id, self.now);
    }

    fn gone(&mut self, id: u64) {
        let Some((port, _)) = self.flows.get(id as usize - 1) else { return };
        self.waiting.remove(&id);
        self.tracker.handle_flow_gone(&key(*port), WaiterId(id));
    }

    fn given(&mut self, port: u16, Given { is_tap, seconds }: Given) -> Grant {
        self.tokens += 1;
        let (token, length) = (format!("t{}", self.tokens), Duration::from_secs(seconds));
        let until = self.now + length.min(5 * MINUTE);
        self.latest.insert(port, Latest { token: token.clone(), until, is_tap });
        Grant { token, expires_in: length, ..grant(if is_tap { &["hwk"] } else { &[] }) }
    }

    fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Flow(port) => self.flow(*port),
            Step::Burst(port, count) => (0..*count).for_each(|_| self.flow(*port)),
            Step::FlowGone(id) => self.gone(*id),
            Step::TapNeeded(request) => self.tracker.handle_tap_needed(*request, self.now),
            Step::PromptOpened(request, length) => {
                self.tracker.handle_prompt_opened(*request, Duration::from_secs(*length), self.now);
            }
            Step::Granted(request, given) => {
                // An answer to no question of ours brings nothing.
                let port = self.outstanding.remove(request);
                let grant = match port {
                    Some(port) => self.given(port, *given),
                    None => Grant { token: "made up".into(), ..grant(&[]) },
                };
                self.tracker.handle_granted(*request, grant, self.now);
            }
            Step::Refused(request) => {
                self.outstanding.remove(request);
                self.tracker.handle_refused(*request, RefusalReason::Denied, self.now);
            }
            Step::Offer(port, given) => {
                let grant = self.given(*port, *given);
                self.tracker.handle_offer(key(*port), grant, self.now);
            }
            // The worker says this of tunnels that it was asked for.
            Step::TunnelUp(request) if self.tunnels.contains(request) => {
                self.tracker.handle_tunnel_up(*request);
            }
            Step::NoTunnel(request) if self.tunnels.contains(request) => {
                self.tracker.handle_no_tunnel(*request);
            }
            Step::TunnelUp(_) | Step::NoTunnel(_) => {}
            Step::GrantEnded(port) => {
                if let Some(latest) = self.latest.remove(port) {
                    self.tracker.handle_grant_ended(&key(*port), &latest.token);
                }
            }
            Step::FirstRequest(port) => self.tracker.handle_first_request(&key(*port)),
            Step::ForgetTaps => {
                self.latest.retain(|_, latest| !latest.is_tap);
                self.tracker.forget_taps();
            }
            Step::Wait(seconds) => return self.wait(Duration::from_secs(*seconds)),
        }
        self.told()
    }

    /// Time passes as it does for the worker, which wakes for every deadline.
    fn wait(&mut self, length: Duration) -> Result<(), TestCaseError> {
        let until = self.now + length;
        while let Some(deadline) = self.tracker.poll_timeout().filter(|deadline| *deadline <= until) {
            self.now = self.now.max(deadline);
            self.tracker.handle_timeout(self.now);
            self.told()?;
        }
        self.now = until;
        Ok(())
    }

    /// What the tracker said since it was asked last, compared with what it may say.
    fn told(&mut self) -> Result<(), TestCaseError> {
        for event in events(&mut self.tracker) {
            match event {
                Event::Ask(wanted) => {
                    let is_asked = self.outstanding.values().any(|port| *port == wanted.port);
                    prop_assert!(!is_asked, "{} is asked for twice at once", wanted.port);
                    self.outstanding.insert(wanted.request, wanted.port);
                }
                Event::Cancel(request, _) => {
                    prop_assert!(self.outstanding.remove(&request).is_some(), "{request} was over");
                    self.tunnels.remove(&request);
                }
                Event::TunnelNeeded { request, .. } => {
                    prop_assert!(self.outstanding.contains_key(&request));
                    self.tunnels.insert(request);
                }
                Event::Proceed(request) => prop_assert!(self.tunnels.contains(&request)),
                Event::Waiting(request, _) => prop_assert!(self.outstanding.contains_key(&request)),
                Event::Verdict(flow, verdict) => self.verdict(flow.0, &verdict)?,
            }
        }
        self.check()
    }

    fn verdict(&mut self, flow: u64, verdict: &Verdict) -> Result<(), TestCaseError> {
        let (port, since) = self.flows[flow as usize - 1];
        prop_assert!(self.now.saturating_since(since) <= LONGEST, "flow {flow} waited for too long");
        prop_assert!(self.waiting.contains(&flow), "flow {flow} has had its last word, or is gone");
        match verdict {
            Verdict::TapNeeded => return Ok(()),
            Verdict::Refused(_) => {}
            Verdict::Granted(grant) => {
                let latest = self.latest.get(&port);
                let is_latest = latest.is_some_and(|it| it.token == grant.token && self.now <= it.until);
                prop_assert!(is_latest, "{} for {port}, where {latest:?} serves", grant.token);
            }
        }
        self.waiting.remove(&flow);
        Ok(())
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let tracker = &self.tracker;
        let known: HashSet<u64> = tracker.ports.values().filter_map(Access::request).collect();
        let requests: HashSet<u64> = tracker.requests.keys().copied().collect();
        let outstanding: HashSet<u64> = self.outstanding.keys().copied().collect();
        prop_assert_eq!(&requests, &known, "each request is some port's");
        prop_assert_eq!(&requests, &outstanding, "and the agent's to answer");
        prop_assert!(tracker.ports.len() <= usize::from(PORTS));
        prop_assert!(tracker.tapping() <= MAX_WAITING);
        for access in tracker.ports.values() {
            if let Access::Tapping { waiting, .. } = access {
                prop_assert!(waiting.len() <= MAX_WAITING_AT_PORT);
            }
        }
        Ok(())
    }
}

proptest! {
    // G: held connections always end, in bounded time whatever the agent says; one request for a port at a time, however
    // many flows come; nothing is granted but by the newest grant that the agent gave for that port; caps hold; and at
    // the end nothing is left.
    #[test]
    fn whatever_the_agent_says_every_flow_ends_and_nothing_is_left(
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        let mut model = Model::new();
        for step in steps {
            model.step(&step)?;
        }
        model.wait(LONGEST + 10 * MINUTE)?;
        prop_assert!(model.waiting.is_empty(), "flows {:?} wait for ever", model.waiting);
        prop_assert!(model.tracker.ports.is_empty() && model.tracker.requests.is_empty());
    }
}

#[test]
fn an_agent_that_opens_its_prompt_again_and_again_holds_nobody_for_longer() {
    let (mut tracker, mut now) = start();
    flow(&mut tracker, 5432, 1, now);
    let request = asked(&events(&mut tracker))[0];
    tracker.handle_tap_needed(request, now);
    tracker.handle_tunnel_up(request);
    let begin = now;
    while tracker.poll_timeout().is_some_and(|deadline| deadline > now)
        && now.saturating_since(begin) < LONGEST
    {
        tracker.handle_prompt_opened(request, MINUTE, now);
        now = now + Duration::from_secs(10);
    }
    tracker.handle_timeout(now);
    assert!(now.saturating_since(begin) <= MINUTE + PROMPT_SLACK + Duration::from_secs(10));
    let last = verdicts(&events(&mut tracker)).pop();
    assert_eq!(last, Some((1, Verdict::Refused(RefusalReason::TimedOut))));
}

#[test]
fn an_agent_that_offers_grants_instead_of_renewing_them_leaves_nothing_behind() {
    let (mut tracker, now) = start();
    let short = || Grant { expires_in: MINUTE, ..grant(&[]) };
    tracker.handle_offer(key(5432), short(), now);
    for id in 0..1000 {
        flow(&mut tracker, 5432, id, now);
        let renewal = asked(&events(&mut tracker))[0];
        tracker.handle_offer(key(5432), short(), now);
        assert_eq!(events(&mut tracker), [Event::Cancel(renewal, RefusalReason::TimedOut)]);
    }
    assert!(tracker.requests.is_empty());
}

#[test]
fn where_nobody_may_wait_for_a_tap_nobody_is_bothered() {
    let (mut tracker, now) = start();
    let full = u16::try_from(MAX_WAITING / MAX_WAITING_AT_PORT).unwrap();
    let mut id = 0;
    for port in 1..=full + 1 {
        for _ in 0..MAX_WAITING_AT_PORT {
            id += 1;
            flow(&mut tracker, port, id, now);
        }
    }
    let requests = asked(&events(&mut tracker));
    requests.iter().for_each(|request| tracker.handle_tap_needed(*request, now));
    let told = events(&mut tracker);
    let last = *requests.last().unwrap();
    assert!(told.contains(&Event::Cancel(last, RefusalReason::Limit)));
    let is_tunnel = |event: &&Event| matches!(event, Event::TunnelNeeded { .. });
    assert_eq!(told.iter().filter(is_tunnel).count(), usize::from(full));
    let refused = verdicts(&told).into_iter().filter(|(_, verdict)| *verdict != Verdict::TapNeeded).count();
    assert_eq!(refused, MAX_WAITING_AT_PORT);
}
