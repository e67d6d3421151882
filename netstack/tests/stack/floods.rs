//! Many packets at once: floods of SYNs, scans, strays. What is bounded stays bounded, and who is there is served.

use std::time::Duration;

use portlatch_netstack::{Event, FlowId, Refusal, StackConfig};
use smoltcp::wire::TcpControl;

use crate::lab::{Lab, PROGRAM4, SERVER4, Tcp, config, incoming_of};

/// What the daemon holds at most.
const MOST_HELD: usize = 4_096;

fn roomy() -> StackConfig {
    StackConfig { ring_size: 16_384, max_held: MOST_HELD, ..config() }
}

/// A word each way, as a program and an owner that are served exchange it.
fn exchange(lab: &mut Lab, flow: FlowId, at: &mut (u32, u32)) {
    lab.send(&Tcp::ack(PROGRAM4, SERVER4, at.0, at.1).carrying(b"question").bytes());
    assert_eq!(lab.read_all(flow), b"question");
    assert_eq!(lab.stack.write(flow, b"answer"), Ok(6));
    at.0 = at.0.wrapping_add(8);
    let answers = lab.segments();
    let mine: Vec<_> = answers.iter().filter(|segment| segment.destination.port() == 40_000).collect();
    assert_eq!(mine.last().unwrap().payload, b"answer");
    assert_eq!(mine.last().unwrap().acknowledgement, Some(at.0));
    at.1 = at.1.wrapping_add(6);
}

#[test]
fn a_flow_goes_on_through_a_flood_of_syns_and_the_flood_leaves_nothing() {
    let mut lab = Lab::with(roomy());
    let (flow, next) = lab.open(PROGRAM4, SERVER4);
    lab.send(&Tcp::syn("198.18.0.1:39999", SERVER4, 7).bytes());
    let patient = lab.events().into_iter().find_map(incoming_of);
    let mut at = (1_001, next);
    let mut resets = 0;
    for number in 0..60_000_u32 {
        let port = 1 + number % 30_000;
        let syn = Tcp::syn(&format!("198.18.0.1:{port}"), "198.18.7.9:81", number).bytes();
        lab.send(&syn);
        if number % 1_000 == 0 {
            exchange(&mut lab, flow, &mut at);
        }
        for reply in lab.segments() {
            assert_eq!(reply.control, TcpControl::Rst);
            resets += 1;
        }
        assert!(lab.stack.held_count() <= MOST_HELD);
        // Whoever owns them takes its time.
        if number % 5_000 == 0 {
            lab.events();
        }
    }
    assert!(resets > 20_000, "beyond the cap each is refused at once: {resets}");
    assert_eq!(lab.stack.flow_count(), 1);
    lab.events();

    // The one that was held before the flood is held still, and answered.
    let patient = patient.unwrap();
    assert!(lab.stack.accept(patient.id, lab.now).is_some());
    assert_eq!(lab.segments().pop().unwrap().control, TcpControl::Syn);
    lab.send(&Tcp::ack(PROGRAM4, SERVER4, at.0, at.1).bytes());
    // The flood's own are forgotten when nobody asks any more.
    lab.pass(Duration::from_secs(131));
    assert_eq!(lab.stack.held_count(), 0);
    exchange(&mut lab, flow, &mut at);
}

#[test]
fn all_that_are_held_can_be_refused_at_once_and_each_hears_of_it() {
    let mut lab = Lab::with(roomy());
    let mut held = Vec::new();
    for port in 1..=u16::try_from(MOST_HELD).unwrap() {
        lab.send(&Tcp::syn(&format!("198.18.0.1:{port}"), SERVER4, 7).bytes());
        held.push(lab.incoming());
    }
    for (number, incoming) in held.iter().enumerate() {
        let refusal = if number % 2 == 0 { Refusal::Reset } else { Refusal::HostUnreachable };
        lab.stack.refuse(incoming.id, refusal, lab.now);
    }
    assert_eq!(lab.packets().len(), MOST_HELD);
    assert_eq!(lab.stack.counters().queue_full, 0);
}

#[test]
fn a_scan_of_every_port_leaves_nothing_behind() {
    let mut lab = Lab::with(roomy());
    for port in 1..=u16::MAX {
        let server = format!("198.18.7.9:{port}");
        lab.send(&Tcp::syn(PROGRAM4, &server, u32::from(port)).bytes());
        let incoming = lab.incoming();
        let refusal = if port % 2 == 0 { Refusal::Reset } else { Refusal::HostUnreachable };
        lab.stack.refuse(incoming.id, refusal, lab.now);
        assert_eq!(lab.packets().len(), 1);
    }
    assert_eq!((lab.stack.held_count(), lab.stack.flow_count()), (0, 0));
    assert_eq!(lab.stack.poll_timeout(), None);
    assert_eq!(lab.stack.counters().refused, 65_535);
    // No 4-tuple stands for anything.
    for port in (1..=u16::MAX).step_by(97) {
        lab.send(&Tcp::ack(PROGRAM4, &format!("198.18.7.9:{port}"), 1, 1).bytes());
        assert_eq!(lab.segments().pop().unwrap().control, TcpControl::Rst);
    }
}

#[test]
fn scans_without_a_syn_leave_nothing_behind_either() {
    let mut lab = Lab::with(roomy());
    for (number, control) in
        [TcpControl::None, TcpControl::Fin, TcpControl::Rst, TcpControl::Psh].into_iter().enumerate()
    {
        for port in 1..=5_000_u16 {
            let server = format!("198.18.7.{number}:{port}");
            let probe = Tcp::ack(PROGRAM4, &server, 1, 1).with(control);
            lab.send(&probe.bytes());
            lab.send(&Tcp { acknowledgement: None, ..probe }.bytes());
        }
    }
    let answers = lab.packets().len();
    assert!(answers <= 256, "{answers}");
    assert!(lab.stack.counters().queue_full > 20_000);
    assert_eq!((lab.stack.held_count(), lab.stack.flow_count(), lab.events().len()), (0, 0, 0));
    assert_eq!(lab.stack.poll_timeout(), None);
}

#[test]
fn accepted_floods_end_at_the_number_of_flows() {
    let mut lab = Lab::with(StackConfig { max_flows: 100, ..roomy() });
    let mut accepted = 0;
    for port in 1..=1_000_u16 {
        lab.send(&Tcp::syn(&format!("198.18.0.1:{port}"), SERVER4, 1).bytes());
        let incoming = lab.incoming();
        match lab.stack.accept(incoming.id, lab.now) {
            Some(_) => accepted += 1,
            None => assert_eq!(lab.segments().pop().unwrap().control, TcpControl::Rst),
        }
        lab.packets();
    }
    assert_eq!((accepted, lab.stack.flow_count()), (100, 100));
    // Handshakes that nobody completes end by themselves.
    lab.pass(Duration::from_secs(250));
    assert_eq!(lab.stack.flow_count(), 0);
    assert_eq!(lab.events().iter().filter(|event| matches!(event, Event::Gone(_))).count(), 100);
}

#[test]
fn what_a_hostile_program_sends_to_its_own_flow_does_not_reach_another() {
    let mut lab = Lab::new();
    let (flow, next) = lab.open(PROGRAM4, SERVER4);
    let (_, other_next) = lab.open("198.18.0.1:40001", SERVER4);
    lab.events();
    let mut at = (1_001, next);
    let mut state = 1_u32;
    for number in 0..5_000 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let controls = [TcpControl::None, TcpControl::Psh, TcpControl::Fin, TcpControl::Syn];
        let hostile = Tcp {
            window: state as u16,
            ..Tcp::ack("198.18.0.1:40001", SERVER4, state, other_next.wrapping_add(state >> 8))
        };
        lab.send(&hostile.with(controls[(state >> 20) as usize % 4]).carrying(b"\xffnoise").bytes());
        if number % 50 == 0 {
            exchange(&mut lab, flow, &mut at);
        }
        lab.packets();
    }
}
