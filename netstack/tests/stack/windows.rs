//! Windows from both sides: data outside of ours, and a program's that shuts, shrinks, opens and is asked for.

use std::time::Duration;

use portlatch_netstack::{Event, FlowId, StackConfig};
use smoltcp::wire::TcpControl;

use crate::lab::{FAMILIES, Lab, PROGRAM4, RING, SERVER4, Seen, config};
use crate::raw::{ACK, FIN, PSH, Raw, only};

/// The program's scale, and ours, of flows that [`open`] opens.
const SCALE: u32 = 7;
const OWN_SCALE: u32 = 2;

/// A flow with windows that are scaled; our next sequence number is returned with it.
fn open(lab: &mut Lab, (program, server): (&str, &str)) -> (FlowId, u32) {
    lab.send(&Raw::syn(program, server, 1_000).bytes());
    let incoming = lab.incoming();
    let flow = lab.stack.accept(incoming.id, lab.now).unwrap();
    let next = only(&lab.segments()).sequence.wrapping_add(1);
    lab.send(&Raw::ack(program, server, 1_001, next).bytes());
    lab.events();
    (flow, next)
}

fn payload_of(segments: &[Seen]) -> Vec<u8> {
    segments.iter().flat_map(|segment| segment.payload.clone()).collect()
}

fn segments_of(packets: &[Vec<u8>]) -> Vec<Seen> {
    packets.iter().map(|packet| Seen::read(packet)).collect()
}

/// The edge that a segment of ours offers.
fn edge(segment: &Seen) -> u32 {
    segment.acknowledgement.unwrap().wrapping_add(u32::from(segment.window) << OWN_SCALE)
}

#[test]
fn bytes_outside_the_window_are_answered_and_never_read() {
    for family in FAMILIES {
        let mut lab = Lab::new();
        let (flow, next) = open(&mut lab, family);
        lab.send(&Raw::ack(family.0, family.1, 1_001, next).carrying(b"in order").bytes());
        assert_eq!(lab.read_all(flow), b"in order");
        lab.segments();
        lab.events();

        for sequence in [901, 1_001, 1_009 + RING as u32, 1_009_u32.wrapping_add(0x7fff_0000)] {
            lab.send(&Raw::ack(family.0, family.1, sequence, next).carrying(b"outside!").bytes());
            let answers = lab.segments();
            let answer = only(&answers);
            assert_eq!(
                (answer.control, answer.sequence, answer.acknowledgement),
                (TcpControl::None, next, Some(1_009)),
                "{sequence}"
            );
        }
        assert_eq!(lab.read_all(flow), b"");
        assert_eq!(lab.events(), []);
    }
}

#[test]
fn bytes_across_an_edge_of_the_window_are_read_as_far_as_they_lie_within() {
    let mut lab = Lab::with(StackConfig { ring_size: 4_096, ..config() });
    let (flow, next) = open(&mut lab, (PROGRAM4, SERVER4));
    lab.send(&Raw::ack(PROGRAM4, SERVER4, 1_001, next).carrying(b"12345").bytes());
    // Old bytes, then new ones.
    lab.send(&Raw::ack(PROGRAM4, SERVER4, 1_003, next).carrying(b"34567").bytes());
    assert_eq!(lab.read_all(flow), b"1234567");
    lab.segments();

    let piece: Vec<u8> = (0..6_000_u32).map(|number| number as u8).collect();
    lab.send(&Raw::ack(PROGRAM4, SERVER4, 1_008, next).carrying(&piece).bytes());
    let acknowledged = only(&lab.segments()).acknowledgement.unwrap().wrapping_sub(1_008) as usize;
    assert!((4_000..=4_096).contains(&acknowledged), "{acknowledged}");
    assert!(lab.read_all(flow) == piece[..acknowledged]);
}

#[test]
fn bytes_outside_the_window_do_not_keep_idle_memory() {
    let mut lab = Lab::new();
    let (flow, next) = open(&mut lab, (PROGRAM4, SERVER4));
    for sequence in [1_001 + 2 * RING as u32, 0x7fff_0000] {
        lab.send(&Raw::ack(PROGRAM4, SERVER4, sequence, next).carrying(&[1; 1_000]).bytes());
    }
    lab.send(&Raw::ack(PROGRAM4, SERVER4, 1_001, next).carrying(&[2; 60_000]).bytes());
    lab.read_all(flow);
    // A program that catches up with what was out of reach at that time.
    for number in 1..6 {
        lab.send(&Raw::ack(PROGRAM4, SERVER4, 1_001 + number * 60_000, next).carrying(&[2; 60_000]).bytes());
        lab.read_all(flow);
        lab.packets();
    }
    lab.pass(Duration::from_secs(6));
    assert_eq!(lab.stack.memory().reclaimed(), [flow.index()]);
}

#[test]
fn a_window_that_was_offered_is_never_taken_back() {
    let mut lab = Lab::new();
    let (flow, next) = open(&mut lab, (PROGRAM4, SERVER4));
    let (mut sent, mut furthest, mut state) = (1_001_u32, 0_u32, 7_u32);
    for _ in 0..2_000 {
        state = state.wrapping_mul(1_103_515_245).wrapping_add(12_345);
        let room = if furthest == 0 { 65_535 } else { furthest.wrapping_sub(sent) };
        let size = (1 + (state >> 8) % 9_973).min(room) as usize;
        if size > 0 {
            lab.send(&Raw::ack(PROGRAM4, SERVER4, sent, next).carrying(&vec![3; size]).bytes());
            sent = sent.wrapping_add(size as u32);
        }
        if state % 3 != 0 {
            let count = (state >> 16) as usize % 12_007;
            // Nothing there to be read is as good.
            let _ = lab.stack.read_with(flow, |bytes| (bytes.len().min(count), ()));
        }
        for segment in lab.segments() {
            // Within a unit it may waver: see `window.rs`.
            let advance = edge(&segment).wrapping_sub(furthest) as i32;
            assert!(advance > -(1 << OWN_SCALE) || furthest == 0, "{segment:?} after {furthest}");
            furthest = edge(&segment);
            assert_eq!(segment.acknowledgement, Some(sent), "what was offered was not taken");
        }
    }
}

#[test]
fn a_program_whose_window_shrinks_below_what_is_under_way_gets_all_of_it_in_the_end() {
    for family in FAMILIES {
        for left in [0_u16, 1, 10] {
            let mut lab = Lab::new();
            let (flow, next) = open(&mut lab, family);
            let data: Vec<u8> = (0..40_000_u32).map(|number| (number * 7 / 5) as u8).collect();
            lab.send(&Raw::ack(family.0, family.1, 1_001, next).window(200).bytes());
            assert_eq!(lab.stack.write(flow, &data), Ok(40_000));
            assert_eq!(payload_of(&lab.segments()), data[..25_600]);

            // It has taken 100 bytes, and offers less than before (RFC 9293 section 3.8.6.2.1: be prepared).
            let shrunk = Raw::ack(family.0, family.1, 1_001, next.wrapping_add(100)).window(left);
            lab.send(&shrunk.bytes());
            let limit = usize::from(left) << SCALE;
            for segment in segments_of(&lab.pass(Duration::from_secs(90))) {
                let from = segment.sequence.wrapping_sub(next) as usize;
                assert!(from <= 25_600, "nothing new: {segment:?}");
                // Sent again is what is offered; behind it one byte at most, which asks.
                let end = from + segment.payload.len();
                assert!(from >= 99 && end <= 100 + limit || segment.payload.len() <= 1, "{segment:?}");
                lab.send(&shrunk.bytes());
            }
            assert_eq!(lab.events(), []);

            let mut arrived = data[..100].to_vec();
            for _ in 0..200 {
                let acknowledgement = next.wrapping_add(arrived.len() as u32);
                lab.send(&Raw::ack(family.0, family.1, 1_001, acknowledgement).window(100).bytes());
                for segment in segments_of(&lab.pass(Duration::from_secs(1))) {
                    let from = segment.sequence.wrapping_sub(next) as usize;
                    if from <= arrived.len() && from + segment.payload.len() > arrived.len() {
                        arrived.extend(&segment.payload[arrived.len() - from..]);
                    }
                }
            }
            assert!(arrived == data, "{} of {} with {left}", arrived.len(), data.len());
        }
    }
}

#[test]
fn a_window_that_shuts_behind_our_fin_costs_neither_a_byte_nor_the_end() {
    for program_first in [false, true] {
        let mut lab = Lab::new();
        let (flow, next) = open(&mut lab, (PROGRAM4, SERVER4));
        let data: Vec<u8> = (0..5_000_u32).map(|number| 1 + (number % 200) as u8).collect();
        let mut sequence = 1_001;
        if program_first {
            lab.send(&Raw::ack(PROGRAM4, SERVER4, sequence, next).flags(FIN | ACK).bytes());
            sequence += 1;
        }
        assert_eq!(lab.stack.write(flow, &data), Ok(5_000));
        lab.stack.finish(flow);
        assert_eq!(lab.segments().last().unwrap().control, TcpControl::Fin);

        // It took 100 bytes, threw the rest away, and offers nothing; a minute later it does again.
        let mut arrived = data[..100].to_vec();
        let says = |arrived: &[u8], window: u16| {
            Raw::ack(PROGRAM4, SERVER4, sequence, next.wrapping_add(arrived.len() as u32))
                .window(window)
                .bytes()
        };
        lab.send(&says(&arrived, 0));
        lab.pass(Duration::from_secs(60));
        let mut is_ended = false;
        lab.send(&says(&arrived, 100));
        for _ in 0..100 {
            for segment in segments_of(&lab.pass(Duration::from_secs(1))) {
                let from = segment.sequence.wrapping_sub(next) as usize;
                let end = from + segment.payload.len();
                assert!(from == end || data.get(from..end) == Some(&segment.payload[..]), "{segment:?}");
                if from <= arrived.len() && end > arrived.len() {
                    arrived.extend(&segment.payload[arrived.len() - from..]);
                    lab.send(&says(&arrived, 100));
                }
                is_ended |= segment.control == TcpControl::Fin && end == arrived.len();
            }
        }
        assert!(arrived == data && is_ended, "{} of {}, {is_ended}", arrived.len(), data.len());
    }
}

#[test]
fn a_shut_window_is_asked_less_and_less_often_but_always() {
    let mut lab = Lab::new();
    let (flow, next) = open(&mut lab, (PROGRAM4, SERVER4));
    let shut = Raw::ack(PROGRAM4, SERVER4, 1_001, next).window(0);
    lab.send(&shut.bytes());
    assert_eq!(lab.stack.write(flow, b"patience"), Ok(8));

    let mut pauses = Vec::new();
    let mut last = lab.now;
    while pauses.len() < 12 {
        let asked = lab.pass(Duration::from_millis(100));
        for probe in segments_of(&asked) {
            assert_eq!((probe.sequence, probe.payload.len()), (next, 1));
            pauses.push(lab.now.duration_since(last));
            last = lab.now;
            lab.send(&shut.bytes());
        }
        assert!(lab.now.duration_since(last) < Duration::from_secs(70), "it asks no more: {pauses:?}");
    }
    assert!(pauses[0] <= Duration::from_millis(1_100), "{pauses:?}");
    assert!(pauses.windows(2).all(|pair| pair[1] + Duration::from_millis(200) >= pair[0]), "{pauses:?}");
    assert_eq!(lab.events(), []);
}

#[test]
fn a_probe_that_is_taken_is_not_sent_again() {
    let mut lab = Lab::new();
    let (flow, next) = open(&mut lab, (PROGRAM4, SERVER4));
    lab.send(&Raw::ack(PROGRAM4, SERVER4, 1_001, next).window(0).bytes());
    assert_eq!(lab.stack.write(flow, b"patience"), Ok(8));
    let probes = segments_of(&lab.pass(Duration::from_secs(2)));
    assert!(!probes.is_empty() && probes.iter().all(|probe| probe.payload == b"p"), "{probes:?}");
    // The program had room for one byte after all.
    lab.send(&Raw::ack(PROGRAM4, SERVER4, 1_001, next.wrapping_add(1)).window(0).bytes());
    lab.pass(Duration::from_millis(10));
    lab.send(&Raw::ack(PROGRAM4, SERVER4, 1_001, next.wrapping_add(1)).bytes());
    let rest = segments_of(&lab.pass(Duration::from_millis(10)));
    assert_eq!((only(&rest).sequence, &only(&rest).payload[..]), (next.wrapping_add(1), &b"atience"[..]));
}

#[test]
fn a_program_that_answers_no_probe_is_given_up() {
    let mut lab = Lab::new();
    let (flow, next) = open(&mut lab, (PROGRAM4, SERVER4));
    lab.send(&Raw::ack(PROGRAM4, SERVER4, 1_001, next).window(0).bytes());
    assert_eq!(lab.stack.write(flow, b"patience"), Ok(8));
    lab.pass(Duration::from_secs(110));
    assert_eq!(lab.events(), []);
    let sent = lab.pass(Duration::from_secs(80));
    assert_eq!(lab.events(), [Event::Gone(flow)]);
    assert_eq!(Seen::read(sent.last().unwrap()).control, TcpControl::Rst);
    assert_eq!(lab.stack.flow_count(), 0);
}

#[test]
fn a_program_that_probes_our_shut_window_is_answered_and_loses_nothing() {
    let mut lab = Lab::with(StackConfig { ring_size: 4_096, ..config() });
    let (flow, next) = open(&mut lab, (PROGRAM4, SERVER4));
    // Until nothing more is offered.
    let (mut sent, mut offered) = (Vec::new(), 4_096_usize);
    while offered > 0 {
        let piece = vec![sent.len() as u8; offered.min(1_000)];
        lab.send(&Raw::ack(PROGRAM4, SERVER4, 1_001 + sent.len() as u32, next).carrying(&piece).bytes());
        sent.extend(&piece);
        let answer = lab.segments().pop().unwrap();
        assert_eq!(answer.acknowledgement, Some(1_001 + sent.len() as u32));
        // A small ring needs no scale.
        offered = usize::from(answer.window);
    }
    for number in 0..20 {
        lab.pass(Duration::from_secs(2));
        lab.packets();
        // Linux asks with an old number and no byte; others with a byte, which waits for its turn.
        let end = 1_001 + sent.len() as u32;
        let probe = match number % 2 {
            0 => Raw::ack(PROGRAM4, SERVER4, end - 1, next),
            _ => Raw::ack(PROGRAM4, SERVER4, end, next).flags(ACK | PSH).carrying(b"!"),
        };
        lab.send(&probe.bytes());
        let answer = lab.segments().pop().expect("an answer to a probe");
        assert_eq!(answer.window, 0);
        match answer.acknowledgement.unwrap().wrapping_sub(end) {
            0 => {}
            // There was a last place for it.
            1 if number % 2 == 1 => sent.push(b'!'),
            other => panic!("{other} bytes of a probe were taken"),
        }
    }
    let end = 1_001 + sent.len() as u32;
    assert!(lab.read_all(flow) == sent);
    let update = lab.segments().pop().expect("word of the open window");
    assert!(update.window > 4_000);
    lab.send(&Raw::ack(PROGRAM4, SERVER4, end, next).carrying(b"!").bytes());
    assert_eq!(lab.read_all(flow), b"!");
}

#[test]
fn without_a_window_scale_no_window_is_scaled() {
    let mut lab = Lab::new();
    lab.send(&Raw::syn(PROGRAM4, SERVER4, 1_000).options(&[2, 4, 0xff, 0xc3]).bytes());
    let incoming = lab.incoming();
    let flow = lab.stack.accept(incoming.id, lab.now).unwrap();
    let next = only(&lab.segments()).sequence.wrapping_add(1);
    lab.send(&Raw::ack(PROGRAM4, SERVER4, 1_001, next).window(1_000).bytes());

    assert_eq!(lab.stack.write(flow, &[1; 5_000]), Ok(5_000));
    assert_eq!(payload_of(&lab.segments()).len(), 1_000);

    lab.send(&Raw::ack(PROGRAM4, SERVER4, 1_001, next.wrapping_add(1_000)).carrying(&[2; 30_000]).bytes());
    let answer = lab.segments().pop().unwrap();
    assert!(answer.window > 65_000, "the ring holds far more: {}", answer.window);
    assert_eq!(lab.read_all(flow).len(), 30_000);
}
