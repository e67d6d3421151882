//! The wire between two hosts: a TUN in each of their network namespaces, and the packets between the two. What the
//! hosts see is an interface of the usual MTU; what becomes of their packets is told by orders on a socket.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::str::FromStr;
use std::time::{Duration, Instant};

use portlatchd::tun::{BUFFER, Checksum, HEADROOM, Tun, TunError, TunOptions};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::{Direction, Story, Weather, Wire};

/// Ethernet's.
const MTU: u32 = 1500;
/// Packets that a host's kernel keeps for the wire.
const QUEUE: u32 = 1000;
/// Packets that are taken from one end in one turn.
const BATCH: usize = 64;
/// What an order has from its connection to its end: a test that has died must not hold the wire.
const ORDER_DEADLINE: Duration = Duration::from_secs(1);

/// What the wire is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// `seed N`: the weather and the story of this seed, from its beginning.
    Seed(u64),
    /// `clear`: fair weather.
    Clear,
    /// `cut`: nothing arrives.
    Cut,
    /// `mend`: it does again.
    Mend,
    /// `largest N`: packets longer than this vanish both ways, without a word.
    Largest(usize),
}

/// Not an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an order is seed N, clear, cut, mend or largest N")]
pub struct NoOrder;

impl FromStr for Order {
    type Err = NoOrder;

    fn from_str(text: &str) -> Result<Self, NoOrder> {
        let number = |text: &str| text.parse::<u64>().map_err(|_| NoOrder);
        match text.split_once(' ') {
            Some(("seed", seed)) => number(seed).map(Self::Seed),
            Some(("largest", largest)) => {
                usize::try_from(number(largest)?).map(Self::Largest).map_err(|_| NoOrder)
            }
            Some(_) => Err(NoOrder),
            None => match text {
                "clear" => Ok(Self::Clear),
                "cut" => Ok(Self::Cut),
                "mend" => Ok(Self::Mend),
                _ => Err(NoOrder),
            },
        }
    }
}

/// The story of a seed for a way that QUIC and the kernel's TCP take: as [`Weather::of_seed`] has it, and narrow in
/// some, but never too narrow for QUIC's smallest packets (1,200 bytes and the headers below).
pub fn story_of(seed: u64) -> Story {
    let mut dice = super::Dice::of(seed, 30, 0);
    let largest = dice.happens(200).then(|| dice.one_of(&[1280, 1300, 1400, 1452]));
    Story::new(seed, Weather { largest, ..Weather::of_seed(seed) })
}

/// The two ends.
#[derive(Debug)]
pub struct Ends {
    near: Tun,
    far: Tun,
}

impl Ends {
    /// An interface of this name here and one in the network namespace that this file is, where the process then stays.
    ///
    /// # Errors
    /// If one of them cannot be made.
    pub fn open(name: &str, far: &Path) -> Result<Self, TunError> {
        let options = TunOptions { name, mtu: MTU, queue_length: QUEUE };
        let near = Tun::open(options)?;
        let namespace = File::open(far).map_err(TunError::Device)?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|error| TunError::Device(error.into()))?;
        Ok(Self { near, far: Tun::open(options)? })
    }

    /// Carries packets and follows orders until an end is gone.
    ///
    /// # Errors
    /// The one of the end that failed first.
    pub async fn run(&self, orders: &UnixListener) -> io::Result<()> {
        let mut wire = Wire::new(Story::new(0, Weather::default()));
        let mut buffer = vec![0; BUFFER];
        loop {
            take_in(&self.near, Direction::Up, &mut wire, &mut buffer)?;
            take_in(&self.far, Direction::Down, &mut wire, &mut buffer)?;
            while let Some((direction, packet)) = wire.poll_packet(Instant::now()) {
                let to = match direction {
                    Direction::Up => &self.far,
                    Direction::Down => &self.near,
                };
                put_out(to, &packet, &mut buffer);
            }
            let due = wire.poll_timeout();
            tokio::select! {
                readable = self.near.readable() => readable?,
                readable = self.far.readable() => readable?,
                () = until(due) => {}
                Ok((stream, _)) = orders.accept() => {
                    // Whoever gives no order, or waits for no answer, is no reason to end.
                    let _ = tokio::time::timeout(ORDER_DEADLINE, follow(stream, &mut wire)).await;
                }
            }
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

fn take_in(from: &Tun, direction: Direction, wire: &mut Wire<Vec<u8>>, buffer: &mut [u8]) -> io::Result<()> {
    for _ in 0..BATCH {
        let Some(packet) = from.try_recv(buffer)? else { break };
        wire.handle_packet(direction, packet.to_vec(), packet.len(), Instant::now());
    }
    Ok(())
}

/// A packet that the host does not take is lost, as on any wire: its interface may be down.
fn put_out(to: &Tun, packet: &[u8], buffer: &mut [u8]) {
    let end = HEADROOM + packet.len();
    buffer[HEADROOM..end].copy_from_slice(packet);
    let _ = to.try_send(&mut buffer[..end], checksum(packet));
}

/// The kernel may have left a checksum out, and does not say so here; the other one is told not to look. There are no
/// spoilt packets in this weather.
fn checksum(packet: &[u8]) -> Checksum {
    let transport = match packet {
        [first, ..] if first >> 4 == 4 => {
            packet.get(9).map(|protocol| (*protocol, u16::from(first & 15) * 4))
        }
        [first, ..] if first >> 4 == 6 => packet.get(6).map(|protocol| (*protocol, 40)),
        _ => None,
    };
    match transport {
        Some((6, start)) => Checksum::Partial { start, offset: 16 },
        Some((17, start)) => Checksum::Partial { start, offset: 6 },
        Some(_) | None => Checksum::Complete,
    }
}

/// One order, and an answer once it is carried out.
async fn follow(stream: UnixStream, wire: &mut Wire<Vec<u8>>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let answer = match line.trim().parse() {
        Ok(order) => {
            carry_out(order, wire);
            "done".to_owned()
        }
        Err(error @ NoOrder) => error.to_string(),
    };
    stream.write_all(format!("{answer}\n").as_bytes()).await
}

fn carry_out(order: Order, wire: &mut Wire<Vec<u8>>) {
    match order {
        Order::Seed(seed) => wire.tell(story_of(seed)),
        Order::Clear => wire.tell(Story::new(0, Weather::default())),
        Order::Cut => wire.cut(),
        Order::Mend => wire.mend(),
        Order::Largest(largest) => {
            wire.narrow(Direction::Up, largest);
            wire.narrow(Direction::Down, largest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read_and_other_lines_are_none() {
        assert_eq!("seed 7".parse(), Ok(Order::Seed(7)));
        assert_eq!("largest 1280".parse(), Ok(Order::Largest(1280)));
        assert_eq!("cut".parse(), Ok(Order::Cut));
        for line in ["", "seed", "seed x", "cut 1", "largest -1"] {
            assert_eq!(line.parse::<Order>(), Err(NoOrder), "{line:?}");
        }
    }

    #[test]
    fn a_packets_checksum_is_where_its_protocol_has_it() {
        let tcp4 = [&[0x46, 0, 0, 0, 0, 0, 0, 0, 64, 6][..], &[0; 40]].concat();
        let udp6 = [&[0x60, 0, 0, 0, 0, 8, 17, 64][..], &[0; 40]].concat();
        let icmp4 = [&[0x45, 0, 0, 0, 0, 0, 0, 0, 64, 1][..], &[0; 40]].concat();
        assert_eq!(checksum(&tcp4), Checksum::Partial { start: 24, offset: 16 });
        assert_eq!(checksum(&udp6), Checksum::Partial { start: 40, offset: 6 });
        assert_eq!((checksum(&icmp4), checksum(&[])), (Checksum::Complete, Checksum::Complete));
    }

    #[test]
    fn no_story_is_too_narrow_for_quic() {
        assert!((0..1000).all(|seed| story_of(seed).weather().largest.is_none_or(|largest| largest >= 1280)));
        assert!((0..100).any(|seed| story_of(seed).weather().largest.is_some()));
    }
}
