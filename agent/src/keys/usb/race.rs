//! One use of whichever key answers first: keys that are there, keys that are put in meanwhile, and what becomes of each.

use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::Machine;
use super::bus::{Found, KeyId, OpenError};
use super::channel::{Broken, Channel};
use super::operation::{Operation, watch};
use super::person::{News, Person};
use super::trouble::{Meaning, Trouble};
use crate::keys::pin_entry::{NoPin, Pin};
use crate::keys::{Attempt, KeyError, KeyNotice};

mod entrant;

use entrant::{Entrant, State, Thread, Told};

/// Keys used at once: nobody has more plugged in on purpose.
const MAX_KEYS: usize = 8;
/// Words of all keys' threads that wait here.
const MAX_NEWS: usize = 32;
/// One use.
struct Race<A> {
    machine: Machine,
    operation: Arc<dyn Operation<Answer = A>>,
    attempt: Attempt,
    keys: HashMap<KeyId, Entrant>,
    /// The key that the person means: no other is asked while it is.
    chosen: Option<KeyId>,
    /// Keys that the person may mean.
    candidates: Arc<AtomicUsize>,
    asking: Option<Asking>,
    news: mpsc::Sender<(KeyId, News)>,
    answers: mpsc::Sender<Answered<A>>,
    threads: u64,
}

/// What a thread comes back with.
struct Answered<A> {
    key: KeyId,
    number: u64,
    said: Result<Said<A>, Trouble>,
}

/// What a thread does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Ask,
    Watch,
}

/// What it says.
enum Said<A> {
    Answer(A),
    /// The wrong key was touched.
    WrongTouch,
}

/// The open question for a PIN.
struct Asking {
    key: KeyId,
    question: BoxFuture<'static, Result<Pin, NoPin>>,
    answer: oneshot::Sender<Result<Pin, NoPin>>,
}

/// Keys that are there at the first look were not put in just now, unless they say so or cannot say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    First,
    Later,
}

/// Uses whichever key answers first.
pub(super) async fn first_answer<A: Send + 'static>(
    machine: Machine,
    operation: Arc<dyn Operation<Answer = A>>,
    attempt: Attempt,
) -> Result<A, KeyError> {
    let (news, mut heard) = mpsc::channel(MAX_NEWS);
    let (answers, mut answered) = mpsc::channel(MAX_KEYS);
    let mut poll = tokio::time::interval(machine.patience.poll);
    let cancel = attempt.cancel.clone();
    let mut race = Race {
        machine,
        operation,
        attempt,
        keys: HashMap::new(),
        chosen: None,
        candidates: Arc::default(),
        asking: None,
        news,
        answers,
        threads: 0,
    };
    let mut look = Look::First;
    loop {
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(KeyError::Cancelled),
            Some((key, news)) = heard.recv() => race.handle_news(key, news),
            Some(answered) = answered.recv() => {
                if let Some(answer) = race.handle_answered(answered)? {
                    return Ok(answer);
                }
            }
            pin = answer_of(&mut race.asking) => race.handle_pin(pin),
            _ = poll.tick() => {
                race.handle_present(list(&race.machine).await?, look)?;
                look = Look::Later;
            }
        }
    }
}

/// The keys that are plugged in. Listing reads files of the kernel's: not on the agent's own thread.
async fn list(machine: &Machine) -> Result<Vec<Found>, KeyError> {
    let bus = machine.bus.clone();
    let listed = tokio::task::spawn_blocking(move || bus.list()).await;
    let listed = listed.unwrap_or_else(|_| Err(io::Error::other("the list made no sense")));
    let mut found =
        listed.map_err(|error| KeyError::Broken(format!("USB devices cannot be listed: {error}")))?;
    found.truncate(MAX_KEYS);
    Ok(found)
}

async fn answer_of(asking: &mut Option<Asking>) -> Result<Pin, NoPin> {
    match asking {
        Some(asking) => (&mut asking.question).await,
        None => std::future::pending().await,
    }
}

impl<A: Send + 'static> Race<A> {
    fn handle_present(&mut self, present: Vec<Found>, look: Look) -> Result<(), KeyError> {
        let (now, settle) = (Instant::now(), self.machine.patience.settle);
        let is_there = |key: &KeyId| present.iter().any(|found| found.key == *key);
        self.keys.retain(|key, _| is_there(key));
        self.chosen.take_if(|chosen| !is_there(chosen));
        self.asking.take_if(|asking| !is_there(&asking.key));
        for Found { key, age } in present {
            // What has come since the first look is new, whatever its age says: that is counted by a clock that may be set.
            let settled_in = match (age, look) {
                (Some(age), Look::First) => settle.saturating_sub(age),
                (None, Look::First) | (_, Look::Later) => settle,
            };
            self.keys.entry(key).or_insert_with(|| Entrant::waiting(now + settled_in));
        }
        self.go_on(now)
    }

    /// Starts what can be started, and says what hinders the rest.
    fn go_on(&mut self, now: Instant) -> Result<(), KeyError> {
        self.start_what_can(now);
        let is_any = |is: fn(&State) -> bool| self.keys.values().any(|entrant| is(&entrant.state));
        if self.keys.is_empty() {
            self.attempt.notice(KeyNotice::PlugIn);
        }
        if is_any(State::is_hopeful) {
            return Ok(());
        }
        let spent = self.keys.values().find_map(|entrant| match &entrant.state {
            State::Spent(error) => Some(error.clone()),
            State::Waits(_) | State::Works(_) | State::Wrong(_) | State::Watched(_) => None,
        });
        if let Some(error) = spent {
            return Err(error);
        }
        if is_any(State::is_wrong) {
            self.attempt.notice(KeyNotice::WrongKey);
        }
        Ok(())
    }

    fn start_what_can(&mut self, now: Instant) {
        self.count_candidates();
        let is_one_blinking = self.keys.values().any(|entrant| matches!(entrant.state, State::Works(_)));
        let mut keys: Vec<KeyId> = self.keys.keys().cloned().collect();
        keys.sort();
        for key in keys {
            let is_anothers_turn = self.chosen.as_ref().is_some_and(|chosen| *chosen != key);
            let Some(entrant) = self.keys.get(&key).filter(|_| !is_anothers_turn) else { continue };
            match entrant.state {
                State::Waits(until) if until <= now => self.start(&key, Work::Ask),
                State::Wrong(Told::No) if is_one_blinking => self.start(&key, Work::Watch),
                State::Waits(_) | State::Works(_) | State::Wrong(_) | State::Watched(_) | State::Spent(_) => {
                }
            }
        }
    }

    fn count_candidates(&self) {
        let count = self.keys.values().filter(|entrant| entrant.state.is_hopeful()).count();
        self.candidates.store(count, Ordering::Relaxed);
    }

    fn start(&mut self, key: &KeyId, work: Work) {
        if !self.machine.take(key) {
            return;
        }
        self.threads += 1;
        let (number, called_off) = (self.threads, CancellationToken::new());
        let thread = Thread::called_off_by(number, &called_off);
        let person =
            Person { key: key.clone(), news: self.news.clone(), candidates: self.candidates.clone() };
        let (machine, operation, answers) =
            (self.machine.clone(), self.operation.clone(), self.answers.clone());
        let run = move || {
            let used = AssertUnwindSafe(|| use_key(&machine, &person, called_off, work, operation.as_ref()));
            let said = catch_unwind(used).unwrap_or(Err(Trouble::Panicked));
            machine.give_back(&person.key);
            // Nobody may be waiting any more: then the answer is worth nothing.
            let _ = answers.blocking_send(Answered { key: person.key, number, said });
        };
        if let Err(error) = std::thread::Builder::new().name("security-key".to_owned()).spawn(run) {
            tracing::warn!(%error, "no thread for the security key: trying again");
            return self.machine.give_back(key);
        }
        let Some(entrant) = self.keys.get_mut(key) else { return };
        entrant.state = match work {
            Work::Ask => State::Works(thread),
            Work::Watch => State::Watched(thread),
        };
    }

    fn handle_news(&mut self, key: KeyId, news: News) {
        match news {
            News::Notice(notice) => self.attempt.notice(notice),
            News::Chosen => self.handle_chosen(key),
            News::Pin(question, answer) if self.chosen.as_ref() == Some(&key) => {
                let pins = self.attempt.pins.clone();
                let question = Box::pin(async move { pins.ask(question).await });
                self.asking = Some(Asking { key, question, answer });
            }
            // Its thread learns by the dropped answer that it is not meant.
            News::Pin(..) => {}
        }
    }

    /// All others stop blinking.
    fn handle_chosen(&mut self, key: KeyId) {
        let chosen = self.chosen.get_or_insert(key).clone();
        let now = Instant::now();
        for (_, entrant) in self.keys.iter_mut().filter(|(key, _)| **key != chosen) {
            match entrant.state {
                State::Works(_) => entrant.state = State::Waits(now),
                State::Watched(_) => entrant.state = State::Wrong(Told::No),
                State::Waits(_) | State::Wrong(_) | State::Spent(_) => {}
            }
        }
    }

    fn handle_pin(&mut self, pin: Result<Pin, NoPin>) {
        if let Some(asking) = self.asking.take() {
            // The thread may have gone: then the PIN is wiped here.
            let _ = asking.answer.send(pin);
        }
    }

    fn handle_answered(&mut self, answered: Answered<A>) -> Result<Option<A>, KeyError> {
        let Answered { key, number, said } = answered;
        let trouble = match said {
            // Whatever became of the key since: this is what was asked for.
            Ok(Said::Answer(answer)) => return Ok(Some(answer)),
            Ok(Said::WrongTouch) => None,
            Err(trouble) => Some(trouble),
        };
        let now = Instant::now();
        let Some(entrant) = self.keys.get_mut(&key) else { return Ok(None) };
        let is_watched = match &entrant.state {
            State::Works(thread) if thread.number == number => false,
            State::Watched(thread) if thread.number == number => true,
            // A thread that was called off before.
            State::Works(_) | State::Watched(_) | State::Waits(_) | State::Wrong(_) | State::Spent(_) => {
                return Ok(None);
            }
        };
        tracing::debug!(key = key.device, ?trouble, "a security key has answered");
        let mut notice = None;
        let patience = self.machine.patience;
        entrant.state = match trouble.map(Trouble::meaning) {
            None => State::Wrong(Told::Yes),
            Some(Meaning::AskAgain) if is_watched => State::Wrong(Told::No),
            // Where nothing but its touch was waited for, its troubles are nobody's.
            Some(_) if is_watched => State::Wrong(Told::Yes),
            Some(Meaning::Final(decision)) if decision.is_decision() => return Err(decision),
            Some(meaning) => entrant.after(meaning, now, patience, &mut notice),
        };
        self.chosen.take_if(|chosen| *chosen == key);
        self.asking.take_if(|asking| asking.key == key);
        self.go_on(now)?;
        notice.into_iter().for_each(|notice| self.attempt.notice(notice));
        Ok(None)
    }
}

fn use_key<A>(
    machine: &Machine,
    person: &Person,
    called_off: CancellationToken,
    work: Work,
    operation: &dyn Operation<Answer = A>,
) -> Result<Said<A>, Trouble> {
    let reports = machine.bus.open(&person.key).map_err(|error| match error {
        OpenError::NoAccess(why) => Trouble::NoAccess(why),
        // Taken out between the list and now.
        OpenError::Io(error) => {
            tracing::debug!(%error, key = person.key.device, "a security key cannot be opened");
            Broken::Lost.into()
        }
    })?;
    let mut channel = Channel::open(reports, called_off, machine.patience)?;
    match work {
        Work::Ask => operation.run(&mut channel, person).map(Said::Answer),
        Work::Watch => watch(&mut channel, person).map(|()| Said::WrongTouch),
    }
}
