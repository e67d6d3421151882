//! One stack, one wire, and the time of both.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use portlatch_netstack::{Checksum, Event, FlowId, Incoming, Stack, StackConfig, VecMemory};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    IpAddress, IpProtocol, IpRepr, Ipv4Packet, Ipv6Packet, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
};

pub(crate) const RING: usize = 256 * 1024;

pub(crate) const PROGRAM4: &str = "198.18.0.1:40000";
pub(crate) const SERVER4: &str = "198.18.7.9:5432";
pub(crate) const PROGRAM6: &str = "[fd00:1:2:3::1]:40000";
pub(crate) const SERVER6: &str = "[fd00:1:2:3::7:9]:5432";

/// Both families, for tests that are to hold in both.
pub(crate) const FAMILIES: [(&str, &str); 2] = [(PROGRAM4, SERVER4), (PROGRAM6, SERVER6)];

pub(crate) fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

#[expect(clippy::disallowed_methods, reason = "a test's time needs a beginning")]
pub(crate) fn beginning() -> Instant {
    Instant::now()
}

pub(crate) fn config() -> StackConfig {
    StackConfig {
        mtu: 65_535,
        range4: ([198, 18, 0, 0].into(), 16),
        range6: Some(("fd00:1:2:3::".parse().unwrap(), 64)),
        random_seed: 7,
        ring_size: RING,
        max_held: 16,
        max_flows: 64,
        verify_checksums: true,
        sources: vec![at(PROGRAM4).ip(), at(PROGRAM6).ip()],
    }
}

pub(crate) fn incoming_of(event: Event) -> Option<Incoming> {
    let Event::Incoming(incoming) = event else { return None };
    Some(incoming)
}

pub(crate) struct Lab {
    pub(crate) stack: Stack<VecMemory>,
    pub(crate) now: Instant,
    config: StackConfig,
    buffer: Vec<u8>,
}

impl Lab {
    pub(crate) fn new() -> Lab {
        Lab::with(config())
    }

    pub(crate) fn with(config: StackConfig) -> Lab {
        let memory = VecMemory::new(config.ring_size, usize::MAX);
        Lab::with_memory(config, memory)
    }

    pub(crate) fn with_memory(config: StackConfig, memory: VecMemory) -> Lab {
        let now = beginning();
        let stack = Stack::new(config.clone(), memory, now);
        Lab { stack, now, config, buffer: vec![0xaa; 65_535] }
    }

    pub(crate) fn send(&mut self, packet: &[u8]) {
        self.stack.handle_packet(packet, self.now);
    }

    /// The next packet for the TUN, with a checksum that the kernel has completed where that was asked for.
    pub(crate) fn next_packet(&mut self) -> Option<Vec<u8>> {
        let out = self.stack.poll_packet(self.now, &mut self.buffer)?;
        let mut packet = self.buffer[..out.len].to_vec();
        match out.checksum {
            Checksum::Complete => {}
            Checksum::Partial { start, offset } => {
                assert!(!self.config.verify_checksums);
                complete(&mut packet, start.into(), offset.into());
            }
        }
        Some(packet)
    }

    /// All packets for the TUN.
    pub(crate) fn packets(&mut self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.next_packet()).collect()
    }

    /// All segments for the TUN, where nothing else is expected.
    pub(crate) fn segments(&mut self) -> Vec<Seen> {
        self.packets().iter().map(|packet| Seen::read(packet)).collect()
    }

    pub(crate) fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.stack.poll_event()).collect()
    }

    /// The one event, which is a SYN.
    pub(crate) fn incoming(&mut self) -> Incoming {
        match self.events()[..] {
            [Event::Incoming(incoming)] => incoming,
            ref other => panic!("not one incoming but {other:?}"),
        }
    }

    /// Lets time pass, with all that it brings; says what was sent meanwhile.
    pub(crate) fn pass(&mut self, duration: Duration) -> Vec<Vec<u8>> {
        let (end, mut sent) = (self.now + duration, Vec::new());
        for _ in 0..100_000 {
            sent.extend(self.packets());
            match self.stack.poll_timeout() {
                Some(deadline) if deadline <= end => self.now = self.now.max(deadline),
                _ => {
                    self.now = end;
                    return sent;
                }
            }
            self.stack.handle_timeout(self.now);
        }
        panic!("the stack spins");
    }

    /// A flow, opened by hand: the program's next sequence number is 1001, and the stack's is returned with it.
    pub(crate) fn open(&mut self, program: &str, server: &str) -> (FlowId, u32) {
        self.send(&Tcp::syn(program, server, 1_000).bytes());
        let events = self.events();
        let Some(Event::Incoming(incoming)) = events.last() else { panic!("{events:?}") };
        let flow = self.stack.accept(incoming.id, self.now).unwrap();
        let answer = self.segments().pop().unwrap();
        assert_eq!(answer.control, TcpControl::Syn);
        let next = answer.sequence.wrapping_add(1);
        self.send(&Tcp::ack(program, server, 1_001, next).bytes());
        (flow, next)
    }

    pub(crate) fn read_all(&mut self, flow: FlowId) -> Vec<u8> {
        let mut read = Vec::new();
        while self.stack.read_with(flow, |bytes| (bytes.len(), read.extend_from_slice(bytes))).is_ok() {}
        read
    }
}

fn complete(packet: &mut [u8], start: usize, offset: usize) {
    let sum: u32 = packet[start..]
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)))
        .sum();
    let folded = (sum >> 16) + (sum & 0xffff);
    let folded = (folded >> 16) + (folded & 0xffff);
    packet[start + offset..start + offset + 2].copy_from_slice(&(!(folded as u16)).to_be_bytes());
}

/// A segment from a program.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tcp<'a> {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) control: TcpControl,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: Option<u32>,
    pub(crate) window: u16,
    pub(crate) payload: &'a [u8],
}

impl<'a> Tcp<'a> {
    pub(crate) fn syn(source: &str, destination: &str, sequence: u32) -> Tcp<'a> {
        Tcp {
            source: at(source),
            destination: at(destination),
            control: TcpControl::Syn,
            sequence,
            acknowledgement: None,
            window: 65_535,
            payload: &[],
        }
    }

    pub(crate) fn ack(source: &str, destination: &str, sequence: u32, acknowledgement: u32) -> Tcp<'a> {
        Tcp {
            control: TcpControl::None,
            acknowledgement: Some(acknowledgement),
            ..Tcp::syn(source, destination, sequence)
        }
    }

    pub(crate) fn with(self, control: TcpControl) -> Tcp<'a> {
        Tcp { control, ..self }
    }

    pub(crate) fn carrying(self, payload: &'a [u8]) -> Tcp<'a> {
        Tcp { payload, ..self }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let is_syn = self.control == TcpControl::Syn;
        let repr = TcpRepr {
            src_port: self.source.port(),
            dst_port: self.destination.port(),
            control: self.control,
            seq_number: TcpSeqNumber(self.sequence as i32),
            ack_number: self.acknowledgement.map(|number| TcpSeqNumber(number as i32)),
            window_len: self.window,
            window_scale: is_syn.then_some(7),
            max_seg_size: is_syn.then_some(65_475),
            sack_permitted: is_syn,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: self.payload,
        };
        let (from, to): (IpAddress, IpAddress) = (self.source.ip().into(), self.destination.ip().into());
        let capabilities = ChecksumCapabilities::default();
        let ip = IpRepr::new(from, to, IpProtocol::Tcp, repr.buffer_len(), 64);
        let mut bytes = vec![0; ip.buffer_len()];
        ip.emit(&mut bytes, &capabilities);
        let mut segment = TcpPacket::new_unchecked(&mut bytes[ip.header_len()..]);
        repr.emit(&mut segment, &from, &to, &capabilities);
        bytes
    }
}

/// A segment to a program, which the program's kernel would take: all checksums and lengths are right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) control: TcpControl,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: Option<u32>,
    pub(crate) window: u16,
    pub(crate) max_segment: Option<u16>,
    pub(crate) payload: Vec<u8>,
}

impl Seen {
    pub(crate) fn read(bytes: &[u8]) -> Seen {
        let (source, destination, payload): (IpAddr, IpAddr, &[u8]) = match bytes[0] >> 4 {
            4 => {
                let packet = Ipv4Packet::new_checked(bytes).unwrap();
                assert!(packet.verify_checksum());
                assert_eq!(packet.total_len() as usize, bytes.len());
                assert_eq!(packet.next_header(), IpProtocol::Tcp);
                (packet.src_addr().into(), packet.dst_addr().into(), &bytes[packet.header_len() as usize..])
            }
            _ => {
                let packet = Ipv6Packet::new_checked(bytes).unwrap();
                assert_eq!(packet.total_len(), bytes.len());
                assert_eq!(packet.next_header(), IpProtocol::Tcp);
                (packet.src_addr().into(), packet.dst_addr().into(), &bytes[40..])
            }
        };
        let segment = TcpPacket::new_checked(payload).unwrap();
        let capabilities = ChecksumCapabilities::default();
        let repr = TcpRepr::parse(&segment, &source.into(), &destination.into(), &capabilities).unwrap();
        Seen {
            source: SocketAddr::new(source, repr.src_port),
            destination: SocketAddr::new(destination, repr.dst_port),
            control: repr.control,
            sequence: repr.seq_number.0 as u32,
            acknowledgement: repr.ack_number.map(|number| number.0 as u32),
            window: repr.window_len,
            max_segment: repr.max_seg_size,
            payload: repr.payload.to_vec(),
        }
    }
}
