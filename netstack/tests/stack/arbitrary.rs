//! Whatever comes, and whatever the owner does: no panic, no spinning, no growth, and nothing of one flow in another.

use std::time::Duration;

use portlatch_netstack::{Event, FlowId, IncomingId, Refusal, StackConfig};
use proptest::collection::vec;
use proptest::prelude::*;
use smoltcp::wire::TcpControl;

use crate::lab::{Lab, PROGRAM4, PROGRAM6, SERVER4, SERVER6, Seen, Tcp, config};

/// One thing that happens.
#[derive(Debug, Clone)]
enum Step {
    /// Bytes that may be anything.
    Bytes(Vec<u8>),
    /// A segment that is near to what its flow expects, or not.
    Segment {
        six: bool,
        port: u8,
        control: TcpControl,
        ahead: i32,
        behind: Option<i32>,
        window: u16,
        length: u32,
    },
    Accept,
    Refuse(bool),
    Read(u8, usize),
    Write(u8, usize),
    Finish(u8),
    Reset(u8),
    Release(u8),
    Drain,
    Pass(u64),
}

fn control() -> impl Strategy<Value = TcpControl> {
    prop_oneof![
        6 => Just(TcpControl::None),
        2 => Just(TcpControl::Psh),
        2 => Just(TcpControl::Syn),
        2 => Just(TcpControl::Fin),
        1 => Just(TcpControl::Rst),
    ]
}

fn distance() -> impl Strategy<Value = i32> {
    prop_oneof![8 => Just(0), 2 => -4..4_i32, 2 => -300_000..300_000_i32, 1 => any::<i32>()]
}

fn segment() -> impl Strategy<Value = Step> {
    let length = prop_oneof![Just(0_u32), 1..100_u32, 60_000..65_000_u32];
    let window = prop_oneof![Just(0_u16), Just(65_535), any::<u16>()];
    let behind = proptest::option::weighted(0.9, distance());
    (any::<bool>(), 0..3_u8, control(), distance(), behind, window, length).prop_map(
        |(six, port, control, ahead, behind, window, length)| Step::Segment {
            six,
            port,
            control,
            ahead,
            behind,
            window,
            length,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let size = || prop_oneof![1..100_usize, Just(usize::MAX)];
    prop_oneof![
        2 => vec(any::<u8>(), 0..200).prop_map(Step::Bytes),
        30 => segment(),
        8 => Just(Step::Accept),
        1 => any::<bool>().prop_map(Step::Refuse),
        4 => (0..4_u8, size()).prop_map(|(flow, size)| Step::Read(flow, size)),
        4 => (0..4_u8, size()).prop_map(|(flow, size)| Step::Write(flow, size)),
        2 => (0..4_u8).prop_map(Step::Finish),
        1 => (0..4_u8).prop_map(Step::Reset),
        1 => (0..4_u8).prop_map(Step::Release),
        10 => Just(Step::Drain),
        3 => prop_oneof![0..50_u64, 900..70_000_u64].prop_map(Step::Pass),
    ]
}

/// The world around the stack: what an owner remembers, and what each program would say next.
struct World {
    lab: Lab,
    incoming: Vec<IncomingId>,
    flows: Vec<FlowId>,
    /// Per family and port: the program's next sequence number, and the stack's.
    next: [[(u32, u32); 3]; 2],
}

const ENDS: [(&str, &str); 2] = [("198.18.0.1", SERVER4), ("[fd00:1:2:3::1]", SERVER6)];

impl World {
    fn new(config: StackConfig) -> World {
        World { lab: Lab::with(config), incoming: Vec::new(), flows: Vec::new(), next: [[(1_000, 0); 3]; 2] }
    }

    fn flow(&self, number: u8) -> Option<FlowId> {
        self.flows.get(self.flows.len().checked_sub(1 + usize::from(number))?).copied()
    }

    fn segment(&mut self, step: &Step) {
        let Step::Segment { six, port, control, ahead, behind, window, length } = step else { return };
        let (address, server) = ENDS[usize::from(*six)];
        let next = &mut self.next[usize::from(*six)][usize::from(*port)];
        let payload = vec![*port; *length as usize];
        let sequence = next.0.wrapping_add_signed(*ahead);
        let request = *control == TcpControl::Syn && behind.is_some_and(|behind| behind == 0);
        let acknowledgement = behind.filter(|_| !request).map(|behind| next.1.wrapping_add_signed(behind));
        let program = format!("{address}:{}", 40_000 + u16::from(*port));
        let segment = Tcp { window: *window, acknowledgement, ..Tcp::syn(&program, server, sequence) };
        let segment = segment.with(*control).carrying(&payload);
        if *ahead == 0 {
            let controls = u32::from(matches!(control, TcpControl::Syn | TcpControl::Fin));
            next.0 = sequence.wrapping_add(*length).wrapping_add(controls);
        }
        self.lab.send(&segment.bytes());
    }

    /// The programs take what the stack says.
    fn take(&mut self, packets: Vec<Vec<u8>>) {
        for packet in packets {
            let is_tcp = if packet[0] >> 4 == 4 { packet[9] == 6 } else { packet[6] == 6 };
            if !is_tcp {
                continue;
            }
            let seen = Seen::read(&packet);
            assert!(
                seen.payload.iter().all(|byte| *byte == seen.source.port() as u8),
                "a byte of another flow"
            );
            let Some(port) = seen.destination.port().checked_sub(40_000).filter(|port| *port < 3) else {
                continue;
            };
            let next = &mut self.next[usize::from(seen.destination.is_ipv6())][usize::from(port)];
            let controls = u32::from(matches!(seen.control, TcpControl::Syn | TcpControl::Fin));
            next.1 = seen.sequence.wrapping_add(seen.payload.len() as u32).wrapping_add(controls);
            if let Some(acknowledgement) = seen.acknowledgement {
                next.0 = acknowledgement;
            }
        }
    }

    fn take_step(&mut self, step: &Step) {
        let now = self.lab.now;
        match step {
            Step::Bytes(bytes) => self.lab.send(bytes),
            Step::Segment { .. } => self.segment(step),
            Step::Accept => {
                if let Some(flow) = self.incoming.pop().and_then(|id| self.lab.stack.accept(id, now)) {
                    self.flows.push(flow);
                }
            }
            Step::Refuse(reset) => {
                let refusal = if *reset { Refusal::Reset } else { Refusal::HostUnreachable };
                if let Some(id) = self.incoming.pop() {
                    self.lab.stack.refuse(id, refusal, now);
                }
            }
            Step::Drain => {
                let packets = self.lab.packets();
                self.take(packets);
                for event in self.lab.events() {
                    if let Event::Incoming(incoming) = event {
                        self.incoming.push(incoming.id);
                    }
                }
            }
            Step::Pass(milliseconds) => {
                let packets = self.lab.pass(Duration::from_millis(*milliseconds));
                self.take(packets);
            }
            Step::Read(..) | Step::Write(..) | Step::Finish(_) | Step::Reset(_) | Step::Release(_) => {
                self.command(step);
            }
        }
    }

    fn command(&mut self, step: &Step) {
        let (Step::Read(number, _)
        | Step::Write(number, _)
        | Step::Finish(number)
        | Step::Reset(number)
        | Step::Release(number)) = step
        else {
            return;
        };
        let Some(flow) = self.flow(*number) else { return };
        let stack = &mut self.lab.stack;
        match step {
            Step::Read(_, size) => {
                let read = stack.read_with(flow, |bytes| (bytes.len().min(*size), bytes.to_vec()));
                if let Ok(bytes) = read {
                    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "a byte of another flow");
                }
            }
            // The last byte of the port that every flow here goes to.
            Step::Write(_, size) => drop(stack.write(flow, &vec![5_432_u16 as u8; (*size).min(100_000)])),
            Step::Finish(_) => stack.finish(flow),
            Step::Reset(_) => stack.reset(flow),
            Step::Release(_) => stack.release(flow),
            Step::Bytes(_)
            | Step::Segment { .. }
            | Step::Accept
            | Step::Refuse(_)
            | Step::Drain
            | Step::Pass(_) => {}
        }
    }
}

fn run(config: StackConfig, steps: &[Step]) {
    let mut world = World::new(config);
    for step in steps {
        world.take_step(step);
    }
    // In the end everything ends: the owner lets go, the programs fall silent.
    world.take_step(&Step::Drain);
    for id in std::mem::take(&mut world.incoming) {
        world.lab.stack.refuse(id, Refusal::Reset, world.lab.now);
    }
    for flow in std::mem::take(&mut world.flows) {
        world.lab.stack.release(flow);
    }
    world.lab.pass(Duration::from_secs(3_600));
    world.lab.events();
    assert_eq!((world.lab.stack.flow_count(), world.lab.stack.held_count()), (0, 0));
    assert_eq!(world.lab.stack.poll_timeout(), None);
}

proptest! {
    #![proptest_config(crate::cases(256))]

    #[test]
    fn any_packets_in_any_order_do_no_harm(steps in vec(step(), 1..120)) {
        run(config(), &steps);
    }

    #[test]
    fn they_do_no_harm_with_small_rings_and_without_checksums(steps in vec(step(), 1..120)) {
        run(StackConfig { ring_size: 4_096, verify_checksums: false, max_flows: 2, max_held: 2, ..config() }, &steps);
    }

    #[test]
    fn any_change_to_a_good_packet_does_no_harm(
        six: bool, control in control(), changes in vec((0..120_usize, any::<u8>()), 0..8), cut in 0..200_usize
    ) {
        let (program, server) = if six { (PROGRAM6, SERVER6) } else { (PROGRAM4, SERVER4) };
        let mut lab = Lab::with(StackConfig { verify_checksums: false, ..config() });
        let (_, next) = lab.open(program, server);
        let mut packet = Tcp::ack(program, server, 1_001, next).with(control).carrying(&[7; 60]).bytes();
        for (at, byte) in changes {
            if let Some(place) = packet.get_mut(at) {
                *place = byte;
            }
        }
        packet.truncate(packet.len().min(packet.len().saturating_sub(cut.saturating_sub(100))));
        lab.send(&packet);
        lab.pass(Duration::from_secs(3_600));
        prop_assert!(lab.stack.flow_count() <= 1);
    }
}
