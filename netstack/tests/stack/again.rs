//! What is sent again and for how long: back-off, fast retransmission, the end of patience; and what arrives twice,
//! overlapping, or out of order.

use std::time::Duration;

use portlatch_netstack::{Event, FlowId, ReadError, StackConfig};
use proptest::prelude::*;
use sha2::{Digest, Sha256};
use smoltcp::wire::TcpControl;

use crate::lab::{FAMILIES, Lab, PROGRAM4, SERVER4, Seen, Tcp, config};

/// When segments that match were sent, in milliseconds from now on.
fn times(lab: &mut Lab, within: Duration, matches: impl Fn(&Seen) -> bool) -> Vec<u128> {
    let (begin, end, mut times) = (lab.now, lab.now + within, Vec::new());
    while lab.now < end {
        for packet in lab.pass(Duration::from_millis(50)) {
            if matches(&Seen::read(&packet)) {
                times.push(lab.now.duration_since(begin).as_millis());
            }
        }
    }
    times
}

fn assert_near(times: &[u128], expected: &[u128]) {
    assert_eq!(times.len(), expected.len(), "{times:?}");
    for (time, expected) in times.iter().zip(expected) {
        assert!(time.abs_diff(*expected) <= 100 * times.len() as u128, "{times:?}");
    }
}

#[test]
fn bytes_that_nobody_acknowledges_are_sent_again_ever_more_slowly_and_then_given_up() {
    for family in FAMILIES {
        let mut lab = Lab::new();
        let (flow, next) = lab.open(family.0, family.1);
        lab.events();
        assert_eq!(lab.stack.write(flow, b"anyone?"), Ok(7));
        lab.packets();
        let sent = times(&mut lab, Duration::from_secs(200), |segment| {
            segment.control != TcpControl::Rst && {
                assert_eq!((segment.sequence, &segment.payload[..]), (next, &b"anyone?"[..]));
                true
            }
        });
        assert_near(&sent, &[1_000, 3_000, 7_000, 15_000, 31_000, 63_000]);
        assert_eq!(lab.events(), [Event::Gone(flow)]);
        assert_eq!(lab.stack.flow_count(), 0);
    }
}

#[test]
fn an_acknowledgement_brings_patience_back() {
    let mut lab = Lab::new();
    let (flow, next) = lab.open(PROGRAM4, SERVER4);
    assert_eq!(lab.stack.write(flow, b"anyone?"), Ok(7));
    lab.pass(Duration::from_secs(100));
    lab.send(&Tcp::ack(PROGRAM4, SERVER4, 1_001, next.wrapping_add(3)).bytes());
    lab.pass(Duration::from_secs(100));
    lab.events();
    assert_eq!(lab.stack.flow_count(), 1);
    lab.send(&Tcp::ack(PROGRAM4, SERVER4, 1_001, next.wrapping_add(7)).bytes());
    lab.pass(Duration::from_secs(500));
    assert_eq!(lab.stack.flow_count(), 1);
}

#[test]
fn three_duplicate_acknowledgements_bring_the_lost_segment_at_once() {
    let mut lab = Lab::new();
    let (flow, next) = lab.open(PROGRAM4, SERVER4);
    // A window that takes it all, so that no acknowledgement is word of another window.
    let duplicate = Tcp { window: 4_096, ..Tcp::ack(PROGRAM4, SERVER4, 1_001, next) };
    lab.send(&duplicate.bytes());
    assert_eq!(lab.stack.write(flow, &[7; 200_000]), Ok(200_000));
    assert_eq!(lab.segments().len(), 4);
    lab.send(&duplicate.bytes());
    lab.send(&duplicate.bytes());
    assert!(lab.packets().is_empty());
    lab.send(&duplicate.bytes());
    let again = lab.segments();
    assert_eq!((again.len(), again[0].sequence), (1, next), "the first one alone");
    for _ in 0..20 {
        lab.send(&duplicate.bytes());
    }
    assert!(lab.packets().is_empty(), "once for each loss");
}

#[test]
fn a_fin_that_nobody_acknowledges_is_sent_again_and_then_given_up() {
    for program_first in [false, true] {
        let mut lab = Lab::new();
        let (flow, next) = lab.open(PROGRAM4, SERVER4);
        if program_first {
            lab.send(&Tcp::ack(PROGRAM4, SERVER4, 1_001, next).with(TcpControl::Fin).bytes());
            assert_eq!(lab.stack.read_with(flow, |_| (0, ())), Err(ReadError::Finished));
        }
        lab.stack.finish(flow);
        lab.stack.release(flow);
        lab.packets();
        let sent = times(&mut lab, Duration::from_secs(400), |segment| segment.control == TcpControl::Fin);
        assert_near(&sent, &[1_000, 3_000, 7_000, 15_000, 31_000, 63_000]);
        assert_eq!((lab.stack.flow_count(), lab.stack.poll_timeout()), (0, None));
    }
}

#[test]
fn a_lost_fin_is_sent_again_however_often_the_program_says_nothing_new() {
    let ahead = |by: u32, nothing: Tcp<'static>| Tcp { sequence: nothing.sequence + by, ..nothing };
    let kinds: [&dyn Fn(Tcp<'static>) -> Tcp<'static>; 4] = [
        &|nothing| nothing,
        &|nothing| ahead(7, nothing),
        // An end that stands behind bytes which are not there, and what follows an end.
        &|nothing| ahead(100, nothing).with(TcpControl::Fin),
        &|nothing| ahead(100, nothing).with(TcpControl::Fin).carrying(b"more"),
    ];
    for program_first in [false, true] {
        for (number, kind) in kinds.iter().enumerate() {
            let mut lab = Lab::new();
            let (flow, next) = lab.open(PROGRAM4, SERVER4);
            let mut sequence = 1_001;
            if program_first {
                lab.send(&Tcp::ack(PROGRAM4, SERVER4, sequence, next).with(TcpControl::Fin).bytes());
                sequence += 1;
            }
            lab.stack.finish(flow);
            assert_eq!(lab.segments().last().unwrap().control, TcpControl::Fin);
            for _ in 0..10 {
                lab.send(&kind(Tcp::ack(PROGRAM4, SERVER4, sequence, next)).bytes());
            }
            lab.packets();
            let sent = times(&mut lab, Duration::from_secs(4), |segment| segment.control == TcpControl::Fin);
            assert_eq!(sent.len(), 2, "kind {number}: {sent:?}");
        }
    }
}

/// The program says its end with these bytes before it, from there, and has received all but our end, which it never
/// acknowledges.
fn assert_that_a_lost_fin_is_sent_again(lab: &mut Lab, flow: FlowId, end: Tcp<'_>) {
    lab.stack.finish(flow);
    assert_eq!(lab.segments().last().unwrap().control, TcpControl::Fin);
    lab.send(&end.bytes());
    let nothing = Tcp { payload: &[], control: TcpControl::None, ..end };
    let sequence = lab.segments().last().unwrap().acknowledgement.unwrap();
    for _ in 0..10 {
        lab.send(&Tcp { sequence, ..nothing }.bytes());
    }
    lab.packets();
    let sent = times(lab, Duration::from_secs(4), |segment| segment.control == TcpControl::Fin);
    assert_eq!(sent.len(), 2, "{sent:?}");
}

#[test]
fn a_lost_fin_is_sent_again_if_what_came_before_it_was_acknowledged_together_with_an_end_and_old_bytes() {
    let mut lab = Lab::new();
    let (flow, next) = lab.open(PROGRAM4, SERVER4);
    lab.send(&Tcp::ack(PROGRAM4, SERVER4, 1_001, next).carrying(b"hello").bytes());
    assert_eq!(lab.stack.write(flow, b"good bye"), Ok(8));
    lab.packets();
    let again = Tcp::ack(PROGRAM4, SERVER4, 1_001, next.wrapping_add(8)).carrying(b"hello");
    assert_that_a_lost_fin_is_sent_again(&mut lab, flow, again.with(TcpControl::Fin));
}

#[test]
fn a_lost_fin_is_sent_again_if_what_came_before_it_was_acknowledged_from_beyond_the_window() {
    let mut lab = Lab::new();
    let (flow, next) = lab.open(PROGRAM4, SERVER4);
    lab.send(&Tcp::ack(PROGRAM4, SERVER4, 1_001, next).carrying(&[7; 2_000]).bytes());
    assert_eq!(lab.stack.write(flow, b"hello"), Ok(5));
    let said = lab.segments().pop().unwrap();
    let edge = said.acknowledgement.unwrap() + (u32::from(said.window) << 2);
    // The window has grown since, but the program does not know: what it sends too far brings it word of that.
    assert_eq!(lab.read_all(flow).len(), 2_000);
    let after = next.wrapping_add(5);
    let too_far = Tcp::ack(PROGRAM4, SERVER4, edge + 1_000, after).with(TcpControl::Fin).carrying(b"far");
    lab.send(&too_far.bytes());
    lab.packets();
    let end = Tcp::ack(PROGRAM4, SERVER4, 3_001, after).with(TcpControl::Fin);
    assert_that_a_lost_fin_is_sent_again(&mut lab, flow, end);
}

#[test]
fn a_program_that_vanished_while_both_close_is_reaped() {
    let mut lab = Lab::new();
    let (flow, next) = lab.open(PROGRAM4, SERVER4);
    lab.stack.finish(flow);
    lab.packets();
    // Its FIN crossed ours, which it never acknowledges.
    lab.send(&Tcp::ack(PROGRAM4, SERVER4, 1_001, next).with(TcpControl::Fin).bytes());
    assert_eq!(lab.stack.read_with(flow, |_| (0, ())), Err(ReadError::Finished));
    lab.stack.release(flow);
    lab.pass(Duration::from_secs(60));
    assert_eq!(lab.stack.flow_count(), 1);
    lab.pass(Duration::from_secs(140));
    assert_eq!((lab.stack.flow_count(), lab.stack.poll_timeout()), (0, None));
}

#[test]
fn a_handshake_that_nobody_completes_is_given_up() {
    let mut lab = Lab::new();
    lab.send(&Tcp::syn(PROGRAM4, SERVER4, 1_000).bytes());
    let incoming = lab.incoming();
    let flow = lab.stack.accept(incoming.id, lab.now).unwrap();
    lab.packets();
    let sent = times(&mut lab, Duration::from_secs(200), |segment| segment.control == TcpControl::Syn);
    assert_near(&sent, &[1_000, 3_000, 7_000, 15_000, 31_000, 63_000]);
    assert_eq!(lab.events(), [Event::Gone(flow)]);
    assert_eq!(lab.stack.flow_count(), 0);
}

#[test]
fn a_segment_that_comes_twice_is_read_once_and_answered_twice() {
    let mut lab = Lab::new();
    let (flow, next) = lab.open(PROGRAM4, SERVER4);
    let segment = Tcp::ack(PROGRAM4, SERVER4, 1_001, next).carrying(b"hello").bytes();
    for _ in 0..3 {
        lab.send(&segment);
        assert_eq!(lab.segments().pop().unwrap().acknowledgement, Some(1_006));
    }
    assert_eq!(lab.read_all(flow), b"hello");
    let fin = Tcp::ack(PROGRAM4, SERVER4, 1_006, next).with(TcpControl::Fin).carrying(b"bye").bytes();
    for _ in 0..3 {
        lab.send(&fin);
        assert_eq!(lab.segments().pop().unwrap().acknowledgement, Some(1_010));
    }
    assert_eq!(lab.read_all(flow), b"bye");
    assert_eq!(lab.stack.read_with(flow, |_| (0, ())), Err(ReadError::Finished));
}

#[test]
fn more_holes_than_are_kept_cost_time_and_no_byte() {
    let mut lab = Lab::new();
    let (flow, next) = lab.open(PROGRAM4, SERVER4);
    let data: Vec<u8> = (0..100).collect();
    let piece = |at: usize| Tcp::ack(PROGRAM4, SERVER4, 1_001 + at as u32, next);
    // Every second byte, from behind: fifty holes.
    for at in (1..100).step_by(2).rev() {
        lab.send(&piece(at).carrying(&data[at..=at]).bytes());
    }
    for at in 0..100 {
        lab.send(&piece(at).carrying(&data[at..=at]).bytes());
    }
    assert_eq!(lab.read_all(flow), data);
}

#[test]
fn bytes_that_contradict_what_was_read_change_nothing() {
    let mut lab = Lab::new();
    let (flow, next) = lab.open(PROGRAM4, SERVER4);
    lab.send(&Tcp::ack(PROGRAM4, SERVER4, 1_001, next).carrying(b"good").bytes());
    lab.send(&Tcp::ack(PROGRAM4, SERVER4, 1_001, next).carrying(b"evil").bytes());
    lab.send(&Tcp::ack(PROGRAM4, SERVER4, 999, next).carrying(b"evilevil more").bytes());
    assert_eq!(lab.read_all(flow), b"good more"[..4].iter().chain(b"il more").copied().collect::<Vec<u8>>());
}

/// Pieces of a stream as a wire that repeats, cuts and reorders hands them out: where each begins, and how long it is.
fn pieces(length: usize) -> impl Strategy<Value = Vec<(usize, usize)>> {
    let piece = move |(at, size): (usize, usize)| (at, size.min(length - at));
    let size = prop_oneof![1..2_000_usize, 1..40_000_usize];
    proptest::collection::vec((0..length, size).prop_map(piece), 0..60)
}

proptest! {
    #![proptest_config(crate::cases(64))]

    #[test]
    fn overlapping_repeated_and_reordered_segments_make_the_stream(
        six: bool, ring_size in prop_oneof![Just(262_144_usize), 4_096..100_000_usize],
        disorder in pieces(100_000), with_fin: bool,
    ) {
        let family = FAMILIES[usize::from(six)];
        let mut lab = Lab::with(StackConfig { ring_size, ..config() });
        let (flow, next) = lab.open(family.0, family.1);
        let data: Vec<u8> = (0..100_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let segment = |at: usize, size: usize| {
            let ends = with_fin && at + size == data.len();
            let control = if ends { TcpControl::Fin } else { TcpControl::None };
            Tcp::ack(family.0, family.1, 1_001 + at as u32, next).with(control).carrying(&data[at..at + size]).bytes()
        };
        let mut read = Vec::new();
        for (at, size) in disorder {
            lab.send(&segment(at, size));
            lab.packets();
            read.extend(lab.read_all(flow));
        }
        // Then as a kernel does: from what is acknowledged on.
        for _ in 0..400 {
            if read.len() == data.len() {
                break;
            }
            lab.send(&segment(read.len(), 1_000.min(data.len() - read.len())));
            lab.packets();
            read.extend(lab.read_all(flow));
        }
        prop_assert_eq!(Sha256::digest(&read), Sha256::digest(&data));
        if with_fin {
            lab.send(&segment(data.len() - 1, 1));
            prop_assert_eq!(lab.stack.read_with(flow, |_| (0, ())), Err(ReadError::Finished));
        }
    }
}
