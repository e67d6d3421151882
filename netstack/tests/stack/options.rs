//! What a SYN and its followers offer in their options, well-formed or not, and the urgent pointer.

use proptest::prelude::*;
use smoltcp::wire::TcpControl;

use portlatch_netstack::FlowId;

use crate::lab::{FAMILIES, Lab, PROGRAM4, SERVER4, Seen};
use crate::raw::{ACK, PSH, Raw, URG, only};

/// A flow whose SYN has these options; our next sequence number is returned with it.
fn open(lab: &mut Lab, (program, server): (&str, &str), options: &[u8]) -> (FlowId, u32) {
    lab.send(&Raw::syn(program, server, 1_000).options(options).bytes());
    let incoming = lab.incoming();
    let flow = lab.stack.accept(incoming.id, lab.now).unwrap();
    let next = only(&lab.segments()).sequence.wrapping_add(1);
    lab.send(&Raw::ack(program, server, 1_001, next).bytes());
    lab.events();
    (flow, next)
}

fn lengths(segments: &[Seen]) -> Vec<usize> {
    segments.iter().map(|segment| segment.payload.len()).collect()
}

#[test]
fn no_segment_is_longer_than_the_program_announced() {
    for family in FAMILIES {
        let absent: (&[u8], usize) = (&[], 536);
        let announced: [(&[u8], usize); 6] = [
            (&[2, 4, 2, 24], 536),
            (&[2, 4, 4, 196], 1_220),
            (&[2, 4, 5, 180], 1_460),
            (&[2, 4, 0x20, 0], 8_192),
            // Zero is as good as none at all; below 48 a packet would be all header, as Linux has it too.
            (&[2, 4, 0, 0], 536),
            (&[2, 4, 0, 1], 48),
        ];
        for (options, most) in announced.into_iter().chain([absent]) {
            let mut lab = Lab::new();
            let (flow, next) = open(&mut lab, family, options);
            lab.send(&Raw::ack(family.0, family.1, 1_001, next).bytes());
            assert_eq!(lab.stack.write(flow, &[1; 20_000]), Ok(20_000));
            let sent = lengths(&lab.segments());
            assert_eq!(sent.iter().sum::<usize>(), 20_000);
            assert_eq!(sent.iter().max(), Some(&most), "{options:?}");

            // What is sent again is no longer.
            let again = lab.pass(std::time::Duration::from_millis(1_500));
            assert!(again.iter().all(|packet| Seen::read(packet).payload.len() <= most));
        }
    }
}

#[test]
fn an_mss_that_our_packets_cannot_reach_is_not_reached_for() {
    for (family, most) in [(FAMILIES[0], 65_495), (FAMILIES[1], 65_475)] {
        let mut lab = Lab::new();
        let (flow, next) = open(&mut lab, family, &[2, 4, 0xff, 0xff, 1, 3, 3, 7]);
        lab.send(&Raw::ack(family.0, family.1, 1_001, next).bytes());
        assert_eq!(lab.stack.write(flow, &[1; 200_000]), Ok(200_000));
        assert_eq!(lengths(&lab.segments()).iter().max(), Some(&most));
    }
}

#[test]
fn urgent_bytes_are_bytes_of_the_stream() {
    for family in FAMILIES {
        let mut lab = Lab::new();
        let (flow, next) = open(&mut lab, family, &[2, 4, 5, 180]);
        for (number, urgent) in [0, 1, 5, 6, u16::MAX].into_iter().enumerate() {
            let sequence = 1_001 + 5 * number as u32;
            let segment = Raw::ack(family.0, family.1, sequence, next).flags(ACK | PSH | URG);
            lab.send(&Raw { urgent, ..segment }.carrying(b"hello").bytes());
        }
        assert_eq!(lab.read_all(flow), b"hello".repeat(5));
    }
}

#[test]
fn what_was_not_agreed_on_is_not_used() {
    let mut lab = Lab::new();
    // Timestamps, SACK and a scale are offered; timestamps are declined.
    let offer = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 9, 0, 0, 0, 0, 1, 3, 3, 7];
    lab.send(&Raw::syn(PROGRAM4, SERVER4, 1_000).options(&offer).bytes());
    let incoming = lab.incoming();
    let flow = lab.stack.accept(incoming.id, lab.now).unwrap();
    let packet = lab.packets().pop().unwrap();
    let header_len = usize::from(packet[32] >> 4) * 4;
    let options = &packet[40..20 + header_len];
    assert_eq!(options[..4], [2, 4, 0xff, 0xd7], "its own MSS: {options:?}");
    assert!(options.windows(2).any(|pair| pair == [4, 2]), "SACK is permitted: {options:?}");
    assert!(!options.windows(2).any(|pair| pair == [8, 10]), "no timestamps: {options:?}");

    // Segments that carry them all the same are taken.
    let next = Seen::read(&packet).sequence.wrapping_add(1);
    let stamped = Raw::ack(PROGRAM4, SERVER4, 1_001, next).options(&[1, 1, 8, 10, 0, 0, 0, 10, 0, 0, 0, 1]);
    lab.send(&stamped.carrying(b"stamped").bytes());
    assert_eq!(lab.read_all(flow), b"stamped");
}

#[test]
fn a_window_scale_beyond_the_largest_counts_as_the_largest() {
    for scale in [14_u8, 15, 200, 255] {
        let mut lab = Lab::new();
        let (flow, next) = open(&mut lab, (PROGRAM4, SERVER4), &[2, 4, 0xff, 0xc3, 1, 3, 3, scale]);
        // Four units of 16 KiB.
        lab.send(&Raw::ack(PROGRAM4, SERVER4, 1_001, next).window(4).bytes());
        assert_eq!(lab.stack.write(flow, &[1; 200_000]), Ok(200_000));
        assert_eq!(lengths(&lab.segments()).iter().sum::<usize>(), 65_536, "scale {scale}");
    }
}

/// Options that break off or contradict themselves.
const BROKEN: [&[u8]; 7] = [
    // An option without a length, of length 0, of length 1, and beyond the header.
    &[1, 1, 1, 2],
    &[2, 0, 5, 180],
    &[2, 1, 5, 180],
    &[1, 1, 2, 40],
    // The right option of a wrong length.
    &[2, 3, 5, 0],
    &[3, 4, 7, 0],
    &[5, 5, 0, 0, 0, 0, 0, 0],
];

#[test]
fn a_segment_with_broken_options_is_dropped_and_counted() {
    for options in BROKEN {
        let mut lab = Lab::new();
        lab.send(&Raw::syn(PROGRAM4, SERVER4, 1_000).options(options).bytes());
        assert_eq!((lab.events().len(), lab.stack.counters().malformed), (0, 1), "{options:?}");

        let (flow, next) = open(&mut lab, (PROGRAM4, SERVER4), &[2, 4, 5, 180]);
        let segment = Raw::ack(PROGRAM4, SERVER4, 1_001, next).carrying(b"lost");
        lab.send(&segment.clone().options(options).bytes());
        assert_eq!(lab.stack.counters().malformed, 2, "{options:?}");
        assert_eq!(lab.events(), []);
        lab.send(&segment.bytes());
        assert_eq!(lab.read_all(flow), b"lost");
    }
}

#[test]
fn unknown_options_and_what_follows_the_end_of_the_list_are_passed_over() {
    for options in [
        &[253, 4, 0xf9, 0x89, 1, 1, 1, 0][..],
        &[0, 0, 0, 0],
        &[0, 2, 0, 9],
        &[34, 2, 1, 1],
        &[28, 4, 0x12, 0x34],
        &[1; 40],
    ] {
        let mut lab = Lab::new();
        let (flow, next) = open(&mut lab, FAMILIES[1], options);
        let segment = Raw::ack(FAMILIES[1].0, FAMILIES[1].1, 1_001, next).options(options);
        lab.send(&segment.carrying(b"hello").bytes());
        assert_eq!(lab.read_all(flow), b"hello", "{options:?}");
    }
}

#[test]
fn sack_blocks_of_any_kind_do_no_harm() {
    let mut lab = Lab::new();
    let (flow, next) = open(&mut lab, (PROGRAM4, SERVER4), &[2, 4, 5, 180, 4, 2, 1, 1]);
    assert_eq!(lab.stack.write(flow, &[7; 10_000]), Ok(10_000));
    lab.packets();
    for (left, right) in
        [(next, next.wrapping_add(1_460)), (0, u32::MAX), (5, 4), (next.wrapping_sub(9), next)]
    {
        let mut options = vec![1, 1, 5, 10];
        options.extend(left.to_be_bytes());
        options.extend(right.to_be_bytes());
        lab.send(&Raw::ack(PROGRAM4, SERVER4, 1_001, next).options(&options).bytes());
    }
    lab.packets();
    lab.send(&Raw::ack(PROGRAM4, SERVER4, 1_001, next.wrapping_add(10_000)).bytes());
    assert!(lab.pass(std::time::Duration::from_secs(5)).is_empty(), "all is acknowledged");
}

#[test]
fn a_hole_is_reported_as_the_program_permits() {
    let mut lab = Lab::new();
    let (_, next) = open(&mut lab, (PROGRAM4, SERVER4), &[2, 4, 5, 180, 4, 2, 1, 1]);
    lab.send(&Raw::ack(PROGRAM4, SERVER4, 2_001, next).carrying(&[1; 500]).bytes());
    let packet = lab.packets().pop().unwrap();
    let segment = Seen::read(&packet);
    assert_eq!((segment.control, segment.acknowledgement), (TcpControl::None, Some(1_001)));
    let block: Vec<u8> = [2_001_u32, 2_501].iter().flat_map(|number| number.to_be_bytes()).collect();
    assert!(packet[40..].windows(8).any(|bytes| bytes == block), "{packet:?}");
}

proptest! {
    #![proptest_config(crate::cases(256))]

    #[test]
    fn any_options_are_taken_or_dropped_and_never_more(
        words in proptest::collection::vec(any::<u32>(), 0..10), flags in any::<u8>(), urgent: u16
    ) {
        let options: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        let mut lab = Lab::new();
        let (flow, next) = open(&mut lab, (PROGRAM4, SERVER4), &[2, 4, 5, 180]);
        lab.send(&Raw::syn("198.18.0.1:41000", SERVER4, 1).options(&options).bytes());
        prop_assert!(lab.stack.held_count() <= 1);
        let segment = Raw::ack(PROGRAM4, SERVER4, 1_001, next).flags(flags | ACK).options(&options);
        lab.send(&Raw { urgent, ..segment }.carrying(b"maybe").bytes());
        let read = lab.read_all(flow);
        prop_assert!(read.is_empty() || read == b"maybe");
    }
}
