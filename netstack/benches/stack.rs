//! What the stack takes for one packet, one flow among many, and one timer; `scripts/bench --criterion` runs it.
//!
//! From outside, as its owner drives it: a look-up or a timer by itself would leave out what smoltcp and the dirty list
//! do with it. The cost must not grow with the number of flows.

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use portlatch_netstack::{Event, FlowId, Ring, RingMemory, Stack, StackConfig, Vacant};

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
/// The program's first sequence number, less one.
const FIRST: u32 = 1_000;
/// What is between two packets on the clock that is passed in.
const TICK: Duration = Duration::from_micros(1);
/// A ring for whole segments of 64 KiB.
const LARGE_RING: usize = 256 * 1024;
/// A ring for many flows: nothing here sends them more than a byte.
const SMALL_RING: usize = 8 * 1024;
/// The daemon has up to 16,384.
const NUMBERS_OF_FLOWS: [u32; 4] = [1, 1_000, 10_000, 100_000];
/// From one flow to the next: far away in memory, and odd, so that all are met.
const STRIDE: usize = 7_919;
/// As many packets as the daemon takes from its TUN before it answers.
const BATCH: usize = 64;
/// A keystroke, a segment of Ethernet's size, and one as a TUN of the largest MTU carries it.
const PAYLOADS: [usize; 3] = [1, 1_460, 60_000];

/// One piece of memory for all rings, as the daemon's: among vectors the flows would lie as far from each other as their
/// rings are long.
struct Slab {
    rest: &'static mut [u8],
    ring_size: usize,
}

impl Slab {
    fn new(ring_size: usize, flows: u32) -> Self {
        Self { rest: vec![0; 2 * ring_size * flows as usize].leak(), ring_size }
    }

    fn ring(&mut self) -> Option<Ring> {
        let (ring, rest) = std::mem::take(&mut self.rest).split_at_mut_checked(self.ring_size)?;
        self.rest = rest;
        Some(ring.into())
    }
}

impl RingMemory for Slab {
    fn rings(&mut self, _slot: usize) -> Option<(Ring, Ring)> {
        Some((self.ring()?, self.ring()?))
    }

    fn reclaim(&mut self, _slot: usize) {}

    fn take_back(&mut self, _: Vacant) {}
}

/// A stack, and the programs' kernel, whose segments are written by hand.
struct Bench {
    stack: Stack<Slab>,
    now: Instant,
    flows: Vec<Flow>,
    buffer: Vec<u8>,
}

/// An open flow, as the program's kernel knows it.
struct Flow {
    id: FlowId,
    program: SocketAddrV4,
    server: SocketAddrV4,
    sequence: u32,
    acknowledgement: u32,
}

impl Bench {
    #[expect(clippy::disallowed_methods, reason = "a bench's time needs a beginning")]
    fn new(ring_size: usize, flows: u32) -> Self {
        let program = Ipv4Addr::new(198, 18, 0, 1);
        let config = StackConfig {
            mtu: 65_535,
            range4: (Ipv4Addr::new(198, 18, 0, 0), 16),
            range6: None,
            random_seed: 7,
            ring_size,
            max_held: 16,
            max_flows: flows as usize,
            verify_checksums: false,
            sources: vec![program.into()],
        };
        let now = Instant::now();
        let stack = Stack::new(config, Slab::new(ring_size, flows), now);
        let mut bench = Self { stack, now, flows: Vec::new(), buffer: vec![0; 65_535] };
        for number in 0..flows {
            let port = 10_000 + (number % 50_000) as u16;
            let server = Ipv4Addr::new(198, 18, 7, 1 + (number / 50_000) as u8);
            bench.open(SocketAddrV4::new(program, port), SocketAddrV4::new(server, 5432));
        }
        bench
    }

    fn open(&mut self, program: SocketAddrV4, server: SocketAddrV4) {
        self.stack.handle_packet(&packet(program, server, SYN, [FIRST, 0], &[]), self.now);
        let Some(Event::Incoming(incoming)) = self.stack.poll_event() else { panic!("no SYN was held") };
        let id = self.stack.accept(incoming.id, self.now).expect("there is room for the flow");
        let answer = self.stack.poll_packet(self.now, &mut self.buffer).expect("the SYN is answered");
        assert!(answer.len >= 40);
        let initial =
            u32::from_be_bytes([self.buffer[24], self.buffer[25], self.buffer[26], self.buffer[27]]);
        let flow =
            Flow { id, program, server, sequence: FIRST + 1, acknowledgement: initial.wrapping_add(1) };
        self.stack.handle_packet(&flow.packet(&[]), self.now);
        self.flows.push(flow);
        self.settle();
    }

    /// Takes what the stack says and sends; how many bytes those packets had.
    fn settle(&mut self) -> usize {
        while let Some(event) = self.stack.poll_event() {
            black_box(event);
        }
        let mut bytes = 0;
        while let Some(out) = self.stack.poll_packet(self.now, &mut self.buffer) {
            bytes += out.len;
        }
        bytes
    }

    /// The program sends this payload, its owner reads it, the stack acknowledges it.
    fn carry_in(&mut self, flow: usize, payload: &[u8], packet: &mut [u8]) {
        self.now += TICK;
        self.flows[flow].number(packet);
        self.stack.handle_packet(packet, self.now);
        let (id, mut read) = (self.flows[flow].id, 0);
        while let Ok(length) = self.stack.read_with(id, |bytes| (bytes.len(), bytes.len())) {
            read += length;
        }
        assert_eq!(read, payload.len());
        self.flows[flow].sequence = self.flows[flow].sequence.wrapping_add(payload.len() as u32);
        self.settle();
    }

    /// The owner writes this payload, the stack sends it, the program acknowledges it with `packet`.
    fn carry_out(&mut self, flow: usize, payload: &[u8], packet: &mut [u8]) {
        self.now += TICK;
        self.write(flow, payload);
        self.flows[flow].number(packet);
        self.stack.handle_packet(packet, self.now);
        self.settle();
    }

    fn write(&mut self, flow: usize, payload: &[u8]) {
        let written = self.stack.write(self.flows[flow].id, payload);
        assert_eq!(written.expect("there is room"), payload.len());
        assert!(self.settle() > payload.len());
        self.flows[flow].acknowledgement =
            self.flows[flow].acknowledgement.wrapping_add(payload.len() as u32);
    }

    /// Segments that say nothing new: their flows are found, and that is all.
    #[expect(clippy::disallowed_methods, reason = "only a part of what is done is measured")]
    fn look_up(&mut self, packets: &[Vec<u8>]) -> Duration {
        let begin = Instant::now();
        self.now += TICK;
        for packet in packets {
            self.stack.handle_packet(black_box(packet), self.now);
        }
        self.settle();
        begin.elapsed()
    }
}

impl Flow {
    fn packet(&self, payload: &[u8]) -> Vec<u8> {
        packet(self.program, self.server, ACK, [self.sequence, self.acknowledgement], payload)
    }

    /// Puts the numbers of the moment into a packet.
    fn number(&self, packet: &mut [u8]) {
        packet[24..28].copy_from_slice(&self.sequence.to_be_bytes());
        packet[28..32].copy_from_slice(&self.acknowledgement.to_be_bytes());
    }
}

/// As it comes from a TUN with IFF_VNET_HDR: nobody looks at the checksum of TCP.
fn packet(from: SocketAddrV4, to: SocketAddrV4, flags: u8, numbers: [u32; 2], payload: &[u8]) -> Vec<u8> {
    // A SYN offers a window scale of 7 and the largest segments.
    let options: &[u8] = if flags == SYN { &[2, 4, 0xff, 0xc3, 1, 3, 3, 7] } else { &[] };
    let length = u16::try_from(40 + options.len() + payload.len()).expect("a packet's length");
    let mut bytes = Vec::with_capacity(length.into());
    bytes.extend([0x45, 0]);
    bytes.extend(length.to_be_bytes());
    bytes.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
    bytes.extend(from.ip().octets());
    bytes.extend(to.ip().octets());
    let checksum = header_checksum(&bytes);
    bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
    bytes.extend(from.port().to_be_bytes());
    bytes.extend(to.port().to_be_bytes());
    bytes.extend(numbers[0].to_be_bytes());
    bytes.extend(numbers[1].to_be_bytes());
    bytes.extend([((5 + options.len() / 4) as u8) << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    bytes.extend(options);
    bytes.extend(payload);
    bytes
}

/// RFC 791.
fn header_checksum(header: &[u8]) -> u16 {
    let sum: u32 = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let folded = (sum >> 16) + (sum & 0xffff);
    !(folded as u16)
}

fn packets_in(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("packet in");
    for bytes in PAYLOADS {
        let (mut bench, payload) = (Bench::new(LARGE_RING, 1), vec![7; bytes]);
        let mut packet = bench.flows[0].packet(&payload);
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::from_parameter(bytes), |b| {
            b.iter(|| bench.carry_in(0, &payload, &mut packet));
        });
    }
    group.finish();
}

fn packets_out(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("packet out");
    for bytes in PAYLOADS {
        let (mut bench, payload) = (Bench::new(LARGE_RING, 1), vec![7; bytes]);
        let mut packet = bench.flows[0].packet(&[]);
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::from_parameter(bytes), |b| {
            b.iter(|| bench.carry_out(0, &payload, &mut packet));
        });
    }
    group.finish();
}

/// Packets are looked at as they come from a TUN: a batch, which the kernel has just written. What it costs to fetch them
/// from wherever this bench keeps them is no part of the look-up.
fn flows(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("flow look-up");
    for number in NUMBERS_OF_FLOWS {
        let mut bench = Bench::new(SMALL_RING, number);
        let packets: Vec<_> = bench.flows.iter().map(|flow| flow.packet(&[])).collect();
        let (mut flow, mut batch) = (0, vec![packets[0].clone(); BATCH]);
        group.throughput(Throughput::Elements(BATCH as u64));
        group.bench_function(BenchmarkId::from_parameter(number), |b| {
            b.iter_custom(|rounds| {
                let mut time = Duration::ZERO;
                for _ in 0..rounds {
                    for packet in &mut batch {
                        flow = (flow + STRIDE) % packets.len();
                        packet.copy_from_slice(&packets[flow]);
                    }
                    time += bench.look_up(&batch);
                }
                time
            });
        });
    }
    group.finish();
}

/// A byte out and its acknowledgement arm and disarm a flow's timer, among as many as are armed.
fn timers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("timer");
    for number in NUMBERS_OF_FLOWS {
        let mut bench = Bench::new(SMALL_RING, number + 1);
        for flow in 1..bench.flows.len() {
            bench.now += TICK;
            bench.write(flow, &[7]);
        }
        assert!(bench.stack.poll_timeout().is_some_and(|deadline| deadline > bench.now));
        let mut packet = bench.flows[0].packet(&[]);
        group.bench_function(BenchmarkId::from_parameter(number), |b| {
            b.iter(|| bench.carry_out(0, &[7], &mut packet));
        });
    }
    group.finish();
}

criterion_group!(benches, packets_in, packets_out, flows, timers);
criterion_main!(benches);
