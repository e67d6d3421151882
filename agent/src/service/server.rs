//! The agent's own socket: one agent of each user, and the commands that ask it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinSet;

use super::wishes::{CommandWish, Purpose};
use super::{Command, Handle};
use crate::files::Files;
use crate::local::{Line, LineReader, LineWriter, LocalError, Tell, Want, is_same_user};
use crate::mfa_mode::MfaMode;

/// Commands at once: a person has a few terminals, a script a few status calls.
const MAX_COMMANDS: usize = 64;
/// How long a command may take to say what it wants.
const WANT_TIME: Duration = Duration::from_secs(10);
/// What a tap tells before it is read.
const TAP_TELLS: usize = 32;

/// The socket, held by the one agent of this user.
#[derive(Debug)]
pub(crate) struct Server {
    listener: UnixListener,
    socket: PathBuf,
    _lock: File,
}

/// Why this agent does not begin.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AlreadyRunning {
    /// There is one.
    #[error("the agent is already running (pid {0})")]
    Pid(String),
    /// The operating system said no.
    #[error("the agent's socket {}: {source}", .path.display())]
    Io {
        /// The socket or its lock.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

impl Server {
    /// Takes the socket, unless another agent of this user has it.
    ///
    /// # Errors
    /// [`AlreadyRunning`].
    pub(crate) fn bind(files: &Files) -> Result<Self, AlreadyRunning> {
        let lock = lock(files)?;
        let socket = files.socket();
        let failed = |source| AlreadyRunning::Io { path: socket.clone(), source };
        // Whoever made it is dead, or we would not have the lock.
        match std::fs::remove_file(&socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(&socket).map_err(failed)?;
        // The directory keeps others out already; the mode says so as well.
        std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(Self { listener, socket, _lock: lock })
    }

    /// Serves commands for ever.
    pub(crate) async fn run(self, handle: Handle) {
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            if connections.len() >= MAX_COMMANDS {
                connections.join_next().await;
            }
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream, handle.clone()));
                }
                // Out of descriptors, most likely: others give some back.
                Err(error) => {
                    tracing::warn!(%error, "no command can be heard");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn lock(files: &Files) -> Result<File, AlreadyRunning> {
    let path = files.lock();
    let failed = |source| AlreadyRunning::Io { path: path.clone(), source };
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut lock = options.open(&path).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let _ = lock.take(16).read_to_string(&mut pid);
            return Err(AlreadyRunning::Pid(pid.trim().to_owned()));
        }
        Err(std::fs::TryLockError::Error(error)) => return Err(failed(error)),
    }
    let written = lock.set_len(0).and_then(|()| lock.rewind());
    written.and_then(|()| writeln!(lock, "{}", std::process::id())).map_err(failed)?;
    Ok(lock)
}

async fn serve(stream: UnixStream, handle: Handle) {
    match is_same_user(&stream) {
        Ok(true) => {}
        Ok(false) | Err(_) => return tracing::warn!("a command of another user was turned away"),
    }
    let Line { mut reader, mut writer } = Line::from_command(stream);
    let want = tokio::time::timeout(WANT_TIME, reader.next()).await;
    let served = match want {
        Ok(Ok(Some(want))) => answer(want, &mut reader, &mut writer, &handle).await,
        Ok(Ok(None)) | Err(_) => Ok(()),
        Ok(Err(error)) => Err(error),
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a command was not served to its end");
    }
}

async fn answer(
    want: Want,
    reader: &mut LineReader,
    writer: &mut LineWriter,
    handle: &Handle,
) -> Result<(), LocalError> {
    match want {
        Want::Status => {
            let report = ask(handle, Command::Status).await?;
            writer.send(&Tell::Status { report }).await
        }
        Want::Catalogue => {
            let catalogue = ask(handle, Command::Catalogue).await?;
            let catalogue = catalogue.map(|catalogue| Box::new((*catalogue).clone()));
            writer.send(&Tell::Catalogue { catalogue }).await
        }
        Want::Watch => watch(reader, writer, handle).await,
        Want::Tap { host, port, command, pid, mode } => {
            prove(Purpose::Tap { host, port, command }, pid, mode, (reader, writer), handle).await
        }
        Want::Exec { targets, command, pid, mode } => {
            prove(Purpose::Exec { targets, command }, pid, mode, (reader, writer), handle).await
        }
        Want::Devices { change, title, pid, mode } => {
            prove(Purpose::Devices { change, title }, pid, mode, (reader, writer), handle).await
        }
        Want::LoginChanged => {
            send(handle, Command::LoginChanged).await?;
            writer.send(&Tell::Done { text: String::new() }).await
        }
        Want::Logout => {
            let tell = ask(handle, Command::Logout).await?;
            writer.send(&tell).await
        }
        Want::Say(_) => Err(LocalError::NotUnderstood),
    }
}

/// A ceremony beforehand, for as long as the command stays.
async fn prove(
    purpose: Purpose,
    pid: u32,
    mode: Option<MfaMode>,
    (reader, writer): (&mut LineReader, &mut LineWriter),
    handle: &Handle,
) -> Result<(), LocalError> {
    let (tells, mut told) = mpsc::channel(TAP_TELLS);
    send(handle, Command::Wish(CommandWish { purpose, pid, mode, tells })).await?;
    loop {
        tokio::select! {
            tell = told.recv() => match tell {
                Some(tell) => writer.send(&tell).await?,
                None => return Ok(()),
            },
            said = reader.next() => match said? {
                Some(Want::Say(say)) => send(handle, Command::Say(say)).await?,
                Some(_) => return Err(LocalError::NotUnderstood),
                None => return Ok(()),
            },
        }
    }
}

async fn watch(reader: &mut LineReader, writer: &mut LineWriter, handle: &Handle) -> Result<(), LocalError> {
    let (standing, mut told) = ask(handle, Command::Watch).await?;
    let mut shown = None;
    send_all(standing, &mut shown, writer).await?;
    loop {
        tokio::select! {
            tell = told.recv() => match tell {
                Ok(tell) => send_all(vec![tell], &mut shown, writer).await?,
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    writer.send(&Tell::Note { text: format!("({missed} lines were missed)") }).await?;
                    // The end of the prompt may have been among them, or the beginning of another one.
                    send_all(handle.catch_up(shown).await, &mut shown, writer).await?;
                }
                Err(broadcast::error::RecvError::Closed) => return Ok(()),
            },
            want = reader.next() => match want? {
                Some(Want::Say(say)) => send(handle, Command::Say(say)).await?,
                Some(_) => return Err(LocalError::NotUnderstood),
                None => return Ok(()),
            },
        }
    }
}

/// Sends these on, and keeps in mind which prompt is shown then.
async fn send_all(
    tells: Vec<Tell>,
    shown: &mut Option<u64>,
    writer: &mut LineWriter,
) -> Result<(), LocalError> {
    for tell in tells {
        match &tell {
            Tell::Prompt { prompt } => *shown = Some(prompt.view.id),
            Tell::Closed { id, .. } => drop(shown.take_if(|shown| shown == id)),
            Tell::Note { .. }
            | Tell::SignIn { .. }
            | Tell::Status { .. }
            | Tell::Catalogue { .. }
            | Tell::Tapped { .. }
            | Tell::Changed { .. }
            | Tell::Done { .. }
            | Tell::Failed { .. } => {}
        }
        writer.send(&tell).await?;
    }
    Ok(())
}

async fn ask<T>(
    handle: &Handle,
    command: impl FnOnce(oneshot::Sender<T>) -> Command,
) -> Result<T, LocalError> {
    let (reply, answer) = oneshot::channel();
    send(handle, command(reply)).await?;
    answer.await.map_err(|_| LocalError::Ended)
}

async fn send(handle: &Handle, command: Command) -> Result<(), LocalError> {
    handle.commands.send(command).await.map_err(|_| LocalError::Ended)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt as _, BufReader};

    use super::*;
    use crate::prompt::{About, Means, Prompt, PromptView, Waiting};

    fn prompt(id: u64) -> Tell {
        let view = PromptView {
            id,
            resource: "billing-db".into(),
            host: "billing-db.corp.internal".into(),
            port: 5432,
            program: None,
            pid: None,
            seconds_left: 58,
        };
        Tell::Prompt { prompt: Prompt { view, about: About::Port, waiting: Waiting::Yes, means: Means::Key } }
    }

    /// What a watching command sees that missed some of what was told, while these were shown and open; in short.
    async fn caught_up(shown: u64, open: Option<u64>) -> Vec<String> {
        let (commands, mut wanted) = mpsc::channel(8);
        let (people, told) = broadcast::channel(2);
        for _ in 0..5 {
            people.send(Tell::Note { text: "a note".to_owned() }).unwrap();
        }
        let (command, agent) = UnixStream::pair().unwrap();
        let service = async {
            let Some(Command::Watch(reply)) = wanted.recv().await else { panic!("a watch") };
            reply.send((vec![prompt(shown)], told)).unwrap();
            let Some(Command::OpenPrompt(reply)) = wanted.recv().await else { panic!("a question") };
            reply.send(open.map(prompt).into_iter().collect()).unwrap();
            drop(people);
        };
        let watching = async {
            let Line { mut reader, mut writer } = Line::from_command(agent);
            watch(&mut reader, &mut writer, &Handle { commands }).await.unwrap();
        };
        tokio::join!(service, watching);
        let (mut lines, mut seen) = (BufReader::new(command).lines(), Vec::new());
        while let Some(line) = lines.next_line().await.unwrap() {
            seen.push(match serde_json::from_str(&line).unwrap() {
                Tell::Prompt { prompt } => format!("open {}", prompt.view.id),
                Tell::Closed { id, .. } => format!("closed {id}"),
                Tell::Note { text } => text,
                other @ (Tell::SignIn { .. }
                | Tell::Status { .. }
                | Tell::Catalogue { .. }
                | Tell::Tapped { .. }
                | Tell::Changed { .. }
                | Tell::Done { .. }
                | Tell::Failed { .. }) => panic!("{other:?}"),
            });
        }
        seen
    }

    #[tokio::test]
    async fn whoever_missed_something_sees_the_prompt_that_is_open_and_no_other() {
        let missed = "(3 lines were missed)";
        assert_eq!(caught_up(3, None).await, ["open 3", missed, "closed 3", "a note", "a note"]);
        assert_eq!(caught_up(3, Some(3)).await, ["open 3", missed, "open 3", "a note", "a note"]);
        let other = caught_up(3, Some(5)).await;
        assert_eq!(other, ["open 3", missed, "closed 3", "open 5", "a note", "a note"]);
    }

    #[tokio::test]
    async fn a_second_agent_is_told_the_first_one_s_pid() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::inside(directory.path());
        let first = Server::bind(&files).unwrap();
        let second = Server::bind(&files).unwrap_err();
        assert_eq!(second.to_string(), format!("the agent is already running (pid {})", std::process::id()));
        drop(first);
        assert!(!files.socket().exists());
        assert!(Server::bind(&files).is_ok());
    }
}
