//! Sequences of packets, commands and time against a reference model of what a flow may be.
//!
//! The input is a story: four programs, some of whose segments are hostile, an owner that answers, reads, writes and
//! ends, and time. After each step the model says whether the stack may have said what it said (`world`,
//! `connection`); in the end the programs turn honest, and every byte that is still owed must arrive (`ending`).

mod connection;
mod ending;
mod segment;
mod step;
mod stream;
mod verdict;
mod world;

use std::time::Duration;

use portlatch_netstack::{ReadError, Refusal, WriteError};

use connection::{Connection, Owner, SCALE};
use segment::{ACK, FIN, RST, SYN, Segment};
use step::{Base, Forgery, Input, Speech, Step};
use world::{Cause, Command, Stage, World};

/// Rings with and without a window scale.
const RINGS: [usize; 3] = [8 * 1024, 128 * 1024, 20_000];
/// Numbers at which sequence numbers have something to go wrong.
const NUMBERS: [u32; 8] =
    [0, 1_000, u32::MAX, u32::MAX - 5, 0x7fff_ffff, 0x8000_0000, u32::MAX - 9_000, 12_345];
/// What a program offers in its SYN; each is 8 bytes at most. The last one offers no scale.
const OFFERS: [&[u8]; 4] =
    [&[2, 4, 5, 180, 1, 3, 3, SCALE], &[1, 3, 3, SCALE], &[2, 4, 0, 100, 3, 3, SCALE, 1], &[2, 4, 5, 180]];
/// What a hostile one puts into any segment; longer than what an honest one offers.
const BROKEN: [&[u8]; 4] = [
    &[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2],
    &[2, 0, 5, 180, 1, 1, 1, 1, 1, 1, 1, 1],
    &[5, 18, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 9, 9, 9, 9, 1, 1, 1, 1, 0, 0],
    &[8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 1],
];
/// What a program sends again at once.
const MOST_AGAIN: usize = 60_000;
/// A hostile program's stream is not longer: each byte of it costs time.
const MOST_FORGED: i64 = 1_000_000;
/// A story longer than this says nothing new.
const MOST_STEPS: usize = 4_000;

/// How an owner lets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Reset,
    Release,
}

/// Mostly short, now and then as long as may be: every byte costs time.
fn length_of(word: u16) -> usize {
    if word > 64_000 { 9_000 } else { usize::from(word) % 2_048 }
}

/// Plays a story and holds the stack against the model.
///
/// # Panics
/// If the stack says what the model does not allow, does not say what it must, or loses a byte.
pub fn fuzz_sequences(bytes: &[u8]) {
    let mut input = Input(bytes);
    let Some(first) = input.byte() else { return };
    let mut world = World::new(RINGS[usize::from(first) % RINGS.len()]);
    for _ in 0..MOST_STEPS {
        let Some((lane, step)) = input.step() else { break };
        world.take(lane, step);
    }
    world.end();
}

impl World {
    fn take(&mut self, lane: usize, step: Step<'_>) {
        match step {
            Step::Connect { number, options } => self.connect(lane, number, options),
            Step::ConnectAgain => {
                let syn = self.lanes[lane].connection.isn();
                self.inject(lane, syn_of(syn, 0));
            }
            Step::Speak(speech) => self.speak(lane, speech),
            Step::Forge(forgery) => self.forge(lane, forgery),
            Step::Accept => self.answer(lane, Command::Accept),
            Step::Refuse => self.answer(lane, Command::Refuse),
            Step::RefuseAsUnreachable => self.answer(lane, Command::RefuseAsUnreachable),
            Step::Write(length) => self.write(lane, length_of(length)),
            Step::Read(length) => self.read(lane, length_of(length)),
            Step::Finish => self.finish(lane),
            Step::Reset => self.let_go(lane, Ending::Reset),
            Step::Release => self.let_go(lane, Ending::Release),
            Step::Pass(milliseconds) => self.pass(Duration::from_millis(milliseconds.into())),
            Step::Lose => self.lanes[lane].is_deaf = true,
            Step::Mend => self.lanes[lane].is_deaf = false,
            Step::Garbage(bytes) => {
                // A packet that is one of a program's is another step's.
                if bytes.len() < 20 {
                    let stages = self.stages();
                    self.stack.handle_packet(bytes, self.now);
                    self.settle(stages, &Cause::Garbage);
                }
            }
        }
    }

    fn connect(&mut self, lane: usize, number: u8, options: u8) {
        let isn = NUMBERS[usize::from(number) % NUMBERS.len()].wrapping_add(u32::from(number >> 3) << 8);
        self.inject(lane, syn_of(isn, options));
    }

    /// What the program's kernel sends, if it can.
    fn speak(&mut self, lane: usize, speech: Speech) {
        let connection = &mut self.lanes[lane].connection;
        if !connection.is_established() {
            return;
        }
        if let Speech::Window(window) = speech {
            connection.window = u16::from(window) << 4;
        }
        let end = connection.sent.contiguous();
        let is_ended = connection.sent.has_fin_at(end);
        let room = usize::try_from(connection.edge - end).unwrap_or(0).min(60_000);
        let up_to = |length: u16| if is_ended { 0 } else { length_of(length).min(room) };
        let next = end + i64::from(is_ended);
        let (from, length, flags) = match speech {
            Speech::Acknowledge | Speech::Window(_) => (next, 0, ACK),
            Speech::Data(length) => (next, up_to(length), ACK),
            Speech::DataAndFin(length) if !is_ended => (next, up_to(length), ACK | FIN),
            Speech::Fin | Speech::DataAndFin(_) => (end, 0, ACK | FIN),
            Speech::Again => {
                let from = connection.told.min(end);
                let length = usize::try_from(end - from).unwrap_or(0).min(MOST_AGAIN);
                (from, length, ACK)
            }
            Speech::KeepAlive => (connection.told - 1, 0, ACK),
            Speech::Reset => (connection.told, 0, RST | ACK),
        };
        let segment = plain(connection, from, length, flags);
        self.inject(lane, segment);
    }

    fn forge(&mut self, lane: usize, forgery: Forgery) {
        let connection = &self.lanes[lane].connection;
        let base = match forgery.base {
            Base::Told => connection.told,
            Base::End => connection.sent.furthest(),
            Base::Edge => connection.edge,
            Base::Anywhere => i64::from(forgery.off) << 16,
        };
        let offset = base + i64::from(forgery.off);
        let length = if offset < MOST_FORGED { length_of(forgery.length) / 3 } else { 0 };
        let mut segment = plain(connection, offset, length, forgery.flags & 0x3f);
        segment.acknowledgement =
            segment.acknowledgement.wrapping_add_signed(i32::from(forgery.acknowledges));
        segment.window = u16::from(forgery.window) << 8;
        // What was read cannot be read again, and what is out of reach cannot be stored: lies there do no harm.
        let is_old = offset + i64::from(segment.len()) <= connection.read;
        let is_far = offset > connection.read + 300_000;
        if is_old || is_far {
            segment.payload.iter_mut().for_each(|byte| *byte = !*byte);
        }
        if forgery.options > 0 {
            segment.options = BROKEN[usize::from(forgery.options) % BROKEN.len()].to_vec();
        }
        self.inject(lane, segment);
    }

    fn answer(&mut self, number: usize, command: Command) {
        let stages = self.stages();
        let Stage::Held(id) = self.lanes[number].stage else { return };
        let now = self.now;
        let lane = &mut self.lanes[number];
        lane.stage = Stage::Nobody;
        match command {
            Command::Refuse => self.stack.refuse(id, Refusal::Reset, now),
            Command::RefuseAsUnreachable => self.stack.refuse(id, Refusal::HostUnreachable, now),
            Command::Accept | Command::Use | Command::End => {
                if let Some(flow) = self.stack.accept(id, now) {
                    lane.connection.owner = Some(Owner::new(flow));
                    lane.connection.heard_at = now;
                    lane.stage = Stage::Open;
                }
            }
        }
        assert_eq!(self.stack.accept(id, now), None, "a SYN was answered twice");
        self.settle(stages, &Cause::Command(number, command));
    }

    fn write(&mut self, lane: usize, length: usize) {
        let stages = self.stages();
        let connection = &mut self.lanes[lane].connection;
        let bytes = connection.down_bytes(length);
        let Some(owner) = &mut connection.owner else { return };
        match self.stack.write(owner.flow, bytes) {
            Ok(written) => {
                assert!(written <= length && owner.is_alive() && !connection.is_finished, "a write too much");
                connection.written += i64::try_from(written).expect("a length");
            }
            Err(WriteError::Blocked) => {
                assert!(!owner.may_write, "an event said that there is room");
                owner.waits_to_write = true;
            }
            Err(WriteError::Reset) => {
                assert!(!owner.is_alive() || connection.is_finished, "a flow that lives is gone");
            }
        }
        if let Some(owner) = &mut connection.owner {
            owner.may_write = false;
        }
        self.settle(stages, &Cause::Command(lane, Command::Use));
    }

    fn read(&mut self, lane: usize, most: usize) {
        let stages = self.stages();
        let Self { stack, lanes, .. } = self;
        let lane_at = &mut lanes[lane];
        for connection in lane_at.over.iter_mut().chain([&mut lane_at.connection]) {
            read_some(stack, connection, most.max(1));
        }
        self.settle(stages, &Cause::Command(lane, Command::Use));
    }

    fn finish(&mut self, lane: usize) {
        let stages = self.stages();
        let connection = &mut self.lanes[lane].connection;
        let Some(owner) = &connection.owner else { return };
        if stages[lane] == Stage::Open {
            connection.is_finished = true;
        }
        self.stack.finish(owner.flow);
        self.settle(stages, &Cause::Command(lane, Command::Use));
    }

    fn let_go(&mut self, number: usize, ending: Ending) {
        let stages = self.stages();
        let lane = &mut self.lanes[number];
        for connection in lane.over.drain(..) {
            if let Some(owner) = &connection.owner {
                self.stack.release(owner.flow);
            }
        }
        if lane.stage == Stage::Open
            && let Some(owner) = &mut lane.connection.owner
        {
            owner.is_let_go = true;
            lane.stage = match ending {
                Ending::Release if lane.connection.is_finished => Stage::Released,
                Ending::Release | Ending::Reset => Stage::Nobody,
            };
            match ending {
                Ending::Release => self.stack.release(owner.flow),
                Ending::Reset => self.stack.reset(owner.flow),
            }
            // From now on its name is stale.
            assert_eq!(self.stack.write(owner.flow, b"x"), Err(WriteError::Reset));
        }
        self.settle(stages, &Cause::Command(number, Command::End));
    }
}

/// Reads at most so much, and holds it against what was sent.
fn read_some(
    stack: &mut portlatch_netstack::Stack<portlatch_netstack::VecMemory>,
    connection: &mut Connection,
    most: usize,
) {
    let Some(owner) = &mut connection.owner else { return };
    let may_read = std::mem::take(&mut owner.may_read);
    let read = stack.read_with(owner.flow, |bytes| {
        let taken = bytes.len().min(most);
        (taken, bytes[..taken].to_vec())
    });
    match read {
        Ok(bytes) => {
            assert!(owner.is_alive() && !owner.has_read_all, "bytes behind the end");
            connection.note_read(&bytes);
        }
        Err(ReadError::Finished) => connection.note_end(),
        Err(ReadError::Blocked) => {
            assert!(!may_read && !owner.has_read_all, "an event said that there is something to read");
            owner.waits_to_read = true;
        }
        Err(ReadError::Reset) => assert!(!owner.is_alive(), "a flow that lives is gone"),
    }
}

fn syn_of(sequence: u32, options: u8) -> Segment {
    let options = OFFERS[usize::from(options) % OFFERS.len()].to_vec();
    Segment { flags: SYN, sequence, window: u16::MAX, options, ..Segment::default() }
}

/// A segment of the program's with the right bytes, acknowledgement and window.
fn plain(connection: &Connection, offset: i64, length: usize, flags: u8) -> Segment {
    Segment {
        flags,
        sequence: connection.up_sequence(offset),
        acknowledgement: connection.acknowledgement(),
        window: connection.window,
        options: Vec::new(),
        payload: connection.up_bytes(offset, length).to_vec(),
    }
}
