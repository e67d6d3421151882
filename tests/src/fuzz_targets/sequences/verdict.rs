//! What the stack said to one lane in one step, held against what it may and must say.

use super::segment::{FIN, RST, SYN, Segment};
use super::world::{Cause, Command, Stage, World};

/// Options that may be broken are longer than this.
pub(super) const LONGEST_GOOD_OPTIONS: usize = 8;

/// What the stack said to one lane in one step.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) resets: usize,
    pub(super) syn_acks: usize,
    pub(super) others: usize,
    pub(super) unreachable: usize,
    /// Of a lane that was nobody's.
    pub(super) stray: usize,
    pub(super) begun: usize,
    pub(super) gone: usize,
}

impl World {
    /// Whether this is what the stack may, and must, say to a lane in this stage for this cause.
    pub(super) fn check_said(&self, number: usize, stage: Stage, said: &Said, cause: &Cause) {
        let (segment, command) = match cause {
            Cause::Segment(lane, segment) if *lane == number => (Some(segment), None),
            Cause::Command(lane, command) if *lane == number => (None, Some(*command)),
            Cause::Segment(..) | Cause::Command(..) | Cause::Time | Cause::Garbage => (None, None),
        };
        let is_time = matches!(cause, Cause::Time);
        let is_request = segment.is_some_and(Segment::is_request);
        let wants_unreachable = usize::from(command == Some(Command::RefuseAsUnreachable));
        assert_eq!(said.unreachable, wants_unreachable, "word of an unreachable host");
        assert!(said.stray + said.resets <= 1 || is_time, "more than one answer to a stray");
        match stage {
            Stage::Nobody => {
                assert_eq!((said.syn_acks, said.others, said.gone), (0, 0, 0));
                assert!(segment.is_some() || said.resets + said.stray == 0 || command == Some(Command::End));
                let is_well_formed =
                    segment.is_some_and(|segment| segment.options.len() <= LONGEST_GOOD_OPTIONS);
                if is_request && is_well_formed {
                    assert_eq!(said.begun + said.resets, 1, "a SYN was neither held nor refused");
                }
            }
            Stage::Held(_) => self.check_said_to_held(number, said, segment, command),
            Stage::Open => {
                let may_send_syn_ack = is_time || command == Some(Command::Accept);
                assert!(said.syn_acks == 0 || may_send_syn_ack, "a SYN-ACK that nobody waits for");
                // Before the handshake is done a wrong acknowledgement is answered with an RST.
                let may_reset = said.gone > 0
                    || self.lanes[number].connection.is_over()
                    || command == Some(Command::End)
                    || !self.lanes[number].connection.is_shaken();
                assert!(said.resets == 0 || may_reset, "a flow was reset for no reason");
                let connection = &self.lanes[number].connection;
                let must_end = segment.is_some_and(|segment| {
                    segment.has(RST) && !segment.has(SYN | FIN) && connection.must_end_by(segment)
                });
                assert!(!must_end || said.gone == 1 || connection.is_over(), "a reset that was not heard");
            }
            Stage::Released => assert_eq!(said.gone, 0, "nobody is there to be told"),
        }
    }

    fn check_said_to_held(
        &self,
        number: usize,
        said: &Said,
        segment: Option<&Segment>,
        command: Option<Command>,
    ) {
        let answers = said.resets + said.syn_acks + said.others + said.stray;
        match command {
            Some(Command::Accept) => {
                // Refused if there is no room for another flow.
                let is_open = self.lanes[number].stage == Stage::Open;
                let expected = if is_open { (0, 1) } else { (1, 0) };
                assert_eq!((said.resets, said.syn_acks), expected, "one answer to one SYN");
            }
            Some(Command::Refuse) => assert_eq!((said.resets, answers), (1, 1), "one RST"),
            Some(Command::RefuseAsUnreachable | Command::Use | Command::End) | None => {
                assert_eq!(answers, 0, "a held SYN was answered");
            }
        }
        let is_repeated = segment.is_some_and(|segment| {
            segment.is_request() && segment.sequence == self.lanes[number].connection.isn()
        });
        assert!(!is_repeated || said.begun <= said.gone, "a SYN that came again was held again");
    }
}
