//! A key that is plugged into this process: whoever opens it has reports in and out, and, as with Linux' hidraw, every
//! opener gets a copy of every report of the key.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::authenticator::Finger;
use crate::channels::{Key, REPORT};
use crate::record::{Event, Recorded};
use crate::settings::Settings;

/// Reports that an opener has not read; hidraw drops the newest when 64 wait.
const UNREAD: usize = 64;

/// A key, plugged in or in somebody's pocket.
#[derive(Clone)]
pub struct Plugged(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    key: Key,
    is_plugged: bool,
    /// Counts pluggings: what was opened before is dead.
    generation: u64,
    openers: Vec<Opener>,
    next_opener: u64,
}

struct Opener {
    number: u64,
    unread: VecDeque<[u8; REPORT]>,
}

/// One open handle.
pub struct Opened {
    shared: Arc<Shared>,
    number: u64,
    generation: u64,
}

/// The key was taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

impl Plugged {
    /// A key that was in all the time.
    pub fn new(settings: Settings) -> Self {
        let key = Self::unplugged(settings);
        key.plug();
        key
    }

    /// A key in somebody's pocket.
    pub fn unplugged(settings: Settings) -> Self {
        let state = State {
            key: Key::new(settings, Instant::now()),
            is_plugged: false,
            generation: 0,
            openers: Vec::new(),
            next_opener: 0,
        };
        Self(Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() }))
    }

    /// Puts it in.
    pub fn plug(&self) {
        self.change(|state| {
            if !std::mem::replace(&mut state.is_plugged, true) {
                state.generation += 1;
                state.key.handle_plugged(Instant::now());
            }
        });
    }

    /// Takes it out; who has it open finds it gone.
    pub fn unplug(&self) {
        self.change(|state| {
            if std::mem::replace(&mut state.is_plugged, false) {
                state.openers.clear();
                state.key.handle_unplugged(Instant::now());
            }
        });
    }

    /// Whether it is in.
    pub fn is_plugged(&self) -> bool {
        self.0.state().is_plugged
    }

    /// Whether it waits for a touch.
    pub fn is_blinking(&self) -> bool {
        self.0.state().key.is_blinking()
    }

    /// Whether it takes any request as touched, for it was plugged in just now.
    pub fn is_fresh(&self) -> bool {
        self.0.state().key.is_fresh(Instant::now())
    }

    /// Touches it, with the finger that it knows.
    pub fn touch(&self) {
        self.change(|state| state.key.handle_touch(Finger::Known, Instant::now()));
    }

    /// Touches it with another finger.
    pub fn touch_with_wrong_finger(&self) {
        self.change(|state| state.key.handle_touch(Finger::Unknown, Instant::now()));
    }

    /// Refuses on it.
    pub fn deny(&self) {
        self.change(|state| state.key.handle_deny(Instant::now()));
    }

    /// Uses up its PIN tries.
    pub fn block_pin(&self) {
        self.change(|state| state.key.block_pin());
    }

    /// Makes it another kind of key; its credentials and its PIN stay.
    pub fn set(&self, change: impl FnOnce(&mut Settings)) {
        self.change(|state| change(state.key.settings_mut()));
    }

    /// All that it saw.
    pub fn record(&self) -> Vec<Recorded> {
        self.0.state().key.record().to_vec()
    }

    /// Waits until it has seen such an event, from the `from`th on; says which one it was.
    pub fn wait_for(&self, from: usize, time: Duration, is_meant: impl Fn(&Event) -> bool) -> Option<usize> {
        let deadline = Instant::now() + time;
        let mut state = self.0.state();
        loop {
            let seen = state.key.record().iter().enumerate().skip(from);
            if let Some((index, _)) = seen.into_iter().find(|(_, recorded)| is_meant(&recorded.event)) {
                return Some(index);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            state = self.0.wait(state, left);
        }
    }

    /// Opens it, unless it is out.
    pub fn open(&self) -> Option<Opened> {
        let mut state = self.0.state();
        if !state.is_plugged {
            return None;
        }
        state.next_opener += 1;
        let number = state.next_opener;
        state.openers.push(Opener { number, unread: VecDeque::new() });
        Some(Opened { shared: self.0.clone(), number, generation: state.generation })
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.0.state();
        change(&mut state);
        state.deliver();
        self.0.changed.notify_all();
    }
}

impl Opened {
    /// Hands it a report.
    ///
    /// # Errors
    /// `Gone` if it was taken out.
    pub fn send(&self, report: &[u8; REPORT]) -> Result<(), Gone> {
        let mut state = self.shared.state();
        self.check(&state)?;
        state.key.handle_report(report, Instant::now());
        state.deliver();
        self.shared.changed.notify_all();
        Ok(())
    }

    /// The next report, if one comes in time.
    ///
    /// # Errors
    /// `Gone` if it was taken out.
    pub fn receive(&self, time: Duration) -> Result<Option<[u8; REPORT]>, Gone> {
        let deadline = Instant::now() + time;
        let mut state = self.shared.state();
        loop {
            self.check(&state)?;
            let now = Instant::now();
            state.key.handle_timeout(now);
            if state.deliver() {
                self.shared.changed.notify_all();
            }
            let ours = state.openers.iter_mut().find(|opener| opener.number == self.number);
            if let Some(report) = ours.and_then(|opener| opener.unread.pop_front()) {
                return Ok(Some(report));
            }
            let Some(left) = deadline.checked_duration_since(now).filter(|left| !left.is_zero()) else {
                return Ok(None);
            };
            let key_wants = state.key.poll_timeout().map(|at| at.saturating_duration_since(now));
            state = self.shared.wait(state, key_wants.map_or(left, |wants| wants.min(left)));
        }
    }

    fn check(&self, state: &State) -> Result<(), Gone> {
        match state.is_plugged && state.generation == self.generation {
            true => Ok(()),
            false => Err(Gone),
        }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.shared.state().openers.retain(|opener| opener.number != self.number);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'s>(&self, state: MutexGuard<'s, State>, time: Duration) -> MutexGuard<'s, State> {
        let (state, _) = self.changed.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner);
        state
    }
}

impl State {
    /// A copy of each report to everybody; says whether there was one.
    fn deliver(&mut self) -> bool {
        let mut has_any = false;
        while let Some(report) = self.key.poll_report() {
            has_any = true;
            for opener in self.openers.iter_mut().filter(|opener| opener.unread.len() < UNREAD) {
                opener.unread.push_back(report);
            }
        }
        has_any
    }
}
