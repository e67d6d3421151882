//! The stack, four programs and an owner, and after each step: may the stack have said what it said?
//!
//! ```text
//!            SYN             accept                release
//!  Nobody ---------> Held ------------> Open -------------------> Released
//!    ^                |                  |  reset, given up           |
//!    +----------------+------------------+----------------------------+ a SYN begins anew
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use portlatch_netstack::{Event, FlowId, Incoming, IncomingId, Stack, StackConfig, VecMemory};

use super::connection::{Connection, Owner};
use super::segment::{self, Ends, FIN, Offer, RST, SYN, Seen, Segment};
use super::verdict::Said;

pub(super) const LANES: usize = 4;
/// One fewer than there are programs, so that both limits are met.
const MAX_HELD: usize = 3;
const MAX_FLOWS: usize = 3;
const MTU: usize = 65_535;
/// More packets or events than this from one step would be a loop.
const MAX_OUTPUT: usize = 2_000;
/// A held SYN that nobody asks for again is forgotten, and a program that does not answer given up: not before.
const LEAST_HOLD: Duration = Duration::from_secs(129);
const LEAST_PATIENCE: Duration = Duration::from_secs(119);

/// What a 4-tuple is to the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing. The stack may remember that something was.
    Nobody,
    /// A SYN that waits.
    Held(IncomingId),
    /// A flow.
    Open,
    /// A flow that the owner has let go.
    Released,
}

/// One program, and its connection at the moment.
pub(super) struct Lane {
    pub(super) ends: Ends,
    pub(super) stage: Stage,
    pub(super) connection: Connection,
    /// What the stack sends does not reach the program.
    pub(super) is_deaf: bool,
    /// Flows of earlier connections that the owner still has.
    pub(super) over: Vec<Connection>,
}

/// What is going on, and so what the stack may say.
#[derive(Debug, Clone)]
pub(super) enum Cause {
    /// This segment of the program on a lane.
    Segment(usize, Segment),
    /// A command of the owner on a lane.
    Command(usize, Command),
    /// Time has passed.
    Time,
    /// Bytes that are no segment of any lane.
    Garbage,
}

/// A command that may bring a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    Accept,
    Refuse,
    RefuseAsUnreachable,
    /// Read, write or finish.
    Use,
    /// Reset, or release, which may be one.
    End,
}

pub(super) struct World {
    pub(super) stack: Stack<VecMemory>,
    pub(super) now: Instant,
    pub(super) lanes: [Lane; LANES],
    salt: u32,
    buffer: Vec<u8>,
}

fn ends(number: u8) -> Ends {
    let port = 40_000 + u16::from(number);
    if number == 3 {
        let address = |last| IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last));
        return Ends { program: (address(1), port).into(), server: (address(2), 5432).into() };
    }
    let address = |last| IpAddr::V4(Ipv4Addr::new(198, 18, 0, last));
    Ends { program: (address(1), port).into(), server: (address(2), 5432).into() }
}

impl World {
    pub(super) fn new(ring_size: usize) -> Self {
        let now = Instant::now();
        let config = StackConfig {
            mtu: MTU,
            range4: (Ipv4Addr::new(198, 18, 0, 0), 16),
            range6: Some((Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0), 64)),
            random_seed: 7,
            ring_size,
            max_held: MAX_HELD,
            max_flows: MAX_FLOWS,
            // A fuzzer finds no checksums; without them it gets further.
            verify_checksums: false,
            sources: vec![ends(0).program.ip(), ends(3).program.ip()],
        };
        let nothing = Connection::new(0, &Segment::default(), now);
        let lanes = [0, 1, 2, 3].map(|number| Lane {
            ends: ends(number),
            stage: Stage::Nobody,
            connection: nothing.clone(),
            is_deaf: false,
            over: Vec::new(),
        });
        let stack = Stack::new(config, VecMemory::new(ring_size, MAX_FLOWS), now);
        Self { stack, now, lanes, salt: 0, buffer: vec![0; MTU] }
    }

    /// A segment of a program's arrives.
    pub(super) fn inject(&mut self, lane: usize, segment: Segment) {
        let (now, stages) = (self.now, self.stages());
        let Lane { ends, stage, connection, .. } = &mut self.lanes[lane];
        let is_mine = matches!(stage, Stage::Open | Stage::Released);
        if is_mine && !segment.has(SYN | RST) {
            connection.note_arrival(&segment, now);
        }
        if let Stage::Held(_) = stage
            && segment.is_request()
            && segment.sequence == connection.isn()
        {
            connection.heard_at = now;
        }
        let packet = segment.packet(*ends);
        self.stack.handle_packet(&packet, now);
        self.settle(stages, &Cause::Segment(lane, segment));
    }

    /// Lets time pass, with all that it brings.
    pub(super) fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        for _ in 0..MAX_OUTPUT {
            match self.stack.poll_timeout() {
                Some(deadline) if deadline <= end => self.now = self.now.max(deadline),
                Some(_) | None => {
                    self.now = end;
                    return;
                }
            }
            self.stack.handle_timeout(self.now);
            self.settle(self.stages(), &Cause::Time);
        }
        panic!("the stack spins");
    }

    pub(super) fn stages(&self) -> [Stage; LANES] {
        std::array::from_fn(|lane| self.lanes[lane].stage)
    }

    /// Takes all that the stack has to say, and holds it against the model as it stood before.
    pub(super) fn settle(&mut self, stages: [Stage; LANES], cause: &Cause) {
        let mut said: [Said; LANES] = Default::default();
        self.take_events(cause, &mut said);
        self.take_packets(cause, &mut said);
        self.take_events(cause, &mut said);
        // A command knows no time, so that something may be due as soon as the time is known again.
        if self.stack.poll_timeout().is_some_and(|due| due <= self.now) {
            self.stack.handle_timeout(self.now);
            self.take_packets(cause, &mut said);
            self.take_events(cause, &mut said);
        }
        for (lane, said) in said.iter().enumerate() {
            self.check_said(lane, stages[lane], said, cause);
        }
        self.check_counts();
    }

    fn check_counts(&self) {
        let held = self.lanes.iter().filter(|lane| matches!(lane.stage, Stage::Held(_))).count();
        assert_eq!(self.stack.held_count(), held, "the owner and the stack hold different SYNs");
        let is_open = |lane: &&Lane| lane.stage == Stage::Open;
        let open = self.lanes.iter().filter(is_open).count();
        let over: usize = self.lanes.iter().map(|lane| lane.over.len()).sum();
        assert!(
            (open + over..=MAX_FLOWS).contains(&self.stack.flow_count()),
            "a flow was lost or is too many"
        );
        assert_eq!(self.stack.counters().panics, 0, "something in the stack panicked");
        let due = self.stack.poll_timeout();
        assert!(due.is_none_or(|due| due > self.now), "the stack would spin");
    }

    fn lane_of(&self, ends: Ends) -> usize {
        self.lanes.iter().position(|lane| lane.ends == ends).expect("a packet of one of the programs")
    }

    fn take_packets(&mut self, cause: &Cause, said: &mut [Said; LANES]) {
        for _ in 0..MAX_OUTPUT {
            let Some(packet) = self.stack.poll_packet(self.now, &mut self.buffer) else { return };
            match segment::read(&self.buffer[..packet.len]) {
                Seen::Segment(ends, segment, offer) => {
                    let lane = self.lane_of(ends);
                    self.take_segment(lane, &segment, offer, cause, &mut said[lane]);
                }
                Seen::Unreachable(ends, syn) => {
                    let lane = self.lane_of(ends);
                    let is_mine = syn.sequence == self.lanes[lane].connection.isn() && syn.has(SYN);
                    assert!(is_mine, "word of the wrong SYN");
                    said[lane].unreachable += 1;
                }
            }
        }
        panic!("packets without end");
    }

    fn take_segment(
        &mut self,
        number: usize,
        segment: &Segment,
        offer: Offer,
        cause: &Cause,
        said: &mut Said,
    ) {
        if let Cause::Segment(lane, asked) = cause
            && *lane == number
        {
            assert!(!(segment.has(RST) && asked.has(RST)), "an RST was answered with an RST");
        }
        let lane = &mut self.lanes[number];
        if segment.has(RST) {
            said.resets += 1;
            return;
        }
        match lane.stage {
            Stage::Nobody => {
                // What TIME-WAIT says once more.
                assert!(!segment.has(SYN | FIN) && segment.payload.is_empty(), "an answer by nobody");
                said.stray += 1;
            }
            Stage::Held(_) => panic!("a held SYN was answered: {segment:?}"),
            Stage::Open | Stage::Released => {
                lane.connection.check_departure(segment, offer);
                if segment.has(SYN) {
                    said.syn_acks += 1;
                } else {
                    said.others += 1;
                }
                if !lane.is_deaf {
                    lane.connection.take(segment);
                }
            }
        }
    }

    fn take_events(&mut self, cause: &Cause, said: &mut [Said; LANES]) {
        for _ in 0..MAX_OUTPUT {
            let Some(event) = self.stack.poll_event() else { return };
            match event {
                Event::Incoming(incoming) => self.begin(incoming, cause, said),
                Event::IncomingGone(id) => self.withdraw(id, cause, said),
                Event::Gone(flow) => self.lose(flow, cause, said),
                Event::Readable(flow) => {
                    let owner = self.owner(flow);
                    assert!(std::mem::take(&mut owner.waits_to_read), "nobody waits to read");
                    owner.may_read = true;
                }
                Event::Writable(flow) => {
                    let owner = self.owner(flow);
                    assert!(std::mem::take(&mut owner.waits_to_write), "nobody waits to write");
                    owner.may_write = true;
                }
                Event::Datagram(_) => panic!("a datagram that nobody sent"),
            }
        }
        panic!("events without end");
    }

    /// A SYN is held: it is the one that has just arrived.
    fn begin(&mut self, incoming: Incoming, cause: &Cause, said: &mut [Said; LANES]) {
        let Cause::Segment(number, syn) = cause else { panic!("a SYN out of nothing") };
        let lane = &mut self.lanes[*number];
        let ends = Ends { program: incoming.source, server: incoming.destination };
        assert!(ends == lane.ends && syn.is_request(), "the SYN of another");
        match lane.stage {
            Stage::Nobody | Stage::Released => {}
            Stage::Held(_) => panic!("a 4-tuple is held twice"),
            Stage::Open => {
                assert!(lane.connection.is_over(), "a new connection on one that lives");
                lane.over.push(lane.connection.clone());
            }
        }
        self.salt += 1;
        lane.connection = Connection::new(self.salt, syn, self.now);
        lane.stage = Stage::Held(incoming.id);
        said[*number].begun += 1;
    }

    fn withdraw(&mut self, id: IncomingId, cause: &Cause, said: &mut [Said; LANES]) {
        let number = self.lanes.iter().position(|lane| lane.stage == Stage::Held(id));
        let number = number.expect("a SYN that is held");
        let lane = &mut self.lanes[number];
        let connection = &lane.connection;
        match cause {
            Cause::Segment(other, segment) => {
                let is_new = segment.is_request() && segment.sequence != connection.isn();
                assert!(*other == number && (is_new || segment.has(RST)), "withdrawn without a word");
            }
            Cause::Time => {
                let silence = self.now.duration_since(connection.heard_at);
                assert!(silence >= LEAST_HOLD, "forgotten after {silence:?}");
            }
            Cause::Command(..) | Cause::Garbage => panic!("withdrawn without a cause"),
        }
        lane.stage = Stage::Nobody;
        said[number].gone += 1;
    }

    fn lose(&mut self, flow: FlowId, cause: &Cause, said: &mut [Said; LANES]) {
        let is_its = |lane: &Lane| lane.connection.owner.as_ref().is_some_and(|owner| owner.flow == flow);
        let number = self.lanes.iter().position(is_its).expect("a flow of the owner");
        let lane = &mut self.lanes[number];
        assert_eq!(lane.stage, Stage::Open, "a flow that nobody has is gone");
        let connection = &mut lane.connection;
        match cause {
            Cause::Segment(other, reset) => {
                let is_reset = *other == number && reset.has(RST);
                assert!(is_reset && connection.may_end_by(reset), "ended by {reset:?}");
            }
            // A command may bring one more try that is one too many.
            Cause::Time | Cause::Command(..) => {
                let silence = self.now.duration_since(connection.heard_at);
                assert!(silence >= LEAST_PATIENCE, "given up after {silence:?}");
            }
            Cause::Garbage => panic!("gone without a cause"),
        }
        connection.owner.as_mut().expect("just found").is_gone = true;
        lane.stage = Stage::Nobody;
        said[number].gone += 1;
    }

    fn owner(&mut self, flow: FlowId) -> &mut Owner {
        let lanes = self.lanes.iter_mut();
        let all = lanes.flat_map(|lane| lane.over.iter_mut().chain([&mut lane.connection]));
        let mut owners = all.filter_map(|connection| connection.owner.as_mut());
        owners.find(|owner| owner.flow == flow && !owner.is_gone).expect("an event for a flow that is owned")
    }
}
