//! What every state of TCP makes of SYNs, RSTs and acknowledgements (RFC 9293 section 3.10, RFC 5961, RFC 1337).

use std::time::Duration;

use portlatch_netstack::{Event, FlowId, ReadError};
use smoltcp::wire::TcpControl;

use crate::lab::{FAMILIES, Lab, PROGRAM4, SERVER4, Seen};
use crate::raw::{ACK, FIN, PSH, RST, Raw, SYN, URG, only};

/// The states in which a flow has a program at its other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    SynReceived,
    Established,
    FinWait1,
    FinWait2,
    CloseWait,
    Closing,
    LastAck,
}

const STATES: [State; 7] = [
    State::SynReceived,
    State::Established,
    State::FinWait1,
    State::FinWait2,
    State::CloseWait,
    State::Closing,
    State::LastAck,
];

/// A flow that was brought to a state, and where both ends stand: the program's next sequence number and ours, each
/// behind its FIN if that was said.
struct Staged {
    lab: Lab,
    flow: FlowId,
    family: (&'static str, &'static str),
    program: u32,
    ours: u32,
}

impl Staged {
    fn new(family: (&'static str, &'static str), state: State) -> Staged {
        let mut lab = Lab::new();
        lab.send(&Raw::syn(family.0, family.1, 1_000).bytes());
        let incoming = lab.incoming();
        let flow = lab.stack.accept(incoming.id, lab.now).unwrap();
        let ours = only(&lab.segments()).sequence.wrapping_add(1);
        let mut staged = Staged { lab, flow, family, program: 1_001, ours };
        staged.advance_to(state);
        assert!(staged.lab.packets().is_empty());
        staged.lab.events();
        staged
    }

    fn advance_to(&mut self, state: State) {
        if state == State::SynReceived {
            return;
        }
        let ack = self.segment(ACK);
        self.lab.send(&ack.bytes());
        let program_first = matches!(state, State::CloseWait | State::LastAck);
        if program_first {
            self.program_says_fin();
        }
        if !matches!(state, State::Established | State::CloseWait) {
            self.lab.stack.finish(self.flow);
            let fin = self.lab.segments().pop().unwrap();
            assert_eq!((fin.control, fin.sequence), (TcpControl::Fin, self.ours));
        }
        match state {
            State::FinWait2 => {
                let ack = Raw { acknowledgement: self.ours.wrapping_add(1), ..self.segment(ACK) };
                self.lab.send(&ack.bytes());
                self.ours = self.ours.wrapping_add(1);
            }
            State::Closing => {
                // It does not acknowledge ours: both crossed.
                self.program_says_fin();
                self.ours = self.ours.wrapping_add(1);
            }
            State::FinWait1 | State::LastAck => self.ours = self.ours.wrapping_add(1),
            State::SynReceived | State::Established | State::CloseWait => {}
        }
    }

    fn program_says_fin(&mut self) {
        let fin = self.segment(FIN | ACK);
        self.lab.send(&fin.bytes());
        self.program = self.program.wrapping_add(1);
        assert_eq!(self.lab.segments().pop().unwrap().acknowledgement, Some(self.program));
    }

    /// A segment at the place where both ends stand.
    fn segment(&self, flags: u8) -> Raw {
        Raw::ack(self.family.0, self.family.1, self.program, self.ours).flags(flags)
    }

    /// A segment with flags and a sequence number so far from the one that is expected.
    fn off_by(&self, flags: u8, distance: i32) -> Raw {
        Raw { sequence: self.program.wrapping_add_signed(distance), ..self.segment(flags) }
    }

    fn send(&mut self, segment: &Raw) -> Vec<Seen> {
        self.lab.send(&segment.bytes());
        self.lab.segments()
    }

    /// That the acknowledgement which a challenge is says where we stand.
    fn assert_challenge(&self, answer: &Seen) {
        assert_eq!((answer.control, answer.payload.len()), (TcpControl::None, 0), "{answer:?}");
        assert_eq!((answer.sequence, answer.acknowledgement), (self.ours, Some(self.program)));
    }
}

fn every_state() -> impl Iterator<Item = (State, Staged)> {
    let each = |family| STATES.into_iter().map(move |state| (state, Staged::new(family, state)));
    FAMILIES.into_iter().flat_map(each)
}

#[test]
fn a_reset_at_the_expected_number_ends_every_state() {
    for (state, mut staged) in every_state() {
        for flags in [RST, RST | ACK] {
            let answers = staged.send(&staged.segment(flags));
            assert!(answers.is_empty(), "{state:?}: {answers:?}");
        }
        assert_eq!(staged.lab.events(), [Event::Gone(staged.flow)], "{state:?}");
        assert_eq!((staged.lab.stack.flow_count(), staged.lab.stack.counters().lost), (0, 1), "{state:?}");
        // Nothing is left of it.
        let stray = staged.send(&staged.segment(ACK));
        assert_eq!(only(&stray).control, TcpControl::Rst, "{state:?}");
    }
}

#[test]
fn a_reset_elsewhere_in_the_window_is_challenged_and_ends_nothing() {
    for (state, mut staged) in every_state() {
        let answers = staged.send(&staged.off_by(RST, 1_000));
        staged.assert_challenge(only(&answers));
        assert_eq!(staged.lab.events(), [], "{state:?}");
        assert_eq!(staged.lab.stack.counters().doubtful_resets, 1);

        // A kernel that meant it answers the challenge with the right number.
        staged.send(&Raw { sequence: only(&answers).acknowledgement.unwrap(), ..staged.segment(RST) });
        assert_eq!(staged.lab.events(), [Event::Gone(staged.flow)], "{state:?}");
    }
}

#[test]
fn a_reset_outside_the_window_is_met_with_silence() {
    for (state, mut staged) in every_state() {
        for distance in [-1, -1_000, 70_000_000, i32::MAX, i32::MIN] {
            for flags in [RST, RST | ACK] {
                let answers = staged.send(&staged.off_by(flags, distance));
                assert!(answers.is_empty(), "{state:?} {distance}: {answers:?}");
            }
        }
        assert_eq!(staged.lab.events(), [], "{state:?}");
        assert_eq!(staged.lab.stack.flow_count(), 1);
    }
}

#[test]
fn a_segment_without_a_byte_does_not_say_where_a_reset_is_to_be_believed() {
    let mut staged = Staged::new(FAMILIES[0], State::Established);
    staged.send(&staged.off_by(ACK, 500));
    staged.send(&staged.off_by(PSH, 700).carrying(b"not even an acknowledgement"));
    for distance in [500, 700, 727] {
        staged.send(&staged.off_by(RST, distance));
    }
    assert_eq!(staged.lab.events(), []);
}

#[test]
fn a_reset_behind_bytes_that_were_lost_is_believed() {
    let mut staged = Staged::new(FAMILIES[0], State::Established);
    staged.send(&staged.off_by(ACK, 500).carrying(&[7; 100]));
    staged.send(&staged.off_by(RST, 600));
    assert!(staged.lab.events().contains(&Event::Gone(staged.flow)));
}

#[test]
fn a_reset_that_answers_an_older_acknowledgement_is_believed() {
    let mut staged = Staged::new(FAMILIES[0], State::Established);
    // Bytes that are here and not acknowledged yet, while an answer to an earlier packet of ours is under way.
    staged.lab.send(&staged.segment(ACK | PSH).carrying(b"hello").bytes());
    staged.lab.send(&staged.segment(RST).bytes());
    assert!(staged.lab.events().contains(&Event::Gone(staged.flow)));
}

#[test]
fn the_reset_of_a_program_that_has_just_sent_is_believed_before_its_bytes_are_acknowledged() {
    let mut staged = Staged::new(FAMILIES[0], State::Established);
    staged.lab.send(&staged.segment(ACK | PSH).carrying(b"hello").bytes());
    staged.lab.send(&staged.off_by(RST | ACK, 5).bytes());
    assert!(staged.lab.events().contains(&Event::Gone(staged.flow)));
}

#[test]
fn a_syn_in_every_state_is_challenged_and_ends_nothing() {
    for (state, mut staged) in every_state() {
        for flags in [SYN, SYN | ACK] {
            for distance in [0, 1_000, -5_000, i32::MAX] {
                let syn = staged.off_by(flags, distance);
                let answers = staged.send(&syn);
                staged.assert_challenge(only(&answers));
            }
        }
        assert_eq!(staged.lab.events(), [], "{state:?}");
        assert_eq!((staged.lab.stack.flow_count(), staged.lab.stack.held_count()), (1, 0), "{state:?}");
    }
}

#[test]
fn a_challenge_of_the_handshake_does_not_shut_the_window() {
    for family in FAMILIES {
        let mut staged = Staged::new(family, State::SynReceived);
        let answers = staged.send(&staged.off_by(SYN, 1_000));
        // In units of four bytes, which the SYN-ACK's 65,535 were not.
        assert_eq!(only(&answers).window, 65_535 >> 2);
    }
}

#[test]
fn the_syn_of_a_handshake_sent_again_is_no_reason_for_a_challenge() {
    let mut staged = Staged::new(FAMILIES[0], State::SynReceived);
    let answers = staged.send(&staged.off_by(SYN, -1));
    assert!(answers.is_empty(), "{answers:?}");
    assert_eq!(staged.lab.stack.counters().repeated_syns, 1);
}

#[test]
fn a_syn_on_a_flow_that_nobody_owns_any_more_begins_anew() {
    let mut staged = Staged::new(FAMILIES[0], State::FinWait2);
    staged.lab.stack.release(staged.flow);
    let answers = staged.send(&staged.off_by(SYN, 90_000));
    assert!(answers.is_empty(), "{answers:?}");
    let incoming = staged.lab.incoming();
    assert_eq!((staged.lab.stack.flow_count(), staged.lab.stack.held_count()), (0, 1));
    assert!(staged.lab.stack.accept(incoming.id, staged.lab.now).is_some());
}

#[test]
fn an_acknowledgement_of_what_was_never_sent_changes_nothing() {
    for (state, mut staged) in every_state() {
        for ahead in [1, 1_000, i32::MAX as u32] {
            let bogus =
                Raw { acknowledgement: staged.ours.wrapping_add(ahead), window: 1, ..staged.segment(ACK) };
            // An acknowledgement, or a reset while shaking hands (RFC 9293 section 3.10.7.4); at most one a second.
            let answers = staged.send(&bogus);
            let expected = if state == State::SynReceived { TcpControl::Rst } else { TcpControl::None };
            assert!(answers.iter().all(|answer| answer.control == expected), "{state:?}: {answers:?}");
        }
        assert_eq!(staged.lab.events(), [], "{state:?}");
        assert_eq!(staged.lab.stack.flow_count(), 1, "{state:?}");
        assert_goes_on(&mut staged, state);
    }
}

#[test]
fn an_acknowledgement_of_what_was_written_and_not_yet_sent_loses_nothing() {
    for family in FAMILIES {
        let mut staged = Staged::new(family, State::Established);
        // A window of 128 bytes.
        staged.send(&staged.segment(ACK).window(1));
        assert_eq!(staged.lab.stack.write(staged.flow, &[7; 200]), Ok(200));
        assert_eq!(only(&staged.lab.segments()).payload.len(), 128);
        staged.ours = staged.ours.wrapping_add(128);
        for ahead in [1, 71, 72, 73] {
            let early = Raw { acknowledgement: staged.ours.wrapping_add(ahead), ..staged.segment(ACK) };
            let answers = staged.send(&early);
            staged.assert_challenge(only(&answers));
        }
        let sent = staged.send(&staged.segment(ACK));
        assert_eq!(only(&sent).payload.len(), 72);
    }
}

#[test]
fn a_wrong_acknowledgement_of_the_handshake_is_reset_once() {
    let mut staged = Staged::new(FAMILIES[0], State::SynReceived);
    let wrong = Raw { acknowledgement: staged.ours.wrapping_add(9), ..staged.segment(FIN | ACK) };
    let answers = staged.send(&wrong.carrying(b"and data"));
    let reset = only(&answers);
    assert_eq!((reset.control, reset.sequence), (TcpControl::Rst, staged.ours.wrapping_add(9)));
    assert_eq!(staged.lab.stack.flow_count(), 1);
    // Such a reset is no part of the stream: where we stand is where we stood.
    let answers = staged.send(&staged.off_by(SYN, 1_000));
    staged.assert_challenge(only(&answers));
}

/// That bytes still flow in the directions that are open.
fn assert_goes_on(staged: &mut Staged, state: State) {
    if matches!(state, State::SynReceived) {
        staged.send(&staged.segment(ACK));
    }
    if matches!(state, State::SynReceived | State::Established | State::CloseWait) {
        assert_eq!(staged.lab.stack.write(staged.flow, b"down"), Ok(4), "{state:?}");
        let sent = staged.lab.segments();
        assert_eq!(only(&sent).payload, b"down", "{state:?}");
    }
    if matches!(state, State::SynReceived | State::Established | State::FinWait1 | State::FinWait2) {
        staged.send(&staged.segment(ACK).carrying(b"up"));
        assert_eq!(staged.lab.read_all(staged.flow), b"up", "{state:?}");
    }
}

#[test]
fn segments_without_an_acknowledgement_change_nothing() {
    for (state, mut staged) in every_state() {
        for flags in [0, FIN, PSH, FIN | PSH | URG] {
            let answers = staged.send(&staged.segment(flags).carrying(b"scan"));
            assert!(answers.is_empty(), "{state:?}: {answers:?}");
        }
        assert_eq!(staged.lab.events(), [], "{state:?}");
        assert_goes_on(&mut staged, state);
    }
}

#[test]
fn only_what_is_heard_opens_the_window() {
    let mut staged = Staged::new(FAMILIES[0], State::CloseWait);
    assert_eq!(staged.lab.stack.write(staged.flow, b"hello"), Ok(5));
    staged.lab.segments();
    staged.ours = staged.ours.wrapping_add(5);
    // All was acknowledged, and the window is shut.
    staged.send(&staged.segment(ACK).window(0));
    assert_eq!(staged.lab.stack.write(staged.flow, b"waits"), Ok(5));

    // An older segment comes late, from when it was open; and one that acknowledges nothing, is out of place, says an
    // end twice, or is old but for bytes behind the end.
    let old = Raw { acknowledgement: staged.ours.wrapping_sub(5), ..staged.segment(ACK) };
    let second_end = staged.segment(FIN | ACK);
    let elsewhere = [staged.off_by(ACK, -2), staged.off_by(ACK, 70_000_000)];
    let behind_the_end = staged.off_by(ACK, -1).carrying(b"behind");
    for segment in [old, staged.segment(PSH), second_end, behind_the_end].iter().chain(&elsewhere) {
        staged.send(segment);
    }

    // The end of our stream must not be said before what the shut window holds back (see `close_when_finished`).
    staged.lab.stack.finish(staged.flow);
    let sent = staged.lab.segments();
    assert!(sent.iter().all(|segment| segment.control != TcpControl::Fin), "{sent:?}");
    let sent = staged.send(&staged.segment(ACK));
    let bytes: Vec<u8> = sent.iter().flat_map(|segment| segment.payload.clone()).collect();
    assert_eq!(bytes, b"waits");
    assert_eq!(sent.last().unwrap().control, TcpControl::Fin);
}

#[test]
fn a_held_syn_is_withdrawn_by_its_own_reset_alone() {
    let mut lab = Lab::new();
    lab.send(&Raw::syn(PROGRAM4, SERVER4, 1_000).bytes());
    let incoming = lab.incoming();
    for sequence in [1_000, 1_002, 999, 0, u32::MAX] {
        lab.send(&Raw::ack(PROGRAM4, SERVER4, sequence, 0).flags(RST).bytes());
        lab.send(&Raw::ack(PROGRAM4, SERVER4, sequence, 77).flags(RST | ACK).bytes());
    }
    assert_eq!(lab.events(), []);
    lab.send(&Raw::ack(PROGRAM4, SERVER4, 1_001, 0).flags(RST).bytes());
    assert_eq!(lab.events(), [Event::IncomingGone(incoming.id)]);
    assert!(lab.packets().is_empty());
}

#[test]
fn nothing_but_a_syn_or_its_reset_moves_a_held_syn() {
    let mut lab = Lab::new();
    lab.send(&Raw::syn(PROGRAM4, SERVER4, 1_000).bytes());
    let incoming = lab.incoming();
    for flags in [0, ACK, SYN | ACK, FIN, FIN | ACK, PSH | ACK, FIN | PSH | URG] {
        lab.send(&Raw::ack(PROGRAM4, SERVER4, 1_001, 5).flags(flags).carrying(b"x").bytes());
    }
    assert_eq!(lab.events(), []);
    assert!(lab.packets().is_empty());
    assert!(lab.stack.accept(incoming.id, lab.now).is_some());
}

/// A flow that ended with our acknowledgement of the program's FIN; the program's next number and ours.
fn buried() -> (Lab, u32, u32) {
    let Staged { mut lab, flow, program, ours, .. } = Staged::new(FAMILIES[0], State::FinWait2);
    lab.send(&Raw::ack(PROGRAM4, SERVER4, program, ours).flags(FIN | ACK).bytes());
    lab.segments();
    lab.stack.release(flow);
    assert_eq!(lab.stack.flow_count(), 0);
    lab.events();
    (lab, program.wrapping_add(1), ours)
}

#[test]
fn time_wait_answers_what_is_sent_again_and_not_what_only_acknowledges() {
    let (mut lab, program, ours) = buried();
    let mut answer = |segment: Raw| {
        lab.send(&segment.bytes());
        lab.segments()
    };
    assert!(answer(Raw::ack(PROGRAM4, SERVER4, program, ours)).is_empty());
    for segment in [
        Raw::ack(PROGRAM4, SERVER4, program.wrapping_sub(1), ours).flags(FIN | ACK),
        Raw::ack(PROGRAM4, SERVER4, program.wrapping_sub(5), ours).carrying(b"late"),
        Raw::ack(PROGRAM4, SERVER4, program.wrapping_sub(1), ours),
        Raw::ack(PROGRAM4, SERVER4, program, ours).flags(SYN | ACK),
    ] {
        let answers = answer(segment);
        let last = only(&answers);
        assert_eq!(
            (last.control, last.sequence, last.acknowledgement),
            (TcpControl::None, ours, Some(program))
        );
    }
}

#[test]
fn time_wait_is_ended_by_the_right_reset_alone() {
    let (mut lab, program, ours) = buried();
    let fin = Raw::ack(PROGRAM4, SERVER4, program.wrapping_sub(1), ours).flags(FIN | ACK).bytes();
    for sequence in [program.wrapping_sub(1), program.wrapping_add(1), 0] {
        lab.send(&Raw::ack(PROGRAM4, SERVER4, sequence, ours).flags(RST).bytes());
        assert!(lab.packets().is_empty());
        lab.send(&fin);
        assert_eq!(only(&lab.segments()).control, TcpControl::None);
    }
    lab.send(&Raw::ack(PROGRAM4, SERVER4, program, ours).flags(RST).bytes());
    lab.send(&fin);
    assert_eq!(only(&lab.segments()).control, TcpControl::Rst);
}

#[test]
fn time_wait_gives_way_to_a_syn_whatever_its_number() {
    for sequence in [0, 1_000, 1_002, 500_000, u32::MAX] {
        let (mut lab, ..) = buried();
        lab.send(&Raw::syn(PROGRAM4, SERVER4, sequence).bytes());
        let incoming = lab.incoming();
        assert!(lab.stack.accept(incoming.id, lab.now).is_some());
        assert_eq!(only(&lab.segments()).acknowledgement, Some(sequence.wrapping_add(1)));
        // The note's time is over while the new flow lives: it is the flow's tuple now.
        lab.pass(Duration::from_secs(12));
        assert_eq!(lab.stack.flow_count(), 1);
    }
}

#[test]
fn closing_at_the_same_moment_ends_in_time_wait() {
    for family in FAMILIES {
        let mut staged = Staged::new(family, State::Closing);
        assert_eq!(staged.lab.stack.read_with(staged.flow, |_| (0, ())), Err(ReadError::Finished));
        let answers = staged.send(&staged.segment(ACK));
        assert!(answers.is_empty(), "{answers:?}");
        staged.lab.stack.release(staged.flow);
        assert_eq!(staged.lab.stack.flow_count(), 0);
        // Its FIN again: our acknowledgement was lost.
        let answers = staged.send(&staged.off_by(FIN | ACK, -1));
        staged.assert_challenge(only(&answers));
    }
}

#[test]
fn what_follows_a_fin_is_no_part_of_the_stream() {
    for state in [State::CloseWait, State::Closing, State::LastAck] {
        let mut staged = Staged::new(FAMILIES[0], state);
        staged.lab.stack.read_with(staged.flow, |_| (0, ())).unwrap_err();
        staged.send(&staged.segment(ACK | PSH).carrying(b"behind the end"));
        staged.send(&staged.off_by(ACK | PSH, -1).carrying(b"across the end"));
        staged.send(&staged.off_by(FIN | ACK, 5).carrying(b"another end"));
        let read = staged.lab.stack.read_with(staged.flow, |bytes| (bytes.len(), bytes.to_vec()));
        assert_eq!(read, Err(ReadError::Finished), "{state:?}");
    }
}

#[test]
fn a_keep_alive_is_answered_whatever_it_carries() {
    for family in FAMILIES {
        for state in [State::Established, State::CloseWait, State::FinWait1, State::FinWait2] {
            let mut staged = Staged::new(family, state);
            for _ in 0..5 {
                staged.lab.pass(Duration::from_millis(1_100));
                staged.lab.packets();
                let probe = staged.off_by(ACK, -1);
                let answers = staged.send(&probe);
                staged.assert_challenge(only(&answers));
                let answers = staged.send(&probe.carrying(b"\0"));
                staged.assert_challenge(only(&answers));
            }
            let read = staged.lab.stack.read_with(staged.flow, |bytes| (bytes.len(), bytes.to_vec()));
            assert!(read.is_err(), "a keep-alive's byte was read");
        }
    }
}
