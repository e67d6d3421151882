//! The stack: everything together, and the way of a packet into it.
//!
//! A packet's way: here -> `arrival` (TCP) or answered at once (ICMP, UDP) -> its flow is dirty -> `departure`. What its
//! owner does is in `commands`, how a flow ends in `endings`, and what keeps a panic to its flow in `guard`.

mod arrival;
mod commands;
mod departure;
mod endings;
mod guard;

use std::collections::{HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface};
use smoltcp::wire::HardwareAddress;

use crate::config::StackConfig;
use crate::counters::Counters;
use crate::datagram;
use crate::demux::{Seeded, Tuples};
use crate::device::{Card, OneShot};
use crate::event::Event;
use crate::flow::{Flow, FlowId, Phase};
use crate::held::HeldSyns;
use crate::icmp::{self, Throttle, Unreachable};
use crate::memory::RingMemory;
use crate::pool::Pool;
use crate::reply::Replies;
use crate::time_wait::Graves;
use crate::timers::{Alarm, Timers};
use crate::wire::{self, IpPacket, Unreadable};

pub use commands::Refusal;
pub use departure::{Checksum, OutPacket};

/// Datagrams that the owner has not taken yet; a resolver asks again.
const MOST_DATAGRAMS: usize = 512;

/// Events of SYNs that the owner has not taken yet, over the number of those held: one that changes its sequence number
/// with every packet must not grow the queue. The program asks again.
const MOST_SYN_EVENTS: usize = 1_024;

/// What the random seed is used for.
const SEQUENCES: u64 = 1;
const TABLES: u64 = 2;

/// A userspace TCP stack for the local programs of one TUN.
pub struct Stack<M> {
    config: StackConfig,
    memory: M,
    interface: Interface,
    card: Card,
    epoch: Epoch,
    /// The latest time that was passed in.
    now: Instant,
    addresses: HashSet<IpAddr, Seeded>,
    listeners: HashSet<SocketAddr, Seeded>,
    tuples: Tuples,
    held: HeldSyns,
    flows: Pool,
    /// The slots that may have something to send.
    dirty: VecDeque<u32>,
    timers: Timers,
    graves: Graves,
    replies: Replies,
    throttle: Throttle,
    events: VecDeque<Event>,
    datagram_events: usize,
    syn_events: usize,
    counters: Counters,
}

impl<M: RingMemory> Stack<M> {
    /// A stack without flows.
    pub fn new(config: StackConfig, memory: M, now: Instant) -> Stack<M> {
        let card = Card { mtu: config.effective_mtu(), computes_checksums: config.verify_checksums };
        let epoch = Epoch(now);
        let mut interface_config = Config::new(HardwareAddress::Ip);
        // A number of its own: smoltcp's sequence numbers tell the one that they begin with.
        interface_config.random_seed = Seeded::new(config.random_seed, SEQUENCES).number();
        let mut device = OneShot::sending(card, &mut []);
        let mut interface = Interface::new(interface_config, &mut device, epoch.to_smoltcp(now));
        // Whose address it is was decided before smoltcp sees a packet.
        interface.set_any_ip(true);
        let seeded = Seeded::new(config.random_seed, TABLES);
        Stack {
            memory,
            interface,
            card,
            epoch,
            now,
            addresses: HashSet::with_hasher(seeded.clone()),
            listeners: HashSet::with_hasher(seeded.clone()),
            tuples: Tuples::new(seeded),
            held: HeldSyns::default(),
            flows: Pool::default(),
            dirty: VecDeque::new(),
            timers: Timers::default(),
            graves: Graves::default(),
            replies: Replies::default(),
            throttle: Throttle::default(),
            events: VecDeque::new(),
            datagram_events: 0,
            syn_events: 0,
            counters: Counters::default(),
            config,
        }
    }

    /// From now on the address exists: echo requests to it are answered.
    pub fn insert_address(&mut self, address: IpAddr) {
        self.addresses.insert(address);
    }

    /// From now on the address does not exist. Flows to it go on.
    pub fn remove_address(&mut self, address: IpAddr) {
        self.addresses.remove(&address);
    }

    /// From now on UDP to this address and port becomes [`Event::Datagram`].
    pub fn listen_datagrams(&mut self, address: SocketAddr) {
        self.listeners.insert(address);
    }

    /// Sends a datagram. False: the queue is full, or no packet can be made of it.
    pub fn send_datagram(&mut self, from: SocketAddr, to: SocketAddr, payload: &[u8]) -> bool {
        datagram::packet(from, to, payload).is_some_and(|packet| self.reply(packet))
    }

    /// How many flows there are: those that somebody owns, and those that still have to end by themselves.
    pub fn flow_count(&self) -> usize {
        self.flows.in_use()
    }

    /// How many SYNs are held.
    pub fn held_count(&self) -> usize {
        self.held.len()
    }

    /// What the stack has done so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The provider of memory.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Takes one IP packet from the TUN.
    pub fn handle_packet(&mut self, packet: &[u8], now: Instant) {
        self.now = self.now.max(now);
        self.counters.packets_in += 1;
        let packet = match IpPacket::parse(packet) {
            Ok(packet) => packet,
            Err(Unreadable::Malformed) => return self.counters.malformed += 1,
            Err(Unreadable::Fragment) => return self.counters.fragments += 1,
        };
        if !self.config.is_in_range(packet.destination) {
            return self.counters.outside_range += 1;
        }
        if !self.config.is_source(packet.source) || packet.source == packet.destination {
            return self.counters.foreign_source += 1;
        }
        match packet.protocol {
            wire::TCP => self.handle_segment(&packet),
            wire::UDP => self.handle_datagram(&packet),
            wire::ICMP | wire::ICMPV6 if icmp::is_echo_request(&packet) => self.handle_echo(&packet),
            _ => self.counters.unsupported += 1,
        }
    }

    fn handle_datagram(&mut self, packet: &IpPacket<'_>) {
        if self.config.verify_checksums && !datagram::has_good_checksum(packet) {
            return self.counters.malformed += 1;
        }
        let Some(datagram) = datagram::parse(packet) else { return self.counters.malformed += 1 };
        if self.listeners.contains(&datagram.destination) {
            if self.datagram_events >= MOST_DATAGRAMS {
                return self.counters.queue_full += 1;
            }
            self.datagram_events += 1;
            return self.events.push_back(Event::Datagram(datagram));
        }
        let what = match self.addresses.contains(&packet.destination) {
            true => Unreachable::Port,
            false => Unreachable::Host,
        };
        self.report(packet, what);
    }

    fn handle_echo(&mut self, packet: &IpPacket<'_>) {
        if self.config.verify_checksums && !icmp::has_good_checksum(packet) {
            return self.counters.malformed += 1;
        }
        match self.addresses.contains(&packet.destination) {
            true => self.reply_with(icmp::echo_reply(packet)),
            false => self.report(packet, Unreachable::Host),
        }
    }

    /// Tells a sender what cannot be reached, unless many were told of late.
    fn report(&mut self, packet: &IpPacket<'_>, what: Unreachable) {
        if !self.throttle.passes(self.now) {
            return self.counters.throttled += 1;
        }
        self.reply_with(icmp::unreachable(packet, what));
    }

    /// Does what time asks for. To be called when [`Stack::poll_timeout`] is due; harmless at any other time.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = self.now.max(now);
        self.graves.handle_timeout(&mut self.tuples, now);
        while let Some(alarm) = self.timers.pop_due(now) {
            match alarm {
                Alarm::Slot(slot) => {
                    self.flows[slot as usize].alarm = None;
                    self.mark_dirty(slot);
                }
                Alarm::Held(index) => self.handle_silence(index),
            }
        }
        for slot in self.flows.step(now) {
            self.take_apart(slot);
        }
    }

    /// The next thing that the owner should know.
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front()?;
        match event {
            Event::Datagram(_) => self.datagram_events -= 1,
            Event::Incoming(_) | Event::IncomingGone(_) => self.syn_events -= 1,
            Event::Readable(_) | Event::Writable(_) | Event::Gone(_) => {}
        }
        Some(event)
    }

    /// When [`Stack::handle_timeout`] is to be called next, provided that [`Stack::poll_packet`] had nothing more.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let has_work = !self.dirty.is_empty() || !self.replies.is_empty();
        let at_once = has_work.then_some(self.now);
        let deadlines =
            [self.timers.next_deadline(), self.graves.next_deadline(), self.flows.next_deadline()];
        deadlines.into_iter().chain([at_once]).flatten().min()
    }

    /// The flow of a name that is not stale.
    fn flow(&mut self, id: FlowId) -> Option<&mut Flow> {
        let flow = self.flows.get_mut(id.slot)?;
        let is_owned = matches!(flow.phase, Phase::Owned | Phase::Over);
        (is_owned && flow.generation == id.generation).then_some(flow)
    }

    fn id(&self, slot: u32) -> FlowId {
        self.flows.id(slot)
    }

    fn mark_dirty(&mut self, slot: u32) {
        let flow = &mut self.flows[slot as usize];
        if !flow.is_dirty {
            flow.is_dirty = true;
            self.dirty.push_back(slot);
        }
    }

    /// Tells the owner what it waits for, once.
    fn raise(&mut self, slot: u32) {
        let id = self.id(slot);
        let flow = &mut self.flows[slot as usize];
        if !matches!(flow.phase, Phase::Owned | Phase::Over) {
            return;
        }
        if flow.wants_read && flow.is_readable() {
            flow.wants_read = false;
            self.events.push_back(Event::Readable(id));
        }
        if flow.wants_write && flow.is_writable() {
            flow.wants_write = false;
            self.events.push_back(Event::Writable(id));
        }
    }

    fn reply(&mut self, packet: Vec<u8>) -> bool {
        let has_room = self.replies.push(packet).is_ok();
        if !has_room {
            self.counters.queue_full += 1;
        }
        has_room
    }

    fn reply_with(&mut self, packet: Option<Vec<u8>>) {
        if let Some(packet) = packet {
            self.reply(packet);
        }
    }
}

/// Between the caller's time and smoltcp's, which starts at an arbitrary zero.
#[derive(Debug, Clone, Copy)]
struct Epoch(Instant);

/// smoltcp uses its zero for "long ago".
const FIRST: Duration = Duration::from_secs(1);

impl Epoch {
    fn to_smoltcp(self, now: Instant) -> smoltcp::time::Instant {
        let elapsed = now.saturating_duration_since(self.0) + FIRST;
        smoltcp::time::Instant::from_micros(i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX))
    }

    fn to_std(self, instant: smoltcp::time::Instant) -> Instant {
        let micros = u64::try_from(instant.total_micros()).unwrap_or(0);
        self.0 + Duration::from_micros(micros).saturating_sub(FIRST)
    }
}
