//! The administrator's socket: `admin.sock` in control's directory, for root and the service's own user alone. One request
//! on a line, one answer on a line. Who asked is in the audit by the name that the system knows.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use portlatch_audit::{Event, EventKind};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::admin::{AdminAnswer, AdminRequest, MAX_LINE};
use crate::control::Control;
use crate::control::changes::{ChangeError, Changed};

/// The socket's name.
pub const SOCKET: &str = "admin.sock";
/// Commands at once: each may hold documents of 32 MiB.
const AT_ONCE: usize = 4;
/// How long a command may take to arrive, and its answer to leave.
const LINE_DEADLINE: Duration = Duration::from_secs(30);
/// How long a command may take.
const COMMAND_DEADLINE: Duration = Duration::from_secs(60);

/// The socket, listening.
#[derive(Debug)]
pub struct AdminServer {
    control: Arc<Control>,
    listener: UnixListener,
    path: PathBuf,
}

impl AdminServer {
    /// Makes the socket. One that a killed process left is replaced: the audit's lock says that there is no other.
    ///
    /// # Errors
    /// The system's.
    pub fn bind(control: Arc<Control>) -> io::Result<Self> {
        let path = control.dir.join(SOCKET);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(&path)?;
        // Who connects before this line is looked at by its uid all the same.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { control, listener, path })
    }

    /// Serves until cancelled; commands that run are finished.
    pub async fn serve(self, cancel: CancellationToken) {
        let mut commands = JoinSet::new();
        loop {
            tokio::select! {
                () = cancel.cancelled() => break,
                Some(_) = commands.join_next(), if !commands.is_empty() => {}
                accepted = self.listener.accept(), if commands.len() < AT_ONCE => match accepted {
                    Ok((stream, _)) => {
                        commands.spawn(serve_one(self.control.clone(), stream));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "an administrator's connection could not be accepted");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
        while commands.join_next().await.is_some() {}
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(%error, "the administrator's socket could not be removed");
        }
    }
}

async fn serve_one(control: Arc<Control>, mut stream: UnixStream) {
    let mut unfinished = None;
    let answer = match administrator(&stream) {
        Ok(actor) => match tokio::time::timeout(LINE_DEADLINE, read_request(&mut stream)).await {
            Ok(Ok(request)) => {
                let command = async move { execute(&control, request, &actor).await };
                finish_within(COMMAND_DEADLINE, command).await.unwrap_or_else(|command| {
                    unfinished = command;
                    failed("the command takes too long and goes on: look at what is in force before repeating it")
                })
            }
            Ok(Err(fault)) => failed(fault),
            Err(_) => failed("the command did not arrive in time"),
        },
        Err(fault) => failed(fault),
    };
    let written = tokio::time::timeout(LINE_DEADLINE, write_answer(&mut stream, &answer)).await;
    if !matches!(written, Ok(Ok(()))) {
        tracing::debug!("an administrator's command went away before its answer");
    }
    if let Some(command) = unfinished {
        drop(command.await);
    }
}

/// What a command answers within its time. One that is not finished by then goes on, since what it has written must come
/// into force as well, and is handed back; one that broke is nothing to wait for.
pub(crate) async fn finish_within<T: Send + 'static>(
    time: Duration,
    command: impl Future<Output = T> + Send + 'static,
) -> Result<T, Option<JoinHandle<T>>> {
    let mut command = tokio::spawn(command);
    match tokio::time::timeout(time, &mut command).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => {
            tracing::error!(%error, "a command broke");
            Err(None)
        }
        Err(_) => Err(Some(command)),
    }
}

/// Who is at the other end, if that is an administrator.
fn administrator(stream: &UnixStream) -> Result<String, String> {
    let peer = stream.peer_cred().map_err(|error| format!("it cannot be told who you are: {error}"))?;
    let own = rustix::process::geteuid().as_raw();
    if peer.uid() != 0 && peer.uid() != own {
        tracing::warn!(uid = peer.uid(), "a command of another user was refused");
        return Err("only root and the service's own user may do this".to_owned());
    }
    Ok(system_user(peer.uid()))
}

/// The user's name in /etc/passwd; the number, if it is not there.
fn system_user(uid: u32) -> String {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let named = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    named.unwrap_or_else(|| format!("uid {uid}"))
}

async fn read_request(stream: &mut UnixStream) -> Result<AdminRequest, String> {
    let limit = u64::try_from(MAX_LINE).unwrap_or(u64::MAX);
    let mut line = Vec::new();
    let mut reader = BufReader::new(stream).take(limit);
    reader.read_until(b'\n', &mut line).await.map_err(|error| error.to_string())?;
    if line.len() >= MAX_LINE {
        return Err(format!("a command has at most {MAX_LINE} bytes: apply fewer documents at once"));
    }
    serde_json::from_slice(&line)
        .map_err(|error| format!("this is no command that this version knows: {error}"))
}

async fn write_answer(stream: &mut UnixStream, answer: &AdminAnswer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    stream.shutdown().await
}

async fn execute(control: &Control, request: AdminRequest, actor: &str) -> AdminAnswer {
    match request {
        AdminRequest::Apply { files } => changed(control.apply(&files, actor).await),
        AdminRequest::Get { kind, name } => match control.get(&kind, name.as_deref()).await {
            Ok(documents) => AdminAnswer::Documents { documents },
            Err(error) => AdminAnswer::Failed { faults: error.lines() },
        },
        AdminRequest::Delete { kind, name } => changed(control.delete(&kind, &name, actor).await),
        AdminRequest::AddUser { name, roles } => token(control.add_user(&name, roles, actor).await),
        AdminRequest::ResetUser { name } => token(control.reset_user(&name, actor).await),
        AdminRequest::AddToken { proxy } => token(control.add_join_token(&proxy, actor).await),
        AdminRequest::Sessions => AdminAnswer::Sessions { sessions: control.live.list() },
        AdminRequest::KillSession { id } => {
            if !control.live.kill(&id) {
                return failed(format!("there is no session {id}: `sessions` lists them"));
            }
            let (session, actor) = (Some(id.clone()), Some(actor.to_owned()));
            control.audit.note(Event { session, actor, ..Event::new(EventKind::SessionKill) }).await;
            AdminAnswer::Done { lines: vec![format!("session {id} ended")], warnings: Vec::new() }
        }
        AdminRequest::Why { user, resource, port } => match control.why_of(&user, &resource, port).await {
            Ok(explanation) => AdminAnswer::Explained(explanation),
            Err(denial) => failed(denial.to_string()),
        },
        AdminRequest::Lock { target, ttl, message } => {
            let ttl = ttl.map(Duration::from_secs);
            changed(control.lock(target, ttl, message, actor).await)
        }
    }
}

fn changed(result: Result<Changed, ChangeError>) -> AdminAnswer {
    match result {
        Ok(Changed { lines, warnings }) => AdminAnswer::Done { lines, warnings },
        Err(error) => AdminAnswer::Failed { faults: error.lines() },
    }
}

fn token(result: Result<crate::admin::IssuedToken, ChangeError>) -> AdminAnswer {
    match result {
        Ok(token) => AdminAnswer::Token(token),
        Err(error) => AdminAnswer::Failed { faults: error.lines() },
    }
}

fn failed(fault: impl Into<String>) -> AdminAnswer {
    AdminAnswer::Failed { faults: vec![fault.into()] }
}
