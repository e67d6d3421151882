//! One request, one answer over `admin.sock`, with a deadline for the whole.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};

use super::CliError;
use crate::admin::{AdminAnswer, AdminRequest, MAX_LINE};

/// The socket in control's directory.
const SOCKET: &str = "admin.sock";
/// Longer than control gives itself for reading, doing and answering a command.
const PATIENCE: Duration = Duration::from_secs(150);
/// A running control takes a connection at once; a stopped one (SIGSTOP) leaves it waiting.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// How to reach control.
pub(super) struct Client {
    path: PathBuf,
    patience: Duration,
}

impl Client {
    pub(super) fn new(dir: &Path) -> Self {
        Self { path: dir.join(SOCKET), patience: PATIENCE }
    }

    #[cfg(test)]
    pub(super) fn with_patience(dir: &Path, patience: Duration) -> Self {
        Self { path: dir.join(SOCKET), patience }
    }

    /// Asks control.
    pub(super) fn ask(&self, request: &AdminRequest) -> Result<AdminAnswer, CliError> {
        let mut line = serde_json::to_vec(request).map_err(|_| CliError::BadAnswer)?;
        line.push(b'\n');
        if line.len() >= MAX_LINE {
            return Err(CliError::TooMuch);
        }
        let mut stream = connect(&self.path).map_err(|error| self.cannot_connect(error))?;
        let deadline = Instant::now() + self.patience;
        stream.set_write_timeout(Some(self.patience)).map_err(CliError::Connection)?;
        // Control may refuse before it has read everything; what it says then is worth more than the broken pipe.
        let written = stream.write_all(&line);
        match (read_answer(&mut stream, deadline), written) {
            (Ok(answer), _) => Ok(answer),
            (Err(CliError::BadAnswer), _) => Err(CliError::BadAnswer),
            (Err(_), Err(error)) => Err(broken(error)),
            (Err(error), Ok(())) => Err(error),
        }
    }

    fn cannot_connect(&self, error: io::Error) -> CliError {
        use io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied, TimedOut, WouldBlock};
        let path = self.path.clone();
        let is = |kinds: &[io::ErrorKind]| kinds.contains(&error.kind());
        if is(&[NotFound, ConnectionRefused]) {
            return CliError::NotRunning { path };
        }
        if is(&[PermissionDenied]) {
            return CliError::NotAllowed { path };
        }
        if is(&[WouldBlock, TimedOut]) { CliError::NoAnswer } else { CliError::Connection(error) }
    }
}

/// Connects; the standard library would wait without end where the listener's queue is full.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // unix(7) sockets go by the send timeout in connect(2).
    set_socket_timeout(&socket, Timeout::Send, Some(CONNECT_PATIENCE))?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(UnixStream::from(socket))
}

fn read_answer(stream: &mut UnixStream, deadline: Instant) -> Result<AdminAnswer, CliError> {
    let mut answer = Vec::new();
    let mut piece = vec![0; 64 * 1024];
    while !answer.ends_with(b"\n") {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(CliError::NoAnswer);
        }
        stream.set_read_timeout(Some(left)).map_err(CliError::Connection)?;
        let length = stream.read(&mut piece).map_err(broken)?;
        if length == 0 {
            return Err(CliError::Connection(io::ErrorKind::UnexpectedEof.into()));
        }
        if answer.len() + length > MAX_LINE {
            return Err(CliError::BadAnswer);
        }
        answer.extend_from_slice(&piece[..length]);
    }
    serde_json::from_slice(&answer).map_err(|_| CliError::BadAnswer)
}

fn broken(error: io::Error) -> CliError {
    // A socket's own timeout is EAGAIN.
    let is_late = [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut].contains(&error.kind());
    if is_late { CliError::NoAnswer } else { CliError::Connection(error) }
}
