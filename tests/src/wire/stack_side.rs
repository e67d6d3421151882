//! The wire between the kernel and our netstack: programs' packets come out of a TUN, pass the wire, reach the stack,
//! and its answers go back the same way. The TUN is the daemon's, and so is the stack, with rings of the same size.
//!
//! Each seed has an address, a wire and a stack of its own, so that seeds run beside each other and none is another's
//! weather.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use portlatch_netstack::{Checksum, Event, Incoming, IncomingId, Refusal, Stack, StackConfig, VecMemory};
use portlatchd::tun::{self, BUFFER, HEADROOM, Tun};

use super::server::Server;
use super::transfer::{End, Kind, Plan};
use super::{Direction, Story, Wire};

/// The programs' addresses.
pub const PROGRAM4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// The same in IPv6.
pub const PROGRAM6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 2, 3, 0, 0, 0, 1);
/// The port of a seed's first connection.
const FIRST_PORT: u16 = 1000;
/// The daemon's ring.
const RING: usize = 256 * 1024;
/// Packets that are taken from the TUN in one turn.
const BATCH: usize = 64;
/// Flows of one seed: its connections, and what late copies of their SYNs make.
const MOST_FLOWS: usize = 64;

/// How the servers saw their connections end, by seed and number; the first flow of a connection alone.
pub type Ends = Arc<Mutex<HashMap<(u64, u64), End>>>;

/// What one seed is about.
#[derive(Debug, Clone)]
pub struct Scene {
    /// The seed.
    pub seed: u64,
    /// What happens to its packets.
    pub story: Story,
    /// Packets of the program that are longer than this vanish.
    pub largest_up: Option<usize>,
    /// When the wire is cut, after the beginning, and for how long.
    pub cut: Option<(Duration, Duration)>,
    /// Its connections.
    pub plans: Vec<Plan>,
}

/// A packet of the stack's, as the TUN wants it.
type Packet = (Vec<u8>, Checksum);

/// All seeds that run now.
pub struct StackSide {
    seeds: Vec<Seed>,
    buffer: Vec<u8>,
    longest_turn: Duration,
}

/// Where the program of this connection goes, if its seed stands at this place.
pub fn address(place: usize, plan: &Plan) -> SocketAddr {
    let place = u16::try_from(place).unwrap_or(u16::MAX);
    let port = FIRST_PORT + u16::try_from(plan.number).unwrap_or(0);
    // Both families, turn by turn.
    match (plan.seed + plan.number) % 3 {
        0 => (Ipv6Addr::new(0xfd00, 1, 2, 3, 0, 0, 1, place), port).into(),
        _ => (Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 1, 0)) + u32::from(place)), port).into(),
    }
}

fn place_of(address: IpAddr) -> Option<usize> {
    match address {
        IpAddr::V4(address) => {
            let place = u32::from(address).checked_sub(u32::from(Ipv4Addr::new(198, 18, 1, 0)))?;
            usize::try_from(place).ok()
        }
        IpAddr::V6(address) => (address.segments()[6] == 1).then(|| usize::from(address.segments()[7])),
    }
}

fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(Ipv4Addr::from(*packet.get(16..)?.first_chunk::<4>()?).into()),
        6 => Some(Ipv6Addr::from(*packet.get(24..)?.first_chunk::<16>()?).into()),
        _ => None,
    }
}

impl StackSide {
    /// These seeds, each at its place in the list.
    pub fn new(scenes: Vec<Scene>, ends: &Ends, now: Instant) -> Self {
        let seeds = scenes.into_iter().map(|scene| Seed::new(scene, Arc::clone(ends), now)).collect();
        Self { seeds, buffer: vec![0; BUFFER], longest_turn: Duration::ZERO }
    }

    /// Carries packets until `is_over` says so, which is asked at every turn.
    ///
    /// # Errors
    /// If the TUN fails.
    pub async fn run(&mut self, tun: &Tun, is_over: impl Fn(&Self) -> bool) -> io::Result<()> {
        let mut turn_began = Instant::now();
        while !is_over(self) {
            let before = std::mem::replace(&mut turn_began, Instant::now());
            self.longest_turn = self.longest_turn.max(turn_began - before);
            for _ in 0..BATCH {
                let Some(packet) = tun.try_recv(&mut self.buffer)? else { break };
                let seed = destination(packet).and_then(place_of).and_then(|place| self.seeds.get_mut(place));
                // What is for nobody here is the kernel's own talk.
                if let Some(seed) = seed {
                    seed.handle_packet(packet, Instant::now());
                }
            }
            let now = Instant::now();
            let mut deadline = now + Duration::from_millis(100);
            for seed in &mut self.seeds {
                if let Some(due) = seed.turn(tun, &mut self.buffer, now)? {
                    deadline = deadline.min(due);
                }
            }
            tokio::select! {
                readable = tun.readable() => readable?,
                () = tokio::time::sleep_until(deadline.into()) => {}
            }
        }
        Ok(())
    }

    /// The longest time from one turn to the next, of which there are ten a second at least: much more, and the machine
    /// was busy elsewhere.
    pub const fn longest_turn(&self) -> Duration {
        self.longest_turn
    }

    /// The seeds whose stacks still have flows, with how many.
    pub fn flows_left(&self) -> Vec<(u64, usize)> {
        let left = self.seeds.iter().map(|seed| (seed.scene.seed, seed.stack.flow_count()));
        left.filter(|(_, flows)| *flows > 0).collect()
    }
}

/// One seed: its wire, and the stack behind it.
struct Seed {
    scene: Scene,
    begun: Instant,
    wire: Wire<Packet>,
    stack: Stack<VecMemory>,
    held: Vec<(Instant, IncomingId, Plan)>,
    servers: Vec<Server>,
    ends: Ends,
}

impl Seed {
    fn new(scene: Scene, ends: Ends, now: Instant) -> Self {
        let config = StackConfig {
            mtu: 65_535,
            range4: (Ipv4Addr::new(198, 18, 0, 0), 16),
            range6: Some((Ipv6Addr::new(0xfd00, 1, 2, 3, 0, 0, 0, 0), 64)),
            random_seed: scene.seed,
            ring_size: RING,
            max_held: MOST_FLOWS,
            max_flows: MOST_FLOWS,
            verify_checksums: false,
            sources: vec![PROGRAM4.into(), PROGRAM6.into()],
        };
        let mut wire = Wire::new(scene.story);
        if let Some(largest) = scene.largest_up {
            wire.narrow(Direction::Up, largest);
        }
        let stack = Stack::new(config, VecMemory::new(RING, MOST_FLOWS), now);
        Self { scene, begun: now, wire, stack, held: Vec::new(), servers: Vec::new(), ends }
    }

    fn handle_packet(&mut self, packet: &[u8], now: Instant) {
        let length = packet.len();
        self.wire.handle_packet(Direction::Up, (packet.to_vec(), Checksum::Complete), length, now);
    }

    /// Does all that there is to do now; when there will be more.
    fn turn(&mut self, tun: &Tun, buffer: &mut [u8], now: Instant) -> io::Result<Option<Instant>> {
        let of_cut = self.keep_cut(now);
        self.deliver(tun, buffer, now)?;
        if self.stack.poll_timeout().is_some_and(|due| due <= now) {
            self.stack.handle_timeout(now);
        }
        while let Some(event) = self.stack.poll_event() {
            self.handle_event(event, now);
        }
        self.answer_held(now);
        for server in &mut self.servers {
            server.advance(&mut self.stack, now);
        }
        self.reap();
        while let Some(out) = self.stack.poll_packet(now, &mut buffer[HEADROOM..]) {
            let bytes = buffer[HEADROOM..HEADROOM + out.len].to_vec();
            self.wire.handle_packet(Direction::Down, (bytes, out.checksum), out.len, now);
        }
        self.deliver(tun, buffer, now)?;
        let of_servers = self.servers.iter().filter_map(|server| server.poll_timeout(now)).min();
        let of_held = self.held.iter().map(|(due, ..)| *due).min();
        let all = [self.wire.poll_timeout(), self.stack.poll_timeout(), of_servers, of_held, of_cut];
        Ok(all.into_iter().flatten().min())
    }

    /// Cuts and mends the wire at its times.
    fn keep_cut(&mut self, now: Instant) -> Option<Instant> {
        let (after, length) = self.scene.cut?;
        let (begin, end) = (self.begun + after, self.begun + after + length);
        if now < begin {
            return Some(begin);
        }
        if now < end {
            self.wire.cut();
            return Some(end);
        }
        self.wire.mend();
        self.scene.cut = None;
        None
    }

    /// What has arrived at either end.
    fn deliver(&mut self, tun: &Tun, buffer: &mut [u8], now: Instant) -> io::Result<()> {
        while let Some((direction, (packet, checksum))) = self.wire.poll_packet(now) {
            match direction {
                Direction::Up => self.stack.handle_packet(&packet, now),
                Direction::Down => {
                    let end = HEADROOM + packet.len();
                    buffer[HEADROOM..end].copy_from_slice(&packet);
                    // Not taken: lost, as on any wire.
                    let _ = tun.try_send(&mut buffer[..end], as_tun_wants(checksum))?;
                }
            }
        }
        Ok(())
    }

    fn handle_event(&mut self, event: Event, now: Instant) {
        match event {
            Event::Incoming(Incoming { id, destination, .. }) => {
                let number = destination.port().checked_sub(FIRST_PORT).map(u64::from);
                let plan = self.scene.plans.iter().find(|plan| Some(plan.number) == number).copied();
                match plan {
                    Some(plan) if plan.kind != Kind::Refused => self.held.push((now + plan.hold, id, plan)),
                    Some(_) | None => self.stack.refuse(id, Refusal::Reset, now),
                }
            }
            Event::IncomingGone(gone) => self.held.retain(|(_, id, _)| *id != gone),
            Event::Gone(flow) => {
                if let Some(server) = self.servers.iter_mut().find(|server| server.flow() == flow) {
                    server.handle_gone();
                }
            }
            // Every server is advanced at every turn.
            Event::Readable(_) | Event::Writable(_) | Event::Datagram(_) => {}
        }
    }

    fn answer_held(&mut self, now: Instant) {
        let due: Vec<_> = self.held.extract_if(.., |(due, ..)| *due <= now).collect();
        for (_, id, plan) in due {
            if let Some(flow) = self.stack.accept(id, now) {
                self.servers.push(Server::new(plan, flow, now));
            }
        }
    }

    /// Puts down how flows ended; a late copy of a SYN makes one more, which does not count.
    fn reap(&mut self) {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        for server in self.servers.extract_if(.., |server| server.end().is_some()) {
            let end = server.end().cloned().unwrap_or(End::Hung);
            ends.entry((self.scene.seed, server.number())).or_insert(end);
        }
    }
}

const fn as_tun_wants(checksum: Checksum) -> tun::Checksum {
    match checksum {
        Checksum::Complete => tun::Checksum::Complete,
        Checksum::Partial { start, offset } => tun::Checksum::Partial { start, offset },
    }
}
