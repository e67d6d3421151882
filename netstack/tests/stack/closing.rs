//! How flows end.

use std::time::Duration;

use portlatch_netstack::{Event, FlowId, ReadError, WriteError};
use smoltcp::socket::tcp::State;
use smoltcp::wire::TcpControl;

use crate::lab::{FAMILIES, Lab, PROGRAM4, SERVER4, Seen, Tcp, at};
use crate::program::Programs;

fn read(lab: &mut Lab, flow: FlowId) -> Result<Vec<u8>, ReadError> {
    lab.stack.read_with(flow, |bytes| (bytes.len(), bytes.to_vec()))
}

/// A connection between a program and its owner, both ends open.
fn connected(family: (&str, &str)) -> (Lab, Programs, smoltcp::iface::SocketHandle, FlowId) {
    let mut lab = Lab::new();
    let mut programs = Programs::new(&lab);
    let socket = programs.connect(at(family.0), at(family.1), 65_536);
    programs.exchange(&mut lab);
    let incoming = lab.incoming();
    let flow = lab.stack.accept(incoming.id, lab.now).unwrap();
    programs.exchange(&mut lab);
    lab.events();
    (lab, programs, socket, flow)
}

fn send(programs: &mut Programs, socket: smoltcp::iface::SocketHandle, bytes: &[u8]) {
    assert_eq!(programs.socket(socket).send_slice(bytes), Ok(bytes.len()));
}

fn received(programs: &mut Programs, socket: smoltcp::iface::SocketHandle) -> Vec<u8> {
    programs.socket(socket).recv(|bytes| (bytes.len(), bytes.to_vec())).unwrap_or_default()
}

#[test]
fn a_program_that_has_finished_sending_goes_on_receiving() {
    for family in FAMILIES {
        let (mut lab, mut programs, socket, flow) = connected(family);
        send(&mut programs, socket, b"request");
        programs.socket(socket).close();
        programs.exchange(&mut lab);

        assert_eq!(lab.events(), [Event::Readable(flow)]);
        assert_eq!(read(&mut lab, flow), Ok(b"request".to_vec()));
        assert_eq!(read(&mut lab, flow), Err(ReadError::Finished));
        programs.pass(&mut lab, Duration::from_secs(600));

        assert_eq!(lab.stack.write(flow, b"response"), Ok(8));
        lab.stack.finish(flow);
        lab.stack.release(flow);
        programs.exchange(&mut lab);
        assert_eq!(received(&mut programs, socket), b"response");
        assert_eq!(programs.state(socket), State::TimeWait);
        assert_eq!(lab.stack.flow_count(), 0);
        assert_eq!(lab.events(), []);
    }
}

#[test]
fn an_owner_that_has_finished_writing_goes_on_reading() {
    for family in FAMILIES {
        let (mut lab, mut programs, socket, flow) = connected(family);
        assert_eq!(lab.stack.write(flow, b"greeting"), Ok(8));
        lab.stack.finish(flow);
        programs.exchange(&mut lab);
        assert_eq!(received(&mut programs, socket), b"greeting");
        assert_eq!(programs.state(socket), State::CloseWait);
        assert_eq!(lab.stack.write(flow, b"more"), Err(WriteError::Reset));

        // Far longer than a flow without an owner would be given.
        programs.pass(&mut lab, Duration::from_secs(3_600));
        send(&mut programs, socket, b"late");
        programs.socket(socket).close();
        programs.exchange(&mut lab);

        assert_eq!(lab.events(), [Event::Readable(flow)]);
        assert_eq!(read(&mut lab, flow), Ok(b"late".to_vec()));
        assert_eq!(read(&mut lab, flow), Err(ReadError::Finished));
        assert_eq!(programs.state(socket), State::Closed);
        lab.stack.release(flow);
        assert_eq!(lab.stack.flow_count(), 0);
    }
}

#[test]
fn what_was_received_can_be_read_long_after_both_ends_have_closed() {
    let (mut lab, mut programs, socket, flow) = connected(FAMILIES[0]);
    lab.stack.finish(flow);
    programs.exchange(&mut lab);
    send(&mut programs, socket, b"last words");
    programs.socket(socket).close();
    programs.pass(&mut lab, Duration::from_secs(3_600));

    assert_eq!(programs.state(socket), State::Closed);
    assert_eq!(read(&mut lab, flow), Ok(b"last words".to_vec()));
    assert_eq!(read(&mut lab, flow), Err(ReadError::Finished));
    assert_eq!(lab.stack.write(flow, b"x"), Err(WriteError::Reset));
    lab.stack.release(flow);
    assert_eq!(lab.stack.flow_count(), 0);
    assert_eq!(read(&mut lab, flow), Err(ReadError::Reset));
}

#[test]
fn both_ends_may_close_at_the_same_moment() {
    let (mut lab, mut programs, socket, flow) = connected(FAMILIES[0]);
    lab.stack.finish(flow);
    programs.socket(socket).close();
    programs.pass(&mut lab, Duration::from_secs(20));

    assert_eq!(programs.state(socket), State::Closed);
    assert_eq!(read(&mut lab, flow), Err(ReadError::Finished));
    lab.stack.release(flow);
    assert_eq!(lab.stack.flow_count(), 0);
}

#[test]
fn a_finish_right_behind_a_write_loses_nothing() {
    let (mut lab, mut programs, socket, flow) = connected(FAMILIES[0]);
    let written = lab.stack.write(flow, &[5; 200_000]).unwrap();
    lab.stack.finish(flow);
    programs.socket(socket).close();
    programs.exchange(&mut lab);
    assert_eq!(read(&mut lab, flow), Err(ReadError::Finished));
    lab.stack.release(flow);

    let mut count = 0;
    while programs.socket(socket).may_recv() {
        count += received(&mut programs, socket).len();
        programs.exchange(&mut lab);
    }
    assert_eq!((written, count), (200_000, 200_000));
    programs.pass(&mut lab, Duration::from_secs(15));
    assert_eq!(programs.state(socket), State::Closed);
    assert_eq!(lab.stack.flow_count(), 0);
}

#[test]
fn a_finish_before_the_handshake_is_done_is_kept_until_then() {
    let mut lab = Lab::new();
    lab.send(&Tcp::syn(PROGRAM4, SERVER4, 1_000).bytes());
    let incoming = lab.incoming();
    let flow = lab.stack.accept(incoming.id, lab.now).unwrap();
    lab.stack.finish(flow);
    let answer = lab.segments().pop().unwrap();
    assert_eq!(answer.control, TcpControl::Syn);

    let next = answer.sequence.wrapping_add(1);
    lab.send(&Tcp::ack(PROGRAM4, SERVER4, 1_001, next).bytes());

    let fin = lab.segments().pop().unwrap();
    assert_eq!((fin.control, fin.sequence), (TcpControl::Fin, next));
}

#[test]
fn a_reset_of_the_program_reaches_the_owner() {
    for family in FAMILIES {
        let (mut lab, mut programs, socket, flow) = connected(family);
        send(&mut programs, socket, b"never mind");
        programs.socket(socket).abort();
        programs.exchange(&mut lab);

        assert!(lab.events().contains(&Event::Gone(flow)));
        assert_eq!(read(&mut lab, flow), Err(ReadError::Reset));
        assert_eq!(lab.stack.write(flow, b"x"), Err(WriteError::Reset));
        assert_eq!((lab.stack.flow_count(), lab.stack.counters().lost), (0, 1));
    }
}

#[test]
fn a_reset_of_the_owner_reaches_the_program() {
    for family in FAMILIES {
        let (mut lab, mut programs, socket, flow) = connected(family);
        assert_eq!(lab.stack.write(flow, b"never mind"), Ok(10));
        lab.stack.reset(flow);
        programs.exchange(&mut lab);

        assert_eq!(programs.state(socket), State::Closed);
        assert_eq!(lab.stack.flow_count(), 0);
        assert_eq!(lab.events(), []);
    }
}

#[test]
fn a_release_before_the_end_resets() {
    let (mut lab, mut programs, socket, flow) = connected(FAMILIES[0]);
    lab.stack.release(flow);
    programs.exchange(&mut lab);
    assert_eq!(programs.state(socket), State::Closed);

    // Finished, but not everything was read.
    let (mut lab, mut programs, socket, flow) = connected(FAMILIES[0]);
    send(&mut programs, socket, b"unread");
    programs.exchange(&mut lab);
    lab.stack.finish(flow);
    lab.stack.release(flow);
    programs.exchange(&mut lab);
    assert_eq!(programs.state(socket), State::Closed);
    assert_eq!(lab.stack.flow_count(), 0);
}

#[test]
fn data_for_a_flow_that_nobody_reads_any_more_is_reset() {
    let (mut lab, mut programs, socket, flow) = connected(FAMILIES[0]);
    lab.stack.finish(flow);
    lab.stack.release(flow);
    programs.exchange(&mut lab);
    assert_eq!(programs.state(socket), State::CloseWait);

    send(&mut programs, socket, b"anyone?");
    programs.exchange(&mut lab);

    assert_eq!(programs.state(socket), State::Closed);
    assert_eq!(lab.stack.flow_count(), 0);
}

#[test]
fn a_program_that_never_closes_its_side_is_reset_after_a_minute() {
    let (mut lab, mut programs, socket, flow) = connected(FAMILIES[0]);
    lab.stack.finish(flow);
    programs.pass(&mut lab, Duration::from_secs(30));
    lab.stack.release(flow);
    programs.pass(&mut lab, Duration::from_secs(59));
    assert_eq!(programs.state(socket), State::CloseWait);
    assert_eq!(lab.stack.flow_count(), 1);

    programs.pass(&mut lab, Duration::from_secs(2));

    assert_eq!(programs.state(socket), State::Closed);
    assert_eq!(lab.stack.flow_count(), 0);
}

#[test]
fn a_port_can_be_used_again_at_once() {
    for family in FAMILIES {
        for owner_first in [true, false] {
            let (mut lab, mut programs, mut socket, mut flow) = connected(family);
            for _ in 0..20 {
                if owner_first {
                    lab.stack.finish(flow);
                    programs.exchange(&mut lab);
                }
                programs.socket(socket).close();
                programs.exchange(&mut lab);
                lab.stack.finish(flow);
                programs.exchange(&mut lab);
                assert_eq!(read(&mut lab, flow), Err(ReadError::Finished));
                lab.stack.release(flow);
                programs.remove(socket);
                lab.events();

                socket = programs.connect(at(family.0), at(family.1), 4_096);
                programs.exchange(&mut lab);
                let incoming = lab.incoming();
                flow = lab.stack.accept(incoming.id, lab.now).unwrap();
                programs.exchange(&mut lab);
                assert_eq!(programs.state(socket), State::Established);
                assert_eq!(flow.index(), 0);
            }
        }
    }
}

#[test]
fn a_fin_sent_again_after_the_end_is_acknowledged_again() {
    let mut lab = Lab::new();
    let (flow, next) = lab.open(PROGRAM4, SERVER4);
    lab.stack.finish(flow);
    lab.segments();
    let fin = Tcp::ack(PROGRAM4, SERVER4, 1_001, next.wrapping_add(1)).with(TcpControl::Fin).bytes();
    lab.send(&fin);
    let last = lab.segments().pop().unwrap();
    assert_eq!((last.control, last.acknowledgement), (TcpControl::None, Some(1_002)));
    lab.stack.release(flow);
    assert_eq!(lab.stack.flow_count(), 0);

    lab.send(&fin);
    let again = lab.segments().pop().unwrap();
    assert_eq!((again.sequence, again.acknowledgement), (last.sequence, last.acknowledgement));

    lab.pass(Duration::from_secs(11));
    lab.send(&fin);
    assert_eq!(lab.segments().pop().unwrap().control, TcpControl::Rst);
}

#[test]
fn a_program_that_vanished_is_given_up() {
    let mut lab = Lab::new();
    let (flow, _) = lab.open(PROGRAM4, SERVER4);
    lab.events();
    assert_eq!(lab.stack.write(flow, b"anyone?"), Ok(7));

    lab.pass(Duration::from_secs(110));
    assert_eq!(lab.events(), []);
    let sent = lab.pass(Duration::from_secs(80));

    assert_eq!(lab.events(), [Event::Gone(flow)]);
    assert_eq!(Seen::read(sent.last().unwrap()).control, TcpControl::Rst);
    assert_eq!(lab.stack.flow_count(), 0);
}

#[test]
fn a_pause_of_our_own_process_costs_no_flow() {
    let mut lab = Lab::new();
    let (flow, next) = lab.open(PROGRAM4, SERVER4);
    assert_eq!(lab.stack.write(flow, b"hello"), Ok(5));
    lab.segments();
    lab.events();

    lab.now += Duration::from_secs(1_000);
    lab.stack.handle_timeout(lab.now);
    lab.segments();
    lab.send(&Tcp::ack(PROGRAM4, SERVER4, 1_001, next.wrapping_add(5)).bytes());

    assert_eq!(lab.events(), []);
    assert_eq!(lab.stack.write(flow, b"again"), Ok(5));
    assert_eq!(lab.segments().pop().unwrap().payload, b"again");
}

#[test]
fn an_idle_flow_lives_as_long_as_its_program_knows_it() {
    let (mut lab, mut programs, socket, flow) = connected(FAMILIES[0]);
    programs.pass(&mut lab, Duration::from_secs(48 * 3_600));
    assert_eq!(lab.events(), []);
    assert_eq!(lab.stack.write(flow, b"hello"), Ok(5));
    programs.exchange(&mut lab);
    assert_eq!(received(&mut programs, socket), b"hello");

    // Its kernel forgets it without a word, and says so when it is asked.
    programs.remove(socket);
    programs.pass(&mut lab, Duration::from_secs(2_000));
    assert_eq!(lab.events(), [Event::Gone(flow)]);
}
