//! Names that are not ours, asked of the resolvers that the machine has without us.
//!
//! A raw relay: the query goes on as it came, under a number and from a port of its own, and so does the answer, except
//! that no address of our own range may come from outside (DNS rebinding). Nothing is remembered. Never to ourselves:
//! a resolver in our own range is left out, and a loop by way of another one ends at the limits here.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::Via;
use super::answer::{self, Answer, Code};
use super::message::{HEADER, Header, Query};
use crate::addresses::Ranges;

mod relayed;

pub use relayed::checked_answer;
use relayed::question_hash;

/// How many queries may wait for the other resolvers at once; each has a socket.
pub const MAX_IN_FLIGHT: usize = 1000;
/// How many of them may ask the same: a loop through another resolver ends here.
const MAX_SAME_QUESTION: u32 = 64;
/// How many resolvers are remembered; a machine has three at most (resolv.conf), or a few for each link.
const MAX_UPSTREAMS: usize = 16;
/// How many resolvers are asked for one query.
const ATTEMPTS: usize = 2;
/// How long a resolver has for its answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks the other resolvers. Shared by all tasks that have a query.
#[derive(Debug)]
pub struct Forwarder {
    ranges: Ranges,
    patience: Duration,
    /// Replaced as a whole, and held only to clone it.
    upstreams: Mutex<Arc<[SocketAddr]>>,
    /// The one that answered last.
    preferred: AtomicUsize,
    in_flight: Semaphore,
    /// How many queries in flight ask the same; held only to count.
    questions: Mutex<HashMap<u64, u32>>,
}

/// Why a resolver gave no answer.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("no answer in time")]
    TimedOut,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("no random number")]
    Random(#[from] getrandom::Error),
    #[error("an answer to another question")]
    WrongAnswer,
}

impl Forwarder {
    /// A forwarder for a machine whose own range is this.
    pub fn new(ranges: Ranges) -> Self {
        Self::with_patience(ranges, PATIENCE)
    }

    /// The same with another time for each resolver.
    pub fn with_patience(ranges: Ranges, patience: Duration) -> Self {
        Self {
            ranges,
            patience,
            upstreams: Mutex::new(Arc::new([])),
            preferred: AtomicUsize::new(0),
            in_flight: Semaphore::new(MAX_IN_FLIGHT),
            questions: Mutex::new(HashMap::new()),
        }
    }

    /// Puts these resolvers in place of those before. Ours, and what is no address of a resolver, are left out.
    pub fn set_upstreams(&self, upstreams: &[SocketAddr]) {
        let mut usable: Vec<SocketAddr> = Vec::new();
        for upstream in upstreams {
            let ip = upstream.ip();
            let is_usable = !self.ranges.contains(ip)
                && !ip.is_unspecified()
                && !ip.is_multicast()
                && upstream.port() != 0
                && !usable.contains(upstream);
            if is_usable && usable.len() < MAX_UPSTREAMS {
                usable.push(*upstream);
            }
        }
        *lock(&self.upstreams) = usable.into();
        self.preferred.store(0, Ordering::Relaxed);
    }

    /// The resolvers in use.
    pub fn upstreams(&self) -> Arc<[SocketAddr]> {
        Arc::clone(&lock(&self.upstreams))
    }

    /// How many queries wait for an answer.
    pub fn in_flight(&self) -> usize {
        MAX_IN_FLIGHT - self.in_flight.available_permits()
    }

    /// The answer to a query that the server wants forwarded. Takes twice the resolvers' time at most; SERVFAIL where
    /// nobody answers.
    pub async fn resolve(&self, message: &[u8], via: Via) -> Vec<u8> {
        let Some(header) = Header::read(message) else { return Vec::new() };
        let Ok(query) = Query::read(header, message) else {
            return answer::header_only(header, Code::FormErr);
        };
        let failure = || answer::to_query(&query, Code::ServFail, Answer::Empty);
        let Ok(_permit) = self.in_flight.try_acquire() else { return failure() };
        let Some(_counted) = self.count(question_hash(&query.question)) else {
            tracing::warn!("the same question waits too often: does another resolver ask us again?");
            return failure();
        };
        let mut bytes = self.ask_all(message, &query, via).await.unwrap_or_else(failure);
        bytes[..2].copy_from_slice(&header.id.to_be_bytes());
        answer::truncate(&mut bytes, query.limit(via));
        bytes
    }

    /// Asks one resolver, then the next; the first that answers well is preferred from then on.
    async fn ask_all(&self, message: &[u8], query: &Query<'_>, via: Via) -> Option<Vec<u8>> {
        let upstreams = self.upstreams();
        let first = self.preferred.load(Ordering::Relaxed);
        let mut unwilling = None;
        for attempt in first..first.saturating_add(ATTEMPTS) {
            let index = attempt.checked_rem(upstreams.len())?;
            let upstream = upstreams[index];
            match timeout(self.patience, self.ask(upstream, message, query, via)).await {
                Ok(Ok(answer)) if is_unwilling(&answer) => unwilling = Some(answer),
                Ok(Ok(answer)) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return Some(answer);
                }
                Ok(Err(error)) => tracing::debug!(%upstream, %error, "a resolver did not answer"),
                Err(_) => {
                    tracing::debug!(%upstream, error = %AskError::TimedOut, "a resolver did not answer")
                }
            }
        }
        unwilling
    }

    async fn ask(
        &self,
        upstream: SocketAddr,
        message: &[u8],
        query: &Query<'_>,
        via: Via,
    ) -> Result<Vec<u8>, AskError> {
        let mut asked = message.to_vec();
        let [high, low, ..] = getrandom::u32()?.to_ne_bytes();
        asked[..2].copy_from_slice(&[high, low]);
        let answer = self.ask_udp(upstream, &asked, query.limit(Via::Udp)).await?;
        let is_cut = Header::read(&answer).is_some_and(Header::is_truncated);
        match via {
            // Who asked by datagram comes again by TCP, being told that the answer is cut.
            Via::Udp => Ok(answer),
            Via::Tcp if !is_cut => Ok(answer),
            Via::Tcp => self.ask_tcp(upstream, &asked).await,
        }
    }

    async fn ask_udp(&self, upstream: SocketAddr, asked: &[u8], limit: usize) -> Result<Vec<u8>, AskError> {
        let any: IpAddr = match upstream {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        // A socket for each query: the kernel draws its port at random, and connected it hears this resolver alone.
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(upstream).await?;
        socket.send(asked).await?;
        let mut buffer = vec![0; limit];
        loop {
            let length = socket.recv(&mut buffer).await?;
            // What does not fit the question may come from anyone who guesses: the true answer may still come.
            if let Some(answer) = checked_answer(asked, &buffer[..length], &self.ranges) {
                return Ok(answer);
            }
        }
    }

    async fn ask_tcp(&self, upstream: SocketAddr, asked: &[u8]) -> Result<Vec<u8>, AskError> {
        let mut stream = TcpStream::connect(upstream).await?;
        let mut framed = Vec::with_capacity(2 + asked.len());
        super::framer::TcpFramer::frame(asked, &mut framed);
        stream.write_all(&framed).await?;
        let length = usize::from(stream.read_u16().await?);
        if length < HEADER {
            return Err(AskError::WrongAnswer);
        }
        let mut answer = vec![0; length];
        stream.read_exact(&mut answer).await?;
        checked_answer(asked, &answer, &self.ranges).ok_or(AskError::WrongAnswer)
    }

    fn count(&self, question: u64) -> Option<Counted<'_>> {
        let mut questions = lock(&self.questions);
        let count = questions.entry(question).or_default();
        if *count >= MAX_SAME_QUESTION {
            return None;
        }
        *count += 1;
        Some(Counted { questions: &self.questions, question })
    }
}

/// A question that is counted until this is dropped.
struct Counted<'a> {
    questions: &'a Mutex<HashMap<u64, u32>>,
    question: u64,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        let mut questions = lock(self.questions);
        let Some(count) = questions.get_mut(&self.question) else { return };
        *count -= 1;
        if *count == 0 {
            questions.remove(&self.question);
        }
    }
}

/// The values behind these locks are whole at every moment, so a panic elsewhere does not spoil them.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the resolver said that it cannot or does not want to: another one may.
fn is_unwilling(answer: &[u8]) -> bool {
    let bits = Header::read(answer).map_or(0, Header::code_bits);
    [Code::ServFail, Code::NotImp, Code::Refused].iter().any(|code| code.bits() == bits)
}
