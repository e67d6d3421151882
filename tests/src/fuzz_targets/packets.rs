//! IP packets into the stack, between commands of its owner and jumps of time.
//!
//! The input is a list of steps: a byte that says what, two bytes of length, and that many bytes. Packets come as they
//! are, or as segments of a few programs that know what the stack last sent them: so a fuzzer gets past the handshake.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use portlatch_netstack::{Event, FlowId, IncomingId, Refusal, Stack, StackConfig, VecMemory};

const MAX_HELD: usize = 8;
const MAX_FLOWS: usize = 8;
const RING: usize = 8 * 1024;
const MTU: usize = 65_535;
const FIN: u8 = 1;
const SYN: u8 = 2;
/// The programs' ports are this one and those behind it.
const FIRST_PORT: u16 = 40_000;
/// More events or packets than this from one step would be a loop.
const MAX_OUTPUT: usize = 10_000;

/// Packets from a local program, the answers of an owner that does what the input says, and time.
///
/// # Panics
/// If a bound does not hold, an event or packet never ends, or a packet that leaves is none.
pub fn fuzz_packets(bytes: &[u8]) {
    let mut owner = Owner::new();
    let mut rest = bytes;
    while let Some((head, tail)) = rest.split_first_chunk::<3>() {
        let length = usize::from(u16::from_be_bytes([head[1], head[2]])).min(tail.len());
        let (content, after) = tail.split_at(length);
        owner.step(head[0], content);
        rest = after;
    }
    // Everything ends by itself once the programs are silent.
    owner.now += Duration::from_secs(24 * 3600);
    owner.step(0, &[]);
}

struct Owner {
    stack: Stack<VecMemory>,
    now: Instant,
    held: Vec<IncomingId>,
    flows: Vec<FlowId>,
    programs: [Program; 4],
    buffer: Vec<u8>,
}

/// What a program's kernel would know: the next byte it sends, and the next that it expects.
#[derive(Debug, Clone, Copy, Default)]
struct Program {
    next: u32,
    expected: u32,
}

impl Owner {
    fn new() -> Self {
        let now = Instant::now();
        let sources = vec![
            IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1)),
            IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1)),
        ];
        let config = StackConfig {
            mtu: MTU,
            range4: (Ipv4Addr::new(198, 18, 0, 0), 16),
            range6: Some((Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0), 64)),
            random_seed: 7,
            ring_size: RING,
            max_held: MAX_HELD,
            max_flows: MAX_FLOWS,
            // A fuzzer finds no checksums; without them it gets further.
            verify_checksums: false,
            sources,
        };
        let mut stack = Stack::new(config, VecMemory::new(RING, MAX_FLOWS), now);
        for last in 2..6 {
            stack.insert_address(IpAddr::V4(Ipv4Addr::new(198, 18, 0, last)));
        }
        stack.insert_address(IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2)));
        stack.listen_datagrams(SocketAddr::from((Ipv4Addr::new(198, 18, 0, 2), 53)));
        Self {
            stack,
            now,
            held: Vec::new(),
            flows: Vec::new(),
            programs: Default::default(),
            buffer: vec![0; MTU],
        }
    }

    fn step(&mut self, what: u8, content: &[u8]) {
        let number = usize::from(content.first().copied().unwrap_or(0));
        match what % 9 {
            0 => self.stack.handle_packet(content, self.now),
            1 | 2 => self.send_segment(content),
            3 => self.now += Duration::from_millis(number as u64 * 40),
            4 => self.answer(number),
            5 => self.write(content),
            6 => self.read(number),
            7 => self.end(number),
            _ => self.refuse(number),
        }
        if self.stack.poll_timeout().is_some_and(|due| due <= self.now) {
            self.stack.handle_timeout(self.now);
        }
        self.drain_events();
        self.drain_packets();
        assert!(self.stack.held_count() <= MAX_HELD && self.stack.flow_count() <= MAX_FLOWS);
        assert_eq!(self.stack.counters().panics, 0, "something in the stack panicked");
    }

    /// A segment of one of the programs: which one, flags, how far its number is off, its window, and its payload.
    fn send_segment(&mut self, content: &[u8]) {
        let Some((&[which, flags, off, window], payload)) = content.split_first_chunk::<4>() else { return };
        let index = usize::from(which % 4);
        let program = &mut self.programs[index];
        let sequence = program.next.wrapping_add(i32::from(off.cast_signed()).cast_unsigned());
        if off == 0 {
            let ends = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
            program.next =
                program.next.wrapping_add(u32::try_from(payload.len()).unwrap_or(0)).wrapping_add(ends);
        }
        let packet = segment(index, flags, sequence, program.expected, u16::from(window) << 8, payload);
        self.stack.handle_packet(&packet, self.now);
    }

    /// Learns from a packet to a program what that program expects next.
    fn receive(&mut self, packet_len: usize) {
        let packet = &self.buffer[..packet_len];
        let is_tcp4 = packet.len() >= 40 && packet[0] == 0x45 && packet[9] == 6;
        if !is_tcp4 {
            return;
        }
        let port = u16::from_be_bytes([packet[22], packet[23]]);
        let Some(program) = self.programs.get_mut(usize::from(port.wrapping_sub(FIRST_PORT))) else { return };
        let header = usize::from(packet[32] >> 4) * 4;
        let payload = u32::try_from(packet.len().saturating_sub(20 + header)).unwrap_or(0);
        let ends = u32::from(packet[33] & SYN != 0) + u32::from(packet[33] & FIN != 0);
        let sequence = u32::from_be_bytes([packet[24], packet[25], packet[26], packet[27]]);
        program.expected = sequence.wrapping_add(payload).wrapping_add(ends);
    }

    fn answer(&mut self, number: usize) {
        let Some(id) = pick(&self.held, number) else { return };
        self.flows.extend(self.stack.accept(id, self.now));
    }

    fn refuse(&mut self, number: usize) {
        let refusal = if number.is_multiple_of(2) { Refusal::Reset } else { Refusal::HostUnreachable };
        let Some(id) = pick(&self.held, number / 2) else { return };
        self.stack.refuse(id, refusal, self.now);
    }

    fn write(&mut self, content: &[u8]) {
        let Some((number, bytes)) = content.split_first() else { return };
        let Some(id) = pick(&self.flows, usize::from(*number)) else { return };
        if let Ok(taken) = self.stack.write(id, bytes) {
            assert!(taken <= bytes.len());
        }
    }

    fn read(&mut self, number: usize) {
        let Some(id) = pick(&self.flows, number) else { return };
        let _ = self.stack.read_with(id, |bytes| {
            assert!(!bytes.is_empty(), "a reader is never shown nothing");
            (bytes.len(), ())
        });
    }

    fn end(&mut self, number: usize) {
        let Some(id) = pick(&self.flows, number / 3) else { return };
        match number % 3 {
            0 => self.stack.finish(id),
            1 => self.stack.reset(id),
            _ => self.stack.release(id),
        }
    }

    fn drain_events(&mut self) {
        for _ in 0..MAX_OUTPUT {
            let Some(event) = self.stack.poll_event() else { return };
            match event {
                Event::Incoming(incoming) => self.held.push(incoming.id),
                Event::IncomingGone(id) => self.held.retain(|held| *held != id),
                Event::Gone(id) => self.flows.retain(|flow| *flow != id),
                Event::Readable(_) | Event::Writable(_) | Event::Datagram(_) => {}
            }
        }
        panic!("events without end");
    }

    fn drain_packets(&mut self) {
        for _ in 0..MAX_OUTPUT {
            let Some(packet) = self.stack.poll_packet(self.now, &mut self.buffer) else { return };
            let packet = &self.buffer[..packet.len];
            let announced = match packet.first().expect("a packet has a byte") >> 4 {
                4 => usize::from(u16::from_be_bytes([packet[2], packet[3]])),
                6 => 40 + usize::from(u16::from_be_bytes([packet[4], packet[5]])),
                version => panic!("a packet of version {version} left"),
            };
            assert_eq!(announced, packet.len());
            self.receive(announced);
        }
        panic!("packets without end");
    }
}

/// An IPv4 TCP segment from a program to 198.18.0.2:5432; its checksums are not looked at.
fn segment(
    program: usize,
    flags: u8,
    sequence: u32,
    acknowledged: u32,
    window: u16,
    payload: &[u8],
) -> Vec<u8> {
    let length = u16::try_from(40 + payload.len().min(MTU - 40)).unwrap_or(u16::MAX);
    let port = FIRST_PORT + u16::try_from(program).unwrap_or(0);
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, 6, 0, 0, 198, 18, 0, 1, 198, 18, 0, 2]);
    packet.extend(port.to_be_bytes());
    packet.extend(5432_u16.to_be_bytes());
    packet.extend(sequence.to_be_bytes());
    packet.extend(acknowledged.to_be_bytes());
    packet.extend([0x50, flags]);
    packet.extend(window.to_be_bytes());
    packet.extend([0; 4]);
    packet.extend(&payload[..usize::from(length) - 40]);
    packet
}

/// Names that have gone stale are among them on purpose: they are harmless.
fn pick<T: Copy>(from: &[T], number: usize) -> Option<T> {
    from.get(number % from.len().max(1)).copied()
}
