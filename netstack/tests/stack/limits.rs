//! What the stack costs, and that it does not grow.

use std::time::Duration;

use portlatch_netstack::{Event, FlowId, ReadError, StackConfig};
use proptest::collection::vec;
use proptest::prelude::*;
use smoltcp::wire::TcpControl;

use crate::cases;
use crate::lab::{Lab, PROGRAM4, SERVER4, Tcp, config};

const SMALL: usize = 4_096;

fn roomy(flows: usize) -> StackConfig {
    StackConfig { ring_size: SMALL, max_flows: flows, max_held: 4_096, ..config() }
}

fn program(number: usize) -> String {
    format!("198.18.0.1:{}", 1_024 + number)
}

/// How often flows are looked at for one segment with data, its read and its acknowledgement.
fn visits_for_one_segment(other_flows: usize) -> u64 {
    let mut lab = Lab::with(roomy(other_flows + 1));
    for number in 0..other_flows {
        lab.open(&program(number), SERVER4);
    }
    let (flow, next) = lab.open(PROGRAM4, SERVER4);
    lab.packets();
    lab.events();

    let before = lab.stack.counters().flow_visits;
    lab.send(&Tcp::ack(PROGRAM4, SERVER4, 1_001, next).carrying(b"hello").bytes());
    assert_eq!(lab.events(), [Event::Readable(flow)]);
    assert_eq!(lab.read_all(flow), b"hello");
    assert_eq!(lab.segments().len(), 1);
    lab.stack.handle_timeout(lab.now);
    lab.stack.poll_timeout();
    lab.stack.counters().flow_visits - before
}

#[test]
fn the_cost_of_a_packet_does_not_grow_with_the_flows() {
    let alone = visits_for_one_segment(0);
    assert!(alone <= 4, "{alone}");
    assert_eq!(visits_for_one_segment(3_000), alone);
}

#[test]
fn a_timer_looks_at_its_own_flow_only() {
    let mut lab = Lab::with(roomy(1_001));
    for number in 0..1_000 {
        lab.open(&program(number), SERVER4);
    }
    let (flow, _) = lab.open(PROGRAM4, SERVER4);
    // The alarms of the handshakes are still set, and find nothing to do.
    lab.pass(Duration::from_secs(2));
    assert_eq!(lab.stack.write(flow, b"x"), Ok(1));
    lab.packets();

    let before = lab.stack.counters().flow_visits;
    assert_eq!(lab.pass(Duration::from_millis(1_500)).len(), 1);
    let visits = lab.stack.counters().flow_visits - before;
    assert!(visits <= 4, "{visits}");
}

#[test]
fn the_memory_of_an_idle_flow_is_given_back() {
    let mut lab = Lab::new();
    let (flow, next) = lab.open(PROGRAM4, SERVER4);
    lab.pass(Duration::from_secs(60));
    assert!(lab.stack.memory().reclaimed().is_empty(), "there was nothing to give back");

    lab.send(&Tcp::ack(PROGRAM4, SERVER4, 1_001, next).carrying(b"hello").bytes());
    lab.pass(Duration::from_secs(60));
    assert!(lab.stack.memory().reclaimed().is_empty(), "nobody has read it yet");

    assert_eq!(lab.read_all(flow), b"hello");
    lab.pass(Duration::from_secs(4));
    assert!(lab.stack.memory().reclaimed().is_empty());
    lab.pass(Duration::from_secs(2));
    assert_eq!(lab.stack.memory().reclaimed(), [flow.index()]);
    lab.pass(Duration::from_secs(600));
    assert_eq!(lab.stack.memory().reclaimed().len(), 1, "once is enough");

    assert_eq!(lab.stack.write(flow, b"hello"), Ok(5));
    lab.segments();
    lab.pass(Duration::from_secs(10));
    assert_eq!(lab.stack.memory().reclaimed().len(), 1, "nobody has acknowledged it yet");
    lab.send(&Tcp::ack(PROGRAM4, SERVER4, 1_006, next.wrapping_add(5)).bytes());
    lab.pass(Duration::from_secs(6));
    assert_eq!(lab.stack.memory().reclaimed().len(), 2);
}

#[test]
fn memory_with_bytes_out_of_order_is_kept() {
    let mut lab = Lab::new();
    let (flow, next) = lab.open(PROGRAM4, SERVER4);
    lab.send(&Tcp::ack(PROGRAM4, SERVER4, 1_006, next).carrying(b"world").bytes());
    lab.pass(Duration::from_secs(60));
    assert!(lab.stack.memory().reclaimed().is_empty());

    lab.send(&Tcp::ack(PROGRAM4, SERVER4, 1_001, next).carrying(b"hello").bytes());
    assert_eq!(lab.read_all(flow), b"helloworld");
    lab.pass(Duration::from_secs(6));
    assert_eq!(lab.stack.memory().reclaimed(), [flow.index()]);
}

#[test]
fn the_memory_of_a_slot_in_the_pool_is_given_back() {
    let mut lab = Lab::new();
    let (flow, next) = lab.open(PROGRAM4, SERVER4);
    lab.send(&Tcp::ack(PROGRAM4, SERVER4, 1_001, next).carrying(b"hello").bytes());
    lab.stack.reset(flow);
    lab.pass(Duration::from_secs(6));
    assert_eq!(lab.stack.memory().reclaimed(), [flow.index()]);
    assert_eq!(lab.stack.poll_timeout(), None);
}

/// Opens so many flows at once, and resets them all.
fn crowd(lab: &mut Lab, flows: usize) -> Vec<FlowId> {
    let flows: Vec<_> = (0..flows).map(|number| lab.open(&program(number), SERVER4).0).collect();
    for flow in &flows {
        lab.stack.reset(*flow);
    }
    lab.packets();
    lab.events();
    flows
}

#[test]
fn the_slots_of_a_crowd_are_taken_apart_within_a_minute_and_made_anew() {
    let mut lab = Lab::with(roomy(2_001));
    let (stays, next) = lab.open(PROGRAM4, SERVER4);
    let first = crowd(&mut lab, 2_000);
    assert_eq!((lab.stack.memory().lent(), lab.stack.flow_count()), (2_001, 1));
    let steps = lab.pass(Duration::from_secs(60)).len();
    assert_eq!(steps, 0);
    assert!(lab.stack.memory().lent() <= 100, "{}", lab.stack.memory().lent());

    let second = crowd(&mut lab, 2_000);
    assert_eq!(lab.stack.memory().lent(), 2_001);
    for (old, new) in first.iter().flat_map(|old| second.get(old.index()).map(|new| (old, new))) {
        assert_ne!(old, new);
    }
    let third: Vec<_> = (0..2_000).map(|number| lab.open(&program(number), SERVER4).0).collect();
    for stale in first.iter().chain(&second) {
        assert_eq!(lab.stack.read_with(*stale, |bytes| (bytes.len(), ())), Err(ReadError::Reset));
    }
    lab.send(&Tcp::ack(PROGRAM4, SERVER4, 1_001, next).carrying(b"hello").bytes());
    assert_eq!(lab.read_all(stays), b"hello");
    assert_eq!(lab.stack.flow_count(), third.len() + 1);
}

/// An open flow, and where both ends stand.
struct Alive {
    flow: FlowId,
    program: String,
    sequence: u32,
    next: u32,
}

impl Alive {
    fn open(lab: &mut Lab, number: usize) -> Self {
        let program = program(number);
        let (flow, next) = lab.open(&program, SERVER4);
        Self { flow, program, sequence: 1_001, next }
    }

    /// Its own name, there and back.
    fn talks(&mut self, lab: &mut Lab) {
        let name = self.program.clone().into_bytes();
        lab.send(&Tcp::ack(&self.program, SERVER4, self.sequence, self.next).carrying(&name).bytes());
        assert_eq!(lab.read_all(self.flow), name);
        self.sequence += name.len() as u32;
        assert_eq!(lab.stack.write(self.flow, &name), Ok(name.len()));
        lab.packets();
        self.next = self.next.wrapping_add(name.len() as u32);
        lab.send(&Tcp::ack(&self.program, SERVER4, self.sequence, self.next).bytes());
    }
}

proptest! {
    #![proptest_config(cases(16))]

    #[test]
    fn slots_that_come_and_go_leave_living_flows_alone(
        rounds in vec((0_usize..200, 0_usize..10, 0_u64..5_000), 1..20),
    ) {
        let (mut lab, mut alive, mut number) = (Lab::with(roomy(1_000)), Vec::new(), 0);
        for (opens, stays, millis) in rounds {
            for _ in 0..opens {
                alive.push(Alive::open(&mut lab, number));
                number += 1;
            }
            let mut place = 0;
            alive.retain(|other| {
                place += 1;
                let is_kept = place % 10 < stays && place < 100;
                if !is_kept {
                    lab.stack.reset(other.flow);
                }
                is_kept
            });
            lab.packets();
            lab.events();
            prop_assert_eq!(lab.stack.flow_count(), alive.len());
            lab.pass(Duration::from_millis(millis));
            for flow in &mut alive {
                flow.talks(&mut lab);
            }
            lab.events();
        }
        lab.pass(Duration::from_secs(60));
        prop_assert!(lab.stack.memory().lent() <= alive.len() + 100, "{}", lab.stack.memory().lent());
    }
}

#[test]
fn slots_that_are_needed_again_and_again_are_kept() {
    let mut lab = Lab::with(roomy(500));
    for _ in 0..100 {
        crowd(&mut lab, 500);
        lab.pass(Duration::from_millis(500));
        assert_eq!(lab.stack.memory().lent(), 500);
    }
}

/// One short connection: opened by hand, a word each way, closed by one side or the other, or reset.
fn short_life(lab: &mut Lab, number: usize) -> FlowId {
    let name = program(number);
    let (flow, next) = lab.open(&name, SERVER4);
    lab.send(&Tcp::ack(&name, SERVER4, 1_001, next).carrying(b"hi").bytes());
    assert_eq!(lab.read_all(flow), b"hi");
    assert_eq!(lab.stack.write(flow, b"ho"), Ok(2));
    match number % 3 {
        0 => {
            lab.stack.finish(flow);
            lab.packets();
            let end = next.wrapping_add(3);
            lab.send(&Tcp::ack(&name, SERVER4, 1_003, end).with(TcpControl::Fin).bytes());
            lab.stack.release(flow);
        }
        1 => {
            let fin = Tcp::ack(&name, SERVER4, 1_003, next).with(TcpControl::Fin);
            lab.send(&fin.bytes());
            lab.stack.finish(flow);
            lab.stack.release(flow);
            lab.packets();
            lab.send(&Tcp::ack(&name, SERVER4, 1_004, next.wrapping_add(3)).bytes());
        }
        _ => lab.send(&Tcp::ack(&name, SERVER4, 1_003, next).with(TcpControl::Rst).bytes()),
    }
    lab.packets();
    lab.events();
    flow
}

#[test]
fn a_thousand_flows_leave_nothing_behind() {
    let mut lab = Lab::with(roomy(64));
    let mut highest = 0;
    for number in 0..1_000 {
        highest = highest.max(short_life(&mut lab, number).index());
    }
    lab.pass(Duration::from_secs(30));

    assert_eq!((lab.stack.flow_count(), lab.stack.held_count()), (0, 0));
    assert_eq!(lab.stack.poll_timeout(), None);
    assert_eq!(lab.events(), []);
    assert_eq!(highest, 0, "one slot served them all");
    // No 4-tuple is left: a late segment of any of them meets nothing.
    for number in 0..1_000 {
        lab.send(&Tcp::ack(&program(number), SERVER4, 1_003, 1).bytes());
    }
    assert_eq!(lab.stack.counters().stray_segments, 1_000);
}

#[test]
fn a_flood_of_syns_costs_no_memory_of_flows() {
    let mut lab = Lab::with(roomy(64));
    for number in 0..20_000 {
        lab.send(&Tcp::syn(&program(number), SERVER4, 1).bytes());
        if number % 64 == 0 {
            lab.packets();
        }
    }
    assert_eq!(lab.stack.held_count(), 4_096);
    assert_eq!(lab.events().len(), 4_096);
    assert_eq!(lab.stack.counters().held_overflow, 20_000 - 4_096);
    assert_eq!(lab.stack.flow_count(), 0);
}

#[test]
fn a_syn_that_changes_with_every_packet_does_not_fill_the_event_queue() {
    let mut lab = Lab::with(roomy(64));
    for sequence in 0..50_000 {
        lab.send(&Tcp::syn(PROGRAM4, SERVER4, sequence).bytes());
    }
    assert!(lab.events().len() < 12_000);
    assert!(lab.stack.held_count() <= 1);
    // Once the owner has caught up, the next one is held as ever.
    lab.send(&Tcp::syn(PROGRAM4, SERVER4, 60_000).bytes());
    assert!(lab.events().iter().any(|event| matches!(event, Event::Incoming(_))));
}

#[test]
fn flows_share_the_way_out_packet_by_packet() {
    let mut lab = Lab::new();
    let (first, _) = lab.open(PROGRAM4, SERVER4);
    let (second, _) = lab.open("198.18.0.1:40001", SERVER4);
    lab.packets();
    for flow in [first, second] {
        assert!(lab.stack.write(flow, &[1; 256 * 1024]).is_ok());
    }
    // The window of the handshake's last segment is 8 MiB: 65,535 in units of 128 bytes.
    let ports: Vec<u16> = lab.segments().iter().map(|segment| segment.destination.port()).collect();
    assert!(ports.len() >= 8);
    assert!(ports.windows(2).take(6).all(|pair| pair[0] != pair[1]), "{ports:?}");
}
