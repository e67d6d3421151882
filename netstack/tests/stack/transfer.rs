//! Bytes through an open flow: both ways, in order, complete, at the reader's pace.

use std::time::Duration;

use portlatch_netstack::{Event, FlowId, ReadError, StackConfig, WriteError};
use proptest::prelude::*;
use sha2::{Digest, Sha256};
use smoltcp::iface::SocketHandle;
use smoltcp::wire::TcpControl;

use crate::lab::{FAMILIES, Lab, PROGRAM4, RING, SERVER4, Seen, Tcp, at, config};
use crate::program::Programs;

/// Bytes that repeat nowhere near a ring's length, so that a shift or a doubled piece shows.
fn bytes(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let step = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..length).map(step).collect()
}

/// Small enough that the program needs no window scale: a smoltcp that is left to itself loses bytes at the window's edge
/// now and then, and sends them again.
const PROGRAM_BUFFER: usize = 65_535;

/// A connection with both its ends, and how far each has come.
struct Transfer {
    lab: Lab,
    programs: Programs,
    socket: SocketHandle,
    flow: FlowId,
    up: Vec<u8>,
    down: Vec<u8>,
    up_sent: usize,
    down_sent: usize,
    up_read: Vec<u8>,
    down_read: Vec<u8>,
    ended: bool,
}

/// How much an end reads at a time.
#[derive(Clone, Copy)]
struct Pace {
    owner: usize,
    program: usize,
}

const FULL: Pace = Pace { owner: usize::MAX, program: usize::MAX };

impl Transfer {
    fn new(config: StackConfig, (program, server): (&str, &str), up: usize, down: usize) -> Transfer {
        let mut lab = Lab::with(config);
        let mut programs = Programs::new(&lab);
        let socket = programs.connect(at(program), at(server), PROGRAM_BUFFER);
        programs.exchange(&mut lab);
        let incoming = lab.incoming();
        let flow = lab.stack.accept(incoming.id, lab.now).unwrap();
        programs.exchange(&mut lab);
        let (up, down) = (bytes(up, 3), bytes(down, 5));
        let (up_read, down_read) = (Vec::new(), Vec::new());
        Transfer {
            lab,
            programs,
            socket,
            flow,
            up,
            down,
            up_sent: 0,
            down_sent: 0,
            up_read,
            down_read,
            ended: false,
        }
    }

    /// One turn of both ends.
    fn turn(&mut self, pace: Pace) {
        let program = self.programs.socket(self.socket);
        if program.may_send() && self.up_sent < self.up.len() {
            self.up_sent += program.send_slice(&self.up[self.up_sent..]).unwrap();
        }
        // In LAST-ACK smoltcp hears of no window any more.
        if self.up_sent == self.up.len() && program.send_queue() == 0 {
            program.close();
        }
        let room = pace.program.min(program.recv_queue());
        let mut piece = vec![0; room];
        if program.can_recv() {
            let count = program.recv_slice(&mut piece).unwrap();
            self.down_read.extend_from_slice(&piece[..count]);
        }
        self.owner_turn(pace);
        self.programs.exchange(&mut self.lab);
    }

    fn owner_turn(&mut self, pace: Pace) {
        let (stack, mut left) = (&mut self.lab.stack, pace.owner);
        while left > 0 {
            let read = stack.read_with(self.flow, |bytes| {
                let count = bytes.len().min(left);
                self.up_read.extend_from_slice(&bytes[..count]);
                (count, count)
            });
            match read {
                Ok(count) => left -= count,
                Err(ReadError::Blocked) => break,
                Err(ReadError::Finished) => {
                    self.ended = true;
                    break;
                }
                Err(ReadError::Reset) => panic!("reset"),
            }
        }
        while self.down_sent < self.down.len() {
            match stack.write(self.flow, &self.down[self.down_sent..]) {
                Ok(count) => self.down_sent += count,
                Err(WriteError::Blocked) => return,
                Err(WriteError::Reset) => panic!("reset"),
            }
        }
        stack.finish(self.flow);
    }

    fn is_done(&self) -> bool {
        self.ended && self.down_read.len() == self.down.len()
    }

    fn assert_complete(&self) {
        assert_eq!(self.up_read.len(), self.up.len());
        assert_eq!(Sha256::digest(&self.up_read), Sha256::digest(&self.up));
        assert_eq!(Sha256::digest(&self.down_read), Sha256::digest(&self.down));
    }
}

#[test]
fn eight_mebibytes_each_way_arrive_as_they_were_sent() {
    for family in FAMILIES {
        for verify_checksums in [true, false] {
            let config = StackConfig { verify_checksums, ..config() };
            let mut transfer = Transfer::new(config, family, 8 << 20, 8 << 20);
            for _ in 0..10_000 {
                transfer.turn(FULL);
            }
            assert!(transfer.is_done());
            transfer.assert_complete();
        }
    }
}

proptest! {
    #![proptest_config(crate::cases(64))]

    #[test]
    fn a_wire_without_loss_needs_no_timer(
        six: bool,
        ring_size in prop_oneof![Just(RING), 2_000..400_000_usize],
        owner in prop_oneof![Just(usize::MAX), 500..200_000_usize],
        program in prop_oneof![Just(usize::MAX), 500..200_000_usize],
        (up, down) in (0..600_000_usize, 0..600_000_usize),
    ) {
        let config = StackConfig { ring_size, ..config() };
        let mut transfer = Transfer::new(config, FAMILIES[usize::from(six)], up, down);
        for _ in 0..3_000 {
            transfer.turn(Pace { owner, program });
        }
        prop_assert!(transfer.is_done(), "{} of {up}, {} of {down}", transfer.up_read.len(), transfer.down_read.len());
        transfer.assert_complete();
    }
}

#[test]
fn a_slow_reader_holds_the_program_back_and_loses_nothing() {
    for family in FAMILIES {
        let mut transfer = Transfer::new(config(), family, 2 << 20, 0);
        let mut most_sent_ahead = 0;
        for _ in 0..1_000_000 {
            transfer.turn(Pace { owner: 1_777, program: usize::MAX });
            transfer.programs.pass(&mut transfer.lab, Duration::from_millis(1));
            most_sent_ahead = most_sent_ahead.max(transfer.up_sent - transfer.up_read.len());
            if transfer.is_done() {
                break;
            }
        }
        assert!(transfer.is_done());
        transfer.assert_complete();
        // Its own buffer and our ring, and not a byte more.
        assert!(most_sent_ahead <= 2 * RING, "{most_sent_ahead}");
    }
}

#[test]
fn a_slow_program_holds_the_owner_back_and_loses_nothing() {
    let mut transfer = Transfer::new(config(), FAMILIES[0], 0, 2 << 20);
    for _ in 0..1_000_000 {
        transfer.turn(Pace { owner: usize::MAX, program: 1_777 });
        transfer.programs.pass(&mut transfer.lab, Duration::from_millis(1));
        assert!(transfer.down_sent - transfer.down_read.len() <= 2 * RING);
        if transfer.is_done() {
            break;
        }
    }
    assert!(transfer.is_done());
    transfer.assert_complete();
}

#[test]
fn small_rings_carry_as_much() {
    for ring_size in [4_096, 65_536, 70_001] {
        let config = StackConfig { ring_size, ..config() };
        let mut transfer = Transfer::new(config, FAMILIES[0], 1 << 20, 1 << 20);
        for _ in 0..20_000 {
            transfer.turn(Pace { owner: 3_001, program: 3_001 });
        }
        assert!(transfer.is_done(), "{} {}", transfer.up_read.len(), transfer.down_read.len());
        transfer.assert_complete();
    }
}

/// Fills the flow's window without reading, as far as it was ever offered; the last segment ends the stream or not. Says
/// what was sent.
fn fill_window(lab: &mut Lab, next: u32, piece: usize, end: TcpControl) -> Vec<u8> {
    let payload = bytes(2 * RING, 11);
    // The handshake's window is not scaled.
    let (mut sent, mut edge) = (0, 65_535_usize);
    loop {
        let count = piece.min(edge - sent);
        let is_last = sent + count + 16 >= RING;
        // The next ones are under way before the answer to the first of them is here.
        let answers = if sent % 3 == 0 || is_last || count == 0 { lab.segments() } else { Vec::new() };
        for answer in answers {
            let acknowledged = answer.acknowledgement.unwrap() as usize - 1_001;
            assert_eq!(acknowledged, sent, "what was offered was not taken");
            edge = edge.max(acknowledged + (usize::from(answer.window) << 2));
        }
        let count = piece.min(edge - sent);
        if count == 0 {
            return payload[..sent].to_vec();
        }
        let control = if is_last { end } else { TcpControl::Psh };
        let segment = Tcp::ack(PROGRAM4, SERVER4, 1_001 + sent as u32, next).with(control);
        lab.send(&segment.carrying(&payload[sent..sent + count]).bytes());
        sent += count;
        if is_last && end == TcpControl::Fin {
            return payload[..sent].to_vec();
        }
    }
}

#[test]
fn a_full_window_closes_and_opens_again_with_word_to_the_program() {
    let mut lab = Lab::new();
    let (flow, next) = lab.open(PROGRAM4, SERVER4);
    let sent = fill_window(&mut lab, next, 60_001, TcpControl::Psh);
    assert!(sent.len() > RING - 16, "{}", sent.len());

    // A probe of the closed window is answered, and brings nothing.
    lab.now += Duration::from_secs(2);
    lab.send(&Tcp::ack(PROGRAM4, SERVER4, 1_000 + sent.len() as u32, next).bytes());
    let answer = lab.segments().pop().unwrap();
    assert_eq!((answer.window, answer.acknowledgement), (0, Some(1_001 + sent.len() as u32)));

    assert_eq!(lab.read_all(flow), sent);

    let update = lab.segments().pop().expect("word of the open window");
    assert!(usize::from(update.window) << 2 > RING - 16);
}

#[test]
fn a_program_with_a_closed_window_is_probed_and_then_served() {
    let mut lab = Lab::new();
    let (flow, next) = lab.open(PROGRAM4, SERVER4);
    let closed = Tcp { window: 0, ..Tcp::ack(PROGRAM4, SERVER4, 1_001, next) };
    lab.send(&closed.bytes());
    assert_eq!(lab.stack.write(flow, b"patience"), Ok(8));

    let probes = lab.pass(Duration::from_secs(10));
    let probes: Vec<_> = probes.iter().map(|packet| Seen::read(packet)).collect();
    assert!((2..10).contains(&probes.len()), "{}", probes.len());
    assert!(probes.iter().all(|probe| probe.payload == b"p"), "{probes:?}");

    // It stays closed for an hour, and says so whenever it is asked: nothing is lost.
    for _ in 0..720 {
        lab.pass(Duration::from_secs(5));
        lab.send(&closed.bytes());
    }
    lab.send(&Tcp::ack(PROGRAM4, SERVER4, 1_001, next).bytes());
    let served: Vec<u8> = lab.segments().into_iter().flat_map(|segment| segment.payload).collect();
    assert_eq!(served, b"patience");
}

#[test]
fn a_flow_whose_timer_stopped_at_a_closed_window_asks_again() {
    let mut lab = Lab::new();
    let (flow, next) = lab.open(PROGRAM4, SERVER4);
    assert_eq!(lab.stack.write(flow, b"patience"), Ok(8));
    assert_eq!(lab.segments().len(), 1);
    // The bytes are refused, and the window closes while they are under way.
    lab.send(&Tcp { window: 0, ..Tcp::ack(PROGRAM4, SERVER4, 1_001, next) }.bytes());

    // The word that it is open again is lost; the program's kernel says it once more when it is asked.
    let asked = lab.pass(Duration::from_secs(20));
    assert!(!asked.is_empty());
    lab.send(&Tcp::ack(PROGRAM4, SERVER4, 1_001, next).bytes());

    let served: Vec<u8> =
        lab.pass(Duration::from_millis(500)).iter().flat_map(|packet| Seen::read(packet).payload).collect();
    assert_eq!(served, b"patience");
}

#[test]
fn everything_that_was_once_offered_is_taken_and_the_fin_behind_it() {
    for piece in [60_001, 65_475, 12_345, 999] {
        let mut lab = Lab::new();
        let (flow, next) = lab.open(PROGRAM4, SERVER4);
        let sent = fill_window(&mut lab, next, piece, TcpControl::Fin);

        let answer = lab.segments().pop().unwrap();
        assert_eq!(answer.acknowledgement, Some(1_002 + sent.len() as u32));
        assert!(lab.read_all(flow) == sent);
        assert_eq!(lab.stack.read_with(flow, |bytes| (bytes.len(), ())), Err(ReadError::Finished));
    }
}

#[test]
fn a_fin_behind_more_than_was_offered_waits_for_the_rest() {
    let mut lab = Lab::new();
    let (flow, next) = lab.open(PROGRAM4, SERVER4);
    let payload = bytes(RING + 7, 19);
    for from in (0..payload.len()).step_by(65_000) {
        let piece = &payload[from..payload.len().min(from + 65_000)];
        let control = if from + piece.len() == payload.len() { TcpControl::Fin } else { TcpControl::Psh };
        let segment = Tcp::ack(PROGRAM4, SERVER4, 1_001 + from as u32, next).with(control);
        lab.send(&segment.carrying(piece).bytes());
        lab.segments();
    }
    let mut read = lab.read_all(flow);
    assert!(read.len() < payload.len());
    assert_eq!(lab.stack.read_with(flow, |bytes| (bytes.len(), ())), Err(ReadError::Blocked));

    lab.segments();
    let rest = Tcp::ack(PROGRAM4, SERVER4, 1_001 + read.len() as u32, next).with(TcpControl::Fin);
    lab.send(&rest.carrying(&payload[read.len()..]).bytes());
    read.extend(lab.read_all(flow));
    assert!(read == payload);
    assert_eq!(lab.stack.read_with(flow, |bytes| (bytes.len(), ())), Err(ReadError::Finished));
}

#[test]
fn a_probe_offers_no_window_that_is_forgotten() {
    // Both ends are stuck: the program offers no window, and ours was filled and then read in part, too little to be
    // worth a word.
    let mut lab = Lab::new();
    let (flow, next) = lab.open(PROGRAM4, SERVER4);
    let payload = bytes(65_475, 23);
    let closed = Tcp { window: 0, ..Tcp::ack(PROGRAM4, SERVER4, 1_001, next) };
    lab.send(&closed.carrying(&payload).bytes());
    let offered = lab.segments().pop().unwrap();
    let edge = |segment: &Seen| segment.acknowledgement.unwrap() + (u32::from(segment.window) << 2);
    assert_eq!(lab.stack.read_with(flow, |_| (60_000, ())), Ok(()));
    assert_eq!(lab.stack.write(flow, b"stuck"), Ok(5));

    for probe in lab.pass(Duration::from_secs(30)) {
        let probe = Seen::read(&probe);
        assert_eq!(probe.payload, b"s");
        assert!(edge(&probe) <= edge(&offered), "{probe:?} after {offered:?}");
    }
}

#[test]
fn a_keep_alive_offers_no_window_that_is_forgotten() {
    let mut lab = Lab::new();
    let (flow, next) = lab.open(PROGRAM4, SERVER4);
    lab.send(&Tcp::ack(PROGRAM4, SERVER4, 1_001, next).carrying(&[1; 65_475]).bytes());
    let offered = lab.segments().pop().unwrap();
    assert_eq!(lab.stack.read_with(flow, |_| (60_000, ())), Ok(()));

    let asked = lab.pass(Duration::from_secs(1_801));

    assert_eq!(asked.len(), 1);
    let asked = Seen::read(&asked[0]);
    assert_eq!((asked.sequence, asked.payload.len()), (next.wrapping_sub(1), 1));
    assert_eq!((asked.acknowledgement, asked.window), (offered.acknowledgement, offered.window));
}

#[test]
fn more_than_was_offered_is_not_taken() {
    // Only a program with a raw socket does this. It must not reach past the ring's end.
    let mut lab = Lab::new();
    let (flow, next) = lab.open(PROGRAM4, SERVER4);
    let payload = bytes(16 * 65_000, 17);
    for (number, piece) in payload.chunks(65_000).enumerate() {
        let sequence = 1_001 + 65_000 * number as u32;
        lab.send(&Tcp::ack(PROGRAM4, SERVER4, sequence, next).carrying(piece).bytes());
    }
    let read = lab.read_all(flow);
    assert!(read.len() < RING);
    assert!(read == payload[..read.len()]);
}

#[test]
fn out_of_order_segments_are_put_in_order() {
    let mut lab = Lab::new();
    let (flow, next) = lab.open(PROGRAM4, SERVER4);
    for (sequence, piece) in [(1_011, "second---x"), (1_021, "third"), (1_001, "first----x")] {
        lab.send(&Tcp::ack(PROGRAM4, SERVER4, sequence, next).carrying(piece.as_bytes()).bytes());
    }
    assert_eq!(lab.read_all(flow), b"first----xsecond---xthird");
}

#[test]
fn readable_and_writable_come_once_for_each_time_of_waiting() {
    let mut lab = Lab::new();
    let (flow, next) = lab.open(PROGRAM4, SERVER4);
    assert_eq!(lab.events(), [Event::Writable(flow)]);

    lab.send(&Tcp::ack(PROGRAM4, SERVER4, 1_001, next).carrying(b"a").bytes());
    lab.send(&Tcp::ack(PROGRAM4, SERVER4, 1_002, next).carrying(b"b").bytes());
    assert_eq!(lab.events(), [Event::Readable(flow)]);
    assert_eq!(lab.read_all(flow), b"ab");
    lab.send(&Tcp::ack(PROGRAM4, SERVER4, 1_003, next).carrying(b"c").bytes());
    assert_eq!(lab.events(), [Event::Readable(flow)]);

    let piece = vec![7; RING];
    assert_eq!(lab.stack.write(flow, &piece), Ok(RING));
    assert_eq!(lab.stack.write(flow, &piece), Err(WriteError::Blocked));
    let end =
        lab.segments().last().map(|segment| segment.sequence.wrapping_add(segment.payload.len() as u32));
    let end = end.unwrap();
    // A little room is not worth a word.
    lab.send(&Tcp::ack(PROGRAM4, SERVER4, 1_004, next.wrapping_add(100)).bytes());
    assert_eq!(lab.events(), []);
    lab.send(&Tcp::ack(PROGRAM4, SERVER4, 1_004, end).bytes());
    assert_eq!(lab.events(), [Event::Writable(flow)]);
}

#[test]
fn what_a_reader_does_not_take_is_shown_again() {
    let mut lab = Lab::new();
    let (flow, next) = lab.open(PROGRAM4, SERVER4);
    lab.send(&Tcp::ack(PROGRAM4, SERVER4, 1_001, next).carrying(b"abcdef").bytes());
    assert_eq!(lab.stack.read_with(flow, |bytes| (2, bytes.to_vec())), Ok(b"abcdef".to_vec()));
    assert_eq!(lab.stack.read_with(flow, |bytes| (0, bytes.to_vec())), Ok(b"cdef".to_vec()));
    assert_eq!(lab.read_all(flow), b"cdef");
    assert_eq!(lab.stack.read_with(flow, |bytes| (bytes.len(), ())), Err(ReadError::Blocked));
}

#[test]
fn segments_are_as_long_as_a_packet_can_be() {
    for (program, server) in FAMILIES {
        let mut lab = Lab::new();
        let (flow, next) = lab.open(program, server);
        // A window of 256 KiB, in units of 128 bytes.
        lab.send(&Tcp { window: 2_048, ..Tcp::ack(program, server, 1_001, next) }.bytes());
        assert_eq!(lab.stack.write(flow, &[1; RING]), Ok(RING));
        // The program's kernel announced 65,475.
        assert_eq!(lab.segments()[0].payload.len(), 65_475);
    }
}
