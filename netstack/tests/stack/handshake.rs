//! From a SYN to an open flow, or to a refusal.

use std::time::Duration;

use portlatch_netstack::{Event, ReadError, Refusal, StackConfig, VecMemory, WriteError};
use smoltcp::wire::TcpControl;

use crate::lab::{FAMILIES, Lab, PROGRAM4, RING, SERVER4, Seen, Tcp, at, config};

#[test]
fn a_held_syn_is_met_with_silence_until_it_is_accepted() {
    for (program, server) in FAMILIES {
        let mut lab = Lab::new();
        lab.send(&Tcp::syn(program, server, 1_000).bytes());
        let incoming = lab.incoming();
        assert_eq!((incoming.source, incoming.destination), (at(program), at(server)));
        assert!(lab.pass(Duration::from_secs(60)).is_empty());
        assert_eq!((lab.stack.held_count(), lab.stack.flow_count()), (1, 0));

        assert!(lab.stack.accept(incoming.id, lab.now).is_some());

        let segments = lab.segments();
        assert_eq!(segments.len(), 1, "{segments:?}");
        let answer = &segments[0];
        assert_eq!((answer.source, answer.destination), (at(server), at(program)));
        assert_eq!((answer.control, answer.acknowledgement), (TcpControl::Syn, Some(1_001)));
        assert_eq!(answer.max_segment, Some(if at(program).is_ipv4() { 65_495 } else { 65_475 }));
        assert_eq!((lab.stack.held_count(), lab.stack.flow_count()), (0, 1));
    }
}

#[test]
fn a_syn_sent_again_makes_no_second_incoming() {
    let mut lab = Lab::new();
    let syn = Tcp::syn(PROGRAM4, SERVER4, 1_000).bytes();
    lab.send(&syn);
    let incoming = lab.incoming();

    for _ in 0..5 {
        lab.send(&syn);
    }

    assert_eq!(lab.events(), []);
    assert!(lab.packets().is_empty());
    assert_eq!(lab.stack.counters().repeated_syns, 5);
    assert!(lab.stack.accept(incoming.id, lab.now).is_some());
}

#[test]
fn another_sequence_number_ends_the_held_syn_and_begins_anew() {
    let mut lab = Lab::new();
    lab.send(&Tcp::syn(PROGRAM4, SERVER4, 1_000).bytes());
    let first = lab.incoming();

    lab.send(&Tcp::syn(PROGRAM4, SERVER4, 9_000).bytes());

    let events = lab.events();
    let [Event::IncomingGone(gone), Event::Incoming(second)] = events[..] else { panic!("{events:?}") };
    assert_eq!(gone, first.id);
    assert_ne!(second.id, first.id);
    assert_eq!(lab.stack.accept(first.id, lab.now), None);
    assert!(lab.packets().is_empty());
    assert!(lab.stack.accept(second.id, lab.now).is_some());
    assert_eq!(lab.segments()[0].acknowledgement, Some(9_001));
}

#[test]
fn a_refusal_by_reset_acknowledges_the_syn() {
    for (program, server) in FAMILIES {
        let mut lab = Lab::new();
        lab.send(&Tcp::syn(program, server, u32::MAX).bytes());
        let incoming = lab.incoming();

        lab.stack.refuse(incoming.id, Refusal::Reset, lab.now);

        let segments = lab.segments();
        assert_eq!(segments.len(), 1);
        assert_eq!((segments[0].source, segments[0].destination), (at(server), at(program)));
        assert_eq!((segments[0].control, segments[0].acknowledgement), (TcpControl::Rst, Some(0)));
        assert_eq!(lab.stack.held_count(), 0);
        // The next attempt is a new one.
        lab.send(&Tcp::syn(program, server, u32::MAX).bytes());
        lab.incoming();
    }
}

#[test]
fn a_refusal_acknowledges_the_data_that_came_with_the_syn() {
    let mut lab = Lab::new();
    lab.send(&Tcp::syn(PROGRAM4, SERVER4, 1_000).carrying(b"early").bytes());
    let incoming = lab.incoming();
    lab.stack.refuse(incoming.id, Refusal::Reset, lab.now);
    assert_eq!(lab.segments()[0].acknowledgement, Some(1_006));
}

#[test]
fn data_that_came_with_the_syn_is_left_to_be_sent_again() {
    let mut lab = Lab::new();
    lab.send(&Tcp::syn(PROGRAM4, SERVER4, 1_000).carrying(b"early").bytes());
    let incoming = lab.incoming();
    assert!(lab.stack.accept(incoming.id, lab.now).is_some());
    assert_eq!(lab.segments()[0].acknowledgement, Some(1_001));
}

#[test]
fn a_host_that_is_unreachable_quotes_the_syn() {
    for (program, server) in FAMILIES {
        let mut lab = Lab::new();
        let syn = Tcp::syn(program, server, 1_000).bytes();
        lab.send(&syn);
        let incoming = lab.incoming();

        lab.stack.refuse(incoming.id, Refusal::HostUnreachable, lab.now);

        let packets = lab.packets();
        assert_eq!(packets.len(), 1);
        let (header, expected): (usize, [u8; 2]) =
            if at(program).is_ipv4() { (20, [3, 1]) } else { (40, [1, 3]) };
        assert_eq!(packets[0][header..header + 2], expected);
        assert_eq!(packets[0][header + 8..], syn);
    }
}

#[test]
fn a_reset_of_the_program_ends_a_held_syn() {
    let mut lab = Lab::new();
    lab.send(&Tcp::syn(PROGRAM4, SERVER4, 1_000).bytes());
    let incoming = lab.incoming();

    lab.send(&Tcp::ack(PROGRAM4, SERVER4, 1_001, 0).with(TcpControl::Rst).bytes());

    assert_eq!(lab.events(), [Event::IncomingGone(incoming.id)]);
    assert!(lab.packets().is_empty());
    assert_eq!(lab.stack.held_count(), 0);
}

#[test]
fn a_held_syn_that_nobody_asks_for_any_more_is_forgotten() {
    let mut lab = Lab::new();
    let syn = Tcp::syn(PROGRAM4, SERVER4, 1_000).bytes();
    lab.send(&syn);
    let incoming = lab.incoming();
    lab.pass(Duration::from_secs(100));
    lab.send(&syn);
    lab.pass(Duration::from_secs(100));
    assert_eq!(lab.events(), []);

    lab.pass(Duration::from_secs(31));

    assert_eq!(lab.events(), [Event::IncomingGone(incoming.id)]);
    assert_eq!(lab.stack.held_count(), 0);
    assert_eq!(lab.stack.poll_timeout(), None);
}

#[test]
fn more_syns_than_are_held_are_reset_at_once() {
    let mut lab = Lab::with(StackConfig { max_held: 3, ..config() });
    for port in 1..=10 {
        lab.send(&Tcp::syn(&format!("198.18.0.1:{port}"), SERVER4, 1_000).bytes());
    }

    assert_eq!(lab.events().len(), 3);
    assert_eq!(lab.stack.held_count(), 3);
    let segments = lab.segments();
    assert_eq!(segments.len(), 7);
    for segment in segments {
        assert_eq!((segment.control, segment.acknowledgement), (TcpControl::Rst, Some(1_001)));
        assert!(segment.destination.port() > 3);
    }
}

#[test]
fn without_memory_an_accepted_syn_is_refused() {
    for lab in [
        Lab::with_memory(config(), VecMemory::new(RING, 0)),
        Lab::with(StackConfig { max_flows: 0, ..config() }),
    ] {
        let mut lab = lab;
        lab.send(&Tcp::syn(PROGRAM4, SERVER4, 1_000).bytes());
        let incoming = lab.incoming();

        assert_eq!(lab.stack.accept(incoming.id, lab.now), None);

        let segments = lab.segments();
        assert_eq!((segments[0].control, segments[0].acknowledgement), (TcpControl::Rst, Some(1_001)));
        assert_eq!((lab.stack.held_count(), lab.stack.flow_count()), (0, 0));
    }
}

#[test]
fn stale_names_are_harmless() {
    let mut lab = Lab::new();
    let (flow, _) = lab.open(PROGRAM4, SERVER4);
    lab.stack.reset(flow);
    lab.packets();
    lab.send(&Tcp::syn(PROGRAM4, SERVER4, 5_000).bytes());
    let events = lab.events();
    let Some(Event::Incoming(incoming)) = events.last() else { panic!("{events:?}") };
    let id = incoming.id;
    let successor = lab.stack.accept(id, lab.now).unwrap();
    let answer = lab.segments().pop().unwrap();
    lab.send(&Tcp::ack(PROGRAM4, SERVER4, 5_001, answer.sequence.wrapping_add(1)).bytes());
    assert_eq!(successor.index(), flow.index());

    assert_eq!(lab.stack.read_with(flow, |bytes| (bytes.len(), ())), Err(ReadError::Reset));
    assert_eq!(lab.stack.write(flow, b"stale"), Err(WriteError::Reset));
    lab.stack.finish(flow);
    lab.stack.reset(flow);
    lab.stack.release(flow);
    assert_eq!(lab.stack.accept(id, lab.now), None);
    lab.stack.refuse(id, Refusal::Reset, lab.now);

    assert!(lab.packets().is_empty());
    assert_eq!(lab.stack.write(successor, b"fresh"), Ok(5));
    assert_eq!(lab.segments()[0].payload, b"fresh");
}

#[test]
fn the_syn_ack_is_sent_again_until_it_is_answered() {
    let mut lab = Lab::new();
    lab.send(&Tcp::syn(PROGRAM4, SERVER4, 1_000).bytes());
    let incoming = lab.incoming();
    let flow = lab.stack.accept(incoming.id, lab.now).unwrap();
    let first = lab.segments();

    let again = lab.pass(Duration::from_millis(3_500));

    let again: Vec<_> = again.iter().map(|packet| Seen::read(packet)).collect();
    assert_eq!(again.len(), 2);
    assert!(again.iter().all(|segment| *segment == first[0]));
    assert_eq!(lab.stack.write(flow, b"early"), Err(WriteError::Blocked));
    lab.send(&Tcp::ack(PROGRAM4, SERVER4, 1_001, first[0].sequence.wrapping_add(1)).bytes());
    assert_eq!(lab.events(), [Event::Writable(flow)]);
}

#[test]
fn a_program_that_resets_the_handshake_is_gone() {
    let mut lab = Lab::new();
    lab.send(&Tcp::syn(PROGRAM4, SERVER4, 1_000).bytes());
    let incoming = lab.incoming();
    let flow = lab.stack.accept(incoming.id, lab.now).unwrap();
    let answer = lab.segments().pop().unwrap();

    lab.send(
        &Tcp::ack(PROGRAM4, SERVER4, 1_001, answer.sequence.wrapping_add(1)).with(TcpControl::Rst).bytes(),
    );

    assert_eq!(lab.events(), [Event::Gone(flow)]);
    assert_eq!(lab.stack.flow_count(), 0);
    assert!(lab.packets().is_empty());
}

#[test]
fn a_fresh_syn_on_a_flow_that_its_kernel_forgot_ends_it() {
    let mut lab = Lab::new();
    let (flow, next) = lab.open(PROGRAM4, SERVER4);
    lab.events();

    // The kernel gets an acknowledgement that fits nothing, and says so with an RST at that very number.
    lab.send(&Tcp::syn(PROGRAM4, SERVER4, 77_000).bytes());
    let challenge = lab.segments().pop().unwrap();
    assert_eq!((challenge.control, challenge.sequence), (TcpControl::None, next));
    let reset = Tcp::ack(PROGRAM4, SERVER4, challenge.acknowledgement.unwrap(), 0).with(TcpControl::Rst);
    lab.send(&reset.bytes());
    assert_eq!(lab.events(), [Event::Gone(flow)]);

    lab.send(&Tcp::syn(PROGRAM4, SERVER4, 77_000).bytes());
    lab.incoming();
}
