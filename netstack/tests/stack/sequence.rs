//! Sequence numbers that wrap past zero: the program's, ours, while the SYN is held, and at the end of a stream.

use std::time::Duration;

use portlatch_netstack::{FlowId, ReadError, Refusal};
use smoltcp::wire::TcpControl;

use crate::lab::{FAMILIES, Lab, PROGRAM4, SERVER4, Seen};
use crate::raw::{ACK, FIN, RST, Raw, only};

/// An accepted flow whose program begins at this number; our next one is returned with it.
fn open_at(lab: &mut Lab, (program, server): (&str, &str), sequence: u32) -> (FlowId, u32) {
    lab.send(&Raw::syn(program, server, sequence).bytes());
    let incoming = lab.incoming();
    let flow = lab.stack.accept(incoming.id, lab.now).unwrap();
    let answers = lab.segments();
    assert_eq!(only(&answers).acknowledgement, Some(sequence.wrapping_add(1)));
    (flow, only(&answers).sequence.wrapping_add(1))
}

/// A flow that begins less than this before our numbers wrap.
fn open_before_our_wrap(lab: &mut Lab, distance: u32) -> (FlowId, u32) {
    for _ in 0..2_000_000 {
        let (flow, next) = open_at(lab, (PROGRAM4, SERVER4), 1_000);
        if next > u32::MAX - distance {
            lab.send(&Raw::ack(PROGRAM4, SERVER4, 1_001, next).bytes());
            lab.events();
            return (flow, next);
        }
        lab.stack.reset(flow);
        lab.packets();
        lab.events();
    }
    panic!("no flow began near the wrap");
}

#[test]
fn a_programs_stream_may_wrap_anywhere() {
    for family in FAMILIES {
        for before in [0, 1, 2, 500, 1_000, 30_000, 99_999] {
            let mut lab = Lab::new();
            let first = 0_u32.wrapping_sub(before);
            let (flow, next) = open_at(&mut lab, family, first.wrapping_sub(1));
            let data: Vec<u8> = (0..100_000_u32).map(|number| (number / 3) as u8).collect();
            for (number, piece) in data.chunks(1_000).enumerate() {
                let sequence = first.wrapping_add(1_000 * number as u32);
                lab.send(&Raw::ack(family.0, family.1, sequence, next).carrying(piece).bytes());
                let answers = lab.segments();
                assert_eq!(only(&answers).acknowledgement, Some(sequence.wrapping_add(1_000)));
            }
            assert!(lab.read_all(flow) == data);

            let end = first.wrapping_add(100_000);
            lab.send(&Raw::ack(family.0, family.1, end, next).flags(FIN | ACK).bytes());
            assert_eq!(lab.stack.read_with(flow, |_| (0, ())), Err(ReadError::Finished));
        }
    }
}

#[test]
fn bytes_out_of_order_across_the_wrap_are_put_in_order() {
    let mut lab = Lab::new();
    let (flow, next) = open_at(&mut lab, (PROGRAM4, SERVER4), u32::MAX - 10);
    for (sequence, piece) in [(6, "third"), (0, "second"), (u32::MAX - 9, "first.....")] {
        lab.send(&Raw::ack(PROGRAM4, SERVER4, sequence, next).carrying(piece.as_bytes()).bytes());
    }
    assert_eq!(lab.read_all(flow), b"first.....secondthird");
}

#[test]
fn a_held_syn_at_the_wrap_is_answered_refused_and_withdrawn_as_any_other() {
    for sequence in [u32::MAX, u32::MAX - 1, 0] {
        let mut lab = Lab::new();
        let behind = sequence.wrapping_add(1);
        lab.send(&Raw::syn(PROGRAM4, SERVER4, sequence).bytes());
        let incoming = lab.incoming();
        // The same once more is the same one.
        lab.send(&Raw::syn(PROGRAM4, SERVER4, sequence).bytes());
        assert_eq!(lab.events(), []);
        lab.stack.refuse(incoming.id, Refusal::Reset, lab.now);
        assert_eq!(only(&lab.segments()).acknowledgement, Some(behind));

        lab.send(&Raw::syn(PROGRAM4, SERVER4, sequence).bytes());
        lab.incoming();
        lab.send(&Raw::ack(PROGRAM4, SERVER4, behind, 0).flags(RST).bytes());
        assert_eq!(lab.stack.held_count(), 0);
        lab.events();

        // Data with the SYN crosses the wrap.
        lab.send(&Raw::syn(PROGRAM4, SERVER4, sequence).carrying(b"early").bytes());
        let incoming = lab.incoming();
        lab.pass(Duration::from_secs(7));
        let flow = lab.stack.accept(incoming.id, lab.now).unwrap();
        let next = only(&lab.segments()).sequence.wrapping_add(1);
        lab.send(&Raw::ack(PROGRAM4, SERVER4, behind, next).carrying(b"early").bytes());
        assert_eq!(lab.read_all(flow), b"early");
    }
}

#[test]
fn our_stream_may_wrap_anywhere() {
    let mut lab = Lab::new();
    let data: Vec<u8> = (0..150_000_u32).map(|number| (number / 7) as u8).collect();
    let (flow, next) = open_before_our_wrap(&mut lab, 150_000);
    assert_eq!(lab.stack.write(flow, &data), Ok(data.len()));
    lab.stack.finish(flow);
    let mut arrived: Vec<u8> = Vec::new();
    // The first time everything is lost but the first segment: what is sent again wraps too.
    let first = lab.segments();
    arrived.extend(&first[0].payload);
    for _ in 0..20 {
        let acknowledgement = next.wrapping_add(arrived.len() as u32);
        lab.send(&Raw::ack(PROGRAM4, SERVER4, 1_001, acknowledgement).window(400).bytes());
        for packet in lab.pass(Duration::from_secs(3)) {
            let segment = Seen::read(&packet);
            let from = segment.sequence.wrapping_sub(next) as usize;
            assert!(from <= data.len() && segment.payload == data[from..from + segment.payload.len()]);
            if from <= arrived.len() && from + segment.payload.len() > arrived.len() {
                arrived.extend(&segment.payload[arrived.len() - from..]);
            }
            if segment.control == TcpControl::Fin {
                assert_eq!(from + segment.payload.len(), data.len());
            }
        }
    }
    assert!(arrived == data, "{} of {}", arrived.len(), data.len());
}

#[test]
fn our_fin_may_be_the_last_number_or_the_first() {
    let mut lab = Lab::new();
    let (flow, next) = open_before_our_wrap(&mut lab, 100_000);
    // So many bytes that the FIN has the last number before the wrap.
    let data = vec![9; (u32::MAX - next) as usize];
    assert_eq!(lab.stack.write(flow, &data), Ok(data.len()));
    lab.stack.finish(flow);
    let fin = lab.segments().pop().unwrap();
    assert_eq!(fin.control, TcpControl::Fin);
    assert_eq!(fin.sequence.wrapping_add(fin.payload.len() as u32), u32::MAX);

    lab.send(&Raw::ack(PROGRAM4, SERVER4, 1_001, 0).flags(FIN | ACK).bytes());
    lab.segments();
    lab.stack.release(flow);
    assert_eq!(lab.stack.flow_count(), 0);
    // What TIME-WAIT says is past the wrap.
    lab.send(&Raw::ack(PROGRAM4, SERVER4, 1_001, 0).flags(FIN | ACK).bytes());
    assert_eq!(only(&lab.segments()).sequence, 0);
}
