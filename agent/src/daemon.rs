//! The agent's end of the conversation with the daemon: frames of [`portlatch_protocol::attach`] on the daemon's unix
//! socket, whose owner is checked before a word is said.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use portlatch_protocol::attach::{Hello, Machine, Status, ToAgent, ToDaemon, VERSION};
use portlatch_protocol::frame::{FrameDecoder, FrameError, MAX_LOCAL_FRAME, encode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::safe_text::plain;

mod link;

pub(crate) use link::{Link, LinkEvent};

/// Where the daemon listens unless `PORTLATCH_SOCKET` says otherwise (design section 7).
const DEFAULT_SOCKET: &str = "/run/portlatch/daemon.sock";
/// How long the daemon has to say hello, or to answer a question of ours.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// How long the daemon has to take a frame.
const WRITE_TIME: Duration = Duration::from_secs(5);
/// One read: a frame is rarely longer.
const READ_SIZE: usize = 16 * 1024;

/// Why there is no conversation.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DaemonError {
    /// Nobody listens.
    #[error("the Portlatch service is not running on this machine: start portlatchd")]
    NotRunning,
    /// Somebody else listens.
    #[error("{} belongs to user {uid}, who is not the Portlatch service", .socket.display())]
    Impostor {
        /// The socket.
        socket: PathBuf,
        /// Who listens.
        uid: u32,
    },
    /// It speaks another version.
    #[error(
        "the Portlatch service speaks version {theirs}, this program {VERSION}: restart whichever is older"
    )]
    Version {
        /// Its version.
        theirs: u16,
    },
    /// It ended the conversation.
    #[error("the Portlatch service has ended the connection")]
    Ended,
    /// It does not answer.
    #[error("the Portlatch service does not answer")]
    Silent,
    /// It says what is no message.
    #[error("the Portlatch service is not understood")]
    NotUnderstood(#[from] FrameError),
    /// The operating system said no.
    #[error("the socket of the Portlatch service cannot be used: {}", plain(.0))]
    Io(io::Error),
}

/// Whoever ends a conversation with words of ours unread resets it: the end is the same.
impl From<io::Error> for DaemonError {
    fn from(error: io::Error) -> Self {
        match matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) {
            true => Self::Ended,
            false => Self::Io(error),
        }
    }
}

/// A conversation that has begun.
#[derive(Debug)]
pub(crate) struct Conversation {
    reader: Reader,
    writer: Writer,
}

#[derive(Debug)]
struct Reader {
    half: OwnedReadHalf,
    decoder: FrameDecoder,
}

#[derive(Debug)]
struct Writer(OwnedWriteHalf);

/// Where the daemon listens.
pub(crate) fn socket_path() -> PathBuf {
    std::env::var_os("PORTLATCH_SOCKET").map_or_else(|| DEFAULT_SOCKET.into(), PathBuf::from)
}

/// What the daemon knows of this user; for when no agent runs.
///
/// # Errors
/// A [`DaemonError`] if it does not say.
pub(crate) async fn ask_status(socket: &Path) -> Result<Status, DaemonError> {
    Conversation::begin(socket).await?.status().await
}

/// The same, and what it knows of the machine: an older one does not know the question, and hangs up.
///
/// # Errors
/// A [`DaemonError`] if it does not say how things are.
pub(crate) async fn ask_machine(socket: &Path) -> Result<(Status, Option<Machine>), DaemonError> {
    let mut conversation = Conversation::begin(socket).await?;
    let status = conversation.status().await?;
    let machine = async {
        conversation.writer.send(&ToDaemon::MachineWanted).await?;
        let answer = conversation.answer(|message| {
            let ToAgent::Machine(machine) = message else { return None };
            Some(machine)
        });
        answer.await
    };
    let machine =
        machine.await.inspect_err(|error| tracing::debug!(%error, "the daemon does not tell of the machine"));
    Ok((status, machine.ok()))
}

impl Conversation {
    /// Connects, makes sure that it is the service, says hello and hears it back.
    ///
    /// # Errors
    /// A [`DaemonError`].
    pub(crate) async fn begin(socket: &Path) -> Result<Self, DaemonError> {
        let stream = UnixStream::connect(socket).await.map_err(|error| match is_nobody_there(&error) {
            true => DaemonError::NotRunning,
            false => DaemonError::Io(error),
        })?;
        let uid = stream.peer_cred()?.uid();
        if !is_service(socket, uid)? {
            return Err(DaemonError::Impostor { socket: socket.to_owned(), uid });
        }
        let (read, write) = stream.into_split();
        let mut conversation = Self {
            reader: Reader { half: read, decoder: FrameDecoder::new(MAX_LOCAL_FRAME) },
            writer: Writer(write),
        };
        let hello = Hello { version: VERSION, pid: std::process::id() };
        conversation.writer.send(&ToDaemon::Hello(hello)).await?;
        let answer = tokio::time::timeout(ANSWER_TIME, conversation.reader.next()).await;
        match answer.unwrap_or(Err(DaemonError::Silent))? {
            ToAgent::Welcome(theirs) if theirs.version == VERSION => Ok(conversation),
            ToAgent::Welcome(theirs) => Err(DaemonError::Version { theirs: theirs.version }),
            ToAgent::CertifyTunnel(_)
            | ToAgent::Attached
            | ToAgent::AttachRefused(..)
            | ToAgent::AccessWanted(_)
            | ToAgent::Proceed(_)
            | ToAgent::Cancel(..)
            | ToAgent::Waiting(..)
            | ToAgent::Refusal(_)
            | ToAgent::Status(_)
            | ToAgent::Machine(_) => Err(DaemonError::Ended),
        }
    }
}

impl Conversation {
    async fn status(&mut self) -> Result<Status, DaemonError> {
        self.writer.send(&ToDaemon::StatusWanted).await?;
        let status = self.answer(|message| {
            let ToAgent::Status(status) = message else { return None };
            Some(status)
        });
        status.await
    }

    /// The first message that is meant, whatever comes before it.
    async fn answer<T>(&mut self, meant: impl Fn(ToAgent) -> Option<T>) -> Result<T, DaemonError> {
        let answer = async {
            loop {
                if let Some(answer) = meant(self.reader.next().await?) {
                    return Ok(answer);
                }
            }
        };
        tokio::time::timeout(ANSWER_TIME, answer).await.unwrap_or(Err(DaemonError::Silent))
    }
}

/// Whether connecting failed because nobody listens on the socket.
pub(crate) fn is_nobody_there(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// The service runs as root or as the system user whose directory the socket is in; the directory must not be open to
/// others, or anybody could put a socket there.
fn is_service(socket: &Path, uid: u32) -> io::Result<bool> {
    if uid == 0 {
        return Ok(true);
    }
    let directory = socket.parent().unwrap_or(Path::new("/")).metadata()?;
    Ok(directory.uid() == uid && directory.mode() & 0o022 == 0)
}

impl Reader {
    /// The next message. Cancel-safe.
    async fn next(&mut self) -> Result<ToAgent, DaemonError> {
        let mut bytes = [0; READ_SIZE];
        loop {
            if let Some(message) = self.decoder.poll_message()? {
                return Ok(message);
            }
            match self.half.read(&mut bytes).await? {
                0 => return Err(DaemonError::Ended),
                length => self.decoder.handle_bytes(&bytes[..length]),
            }
        }
    }
}

impl Writer {
    async fn send(&mut self, message: &ToDaemon) -> Result<(), DaemonError> {
        let frame = encode(message, MAX_LOCAL_FRAME)?;
        let written = tokio::time::timeout(WRITE_TIME, self.0.write_all(&frame)).await;
        Ok(written.map_err(|_| DaemonError::Silent)??)
    }
}
