//! What ends when the user goes: taps that are to be tapped for again after a lock or a wake, and all that one user leaves
//! behind when another one signs in. And how whoever comes back is asked to sign in.

use std::time::Duration;

use portlatch_clock::BootTime;
use portlatch_protocol::attach::{Refusal, ToDaemon};
use portlatch_protocol::refusal::RefusalReason;

use super::Service;
use super::access::{AWAY, Request, Stage, tell_more};
use super::reasons::Reasons;
use super::work::Done;
use crate::absence::SeatEvent;
use crate::broker::Broker;
use crate::control::ApiError;
use crate::identify::Program;
use crate::local::Tell;
use crate::login;
use crate::safe_text::sentence;
use crate::status::{RefusalView, Refusals};

/// Before control is asked once more to forget the taps: after a wake the network is not there yet.
const FORGET_AGAIN: Duration = Duration::from_secs(3);
/// Shortest time between two requests to sign in: a program may try again and again.
const SIGN_IN_AGAIN: Duration = Duration::from_secs(30);
/// A refusal that is older than this when it is learnt of is no news.
const NEWS: i64 = 10;

/// What is going on when the user goes.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    /// Control remembers taps that must not serve any more.
    pub(super) taps: Taps,
    /// Until then nobody is asked to sign in again.
    sign_in_after: Option<BootTime>,
}

/// Whether control's memory of taps serves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Taps {
    /// It does.
    #[default]
    Serve,
    /// Control is to forget them first.
    ToForget,
}

impl Service {
    pub(super) fn handle_seat_event(&mut self, event: SeatEvent) {
        let was_away = self.absence.is_away();
        self.absence.handle_event(event, self.clock.boot_time());
        if self.absence.is_away() && !was_away {
            self.close_prompts();
        }
    }

    /// Nobody can see what is asked any more, and whoever passes by could tap.
    fn close_prompts(&mut self) {
        let is_prompt = |request: &&Request| matches!(request.stage, Stage::Prompt(_));
        for request in self.requests.values().filter(is_prompt) {
            tell_more(request, Tell::Note { text: sentence(&format!("{AWAY}.")) });
        }
        self.broker.handle_nobody_there(RefusalReason::TimedOut);
        self.obey_broker();
    }

    pub(super) fn see_to_absence(&mut self, now: BootTime) {
        if self.sleep.has_slept() {
            self.absence.handle_event(SeatEvent::Woke, now);
        }
        if self.absence.handle_timeout(now) {
            self.forget_taps();
        }
    }

    /// The screen was locked or the machine slept: whoever sits there now must tap again.
    fn forget_taps(&mut self) {
        if self.login.active.is_none() {
            return;
        }
        if self.is_attached() {
            self.send(ToDaemon::ForgetGrants);
        }
        self.broker.handle_nobody_there(RefusalReason::TimedOut);
        self.obey_broker();
        self.note(
            "Your screen was locked or your machine slept: what you tapped for must be tapped for again.",
        );
        self.leaving.taps = Taps::ToForget;
        self.have_taps_forgotten(Duration::ZERO);
    }

    fn have_taps_forgotten(&mut self, pause: Duration) {
        let Some(active) = &self.login.active else { return };
        let (control, login) = (active.control.clone(), active.number);
        self.tasks.spawn(async move {
            tokio::time::sleep(pause).await;
            Done::TapsForgotten { login, result: control.forget_taps().await }
        });
    }

    pub(super) fn handle_taps_forgotten(&mut self, login: u64, result: Result<(), ApiError>) {
        if !self.is_current(login) {
            return;
        }
        match result {
            Ok(()) => self.leaving.taps = Taps::Serve,
            Err(error) if error.is_login_over() => self.end_login(&super::login::over(&error)),
            Err(error) => {
                tracing::debug!(%error, "control was not told to forget the taps");
                self.have_taps_forgotten(FORGET_AGAIN);
            }
        }
    }

    /// Forgets what the user before did and was refused.
    pub(super) fn forget_user(&mut self) {
        self.refusals = Refusals::default();
        self.reasons = Reasons::default();
        self.programs.clear();
        self.broker = Broker::default();
        self.leaving = Leaving::default();
    }

    /// What the daemon kept, as far as it is this user's.
    pub(super) fn handle_older_refusals(&mut self, older: Vec<Refusal>) {
        let since = login::refusals_since(&self.files);
        let own = older.into_iter().filter(|refusal| refusal.time >= since).collect();
        let new = self.refusals.add_older(own);
        let now = self.clock.time_of_day().seconds();
        let is_news = |refusal: &&Refusal| {
            refusal.reason == RefusalReason::NoLogin && now.saturating_sub(refusal.time) <= NEWS
        };
        // Whoever attaches hears of refusals as they come; whoever does not learns of them here.
        if let Some(newest) = new.iter().find(is_news).filter(|_| self.login.active.is_none()) {
            self.handle_refusal(newest.clone());
        }
    }

    /// Somebody wanted a connection without a login: asks for one, wherever people look.
    pub(super) fn ask_to_sign_in(&mut self, refusal: &Refusal, program: Option<Program>) {
        let now = self.clock.boot_time();
        if self.leaving.sign_in_after.is_some_and(|after| now < after) {
            return;
        }
        self.leaving.sign_in_after = Some(now + SIGN_IN_AGAIN);
        let RefusalView { host, port, program, .. } = RefusalView::new(refusal, program);
        let program = program.as_deref().unwrap_or("a program");
        let text = format!("Sign in again: run `portlatch login` ({program} was refused {host}:{port}).");
        // Nobody need be watching.
        let _ = self.people.send(Tell::SignIn { text });
    }
}
