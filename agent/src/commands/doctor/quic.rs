//! Whether QUIC passes: a packet of a version that nobody speaks, to which every server answers with those that it does
//! (RFC 9000 section 6). No connection is made, and no key or certificate is needed.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::timeout;

/// Reserved to have versions negotiated (RFC 9000 section 15).
const NO_VERSION: u32 = 0x1a2a_3a4a;
/// Servers answer no smaller one (RFC 9000 section 14.1).
const DATAGRAM: usize = 1200;
const ID: usize = 8;
/// The packet is sent so often, since one may be lost, and each has this long.
const TRIES: usize = 3;
const TRY_TIME: Duration = Duration::from_secs(1);

/// What names our packet: its answer has both names, the other way round.
#[derive(Debug, Clone, Copy)]
struct Names {
    theirs: [u8; ID],
    ours: [u8; ID],
}

/// Whether a QUIC server answers there.
///
/// # Errors
/// If none does.
pub(super) async fn answers(address: SocketAddr) -> io::Result<()> {
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(address).await?;
    let names = Names::new()?;
    for _ in 0..TRIES {
        socket.send(&names.question()).await?;
        if let Ok(heard) = timeout(TRY_TIME, names.answer(&socket)).await {
            return heard;
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

impl Names {
    fn new() -> io::Result<Self> {
        let (mut theirs, mut ours) = ([0; ID], [0; ID]);
        getrandom::fill(&mut theirs).and_then(|()| getrandom::fill(&mut ours)).map_err(io::Error::other)?;
        Ok(Self { theirs, ours })
    }

    /// A long header, the rest is padding (RFC 8999 section 5.1).
    fn question(&self) -> Vec<u8> {
        let mut packet = vec![0xc0];
        packet.extend(NO_VERSION.to_be_bytes());
        packet.extend(header_names(&self.theirs, &self.ours));
        packet.resize(DATAGRAM, 0);
        packet
    }

    async fn answer(&self, socket: &UdpSocket) -> io::Result<()> {
        let mut packet = [0; DATAGRAM];
        loop {
            let length = socket.recv(&mut packet).await?;
            if self.is_answered_by(&packet[..length]) {
                return Ok(());
            }
        }
    }

    /// Version Negotiation (RFC 8999 section 6): version 0, and our names.
    fn is_answered_by(&self, packet: &[u8]) -> bool {
        let Some((first, rest)) = packet.split_first() else { return false };
        let Some(names) = rest.strip_prefix(&[0; 4]) else { return false };
        first & 0x80 != 0 && names.starts_with(&header_names(&self.ours, &self.theirs))
    }
}

fn header_names(destination: &[u8; ID], source: &[u8; ID]) -> Vec<u8> {
    let length = u8::try_from(ID).expect("a name's length fits");
    [&[length], &destination[..], &[length], &source[..]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: Names = Names { theirs: [1; ID], ours: [2; ID] };

    fn negotiation() -> Vec<u8> {
        [&[0x80, 0, 0, 0, 0], &header_names(&NAMES.ours, &NAMES.theirs)[..], &[0, 0, 0, 1]].concat()
    }

    #[test]
    fn only_an_answer_to_our_question_counts() {
        assert!(NAMES.is_answered_by(&negotiation()));
        let changed = |at: usize, byte: u8| {
            let mut packet = negotiation();
            packet[at] = byte;
            packet
        };
        assert!(!NAMES.is_answered_by(&changed(0, 0x40)), "a short header");
        assert!(!NAMES.is_answered_by(&changed(4, 1)), "a version");
        assert!(!NAMES.is_answered_by(&changed(6, 7)), "somebody else's");
        assert!(!NAMES.is_answered_by(&negotiation()[..12]));
        assert!(!NAMES.is_answered_by(&[]));
        assert!(!NAMES.is_answered_by(&NAMES.question()), "an echo");
    }

    #[tokio::test]
    async fn a_server_that_answers_the_second_time_is_heard_and_a_closed_port_is_told_at_once() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let serve = async {
            let mut packet = [0; 2000];
            let mut asked = 0;
            loop {
                let (length, from) = server.recv_from(&mut packet).await.unwrap();
                assert_eq!((length, &packet[1..5]), (DATAGRAM, &NO_VERSION.to_be_bytes()[..]));
                asked += 1;
                if asked < 2 {
                    continue;
                }
                let (theirs, ours) = (&packet[5..14], &packet[14..23]);
                let answer = [&[0x80, 0, 0, 0, 0], ours, theirs, &[0, 0, 0, 1]].concat();
                server.send_to(&answer, from).await.unwrap();
            }
        };
        tokio::select! {
            answered = answers(address) => answered.unwrap(),
            () = serve => unreachable!(),
        }
        drop(server);
        assert!(answers(address).await.is_err());
    }
}
