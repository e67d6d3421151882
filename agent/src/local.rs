//! What `portlatch` commands and the agent say to each other on the agent's own socket: one JSON value a line. Only the
//! same user gets this far; both ends are of one version, since they are one binary.

use std::io;
use std::path::Path;
use std::time::Duration;

use portlatch_protocol::api::Catalogue;
use portlatch_protocol::api::ceremony::{CeremonyOutcome, DeviceChange, ExecTarget};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use zeroize::Zeroizing;

use crate::code::Code;
use crate::daemon::is_nobody_there;
use crate::keys::pin_entry::Pin;
use crate::mfa_mode::MfaMode;
use crate::prompt::Prompt;
use crate::safe_text::plain;
use crate::status::StatusReport;

/// Longest line of a command: an exec on as many resources as there may be fits.
pub(crate) const MAX_REQUEST: u64 = 32 * 1024;
/// Longest line of the agent: a catalogue of 4,096 resources fits.
pub(crate) const MAX_ANSWER: u64 = 16 * 1024 * 1024;
/// How long the other end has to take a line.
const WRITE_TIME: Duration = Duration::from_secs(5);

/// What a command wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "want")]
pub(crate) enum Want {
    /// [`Tell::Status`].
    Status,
    /// [`Tell::Catalogue`].
    Catalogue,
    /// Everything that a person should see, until the command goes: [`Tell::Prompt`], [`Tell::Closed`], [`Tell::Note`],
    /// [`Tell::SignIn`].
    Watch,
    /// On a watching connection: what its person says.
    Say(Say),
    /// The ceremony beforehand; [`Tell::Note`]s and [`Tell::Prompt`]s until [`Tell::Tapped`] or [`Tell::Failed`].
    Tap {
        /// A host name, or the name of a resource.
        host: String,
        /// The port, unless the resource has only one.
        port: Option<u16>,
        /// Which command asks.
        #[serde(default)]
        command: Beforehand,
        /// The asking command's process.
        pid: u32,
        /// How to prove presence, if not as the login says.
        #[serde(default)]
        mode: Option<MfaMode>,
    },
    /// One ceremony for one command on several resources, likewise.
    Exec {
        /// The ports.
        targets: Vec<ExecTarget>,
        /// The program that is run, for the prompt.
        command: String,
        /// The asking command's process.
        pid: u32,
        /// How to prove presence, if not as the login says.
        #[serde(default)]
        mode: Option<MfaMode>,
    },
    /// A ceremony for a change of the user's own keys and apps; the same until [`Tell::Changed`] or [`Tell::Failed`].
    Devices {
        /// The change.
        change: DeviceChange,
        /// What a person calls it.
        title: String,
        /// The asking command's process.
        pid: u32,
        /// How to prove presence, if not as the login says.
        #[serde(default)]
        mode: Option<MfaMode>,
    },
    /// There is another login now, or none; [`Tell::Done`].
    LoginChanged,
    /// End the login everywhere; [`Tell::Done`] or [`Tell::Failed`].
    Logout,
}

/// The commands that have one port tapped for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Beforehand {
    /// `portlatch tap`.
    #[default]
    Tap,
    /// `portlatch rdp`.
    Rdp,
}

impl Beforehand {
    /// What a prompt calls it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tap => "portlatch tap",
            Self::Rdp => "portlatch rdp",
        }
    }
}

/// What a person says at a prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "say")]
pub(crate) enum Say {
    /// Enter, which taps a software key.
    Enter,
    /// No to this prompt.
    Deny {
        /// The prompt.
        id: u64,
    },
    /// No, and nothing more of this program.
    Block {
        /// The prompt.
        id: u64,
    },
    /// A code.
    Code {
        /// The prompt.
        id: u64,
        /// It.
        code: Code,
    },
    /// The PIN of the key that the prompt asks for, or the yes that goes before it.
    Pin {
        /// The prompt.
        id: u64,
        /// It.
        pin: Pin,
    },
    /// What keeps prompts away?
    List,
    /// Take away what keeps prompts away.
    Lift {
        /// Its number.
        number: u64,
    },
    /// Prompts are wanted again.
    Resume,
}

/// What the agent tells.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "tell")]
pub(crate) enum Tell {
    /// How things are.
    Status {
        /// As `status --json` shows it, and what is amiss.
        report: StatusReport,
    },
    /// What the login may reach; `None` before it is known.
    Catalogue {
        /// As control listed it.
        catalogue: Option<Box<Catalogue>>,
    },
    /// A prompt is open, or has changed.
    Prompt {
        /// It.
        prompt: Prompt,
    },
    /// A prompt has closed.
    Closed {
        /// It.
        id: u64,
        /// What came of it.
        text: String,
    },
    /// One line for the person.
    Note {
        /// The line.
        text: String,
    },
    /// Somebody wanted a connection, and there is no login for it.
    SignIn {
        /// What was wanted, and what to do.
        text: String,
    },
    /// The grant is there.
    Tapped {
        /// What was opened.
        text: String,
        /// How long it serves.
        seconds: u64,
    },
    /// The keys or apps are changed, or their change goes on.
    Changed {
        /// What came of the ceremony.
        outcome: CeremonyOutcome,
    },
    /// It is done.
    Done {
        /// What the person should know.
        text: String,
    },
    /// It cannot be done.
    Failed {
        /// Whether somebody said no, as opposed to something not working.
        denied: bool,
        /// One sentence.
        text: String,
    },
}

/// Why the two did not understand each other.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LocalError {
    /// No agent is there.
    #[error("no agent is running: start `portlatch agent`")]
    NoAgent,
    /// The agent belongs to somebody else.
    #[error(
        "the agent's socket belongs to another user: set PORTLATCH_HOME or XDG_RUNTIME_DIR to directories of your own"
    )]
    ForeignAgent,
    /// The connection ended.
    #[error("the agent has ended: start `portlatch agent`")]
    Ended,
    /// No answer in time.
    #[error("the agent does not answer: end it and start `portlatch agent`")]
    Silent,
    /// A line that is too long or no JSON of ours.
    #[error("the agent is of another version: end it and start `portlatch agent`")]
    NotUnderstood,
    /// The operating system said no.
    #[error("the agent's socket cannot be used: {}", plain(.0))]
    Io(#[from] io::Error),
}

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct Line {
    /// What comes in.
    pub(crate) reader: LineReader,
    /// What goes out.
    pub(crate) writer: LineWriter,
}

/// Reads lines of at most a limit.
#[derive(Debug)]
pub(crate) struct LineReader {
    half: BufReader<OwnedReadHalf>,
    /// It may hold a code.
    partial: Zeroizing<Vec<u8>>,
    limit: u64,
}

/// Writes lines.
#[derive(Debug)]
pub(crate) struct LineWriter(OwnedWriteHalf);

impl Line {
    /// Connects to the agent at `socket`.
    ///
    /// # Errors
    /// [`LocalError::NoAgent`] where nobody listens.
    pub(crate) async fn to_agent(socket: &Path) -> Result<Self, LocalError> {
        let stream = UnixStream::connect(socket).await.map_err(|error| match is_nobody_there(&error) {
            true => LocalError::NoAgent,
            false => LocalError::Io(error),
        })?;
        match is_same_user(&stream)? {
            true => Ok(Self::over(stream, MAX_ANSWER)),
            false => Err(LocalError::ForeignAgent),
        }
    }

    /// A connection that came from a command.
    pub(crate) fn from_command(stream: UnixStream) -> Self {
        Self::over(stream, MAX_REQUEST)
    }

    fn over(stream: UnixStream, limit: u64) -> Self {
        let (read, write) = stream.into_split();
        let reader = LineReader { half: BufReader::new(read), partial: Zeroizing::default(), limit };
        Self { reader, writer: LineWriter(write) }
    }
}

/// Whether the process at the other end is this user's.
pub(crate) fn is_same_user(stream: &UnixStream) -> io::Result<bool> {
    Ok(stream.peer_cred()?.uid() == rustix::process::geteuid().as_raw())
}

impl LineReader {
    /// The next value, or `None` at the end. Cancel-safe.
    ///
    /// # Errors
    /// [`LocalError::NotUnderstood`] or [`LocalError::Io`].
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, LocalError> {
        let room = (self.limit + 1).saturating_sub(self.partial.len() as u64);
        let read = (&mut self.half).take(room).read_until(b'\n', &mut self.partial).await?;
        if read == 0 && self.partial.is_empty() {
            return Ok(None);
        }
        let line = std::mem::take(&mut self.partial);
        let line = line.strip_suffix(b"\n").ok_or(LocalError::NotUnderstood)?;
        serde_json::from_slice(line).map(Some).map_err(|_| LocalError::NotUnderstood)
    }
}

impl LineWriter {
    /// Sends one value.
    ///
    /// # Errors
    /// [`LocalError::Silent`] if the other end does not take it, [`LocalError::Io`] if it is gone.
    pub(crate) async fn send(&mut self, value: &impl Serialize) -> Result<(), LocalError> {
        let mut line = Zeroizing::new(serde_json::to_vec(value).expect("a message of ours is JSON"));
        line.push(b'\n');
        let written = tokio::time::timeout(WRITE_TIME, self.0.write_all(&line)).await;
        Ok(written.map_err(|_| LocalError::Silent)??)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Line, Line) {
        let (command, agent) = UnixStream::pair().unwrap();
        (Line::over(command, MAX_ANSWER), Line::from_command(agent))
    }

    #[tokio::test]
    async fn what_is_sent_arrives() {
        let (mut command, mut agent) = pair();
        let want = Want::Tap {
            host: "billing-db.corp.internal".into(),
            port: None,
            command: Beforehand::Rdp,
            pid: 7,
            mode: None,
        };
        command.writer.send(&want).await.unwrap();
        assert_eq!(agent.reader.next().await.unwrap(), Some(want));
        drop(command);
        assert_eq!(agent.reader.next::<Want>().await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_line_without_end_is_not_kept() {
        let (mut command, mut agent) = pair();
        let flood = Want::Tap {
            host: "x".repeat(64 * 1024),
            port: None,
            command: Beforehand::Rdp,
            pid: 7,
            mode: None,
        };
        command.writer.send(&flood).await.unwrap();
        assert!(matches!(agent.reader.next::<Want>().await, Err(LocalError::NotUnderstood)));
    }

    #[tokio::test]
    async fn what_is_no_message_is_refused() {
        let (mut command, mut agent) = pair();
        command.writer.send(&serde_json::json!({"want": "everything"})).await.unwrap();
        assert!(matches!(agent.reader.next::<Want>().await, Err(LocalError::NotUnderstood)));
    }

    #[tokio::test]
    async fn where_nobody_listens_there_is_no_agent() {
        let directory = tempfile::tempdir().unwrap();
        let nobody = Line::to_agent(&directory.path().join("agent.sock")).await;
        assert!(matches!(nobody, Err(LocalError::NoAgent)));
    }
}
