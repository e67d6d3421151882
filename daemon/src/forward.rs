//! The story of one flow: whose it is, what it wants, whether it may, and then its bytes.
//!
//! ```text
//! SYN held -> whose? -> which resource? -> grant? ----------> Open at a proxy -> SYN answered -> bytes
//!                                            | tap needed, 8 s over (a desktop: at once)
//!                                            +-> SYN answered early, data held
//! ```
//!
//! Every way out before the answer drops the held SYN, which refuses it: so a program that may not connect sees
//! "connection refused", and never a connection that opens and dies (design section 4).

use std::rc::Rc;
use std::time::{Duration, Instant};

use portlatch_clock::BootTime;
use portlatch_protocol::attach::Grant;
use portlatch_protocol::refusal::RefusalReason;
use portlatch_protocol::resource::{Hold, RefusalStyle};
use portlatch_protocol::stream::{Open, OpenRefusal};

use self::first_request::{FirstRequest, Looks};
use self::spoken_refusal::{Spoken, is_spoken};
use crate::copy;
use crate::flow::{Flow, HeldSyn};
use crate::login::{HeldPlace, Login, Place, Sight, Waiter};
use crate::tracker::{PromptOn, Verdict};
use crate::tunnel::{OpenError, Session};
use crate::worker::{Owner, Worker};

mod first_request;
mod spoken_refusal;

/// How long a SYN is held while a tap is needed; then the handshake is completed and data are held (design section 4).
const LONGEST_HOLD: Duration = Duration::from_secs(8);
/// How often a held SYN's socket is looked up: a program that leaves SYN_SENT sends nothing (reliability.md).
const LOOK: Duration = Duration::from_secs(1);
/// How long an answered program has for the first request that its prompt waits for (desktop.md 5).
const TIME_TO_ASK: Duration = Duration::from_secs(10);

/// Carries one flow from its SYN to its last byte.
pub(crate) async fn forward(syn: HeldSyn, worker: Rc<Worker>) {
    // No socket here: a container, routed traffic, or a program that is gone already. Nobody to tell.
    let Some(owner) = worker.owner_of(syn.source(), syn.destination()) else { return };
    let (login, place) = match worker.place(owner.uid, syn.destination()) {
        Ok(found) => found,
        Err((sight, reason)) => return worker.record_refusal(owner, sight, reason),
    };
    let Some(held_place) = login.hold() else {
        return worker.record_refusal(owner, Sight::of(&place), RefusalReason::Limit);
    };
    #[cfg(test)]
    let trap = crate::worker::trap::Trap::new(&worker, syn.source());
    let side = Side::Held(syn, held_place);
    let first = FirstRequest::default();
    let mut program = Program { owner, worker, side, first, since: Instant::now() };
    let story = async {
        // Boxed: a flow that is open shall not hold the room for its opening.
        let session = Box::pin(program.session(&login, &place)).await?;
        program.carry(session).await
    };
    #[cfg(test)]
    let story = trap.around(story);
    let ended = tokio::select! {
        // Logout, lock, expiry, a lost agent: the flow ends with the login.
        () = login.cancelled.cancelled() => return program.cut(),
        ended = story => ended,
    };
    match ended {
        Ok(()) | Err(Ended::ProgramGone) => {}
        Err(Ended::Silent) => program.cut(),
        Err(Ended::Refused(reason)) => tokio::select! {
            () = login.cancelled.cancelled() => {}
            () = program.refuse(&place, reason) => {}
        },
    }
}

/// Why a flow has no session.
enum Ended {
    Refused(RefusalReason),
    ProgramGone,
    /// The program was answered and sent nothing that a person should be asked about.
    Silent,
}

/// The program's side of a flow.
struct Program {
    owner: Owner,
    worker: Rc<Worker>,
    side: Side,
    /// What it sent before it had a session, where its prompt waits for that.
    first: FirstRequest,
    since: Instant,
}

enum Side {
    /// With its place among the login's held SYNs, which is free again with the answer.
    Held(HeldSyn, HeldPlace),
    Answered(Flow),
    Over,
}

impl Program {
    /// A session for this flow: granted, and opened by a proxy.
    async fn session(&mut self, login: &Rc<Login>, place: &Place) -> Result<Session, Ended> {
        match self.try_open(login, place).await {
            // Revoked, or the policy behind it changed, since it was granted: ask once more, then believe it.
            Err(TryError::GrantEnded(token)) => {
                login.handle_grant_ended(place, &token);
                self.try_open(login, place).await.map_err(|error| match error {
                    TryError::GrantEnded(_) => Ended::Refused(RefusalReason::Policy),
                    TryError::Ended(ended) => ended,
                })
            }
            Err(TryError::Ended(ended)) => Err(ended),
            Ok(session) => Ok(session),
        }
    }

    async fn try_open(&mut self, login: &Rc<Login>, place: &Place) -> Result<Session, TryError> {
        let grant = self.grant(login, place).await.map_err(TryError::Ended)?;
        let open = Open {
            resource: place.resource.id.clone(),
            port: place.port,
            host: place.host.clone(),
            grant: grant.token,
            program: grant.program,
        };
        tokio::select! {
            () = self.gone() => Err(TryError::Ended(Ended::ProgramGone)),
            session = login.tunnels.open(&place.resource, &open) => session.map_err(|error| match error {
                OpenError::Refused(OpenRefusal::GrantEnded) => TryError::GrantEnded(open.grant.clone()),
                OpenError::Refused(_) | OpenError::NoProxy => TryError::Ended(Ended::Refused(error.reason())),
            }),
        }
    }

    /// Waits for the grant; while a tap is needed the SYN is held, then the data.
    async fn grant(&mut self, login: &Rc<Login>, place: &Place) -> Result<Grant, Ended> {
        let mut waiter = login.request(place, self.owner.inode);
        let begin = self.worker.clock().boot_time();
        match self.verdict(&mut waiter, None).await? {
            Some(Verdict::Granted(grant)) => return Ok(grant),
            Some(Verdict::Refused(reason)) => return Err(Ended::Refused(reason)),
            Some(Verdict::TapNeeded) | None => {}
        }
        if place.prompt_on() == PromptOn::FirstRequest {
            self.answer()?;
            match self.first_request(&mut waiter).await? {
                Some(Verdict::Granted(grant)) => return Ok(grant),
                Some(Verdict::Refused(reason)) => return Err(Ended::Refused(reason)),
                Some(Verdict::TapNeeded) | None => {}
            }
        }
        let answer_at = match place.resource.hold {
            Hold::Syn => None,
            Hold::Hybrid => Some(begin + LONGEST_HOLD),
            Hold::Data => Some(begin),
        };
        loop {
            match self.verdict(&mut waiter, answer_at).await? {
                Some(Verdict::Granted(grant)) => return Ok(grant),
                Some(Verdict::Refused(reason)) => return Err(Ended::Refused(reason)),
                Some(Verdict::TapNeeded) => {}
                None => self.answer()?,
            }
        }
    }

    /// The next verdict, or `None` once the SYN has been held for long enough.
    async fn verdict(
        &self,
        waiter: &mut Waiter,
        answer_at: Option<BootTime>,
    ) -> Result<Option<Verdict>, Ended> {
        let answer_at = answer_at.filter(|_| matches!(self.side, Side::Held(..)));
        let held_long_enough = async {
            match answer_at {
                Some(moment) => self.worker.clock().sleep_until(moment).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            verdict = waiter.verdict() => Ok(Some(verdict)),
            () = self.gone() => Err(Ended::ProgramGone),
            () = held_long_enough => Ok(None),
        }
    }

    /// Waits for the request that the prompt waits for. A verdict that comes first, by another flow's tap, goes before.
    async fn first_request(&mut self, waiter: &mut Waiter) -> Result<Option<Verdict>, Ended> {
        let Side::Answered(flow) = &self.side else { return Ok(None) };
        let clock = self.worker.clock();
        let mut out_of_time = std::pin::pin!(clock.sleep_until(clock.boot_time() + TIME_TO_ASK));
        while self.first.looks() == Looks::Incomplete {
            let chunk = tokio::select! {
                biased;
                verdict = waiter.verdict() => match verdict {
                    Verdict::TapNeeded => continue,
                    Verdict::Granted(_) | Verdict::Refused(_) => return Ok(Some(verdict)),
                },
                () = &mut out_of_time => return Err(Ended::Silent),
                chunk = flow.read_at_most(self.first.room()) => chunk,
            };
            let Ok(Some(chunk)) = chunk else { return Err(Ended::ProgramGone) };
            self.first.handle_bytes(&chunk);
        }
        match self.first.looks() {
            Looks::Foreign => Err(Ended::Refused(RefusalReason::Policy)),
            Looks::Valid | Looks::Incomplete => {
                waiter.handle_first_request();
                Ok(None)
            }
        }
    }

    /// Answers the SYN, if it is still the same socket's.
    fn answer(&mut self) -> Result<(), Ended> {
        let Side::Held(syn, _place) = std::mem::replace(&mut self.side, Side::Over) else { return Ok(()) };
        let now_owner = self.worker.owner_of(syn.source(), syn.destination());
        if now_owner != Some(self.owner) {
            return Err(Ended::ProgramGone);
        }
        let flow = syn.accept(Instant::now()).ok_or(Ended::Refused(RefusalReason::Limit))?;
        self.side = Side::Answered(flow);
        Ok(())
    }

    /// The bytes, both ways, to the end.
    async fn carry(&mut self, mut session: Session) -> Result<(), Ended> {
        if matches!(self.side, Side::Held(..)) {
            self.answer()?;
        }
        let first = std::mem::take(&mut self.first).into_bytes();
        if !first.is_empty() {
            // A stream that is broken says so again when the rest is copied.
            let _ = session.send.write_chunk(first).await;
        }
        tracing::debug!(waited = ?self.since.elapsed(), "opened");
        if let Side::Answered(flow) = &self.side {
            copy::both_ways(flow, session, self.worker.budget()).await;
        }
        Ok(())
    }

    /// Returns once the program has given up.
    async fn gone(&self) {
        match &self.side {
            Side::Held(syn, _) => tokio::select! {
                () = syn.gone() => {}
                () = self.socket_gone(syn) => {}
            },
            Side::Answered(flow) => flow.gone().await,
            Side::Over => {}
        }
    }

    async fn socket_gone(&self, syn: &HeldSyn) {
        loop {
            tokio::time::sleep(LOOK).await;
            if self.worker.owner_of(syn.source(), syn.destination()) != Some(self.owner) {
                return;
            }
        }
    }

    /// Ends the flow as design section 4's table says, or in words where the resource has them, and keeps the reason for
    /// the user.
    async fn refuse(mut self, place: &Place, reason: RefusalReason) {
        self.worker.record_refusal(self.owner, Sight::of(place), reason);
        if let Some(protocol) = spoken_here(place).filter(|_| is_spoken(reason)) {
            // A program that has gone needs no words.
            let _ = self.answer();
            if let Side::Answered(flow) = &self.side {
                return spoken_refusal::speak(flow, protocol, reason).await;
            }
        }
        match self.side {
            Side::Held(syn, _) if reason.is_unreachable() => syn.refuse_as_unreachable(),
            Side::Answered(flow) => flow.reset(),
            // Dropped, and so refused.
            Side::Held(..) | Side::Over => {}
        }
    }

    fn cut(self) {
        if let Side::Answered(flow) = self.side {
            flow.reset();
        }
    }
}

/// The protocol in which this resource's refusals are put, if its document asks for that.
fn spoken_here(place: &Place) -> Option<Spoken> {
    match place.resource.refusal {
        RefusalStyle::Protocol => place.resource.protocol.as_deref().and_then(Spoken::named),
        RefusalStyle::Reset => None,
    }
}

/// Why one attempt brought no session.
enum TryError {
    /// The proxy would not have this grant any more.
    GrantEnded(String),
    Ended(Ended),
}
