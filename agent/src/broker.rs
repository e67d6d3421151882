//! Whose prompt is open, who waits, and who is told no at once. Pure: requests, decisions and the time in; what to do
//! out.
//!
//! One prompt is open at a time. A prompt has 60 s from its opening; before that a request waits at most 120 s, at most
//! four deep. The first decision wins; each request ends exactly once. After a prompt without a tap its program rests at
//! its resource, longer each time, and after too many there are none until the user resumes ([`rests`]).
//!
//! ```text
//!            room                 its turn             tap, or the same port's tap
//! (request) -----> Queued --------------------> Open -----------------------------------> (granted)
//!     |              | 120 s, gone, cancelled    | denied, 60 s, 15 s after the last program, cancelled
//!     '-> (refused)  '-> (refused)               '-> (refused)
//! ```

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use portlatch_clock::BootTime;
use portlatch_protocol::api::ceremony::{DeviceChange, ExecTarget};
use portlatch_protocol::names::ResourceId;
use portlatch_protocol::refusal::RefusalReason;

mod rests;

pub(crate) use rests::{Objection, Standing};
use rests::{Rests, Unanswered};

/// How long an open prompt waits for the tap (design section 4).
pub(crate) const PROMPT_TIME: Duration = Duration::from_secs(60);
/// How long a request waits for its turn at most (design section 4).
const QUEUE_TIME: Duration = Duration::from_secs(120);
/// How many requests wait for their turn at most (design section 4).
const QUEUE_DEPTH: usize = 4;
/// How long a prompt stays after the last program has gone: the user may be reaching for the key (design section 4).
const STAY_TIME: Duration = Duration::from_secs(15);

/// A request, as all that follows names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct RequestId(pub(crate) u64);

/// What a prompt is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Subject {
    /// One port of a resource.
    Port {
        /// The resource.
        resource: ResourceId,
        /// The port.
        port: u16,
    },
    /// One command on several resources.
    Exec(Vec<ExecTarget>),
    /// A change of the user's own keys and apps.
    Devices(DeviceChange),
}

/// What is asked for, and by which program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wish {
    /// What.
    pub(crate) subject: Subject,
    /// The program, if it was found.
    pub(crate) program: Option<String>,
}

/// Whom a no concerns: one program at one place.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Asker {
    /// Where.
    pub(crate) topic: Topic,
    /// The program, if it was found.
    pub(crate) program: Option<String>,
}

/// The place that a no concerns.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Topic {
    /// A resource, whatever the port.
    Resource(ResourceId),
    /// `portlatch exec`.
    Exec,
    /// The user's own keys and apps.
    Devices,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// With a tap.
    Granted,
    /// With a refusal.
    Refused(RefusalReason),
}

/// How far a denial reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denial {
    /// This prompt, and a rest.
    Once,
    /// The program, until the user lifts it.
    Block,
}

/// What the broker wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    /// Open this prompt now.
    Open(RequestId),
    /// This request is over; close its prompt if it was open.
    End(RequestId, Ending),
    /// Tell people that this keeps prompts away from now on.
    Announce(Standing),
}

/// The one queue of prompts of one user.
#[derive(Debug, Default)]
pub(crate) struct Broker {
    open: Option<OpenPrompt>,
    queue: VecDeque<Queued>,
    rests: Rests,
    commands: VecDeque<Command>,
}

#[derive(Debug)]
struct OpenPrompt {
    id: RequestId,
    wish: Wish,
    deadline: BootTime,
    /// Set while no program waits any more.
    stays_until: Option<BootTime>,
}

#[derive(Debug)]
struct Queued {
    id: RequestId,
    wish: Wish,
    give_up_at: BootTime,
}

impl Wish {
    fn asker(&self) -> Asker {
        let topic = match &self.subject {
            Subject::Port { resource, .. } => Topic::Resource(resource.clone()),
            Subject::Exec(_) => Topic::Exec,
            Subject::Devices(_) => Topic::Devices,
        };
        Asker { topic, program: self.program.clone() }
    }

    /// Whether the answer to one serves the other: a tap serves its port, whoever asked for it.
    fn is_served_by(&self, other: &Self) -> bool {
        match &self.subject {
            Subject::Port { .. } => self.subject == other.subject,
            Subject::Exec(_) | Subject::Devices(_) => false,
        }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resource(resource) => write!(f, "{}", resource.name),
            Self::Exec => f.write_str("portlatch exec"),
            Self::Devices => f.write_str("a change of your keys"),
        }
    }
}

impl Broker {
    /// Why this wish gets no prompt just now, if so.
    pub(crate) fn objection(&self, wish: &Wish, now: BootTime) -> Option<Objection> {
        let is_full = self.open.is_some() && self.queue.len() >= QUEUE_DEPTH;
        let resting = self.rests.objection(&wish.asker(), now);
        resting.or_else(|| is_full.then_some(Objection::QueueFull))
    }

    /// A request that needs a tap.
    pub(crate) fn handle_request(&mut self, id: RequestId, wish: Wish, now: BootTime) {
        self.handle_timeout(now);
        if let Some(objection) = self.objection(&wish, now) {
            return self.refuse(id, objection.reason());
        }
        self.queue.push_back(Queued { id, wish, give_up_at: now + QUEUE_TIME });
        self.open_next(now);
    }

    /// The key answered and control accepted it.
    pub(crate) fn handle_granted(&mut self, id: RequestId, now: BootTime) {
        let Some(prompt) = self.close(id) else { return };
        self.rests.handle_tapped(&prompt.wish.asker());
        self.commands.push_back(Command::End(id, Ending::Granted));
        // A tap serves its port for minutes: whoever waits for the same needs none of their own.
        for queued in take_matching(&mut self.queue, |queued| queued.wish.is_served_by(&prompt.wish)) {
            self.commands.push_back(Command::End(queued, Ending::Granted));
        }
        self.open_next(now);
    }

    /// The user said no.
    pub(crate) fn handle_denied(&mut self, id: RequestId, denial: Denial, now: BootTime) {
        let Some(prompt) = self.close(id) else { return };
        let asker = prompt.wish.asker();
        self.refuse(id, RefusalReason::Denied);
        let rest = self.rests.handle_unanswered(asker.clone(), Unanswered::Denied, now);
        let standing = match denial {
            Denial::Once => None,
            Denial::Block => self.rests.block(&asker),
        };
        self.commands.push_back(Command::Announce(standing.unwrap_or(rest)));
        // The answer stands for whoever waits for the same, and for all that the same program wants there.
        let objects = |queued: &Queued| {
            queued.wish.is_served_by(&prompt.wish)
                || self.rests.objection(&queued.wish.asker(), now).is_some()
        };
        for queued in take_matching(&mut self.queue, objects) {
            self.refuse(queued, RefusalReason::Denied);
        }
        self.open_next(now);
    }

    /// The request cannot be fulfilled or is not wanted any more, open or not.
    pub(crate) fn handle_refused(&mut self, id: RequestId, reason: RefusalReason, now: BootTime) {
        let was_queued = self.queue.len();
        self.queue.retain(|queued| queued.id != id);
        if self.queue.len() < was_queued {
            self.refuse(id, reason);
        } else if self.close(id).is_some() {
            self.refuse(id, reason);
            // Whoever asks and goes away again and again bothers as much as one who stays.
            if reason == RefusalReason::TimedOut {
                self.rests.count(now);
            }
        }
        self.open_next(now);
    }

    /// The last program that waited has gone: an open prompt stays a little, a queued one is pointless.
    pub(crate) fn handle_abandoned(&mut self, id: RequestId, now: BootTime) {
        match &mut self.open {
            Some(prompt) if prompt.id == id => {
                prompt.stays_until.get_or_insert(now + STAY_TIME);
            }
            Some(_) | None => self.handle_refused(id, RefusalReason::TimedOut, now),
        }
    }

    /// A program waits again.
    pub(crate) fn handle_rejoined(&mut self, id: RequestId) {
        if let Some(prompt) = self.open.as_mut().filter(|prompt| prompt.id == id) {
            prompt.stays_until = None;
        }
    }

    /// Whoever asked has gone, and this program waits instead: from now on the request is that one's.
    pub(crate) fn handle_newcomer(&mut self, id: RequestId, program: Option<String>, now: BootTime) {
        let queued = self.queue.iter_mut().find(|queued| queued.id == id).map(|queued| &mut queued.wish);
        let open = self.open.as_mut().filter(|prompt| prompt.id == id).map(|prompt| &mut prompt.wish);
        let Some(wish) = open.or(queued) else { return };
        wish.program = program;
        let objection = self.rests.objection(&wish.asker(), now);
        if let Some(objection) = objection {
            self.handle_refused(id, objection.reason(), now);
        }
    }

    /// Nobody can see the open prompt: it ends, and since nobody was bothered it does not count.
    pub(crate) fn handle_unseen(&mut self, id: RequestId, now: BootTime) {
        if self.close(id).is_some() {
            self.refuse(id, RefusalReason::TimedOut);
        }
        self.open_next(now);
    }

    /// Nobody can answer prompts any more: all end, and nobody rests for it.
    pub(crate) fn handle_nobody_there(&mut self, reason: RefusalReason) {
        let open = self.open.take().map(|prompt| prompt.id);
        let queued = std::mem::take(&mut self.queue);
        for id in open.into_iter().chain(queued.into_iter().map(|queued| queued.id)) {
            self.refuse(id, reason);
        }
    }

    /// Time has passed.
    pub(crate) fn handle_timeout(&mut self, now: BootTime) {
        if let Some(prompt) = self.open.take_if(|prompt| prompt.ends_at() <= now) {
            self.refuse(prompt.id, RefusalReason::TimedOut);
            let rest = self.rests.handle_unanswered(prompt.wish.asker(), Unanswered::Ignored, now);
            self.commands.push_back(Command::Announce(rest));
        }
        for id in take_matching(&mut self.queue, |queued| queued.give_up_at <= now) {
            self.refuse(id, RefusalReason::TimedOut);
        }
        self.open_next(now);
    }

    /// When [`Self::handle_timeout`] has something to do next.
    pub(crate) fn poll_timeout(&self) -> Option<BootTime> {
        let open = self.open.as_ref().map(OpenPrompt::ends_at);
        open.into_iter().chain(self.queue.iter().map(|queued| queued.give_up_at)).min()
    }

    /// What to do next.
    pub(crate) fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// The open prompt and the time it has left.
    pub(crate) fn open_prompt(&self, now: BootTime) -> Option<(RequestId, Duration)> {
        self.open.as_ref().map(|prompt| (prompt.id, prompt.ends_at().saturating_since(now)))
    }

    /// All that keeps prompts away now, oldest first.
    pub(crate) fn standings(&self, now: BootTime) -> Vec<Standing> {
        self.rests.standings(now)
    }

    /// Takes away the rest, the block or the pause of this number, and returns what it was.
    pub(crate) fn lift(&mut self, number: u64, now: BootTime) -> Option<Standing> {
        self.rests.lift(number, now)
    }

    /// The user wants prompts again; returns whether there was a pause.
    pub(crate) fn resume(&mut self) -> bool {
        let was_paused = self.rests.is_paused();
        self.rests.resume();
        was_paused
    }

    /// Whether there are no prompts until the user resumes.
    pub(crate) const fn is_paused(&self) -> bool {
        self.rests.is_paused()
    }

    fn close(&mut self, id: RequestId) -> Option<OpenPrompt> {
        self.open.take_if(|prompt| prompt.id == id)
    }

    fn refuse(&mut self, id: RequestId, reason: RefusalReason) {
        self.commands.push_back(Command::End(id, Ending::Refused(reason)));
    }

    fn open_next(&mut self, now: BootTime) {
        while self.open.is_none() {
            let Some(Queued { id, wish, .. }) = self.queue.pop_front() else { return };
            // The prompt before may have been its own program's at the same place.
            if let Some(objection) = self.rests.objection(&wish.asker(), now) {
                self.refuse(id, objection.reason());
                continue;
            }
            if let Err(pause) = self.rests.admits(now) {
                self.refuse(id, RefusalReason::CoolDown);
                self.commands.extend(pause.map(Command::Announce));
                continue;
            }
            self.open = Some(OpenPrompt { id, wish, deadline: now + PROMPT_TIME, stays_until: None });
            self.commands.push_back(Command::Open(id));
        }
    }
}

/// Takes what matches out of the queue, in order, and names it.
fn take_matching(queue: &mut VecDeque<Queued>, matches: impl Fn(&Queued) -> bool) -> Vec<RequestId> {
    let taken = queue.iter().filter(|queued| matches(queued)).map(|queued| queued.id).collect();
    queue.retain(|queued| !matches(queued));
    taken
}

impl OpenPrompt {
    fn ends_at(&self) -> BootTime {
        self.stays_until.map_or(self.deadline, |stays| stays.min(self.deadline))
    }
}

#[cfg(test)]
mod tests;
