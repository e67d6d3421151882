//! Both ends of a load of DNS queries over UDP: the resolver of a machine that asks a lot, and a server that answers
//! without looking anything up, so that the direct path shows what the asking alone costs.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::figures::per_second;
use super::wire::Span;

/// Queries that wait for their answers. A machine's resolver has a handful; with this many no server waits for us.
const IN_FLIGHT: u16 = 64;
/// A query without an answer for so long is lost, with all that were in flight.
const LOST: Duration = Duration::from_millis(250);
/// The longest message that is sent or taken.
const LONGEST: usize = 512;
const HEADER: usize = 12;
const TYPE_A_CLASS_IN: [u8; 4] = [0, 1, 0, 1];
/// The length of a record's address of IPv4, before it.
const FOUR_BYTES: [u8; 2] = [0, 4];

/// Asks for the addresses of `name` as fast as the server at `target` answers, and checks every answer: how many each
/// second, and how many were lost.
///
/// # Errors
/// If an answer is wrong, or none comes.
pub fn ask(target: SocketAddr, name: &str, address: IpAddr, span: Span) -> Result<Value> {
    let IpAddr::V4(expected) = address else { bail!("{name} has no address of IPv4") };
    let socket = UdpSocket::bind("0.0.0.0:0").context("opening a socket")?;
    socket.connect(target).with_context(|| format!("connecting to {target}"))?;
    socket.set_read_timeout(Some(LOST))?;
    let begin = Instant::now() + span.warm_up;
    let end = begin + span.time;
    let mut asker =
        Asker { socket, query: query(name)?, expected: expected.octets(), waiting: vec![false; 1 << 16] };
    let (mut next, mut answered, mut lost) = (0_u16, 0, 0_u64);
    for _ in 0..IN_FLIGHT {
        asker.send(next)?;
        next = next.wrapping_add(1);
    }
    loop {
        let answers = asker.receive()?;
        let now = Instant::now();
        if now >= end {
            break;
        }
        if !answers {
            lost += u64::from(IN_FLIGHT);
            for _ in 1..IN_FLIGHT {
                asker.send(next)?;
                next = next.wrapping_add(1);
            }
        } else if now >= begin {
            answered += 1;
        }
        asker.send(next)?;
        next = next.wrapping_add(1);
    }
    ensure!(answered > 0, "{target} answers nothing");
    Ok(json!({ "per_second": per_second(answered, span.time), "lost": lost }))
}

struct Asker {
    socket: UdpSocket,
    query: Vec<u8>,
    expected: [u8; 4],
    /// By their id.
    waiting: Vec<bool>,
}

impl Asker {
    fn send(&mut self, id: u16) -> Result<()> {
        self.query[..2].copy_from_slice(&id.to_be_bytes());
        self.waiting[usize::from(id)] = true;
        self.socket.send(&self.query).context("sending a query")?;
        Ok(())
    }

    /// Takes an answer and checks it; `false` if none comes in time.
    fn receive(&mut self) -> Result<bool> {
        let mut answer = [0; LONGEST];
        let length = match self.socket.recv(&mut answer) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error).context("waiting for an answer"),
        };
        let answer = &answer[..length];
        let is_ours = answer.get(..2).is_some_and(|id| {
            std::mem::take(&mut self.waiting[usize::from(u16::from_be_bytes([id[0], id[1]]))])
        });
        ensure!(is_ours, "an answer that was not asked for");
        ensure!(is_right(answer, &self.query, self.expected), "a wrong answer: {answer:02x?}");
        Ok(true)
    }
}

/// Whether it answers the query's question without an error, and with this address.
fn is_right(answer: &[u8], query: &[u8], expected: [u8; 4]) -> bool {
    let is_answer = answer.len() > query.len() && answer[2] & 0x80 != 0 && answer[3] & 0x0f == 0;
    is_answer
        && answer[HEADER..query.len()].eq_ignore_ascii_case(&query[HEADER..])
        && answer[query.len()..].windows(6).any(|data| data[..2] == FOUR_BYTES && data[2..] == expected)
}

/// RFC 1035, section 4: a header that wants recursion, and one question.
fn query(name: &str) -> Result<Vec<u8>> {
    let mut query = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length));
        query.push(length.with_context(|| format!("{name} is no name"))?);
        query.extend_from_slice(label.as_bytes());
    }
    query.push(0);
    query.extend_from_slice(&TYPE_A_CLASS_IN);
    Ok(query)
}

/// Answers every query with the address at which it listens, until it is ended.
///
/// # Errors
/// If the socket fails.
pub fn answer(socket: &UdpSocket, address: [u8; 4]) -> Result<()> {
    let mut message = [0; LONGEST];
    loop {
        let (length, asker) = socket.recv_from(&mut message)?;
        if !(HEADER..LONGEST - 16).contains(&length) {
            continue;
        }
        // An answer, authoritative, with one record.
        message[2..8].copy_from_slice(&[0x85, 0x80, 0, 1, 0, 1]);
        let record = [&[0xc0, 0x0c][..], &TYPE_A_CLASS_IN, &[0, 0, 0, 30], &FOUR_BYTES, &address].concat();
        message[length..length + record.len()].copy_from_slice(&record);
        socket.send_to(&message[..length + record.len()], asker)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: [u8; 4] = [10, 0, 0, 9];
    const SHORT: Span = Span { warm_up: Duration::from_millis(5), time: Duration::from_millis(30) };
    /// For a machine that is busy with other tests.
    const LONG: Span = Span { warm_up: Duration::from_millis(5), time: Duration::from_secs(3) };

    fn serve(address: [u8; 4]) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let listens = socket.local_addr().unwrap();
        std::thread::spawn(move || answer(&socket, address));
        listens
    }

    #[test]
    fn answers_are_counted() {
        let server = serve(ADDRESS);
        let asked = |span| ask(server, "bench.corp.internal", ADDRESS.into(), span);
        let figures = asked(SHORT).or_else(|_| asked(LONG)).unwrap();
        assert!(figures["per_second"].as_f64() > Some(0.0), "{figures}");
    }

    #[test]
    fn a_wrong_address_is_no_answer() {
        let error = ask(serve([10, 0, 0, 8]), "bench.corp.internal", ADDRESS.into(), SHORT).unwrap_err();
        assert!(error.to_string().contains("a wrong answer"), "{error}");
    }

    #[test]
    fn a_server_that_is_silent_is_an_error() {
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let target = silent.local_addr().unwrap();
        assert!(ask(target, "bench.corp.internal", ADDRESS.into(), SHORT).is_err());
    }

    #[test]
    fn what_is_no_name_is_not_asked_for() {
        assert!(query("a..b").is_err());
        assert!(query(&"x".repeat(64)).is_err());
        assert_eq!(query("ab.c").unwrap()[HEADER..], *b"\x02ab\x01c\x00\x00\x01\x00\x01");
    }
}
