//! Who gets no prompt for a while: programs that were denied or ignored rest, blocked ones stay blocked until they are
//! let go, and after too many prompts that nobody answered with a tap there are none at all until the user resumes.
//!
//! A rest holds for one program at one resource, whatever the port. Programs are told apart by their name, which is a
//! hint: the limit on unanswered prompts holds whatever a program calls itself.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use portlatch_clock::BootTime;
use portlatch_protocol::refusal::RefusalReason;

use super::{Asker, Topic};

/// How long a program rests after its first, second and every further denial (notes: 30 s, 2 min, 10 min).
const AFTER_DENIAL: [Duration; 3] =
    [Duration::from_secs(30), Duration::from_secs(120), Duration::from_secs(600)];
/// How long it rests after its first and every further prompt that was ignored (notes: 15 s, 60 s).
const AFTER_IGNORING: [Duration; 2] = [Duration::from_secs(15), Duration::from_secs(60)];
/// After this long without a no the next one counts as the first again: the longest rest.
const FORGET_AFTER: Duration = AFTER_DENIAL[2];
/// Rests that are remembered: each takes a prompt that was shown, so more than this is no person's day.
const MAX_RESTING: usize = 1024;
/// Blocks at once: only a person makes them.
const MAX_BLOCKS: usize = 256;
/// Prompts without a tap within [`UNANSWERED_TIME`]; instead of one more there is a pause (notes: more than 6 in 10 min).
pub(super) const MAX_UNANSWERED: usize = 6;
/// How long an unanswered prompt counts.
const UNANSWERED_TIME: Duration = Duration::from_secs(600);

/// Why there is no prompt just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Objection {
    /// The user blocked the program.
    Blocked,
    /// There are no prompts until the user resumes.
    Paused,
    /// It was denied or ignored a moment ago.
    Resting(Duration),
    /// Too many wait already.
    QueueFull,
}

/// Something that keeps prompts away, by the number that lifts it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    /// What lifts it.
    pub(crate) number: u64,
    /// What it is.
    pub(crate) kind: StandingKind,
}

/// What keeps prompts away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StandingKind {
    /// This program rests at this resource, so much longer.
    Rest(Asker, Duration),
    /// This is blocked.
    Block(Blocked),
    /// There are no prompts at all.
    Pause,
}

/// What a block keeps out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Blocked {
    /// A program, wherever it wants to go.
    Program(String),
    /// Programs that were not found, at this one place.
    Unknown(Topic),
}

/// All that keeps prompts away.
#[derive(Debug, Default)]
pub(super) struct Rests {
    resting: HashMap<Asker, Rest>,
    blocks: Vec<(u64, Blocked)>,
    /// When prompts ended that nobody tapped for, oldest first.
    unanswered: VecDeque<BootTime>,
    pause: Option<u64>,
    last_number: u64,
}

#[derive(Debug)]
struct Rest {
    number: u64,
    denials: usize,
    ignored: usize,
    until: BootTime,
}

/// What became of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unanswered {
    Denied,
    Ignored,
}

impl Objection {
    /// What the waiting program's refusal is called.
    pub(crate) const fn reason(self) -> RefusalReason {
        match self {
            Self::Blocked => RefusalReason::Denied,
            Self::Paused | Self::Resting(_) => RefusalReason::CoolDown,
            Self::QueueFull => RefusalReason::QueueFull,
        }
    }

    /// What a person is told who asked for it just now.
    pub(crate) fn advice(self) -> String {
        match self {
            Self::Blocked => "you blocked this program: run `portlatch watch` to see and lift blocks".to_owned(),
            Self::Paused => "there are no prompts, because too many were not answered: run `portlatch watch` and type resume".to_owned(),
            Self::Resting(left) => format!(
                "it was denied or not answered a moment ago: wait {} s, or run `portlatch watch` and lift it",
                whole_seconds(left)
            ),
            Self::QueueFull => RefusalReason::QueueFull.advice().to_owned(),
        }
    }
}

impl Blocked {
    fn by(asker: &Asker) -> Self {
        match &asker.program {
            Some(program) => Self::Program(program.clone()),
            None => Self::Unknown(asker.topic.clone()),
        }
    }
}

impl Standing {
    /// One line for a person.
    pub(crate) fn line(&self) -> String {
        let number = self.number;
        match &self.kind {
            StandingKind::Rest(asker, left) => {
                let Asker { topic, program } = asker;
                let program = program.as_deref().unwrap_or("an unknown program");
                format!("{topic} for {program} rests for {} s (lift {number})", whole_seconds(*left))
            }
            StandingKind::Block(Blocked::Program(program)) => format!("{program} is blocked (lift {number})"),
            StandingKind::Block(Blocked::Unknown(topic)) => {
                format!("{topic} for unknown programs is blocked (lift {number})")
            }
            StandingKind::Pause => {
                "There are no prompts, because too many were not answered (resume)".to_owned()
            }
        }
    }
}

/// A wait that has just begun has 30 s, not 29.9.
fn whole_seconds(left: Duration) -> u128 {
    left.as_millis().div_ceil(1000)
}

impl Rests {
    pub(super) fn objection(&self, asker: &Asker, now: BootTime) -> Option<Objection> {
        let blocked = Blocked::by(asker);
        if self.blocks.iter().any(|(_, block)| *block == blocked) {
            return Some(Objection::Blocked);
        }
        if self.pause.is_some() {
            return Some(Objection::Paused);
        }
        let left = self.resting.get(asker)?.until.saturating_since(now);
        (!left.is_zero()).then_some(Objection::Resting(left))
    }

    /// A prompt ended without a tap. What that brings.
    pub(super) fn handle_unanswered(&mut self, asker: Asker, how: Unanswered, now: BootTime) -> Standing {
        self.count(now);
        self.resting.retain(|_, rest| now < rest.until + FORGET_AFTER);
        if self.resting.len() >= MAX_RESTING && !self.resting.contains_key(&asker) {
            let soonest = self.resting.iter().min_by_key(|(_, rest)| rest.until);
            let soonest = soonest.map(|(asker, _)| asker.clone());
            soonest.and_then(|asker| self.resting.remove(&asker));
        }
        let number = self.next_number();
        let new = Rest { number, denials: 0, ignored: 0, until: now };
        let rest = self.resting.entry(asker.clone()).or_insert(new);
        let length = match how {
            Unanswered::Denied => step(&AFTER_DENIAL, &mut rest.denials),
            Unanswered::Ignored => step(&AFTER_IGNORING, &mut rest.ignored),
        };
        rest.until = now + length;
        Standing { number: rest.number, kind: StandingKind::Rest(asker, length) }
    }

    /// A prompt was there for nothing: nobody tapped, and nobody is to rest for it.
    pub(super) fn count(&mut self, now: BootTime) {
        self.forget_unanswered(now);
        self.unanswered.push_back(now);
        // One more than the limit never opens, so this is the bound of the queue as well.
        debug_assert!(self.unanswered.len() <= MAX_UNANSWERED);
    }

    /// Whether one more prompt may open. If none may, the pause has begun, and is returned when it is new.
    pub(super) fn admits(&mut self, now: BootTime) -> Result<(), Option<Standing>> {
        self.forget_unanswered(now);
        if self.pause.is_some() {
            return Err(None);
        }
        if self.unanswered.len() < MAX_UNANSWERED {
            return Ok(());
        }
        let number = self.next_number();
        self.pause = Some(number);
        Err(Some(Standing { number, kind: StandingKind::Pause }))
    }

    /// Somebody tapped: whoever asked is forgiven.
    pub(super) fn handle_tapped(&mut self, asker: &Asker) {
        self.resting.remove(asker);
    }

    /// The user wants to hear nothing more of this program.
    pub(super) fn block(&mut self, asker: &Asker) -> Option<Standing> {
        let blocked = Blocked::by(asker);
        if self.blocks.len() >= MAX_BLOCKS || self.blocks.iter().any(|(_, block)| *block == blocked) {
            return None;
        }
        let number = self.next_number();
        self.blocks.push((number, blocked.clone()));
        Some(Standing { number, kind: StandingKind::Block(blocked) })
    }

    /// Takes away what has this number, and returns what it was.
    pub(super) fn lift(&mut self, number: u64, now: BootTime) -> Option<Standing> {
        let lifted = self.standings(now).into_iter().find(|standing| standing.number == number)?;
        match &lifted.kind {
            StandingKind::Rest(asker, _) => drop(self.resting.remove(asker)),
            StandingKind::Block(blocked) => self.blocks.retain(|(_, block)| block != blocked),
            StandingKind::Pause => self.resume(),
        }
        Some(lifted)
    }

    /// The user wants prompts again. What was not answered until now is forgotten.
    pub(super) fn resume(&mut self) {
        self.pause = None;
        self.unanswered.clear();
    }

    /// Whether there are no prompts at all.
    pub(super) const fn is_paused(&self) -> bool {
        self.pause.is_some()
    }

    /// All that keeps prompts away now, oldest first.
    pub(super) fn standings(&self, now: BootTime) -> Vec<Standing> {
        let rests = self.resting.iter().filter(|(_, rest)| now < rest.until).map(|(asker, rest)| Standing {
            number: rest.number,
            kind: StandingKind::Rest(asker.clone(), rest.until.saturating_since(now)),
        });
        let block = |(number, block): &(u64, Blocked)| (*number, StandingKind::Block(block.clone()));
        let pause = self.pause.map(|number| (number, StandingKind::Pause));
        let others = self.blocks.iter().map(block).chain(pause);
        let others = others.map(|(number, kind)| Standing { number, kind });
        let mut standings: Vec<Standing> = rests.chain(others).collect();
        standings.sort_by_key(|standing| standing.number);
        standings
    }

    fn forget_unanswered(&mut self, now: BootTime) {
        while self.unanswered.front().is_some_and(|at| *at + UNANSWERED_TIME <= now) {
            self.unanswered.pop_front();
        }
    }

    const fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }
}

/// The length of this step, and on to the next one; the last is repeated.
fn step(lengths: &[Duration], taken: &mut usize) -> Duration {
    let length = lengths[(*taken).min(lengths.len() - 1)];
    *taken += 1;
    length
}
