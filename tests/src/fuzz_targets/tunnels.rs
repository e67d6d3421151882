//! Operations on tunnels against a reference: what the daemon's tracker, the proxy's gate and its budget owe, whatever
//! order things come in.
//!
//! The input is a story: flows that want a port, an agent that answers or does not, streams that are opened with good
//! and bad grants, many at once, closed, reset and lost, headers that do not come, grants that are renewed, revoked and
//! forgotten, control's word and its silence, and time. [`waits`] is the daemon's side, [`gate`] the proxy's, and a
//! flow that is granted at the one asks for its session at the other.

mod cluster;
mod control;
mod gate;
mod signatures;
mod stalls;
mod waits;

use std::time::Duration;

use portlatch_protocol::stream::OpenRefusal;
use portlatchd::tracker::PromptOn;

use cluster::{CLUSTER_OF_ALL, LOGINS, Token};
use gate::Gate;
use stalls::Stalls;
use waits::{Brought, Dialled, Waits};

/// A story longer than this says nothing new.
const MOST_STEPS: usize = 2_000;
/// Steps of the clock that a story may take at once, and in all: three hours.
const MOST_AT_ONCE: u8 = 16;
const MOST_TIME: Duration = Duration::from_secs(3 * 3_600);

/// Plays a story and holds both sides against their models.
///
/// # Panics
/// If a promise is broken.
pub fn fuzz_tunnels(bytes: &[u8]) {
    let mut story = Story { gate: Gate::new(), waits: Waits::new(), stalls: Stalls::new() };
    // Most stories begin with a proxy that knows everything; the first byte may have it otherwise.
    let Some((&first, mut rest)) = bytes.split_first() else { return };
    if first < 224 {
        story.gate.hear(0, 0, 0);
    }
    for _ in 0..MOST_STEPS {
        let Some(([what, number, how], tail)) = rest.split_first_chunk::<3>() else { break };
        rest = tail;
        story.step(*what, *number, *how);
        story.open_granted();
    }
    story.end();
}

struct Story {
    gate: Gate,
    waits: Waits,
    stalls: Stalls,
}

impl Story {
    fn step(&mut self, what: u8, number: u8, how: u8) {
        let at = usize::from(number);
        let place = at % CLUSTER_OF_ALL.places.len();
        let (waits, gate) = (&mut self.waits, &mut self.gate);
        match what % 40 {
            0..=2 => waits.want(place, 1, PromptOn::Syn),
            3 => waits.want(place, how, PromptOn::Syn),
            4 | 5 => waits.want(place, how / 64, PromptOn::FirstRequest),
            6 => waits.gone(at),
            7 => waits.first_request(place),
            8 | 9 => waits.tap_needed(at),
            10 => waits.prompt_opened(at, how),
            11..=13 => waits.granted(at, Brought { token: token_of(how), kind: how.rotate_left(4) ^ number }),
            14 => waits.refused(at, how),
            15 => waits.offer(place, Brought { token: token_of(how), kind: number }),
            16 => waits.forget_taps(),
            17 => waits.dialled(if how < 200 { Dialled::Up } else { Dialled::Down }),
            18 => waits.pass(Duration::from_millis(u64::from(number) * 16 + u64::from(how) / 16)),
            19 => self.open(at, how, None),
            20 => self.open(at, how, Some(u16::from_be_bytes([number, how]))),
            21..=23 => self.open_good(at, how),
            24 | 25 => gate.begin(at),
            26 => gate.close(at),
            27 => gate.kill(at),
            28 => gate.tunnel_up(at % LOGINS),
            29 => gate.lose(at % LOGINS),
            30..=33 => gate.hear(how, number, how.rotate_left(3)),
            34 => gate.hear(0, number, how),
            35 => gate.set_control_clock(how.cast_signed() % 40),
            36 => self.pass(how),
            37 => self.stalls.stall(at % LOGINS, how),
            38 => self.stalls.complete(at),
            _ => self.stalls.reset(at),
        }
    }

    /// A stream of one tunnel, with any grant.
    fn open(&mut self, at: usize, how: u8, altered: Option<u16>) {
        let place = &CLUSTER_OF_ALL.places[at / 2 % CLUSTER_OF_ALL.places.len()];
        // What comes of it, the gate has looked at.
        let _ = self.gate.open(at % LOGINS, token_of(how), place, altered);
    }

    /// A stream with a grant that is for it.
    fn open_good(&mut self, at: usize, how: u8) {
        let token = token_of(how);
        let places = &CLUSTER_OF_ALL.places;
        let is_its =
            |place: &&cluster::Place| (&place.id, place.port) == (&token.claims.resource, token.claims.port);
        let place = places.iter().find(is_its).expect("a grant is for one of the places");
        let whose = CLUSTER_OF_ALL.tunnels.iter().position(|tunnel| tunnel.login.user == token.claims.sub);
        let whose = whose.expect("a grant is one of the users'");
        if self.gate.open(whose, token, place, None).is_ok() && at.is_multiple_of(2) {
            self.gate.begin(usize::MAX);
        }
    }

    /// Flows that the daemon lets go on ask the proxy; which says when a grant is not good any more.
    fn open_granted(&mut self) {
        for ready in self.waits.take_ready() {
            if let Err(fault) = self.gate.open(0, ready.token, ready.place, None)
                && fault.refusal() == OpenRefusal::GrantEnded
            {
                self.waits.grant_ended(ready.place, ready.token);
            }
        }
    }

    fn pass(&mut self, how: u8) {
        let steps = u32::from(how % MOST_AT_ONCE) + 1;
        if self.gate.elapsed() < MOST_TIME {
            self.gate.pass(steps);
            self.waits.pass(cluster::STEP * steps);
        }
    }

    /// All goes home.
    fn end(&mut self) {
        self.waits.end();
        (0..LOGINS).for_each(|who| self.gate.lose(who));
    }
}

fn token_of(number: u8) -> &'static Token {
    let tokens = &CLUSTER_OF_ALL.tokens;
    &tokens[usize::from(number) % tokens.len()]
}
