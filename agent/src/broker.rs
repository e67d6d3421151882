//! Whose prompt is open, who waits, and who is told no at once. Pure: requests, decisions and the time in; what to do
//! out.
//!
//! One prompt is open at a time. A prompt has 60 s from its opening; before that a request waits at most 120 s, at most
//! four deep. A denial rests its resource and port for longer each time. The first decision wins; each request ends
//! exactly once.
//!
//! ```text
//!            room                 its turn             tap, or the same subject's tap
//! (request) -----> Queued --------------------> Open -----------------------------------> (granted)
//!     |              | 120 s, gone, cancelled    | denied, 60 s, 15 s after the last program, cancelled
//!     '-> (refused)  '-> (refused)               '-> (refused)
//! ```

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use portlatch_clock::BootTime;
use portlatch_protocol::names::ResourceId;
use portlatch_protocol::refusal::RefusalReason;

/// How long an open prompt waits for the tap (design section 4).
pub(crate) const PROMPT_TIME: Duration = Duration::from_secs(60);
/// How long a request waits for its turn at most (design section 4).
const QUEUE_TIME: Duration = Duration::from_secs(120);
/// How many requests wait for their turn at most (design section 4).
const QUEUE_DEPTH: usize = 4;
/// How long a prompt stays after the last program has gone: the user may be reaching for the key (design section 4).
const STAY_TIME: Duration = Duration::from_secs(15);
/// How long a subject rests after its first, second and every further denial.
const RESTS: [Duration; 3] = [Duration::from_secs(30), Duration::from_secs(120), Duration::from_secs(600)];
/// After this long without a denial the next one counts as the first again: the longest rest.
const FORGET_AFTER: Duration = RESTS[2];
/// Denials that are remembered: only a person makes them, so more than this is no person.
const MAX_RESTING: usize = 1024;

/// A request, as all that follows names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct RequestId(pub(crate) u64);

/// What a prompt is about; what a denial rests.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Subject {
    /// The resource.
    pub(crate) resource: ResourceId,
    /// The port.
    pub(crate) port: u16,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// With a tap.
    Granted,
    /// With a refusal.
    Refused(RefusalReason),
}

/// What the broker wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    /// Open this prompt now.
    Open(RequestId),
    /// This request is over; close its prompt if it was open.
    End(RequestId, Ending),
}

/// The one queue of prompts of one user.
#[derive(Debug, Default)]
pub(crate) struct Broker {
    open: Option<OpenPrompt>,
    queue: VecDeque<Queued>,
    resting: HashMap<Subject, Rest>,
    commands: VecDeque<Command>,
}

#[derive(Debug)]
struct OpenPrompt {
    id: RequestId,
    subject: Subject,
    deadline: BootTime,
    /// Set while no program waits any more.
    stays_until: Option<BootTime>,
}

#[derive(Debug)]
struct Queued {
    id: RequestId,
    subject: Subject,
    give_up_at: BootTime,
}

#[derive(Debug)]
struct Rest {
    denials: usize,
    until: BootTime,
}

impl Broker {
    /// Why this subject gets no prompt just now, if so.
    pub(crate) fn objection(&self, subject: &Subject, now: BootTime) -> Option<RefusalReason> {
        let is_resting = self.resting.get(subject).is_some_and(|rest| now < rest.until);
        if is_resting {
            return Some(RefusalReason::CoolDown);
        }
        let is_full = self.open.is_some() && self.queue.len() >= QUEUE_DEPTH;
        is_full.then_some(RefusalReason::QueueFull)
    }

    /// A request that needs a tap.
    pub(crate) fn handle_request(&mut self, id: RequestId, subject: Subject, now: BootTime) {
        self.handle_timeout(now);
        if let Some(reason) = self.objection(&subject, now) {
            return self.commands.push_back(Command::End(id, Ending::Refused(reason)));
        }
        self.queue.push_back(Queued { id, subject, give_up_at: now + QUEUE_TIME });
        self.open_next(now);
    }

    /// The key answered and control accepted it.
    pub(crate) fn handle_granted(&mut self, id: RequestId, now: BootTime) {
        let Some(prompt) = self.close(id) else { return };
        self.resting.remove(&prompt.subject);
        self.commands.push_back(Command::End(id, Ending::Granted));
        // A tap serves its resource and port for minutes: whoever waits for the same needs none of their own.
        let same = |queued: &Queued| queued.subject == prompt.subject;
        for queued in take_matching(&mut self.queue, same) {
            self.commands.push_back(Command::End(queued, Ending::Granted));
        }
        self.open_next(now);
    }

    /// The user said no.
    pub(crate) fn handle_denied(&mut self, id: RequestId, now: BootTime) {
        let Some(prompt) = self.close(id) else { return };
        self.rest(prompt.subject.clone(), now);
        self.commands.push_back(Command::End(id, Ending::Refused(RefusalReason::Denied)));
        // The answer stands for everybody who waits for the same.
        let same = |queued: &Queued| queued.subject == prompt.subject;
        for queued in take_matching(&mut self.queue, same) {
            self.commands.push_back(Command::End(queued, Ending::Refused(RefusalReason::Denied)));
        }
        self.open_next(now);
    }

    /// The request cannot be fulfilled or is not wanted any more, open or not.
    pub(crate) fn handle_refused(&mut self, id: RequestId, reason: RefusalReason, now: BootTime) {
        let was_queued = self.queue.len();
        self.queue.retain(|queued| queued.id != id);
        if self.queue.len() < was_queued || self.close(id).is_some() {
            self.commands.push_back(Command::End(id, Ending::Refused(reason)));
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

    /// Time has passed.
    pub(crate) fn handle_timeout(&mut self, now: BootTime) {
        let timed_out = Ending::Refused(RefusalReason::TimedOut);
        if let Some(prompt) = self.open.take_if(|prompt| prompt.ends_at() <= now) {
            self.commands.push_back(Command::End(prompt.id, timed_out));
        }
        for id in take_matching(&mut self.queue, |queued| queued.give_up_at <= now) {
            self.commands.push_back(Command::End(id, timed_out));
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

    fn close(&mut self, id: RequestId) -> Option<OpenPrompt> {
        self.open.take_if(|prompt| prompt.id == id)
    }

    fn open_next(&mut self, now: BootTime) {
        if self.open.is_some() {
            return;
        }
        let Some(Queued { id, subject, .. }) = self.queue.pop_front() else { return };
        self.open = Some(OpenPrompt { id, subject, deadline: now + PROMPT_TIME, stays_until: None });
        self.commands.push_back(Command::Open(id));
    }

    fn rest(&mut self, subject: Subject, now: BootTime) {
        self.resting.retain(|_, rest| now < rest.until + FORGET_AFTER);
        if self.resting.len() >= MAX_RESTING && !self.resting.contains_key(&subject) {
            return;
        }
        let rest = self.resting.entry(subject).or_insert(Rest { denials: 0, until: now });
        rest.until = now + RESTS[rest.denials.min(RESTS.len() - 1)];
        rest.denials += 1;
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
