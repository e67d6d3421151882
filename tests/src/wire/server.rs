//! The server's end of a connection: the owner of one of the stack's flows, a step at a time.

use std::time::Instant;

use portlatch_netstack::{FlowId, ReadError, Stack, VecMemory, WriteError};

use super::transfer::{End, Kind, Plan};

/// Written at once.
const CHUNK: usize = 64 << 10;

/// A flow's owner.
#[derive(Debug)]
pub struct Server {
    plan: Plan,
    flow: FlowId,
    received: u64,
    sent: u64,
    program: Program,
    ours: Ours,
    /// When it reads again.
    reads_at: Instant,
    end: Option<End>,
}

/// What has come of the program's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Program {
    Sending,
    Finished,
}

/// What has come of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ours {
    Sending,
    Finished,
}

impl Server {
    /// The owner of this flow.
    pub const fn new(plan: Plan, flow: FlowId, now: Instant) -> Self {
        Self {
            plan,
            flow,
            received: 0,
            sent: 0,
            program: Program::Sending,
            ours: Ours::Sending,
            reads_at: now,
            end: None,
        }
    }

    /// The flow.
    pub const fn flow(&self) -> FlowId {
        self.flow
    }

    /// Which connection it is.
    pub const fn number(&self) -> u64 {
        self.plan.number
    }

    /// How it ended, once it has.
    pub const fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// When it wants to go on by itself.
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        (self.end.is_none() && self.program == Program::Sending && self.reads_at > now)
            .then_some(self.reads_at)
    }

    /// The stack says that the flow is gone.
    pub fn handle_gone(&mut self) {
        self.end.get_or_insert(End::Reset);
    }

    /// Goes on as far as it goes now.
    pub fn advance(&mut self, stack: &mut Stack<VecMemory>, now: Instant) {
        if self.end.is_some() {
            return;
        }
        if self.reads_at <= now {
            self.read(stack, now);
        }
        if self.end.is_none() {
            self.write(stack);
        }
        if self.end.is_none() && self.is_time_to_reset() {
            stack.reset(self.flow);
            self.end = Some(End::Reset);
        }
        if self.end.is_none() && self.program == Program::Finished && self.ours == Ours::Finished {
            stack.release(self.flow);
            self.end = Some(End::Whole);
        }
    }

    fn read(&mut self, stack: &mut Stack<VecMemory>, now: Instant) {
        while self.program == Program::Sending {
            let (at, pattern, most) = (self.received, self.plan.upward(), self.plan.server.bytes);
            let read = stack.read_with(self.flow, |bytes| {
                let taken = &bytes[..bytes.len().min(most)];
                (taken.len(), (taken.len(), pattern.first_fault(at, taken)))
            });
            match read {
                Ok((_, Some(place))) => return self.fail(stack, End::Corrupt(place)),
                Ok((taken, None)) => {
                    self.received += taken as u64;
                    if !self.takes_any_number() && self.received > self.plan.up {
                        return self.fail(stack, End::Corrupt(self.plan.up));
                    }
                }
                Err(ReadError::Finished) if self.takes_any_number() || self.received == self.plan.up => {
                    self.program = Program::Finished;
                }
                Err(ReadError::Finished) => return self.fail(stack, End::Short(self.received)),
                Err(ReadError::Reset) => return self.handle_gone(),
                Err(ReadError::Blocked) => return,
            }
            if !self.plan.server.rest.is_zero() {
                self.reads_at = now + self.plan.server.rest;
                return;
            }
        }
    }

    fn write(&mut self, stack: &mut Stack<VecMemory>) {
        let may_write = self.plan.kind != Kind::ProgramFirst || self.program == Program::Finished;
        if !may_write {
            return;
        }
        let length = if self.plan.kind == Kind::ProgramResets { u64::MAX } else { self.plan.down };
        let mut buffer = vec![0; CHUNK];
        while self.sent < length {
            let size = usize::try_from(length - self.sent).unwrap_or(CHUNK).min(CHUNK);
            self.plan.downward().fill(self.sent, &mut buffer[..size]);
            match stack.write(self.flow, &buffer[..size]) {
                Ok(written) => self.sent += written as u64,
                Err(WriteError::Blocked) => return,
                Err(WriteError::Reset) => return self.handle_gone(),
            }
        }
        // Who resets says no end before.
        if self.plan.kind != Kind::ServerResets && self.ours == Ours::Sending {
            stack.finish(self.flow);
            self.ours = Ours::Finished;
        }
    }

    /// Whether bytes may come without an end, or end anywhere: somebody resets.
    fn takes_any_number(&self) -> bool {
        matches!(self.plan.kind, Kind::ProgramResets | Kind::ServerResets)
    }

    fn is_time_to_reset(&self) -> bool {
        self.plan.kind == Kind::ServerResets && self.received >= self.plan.up
    }

    fn fail(&mut self, stack: &mut Stack<VecMemory>, end: End) {
        stack.reset(self.flow);
        self.end = Some(end);
    }
}
