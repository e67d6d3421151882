//! The end of a story: the programs turn honest and patient, owners read and finish, and what is owed must arrive.

use std::time::Duration;

use super::connection::Connection;
use super::segment::{ACK, FIN};
use super::step::Step;
use super::world::{LANES, Stage, World};
use super::{MOST_AGAIN, plain, read_some};

/// Enough for the slowest retransmission, a minute, after others; a story that needs more hangs.
const ROUNDS: usize = 600;
/// A program with nothing new to say says so now and then: more often would ask for what was lost piece by piece, and
/// keep the minute from passing.
const IDLE_TALK: usize = 25;
const ROUND: Duration = Duration::from_secs(1);
/// Longer than anything waits for anything.
const FOR_EVER: Duration = Duration::from_secs(4 * 3_600);

impl World {
    /// Brings everything to its end.
    pub(super) fn end(&mut self) {
        for lane in 0..LANES {
            self.lanes[lane].is_deaf = false;
            self.lanes[lane].connection.window = u16::MAX;
            self.take(lane, Step::Refuse);
        }
        let mut rounds = 0;
        while (0..LANES).any(|lane| self.is_owed(lane)) {
            rounds += 1;
            assert!(rounds <= ROUNDS, "what is owed does not arrive: {:?}", self.lanes_owed());
            for lane in 0..LANES {
                if self.is_owed(lane) {
                    self.round(lane, rounds);
                }
            }
            self.pass(ROUND);
        }
        for lane in 0..LANES {
            self.take(lane, Step::Release);
        }
        self.pass(FOR_EVER);
        assert_eq!((self.stack.flow_count(), self.stack.held_count()), (0, 0), "something is left");
        assert_eq!(self.stack.poll_timeout(), None, "something waits for ever");
    }

    /// Whether a byte or an end of this lane's connection has still to arrive on either side.
    fn is_owed(&self, lane: usize) -> bool {
        let lane = &self.lanes[lane];
        lane.stage == Stage::Open && !lane.connection.has_everything()
    }

    fn lanes_owed(&self) -> Vec<&Connection> {
        (0..LANES).filter(|lane| self.is_owed(*lane)).map(|lane| &self.lanes[lane].connection).collect()
    }

    /// The owner does what its events say, and the program sends again what was not acknowledged.
    fn round(&mut self, lane: usize, number: usize) {
        let stages = self.stages();
        let waits = |world: &Self| {
            let owner = world.lanes[lane].connection.owner.as_ref();
            owner.is_some_and(|owner| owner.waits_to_read || owner.has_read_all)
        };
        while self.stages() == stages && !waits(self) {
            let read = self.lanes[lane].connection.read;
            read_some(&mut self.stack, &mut self.lanes[lane].connection, usize::MAX);
            let is_stuck = self.lanes[lane].connection.read == read && !waits(self);
            assert!(!is_stuck, "a reader that neither reads nor waits");
        }
        self.take(lane, Step::Finish);
        if self.lanes[lane].stage != Stage::Open || !self.lanes[lane].connection.is_established() {
            return;
        }
        // From where the stack stands, whatever was sent ahead.
        let connection = &self.lanes[lane].connection;
        let (told, end) = (connection.told, connection.sent.contiguous());
        let has_read_all = connection.owner.as_ref().is_some_and(|owner| owner.has_read_all);
        let segment = match usize::try_from(end - told) {
            Ok(left) if left > 0 && !has_read_all => plain(connection, told, left.min(MOST_AGAIN), ACK),
            _ if !has_read_all => plain(connection, end, 0, ACK | FIN),
            Ok(_) | Err(_) if !connection.has_news() && !number.is_multiple_of(IDLE_TALK) => return,
            Ok(_) | Err(_) => plain(connection, told, 0, ACK),
        };
        self.inject(lane, segment);
    }
}
