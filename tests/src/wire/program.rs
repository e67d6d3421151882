//! The program's end of a connection: ordinary blocking sockets over the kernel's own TCP.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::transfer::{End, Kind, Pace, Pattern, Plan};

/// Written at once.
const CHUNK: usize = 64 << 10;

/// Connects and does what the plan says; how it ended. Nothing takes longer than until `deadline`.
pub fn run(plan: &Plan, to: SocketAddr, deadline: Instant) -> End {
    match connect(plan, to, deadline) {
        Ok(stream) => {
            let end = carry(plan, stream, deadline);
            end.unwrap_or_else(|error| end_of(&error))
        }
        Err(error) => end_of(&error),
    }
}

fn connect(plan: &Plan, to: SocketAddr, deadline: Instant) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    if let Some(size) = plan.largest_segment {
        socket.set_tcp_mss(size)?;
    }
    if let Some(size) = plan.buffers {
        socket.set_recv_buffer_size(size)?;
        socket.set_send_buffer_size(size)?;
    }
    socket.connect_timeout(&to.into(), left(deadline)?)?;
    let stream: TcpStream = socket.into();
    stream.set_nodelay(plan.number.is_multiple_of(2))?;
    Ok(stream)
}

fn carry(plan: &Plan, stream: TcpStream, deadline: Instant) -> io::Result<End> {
    stream.set_read_timeout(Some(left(deadline)?))?;
    stream.set_write_timeout(Some(left(deadline)?))?;
    let reading = Reading { pattern: plan.downward(), length: plan.down, pace: plan.program, deadline };
    match plan.kind {
        Kind::Exchange | Kind::ProgramFirst => both_ways(plan, &stream, reading),
        Kind::ServerFirst => {
            let end = reading.whole(&stream)?;
            if end == End::Whole {
                write(&stream, plan.upward(), plan.up, deadline)?;
                stream.shutdown(Shutdown::Write)?;
            }
            Ok(end)
        }
        Kind::ProgramResets => {
            let written = start_writing(plan, &stream, plan.up, deadline)?;
            let end = reading.some(&stream)?;
            written.recv_timeout(left(deadline)?).map_err(|_| ErrorKind::TimedOut)??;
            // A close that lingers for no time at all is a reset.
            SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
            Ok(if end == End::Whole { End::Reset } else { end })
        }
        Kind::ServerResets => {
            let written = start_writing(plan, &stream, u64::MAX, deadline)?;
            // The server's bytes end in the middle: all that may come is more of them, or the reset.
            let end = Reading { length: u64::MAX, ..reading }.whole(&stream)?;
            match (&end, written.recv_timeout(left(deadline)?)) {
                // The kernel tells a reset once, and here it told the writer.
                (End::Short(_), Ok(Err(error))) => Err(error),
                _ => Ok(end),
            }
        }
        Kind::Refused => Ok(End::Failed("connected where it should be refused".to_owned())),
    }
}

fn both_ways(plan: &Plan, stream: &TcpStream, reading: Reading) -> io::Result<End> {
    let written = start_writing(plan, stream, plan.up, reading.deadline)?;
    let end = reading.whole(stream)?;
    written.recv_timeout(left(reading.deadline)?).map_err(|_| ErrorKind::TimedOut)??;
    Ok(end)
}

/// Writes on a thread of its own, and says the end after the last byte; except where a reset is to be the end.
fn start_writing(
    plan: &Plan,
    stream: &TcpStream,
    length: u64,
    deadline: Instant,
) -> io::Result<Receiver<io::Result<()>>> {
    let (sender, plan) = (stream.try_clone()?, *plan);
    let (done, written) = channel();
    std::thread::spawn(move || {
        let mut outcome = write(&sender, plan.upward(), length, deadline);
        if outcome.is_ok() && matches!(plan.kind, Kind::Exchange | Kind::ProgramFirst) {
            outcome = sender.shutdown(Shutdown::Write);
        }
        // The one who closes last resets: that is to be the other thread.
        drop(sender);
        let _ = done.send(outcome);
    });
    Ok(written)
}

/// Writes this many bytes of the pattern.
fn write(mut stream: &TcpStream, pattern: Pattern, length: u64, deadline: Instant) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    while at < length {
        let size = usize::try_from(length - at).unwrap_or(CHUNK).min(CHUNK);
        pattern.fill(at, &mut buffer[..size]);
        stream.write_all(&buffer[..size])?;
        at += size as u64;
        left(deadline)?;
    }
    Ok(())
}

/// What is to be read.
#[derive(Clone, Copy)]
struct Reading {
    pattern: Pattern,
    length: u64,
    pace: Pace,
    deadline: Instant,
}

impl Reading {
    /// Reads to the other side's end.
    fn whole(&self, stream: &TcpStream) -> io::Result<End> {
        self.read(stream, u64::MAX)
    }

    /// Reads some of the bytes, of which more come than that.
    fn some(&self, stream: &TcpStream) -> io::Result<End> {
        self.read(stream, self.length)
    }

    fn read(&self, mut stream: &TcpStream, enough: u64) -> io::Result<End> {
        let mut buffer = vec![0; self.pace.bytes];
        let mut at = 0;
        while at < enough {
            let read = stream.read(&mut buffer)?;
            if let Some(place) = self.pattern.first_fault(at, &buffer[..read]) {
                return Ok(End::Corrupt(place));
            }
            at += read as u64;
            if enough == u64::MAX && at > self.length {
                return Ok(End::Corrupt(at));
            }
            if read == 0 {
                return Ok(if at == self.length { End::Whole } else { End::Short(at) });
            }
            left(self.deadline)?;
            std::thread::sleep(self.pace.rest);
        }
        Ok(End::Whole)
    }
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the list of error kinds is open")]
fn end_of(error: &io::Error) -> End {
    match error.kind() {
        ErrorKind::ConnectionRefused => End::Refused,
        // A write after the reset was taken note of.
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => End::Reset,
        ErrorKind::TimedOut | ErrorKind::WouldBlock => End::Hung,
        _ => End::Failed(error.to_string()),
    }
}
