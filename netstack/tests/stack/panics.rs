//! A panic while one flow is looked at ends that flow. The one of smoltcp is real; the others are a test's own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use portlatch_netstack::{
    Event, FlowId, ReadError, Ring, RingMemory, Stack, StackConfig, Vacant, WriteError,
};
use smoltcp::wire::TcpControl;

use crate::lab::{Lab, PROGRAM4, SERVER4, Seen, Tcp, beginning, config, incoming_of};

const OTHER: &str = "198.18.0.1:40001";

/// Longer than smoltcp's estimate of the round trip, in milliseconds and 32 bits, can bear.
const WEEKS: Duration = Duration::from_secs(20 * 24 * 3_600);

fn assert_alive(lab: &mut Lab, flow: FlowId, program: &str, next: u32) {
    lab.send(&Tcp::ack(program, SERVER4, 1_001, next).carrying(b"still here").bytes());
    assert_eq!(lab.read_all(flow), b"still here");
    assert_eq!(lab.stack.write(flow, b"and here"), Ok(8));
    let sent = lab.segments().pop().unwrap();
    assert_eq!((&sent.payload[..], sent.acknowledgement), (&b"and here"[..], Some(1_011)));
}

/// Brings smoltcp to a panic: the bytes are acknowledged after weeks in which the window was shut.
fn acknowledge_after_weeks(lab: &mut Lab, flow: FlowId, next: u32) {
    // Sent again three times, so that the estimate begins anew.
    assert_eq!(lab.stack.write(flow, b"?"), Ok(1));
    lab.pass(Duration::from_secs(10));
    lab.send(&Tcp::ack(PROGRAM4, SERVER4, 1_001, next.wrapping_add(1)).bytes());
    assert_eq!(lab.stack.write(flow, b"hello"), Ok(5));
    lab.packets();
    lab.send(&Tcp { window: 0, ..Tcp::ack(PROGRAM4, SERVER4, 1_001, next.wrapping_add(2)) }.bytes());
    lab.now += WEEKS;
    lab.send(&Tcp::ack(PROGRAM4, SERVER4, 1_001, next.wrapping_add(6)).bytes());
}

#[test]
fn a_panic_inside_smoltcp_ends_the_flow_and_no_other() {
    let mut lab = Lab::new();
    let (flow, next) = lab.open(PROGRAM4, SERVER4);
    let (other, other_next) = lab.open(OTHER, SERVER4);
    lab.events();

    acknowledge_after_weeks(&mut lab, flow, next);

    assert_eq!(lab.stack.counters().panics, 1, "smoltcp has learnt to bear it: this test needs another way");
    assert_eq!(lab.events(), [Event::Gone(flow)]);
    assert_eq!(lab.stack.flow_count(), 1);
    assert_eq!(lab.stack.write(flow, b"x"), Err(WriteError::Reset));
    let segments = lab.segments();
    let reset = segments.iter().find(|segment| segment.destination.port() == 40_000).unwrap();
    assert_eq!((reset.control, reset.sequence), (TcpControl::Rst, next.wrapping_add(6)));
    assert_alive(&mut lab, other, OTHER, other_next);
}

#[test]
fn the_slot_of_a_flow_that_ended_in_a_panic_serves_the_next_one() {
    let mut lab = Lab::with(StackConfig { max_flows: 1, ..config() });
    for _ in 0..3 {
        let (flow, next) = lab.open(PROGRAM4, SERVER4);
        acknowledge_after_weeks(&mut lab, flow, next);
        lab.packets();
        lab.events();
    }
    assert_eq!(lab.stack.counters().panics, 3);
    let (flow, next) = lab.open(PROGRAM4, SERVER4);
    assert_alive(&mut lab, flow, PROGRAM4, next);
    lab.stack.reset(flow);
    lab.pass(Duration::from_secs(60));
    assert_eq!((lab.stack.flow_count(), lab.stack.poll_timeout()), (0, None));
}

/// Memory that does not give back the first slot's pages but panics.
struct Trap;

impl RingMemory for Trap {
    fn rings(&mut self, _: usize) -> Option<(Ring, Ring)> {
        Some((vec![0; 65_536].into(), vec![0; 65_536].into()))
    }

    fn reclaim(&mut self, slot: usize) {
        assert_ne!(slot, 0, "a trap");
    }

    fn take_back(&mut self, _: Vacant) {}
}

#[test]
fn a_panic_of_a_timer_ends_its_flow_and_no_other() {
    let mut now = beginning();
    let mut stack = Stack::new(config(), Trap, now);
    let mut buffer = vec![0; 65_535];
    let mut flows = Vec::new();
    for program in [PROGRAM4, OTHER] {
        stack.handle_packet(&Tcp::syn(program, SERVER4, 1_000).bytes(), now);
        let incoming = std::iter::from_fn(|| stack.poll_event()).find_map(incoming_of);
        flows.push(stack.accept(incoming.unwrap().id, now).unwrap());
        let sent = std::iter::from_fn(|| {
            let len = stack.poll_packet(now, &mut buffer)?.len;
            Some(Seen::read(&buffer[..len]))
        });
        let answer = sent.filter(|segment| segment.control == TcpControl::Syn).last().unwrap();
        let next = answer.sequence.wrapping_add(1);
        stack.handle_packet(&Tcp::ack(program, SERVER4, 1_001, next).carrying(b"hello").bytes(), now);
        let read = stack.read_with(flows[flows.len() - 1], |bytes| (bytes.len(), bytes.to_vec()));
        assert_eq!(read, Ok(b"hello".to_vec()));
    }
    for _ in 0..100 {
        while stack.poll_packet(now, &mut buffer).is_some() {}
        now += Duration::from_millis(100);
        stack.handle_timeout(now);
    }
    assert_eq!(stack.counters().panics, 1);
    assert_eq!(stack.read_with(flows[0], |bytes| (bytes.len(), ())), Err(ReadError::Reset));
    assert_eq!(stack.read_with(flows[1], |bytes| (bytes.len(), ())), Err(ReadError::Blocked));
    assert_eq!(stack.flow_count(), 1);
}

#[test]
fn a_panic_of_the_reader_costs_no_byte() {
    let mut lab = Lab::new();
    let (flow, next) = lab.open(PROGRAM4, SERVER4);
    lab.send(&Tcp::ack(PROGRAM4, SERVER4, 1_001, next).carrying(b"hello").bytes());
    let panicked =
        catch_unwind(AssertUnwindSafe(|| lab.stack.read_with::<()>(flow, |_| panic!("the owner's own"))));
    assert!(panicked.is_err());
    assert_eq!(lab.read_all(flow), b"hello");
    assert_eq!(lab.stack.counters().panics, 0, "it is the owner's task that ends");
}
